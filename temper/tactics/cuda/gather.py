"""Gather, GatherElements, GatherND, Lookup, OneHot and ReverseSequence on a CUDA GPU: elements at run-time indices.

A negative index counts from the end. An index outside its axis, which ONNX forbids, gives an element of all-one bits:
NaN, or -1 (as on the CPU).
"""

from __future__ import annotations

from collections.abc import Callable

from temper.ir.types import itemsize
from temper.tactics.base import Workload
from temper.tactics.cuda.indexed import Body, Tiled, dense, input_pointer, is_plain, loaded, output_index
from temper.tactics.cuda.kernel import dim_text

_INDICES = ("int32", "int64")


def outside(w: Workload) -> str:
    """The element that an index outside its axis gives."""
    dtype = w.epilogue.operands[0].dtype
    if dtype.startswith(("float", "bfloat")) and not is_plain(w):
        return 'float("nan")'
    if dtype == "bool":
        return "True"
    return str((1 << 8 * itemsize(dtype)) - 1) if dtype.startswith("uint") else "-1"


def _axis(w: Workload) -> int:
    assert w.inputs[0] is not None
    return int(str(w.attr("axis", 0))) % w.inputs[0].type.rank


def _picked(w: Workload, index: str, offset: str) -> list[str]:
    """Statements that read the element which an index names along the axis. offset: of the other axes."""
    x, axis = w.inputs[0], _axis(w)
    assert x is not None
    return [
        f"j = position({index}, {dim_text(x.type.shape[axis])})",
        "kept = live & (j >= 0)",
        f"offset = {offset} + j * ({dim_text(dense(w, 0)[axis])})",
        f"v0 = tl.where(kept, {loaded(w, 'x', 'offset', 'kept')}, {outside(w)})",
    ]


class GatherRows(Tiled):
    """Gather along any axis with indices of any shape."""

    name = "cuda.gather"
    ops = frozenset({"Gather"})

    def declines(self, w: Workload) -> str | None:
        indices = w.inputs[1]
        assert indices is not None
        return None if indices.type.dtype in _INDICES else f"its indices are {indices.type.dtype}"

    def body(self, w: Workload, number: Callable[[float], str]) -> Body:
        x, indices, index, axis = w.inputs[0], w.inputs[1], output_index(w), _axis(w)
        assert x is not None and indices is not None
        count = indices.type.rank
        which = dict(enumerate(dense(w, 1), axis))
        strides = dense(w, 0)
        kept = {(a if a < axis else a + count - 1): s for a, s in enumerate(strides) if a != axis}
        mask = index.mask(list(which)) if which else "row_ok[:, None]"
        at = index.offset(which) if which else "tl.zeros((1, 1), tl.int32)"
        return Body(
            [
                *index.statements,
                *_picked(w, f"tl.load(indices + ({at}), mask={mask}, other=0)", index.offset(kept)),
            ],
            [input_pointer(w, 0, "x"), input_pointer(w, 1, "indices")],
            f"Rows of axis {axis} by index.",
        )


class GatherElements(Tiled):
    """One element for each index."""

    name = "cuda.gather_elements"
    ops = frozenset({"GatherElements"})
    rate = 4e11

    def declines(self, w: Workload) -> str | None:
        indices = w.inputs[1]
        assert indices is not None
        return None if indices.type.dtype in _INDICES else f"its indices are {indices.type.dtype}"

    def body(self, w: Workload, number: Callable[[float], str]) -> Body:
        x, index, axis = w.inputs[0], output_index(w), _axis(w)
        assert x is not None
        strides = dense(w, 0)
        others = {a: s for a, s in enumerate(strides) if a != axis}
        at = index.offset(dict(enumerate(dense(w, 1))))
        return Body(
            [
                *index.statements,
                *_picked(w, f"tl.load(indices + ({at}), mask=live, other=0)", index.offset(others)),
            ],
            [input_pointer(w, 0, "x"), input_pointer(w, 1, "indices")],
            f"Elements along axis {axis} by index.",
        )


class GatherND(Tiled):
    """One run of elements for each tuple of indices."""

    name = "cuda.gather_nd"
    ops = frozenset({"GatherND"})
    rate = 4e11

    def declines(self, w: Workload) -> str | None:
        indices = w.inputs[1]
        assert indices is not None
        if indices.type.dtype not in _INDICES:
            return f"its indices are {indices.type.dtype}"
        return None if isinstance(indices.type.shape[-1], int) else "the length of its tuples is not known at build"

    def body(self, w: Workload, number: Callable[[float], str]) -> Body:
        x, indices, index = w.inputs[0], w.inputs[1], output_index(w)
        assert x is not None and indices is not None
        batch, depth = int(str(w.attr("batch_dims", 0))), int(str(indices.type.shape[-1]))
        lead = indices.type.rank - 1
        tuples = dict(enumerate(dense(w, 1)[:-1]))
        mask = index.mask(list(tuples)) if tuples else "row_ok[:, None]"
        at = index.offset(tuples) if tuples else "tl.zeros((1, 1), tl.int32)"
        strides = dense(w, 0)
        kept = dict(enumerate(strides[:batch]))
        kept |= {a - batch - depth + lead: s for a, s in enumerate(strides) if a >= batch + depth}
        lines = [*index.statements, "kept = live", f"offset = {index.offset(kept)}"]
        for k in range(depth):
            size, stride = dim_text(x.type.shape[batch + k]), dim_text(strides[batch + k])
            lines += [
                f"j = position(tl.load(indices + ({at}) + {k}, mask={mask}, other=0), {size})",
                "kept = kept & (j >= 0)",
                f"offset = offset + j * ({stride})",
            ]
        lines.append(f"v0 = tl.where(kept, {loaded(w, 'x', 'offset', 'kept')}, {outside(w)})")
        pointers = [input_pointer(w, 0, "x"), input_pointer(w, 1, "indices")]
        return Body(lines, pointers, f"Elements by tuples of {depth} indices.")


class Lookup(Tiled):
    """Codes through a table of 256."""

    name = "cuda.lookup"
    ops = frozenset({"Lookup"})
    moves = False

    def declines(self, w: Workload) -> str | None:
        return None

    def body(self, w: Workload, number: Callable[[float], str]) -> Body:
        index = output_index(w)
        at = index.offset(dict(enumerate(dense(w, 0)))) if index.names else "tl.zeros((1, 1), tl.int32)"
        return Body(
            [
                *index.statements,
                f"code = tl.load(x + ({at}), mask=live, other=0).to(tl.int32) & 255",
                f"v0 = {loaded(w, 'table', 'code', 'live', 1)}",
            ],
            [input_pointer(w, 0, "x"), input_pointer(w, 1, "table")],
            "Codes through a table.",
        )


class OneHot(Tiled):
    """Rows of `off` with one `on`; of `off` alone for an index outside [-depth, depth)."""

    name = "cuda.one_hot"
    ops = frozenset({"OneHot"})
    moves = False

    def declines(self, w: Workload) -> str | None:
        return None

    def body(self, w: Workload, number: Callable[[float], str]) -> Body:
        index, out = output_index(w), w.outputs[0].type
        axis = int(str(w.attr("axis", -1))) % out.rank
        at = {a if a < axis else a + 1: s for a, s in enumerate(dense(w, 0))}
        mask = index.mask(list(at)) if at else "row_ok[:, None]"
        offset = index.offset(at) if at else "tl.zeros((1, 1), tl.int32)"
        return Body(
            [
                *index.statements,
                f"j = tl.load(indices + ({offset}), mask={mask}, other=0)",
                f"j = tl.where(j < 0, j + {dim_text(out.shape[axis])}, j)",
                f"off = {loaded(w, 'values', 'tl.zeros((1, 1), tl.int32)', 'row_ok[:, None]', 1)}",
                f"on = {loaded(w, 'values', 'tl.full((1, 1), 1, tl.int32)', 'row_ok[:, None]', 1)}",
                f"v0 = tl.where(live & (j == {index.names[axis]}), on, off)",
            ],
            [input_pointer(w, 0, "indices"), input_pointer(w, 1, "values")],
            f"One-hot vectors along axis {axis}.",
        )


class ReverseSequence(Tiled):
    """The first `lengths[batch]` elements along the time axis, turned around."""

    name = "cuda.reverse_sequence"
    ops = frozenset({"ReverseSequence"})

    def declines(self, w: Workload) -> str | None:
        return None

    def body(self, w: Workload, number: Callable[[float], str]) -> Body:
        index = output_index(w)
        batch, time = (int(str(w.attr(f"{n}_axis", d))) for n, d in (("batch", 1), ("time", 0)))
        strides = dense(w, 0)
        others = {a: s for a, s in enumerate(strides) if a != time}
        i = index.names[time]
        return Body(
            [
                *index.statements,
                f"length = tl.load(lengths + {index.names[batch]}, mask={index.mask([batch])}, other=0)",
                f"j = tl.where({i} < length, length - 1 - {i}, {i})",
                f"offset = {index.offset(others)} + j * ({dim_text(strides[time])})",
                f"v0 = {loaded(w, 'x', 'offset', 'live')}",
            ],
            [input_pointer(w, 0, "x"), input_pointer(w, 1, "lengths")],
            "Sequences turned around.",
        )
