"""Results on a GPU: arrays that other libraries take without a copy, and the pool their memory comes from."""

from __future__ import annotations

import threading
from math import prod
from typing import Any

import numpy as np

from temper.dtypes import STORAGE, storage
from temper.errors import DeviceError, DeviceMemoryError, TemperError
from temper.runtime.cuda import dlpack
from temper.runtime.cuda.driver import Memory, Stream

#: Blocks that other streams have read may wait together, up to so many, until one wait for the GPU frees them all.
_WAITING = 8


def _rounded(nbytes: int) -> int:
    """Eight sizes between a power of two and the next: results of many sizes must not each keep memory of their own."""
    step = max(512, 1 << max(0, nbytes.bit_length() - 4))
    return -(-nbytes // step) * step


class Pool:
    """Device memory of a context's results, kept by size for its later runs.

    A block that was only seen by the context's own stream is used again at once, since that stream keeps the order. One
    that another stream was told of is used again after a wait for the whole GPU, which frees all of its kind.
    """

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self._free: dict[int, list[Memory]] = {}
        self._foreign: list[Memory] = []
        # arrays are dropped in any thread, and in this one while the lock is held, where garbage is looked for then
        self._lock = threading.RLock()

    def take(self, nbytes: int, what: str) -> Block:
        """A block of at least that size."""
        nbytes = _rounded(nbytes)
        with self._lock:
            free = self._free.setdefault(nbytes, [])
            collect = not free and len(self._foreign) >= _WAITING
        if collect and not self.stream.capturing:
            self._collect()
        with self._lock:
            if free:
                return Block(free.pop(), self)
        try:
            return Block(self.stream.gpu.allocate(nbytes, what), self)
        except DeviceMemoryError:
            if self.stream.capturing or not self._emptied():
                raise
        return Block(self.stream.gpu.allocate(nbytes, what), self)

    def _emptied(self) -> bool:
        """Frees the blocks that nobody holds; False if there are none."""
        with self._lock:
            gone = [self._foreign, *self._free.values()]
            self._foreign, self._free = [], {}
        self.stream.gpu.driver("cuCtxSynchronize", what="waiting for readers of earlier results")
        return any(gone)

    def _collect(self) -> None:
        with self._lock:
            waiting, self._foreign = self._foreign, []
        self.stream.gpu.driver("cuCtxSynchronize", what="waiting for readers of earlier results")
        with self._lock:
            for m in waiting:
                self._free.setdefault(m.nbytes, []).append(m)

    def give(self, memory: Memory, foreign: bool) -> None:
        with self._lock:
            (self._foreign if foreign else self._free.setdefault(memory.nbytes, [])).append(memory)


class Block:
    """Memory from a pool, which gets it back when the last holder drops this. foreign: another stream may use it."""

    def __init__(self, memory: Memory, pool: Pool) -> None:
        self.memory, self._pool = memory, pool
        self.foreign = False

    def __del__(self) -> None:
        self._pool.give(self.memory, self.foreign)


class DeviceArray:
    """A C-contiguous array in a GPU's memory that CuPy, JAX, PyTorch and others read without a copy.

    shape: its sizes. dtype: as numpy holds the elements (bfloat16 as uint16). device: the GPU's number. It may still be
    being computed: reading it through DLPack or the CUDA array interface is ordered after that, and `numpy()` waits.
    """

    def __init__(self, block: Block, shape: tuple[int, ...], dtype: str, stream: Stream) -> None:
        """dtype: the element type's name in plans."""
        self.block, self._stream, self._type = block, stream, dtype
        self.shape, self.dtype = shape, storage(dtype)
        self.device = stream.gpu.index

    @property
    def address(self) -> int:
        """Of the first element."""
        return self.block.memory.address

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * self.dtype.itemsize

    def __repr__(self) -> str:
        return f"DeviceArray({self._type}, shape {self.shape}, GPU {self.device})"

    def wait(self) -> DeviceArray:
        """Itself, once it is computed. DeviceError if a kernel faulted."""
        self._stream.wait("waiting for a result")
        return self

    def numpy(self) -> np.ndarray:
        """A copy in host memory."""
        out = np.empty(self.shape, self.dtype)
        self._stream.gpu.enter()
        self.wait()
        self.block.memory.read(out)
        return out

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("an array on a GPU cannot be a numpy array without a copy")
        return self.numpy() if dtype is None else self.numpy().astype(dtype)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("an array without axes has no length")
        return self.shape[0]

    def __dlpack_device__(self) -> tuple[int, int]:
        return dlpack.CUDA, self.device

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule. stream: whose work from now on comes after the array is computed: None or 1 for the default
        stream, 2 for the calling thread's, another's handle, or -1 for none. BufferError for what would need a copy.
        """
        if dl_device not in (None, self.__dlpack_device__()):
            raise BufferError(f"the array is on GPU {self.device}; copy it to another device with numpy()")
        if copy:
            raise BufferError("a copy was asked for; the array is only handed over as it is")
        if stream == 0:
            raise ValueError("stream 0 may mean two streams; DLPack has 1 and 2 for them")
        if stream != -1:
            self._stream.gpu.enter()
            self._stream.before(1 if stream is None else stream)
        self._seen(1 if stream is None else stream)
        return dlpack.write(self.address, self.device, self._type, self.shape, self.block)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        """Version 3: readers wait for its stream. bfloat16 and the 8-bit floats have no type in it."""
        if self._type in STORAGE:
            raise AttributeError(f"the CUDA array interface has no element type for {self._type}; use DLPack")
        self._seen(-1)
        return {
            "shape": self.shape,
            "typestr": self.dtype.str,
            "data": (self.address, False),
            "strides": None,
            "version": 3,
            "stream": self._stream.public,
        }

    def _seen(self, stream: int) -> None:
        if self._stream.gpu.driver.fault:
            raise DeviceError(f"a kernel faulted, the array is lost: {self._stream.gpu.driver.fault}")
        self.block.foreign |= stream != self._stream.public


def check_open(stream: Stream) -> None:
    """TemperError if what is put on a stream of the engine's own is being recorded by somebody's capture."""
    if stream.owned and stream.capturing:
        raise TemperError(
            "an input comes from a stream that is being captured; run in a context on that stream: "
            "engine.context(stream=torch.cuda.current_stream())"
        )
