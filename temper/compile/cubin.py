"""Reads what a cubin (an ELF file for an NVIDIA GPU) says of its kernels: a launch can be checked without a driver.

The attributes are those of the `.nv.info.<kernel>` section, as NVIDIA's `cuobjdump -elf` names them: a list of
(format byte, attribute byte, 16-bit value or size, payload).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from temper.errors import BuildError

_EM_CUDA = 190
_STT_FUNC = 2
_FORMAT_PAYLOAD = 4
_EIATTR_FRAME_SIZE = 0x11
_EIATTR_KPARAM_INFO = 0x17
_EIATTR_REGCOUNT = 0x2F


@dataclass(frozen=True)
class CubinKernel:
    """One kernel. registers: per thread. frame: bytes of local memory a thread uses; 0: nothing spills.

    params: size in bytes of every parameter, in order; all of them must be passed at launch.
    """

    name: str
    registers: int
    frame: int
    params: tuple[int, ...]


@dataclass(frozen=True)
class _Section:
    name: str
    link: int
    data: bytes


def read_cubin(data: bytes) -> tuple[CubinKernel, ...]:
    """The kernels of a cubin, by name. BuildError if the file is not one."""
    try:
        sections = _sections(data)
        functions = dict(_functions(sections))
        by_name = {s.name: s for s in sections}
        shared = list(_attributes(by_name[".nv.info"].data)) if ".nv.info" in by_name else []
        return tuple(
            _kernel(name, index, by_name, shared)
            for name, index in sorted(functions.items())
            if f".nv.info.{name}" in by_name
        )
    except (struct.error, UnicodeDecodeError, ValueError, IndexError) as e:
        raise BuildError(f"the GPU compiler's output is not a readable cubin: {e}") from e


def _sections(data: bytes) -> list[_Section]:
    if data[:5] != b"\x7fELF\x02":
        raise ValueError("no 64-bit ELF header")
    (machine,) = struct.unpack_from("<H", data, 18)
    if machine != _EM_CUDA:
        raise ValueError(f"ELF machine {machine}, not a CUDA device")
    (table,) = struct.unpack_from("<Q", data, 40)
    size, count, names = struct.unpack_from("<HHH", data, 58)
    rows = [struct.unpack_from("<IIQQQQIIQQ", data, table + i * size) for i in range(count)]
    _, _, _, _, at, length, *_ = rows[names]
    strings = data[at : at + length]
    return [_Section(_text(strings, row[0]), row[6], data[row[4] : row[4] + row[5]]) for row in rows]


def _text(strings: bytes, at: int) -> str:
    return strings[at : strings.index(b"\0", at)].decode()


def _functions(sections: list[_Section]) -> Iterator[tuple[str, int]]:
    """(name, symbol index) of every function symbol."""
    for s in sections:
        if s.name == ".symtab":
            for i in range(len(s.data) // 24):
                name, info = struct.unpack_from("<IB", s.data, i * 24)
                if info & 15 == _STT_FUNC:
                    yield _text(sections[s.link].data, name), i


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(attribute, payload) of a .nv.info section; the payload is empty where the value stands in the head."""
    at = 0
    while at + 4 <= len(data):
        form, attribute, value = struct.unpack_from("<BBH", data, at)
        at += 4
        if form == _FORMAT_PAYLOAD:
            yield attribute, data[at : at + value]
            at += value
        else:
            yield attribute, b""


def _kernel(name: str, symbol: int, sections: dict[str, _Section], shared: list[tuple[int, bytes]]) -> CubinKernel:
    sizes: dict[int, int] = {}
    for attribute, payload in _attributes(sections[f".nv.info.{name}"].data):
        if attribute == _EIATTR_KPARAM_INFO:
            _, ordinal, _, packed = struct.unpack("<IHHI", payload)
            sizes[ordinal] = packed >> 18  # the upper 14 bits hold the size
    per_symbol = {
        attribute: value
        for attribute, payload in shared
        if len(payload) == 8
        for index, value in [struct.unpack("<II", payload)]
        if index == symbol
    }
    if _EIATTR_REGCOUNT not in per_symbol or _EIATTR_FRAME_SIZE not in per_symbol:
        raise ValueError(f"no register count or frame size for kernel {name}")
    return CubinKernel(
        name, per_symbol[_EIATTR_REGCOUNT], per_symbol[_EIATTR_FRAME_SIZE], tuple(sizes[i] for i in sorted(sizes))
    )
