"""Memory the engine owns: zeroed pages, on huge pages where the kernel gives them, since arenas are walked with large
strides.
"""

from __future__ import annotations

import mmap
from contextlib import suppress

import numpy as np

_HUGE = 2 << 20


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
