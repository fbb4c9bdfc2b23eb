"""Ops that read shapes, make values, sort or select.

Where the number of results depends on the data (NonZero, Compress, Unique, NonMaxSuppression) the attribute `count`
holds the output dimension: a `Dim` of a name nothing else uses, or an int where the caller knows it.
"""

from __future__ import annotations

import math
from typing import Any, cast

from temper.errors import ShapeError
from temper.ir.dims import Dim, DimLike, ceil_div
from temper.ir.opdef import Attrs, AttrSpec, CostFn, InferFn, Kind, OpDef, Tolerance
from temper.ir.ops import rules
from temper.ir.ops.rules import ANY, BOOL, FLOATS, NUMBERS, Types, allow, axis_of, default, integer, need
from temper.ir.types import DTYPES, TensorType
from temper.reference.control import REFERENCES
from temper.reference.formats import UNNAMED

_COUNT = AttrSpec((int, Dim), required=True)
_VALUE = AttrSpec((int, float, Dim), required=True)


def _dim(attrs: Attrs, name: str) -> DimLike:
    return cast(Any, attrs[name])


def _dtype(attrs: Attrs) -> str:
    to = rules.text(attrs, "to")
    if to not in DTYPES or to in UNNAMED or to == "string":
        raise ShapeError(f"to={to!r} is not a dtype this op can make")
    return to


def _shape(types: Types, attrs: Attrs) -> list[TensorType]:
    start, end, rank = integer(attrs, "start"), attrs.get("end"), need(types, 0).rank
    return [TensorType("int64", (len(range(*slice(start, cast("int | None", end)).indices(rank))),))]


def _size(types: Types, attrs: Attrs) -> list[TensorType]:
    need(types, 0)
    return [TensorType("int64", ())]


def _range(types: Types, attrs: Attrs) -> list[TensorType]:
    start, limit, delta = (cast(Any, attrs[k]) for k in ("start", "limit", "delta"))
    if isinstance(delta, Dim) or delta == 0:
        raise ShapeError(f"delta must be a number other than 0, not {delta}")
    if isinstance(start, Dim) or isinstance(limit, Dim):
        if not all(isinstance(v, (int, Dim)) for v in (start, limit, delta)):
            raise ShapeError(f"a range over symbolic bounds needs whole numbers, not {start}, {limit}, {delta}")
        count: DimLike = ceil_div(limit - start, delta) if delta > 0 else ceil_div(start - limit, -delta)
    else:
        if not all(map(math.isfinite, (start, limit, delta))):
            raise ShapeError(f"there is no range from {start} to {limit} by {delta}")
        count = max(0, math.ceil((limit - start) / delta))
    return [TensorType(_dtype(attrs), (count,))]


def _constant_of_shape(types: Types, attrs: Attrs) -> list[TensorType]:
    shape = rules.dims(attrs, "shape")
    if any(isinstance(d, int) and d < 0 for d in shape):
        raise ShapeError(f"{rules.shape_text(shape)} is not a shape")
    return [TensorType(_dtype(attrs), shape)]


def _non_zero(types: Types, attrs: Attrs) -> list[TensorType]:
    return [TensorType("int64", (allow(need(types, 0), NUMBERS | BOOL).rank, _dim(attrs, "count")))]


def _compress(types: Types, attrs: Attrs) -> list[TensorType]:
    x, condition = need(types, 0), allow(need(types, 1), BOOL, "condition")
    if condition.rank != 1:
        raise ShapeError(f"condition {condition} must be a vector")
    if "axis" not in attrs:
        return [TensorType(x.dtype, (_dim(attrs, "count"),))]
    axis = axis_of(integer(attrs, "axis"), x.rank)
    return [TensorType(x.dtype, (*x.shape[:axis], _dim(attrs, "count"), *x.shape[axis + 1 :]))]


def _top_k(types: Types, attrs: Attrs) -> list[TensorType]:
    x, k = allow(need(types, 0), NUMBERS), _dim(attrs, "k")
    axis = axis_of(integer(attrs, "axis"), x.rank)
    size = x.shape[axis]
    if isinstance(k, int) and (k < 0 or (isinstance(size, int) and k > size)):
        raise ShapeError(f"k={k} is out of range for axis {axis} of {x}")
    shape = (*x.shape[:axis], k, *x.shape[axis + 1 :])
    return [TensorType(x.dtype, shape), TensorType("int64", shape)]


def _non_max_suppression(types: Types, attrs: Attrs) -> list[TensorType]:
    boxes, scores = allow(need(types, 0), FLOATS, "boxes"), allow(need(types, 1), FLOATS, "scores")
    if boxes.rank != 3 or scores.rank != 3 or boxes.shape[2] != 4:
        raise ShapeError(f"needs boxes [N, B, 4] and scores [N, C, B], not {boxes} and {scores}")
    rules.equal_or_raise(boxes.shape[0], scores.shape[0], "batch of boxes and scores")
    rules.equal_or_raise(boxes.shape[1], scores.shape[2], "number of boxes and scores")
    for t in types[2:]:
        if t is not None and t.count != 1:
            raise ShapeError(f"thresholds must be scalars, not {t}")
    return [TensorType("int64", (_dim(attrs, "count"), 3))]


def _boxes_kept(types: Types, attrs: Attrs) -> list[TensorType]:
    """As NonMaxSuppression with static shapes: as many rows as there can be, and how many there are."""
    _non_max_suppression(types, {**attrs, "count": 0})
    scores = need(types, 1)
    if not scores.static:
        raise ShapeError(f"scores {scores} must have known sizes")
    images, classes, boxes = (int(str(d)) for d in scores.shape)
    keep = max(0, min(boxes, integer(attrs, "max_output_boxes_per_class")))
    return [TensorType("int64", (images * classes * keep, 3)), TensorType("int64", (1,))]


def _positions(types: Types, attrs: Attrs) -> list[TensorType]:
    """A row of indices for every element there is, and how many of them are of elements that are not zero."""
    x = allow(need(types, 0), NUMBERS | BOOL)
    if x.rank < 1:
        raise ShapeError(f"{x} has no axes")
    return [TensorType("int64", (x.count, x.rank)), TensorType("int64", (1,))]


def _unique(types: Types, attrs: Attrs) -> list[TensorType]:
    x, count = allow(need(types, 0), ANY), _dim(attrs, "count")
    axis = axis_of(integer(attrs, "axis"), x.rank) if "axis" in attrs else None
    values = (count,) if axis is None else (*x.shape[:axis], count, *x.shape[axis + 1 :])
    inverse = x.count if axis is None else x.shape[axis]
    return [TensorType(x.dtype, values), *(TensorType("int64", (n,)) for n in (count, inverse, count))]


def _op(
    name: str,
    operands: int | tuple[int, int],
    infer: InferFn,
    attrs: dict[str, AttrSpec],
    cost: CostFn = rules.free,
    outputs: int = 1,
) -> OpDef:
    least_most = (operands, operands) if isinstance(operands, int) else operands
    return OpDef(name, Kind.OPAQUE, least_most, infer, REFERENCES[name], cost, attrs, outputs, Tolerance(relative=0.0))


OPS: tuple[OpDef, ...] = (
    _op("Shape", 1, _shape, {"start": default(0), "end": AttrSpec(int)}),
    _op("Size", 1, _size, {}),
    _op("Range", 0, _range, {"start": _VALUE, "limit": _VALUE, "delta": _VALUE, "to": default("int64")}),
    _op(
        "ConstantOfShape",
        0,
        _constant_of_shape,
        {"shape": rules.INTS_ATTR, "value": AttrSpec(rules.NUMBER, 0), "to": default("float32")},
    ),
    _op("NonZero", 1, _non_zero, {"count": _COUNT}, rules.per_input()),
    _op("Compress", 2, _compress, {"axis": AttrSpec(int), "count": _COUNT}),
    _op(
        "TopK",
        1,
        _top_k,
        {"k": _COUNT, "axis": default(-1), "largest": default(1), "sorted": default(1)},
        rules.per_input(8),
        2,
    ),
    _op(
        "NonMaxSuppression",
        (2, 5),
        _non_max_suppression,
        {
            "max_output_boxes_per_class": default(0),
            "iou_threshold": default(0.0),
            "score_threshold": AttrSpec(rules.NUMBER),
            "center_point_box": default(0),
            "count": _COUNT,
        },
        rules.per_input(16),
    ),
    _op(
        "BoxesKept",
        2,
        _boxes_kept,
        {
            "max_output_boxes_per_class": default(0),
            "iou_threshold": default(0.0),
            "score_threshold": AttrSpec(rules.NUMBER),
            "center_point_box": default(0),
        },
        rules.per_input(16),
        2,
    ),
    _op("Positions", 1, _positions, {}, rules.per_input(), 2),
    _op("Unique", 1, _unique, {"axis": AttrSpec(int), "sorted": default(1), "count": _COUNT}, rules.per_input(8), 4),
)
