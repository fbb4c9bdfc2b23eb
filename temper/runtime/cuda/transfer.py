"""Where a context's inputs and outputs are: in callers' arrays, in staging memory, or in results of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from temper.dtypes import storage
from temper.errors import InputError, TemperError
from temper.plan.format import Plan
from temper.runtime.cuda.arrays import Block, DeviceArray, Pool
from temper.runtime.cuda.bound import CudaBound
from temper.runtime.cuda.driver import Event, Memory, Stream
from temper.runtime.cuda.inputs import Given
from temper.runtime.cuda.staging import LEAST, Staging

#: Runs whose inputs a context keeps alive before it waits for the oldest.
_IN_FLIGHT = 64


class Transfers:
    """Memory of one context's bindings, all on its stream. captured: set once somebody's graph holds its launches; what
    they use is then never given back.
    """

    def __init__(self, plan: Plan, stream: Stream) -> None:
        self.plan, self.stream, self.gpu = plan, stream, stream.gpu
        self.bindings = (*plan.inputs, *plan.outputs)
        self.captured = False
        self.kept: list[Memory | Block] = []
        self._pool = Pool(stream)
        self._staging: list[Memory | None] = [None] * len(self.bindings)
        self._pinned: Staging | None = None
        self._held: deque[tuple[Event, list[Any]]] = deque()
        self._spare: list[Event] = []

    @property
    def doing(self) -> str:
        """What is running, for errors."""
        return f"running '{self.plan.report.get('model', 'the plan')}'"

    def check_overlap(self, given: Sequence[Given | np.ndarray], outs: Sequence[Given | np.ndarray | None]) -> None:
        """InputError if an output's memory is also an input's or another output's."""
        if all(x is None for x in outs):
            return
        spans = [
            (x.address, x.nbytes) if isinstance(x, Given) else (x.ctypes.data, x.nbytes) if x is not None else (0, 0)
            for x in (*given, *outs)
        ]
        for i, (a, n) in enumerate(spans[len(given) :], len(given)):
            for k, (b, m) in enumerate(spans[:i]):
                if n and m and a < b + m and b < a + n:
                    raise InputError(
                        f"out for '{self.bindings[i].name}' shares memory with '{self.bindings[k].name}'; give an "
                        "array of its own"
                    )

    def result(self, k: int, shape: tuple[int, ...], nbytes: int) -> DeviceArray:
        """A new array for binding `k`."""
        b = self.bindings[k]
        return DeviceArray(self._pool.take(nbytes, f"'{b.name}'"), shape, b.dtype, self.stream)

    def upload(self, k: int, source: np.ndarray) -> DeviceArray:
        """A copy of a contiguous host array of input `k`, ready."""
        made = self.result(k, source.shape, source.nbytes)
        self._to_device(made.address, source, self.bindings[k].name)
        return made.wait()

    def staged(self, k: int, nbytes: int) -> int:
        """The address of device memory for a binding that the caller has none usable for."""
        found = self._staging[k]
        if found is None or found.nbytes < nbytes:
            if found is not None and self.captured:
                self.kept.append(found)
            self._staging[k] = None
            found = self._staging[k] = self.gpu.allocate(nbytes, f"staging of '{self.bindings[k].name}'")
        return found.address

    def placed(self, k: int, x: Given | np.ndarray, capturing: bool) -> int:
        """Where input `k` is read from: where it is, or staging memory it is copied to."""
        if isinstance(x, Given) and x.aligned:
            return x.address
        name = self.bindings[k].name
        if capturing and not isinstance(x, Given):
            raise TemperError(f"the stream is being captured: give input '{name}' on the GPU, not as a numpy array")
        address = self.staged(k, x.nbytes)
        if isinstance(x, Given):
            self.gpu.driver("cuMemcpyDtoDAsync", address, x.address, x.nbytes, self.stream.handle)
        else:
            self._to_device(address, x, name)
        return address

    def _to_device(self, address: int, x: np.ndarray, name: str) -> None:
        if x.nbytes >= LEAST:
            self._chunks().upload(address, x, self.stream)
        elif x.nbytes:
            self.gpu.driver(
                "cuMemcpyHtoDAsync", address, x.ctypes.data, x.nbytes, self.stream.handle, what=f"copying '{name}'"
            )

    def _chunks(self) -> Staging:
        if self._pinned is None:
            self._pinned = Staging(self.gpu)
        return self._pinned

    def copy_out(self, source: int, nbytes: int, target: Given | np.ndarray) -> None:
        """Copies an output from where it was written. What goes to the host may not be there before the stream is."""
        if not nbytes:
            return
        if isinstance(target, Given):
            self.gpu.driver("cuMemcpyDtoDAsync", target.address, source, nbytes, self.stream.handle)
        elif nbytes >= LEAST:
            self._chunks().download(target, source, self.stream)
        else:
            self.gpu.driver("cuMemcpyDtoHAsync", target.ctypes.data, source, nbytes, self.stream.handle)

    def fetched(self, bound: CudaBound, i: int) -> np.ndarray:
        """An input on the device, as a host step reads it."""
        a = np.empty(bound.shapes[i], storage(self.plan.inputs[i].dtype))
        self.stream.wait(self.doing)
        if a.nbytes:
            self.gpu.driver("cuMemcpyDtoH", a.ctypes.data, bound.addresses[i], a.nbytes)
        return a

    def hold(self, owners: Sequence[Given]) -> None:
        """Keeps callers' arrays alive until what is on the stream now is done."""
        while self._held and (self._held[0][0].done or len(self._held) >= _IN_FLIGHT):
            event, _ = self._held.popleft()
            event.wait()
            self._spare.append(event)
        if owners:
            event = self._spare.pop() if self._spare else Event(self.gpu)
            event.record(self.stream.handle)
            self._held.append((event, [x.owner for x in owners]))
