"""Copies big host arrays to and from a GPU by pinned chunks: threads fill or empty some, the GPU copies others.

A copy from pageable memory runs at the speed of one thread of the driver (about 10 GB/s); from pinned memory the GPU
copies at the speed of the bus, which several threads together keep up with.
"""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from temper.runtime.cuda.driver import Event, Gpu, Pinned, Stream

#: Arrays of fewer bytes are left to the driver, which is as fast with them (H100, 16 cores, nothing else running).
LEAST = 16 << 20
CHUNK = 2 << 20
_CHUNKS = 12
_THREADS = 6


class _Slot:
    """A pinned chunk: its last copy on the GPU's side, and on the host's."""

    def __init__(self, gpu: Gpu, nbytes: int) -> None:
        self.memory, self.event = Pinned(gpu, nbytes), Event(gpu)
        self.work: Future[None] | None = None

    def settle(self) -> None:
        """Until the host's side is done with it."""
        if self.work is not None:
            self.work.result()
            self.work = None


class Staging:
    """Pinned chunks of one context and the threads that work on them."""

    def __init__(self, gpu: Gpu, chunk: int = CHUNK) -> None:
        """chunk: bytes of each."""
        self.gpu, self.chunk = gpu, chunk
        self._slots = [_Slot(gpu, chunk) for _ in range(_CHUNKS)]
        self._pool = ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1), thread_name_prefix="temper-copy")

    def __del__(self) -> None:
        if hasattr(self, "_pool"):
            self._pool.shutdown(wait=False)

    def upload(self, address: int, source: np.ndarray, stream: Stream) -> None:
        """Copies a contiguous array; it has been read when this returns, and is there when the stream is that far."""
        flat = source.reshape(-1).view(np.uint8)
        parts = range(0, flat.nbytes, self.chunk)
        for at, slot in zip(parts, self._slots, strict=False):
            slot.work = self._pool.submit(self._fill, slot, flat[at : at + self.chunk])
        for i, at in enumerate(parts):
            slot = self._slots[i % _CHUNKS]
            slot.settle()
            n = min(self.chunk, flat.nbytes - at)
            self.gpu.driver("cuMemcpyHtoDAsync", address + at, slot.memory.address, n, stream.handle)
            slot.event.record(stream.handle)
            if (later := at + _CHUNKS * self.chunk) < flat.nbytes:
                slot.work = self._pool.submit(self._fill, slot, flat[later : later + self.chunk])

    def download(self, target: np.ndarray, address: int, stream: Stream) -> None:
        """Fills a contiguous array with what the stream has made by then; it is there when this returns."""
        flat = target.reshape(-1).view(np.uint8)
        for i, at in enumerate(range(0, flat.nbytes, self.chunk)):
            slot = self._slots[i % _CHUNKS]
            slot.settle()
            slot.event.wait()
            part = flat[at : at + self.chunk]
            self.gpu.driver("cuMemcpyDtoHAsync", slot.memory.address, address + at, part.nbytes, stream.handle)
            slot.event.record(stream.handle)
            slot.work = self._pool.submit(self._empty, slot, part)
        for slot in self._slots:
            slot.settle()

    def _fill(self, slot: _Slot, part: np.ndarray) -> None:
        self.gpu.enter()
        slot.event.wait()  # the GPU has read what was in it
        np.copyto(slot.memory.array[: part.nbytes], part)

    def _empty(self, slot: _Slot, part: np.ndarray) -> None:
        self.gpu.enter()
        slot.event.wait()
        np.copyto(part, slot.memory.array[: part.nbytes])
