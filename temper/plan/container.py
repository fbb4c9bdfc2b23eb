"""The container of a .plan file: header, section table, checksums; written atomically, read by mmap.

Layout (little-endian): header, then sections in the order of the table. A section spans from its offset to the next
section's (padding included), so the checksums cover every byte of the file. The manifest is JSON; constants are
mapped and used in place.

    header   magic[8] | format version u32 | header bytes u32 | sections u32 | 0 u32 | file bytes u64 | entries | CRC-32
    entry    name[16] | offset u64 | length u64 | checksum u32 | 0 u32 | SHA-256[32]

A section's checksum is the CRC-32 of the CRC-32s of its 4 MiB pieces, so that big sections are checked by several
threads at once. Equal plans encode to equal bytes: no times, no paths, sorted keys.
"""

from __future__ import annotations

import errno
import hashlib
import mmap
import os
import struct
import threading
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import numpy as np

from temper.errors import BuildError, PlanError

MAGIC = b"TEMPRPLN"
FORMAT_VERSION = 3
ALIGNMENT = 64
CONSTANT_ALIGNMENT = 4096
SECTIONS = ("manifest", "report", "host", "kernels", "graph", "constants")

_HEADER = struct.Struct("<8sIIIIQ")
_ENTRY = struct.Struct("<16sQQII32s")
_PIECE = 1 << 22

Buffer = bytes | memoryview


def checksum(data: Buffer, threads: int = 1) -> int:
    """CRC-32 over the CRC-32s of the 4 MiB pieces of `data`; pieces are shared out to `threads` threads."""
    view = memoryview(data)
    crcs = np.zeros(max(1, -(-len(view) // _PIECE)), "<u4")

    def work(start: int) -> None:
        for i in range(start, len(crcs), threads):
            crcs[i] = zlib.crc32(view[i * _PIECE : (i + 1) * _PIECE])

    helpers = [threading.Thread(target=work, args=(i,)) for i in range(1, min(threads, len(crcs)))]
    for h in helpers:
        h.start()
    work(0)
    for h in helpers:
        h.join()
    return zlib.crc32(crcs.tobytes())


def pieces(content: Mapping[str, Buffer]) -> list[Buffer]:
    """The file's bytes in order; `content` has every name of SECTIONS. Big sections are not copied where no padding
    follows.
    """
    header_bytes = _HEADER.size + len(SECTIONS) * _ENTRY.size + 4
    at, offsets = header_bytes, []
    for name in SECTIONS:
        step = CONSTANT_ALIGNMENT if name == "constants" else ALIGNMENT
        at = -(-at // step) * step
        offsets.append(at)
        at += len(content[name])
    ends = [*offsets[1:], at]
    entries, body = [], []
    for name, offset, end in zip(SECTIONS, offsets, ends, strict=True):
        data, padding = content[name], bytes(end - offset - len(content[name]))
        span: Buffer = data if not padding else bytes(data) + padding
        entries.append(_ENTRY.pack(name.encode(), offset, len(data), checksum(span), 0, hashlib.sha256(span).digest()))
        body.append(span)
    header = _HEADER.pack(MAGIC, FORMAT_VERSION, header_bytes, len(SECTIONS), 0, at) + b"".join(entries)
    header += struct.pack("<I", zlib.crc32(header))
    return [header, bytes(offsets[0] - len(header)), *body]


def write_file(content: Mapping[str, Buffer], path: str | os.PathLike[str]) -> None:
    """Write atomically: a temporary file beside `path`, fsync, rename. BuildError if that fails; nothing half-written
    stays.
    """
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise BuildError(f"cannot write {path}: it is not a regular file")
    parts = pieces(content)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}.tmp")
    try:
        with open(temporary, "xb") as f:
            for p in parts:
                f.write(p)
            f.flush()
            os.fsync(f.fileno())
        os.replace(temporary, target)
    except OSError as e:
        hint = {
            errno.ENOSPC: "the disk is full: free some space or choose another place with -o",
            errno.EDQUOT: "the disk quota is used up: choose another place with -o",
            errno.ENOENT: f"the folder {target.parent} does not exist: create it or choose another place with -o",
        }.get(e.errno or 0, "choose a place you may write to with -o")
        raise BuildError(f"cannot write {path}: {e.strerror or e}; {hint}") from e
    finally:
        temporary.unlink(missing_ok=True) if temporary.parent.is_dir() else None


def _damaged(what: str, name: str) -> PlanError:
    return PlanError(f"{name}: {what}; the file was truncated or altered: copy it again, or build the plan anew")


def _table(data: memoryview, name: str) -> tuple[int, dict[str, tuple[memoryview, memoryview, int, bytes]]]:
    """Format version and, for every section, (content, span with padding, checksum, SHA-256), all bounds checked."""
    if len(data) < _HEADER.size:
        raise _damaged(f"the header is cut off at {len(data)} bytes" if len(data) else "the file is empty", name)
    magic, version, header_bytes, count, _, size = _HEADER.unpack_from(data)
    if magic != MAGIC:
        raise PlanError(
            f"{name}: not a Temper plan (the first bytes are {bytes(magic)!r}); give a file made by `temper build`"
        )
    if version != FORMAT_VERSION:
        raise PlanError(
            f"{name}: plan format {version}, but this Temper reads format {FORMAT_VERSION}; "
            "build the plan anew with this version (or `temper rebuild`), or install the Temper that made it"
        )
    if header_bytes != _HEADER.size + count * _ENTRY.size + 4 or count != len(SECTIONS) or header_bytes > len(data):
        raise _damaged("section 'header' is damaged", name)
    if zlib.crc32(data[: header_bytes - 4]) != int.from_bytes(data[header_bytes - 4 : header_bytes], "little"):
        raise _damaged("the checksum of section 'header' does not match", name)
    if size != len(data):
        raise _damaged(f"the file has {len(data)} bytes, its header says {size}", name)
    rows = [_ENTRY.unpack_from(data, _HEADER.size + i * _ENTRY.size) for i in range(count)]
    if any(data[header_bytes : rows[0][1]]):
        raise _damaged("section 'header' is followed by bytes that are not padding", name)
    found: dict[str, tuple[memoryview, memoryview, int, bytes]] = {}
    for row, end in zip(rows, [*(r[1] for r in rows[1:]), size], strict=True):
        title, offset, length, crc, _, sha = row
        text = title.rstrip(b"\0").decode("ascii", "replace")
        if not header_bytes <= offset <= offset + length <= end <= size:
            raise _damaged(f"section '{text}' lies outside the file", name)
        found[text] = (data[offset : offset + length], data[offset:end], crc, sha)
    if set(found) != set(SECTIONS):
        raise _damaged("the section table is damaged", name)
    return version, found


def sections(data: memoryview, name: str, strong: bool = False) -> tuple[int, dict[str, memoryview]]:
    """Format version and content of every section, checksums checked; strong: SHA-256 too. PlanError names what is
    damaged.
    """
    version, found = _table(data, name)
    threads = min(4, len(os.sched_getaffinity(0)))
    for title, (_, span, crc, sha) in found.items():
        if checksum(span, threads) != crc:
            raise _damaged(f"the checksum of section '{title}' does not match", name)
        if strong and hashlib.sha256(span).digest() != sha:
            raise _damaged(f"the SHA-256 of section '{title}' does not match", name)
    return version, {title: content for title, (content, _, _, _) in found.items()}


def map_file(path: str | os.PathLike[str]) -> memoryview:
    """The file's bytes, mapped read-only, in huge pages where the kernel reads the file anew and gives such: weights
    are walked through once a call. PlanError if it cannot be read.
    """
    try:
        with open(path, "rb") as f:
            if os.fstat(f.fileno()).st_size == 0:
                return memoryview(b"")
            mapped = mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ)
        if hasattr(mmap, "MADV_HUGEPAGE"):
            with suppress(OSError):  # a kernel without them; small pages work too
                mapped.madvise(mmap.MADV_HUGEPAGE)
        return memoryview(mapped)
    except OSError as e:
        raise PlanError(f"cannot read the plan {os.fspath(path)}: {e.strerror or e}") from e
    except ValueError as e:
        raise PlanError(f"cannot read the plan {os.fspath(path)}: {e}") from e


def pack_strings(array: np.ndarray) -> bytes:
    """An array of strings among the constants: where each ends, int64, then their UTF-8 one after another."""
    texts = [str(x).encode() for x in array.reshape(-1)]
    ends = np.cumsum([len(t) for t in texts], dtype=np.int64)
    return ends.astype("<i8").tobytes() + b"".join(texts)


def unpack_strings(data: memoryview | bytes, shape: tuple[int, ...]) -> np.ndarray:
    """The array of that shape at the beginning of `data`. PlanError where its bytes are damaged."""
    count = int(np.prod(shape, dtype=np.int64))
    ends = np.frombuffer(data[: 8 * count], "<i8").tolist() if len(data) >= 8 * count else []
    starts = [0, *ends[:-1]]
    if len(ends) != count or any(a > b for a, b in zip(starts, ends, strict=False)):
        raise PlanError("the plan's strings are damaged")
    text = bytes(data[8 * count : 8 * count + (ends[-1] if ends else 0)])
    out = np.empty(count, object)
    try:
        out[:] = [text[a:b].decode() for a, b in zip(starts, ends, strict=False)]
    except UnicodeDecodeError as e:
        raise PlanError("the plan's strings are damaged") from e
    return out.reshape(shape)
