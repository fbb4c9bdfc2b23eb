"""Contexts of GPU plans with data-dependent sizes or control flow: every call waits for its results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from temper.errors import InputError, TemperError
from temper.plan.format import Binding
from temper.runtime.context import Context, LayerTime
from temper.runtime.cuda.arrays import Pool
from temper.runtime.cuda.context import CudaPlan, stream_handle, watch_of
from temper.runtime.cuda.driver import Stream
from temper.runtime.cuda.inputs import Given, is_host, on_device, wrong_shape
from temper.runtime.cuda.late import Block, LateBound, step_times
from temper.runtime.shapes import Shapes, choose_profile, solve

if TYPE_CHECKING:
    from temper.runtime.engine import Engine

_WHY = "the sizes or the steps of this plan depend on data, so that"


class LateContext(Context):
    """An execution context with device memory of its own; every call waits for its results.

    Results are where the inputs are: on the GPU if an input or an array given for a result is, else on the host.
    """

    def __init__(self, engine: Engine, shared: CudaPlan, stream: Any = None, ranges: bool = False) -> None:
        """stream: of the caller; None for one of its own. ranges: marks layers with NVTX ranges, launched one by one.
        """
        super().__init__(engine)
        shared.gpu.enter()
        self._shared, self.gpu = shared, shared.gpu
        self.stream = Stream(shared.gpu, None if stream is None else stream_handle(stream))
        self._caller = stream  # its owner
        self._watch = watch_of(engine.plan, self.stream, ranges)
        self._pool = Pool(self.stream)
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
        found = self._late.pop(shapes, None)
        if found is None:
            plan, functions = self._engine.plan, self._shared.functions
            env = solve(plan.inputs, shapes)
            index = choose_profile(plan.profiles, env)
            profile = plan.profiles[index]
            if index not in self._blocks:
                self._blocks[index] = Block(functions, profile)
            self._make_room(self._late)
            found = LateBound(
                plan, functions, self._shared.constants, self.stream, self._blocks[index], profile, env,
                watch=self._watch,
            )  # fmt: skip
        self._late[shapes] = found
        return found

    def _execute(self, arrays: Sequence[Any], targets: Sequence[Any] | None) -> list[Any]:
        if not self._lock.acquire(False):
            raise TemperError(
                "this context is running in another thread; make one context per thread with engine.context()"
            )
        try:
            self.gpu.enter()
            if self.stream.capturing:
                raise TemperError(f"{_WHY} it cannot be part of a capture: run it outside")
            given = [self._usable(k, x) for k, x in enumerate(arrays)]
            bound = self._bound_to(given)
            asked = targets if targets is not None else [None] * len(bound.outputs)
            outs = [
                self._target(b, shape, dtype, t)
                for b, (shape, dtype), t in zip(self._engine.plan.outputs, bound.outputs, asked, strict=True)
            ]
            if not any(isinstance(x, Given) for x in (*given, *outs)):
                return bound.run(given, outs)
            results = bound.run_on_device(given, outs, self._pool)
            self.stream.wait("waiting for results")
            return results
        finally:
            self._lock.release()

    def _usable(self, k: int, x: Any) -> Any:
        """An input where it is; arrays on the GPU that kernels cannot read in place are copied to the host."""
        b = self._engine.plan.inputs[k]
        if is_host(x) or b.dtype == "sequence":
            return self._checked_one(b, self._dtypes[k], x)
        given = on_device(x, b, self.gpu, self.stream, "input")
        return given if given.aligned else self._copied(b, self._dtypes[k], given)

    def _target(self, b: Binding, shape: tuple[int, ...] | None, dtype: np.dtype, target: Any) -> Any:
        """An array that the caller gave for an output, checked."""
        if target is None:
            return None
        if is_host(target):
            return self._checked_target(b, getattr(target, "shape", None) if shape is None else shape, dtype, target)
        out = on_device(target, b, self.gpu, self.stream, "out for")
        if shape is not None and out.shape != shape:
            raise wrong_shape(b, "out for", out.shape, shape)
        if not out.aligned:
            raise InputError(f"out for '{b.name}' does not start at a multiple of 16 bytes: give a copy")
        return out

    def _copied(self, b: Binding, dtype: np.dtype, given: Given) -> np.ndarray:
        """An array on the GPU as one on the host."""
        a = np.empty(given.shape, dtype)
        self.stream.wait(f"copying '{b.name}'")
        if a.nbytes:
            self.gpu.driver("cuMemcpyDtoH", a.ctypes.data, given.address, a.nbytes)
        return a

    def _on_host(self, k: int, x: Any) -> Any:
        """An input on the host."""
        given = self._usable(k, x)
        if not isinstance(given, Given):
            return given
        return self._copied(self._engine.plan.inputs[k], self._dtypes[k], given)

    def _profile(self, arrays: Sequence[Any], repeats: int) -> list[LayerTime]:
        """Wall time of every launch and host step, transfers included, in the order of a run."""
        self._execute(arrays, None)
        given = [self._on_host(k, x) for k, x in enumerate(arrays)]
        rows = step_times(self._bound_to(given), given, repeats)
        return [LayerTime(name, seconds, report, host) for name, seconds, report, host in rows]
