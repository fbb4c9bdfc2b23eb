"""DLPack (version 0.8's struct, which every library reads): arrays on a GPU handed over without a copy, both ways.

https://dmlc.github.io/dlpack/latest/c_api.html and python_spec.html: a capsule named "dltensor" holds a managed tensor;
who takes it over renames the capsule, and calls the deleter when done. One that nobody took over is deleted with its
capsule.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

#: kDLCUDA, and managed memory, which a GPU can also read
CUDA, MANAGED = 2, 13
_NAME = b"dltensor"

#: (code, bits) of the element types
_TYPES: Mapping[str, tuple[int, int]] = MappingProxyType(
    {
        **{f"int{b}": (0, b) for b in (8, 16, 32, 64)},
        **{f"uint{b}": (1, b) for b in (8, 16, 32, 64)},
        **{f"float{b}": (2, b) for b in (16, 32, 64)},
        "bfloat16": (4, 16),
        "complex64": (5, 64),
        "complex128": (5, 128),
        "bool": (6, 8),
        "float8e4m3fn": (10, 8),
        "float8e4m3fnuz": (11, 8),
        "float8e5m2": (12, 8),
        "float8e5m2fnuz": (13, 8),
        "float8e8m0": (14, 8),
    }
)
_DTYPES = {v: k for k, v in _TYPES.items()}


#: DLTensor: data, kind and index of the device, ndim, code, bits and lanes of the type, shape, strides, byte offset; a
#: managed one has its context and deleter behind it. (ctypes' structures take several times as long.)
_TENSOR = struct.Struct("@PiiiBBHPPQ")
_MANAGED = struct.Struct("@PiiiBBHPPQPP")
_CONTEXT = struct.Struct("@P")

_DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_DESTRUCTOR = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)

_api = ctypes.pythonapi
_new = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p)(("PyCapsule_New", _api))
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))
# a capsule that is being destroyed must not be referenced: its destructor gets and hands on a bare address
_dying_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", _api))
_dying_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_GetPointer", _api))
_hold = ctypes.PYFUNCTYPE(None, ctypes.py_object)(("Py_IncRef", _api))
_drop = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)(("Py_DecRef", _api))


@dataclass(frozen=True)
class Tensor:
    """What a capsule says. strides: in elements, None if the array is C-contiguous. owner: keeps the memory alive."""

    address: int
    kind: int
    index: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    owner: Any

    @property
    def contiguous(self) -> bool:
        """In C order; steps along axes of one element do not matter."""
        return self.strides is None or dense(self.shape, self.strides)


def dense(shape: Sequence[int], strides: Sequence[int], item: int = 1) -> bool:
    """These strides, in units of which an element has `item`, are those of a C-contiguous array."""
    step = item
    if 0 in shape:
        return True
    for n, s in zip(reversed(shape), reversed(strides), strict=True):
        if n != 1 and s != step:
            return False
        step *= n
    return True


def read(capsule: Any) -> Tensor:
    """What a fresh capsule holds; it stays the owner, and hands the memory back when the last holder drops it.

    ValueError if it is not a capsule of the name "dltensor".
    """
    found = _TENSOR.unpack(ctypes.string_at(_pointer(capsule, _NAME), _TENSOR.size))
    data, kind, index, rank, code, bits, lanes, sizes, steps, offset = found
    shape = struct.unpack(f"{rank}q", ctypes.string_at(sizes, 8 * rank)) if rank else ()
    strides = struct.unpack(f"{rank}q", ctypes.string_at(steps, 8 * rank)) if rank and steps else None
    name = _DTYPES.get((code, bits)) if lanes == 1 else f"vectors of {lanes}"
    return Tensor(data + offset, kind, index, name or f"DLPack type {(code, bits)}", shape, strides, capsule)


class _Export:
    """A managed tensor and what it is made of; lives until its deleter is called."""

    def __init__(self, address: int, index: int, dtype: str, shape: Sequence[int], owner: Any) -> None:
        code, bits = _TYPES[dtype]
        self._owner = owner
        rank, strides, step = len(shape), [], 1
        for n in reversed(shape):  # some readers take strides for granted
            strides.append(step)
            step *= n
        self._bytes = ctypes.create_string_buffer(_MANAGED.size + 16 * rank)
        self.address = at = ctypes.addressof(self._bytes)
        sizes, steps = at + _MANAGED.size, at + _MANAGED.size + 8 * rank
        _MANAGED.pack_into(
            self._bytes, 0, address, CUDA, index, rank, code, bits, 1, sizes, steps, 0, id(self), _DELETE
        )
        struct.pack_into(f"{2 * rank}q", self._bytes, _MANAGED.size, *shape, *reversed(strides))


def _let_go(managed: int) -> None:
    _drop(_CONTEXT.unpack(ctypes.string_at(managed + _TENSOR.size, _CONTEXT.size))[0])


_delete = _DELETER(_let_go)


@_DESTRUCTOR
def _destroy(capsule: int) -> None:
    if _dying_valid(capsule, _NAME):
        _let_go(_dying_pointer(capsule, _NAME))


#: addresses of these two, as C calls them
_DELETE, _DESTROY = (ctypes.cast(f, ctypes.c_void_p).value for f in (_delete, _destroy))


def write(address: int, index: int, dtype: str, shape: Sequence[int], owner: Any) -> Any:
    """A capsule of a C-contiguous array on GPU `index`. owner: kept until whoever takes the capsule is done.

    BufferError for a type DLPack lacks.
    """
    if dtype not in _TYPES:
        raise BufferError(f"DLPack has no element type for {dtype}")
    export = _Export(address, index, dtype, shape, owner)
    _hold(export)
    return _new(export.address, _NAME, _DESTROY)
