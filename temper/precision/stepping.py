"""Runs a program step by step for the simulator: which steps run, and with which constants, may change from run to run.

On either device a step is what one region became: a host step, or the launches of its kernel. Any step may have other
launches besides its own, which read other constants.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from temper.dtypes import storage
from temper.plan.format import DimText, Launch, Native, Plan, Segment
from temper.runtime.binding import Bound
from temper.runtime.engine import Engine
from temper.runtime.memory import allocate
from temper.runtime.shapes import choose_profile, solve
from temper.runtime.steps import HostCall, NativeCall, Run, sizes_of

if TYPE_CHECKING:
    from temper.runtime.cuda.driver import Memory

#: Launches of a step that read other constants, by step.
Others = Mapping[int, tuple[Launch, ...]]


class Stepper(Protocol):
    """A program on one device."""

    def load(self, feeds: Mapping[str, np.ndarray]) -> None:
        """Takes inputs, which stay the caller's: what changes in one later is told to `changed`."""

    def changed(self, name: str) -> None:
        """The contents of an input are others now."""

    def write(self, offset: int, array: np.ndarray) -> None:
        """Puts an array among the constants."""

    def run(self, step: int, other: bool) -> None:
        """Runs one step, or its other launches."""

    def results(self) -> list[np.ndarray]:
        """The outputs, valid until the next run."""


def steps_of(plan: Plan) -> list[Segment]:
    """The segments of the first program, cut into what each region became."""
    found: list[Segment] = []
    for s in plan.programs[plan.profiles[0].program]:
        if isinstance(s, Native):
            found += [Native(tuple(own)) for _, own in groupby(s.launches, lambda x: x.report)]
        else:
            found.append(s)
    return found


def runs_late(plan: Plan) -> bool:
    """On a GPU its steps cannot be repeated one by one: sizes are found in data, or nodes hold programs."""
    if plan.device == "cpu":
        return False
    from temper.runtime.cuda.late import is_late

    return is_late(plan)


def stepper(plan: Plan, nbytes: int, others: Others, device: str) -> Stepper:
    """The plan's first program.

    nbytes: of constants there shall be room for.
    others: see there.
    device: as a configuration names it.
    """
    steps = steps_of(plan)
    first = plan.profiles[0].program
    programs = tuple(tuple(steps) if i == first else p for i, p in enumerate(plan.programs))
    constants = allocate(nbytes)
    constants[: len(plan.constants)] = np.frombuffer(plan.constants, np.uint8)
    one = replace(plan, programs=programs, constants=constants.data)
    if plan.device == "cpu":
        return _OnCpu(one, constants, others)
    return _OnGpu(one, others, device)


def repeated(plan: Plan, feeds: Mapping[str, np.ndarray], device: str) -> Callable[[], object]:
    """Runs the whole plan, again whenever it is called, and waits. On a GPU inputs and outputs stay on the device."""
    if plan.device == "cpu" or runs_late(plan):
        engine = Engine(plan, device="" if plan.device == "cpu" else device)
        return lambda: engine.run(feeds)
    found = _OnGpu(plan, {}, device)
    found.load({b.name: feeds[b.name] for b in plan.inputs})
    return found.whole


class _OnCpu:
    """Constants lie in this process's memory, where kernels read them."""

    def __init__(self, plan: Plan, constants: np.ndarray, others: Others) -> None:
        self._constants, self._launches = constants, others
        self._context = Engine(plan).context()
        self._bound: Bound | None = None
        self._others: dict[int, NativeCall] = {}
        self._run: Run | None = None
        #: sizes that each step found in the data
        self._found: dict[int, set[str]] = {}

    def load(self, feeds: Mapping[str, np.ndarray]) -> None:
        bound, inputs, outputs = self._context.prepare(feeds)
        if bound is not self._bound:
            self._others = {k: NativeCall(Native(own), bound) for k, own in self._launches.items()}
        self._bound, self._run, self._found = bound, Run(inputs, outputs, bound.env), {}

    def changed(self, name: str) -> None:
        """Kernels read the caller's array."""

    def write(self, offset: int, array: np.ndarray) -> None:
        self._constants[offset : offset + array.nbytes] = array.reshape(-1).view(np.uint8)

    def run(self, step: int, other: bool) -> None:
        assert self._bound is not None and self._run is not None
        call = (self._others if other else self._bound.steps)[step]
        self._drop_outgrown(call)
        env = self._run.env
        for symbol in self._found.get(step, ()):
            env.pop(symbol, None)
        known = set(env)
        call.run(self._run)
        self._found[step] = env.keys() - known

    def _drop_outgrown(self, call: NativeCall | HostCall) -> None:
        """Arrays that a step is about to write but were made when the data gave another size are made anew."""
        assert self._bound is not None and self._run is not None
        bound, run = self._bound, self._run
        if isinstance(call, HostCall):
            for t in call.step.outputs:
                if t.ref.kind == "output" and bound.outputs[t.ref.index][0] is None:
                    run.outputs[t.ref.index] = None
            return

        def outgrown(old: object, shape: Sequence[DimText], name: str) -> bool:
            if not isinstance(old, np.ndarray) or old.dtype == object:
                return False
            return old.size != np.prod(sizes_of(shape, bound, run.env, name), dtype=np.int64)

        for i in call.slots:
            if outgrown(run.slots.get(i), bound.slots[i].shape, bound.slots[i].name):
                del run.slots[i]
        for i in call.outputs:
            if outgrown(run.outputs[i], bound.output_shape(i), "an output"):
                run.outputs[i] = None

    def results(self) -> list[np.ndarray]:
        assert self._bound is not None and self._run is not None
        outputs = list(self._run.outputs)
        self._bound.finish(self._run.arrays, outputs, self._run.slots)
        return outputs


class _OnGpu:
    """Inputs, outputs and constants have memory on the device."""

    def __init__(self, plan: Plan, others: Others, device: str) -> None:
        from temper.runtime.cuda.context import CudaPlan
        from temper.runtime.cuda.driver import Gpu, Stream

        which = device.partition(":")[2]
        self._plan, self._launches = plan, others
        self._shared = CudaPlan(plan, Gpu(int(which) if which.isdigit() else 0))
        self._stream = Stream(self._shared.gpu)
        self._shapes: tuple[tuple[int, ...], ...] | None = None
        self._memory: list[Memory] = []
        self._names = {b.name: i for i, b in enumerate(plan.inputs)}

    def load(self, feeds: Mapping[str, np.ndarray]) -> None:
        plan = self._plan
        # as they are where they can be: what changes in them is copied again
        arrays = [np.require(feeds[b.name], storage(b.dtype), "C") for b in plan.inputs]
        shapes = tuple(a.shape for a in arrays)
        if shapes != self._shapes:
            self._bind(shapes)
        self._feeds = arrays
        outputs: list[Any] = [np.empty(*s) for s in self._bound.fresh]
        self._run = Run(arrays, outputs, self._bound.env)
        for name in self._names:
            self.changed(name)

    def _bind(self, shapes: tuple[tuple[int, ...], ...]) -> None:
        from temper.runtime.cuda.bound import CudaBound, Place, arena_bytes

        plan, gpu = self._plan, self._shared.gpu
        env = solve(plan.inputs, shapes)
        profile = plan.profiles[choose_profile(plan.profiles, env)]
        place = Place.of(gpu.allocate(arena_bytes(profile), "the simulator's tensors"), profile)
        shared = self._shared
        self._bound = CudaBound(
            plan, shared.functions, shared.constants, place, self._stream, profile, env, shapes, branches=False
        )
        self._others = {k: self._bound.call(Native(own)) for k, own in self._launches.items()}
        self._memory = [gpu.allocate(n, "the simulator's inputs and outputs") for n in self._bound.nbytes]
        for k, m in enumerate(self._memory):
            self._bound.point(k, m.address)
        self._shapes = shapes

    def changed(self, name: str) -> None:
        k = self._names[name]
        self._copy_in(self._memory[k].address, self._feeds[k])

    def write(self, offset: int, array: np.ndarray) -> None:
        self._copy_in(self._shared.constants.address + offset, np.ascontiguousarray(array))

    def _copy_in(self, address: int, array: np.ndarray) -> None:
        gpu = self._shared.gpu
        gpu.enter()
        self._stream.wait("simulating")  # what reads it now is done
        if array.nbytes:
            gpu.driver("cuMemcpyHtoD", address, array.ctypes.data, array.nbytes)

    def run(self, step: int, other: bool) -> None:
        (self._others if other else self._bound.steps)[step].run(self._run)

    def whole(self) -> None:
        """All steps, and waits for them."""
        self._bound.start(self._run)
        self._stream.wait("running the model")

    def results(self) -> list[np.ndarray]:
        gpu, bound = self._shared.gpu, self._bound
        first = len(bound.shapes)
        for c in bound.copies:
            to, n = bound.addresses[first + c.output], bound.nbytes[first + c.output]
            gpu.driver("cuMemcpyDtoDAsync", to, bound.address(c.source), n, self._stream.handle)
        self._stream.wait("simulating")
        found = [np.empty(*s) for s in bound.fresh]
        for a, m in zip(found, self._memory[first:], strict=True):
            if a.nbytes:
                gpu.driver("cuMemcpyDtoH", a.ctypes.data, m.address, a.nbytes)
        return found
