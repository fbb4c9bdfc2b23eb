"""Arrays that callers pass for inputs and outputs: their type and place, and the reasons why one cannot be used."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from types import ModuleType
from typing import Any

import numpy as np

from temper.dtypes import storage
from temper.errors import InputError
from temper.plan.format import Binding
from temper.runtime.cuda import dlpack
from temper.runtime.cuda.driver import Gpu, Stream
from temper.runtime.shapes import shape_text

#: Element types that have one name everywhere.
_STANDARD = (
    "float32", "float64", "float16", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32",
    "uint64", "bool", "complex64", "complex128",
)  # fmt: skip

#: Kernels read up to so many bytes at once, and are told that every array starts at a multiple of them.
ALIGNMENT = 16


@dataclass(frozen=True)
class Given:
    """A caller's array on the engine's GPU. owner: keeps its memory alive. source: the caller's object."""

    address: int
    shape: tuple[int, ...]
    nbytes: int
    owner: Any
    source: Any

    @property
    def aligned(self) -> bool:
        return self.address % ALIGNMENT == 0


def is_host(x: Any) -> bool:
    """A numpy array or scalar, or something that is only that."""
    return isinstance(x, (np.ndarray, np.generic)) or not (
        hasattr(x, "__dlpack__") or hasattr(x, "__cuda_array_interface__")
    )


@dataclass(frozen=True)
class _Seen:
    """What an array says of itself. dtype: as plans name it, where they know it. whole: in C order without gaps."""

    address: int
    shape: tuple[int, ...]
    dtype: str
    whole: bool
    owner: Any


def on_device(x: Any, b: Binding, gpu: Gpu, stream: Stream, role: str) -> Given:
    """A caller's array, as PyTorch tells or read through DLPack or the CUDA array interface; `stream` comes after what
    fills it.

    role: "input" or "out for", for messages. InputError says what is wrong with it, and what to do.
    """
    name = f"{role} '{b.name}'"
    torch = sys.modules.get("torch")
    if torch is not None and type(x) is torch.Tensor and _plain(torch, x):
        a = _of_torch(torch, x, name, gpu, stream)
    elif hasattr(x, "__dlpack__"):
        a = _of_dlpack(x, name, gpu, stream)
    else:
        a = _of_interface(x, name, gpu, stream, written=role != "input")
    held = storage(b.dtype)
    if a.dtype != b.dtype and not (a.dtype == held.name and held.name != b.dtype):
        raise InputError(f"{name} has dtype {a.dtype}, expected {b.dtype}: convert it")
    if not a.whole:
        raise InputError(f"{name} is not contiguous: give x.contiguous() (PyTorch) or ascontiguousarray(x) (CuPy)")
    return Given(a.address, a.shape, prod(a.shape) * held.itemsize, a.owner, x)


@cache
def _names_of(torch: ModuleType) -> dict[Any, str]:
    """PyTorch's element types by their names in plans."""
    names = {name: name for name in _STANDARD} | {"float8_e4m3fn": "float8e4m3fn", "float8_e5m2": "float8e5m2"}
    return {getattr(torch, theirs): ours for theirs, ours in names.items() if hasattr(torch, theirs)}


def _plain(torch: ModuleType, x: Any) -> bool:
    """A tensor on a GPU that is its bytes, of which its own attributes tell what DLPack does in ten times as long."""
    known = x.is_cuda and not x.requires_grad and x.layout is torch.strided and x.dtype in _names_of(torch)
    return bool(known and not x.is_conj() and not x.is_neg())


def _of_torch(torch: ModuleType, x: Any, name: str, gpu: Gpu, stream: Stream) -> _Seen:
    _check_device(name, x.device.index, gpu)
    try:
        address = x.data_ptr()
    except RuntimeError as e:  # a tensor within a transformation
        raise InputError(f"{name} cannot be shared: {e}") from e
    filled = torch.cuda.current_stream(x.device).cuda_stream
    if filled != stream.number:
        stream.after(filled or 1)
    # another name keeps the memory, whatever becomes of x
    return _Seen(address, tuple(x.shape), _names_of(torch)[x.dtype], x.is_contiguous(), x.detach())


def _of_dlpack(x: Any, name: str, gpu: Gpu, stream: Stream) -> _Seen:
    kind, index = (int(k) for k in x.__dlpack_device__())
    if kind not in (dlpack.CUDA, dlpack.MANAGED):
        raise InputError(
            f"{name} is not on a GPU, but a {type(x).__module__}.{type(x).__name__} in other memory (DLPack device "
            f"kind {kind}): move it to GPU {gpu.index}, or give a numpy array"
        )
    _check_device(name, index, gpu)
    try:
        t = dlpack.read(x.__dlpack__(stream=stream.public))
    except (BufferError, ValueError, TypeError, RuntimeError) as e:
        raise InputError(f"{name} cannot be shared: {e}") from e
    return _Seen(t.address, t.shape, t.dtype, t.contiguous, t.owner)


def _of_interface(x: Any, name: str, gpu: Gpu, stream: Stream, written: bool) -> _Seen:
    facts = x.__cuda_array_interface__
    address, shape, dtype, whole, other = _interface(facts, name)
    if written and facts["data"][1]:
        raise InputError(f"{name} is read-only: give an array that can be written")
    if address:
        _check_device(name, gpu.driver.device_of(address, f"looking where {name} is"), gpu)
    if other is not None:
        stream.after(other)
    return _Seen(address, shape, dtype, whole, x)


def _check_device(name: str, index: int, gpu: Gpu) -> None:
    if index != gpu.index:
        raise InputError(
            f"{name} is on GPU {index}, the engine on GPU {gpu.index} ({gpu.name}): move it there, or load the engine "
            f"on that GPU"
        )


def _interface(facts: Any, name: str) -> tuple[int, tuple[int, ...], str, bool, int | None]:
    """Address, shape, type, whether contiguous, and the stream to wait for, of a CUDA array interface."""
    try:
        shape, dtype = tuple(int(n) for n in facts["shape"]), np.dtype(facts["typestr"])
        address, strides = int(facts["data"][0] or 0), facts.get("strides")
        # version 2 says nothing of streams: what libraries of that time did was on the default stream
        other = facts.get("stream") if facts.get("version", 0) >= 3 else 1
        masked = facts.get("mask") is not None
    except (KeyError, TypeError, ValueError) as e:
        raise InputError(f"{name} has a __cuda_array_interface__ that cannot be read: {e}") from e
    if masked:
        raise InputError(f"{name} has a mask, which no model knows: fill it")
    if other == 0:
        raise InputError(f"{name} names stream 0, which the CUDA array interface forbids")
    return address, shape, dtype.name, strides is None or dlpack.dense(shape, strides, dtype.itemsize), other


def wrong_shape(b: Binding, role: str, got: Sequence[int], want: Sequence[int]) -> InputError:
    return InputError(f"{role} '{b.name}' has shape {shape_text(got)}, expected {shape_text(want)}")
