"""Movement ops: output elements are copies of input elements.

Where a slice's bound is symbolic it is taken to lie inside the axis; the frontend or the binder has to know that.
"""

from __future__ import annotations

from typing import Any, cast

from temper.errors import ShapeError
from temper.ir.dims import Dim, DimLike, data_symbols, evaluate, opaque, product, symbols_of
from temper.ir.opdef import Attrs, AttrSpec, CostFn, InferFn, Kind, OpDef, Tolerance
from temper.ir.ops import rules
from temper.ir.ops.contraction import activation, channels_of, spatial_of
from temper.ir.ops.rules import (
    BOOL,
    INT,
    INTS_ATTR,
    NUMBERS,
    Types,
    allow,
    axis_of,
    default,
    dims,
    integer,
    need,
)
from temper.ir.types import TensorType
from temper.reference.movement import REFERENCES, slice_of

_INDEX = frozenset({"int32", "int64"})
_EXACT = Tolerance(relative=0.0)
#: bounds at least this large mean "to the end", as exporters write them
_FAR = (1 << 31) - 1


def _transpose(types: Types, attrs: Attrs) -> list[TensorType]:
    x, perm = need(types, 0), rules.ints(attrs, "perm")
    if sorted(perm) != list(range(x.rank)):
        raise ShapeError(f"perm {perm} is not a permutation of {x.rank} axes")
    return [TensorType(x.dtype, tuple(x.shape[p] for p in perm))]


def _never_equal(a: DimLike, b: DimLike) -> bool:
    """True if two counts differ for every size tried; sizes are rich in divisors: floor divisions come out even.

    Sizes that depend on data may make any two counts equal: the step that finds them checks.
    """
    if data_symbols(a, b):
        return False
    names = sorted(symbols_of(a) | symbols_of(b))
    for base in (5040, 720720):
        env = {name: base * (i + 1) for i, name in enumerate(names)}
        if evaluate(a, env) == evaluate(b, env):
            return False
    return True


def _reshape(types: Types, attrs: Attrs) -> list[TensorType]:
    x, shape = need(types, 0), list(dims(attrs, "shape"))
    if shape.count(-1) > 1 or any(isinstance(d, int) and d < -1 for d in shape):
        raise ShapeError(f"{rules.shape_text(shape)} is not a shape")
    if -1 in shape:
        at = shape.index(-1)
        rest = product(tuple(d for d in shape if d != -1))
        if rest == 0:
            raise ShapeError(f"-1 in {rules.shape_text(shape)} could be any size")
        shape[at] = x.count // rest
    count = product(tuple(shape))
    if count != x.count and _never_equal(count, x.count):
        raise ShapeError(
            f"{x} cannot be reshaped to {rules.shape_text(dims(attrs, 'shape'))}: {x.count} elements against {count}"
        )
    return [TensorType(x.dtype, tuple(shape))]


def _expand(types: Types, attrs: Attrs) -> list[TensorType]:
    x = need(types, 0)
    return [TensorType(x.dtype, rules.broadcast(x.shape, dims(attrs, "shape")))]


def _squeeze(types: Types, attrs: Attrs) -> list[TensorType]:
    x = need(types, 0)
    axes = rules.axes_of(rules.ints(attrs, "axes"), x.rank)
    for a in axes:
        if x.shape[a] != 1:
            raise ShapeError(f"axis {a} of {x} is not 1 and cannot be squeezed")
    return [TensorType(x.dtype, tuple(d for i, d in enumerate(x.shape) if i not in axes))]


def _unsqueeze(types: Types, attrs: Attrs) -> list[TensorType]:
    x, given = need(types, 0), rules.ints(attrs, "axes")
    rank = x.rank + len(given)
    axes, rest = rules.axes_of(given, rank), iter(x.shape)
    return [TensorType(x.dtype, tuple(1 if i in axes else next(rest) for i in range(rank)))]


def _tile(types: Types, attrs: Attrs) -> list[TensorType]:
    x, repeats = need(types, 0), dims(attrs, "repeats")
    if len(repeats) != x.rank or any(isinstance(r, int) and r < 0 for r in repeats):
        raise ShapeError(f"{rules.shape_text(repeats)} repeats do not fit {x}")
    return [TensorType(x.dtype, tuple(r * d for d, r in zip(x.shape, repeats, strict=True)))]


def _concat(types: Types, attrs: Attrs) -> list[TensorType]:
    first = need(types, 0)
    axis = axis_of(integer(attrs, "axis"), first.rank)
    total: DimLike = 0
    for i in range(len(types)):
        t = need(types, i)
        if t.rank != first.rank:
            raise ShapeError(f"{t} has another rank than {first}")
        for a, (d, e) in enumerate(zip(t.shape, first.shape, strict=True)):
            if a != axis:
                rules.equal_or_raise(d, e, f"axis {a} of operand {i} against operand 0, joined along axis {axis}")
        total = t.shape[axis] + total
    shape = (*first.shape[:axis], total, *first.shape[axis + 1 :])
    return [TensorType(rules.same_dtype(types), shape)]


def _split(types: Types, attrs: Attrs) -> list[TensorType]:
    x, sizes = need(types, 0), dims(attrs, "sizes")
    axis = axis_of(integer(attrs, "axis"), x.rank)
    total: DimLike = 0
    for s in sizes:
        if isinstance(s, int) and s < 0:
            raise ShapeError(f"sizes {rules.shape_text(sizes)} must not be negative")
        total = s + total
    if total != x.shape[axis] and _never_equal(total, x.shape[axis]):
        raise ShapeError(f"sizes {rules.shape_text(sizes)} do not sum to axis {axis} of {x}")
    return [TensorType(x.dtype, (*x.shape[:axis], s, *x.shape[axis + 1 :])) for s in sizes]


def _negative(d: DimLike) -> bool:
    """True for bounds counted from the end: negative ints, and Dims without a positive term."""
    return d < 0 if isinstance(d, int) else all(c < 0 for c in d.terms.values())


def _bound(value: DimLike, size: DimLike) -> DimLike:
    """A slice bound counted from the front and, where that is decidable, clamped into [0, size]."""
    if isinstance(value, int) and isinstance(size, int):
        return min(max(value + size if value < 0 else value, 0), size)
    if isinstance(value, int) and value >= _FAR:
        return size
    if isinstance(value, int) and value <= -_FAR:
        return 0
    return size + value if _negative(value) else value


def sliced(size: DimLike, start: DimLike, end: DimLike, step: int) -> DimLike:
    """Number of elements start:end:step selects from an axis of `size`."""
    if isinstance(size, int) and isinstance(start, int) and isinstance(end, int):
        return len(range(*slice_of(size, start, end, step).indices(size)))
    if step > 0:
        stop = _bound(end, size)
        if isinstance(end, int) and 0 <= end < _FAR and isinstance(size, Dim):
            stop = opaque("min", end, size)
        count = stop - _bound(start, size)
    elif isinstance(end, int) and end <= -_FAR and isinstance(start, int) and (start == -1 or start >= _FAR):
        count = size
    else:
        first = size - 1 if isinstance(start, int) and start >= _FAR else _bound(start, size)
        count = first - (-1 if isinstance(end, int) and end <= -_FAR else _bound(end, size))
    out = (count + (abs(step) - 1)) // abs(step)
    return max(out, 0) if isinstance(out, int) else out


def _slice(types: Types, attrs: Attrs) -> list[TensorType]:
    x, starts, ends = need(types, 0), dims(attrs, "starts"), dims(attrs, "ends")
    axes = rules.ints(attrs, "axes") if "axes" in attrs else tuple(range(len(starts)))
    steps = rules.ints(attrs, "steps") if "steps" in attrs else (1,) * len(starts)
    if not len(starts) == len(ends) == len(axes) == len(steps):
        raise ShapeError(f"{len(starts)} starts, {len(ends)} ends, {len(axes)} axes and {len(steps)} steps")
    shape = list(x.shape)
    for a, start, end, step in zip(rules.axes_of(axes, x.rank), starts, ends, steps, strict=True):
        if step == 0:
            raise ShapeError("a step is 0")
        shape[a] = sliced(x.shape[a], start, end, step)
    return [TensorType(x.dtype, tuple(shape))]


def _pad(types: Types, attrs: Attrs) -> list[TensorType]:
    x, pads, mode = need(types, 0), dims(attrs, "pads"), rules.text(attrs, "mode")
    if mode not in ("constant", "reflect", "edge", "wrap"):
        raise ShapeError(f"mode {mode!r} does not exist")
    if len(pads) != 2 * x.rank:
        raise ShapeError(f"{len(pads)} pads for {x}: needs a begin and an end for every axis")
    out = []
    for i, d in enumerate(x.shape):
        size = d + pads[i] + pads[x.rank + i]
        if isinstance(size, int) and size < 0:
            raise ShapeError(f"pads crop axis {i} of {x} to {size} elements")
        if (
            mode == "reflect"
            and isinstance(d, int)
            and any(isinstance(p, int) and p >= max(d, 1) for p in (pads[i], pads[x.rank + i]))
        ):
            raise ShapeError(f"mode reflect pads axis {i} of {x} by more than its size less 1")
        out.append(size)
    return [TensorType(x.dtype, tuple(out))]


def _gather(types: Types, attrs: Attrs) -> list[TensorType]:
    x, indices = need(types, 0), allow(need(types, 1), _INDEX, "indices")
    axis = axis_of(integer(attrs, "axis"), x.rank)
    return [TensorType(x.dtype, (*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))]


def _lookup(types: Types, attrs: Attrs) -> list[TensorType]:
    """Codes through a table: its element for every value of a byte, by the byte's bits."""
    x, table = need(types, 0), need(types, 1)
    for t, what in ((x, "codes"), (table, "table")):
        allow(t, frozenset({"int8", "uint8"}), what)
    if table.shape != (256,):
        raise ShapeError(f"a table of codes has 256 elements, not {table}")
    return [TensorType(table.dtype, x.shape)]


def _gather_elements(types: Types, attrs: Attrs) -> list[TensorType]:
    x, indices = need(types, 0), allow(need(types, 1), _INDEX, "indices")
    axis_of(integer(attrs, "axis"), x.rank)
    if indices.rank != x.rank:
        raise ShapeError(f"indices {indices} must have the rank of the data {x}")
    return [TensorType(x.dtype, indices.shape)]


def _depth_of(x: TensorType, indices: TensorType, batch: int) -> int:
    """Length of the index tuples: how many axes after the batch axes they address."""
    depth = indices.shape[-1] if indices.rank else None
    if not isinstance(depth, int):
        raise ShapeError(f"the last axis of indices {indices} must have a known size")
    if not 0 < depth <= x.rank - batch:
        raise ShapeError(f"indices {indices} address {depth} axes of {x} after {batch} batch axes")
    return depth


def _gather_nd(types: Types, attrs: Attrs) -> list[TensorType]:
    x, indices, batch = need(types, 0), allow(need(types, 1), _INDEX, "indices"), integer(attrs, "batch_dims")
    if not 0 <= batch < min(x.rank, indices.rank):
        raise ShapeError(f"batch_dims {batch} is out of range for {x} and {indices}")
    for a in range(batch):
        rules.equal_or_raise(x.shape[a], indices.shape[a], f"batch axis {a} of the data and the indices")
    return [TensorType(x.dtype, (*indices.shape[:-1], *x.shape[batch + _depth_of(x, indices, batch) :]))]


def _check_reduction(attrs: Attrs, x: TensorType) -> None:
    reduction = rules.text(attrs, "reduction")
    if reduction not in ("none", "add", "mul", "max", "min"):
        raise ShapeError(f"reduction {reduction!r} does not exist")
    if reduction != "none":
        allow(x, NUMBERS)


def _scatter_elements(types: Types, attrs: Attrs) -> list[TensorType]:
    x, indices, updates = need(types, 0), allow(need(types, 1), _INDEX, "indices"), need(types, 2)
    _check_reduction(attrs, x)
    axis_of(integer(attrs, "axis"), x.rank)
    if indices.rank != x.rank or updates.shape != indices.shape:
        raise ShapeError(f"indices {indices} and updates {updates} must have one shape, of the rank of {x}")
    rules.same_dtype([x, updates])
    return [x]


def _scatter_nd(types: Types, attrs: Attrs) -> list[TensorType]:
    x, indices, updates = need(types, 0), allow(need(types, 1), _INDEX, "indices"), need(types, 2)
    _check_reduction(attrs, x)
    expected = (*indices.shape[:-1], *x.shape[_depth_of(x, indices, 0) :])
    if updates.shape != expected:
        raise ShapeError(f"updates must have shape {rules.shape_text(expected)}, not {rules.shape_text(updates.shape)}")
    rules.same_dtype([x, updates])
    return [x]


def _block(types: Types, attrs: Attrs) -> tuple[TensorType, DimLike, DimLike, DimLike, int]:
    x, b = need(types, 0), integer(attrs, "blocksize")
    if x.rank != 4 or b < 1:
        raise ShapeError(f"needs data of rank 4 and a positive blocksize, not {x} and {b}")
    h, w = spatial_of(x, attrs)
    return x, channels_of(x, attrs), h, w, b


def _depth_to_space(types: Types, attrs: Attrs) -> list[TensorType]:
    x, c, h, w, b = _block(types, attrs)
    if c % (b * b) != 0:
        raise ShapeError(f"{c} channels do not divide into blocks of {b} x {b}")
    return [activation(x.dtype, x.shape[0], (h * b, w * b), c // (b * b), attrs)]


def _space_to_depth(types: Types, attrs: Attrs) -> list[TensorType]:
    x, c, h, w, b = _block(types, attrs)
    if any(isinstance(d, int) and d % b for d in (h, w)):
        raise ShapeError(f"{h} x {w} does not divide into blocks of {b} x {b}")
    return [activation(x.dtype, x.shape[0], (h // b, w // b), c * (b * b), attrs)]


def _trilu(types: Types, attrs: Attrs) -> list[TensorType]:
    x = allow(need(types, 0), NUMBERS | BOOL)
    if x.rank < 2:
        raise ShapeError(f"{x} is not a matrix")
    return [x]


def _one_hot(types: Types, attrs: Attrs) -> list[TensorType]:
    indices, values = allow(need(types, 0), NUMBERS, "indices"), need(types, 1)
    rules.vector(values, 2, "values")
    axis = axis_of(integer(attrs, "axis"), indices.rank + 1)
    depth = cast(Any, attrs["depth"])
    return [TensorType(values.dtype, (*indices.shape[:axis], depth, *indices.shape[axis:]))]


def _reverse_sequence(types: Types, attrs: Attrs) -> list[TensorType]:
    x, lengths = need(types, 0), allow(need(types, 1), _INDEX, "sequence_lens")
    batch, time = integer(attrs, "batch_axis"), integer(attrs, "time_axis")
    if x.rank < 2 or {batch, time} != {0, 1}:
        raise ShapeError(f"batch_axis {batch} and time_axis {time} must be 0 and 1, in either order, of {x}")
    rules.vector(lengths, x.shape[batch], "sequence_lens")
    return [x]


def movement_op(
    name: str,
    operands: int | tuple[int, int | None],
    infer: InferFn,
    attrs: dict[str, AttrSpec],
    *,
    outputs: int = 1,
    cost: CostFn = rules.free,
    tolerance: Tolerance = _EXACT,
) -> OpDef:
    least_most = (operands, operands) if isinstance(operands, int) else operands
    return OpDef(name, Kind.MOVEMENT, least_most, infer, REFERENCES[name], cost, attrs, outputs, tolerance)


_AXES = {"axes": INTS_ATTR}
_BLOCKS = {"blocksize": INT, "channels_last": default(0)}
_COUNT = AttrSpec((int, Dim), required=True)

OPS: tuple[OpDef, ...] = (
    movement_op("Transpose", 1, _transpose, {"perm": INTS_ATTR}),
    movement_op("Reshape", 1, _reshape, {"shape": INTS_ATTR}),
    movement_op("Expand", 1, _expand, {"shape": INTS_ATTR}),
    movement_op("Squeeze", 1, _squeeze, _AXES),
    movement_op("Unsqueeze", 1, _unsqueeze, _AXES),
    movement_op("Tile", 1, _tile, {"repeats": INTS_ATTR}),
    movement_op("Concat", (1, None), _concat, {"axis": INT}),
    movement_op("Split", 1, _split, {"axis": INT, "sizes": INTS_ATTR}),
    movement_op(
        "Slice", 1, _slice, {"starts": INTS_ATTR, "ends": INTS_ATTR, "axes": AttrSpec(tuple), "steps": AttrSpec(tuple)}
    ),
    movement_op("Pad", 1, _pad, {"pads": INTS_ATTR, "mode": default("constant"), "value": AttrSpec(rules.NUMBER, 0)}),
    movement_op("Gather", 2, _gather, {"axis": default(0)}),
    movement_op("Lookup", 2, _lookup, {}),
    movement_op("GatherElements", 2, _gather_elements, {"axis": default(0)}),
    movement_op("GatherND", 2, _gather_nd, {"batch_dims": default(0)}),
    movement_op("ScatterElements", 3, _scatter_elements, {"axis": default(0), "reduction": default("none")}),
    movement_op("ScatterND", 3, _scatter_nd, {"reduction": default("none")}),
    movement_op("DepthToSpace", 1, _depth_to_space, {**_BLOCKS, "mode": default("DCR")}),
    movement_op("SpaceToDepth", 1, _space_to_depth, _BLOCKS),
    movement_op("Trilu", 1, _trilu, {"upper": default(1), "k": default(0)}),
    movement_op("OneHot", 2, _one_hot, {"depth": _COUNT, "axis": default(-1)}),
    movement_op("ReverseSequence", 2, _reverse_sequence, {"batch_axis": default(1), "time_axis": default(0)}),
)
