"""Memory the engine owns: zeroed pages, on huge pages where the kernel gives them, since arenas are walked with large
strides.
"""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Callable
from contextlib import suppress

import numpy as np

_HUGE = 2 << 20


def _data_address() -> Callable[[np.ndarray], int]:
    """A function giving an array's data address. `array.ctypes.data` takes over a microsecond, most of a small call;
    numpy's
    C ABI fixes the pointer right behind the object's head, so CPython can read it there.
    """
    head, read = object.__basicsize__, ctypes.c_size_t.from_address

    def fast(array: np.ndarray) -> int:
        return read(id(array) + head).value

    whole = np.zeros((4, 3), np.int16)
    samples = (whole, whole[1:], whole[:, 1:], whole[2:2], whole.reshape(-1)[5:].view(np.int8), np.array(1.5))
    if sys.implementation.name == "cpython" and all(fast(a) == a.ctypes.data for a in samples):
        return fast
    return lambda array: array.ctypes.data


#: Address of an array's first byte.
data_address = _data_address()


def allocate(nbytes: int) -> np.ndarray:
    """nbytes of zeroed bytes (uint8) at a 64-byte boundary or better; freed with the array."""
    padded = nbytes + _HUGE if nbytes >= _HUGE else max(nbytes, 1)
    pages = mmap.mmap(-1, padded, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if nbytes >= _HUGE and hasattr(mmap, "MADV_HUGEPAGE"):
        with suppress(OSError):  # a kernel without transparent huge pages; small ones work too
            pages.madvise(mmap.MADV_HUGEPAGE)
    block = np.frombuffer(pages, np.uint8)
    start = -address(block) % _HUGE if nbytes >= _HUGE else 0
    return block[start : start + nbytes]


def address(block: np.ndarray | bytes | memoryview) -> int:
    """Address of the first byte; 0 for an empty buffer."""
    array = block if isinstance(block, np.ndarray) else np.frombuffer(block, np.uint8) if len(block) else None
    return 0 if array is None else int(array.ctypes.data)


def view(block: np.ndarray, offset: int, dtype: np.dtype, shape: tuple[int, ...]) -> np.ndarray:
    """A dense array of `dtype` and `shape` at byte `offset` of a uint8 block."""
    count = 1
    for d in shape:
        count *= d
    return np.frombuffer(block, dtype, count, offset).reshape(shape) if count else np.empty(shape, dtype)
