"""Contexts of GPU plans whose sizes depend on data, or whose nodes hold programs: arrays on the host in and out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from temper.errors import TemperError
from temper.runtime.binding import Shapes, choose_profile, solve
from temper.runtime.cuda.context import CudaPlan, stream_handle
from temper.runtime.cuda.driver import Stream
from temper.runtime.cuda.inputs import is_host, on_device
from temper.runtime.cuda.late import Block, LateBound, step_times
from temper.runtime.engine import Context, LayerTime

if TYPE_CHECKING:
    from temper.runtime.engine import Engine

_WHY = "the sizes or the steps of this plan depend on data, so that"


class LateContext(Context):
    """An execution context with device memory of its own; every call waits for its results."""

    def __init__(self, engine: Engine, shared: CudaPlan, stream: Any = None) -> None:
        """stream: of the caller; None for one of its own."""
        super().__init__(engine)
        shared.gpu.enter()
        self._shared, self.gpu = shared, shared.gpu
        self.stream = Stream(shared.gpu, None if stream is None else stream_handle(stream))
        self._caller = stream  # its owner
        self._blocks: dict[int, Block] = {}
        self._late: dict[Shapes, LateBound] = {}

    def prepare(self, *args: Any, **named: Any) -> NoReturn:
        raise TemperError("the steps of a GPU plan cannot be run one by one on the host")

    def set_input(self, name: str, array: Any) -> NoReturn:
        raise TemperError(f"{_WHY} it cannot be enqueued: call the engine or the context instead")

    set_output = set_input

    def enqueue(self) -> NoReturn:
        raise TemperError(f"{_WHY} it cannot be enqueued: call the engine or the context instead")

    def _bound_to(self, arrays: Sequence[Any]) -> LateBound:
        shapes = tuple(a.shape for a in arrays)
        found = self._late.get(shapes)
        if found is None:
            plan, functions = self._engine.plan, self._shared.functions
            env = solve(plan.inputs, shapes)
            index = choose_profile(plan.profiles, env)
            profile = plan.profiles[index]
            if index not in self._blocks:
                self._blocks[index] = Block(functions, profile)
            self._make_room(self._late)
            found = self._late[shapes] = LateBound(
                plan, functions, self._shared.constants, self.stream, self._blocks[index], profile, env
            )
        return found

    def _execute(self, arrays: Sequence[Any], targets: Sequence[Any] | None) -> list[Any]:
        if not self._lock.acquire(False):
            raise TemperError(
                "this context is running in another thread; make one context per thread with engine.context()"
            )
        try:
            self.gpu.enter()
            given = self._checked([self._on_host(k, x) for k, x in enumerate(arrays)])
            bound = self._bound_to(given)
            if any(t is not None and not is_host(t) for t in targets or ()):
                raise TemperError(f"{_WHY} its results are numpy arrays: give such for out")
            self._check_targets(bound, given, targets)
            return bound.run(given, targets)
        finally:
            self._lock.release()

    def _check_targets(self, bound: LateBound, given: Sequence[Any], targets: Sequence[Any] | None) -> None:
        for b, (shape, dtype), target in zip(self._engine.plan.outputs, bound.outputs, targets or (), strict=False):
            if target is not None:
                self._checked_target(b, target.shape if shape is None else shape, dtype, target)

    def _on_host(self, k: int, x: Any) -> Any:
        """An input on the host: arrays on the GPU are copied."""
        b = self._engine.plan.inputs[k]
        if is_host(x) or b.dtype == "sequence":
            return x
        given = on_device(x, b, self.gpu, self.stream, "input")
        a = np.empty(given.shape, self._dtypes[k])
        self.stream.wait(f"copying '{b.name}'")
        if a.nbytes:
            self.gpu.driver("cuMemcpyDtoH", a.ctypes.data, given.address, a.nbytes)
        return a

    def _profile(self, arrays: Sequence[Any], repeats: int) -> list[LayerTime]:
        """Wall time of every launch and host step, transfers included, in the order of a run."""
        self._execute(arrays, None)
        given = self._checked([self._on_host(k, x) for k, x in enumerate(arrays)])
        rows = step_times(self._bound_to(given), given, repeats)
        return [LayerTime(name, seconds, report, host) for name, seconds, report, host in rows]
