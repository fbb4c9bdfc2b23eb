"""Launches of a program with data-dependent sizes: CUDA graphs where theirs are known, else one by one."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from temper.plan.format import Launch, Native
from temper.runtime.cuda.launch import Graph, LaunchCall
from temper.runtime.cuda.order import order_of
from temper.runtime.steps import Run

if TYPE_CHECKING:
    from temper.runtime.cuda.late import Key, LateBound

#: Arguments that are arrays of the run, which may be elsewhere in the next one.
_ARRAYS = ("input", "output", "host")


class LateLaunches:
    """A native segment. parts: its runs of launches of known sizes, and the launches between them."""

    def __init__(self, segment: Native, bound: LateBound) -> None:
        self.segment, self.bound = segment, bound
        self.parts: list[_Graphed | _Single] = []
        known: list[Launch] = []
        for x in (*segment.launches, None):
            if x is not None and _is_known(x, bound):
                known.append(x)
                continue
            if known:
                self.parts.append(_Graphed(known, bound))
            known = []
            if x is not None:
                self.parts.append(_Single(x, bound))

    def run(self, run: Run) -> None:
        for part in self.parts:
            part.run(run)


def _is_known(x: Launch, bound: LateBound) -> bool:
    """Nothing about a launch changes from run to run but where the arrays are."""
    texts = (*x.symbols, x.work, *x.scratch, x.grid, *(r.offset for r in x.args))
    return not bound.unknown(texts) and not bound.value(x.scratch[1])


class _Single:
    """A launch whose sizes are known when the run reaches it."""

    def __init__(self, launch: Launch, bound: LateBound) -> None:
        self.launch, self.bound = launch, bound

    def run(self, run: Run) -> None:
        if (call := prepared(self.launch, self.bound, run)) is not None:
            _put(call, self.bound)


class _Graphed:
    """Launches whose sizes are known before the run: put on the stream one by one in the first run, as a graph in those
    after it, since a graph costs more than it saves once."""

    def __init__(self, launches: Sequence[Launch], bound: LateBound) -> None:
        self.launches, self.bound = tuple(launches), bound
        args = [r for x in launches for r in x.args]
        self._keys: list[Key] = list(dict.fromkeys((r.kind, r.index) for r in args if r.kind in _ARRAYS))
        written = [x.args[k] for x in launches for k in x.writes]
        self._written: list[Key] = list(dict.fromkeys((r.kind, r.index) for r in written if r.kind in _ARRAYS))
        self._calls: list[LaunchCall] = []
        #: by array: where its address is an argument, as (launch, argument, offset)
        self._users: dict[Key, list[tuple[LaunchCall, int, int]]] = {key: [] for key in self._keys}
        self._at: dict[Key, int] = {}
        self._before: list[list[int]] = []
        self._graph: Graph | None = None

    def run(self, run: Run) -> None:
        bound = self.bound
        at = {key: bound.to_device(key, run) for key in self._keys}
        first = not self._calls
        if first:
            self._make(at, run)
        moved = [key for key in self._keys if at[key] != self._at[key]]
        changed: dict[int, LaunchCall] = {}
        for key in moved:
            for call, i, offset in self._users[key]:
                call.values[i] = at[key] + offset
                changed[id(call)] = call
        self._at = at
        for key in self._written:
            bound.wrote_on_device(key)
        if first or bound.watch is not None or len(self._calls) == 1:
            for call in self._calls:
                _put(call, bound)
            return
        if self._graph is None:
            self._graph = Graph(bound.gpu, self._calls, self._before)
        else:
            for call in changed.values():
                self._graph.update(call)
        if self._calls:
            self._graph.launch(bound.stream)

    def _make(self, at: dict[Key, int], run: Run) -> None:
        live = [(x, call) for x in self.launches if (call := prepared(x, self.bound, run)) is not None]
        self._calls = [call for _, call in live]
        self._at = dict(at)
        for x, call in live:
            for i, r in enumerate(x.args):
                if r.kind in _ARRAYS:
                    self._users[r.kind, r.index].append((call, i, self.bound.value(r.offset)))
        self._before = order_of(self.bound, [x for x, _ in live])


def prepared(x: Launch, bound: LateBound, run: Run) -> LaunchCall | None:
    """One launch at the sizes of a run; None where it has nothing to do."""
    env = run.env
    grid = bound.value(x.grid, env) if bound.value(x.work, env) > 0 else 0
    touched = [(r.kind, r.index) for r in x.args if r.kind in _ARRAYS]
    at = {key: bound.to_device(key, run) for key in dict.fromkeys(touched)}
    scratch = bound.value(x.scratch[1], env)
    pointers = []
    for r in x.args:
        if (r.kind, r.index) in at:
            pointers.append(at[r.kind, r.index] + bound.value(r.offset, env))
        elif r.kind == "shared" and scratch:
            pointers.append(bound.shared(scratch))
        else:
            pointers.append(bound.place(r, env))
    for k in x.writes:
        if (x.args[k].kind, x.args[k].index) in at:
            bound.wrote_on_device((x.args[k].kind, x.args[k].index))
    if not grid:
        return None
    sizes = [bound.value(s, env) for s in x.symbols]
    return LaunchCall(bound.functions, x.entries[0], pointers, sizes, grid, x.name)


def _put(call: LaunchCall, bound: LateBound) -> None:
    with bound.watch(call) if bound.watch is not None else nullcontext():
        call.run(bound.stream.handle)
