"""A GPU plan in this process: its code and constants on one device, and contexts that run it there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from temper.errors import PlanError, TemperError
from temper.plan.cubins import from_archive
from temper.plan.format import Native, Plan
from temper.runtime.binding import Bound, Shapes, choose_profile, solve
from temper.runtime.cuda.bound import CudaBound, DeviceArena, DeviceCall
from temper.runtime.cuda.driver import Functions, Gpu, Stream, runs_on
from temper.runtime.engine import Context, LayerTime
from temper.runtime.steps import Run

if TYPE_CHECKING:
    from temper.runtime.engine import Engine


class CudaPlan:
    """What all contexts of an engine share on one GPU."""

    def __init__(self, plan: Plan, gpu: Gpu) -> None:
        """PlanError if the plan's code is not for this GPU."""
        if not runs_on(plan.isa, gpu.isa):
            raise PlanError(
                f"the plan was built for {plan.isa}, this GPU ({gpu.name}) is {gpu.isa}; build the model for it with "
                f"--device cuda:{gpu.isa}, or `temper rebuild` the plan here"
            )
        self.gpu = gpu
        gpu.enter()
        self.functions = Functions(gpu, from_archive(plan.kernels))
        constants = np.frombuffer(plan.constants, np.uint8)
        self.constants = gpu.allocate(constants.nbytes, "the model's constants")
        self.constants.write(constants)


class CudaContext(Context):
    """An execution context with a stream and device memory of its own."""

    def __init__(self, engine: Engine, shared: CudaPlan) -> None:
        super().__init__(engine)
        self._shared = shared
        shared.gpu.enter()
        self._stream = Stream(shared.gpu)
        self._arenas: dict[int, DeviceArena] = {}
        self._on_device: dict[Shapes, CudaBound] = {}

    def prepare(self, *args: Any, **named: Any) -> tuple[Bound, list[np.ndarray], list[Any]]:
        raise TemperError("the steps of a GPU plan cannot be run one by one on the host")

    def _bound_for(self, shapes: Shapes) -> CudaBound:
        if shapes not in self._on_device:
            plan = self._engine.plan
            env = solve(plan.inputs, shapes)
            index = choose_profile(plan.profiles, env)
            if index not in self._arenas:
                self._arenas[index] = DeviceArena(self._shared.gpu, plan.profiles[index])
            self._make_room(self._on_device)
            self._on_device[shapes] = CudaBound(
                plan,
                self._shared.functions,
                self._shared.constants,
                self._arenas[index],
                self._stream,
                plan.profiles[index],
                env,
                shapes,
            )
        return self._on_device[shapes]

    def _execute(self, arrays: Sequence[Any], targets: Sequence[np.ndarray | None] | None) -> list[np.ndarray]:
        if not self._lock.acquire(False):
            raise TemperError(
                "this context is running in another thread; make one context per thread with engine.context()"
            )
        try:
            self._shared.gpu.enter()
            given = self._checked(arrays)
            bound = self._bound_for(tuple(a.shape for a in given))
            outputs = self._outputs(bound, given, targets)
            bound.execute(given, outputs)
            return outputs
        finally:
            self._lock.release()

    def _profile(self, arrays: Sequence[Any], repeats: int) -> list[LayerTime]:
        """Device time of every launch, each alone in a graph, and wall time of host steps."""
        self._execute(arrays, None)
        given = self._checked(arrays)
        bound = self._bound_for(tuple(a.shape for a in given))
        run = Run(given, [np.empty(s, d) for s, d in bound.fresh], bound.env)
        rows: list[LayerTime] = []
        for segment, step in zip(bound.program, bound.steps, strict=True):
            if isinstance(segment, Native) and isinstance(step, DeviceCall):
                for launch, call in zip(segment.launches, step.launches, strict=True):
                    graph = self._stream.capture([call])
                    least = min(self._stream.seconds(graph) for _ in range(max(1, repeats)))
                    rows.append(LayerTime(launch.name, least, launch.report, False))
            else:
                rows.append(LayerTime(step.name, step.timed(run), segment.report, True))  # type: ignore[union-attr]
        return rows
