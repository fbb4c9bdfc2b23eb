"""ScatterElements and ScatterND on a CUDA GPU: every output element looks through the updates that may concern it.

No two threads write the same element, and updates combine in their order, as in the reference: results do not depend on
timing, not even in floats. An index outside its axis, which ONNX forbids, scatters nothing (as on the CPU).
"""

from __future__ import annotations

from collections.abc import Callable

from temper.ir.dims import Dim, product
from temper.tactics.base import Params, Workload
from temper.tactics.cuda.indexed import Body, Tiled, dense, input_pointer, loaded, output_index
from temper.tactics.cuda.instructions import expression
from temper.tactics.cuda.kernel import dim_text
from temper.tactics.epilogue import Instr
from temper.tactics.geometry import typical_count

#: Updates an element looks through at most: beyond, the host is faster.
_MOST = 1 << 17

_REDUCE = {"add": "Add", "mul": "Mul", "max": "Max", "min": "Min"}


class _Scatter(Tiled):
    """What both share."""

    moves = False

    def declines(self, w: Workload) -> str | None:
        x, indices, updates = w.inputs[:3]
        assert x is not None and indices is not None and updates is not None
        if indices.type.dtype not in ("int32", "int64"):
            return f"its indices are {indices.type.dtype}"
        if w.widened:
            return "its data and its updates are of one type"
        if self._combined(w) is None:
            return f"{w.attr('reduction')} of {x.type.dtype} has no Triton form"
        steps = self._steps(w)
        return f"{steps} updates may meet an element" if not isinstance(steps, Dim) and steps > _MOST else None

    def _steps(self, w: Workload) -> Dim | int:
        """How many updates an element looks through."""
        raise NotImplementedError

    def _combined(self, w: Workload) -> str | None:
        """What becomes of an element `old` under an update `new`."""
        reduction, dtype = str(w.attr("reduction", "none")), w.epilogue.operands[0].dtype
        if reduction == "none":
            return "new"
        return expression(Instr(_REDUCE[reduction], (0, 1), dtype), ["old", "new"], [dtype, dtype])

    def predict(self, w: Workload, params: Params) -> float:
        steps = self._steps(w)
        return 3e-6 + typical_count((steps,)) * typical_count(w.outputs[0].type.shape) / 1e12


class ScatterElements(_Scatter):
    """One update for each index: those of an element lie along one axis."""

    name = "cuda.scatter_elements"
    ops = frozenset({"ScatterElements"})

    def _steps(self, w: Workload) -> Dim | int:
        indices = w.inputs[1]
        assert indices is not None
        return indices.type.shape[self._axis(w)]

    def _axis(self, w: Workload) -> int:
        assert w.inputs[0] is not None
        return int(str(w.attr("axis", 0))) % w.inputs[0].type.rank

    def body(self, w: Workload, number: Callable[[float], str]) -> Body:
        x, indices, index, axis = w.inputs[0], w.inputs[1], output_index(w), self._axis(w)
        assert x is not None and indices is not None
        others = [a for a in range(x.type.rank) if a != axis]
        within = [f"({index.names[a]} < {dim_text(indices.type.shape[a])})" for a in others]
        places = {i: dict(enumerate(dense(w, i))) for i in (1, 2)}
        steps = {i: dim_text(places[i].pop(axis)) for i in (1, 2)}
        base = {i: index.offset(places[i]) for i in (1, 2)}
        lines = [
            *index.statements,
            f"v0 = {loaded(w, 'x', index.offset(dict(enumerate(dense(w, 0)))), 'live')}",
            f"met = {' & '.join(['live', *within])}",
            f"for u in range({dim_text(indices.type.shape[axis])}):",
            f"    at = tl.load(indices + ({base[1]}) + u * ({steps[1]}), mask=met, other=0)",
            f"    hit = met & (position(at, {dim_text(x.type.shape[axis])}) == {index.names[axis]})",
            f"    new = {loaded(w, 'updates', f'({base[2]}) + u * ({steps[2]})', 'hit', 2)}",
            "    old = v0",
            f"    v0 = tl.where(hit, {self._combined(w)}, old)",
        ]
        pointers = [input_pointer(w, i, name) for i, name in enumerate(("x", "indices", "updates"))]
        return Body(lines, pointers, f"Updates along axis {axis}.")


class ScatterND(_Scatter):
    """One run of elements for each tuple of indices."""

    name = "cuda.scatter_nd"
    ops = frozenset({"ScatterND"})

    def declines(self, w: Workload) -> str | None:
        if any(s is not None and s.row_stride is not None for s in w.inputs[1:]):
            return "its indices and updates must be dense"
        indices = w.inputs[1]
        assert indices is not None
        if not isinstance(indices.type.shape[-1], int):
            return "the length of its tuples is not known at build"
        return super().declines(w)

    def _steps(self, w: Workload) -> Dim | int:
        indices = w.inputs[1]
        assert indices is not None
        return product(indices.type.shape[:-1])

    def body(self, w: Workload, number: Callable[[float], str]) -> Body:
        x, indices, index = w.inputs[0], w.inputs[1], output_index(w)
        assert x is not None and indices is not None
        depth, shape = int(str(indices.type.shape[-1])), x.type.shape
        tuples = {a: product(shape[a + 1 : depth]) for a in range(depth)}
        run = {a: product(shape[a + 1 :]) for a in range(depth, x.type.rank)}
        offset = f"update * ({dim_text(product(shape[depth:]))}) + within"
        lines = [
            *index.statements,
            f"v0 = {loaded(w, 'x', index.offset(dict(enumerate(dense(w, 0)))), 'live')}",
            f"mine = {index.offset(tuples) if tuples else 'tl.zeros((1, 1), tl.int32)'}",
            f"within = {index.offset(run) if run else 'tl.zeros((1, 1), tl.int32)'}",
            f"for u in range({dim_text(self._steps(w))}):",
            "    update = tl.zeros((1, 1), tl.int64) + u",
            "    target = update * 0",
            "    legal = update >= 0",
        ]
        for k in range(depth):
            lines += [
                f"    j = position(tl.load(indices + update * {depth} + {k}), {dim_text(shape[k])})",
                "    legal = legal & (j >= 0)",
                f"    target = target + j * ({dim_text(tuples[k])})",
            ]
        lines += [
            "    hit = live & legal & (mine == target)",
            f"    new = {loaded(w, 'updates', offset, 'hit', 2)}",
            "    old = v0",
            f"    v0 = tl.where(hit, {self._combined(w)}, old)",
        ]
        pointers = [input_pointer(w, i, name) for i, name in enumerate(("x", "indices", "updates"))]
        return Body(lines, pointers, f"Updates by tuples of {depth} indices.")
