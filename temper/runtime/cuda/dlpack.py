"""DLPack (version 0.8's struct, which every library reads): arrays on a GPU handed over without a copy, both ways.

https://dmlc.github.io/dlpack/latest/c_api.html and python_spec.html: a capsule named "dltensor" holds a managed tensor;
who takes it over renames the capsule, and calls the deleter when done. One that nobody took over is deleted with its
capsule.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod
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


class _Device(ctypes.Structure):
    _fields_ = [("kind", ctypes.c_int32), ("index", ctypes.c_int32)]


class _Type(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("ndim", ctypes.c_int32),
        ("dtype", _Type),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


class _Managed(ctypes.Structure):
    _fields_ = [("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", ctypes.c_void_p)]


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

    ValueError if it is no capsule of the name "dltensor".
    """
    t = _Managed.from_address(_pointer(capsule, _NAME)).tensor
    shape = tuple(t.shape[: t.ndim])
    strides = tuple(t.strides[: t.ndim]) if t.strides else None
    code = (t.dtype.code, t.dtype.bits)
    name = _DTYPES.get(code, f"DLPack type {code}") if t.dtype.lanes == 1 else f"vectors of {t.dtype.lanes}"
    return Tensor((t.data or 0) + t.byte_offset, t.device.kind, t.device.index, name, shape, strides, capsule)


class _Export:
    """A managed tensor and what it is made of; lives until its deleter is called."""

    def __init__(self, address: int, index: int, dtype: str, shape: Sequence[int], owner: Any) -> None:
        code, bits = _TYPES[dtype]
        self._owner = owner
        self._shape = (ctypes.c_int64 * max(1, len(shape)))(*shape)
        # some readers take strides for granted
        steps = [prod(shape[k + 1 :]) for k in range(len(shape))]
        self._strides = (ctypes.c_int64 * max(1, len(shape)))(*steps)
        one = ctypes.POINTER(ctypes.c_int64)
        self.managed = _Managed(
            _Tensor(
                address, _Device(CUDA, index), len(shape), _Type(code, bits, 1),
                ctypes.cast(self._shape, one), ctypes.cast(self._strides, one), 0,
            ),
            id(self),
            ctypes.cast(_delete, ctypes.c_void_p),
        )  # fmt: skip


@_DELETER
def _delete(managed: int) -> None:
    _drop(_Managed.from_address(managed).context)


@_DESTRUCTOR
def _destroy(capsule: int) -> None:
    if _dying_valid(capsule, _NAME):
        _drop(_Managed.from_address(_dying_pointer(capsule, _NAME)).context)


def write(address: int, index: int, dtype: str, shape: Sequence[int], owner: Any) -> Any:
    """A capsule of a C-contiguous array on GPU `index`. owner: kept until whoever takes the capsule is done.

    BufferError for a type DLPack lacks.
    """
    if dtype not in _TYPES:
        raise BufferError(f"DLPack has no element type for {dtype}")
    export = _Export(address, index, dtype, shape, owner)
    _hold(export)
    return _new(ctypes.addressof(export.managed), _NAME, ctypes.cast(_destroy, ctypes.c_void_p))
