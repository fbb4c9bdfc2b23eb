"""A GPU plan bound to input shapes: addresses resolved, launches packed, runs of launches as graphs.

Inputs and outputs are bound by address: changing one changes only the graph nodes that touch it. An op without a kernel
is a host step: what it reads comes to a host copy of the arena, and what it writes goes back.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from math import prod
from weakref import proxy

import numpy as np

from temper.dtypes import storage
from temper.errors import PlanError, TemperError
from temper.plan.format import HostStep, Launch, Native, Plan, Profile, Ref, TypedRef
from temper.runtime.binding import Sized
from temper.runtime.cuda.driver import Memory, Stream
from temper.runtime.cuda.launch import Functions, Graph, LaunchCall
from temper.runtime.cuda.order import order_of
from temper.runtime.memory import allocate, view
from temper.runtime.steps import HostCall, Run

#: Alignment of the parts of a device block: more than any kernel asks for.
_ALIGN = 256

#: What surrounds every launch where kernels are launched one by one.
Watch = Callable[[LaunchCall], AbstractContextManager[None]]


def _up(n: int) -> int:
    return -(-n // _ALIGN) * _ALIGN


def arena_bytes(profile: Profile) -> int:
    """Device memory of a context that runs a profile: the arena, with shared scratch behind it."""
    return _up(profile.arena_bytes) + profile.shared_bytes


@dataclass(frozen=True)
class Place:
    """Arena and scratch of one profile, in a block that all profiles of a context share."""

    block: Memory
    shared_at: int

    @staticmethod
    def of(block: Memory, profile: Profile) -> Place:
        return Place(block, _up(profile.arena_bytes))


class CudaBound(Sized):
    """One run at a time. steps: what `start` does in order, graphs of launches and host steps.

    shapes: of the inputs. addresses: of inputs and outputs, in the plan's order; 0 before `point` told them.
    """

    def __init__(
        self,
        plan: Plan,
        functions: Functions,
        constants: Memory,
        place: Place,
        stream: Stream,
        profile: Profile,
        env: Mapping[str, int],
        shapes: Sequence[tuple[int, ...]],
        watch: Watch | None = None,
        branches: bool = True,
    ) -> None:
        """watch: launches one by one instead of as graphs, each within what this returns. branches: launches that do
        not depend on each other may run at once.
        """
        super().__init__(plan, profile, env)
        self.functions, self._constants, self._place, self.stream = functions, constants, place, stream
        self.gpu, self.watch, self.branches = functions.gpu, watch, branches
        for b, (shape, _) in zip(plan.outputs, self.outputs, strict=True):
            if shape is None:
                raise PlanError(f"the shape of output '{b.name}' depends on data, which a GPU plan cannot have")
        self.shapes = tuple(shapes)
        self.fresh = [(s, d) for s, d in self.outputs if s is not None]
        #: bytes of inputs and outputs
        self.nbytes = [
            *(nbytes_of(s, storage(b.dtype)) for b, s in zip(plan.inputs, shapes, strict=True)),
            *(nbytes_of(s, d) for s, d in self.fresh),
        ]
        self.addresses = [0] * len(self.nbytes)
        #: by binding: the arguments that lie in it, as (run of launches, launch, argument, offset)
        self._users: list[list[tuple[DeviceCall, LaunchCall, int, int]]] = [[] for _ in self.nbytes]
        hosted = [t for s in self.program if isinstance(s, HostStep) for t in (*s.inputs, *s.outputs) if t is not None]
        #: the arena's bytes on the host, where host steps work
        self._mirror = allocate(profile.arena_bytes) if hosted else np.empty(0, np.uint8)
        #: inputs and outputs that host steps touch
        self.host_inputs = sorted({t.ref.index for t in hosted if t.ref.kind == "input"})
        self.host_outputs = sorted({t.ref.index for t in hosted if t.ref.kind == "output"})
        self.host_step = next((s.name or s.op for s in self.program if isinstance(s, HostStep)), "")
        self.steps: list[DeviceCall | DeviceHostCall] = []
        for s in self.program:
            self.steps.append(self.call(s) if isinstance(s, Native) else DeviceHostCall(s, proxy(self)))
        #: the run of launches, where that is all there is
        only = self.steps[0] if len(self.steps) == 1 and not self.copies else None
        self.single = only if isinstance(only, DeviceCall) else None

    def call(self, segment: Native) -> DeviceCall:
        """The step that runs these launches."""
        planned_made = [(x, self._launch(x)) for x in segment.launches]
        live = [(x, made) for x, made in planned_made if made.grid]
        before = None
        if self.branches:
            before = order_of(self, [x for x, _ in live])
        call = DeviceCall(self, [made for _, made in planned_made], [made for _, made in live], before)
        for planned, made in live:
            for i, r in enumerate(planned.args):
                if r.kind in ("input", "output"):
                    self._users[self._binding(r)].append((call, made, i, self.value(r.offset)))
        return call

    def _launch(self, x: Launch) -> LaunchCall:
        """A launch with every address resolved that is known before bindings are."""
        pointers = [self.address(a) for a in x.args]
        sizes = [self.value(s) for s in x.symbols]
        return LaunchCall(self.functions, x.entries[0], pointers, sizes, self.value(x.grid), x.name)

    def _binding(self, r: Ref) -> int:
        return r.index + (len(self.plan.inputs) if r.kind == "output" else 0)

    def point(self, binding: int, address: int) -> None:
        """Puts an input or output, counted through both, at an address."""
        if self.addresses[binding] != address:
            self.addresses[binding] = address
            for call, launch, i, offset in self._users[binding]:
                launch.values[i] = address + offset
                call.changed[id(launch)] = launch

    def address(self, r: Ref) -> int:
        """Where an argument lies on the device."""
        offset = self.value(r.offset)
        if r.kind == "arena":
            return self._place.block.address + self._profile.offsets[r.index] + offset
        if r.kind == "const":
            return self._constants.address + offset
        if r.kind in ("input", "output"):
            return self.addresses[self._binding(r)] + offset
        if r.kind == "shared":
            return self._place.block.address + self._place.shared_at + offset
        if r.kind == "null":
            return 0
        raise PlanError(f"a GPU kernel's argument is a {r.kind}; build the plan anew")

    @property
    def host_arena(self) -> np.ndarray:
        return self._mirror

    def fetch(self, r: Ref, nbytes: int) -> np.ndarray:
        """Bytes of an argument once everything on the stream is done."""
        self.stream.wait("reading a layer's results")
        out = np.empty(nbytes, np.uint8)
        if nbytes:
            self.gpu.driver("cuMemcpyDtoH", out.ctypes.data, self.address(r), nbytes)
        return out

    def prepare(self) -> None:
        """Makes the graphs now rather than in the first run."""
        for s in self.steps:
            if isinstance(s, DeviceCall) and self.watch is None:
                s.prepare()

    def forget(self) -> None:
        """Gives the graphs back now, rather than when the interpreter looks for cycles."""
        for s in self.steps:
            if isinstance(s, DeviceCall):
                s.graph = None

    def start(self, run: Run, direct: bool = False) -> None:
        """Puts every step on the stream, then the outputs that are copies; waits only where a host step does.

        direct: launches one by one, as a stream that is being captured needs it. TemperError if it then has host steps.
        """
        if direct and self.host_step:
            raise TemperError(
                f"the stream is being captured, which step '{self.host_step}' on the host cannot be part of; run the "
                "engine outside the capture"
            )
        for step in self.steps:
            if isinstance(step, DeviceCall) and (direct or self.watch is not None):
                step.direct()
            else:
                step.run(run)
        for c in self.copies:
            k = len(self.plan.inputs) + c.output
            if self.nbytes[k]:
                self.gpu.driver(
                    "cuMemcpyDtoDAsync", self.addresses[k], self.address(c.source), self.nbytes[k], self.stream.handle
                )


class DeviceCall:
    """A run of launches, made a graph when it is first run. changed: launches whose arguments are not the graph's."""

    def __init__(
        self,
        bound: CudaBound,
        launches: Sequence[LaunchCall],
        live: Sequence[LaunchCall],
        before: Sequence[Sequence[int]] | None,
    ) -> None:
        """live: those of some block. before: for each of them, those it depends on; None: the one before it."""
        self.gpu, self.stream, self._watch = bound.gpu, bound.stream, bound.watch
        self.launches, self.live, self.before = launches, live, before
        self.changed: dict[int, LaunchCall] = {}
        self.graph: Graph | None = None

    def prepare(self) -> Graph:
        """The graph, with arguments as they are now."""
        if self.graph is None:
            self.graph = Graph(self.gpu, self.live, self.before)
        else:
            for x in self.changed.values():
                self.graph.update(x)
        self.changed.clear()
        return self.graph

    def run(self, run: Run | None = None) -> None:
        graph = self.graph if self.graph is not None and not self.changed else self.prepare()
        graph.launch(self.stream)

    def direct(self) -> None:
        """The launches one by one."""
        stream, watch = self.stream.handle, self._watch
        for x in self.live:
            if watch is None:
                x.run(stream)
            else:
                with watch(x):
                    x.run(stream)


class DeviceHostCall:
    """A host step between launches: operands come from the device, results go back."""

    def __init__(self, step: HostStep, bound: CudaBound) -> None:
        """bound: which holds this, by a weak reference."""
        self.step, self.bound = step, bound
        self._call = HostCall(step, bound)  # type: ignore[arg-type]

    def run(self, run: Run) -> None:
        bound, d = self.bound, self.bound.gpu.driver
        bound.stream.wait(f"waiting for the operands of host step '{self.step.name}'")
        for t in self.step.inputs:
            if t is not None and t.ref.kind in ("arena", "output"):
                a = self._host(t, run)
                if a.nbytes:
                    d("cuMemcpyDtoH", a.ctypes.data, bound.address(t.ref), a.nbytes)
        self._call.run(run)
        for t in self.step.outputs:
            a = self._host(t, run)
            if a.nbytes:
                d("cuMemcpyHtoDAsync", bound.address(t.ref), a.ctypes.data, a.nbytes, bound.stream.handle)

    @property
    def name(self) -> str:
        return self.step.name or self.step.op

    def timed(self, run: Run) -> float:
        """Seconds of one run, transfers included."""
        start = time.perf_counter()
        self.run(run)
        self.bound.stream.wait()
        return time.perf_counter() - start

    def _host(self, t: TypedRef, run: Run) -> np.ndarray:
        if t.ref.kind == "arena":
            return self.bound.view(t, run.env)
        shape, dtype = tuple(self.bound.value(d, run.env) for d in t.shape), storage(t.dtype)
        whole = run.outputs[t.ref.index].reshape(-1).view(np.uint8)
        return view(whole, self.bound.value(t.ref.offset, run.env), dtype, shape)


def nbytes_of(shape: Sequence[int], dtype: np.dtype) -> int:
    """Bytes of a dense array."""
    return prod(shape) * dtype.itemsize
