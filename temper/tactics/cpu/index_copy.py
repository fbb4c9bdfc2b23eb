"""Data movement that maps every output axis on its own: Pad, Tile, Slice, Expand, nearest Resize, Gather with constant
indices.

Per axis that changes, a table gives the input index of each output index, or -1 for the fill value. Tables are made by
running the op's numpy reference on an index ramp along that axis, so that kernel and reference cannot disagree about
rounding, modes or clamping. Axes that do not change (a symbolic batch among them) are plain loops.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from temper.compile.cc import ISAS
from temper.errors import BuildError
from temper.ir.dims import Dim, DimLike, product
from temper.ir.types import itemsize
from temper.reference.formats import number
from temper.reference.movement import REFERENCES
from temper.tactics.base import ArgRef, Kernel, Params, Workload
from temper.tactics.cpu.render import template_text
from temper.tactics.cpu.source import c_dim, defines
from temper.tactics.geometry import attrs_of_axis, strides_of, typical_count

INTEGER = {1: "uint8_t", 2: "uint16_t", 4: "uint32_t", 8: "uint64_t"}

#: Bytes of output that make up a unit of work, about: enough to hide the indexing, little enough to share among
#: threads.
BLOCK_BYTES = 1 << 14

#: Segments pay off from this many bytes each; below, a table lookup per run is cheaper.
_SEGMENT_BYTES = 64

_TYPICAL_DIM = 4


@dataclass(frozen=True)
class Axis:
    """An output axis: its size, and the element strides of input and output along it.

    table: output index -> input index or -1; None where the axis is walked alike on both sides, or where the indices
    are known to `prepack` only (`given`).
    """

    size: DimLike
    x_step: DimLike
    y_step: DimLike
    table: np.ndarray | None = None
    given: bool = False

    @property
    def mapped(self) -> bool:
        return self.table is not None or self.given


@dataclass(frozen=True)
class Layout:
    """The loops of a copy: outer axes, the innermost mapped axis, and the contiguous run below it (a Dim if it is
    symbolic).
    """

    outer: tuple[Axis, ...]
    inner: Axis
    run: DimLike
    fill: int | None


def fill_bits(w: Workload) -> int | None:
    """The fill value's bit pattern; None if the op never fills."""
    attrs = dict(w.attrs)
    if w.op == "Pad" and attrs["mode"] == "constant":
        value = attrs["value"]
    elif w.op == "Resize" and attrs["coordinate_transformation_mode"] == "tf_crop_and_resize":
        value = attrs["extrapolation_value"]
    else:
        return None
    dtype = w.outputs[0].type.dtype
    return int.from_bytes(number(value, dtype).tobytes(), "little")  # type: ignore[arg-type]


def _ramp(w: Workload, size: int, attrs: Mapping[str, object]) -> np.ndarray:
    """The table of one axis: the reference's result on 0, 1, .., size - 1."""
    return REFERENCES[w.op]([np.arange(size)], attrs)[0].astype(np.int32)


def _axes(w: Workload) -> list[Axis] | str:
    """One `Axis` per output axis (Gather's index axes as one), or why the workload has none."""
    x, y = w.inputs[0], w.outputs[0]
    assert x is not None
    x_steps = strides_of(x.type.shape, (True,) * x.type.rank, x.row_stride)
    y_steps = strides_of(y.type.shape, (True,) * y.type.rank, y.row_stride)
    if w.op == "Gather":
        return _gather_axes(w, x_steps, y_steps)
    if w.op == "Expand":
        lead = y.type.rank - x.type.rank
        out = []
        for a, d in enumerate(y.type.shape):
            before = x.type.shape[a - lead] if a >= lead else 1
            if before == d:
                out.append(Axis(d, x_steps[a - lead] if a >= lead else 0, y_steps[a]))
            elif isinstance(d, Dim):
                return f"it broadcasts along axis {a}, whose size is not known at build"
            else:
                out.append(Axis(d, 0, y_steps[a], np.zeros(d, np.int32)))
        return out
    out = []
    for a, (before, after) in enumerate(zip(x.type.shape, y.type.shape, strict=True)):
        attrs = attrs_of_axis(w, a)
        if attrs is None:
            out.append(Axis(after, x_steps[a], y_steps[a]))
            continue
        if isinstance(before, Dim) or isinstance(after, Dim) or not _plain(attrs):
            return f"it changes axis {a}, whose size is not known at build"
        table = _ramp(w, before, attrs)
        same = before == after and np.array_equal(table, np.arange(before))
        out.append(Axis(after, x_steps[a], y_steps[a], None if same else table))
    return out


def _plain(attrs: Mapping[str, object]) -> bool:
    return not any(
        isinstance(i, Dim) for value in attrs.values() for i in (value if isinstance(value, tuple) else (value,))
    )


def _gather_axes(w: Workload, x_steps: list[DimLike], y_steps: list[DimLike]) -> list[Axis] | str:
    x, indices, y = w.inputs[0], w.inputs[1], w.outputs[0]
    assert x is not None and indices is not None
    if not indices.type.static:
        return "the number of its indices is not known at build"
    axis, count = int(str(w.attr("axis"))) % x.type.rank, indices.type.rank
    if y.row_stride is not None and axis == x.type.rank - 1 and count != 1:
        return "its output is a view whose rows are not the gathered axis"
    if isinstance(x.type.shape[axis], Dim):
        return f"it gathers along axis {axis}, whose size is not known at build"
    kept = [
        Axis(d, x_steps[a], y_steps[a if a < axis else a + count - 1]) for a, d in enumerate(x.type.shape) if a != axis
    ]
    step = y_steps[axis + count - 1] if count else 0
    return [*kept[:axis], Axis(indices.type.count, x_steps[axis], step, given=True), *kept[axis:]]


def merged(axes: Sequence[Axis]) -> list[Axis]:
    """Axes of size 1 dropped, neighbours walked alike joined."""
    out: list[Axis] = []
    for a in axes:
        if a.size == 1 and not a.mapped:
            continue
        last = out[-1] if out else None
        if (
            last is not None
            and not a.mapped
            and not last.mapped
            and last.x_step == a.size * a.x_step
            and last.y_step == a.size * a.y_step
        ):
            out[-1] = Axis(last.size * a.size, a.x_step, a.y_step)
        else:
            out.append(a)
    return out


def copy_layout(w: Workload) -> Layout | str:
    """The loops of a workload, or the reason this kernel cannot do it."""
    found = _axes(w)
    if isinstance(found, str):
        return found
    if any(a.size == 0 for a in found):
        return "it moves no element"
    axes = merged(found)
    last = max((i for i, a in enumerate(axes) if a.mapped), default=None)
    if last is None:
        return "no axis changes: it is a plain copy"
    tail = axes[last + 1 :]
    while len(tail) > 1 or (tail and (tail[-1].x_step, tail[-1].y_step) != (1, 1)):
        first = tail.pop(0)
        if isinstance(first.size, Dim):
            return "its rows are apart and their number is not known at build"
        last += 1
        axes[last] = Axis(first.size, first.x_step, first.y_step, np.arange(first.size, dtype=np.int32))
    inner = axes[last]
    if isinstance(inner.size, Dim):
        return "the number of rows is not known at build"
    return Layout(tuple(axes[:last]), inner, tail[0].size if tail else 1, fill_bits(w))


def _block(layout: Layout, size: int) -> int:
    """Indices of the inner axis per unit of work."""
    run = layout.run if isinstance(layout.run, int) else BLOCK_BYTES
    return max(1, min(int(str(layout.inner.size)), BLOCK_BYTES // (run * size)))


def segments(table: np.ndarray, block: int) -> np.ndarray:
    """[n, 3] rows (first output index, first input index or -1, length): maximal runs that do not cross multiples of
    `block`.
    """
    rows: list[list[int]] = []
    for q, source in enumerate(table.tolist()):
        if rows and q % block:
            start, first, n = rows[-1]
            if source == (-1 if first < 0 else first + n):
                rows[-1][2] += 1
                continue
        rows.append([q, source, 1])
    return np.array(rows, np.int32).reshape(-1, 3)


def _segmented(layout: Layout, size: int) -> bool:
    inner, run = layout.inner, layout.run
    if inner.table is None or not inner.x_step == inner.y_step == run:
        return False
    if isinstance(run, Dim):
        return True
    count = len(segments(inner.table, _block(layout, size)))
    return run * size * len(inner.table) >= count * _SEGMENT_BYTES and count < len(inner.table)


def declines_copy(w: Workload, ops: frozenset[str]) -> str | None:
    """Why a kernel that copies elements by index, for `ops`, cannot compute the workload, its geometry aside."""
    if w.op not in ops:
        return f"maps indices axis by axis, and does not compute {w.op}"
    if w.isa not in ISAS:
        return f"no such CPU level: {w.isa}"
    if w.epilogue.instrs or len(w.outputs) != 1:
        return "it copies and computes nothing"
    dtype = w.outputs[0].type.dtype
    if dtype == "string" or itemsize(dtype) not in INTEGER:
        return f"elements of type {dtype} are not moved here"
    if w.op == "Resize" and w.attr("mode") != "nearest":
        return f"mode {w.attr('mode')} computes weighted means"
    return None


class IndexCopy:
    """Pad, Tile, Slice, Expand, nearest Resize, and Gather with constant indices, of elements of 1, 2, 4 or 8 bytes."""

    name = "cpu.index_copy"
    ops = frozenset({"Pad", "Tile", "Slice", "Expand", "Resize", "Gather"})

    def accepts(self, w: Workload) -> str | None:
        if reason := declines_copy(w, self.ops):
            return reason
        if w.op == "Gather" and not w.constant[1]:
            return "its indices are not constants"
        found = copy_layout(w)
        return found if isinstance(found, str) else None

    def candidates(self, w: Workload) -> Sequence[Params]:
        return [()]

    def predict(self, w: Workload, params: Params) -> float:
        layout = copy_layout(w)
        assert isinstance(layout, Layout)
        count = typical_count(w.outputs[0].type.shape, _TYPICAL_DIM)
        run = layout.run if isinstance(layout.run, int) else _TYPICAL_DIM
        size = itemsize(w.outputs[0].type.dtype)
        per_run = 0.0 if _segmented(layout, size) else 1.5e-9
        return 5e-7 + (count * size / 15e9 + count / run * per_run) / w.threads

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        layout = copy_layout(w)
        assert isinstance(layout, Layout)
        size = itemsize(w.outputs[0].type.dtype)
        index, argument = [], 2
        for a in reversed(layout.outer):
            d, x_step, y_step = (c_dim(s, w.symbols) for s in (a.size, a.x_step, a.y_step))
            source = "i"
            if a.mapped:
                source = f"((const int32_t *)p[{argument}])[i]"
                argument += 1
            index.append(
                f"{{ const int64_t i = outer % {d}, t = {source}; outer /= {d}; at_out += i * {y_step}; "
                f"at_in += t * {x_step}; hole |= t < 0; }}"
            )
        values: dict[str, int | str] = {
            "ENTRY": entry,
            "T": INTEGER[size],
            "OUTER": c_dim(product(tuple(a.size for a in layout.outer)), w.symbols),
            "OUTER_INDEX": " ".join([*index, "(void)outer; (void)hole;"]),
            "Q": c_dim(layout.inner.size, w.symbols),
            "R": c_dim(layout.run, w.symbols),
            "X_Q": c_dim(layout.inner.x_step, w.symbols),
            "Y_Q": c_dim(layout.inner.y_step, w.symbols),
            "FILL": f"(T){layout.fill or 0}u" + ("ll" if size == 8 else ""),
            "HAS_FILL": int(layout.fill is not None),
            "BLOCK": _block(layout, size),
            "TABLE": argument,
            "TABLE_OFFSET": 0,
            "FORM": int(_segmented(layout, size)),
            "ONE": int(layout.run == 1),
        }
        args: list[ArgRef] = [("input", 0), ("output", 0), *(("packed", i) for i in range(argument - 1))]
        return Kernel(
            template_text("vec.h") + defines(values) + template_text("index_copy.c"), (entry,), tuple(args), w.symbols
        )

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        layout = copy_layout(w)
        assert isinstance(layout, Layout)

        def table(a: Axis) -> np.ndarray:
            return _gather_table(w, constants[1]) if a.table is None else a.table

        size = itemsize(w.outputs[0].type.dtype)
        packed = [table(a) for a in reversed(layout.outer) if a.mapped]
        inner = table(layout.inner)
        if _segmented(layout, size):
            block = _block(layout, size)
            rows = segments(inner, block)
            starts = np.searchsorted(rows[:, 0], np.arange(-(-len(inner) // block) + 1) * block)
            inner = np.concatenate([starts, rows.reshape(-1)])
        return (*packed, inner.astype(np.int32))


def _gather_table(w: Workload, indices: np.ndarray) -> np.ndarray:
    """Indices counted from the front. BuildError if one is outside the axis."""
    x = w.inputs[0]
    assert x is not None
    size = int(str(x.type.shape[int(str(w.attr("axis"))) % x.type.rank]))
    try:
        return REFERENCES["Gather"]([np.arange(size), indices.reshape(-1)], {"axis": 0})[0].astype(np.int32)
    except IndexError as e:
        bad = indices[(indices < -size) | (indices >= size)].reshape(-1)[0]
        raise BuildError(
            f"Gather's constant index {bad} is outside an axis of {size} elements: the model is wrong"
        ) from e
