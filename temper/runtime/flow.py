"""If and Loop at run time: steps that run sub-programs of the plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from temper.dtypes import storage
from temper.errors import InputError
from temper.plan.format import HostStep
from temper.runtime.steps import HostCall, Run

if TYPE_CHECKING:
    from temper.runtime.binding import Bound

#: shapes and sizes a sub-program stays bound to
_KEPT = 64


class _Program:
    """A sub-program and what it is bound to so far; all share one memory, since one runs at a time."""

    def __init__(self, parent: Bound, number: int) -> None:
        self.parent, self.number = parent, number
        self.symbols = parent.plan.subs[number].symbols
        self._bound: dict[Any, Bound] = {}

    def bound(self, arrays: Sequence[Any], env: Mapping[str, int]) -> Bound:
        """The sub-program bound to the shapes of these arrays."""
        key = (
            tuple([a.shape if type(a) is np.ndarray else None for a in arrays]),
            tuple([env.get(s) for s in self.symbols]),
        )
        bound = self._bound.get(key)
        if bound is None:
            first = next(iter(self._bound.values()), None)
            if len(self._bound) >= _KEPT:
                del self._bound[next(iter(self._bound))]
            bound = self.parent.sub(self.number, env, arrays, first.memory if first is not None else None)
            self._bound[key] = bound
        return bound


class FlowCall(HostCall):
    """An If or a Loop: operands and results as of a host step."""

    def __init__(self, step: HostStep, bound: Bound) -> None:
        self._prepare(step, bound)
        self._programs = [_Program(bound, n) for n in step.subs]

    def _results(self, ins: Sequence[Any], run: Run) -> list[Any]:
        if self.step.op == "If":
            return self._programs[0 if ins[0].reshape(-1)[0] else 1].bound(ins[1:], run.env).call(ins[1:])
        return self._loop(ins, run)

    def _loop(self, ins: Sequence[Any], run: Run) -> list[Any]:
        """Steps until the trip count is reached or the condition fails. InputError after `limit` steps."""
        attrs = self.step.attrs
        n, tests, limit = attrs["carried"], attrs["tests"], attrs["limit"]
        trips = limit + 1 if ins[0] is None else int(ins[0].reshape(-1)[0])
        going = ins[1] is None or bool(ins[1].reshape(-1)[0])
        carried, captured = list(ins[2 : 2 + n]), ins[2 + n :]
        rows: list[list[np.ndarray]] = [[] for _ in self.step.outputs[n:]]
        bound, changed, step = None, None, 0
        while going and step < trips:
            if step >= limit:
                raise InputError(
                    f"the loop '{self.name}' is still going after {limit} steps; "
                    "if it should, build with a larger loop_limit"
                )
            arrays = [np.array(step, np.int64), *carried, *captured]
            if bound is None or changed is None:
                bound = self._programs[0].bound(arrays, run.env)
            results = bound.call(arrays, changed)
            if changed is None and bound.keeps(
                tests, [a.shape if isinstance(a, np.ndarray) else None for a in carried]
            ):
                changed = 1 + n  # every step has the same shapes, so nothing else needs to be bound anew
            if tests:
                going = bool(results[0].reshape(-1)[0])
            carried = results[tests : tests + n]
            for row, r in zip(rows, results[tests + n :], strict=True):
                row.append(r)
            step += 1
        return [*carried, *(self._joined(k, row, run) for k, row in enumerate(rows, n))]

    def _joined(self, output: int, row: list[np.ndarray], run: Run) -> np.ndarray:
        if row:
            try:
                return np.stack(row)
            except ValueError as e:
                shapes = sorted({str(list(r.shape)) for r in row})
                raise InputError(
                    f"the loop '{self.name}' joins results of different shapes: {', '.join(shapes)}"
                ) from e
        t = self.step.outputs[output]
        shape = [0 if self.bound.unknown((d,)) and d not in run.env else self.bound.value(d, run.env) for d in t.shape]
        return np.zeros((0, *shape[1:]), storage(t.dtype))
