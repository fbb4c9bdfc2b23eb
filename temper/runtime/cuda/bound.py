"""A GPU plan bound to input shapes: device addresses resolved, launches packed, runs of launches captured as graphs.

Model inputs and outputs have staging buffers on the device, so that a captured graph serves every run. An op without a
kernel is a host step: what it reads comes to a host copy of the arena, and what it writes goes back.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np

from temper.dtypes import storage
from temper.errors import PlanError
from temper.plan.format import Copy, HostStep, Launch, Native, Plan, Profile, Ref, TypedRef
from temper.runtime.binding import Sized
from temper.runtime.cuda.driver import Functions, Gpu, Graph, LaunchCall, Memory, Stream
from temper.runtime.memory import allocate, view
from temper.runtime.steps import HostCall, Run

#: Alignment of the parts of a device block: more than any kernel asks for.
_ALIGN = 256


def _up(n: int) -> int:
    return -(-n // _ALIGN) * _ALIGN


class DeviceArena:
    """A context's device memory for one profile: the arena, with shared scratch behind it."""

    def __init__(self, gpu: Gpu, profile: Profile) -> None:
        self.shared_at = _up(profile.arena_bytes)
        self.block = gpu.allocate(self.shared_at + profile.shared_bytes, "the arena")

    @property
    def address(self) -> int:
        return self.block.address

    @property
    def shared(self) -> int:
        return self.block.address + self.shared_at


class CudaBound(Sized):
    """One run at a time. steps: what `run` does in order, graphs of launches and host steps."""

    def __init__(
        self,
        plan: Plan,
        functions: Functions,
        constants: Memory,
        arena: DeviceArena,
        stream: Stream,
        profile: Profile,
        env: Mapping[str, int],
        shapes: Sequence[tuple[int, ...]],
    ) -> None:
        super().__init__(plan, profile, env)
        self._functions, self._constants, self._arena, self._stream = functions, constants, arena, stream
        gpu = functions.gpu
        for b, (shape, _) in zip(plan.outputs, self.outputs, strict=True):
            if shape is None:
                raise PlanError(f"the shape of output '{b.name}' depends on data, which a GPU plan cannot have")
        made = [(s, d) for s, d in self.outputs if s is not None]
        self.inputs = [
            gpu.allocate(_bytes(s, storage(b.dtype)), f"input '{b.name}'")
            for b, s in zip(plan.inputs, shapes, strict=True)
        ]
        self.results = [
            gpu.allocate(_bytes(s, d), f"output '{b.name}'") for b, (s, d) in zip(plan.outputs, made, strict=True)
        ]
        self.fresh = made
        #: the arena's bytes on the host, where host steps work
        self._mirror = (
            allocate(profile.arena_bytes)
            if any(isinstance(s, HostStep) for s in self.program)
            else np.empty(0, np.uint8)
        )
        self.steps: list[DeviceCall | DeviceHostCall] = []
        for s in self.program:
            if isinstance(s, Native):
                calls = [self.launch(x) for x in s.launches]
                self.steps.append(DeviceCall(stream, calls))
            else:
                self.steps.append(DeviceHostCall(s, self))

    def launch(self, x: Launch) -> LaunchCall:
        """A launch with every address resolved."""
        pointers = [self.address(a) for a in x.args]
        sizes = [self.value(s) for s in x.symbols]
        return LaunchCall(self._functions, x.entries[0], pointers, sizes, self.value(x.grid), x.name)

    def address(self, r: Ref) -> int:
        """Where an argument lies on the device."""
        offset = self.value(r.offset)
        if r.kind == "arena":
            return self._arena.address + self._profile.offsets[r.index] + offset
        if r.kind == "const":
            return self._constants.address + offset
        if r.kind in ("input", "output"):
            return (self.inputs if r.kind == "input" else self.results)[r.index].address + offset
        if r.kind == "shared":
            return self._arena.shared + offset
        if r.kind == "null":
            return 0
        raise PlanError(f"a GPU kernel's argument is a {r.kind}; build the plan anew")

    def view(self, t: TypedRef, env: Mapping[str, int]) -> np.ndarray:
        """The host's copy of an array in the arena, or an array among the constants."""
        shape, dtype = tuple(self.value(d, env) for d in t.shape), storage(t.dtype)
        offset = self.value(t.ref.offset, env)
        if t.ref.kind == "const":
            return view(np.frombuffer(self.plan.constants, np.uint8), offset, dtype, shape)
        return view(self._mirror, self._profile.offsets[t.ref.index] + offset, dtype, shape)

    def execute(self, arrays: Sequence[np.ndarray], outputs: list[np.ndarray]) -> None:
        """A run from host arrays to host arrays."""
        d, stream = self._functions.gpu.driver, self._stream
        for memory, a in zip(self.inputs, arrays, strict=True):
            if a.nbytes:
                d("cuMemcpyHtoDAsync", memory.address, a.ctypes.data, a.nbytes, stream.handle)
        run = Run(arrays, outputs, self.env)
        for step in self.steps:
            step.run(run)
        for c in self.copies:
            self._copy(c)
        for memory, a in zip(self.results, outputs, strict=True):
            if a.nbytes:
                d("cuMemcpyDtoHAsync", a.ctypes.data, memory.address, a.nbytes, stream.handle)
        stream.wait(f"running '{self.plan.report.get('model', 'the plan')}'")

    def _copy(self, c: Copy) -> None:
        target = self.results[c.output]
        if target.nbytes:
            self._functions.gpu.driver(
                "cuMemcpyDtoDAsync", target.address, self.address(c.source), target.nbytes, self._stream.handle
            )


class DeviceCall:
    """A run of launches, captured as a graph when it is first run."""

    def __init__(self, stream: Stream, launches: Sequence[LaunchCall]) -> None:
        self.stream, self.launches = stream, launches
        self._graph: Graph | None = None

    def run(self, run: Run | None = None) -> None:
        if self._graph is None:
            self._graph = self.stream.capture(self.launches)
        self._graph.launch(self.stream)


class DeviceHostCall:
    """A host step between launches: operands come from the device, results go back."""

    def __init__(self, step: HostStep, bound: CudaBound) -> None:
        self.step, self.bound = step, bound
        self._call = HostCall(step, bound)  # type: ignore[arg-type]

    def run(self, run: Run) -> None:
        bound, d = self.bound, self.bound._functions.gpu.driver
        bound._stream.wait(f"waiting for the operands of host step '{self.step.name}'")
        for t in self.step.inputs:
            if t is not None and t.ref.kind in ("arena", "output"):
                a = self._host(t, run)
                if a.nbytes:
                    d("cuMemcpyDtoH", a.ctypes.data, bound.address(t.ref), a.nbytes)
        self._call.run(run)
        for t in self.step.outputs:
            a = self._host(t, run)
            if a.nbytes:
                d("cuMemcpyHtoDAsync", bound.address(t.ref), a.ctypes.data, a.nbytes, bound._stream.handle)

    @property
    def name(self) -> str:
        return self.step.name or self.step.op

    def timed(self, run: Run) -> float:
        """Seconds of one run, transfers included."""
        start = time.perf_counter()
        self.run(run)
        self.bound._stream.wait()
        return time.perf_counter() - start

    def _host(self, t: TypedRef, run: Run) -> np.ndarray:
        if t.ref.kind == "arena":
            return self.bound.view(t, run.env)
        shape, dtype = tuple(self.bound.value(d, run.env) for d in t.shape), storage(t.dtype)
        whole = run.outputs[t.ref.index].reshape(-1).view(np.uint8)
        return view(whole, self.bound.value(t.ref.offset, run.env), dtype, shape)


def _bytes(shape: Sequence[int], dtype: np.dtype) -> int:
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
