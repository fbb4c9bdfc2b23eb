"""Machine code of a GPU plan: one archive of cubins and what a launch of each of their functions needs.

Layout: length of the index (u64, little-endian), the index as JSON, then the cubins at the offsets it states.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from temper.errors import PlanError
from temper.plan.container import Buffer

_LENGTH = struct.Struct("<Q")


@dataclass(frozen=True)
class DeviceFunction:
    """A compiled kernel: `entry` in `cubin`, which is alone in it.

    threads: per block, in x.
    shared: bytes of dynamic shared memory.
    scratch: trailing null pointers after the arguments.
    clusters: blocks per cluster.
    registers: per thread.
    frame: bytes of local memory per thread.
    scratch_bytes: of memory per block behind the first of the scratch pointers, which is then not null but the last of
        the arguments' pointers again.
    """

    entry: str
    cubin: Buffer
    threads: int
    shared: int = 0
    scratch: int = 0
    clusters: int = 1
    registers: int = 0
    frame: int = 0
    waits: bool = False
    scratch_bytes: int = 0


def to_archive(functions: Mapping[str, DeviceFunction]) -> bytes:
    """The archive of functions by the names launches call them; equal functions give equal bytes."""
    index, blobs, at = {}, [], 0
    for name, f in sorted(functions.items()):
        facts = {k: v for k, v in asdict(f).items() if k != "cubin"}
        index[name] = {**facts, "at": at, "bytes": len(f.cubin)}
        blobs.append(bytes(f.cubin))
        at += len(f.cubin)
    text = json.dumps(index, sort_keys=True, separators=(",", ":")).encode()
    return _LENGTH.pack(len(text)) + text + b"".join(blobs)


def from_archive(data: Buffer) -> dict[str, DeviceFunction]:
    """Inverse of `to_archive`; cubins are parts of `data`. PlanError where it is damaged."""
    view = memoryview(data)
    try:
        (length,) = _LENGTH.unpack_from(view)
        start = _LENGTH.size + length
        index = json.loads(bytes(view[_LENGTH.size : start]))
        out = {}
        for name, facts in index.items():
            at, size = facts.pop("at"), facts.pop("bytes")
            if not 0 <= at <= at + size <= len(view) - start:
                raise ValueError(f"the code of {name} lies outside the archive")
            out[name] = DeviceFunction(cubin=view[start + at : start + at + size], **facts)
        return out
    except (struct.error, ValueError, KeyError, TypeError, AttributeError) as e:
        raise PlanError(f"the plan's GPU code is damaged ({e}); copy the file again, or build the plan anew") from e
