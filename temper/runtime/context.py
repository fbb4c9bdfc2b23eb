"""An execution context: an engine's program bound to the shapes of its inputs, with memory of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from temper.dtypes import ML_FLOATS, storage
from temper.errors import InputError, TemperError
from temper.plan.format import Binding, Native
from temper.runtime.binding import Bound, Memory, Sized
from temper.runtime.memory import data_address
from temper.runtime.shapes import Shapes, choose_profile, shape_text, solve
from temper.runtime.steps import NativeCall, Run

if TYPE_CHECKING:
    from temper.runtime.engine import Engine

Result = np.ndarray | dict[str, np.ndarray]

#: Shapes a context keeps bound; the oldest is dropped, and binding it again costs about a millisecond.
_KEPT_SHAPES = 64


@dataclass(frozen=True)
class LayerTime:
    """Measured time of one step. report: row of the build report or -1; host: True for a numpy step."""

    name: str
    seconds: float
    report: int
    host: bool


def described(b: Binding) -> str:
    """An input or output in words."""
    return f"'{b.name}' {storage(b.dtype)}{shape_text(b.shape)}"


class Context:
    """Memory and bound shapes for one run at a time.

    Calling a context from two threads at once raises a TemperError; it is never a race.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        plan = engine.plan
        self._dtypes = tuple(storage(b.dtype) for b in plan.inputs)
        self._memory: dict[int, Memory] = {}
        self._bound: dict[Shapes, Bound] = {}
        self._lock = threading.Lock()
        self._run: Any = engine._code.host.run if plan.device == "cpu" else None

    def __call__(self, *args: Any, out: Any = None, **named: Any) -> Result:
        """Runs the model in this context, as Engine.__call__ does."""
        engine = self._engine
        arrays: Sequence[Any] = args
        if named or len(args) != engine._arity or (args and type(args[0]) is dict):
            arrays = engine._arguments(args, named)
        results = self._execute(arrays, None if out is None else engine._targets(out))
        return results[0] if engine._only is not None else dict(zip(engine._names, results, strict=True))

    def prepare(self, *args: Any, **named: Any) -> tuple[Bound, list[np.ndarray], list[Any]]:
        """The plan bound to these inputs, given as to __call__, without running it; the arrays it reads and writes.

        For whoever runs `Bound.steps` one by one. An output whose shape depends on data is None.
        """
        return self._prepared(self._engine._arguments(args, named))

    def _prepared(self, given: Sequence[Any]) -> tuple[Bound, list[np.ndarray], list[Any]]:
        arrays = self._checked(given)
        shapes = tuple(a.shape for a in arrays)
        bound = self._bound.get(shapes) or self._bind(shapes)
        outputs = self._outputs(bound, arrays, None)
        for i, a in enumerate((*arrays, *outputs)):
            bound.pointers[i] = data_address(a) if a is not None else 0
        return bound, arrays, outputs

    def _checked(self, arrays: Sequence[Any]) -> list[np.ndarray]:
        """Arrays as they can be used: the same where possible, contiguous copies otherwise."""
        return [
            self._checked_one(b, dtype, a)
            for b, dtype, a in zip(self._engine.plan.inputs, self._dtypes, arrays, strict=True)
        ]

    @staticmethod
    def _checked_one(b: Binding, dtype: np.dtype, a: Any) -> np.ndarray:
        """One array, or a sequence of them, as it can be used."""
        if b.dtype == "sequence":
            return _wrapped(b, a)
        if isinstance(a, np.generic):
            a = np.asarray(a)
        if not isinstance(a, np.ndarray) and hasattr(a, "__dlpack__"):
            try:
                a = np.from_dlpack(a)
            except (BufferError, RuntimeError, TypeError) as e:
                raise InputError(f"input '{b.name}' cannot be read as a numpy array without a copy: {e}") from e
        if not isinstance(a, np.ndarray):
            raise InputError(f"input '{b.name}' is a {type(a).__name__}, expected a numpy array: {described(b)}")
        if a.dtype != dtype:
            if a.dtype.name != ML_FLOATS.get(b.dtype):
                raise InputError(
                    f"input '{b.name}' has dtype {a.dtype}, expected {dtype}: convert it with x.astype('{dtype}')"
                )
            a = a.view(dtype)
        return a if a.flags.c_contiguous and a.flags.aligned else np.array(a, order="C", subok=False).reshape(a.shape)

    def _bind(self, shapes: Shapes) -> Bound:
        engine = self._engine
        env = solve(engine.plan.inputs, shapes)
        index = choose_profile(engine.plan.profiles, env)
        profile = engine.plan.profiles[index]
        if index not in self._memory:
            self._memory[index] = Memory(profile, engine.threads)
        bound = Bound(engine.plan, engine._code, self._memory[index], profile, env, engine.threads)
        self._make_room(self._bound)
        self._bound[shapes] = bound
        return bound

    @staticmethod
    def _make_room(kept: dict[Shapes, Any]) -> Any:
        """Drops what was kept first if there is too much, and returns it."""
        return kept.pop(next(iter(kept))) if len(kept) >= _KEPT_SHAPES else None

    def _execute(self, arrays: Sequence[Any], targets: Sequence[np.ndarray | None] | None) -> list[np.ndarray]:
        if not self._lock.acquire(False):
            raise TemperError(
                "this context is running in another thread; make one context per thread with engine.context()"
            )
        try:
            for a, dtype in zip(arrays, self._dtypes, strict=True):
                if type(a) is not np.ndarray or a.dtype != dtype or not a.flags.carray:
                    arrays = self._checked(arrays)
                    break
            shapes = tuple([a.shape for a in arrays])
            bound = self._bound.get(shapes) or self._bind(shapes)
            outputs = (
                [np.empty(shape, dtype) for shape, dtype in bound.fresh]
                if targets is None and bound.single
                else self._outputs(bound, arrays, targets)
            )
            pointers, i = bound.pointers, 0
            for a in arrays:
                pointers[i] = data_address(a)
                i += 1
            for a in outputs:
                pointers[i] = data_address(a) if a is not None else 0
                i += 1
            if bound.single:
                if self._run(bound.single, bound.bindings):
                    raise TemperError(
                        "this context is running in another thread; make one context per thread with engine.context()"
                    )
                return outputs
            bound.execute(Run(arrays, outputs, bound.env))
            return outputs
        finally:
            self._lock.release()

    def _outputs(
        self, bound: Sized, arrays: Sequence[np.ndarray], targets: Sequence[np.ndarray | None] | None
    ) -> list[Any]:
        """Output arrays: the caller's where given, new ones otherwise; None where the shape is only known after the
        run.
        """
        outputs: list[Any] = []
        for i, (b, (shape, dtype)) in enumerate(zip(self._engine.plan.outputs, bound.outputs, strict=True)):
            given = targets[i] if targets is not None else None
            if given is None:
                outputs.append(None if shape is None else np.empty(shape, dtype))
                continue
            self._checked_target(b, shape, dtype, given)
            others = [*arrays, *(t for t in (targets or ())[:i] if t is not None)]
            if any(np.may_share_memory(given, a) for a in others):
                raise InputError(
                    f"out for '{b.name}' shares memory with an input or another output; give an array of its own"
                )
            outputs.append(given)
        return outputs

    @staticmethod
    def _checked_target(b: Binding, shape: tuple[int, ...] | None, dtype: np.dtype, given: Any) -> np.ndarray:
        """A caller's array for an output, if it can be written."""
        expected = f"expected a writeable C-contiguous {dtype} array" + (
            "" if shape is None else f" of shape {shape_text(shape)}"
        )
        if not isinstance(given, np.ndarray):
            raise InputError(f"out for '{b.name}' is a {type(given).__name__}, {expected}")
        if given.dtype != dtype or (shape is not None and given.shape != shape) or not given.flags.carray:
            raise InputError(
                f"out for '{b.name}' is a {given.dtype} array of shape {shape_text(given.shape)}"
                f"{'' if given.flags.carray else ', read-only or not contiguous'}; {expected}"
            )
        return given

    def _profile(self, arrays: Sequence[Any], repeats: int) -> list[LayerTime]:
        self._execute(arrays, None)
        bound, arrays, outputs = self._prepared(arrays)
        segments = bound.program
        times: list[list[float]] = []
        for _ in range(max(1, repeats)):
            run = Run(arrays, list(outputs), bound.env)
            row: list[float] = []
            for segment, step in zip(segments, bound.steps, strict=True):
                if isinstance(segment, Native) and isinstance(step, NativeCall):
                    seconds = iter(step.ready(run).profile(bound.bindings))
                    left_out = [bound.value(launch.work, run.env) == 0 for launch in segment.launches]
                    row += [
                        0.0 if none else sum(next(seconds) for _ in launch.entries)
                        for launch, none in zip(segment.launches, left_out, strict=True)
                    ]
                else:
                    start = time.perf_counter()
                    step.run(run)
                    row.append(time.perf_counter() - start)
            times.append(row)
        least = [min(column) for column in zip(*times, strict=True)]
        steps = [x for s in segments for x in (s.launches if isinstance(s, Native) else (s,))]
        return [LayerTime(x.name, t, x.report, not hasattr(x, "entries")) for x, t in zip(steps, least, strict=True)]


def _wrapped(b: Binding, given: Any) -> np.ndarray:
    """A sequence of arrays as one object, in an array without dimensions as all inputs are arrays."""
    if isinstance(given, np.ndarray) and given.dtype == object and given.shape == () and isinstance(given[()], tuple):
        return given
    if not isinstance(given, (list, tuple)) or not all(isinstance(a, (np.ndarray, np.generic)) for a in given):
        raise InputError(f"input '{b.name}' is a {type(given).__name__}, expected a list of numpy arrays")
    whole = np.empty((), object)
    whole[()] = tuple(np.array(a, order="C", copy=True) for a in given)
    return whole
