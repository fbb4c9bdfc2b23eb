"""Reductions, pooling, softmax and normalisations. axes of Reduce* are given; pads of pools are (begin.., end..)."""

from __future__ import annotations

from collections.abc import Sequence

from temper.errors import ShapeError
from temper.ir.dims import Dim, DimLike, ceil_div, product
from temper.ir.opdef import Attrs, AttrSpec, CostFn, InferFn, Kind, OpDef, Tolerance
from temper.ir.ops import rules
from temper.ir.ops.contraction import activation, channels_of, spatial_of, window_attrs, windowed
from temper.ir.ops.rules import BOOL, FLOATS, INT, INTS_ATTR, NUMBERS, Types, allow, axis_of, default, integer, need
from temper.ir.types import TensorType
from temper.reference import histogram
from temper.reference.reduction import REFERENCES

_EXACT = Tolerance(relative=0.0)
_SUM = Tolerance(relative=2.0, reduction=True)


def _reduce(allowed: frozenset[str]) -> InferFn:
    def infer(types: Types, attrs: Attrs) -> list[TensorType]:
        x = allow(need(types, 0), allowed)
        axes = rules.axes_of(rules.ints(attrs, "axes"), x.rank)
        keep = integer(attrs, "keepdims")
        shape = [1 if i in axes else d for i, d in enumerate(x.shape) if keep or i not in axes]
        return [TensorType(x.dtype, tuple(shape))]

    return infer


def _arg(types: Types, attrs: Attrs) -> list[TensorType]:
    x = allow(need(types, 0), NUMBERS)
    axis = axis_of(integer(attrs, "axis"), x.rank)
    if x.shape[axis] == 0:
        raise ShapeError(f"axis {axis} of {x} is empty and has no extreme")
    return [TensorType("int64", (*x.shape[:axis], *((1,) if integer(attrs, "keepdims") else ()), *x.shape[axis + 1 :]))]


def _histogram(types: Types, attrs: Attrs) -> list[TensorType]:
    allow(need(types, 0), frozenset({"float32"}))
    return [TensorType("int64", (histogram.SIZE,))]


def _along_axis(allowed: frozenset[str]) -> InferFn:
    """Same type as the input; `axis` must exist."""

    def infer(types: Types, attrs: Attrs) -> list[TensorType]:
        x = allow(need(types, 0), allowed)
        axis_of(integer(attrs, "axis"), x.rank)
        return [x]

    return infer


# ---- pooling ----


def pooled(size: DimLike, kernel: int, stride: int, begin: int, end: int, dilation: int, ceil_mode: int) -> DimLike:
    """Number of windows along one axis; with ceil_mode a partial one counts if it starts before the end padding."""
    if not ceil_mode:
        return windowed(size, kernel, stride, begin, end, dilation)
    extent = (kernel - 1) * dilation + 1
    windowed(size, kernel, 1, begin, end, dilation)
    # windows that cover everything, or that start before the end padding: which is fewer depends on constants only
    every, starting = size + (begin + end - extent + stride), size + begin
    return ceil_div(starting if end + stride >= extent else every, stride)


def _pool_shape(x: TensorType, attrs: Attrs) -> TensorType:
    spatial, kernel = spatial_of(x, attrs), rules.ints(attrs, "kernel_shape")
    rank = len(spatial)
    if len(kernel) != rank or min(kernel) < 1:
        raise ShapeError(f"kernel_shape {kernel} does not fit the {rank} spatial axes of {x}")
    strides, pads, dilations = window_attrs(attrs, rank)
    if min(pads) < 0:
        raise ShapeError(f"pads {pads} must not be negative")
    out = [
        pooled(d, kernel[i], strides[i], pads[i], pads[rank + i], dilations[i], integer(attrs, "ceil_mode"))
        for i, d in enumerate(spatial)
    ]
    return activation(x.dtype, x.shape[0], out, channels_of(x, attrs), attrs)


def _pool(allowed: frozenset[str]) -> InferFn:
    def infer(types: Types, attrs: Attrs) -> list[TensorType]:
        return [_pool_shape(allow(need(types, 0), allowed), attrs)]

    return infer


def _max_pool_indices(types: Types, attrs: Attrs) -> list[TensorType]:
    y = _pool_shape(allow(need(types, 0), NUMBERS), {**attrs, "channels_last": 0})
    return [y, TensorType("int64", y.shape)]


def _pool_cost(inputs: Types, outputs: Sequence[TensorType], attrs: Attrs) -> DimLike:
    return outputs[0].count * product(rules.ints(attrs, "kernel_shape"))


# ---- normalisation ----


def _channel_axis(x: TensorType, attrs: Attrs) -> DimLike:
    if x.rank < 2:
        raise ShapeError(f"{x} has no channel axis")
    return channels_of(x, attrs)


def _normalize(parameters: int, least_rank: int = 2) -> InferFn:
    """Data and `parameters` vectors of one element a channel."""

    def infer(types: Types, attrs: Attrs) -> list[TensorType]:
        x = allow(need(types, 0), FLOATS)
        if x.rank < least_rank:
            raise ShapeError(f"{x} must have rank {least_rank} or more")
        channels = _channel_axis(x, attrs)
        for i in range(1, parameters + 1):
            rules.vector(allow(need(types, i), FLOATS), channels, f"operand {i}")
        groups = attrs.get("num_groups")
        if isinstance(groups, int) and (groups < 1 or (not isinstance(channels, Dim) and channels % groups)):
            raise ShapeError(f"{channels} channels do not divide into {groups} groups")
        return [x]

    return infer


def _layer_norm(types: Types, attrs: Attrs) -> list[TensorType]:
    x = allow(need(types, 0), FLOATS)
    axis = axis_of(integer(attrs, "axis"), x.rank)
    for i in range(1, len(types)):
        t = rules.optional(types, i)
        if t is not None and rules.broadcast(x.shape[axis:], t.shape) != x.shape[axis:]:
            raise ShapeError(
                f"operand {i} of type {t} does not broadcast to the normalised axes {rules.shape_text(x.shape[axis:])}"
            )
    return [x]


def _lrn(types: Types, attrs: Attrs) -> list[TensorType]:
    x = allow(need(types, 0), FLOATS)
    _channel_axis(x, attrs)
    if integer(attrs, "size") < 1:
        raise ShapeError(f"size must be positive, not {attrs['size']}")
    return [x]


def _dynamic_quantize(types: Types, attrs: Attrs) -> list[TensorType]:
    x = allow(need(types, 0), frozenset({"float32"}))
    return [TensorType("uint8", x.shape), TensorType("float32", ()), TensorType("uint8", ())]


def _op(
    name: str,
    operands: int | tuple[int, int],
    infer: InferFn,
    attrs: dict[str, AttrSpec],
    cost: CostFn,
    *,
    tolerance: Tolerance = _SUM,
    outputs: int = 1,
) -> OpDef:
    least_most = (operands, operands) if isinstance(operands, int) else operands
    return OpDef(name, Kind.REDUCTION, least_most, infer, REFERENCES[name], cost, attrs, outputs, tolerance)


_REDUCE = {"axes": INTS_ATTR, "keepdims": default(1)}
_ARG = {"axis": default(0), "keepdims": default(1), "select_last_index": default(0)}
_RUN = {"axis": INT, "exclusive": default(0), "reverse": default(0)}
_WINDOW = {
    "kernel_shape": INTS_ATTR,
    "strides": INTS_ATTR,
    "pads": INTS_ATTR,
    "dilations": INTS_ATTR,
    "ceil_mode": default(0),
}
_LAST = {"channels_last": default(0)}
_EPSILON = {"epsilon": default(1e-5)}

OPS: tuple[OpDef, ...] = (
    *(_op(name, 1, _reduce(NUMBERS), _REDUCE, rules.per_input()) for name in ("ReduceSum", "ReduceMean", "ReduceProd")),
    *(
        _op(name, 1, _reduce(NUMBERS | BOOL), _REDUCE, rules.per_input(), tolerance=_EXACT)
        for name in ("ReduceMax", "ReduceMin")
    ),
    *(
        _op(name, 1, _reduce(NUMBERS), _REDUCE, rules.per_input(2))
        for name in ("ReduceL1", "ReduceL2", "ReduceSumSquare")
    ),
    *(_op(name, 1, _reduce(NUMBERS), _REDUCE, rules.per_input(10)) for name in ("ReduceLogSum", "ReduceLogSumExp")),
    _op("ArgMax", 1, _arg, _ARG, rules.per_input(), tolerance=_EXACT),
    _op("ArgMin", 1, _arg, _ARG, rules.per_input(), tolerance=_EXACT),
    _op("CumSum", 1, _along_axis(NUMBERS), _RUN, rules.per_input()),
    _op("CumProd", 1, _along_axis(NUMBERS), _RUN, rules.per_input()),
    _op("Softmax", 1, _along_axis(FLOATS), {"axis": default(-1)}, rules.per_input(13), tolerance=Tolerance(8.0, True)),
    _op(
        "LogSoftmax", 1, _along_axis(FLOATS), {"axis": default(-1)}, rules.per_input(13), tolerance=Tolerance(8.0, True)
    ),
    _op("Hardmax", 1, _along_axis(FLOATS), {"axis": default(-1)}, rules.per_input(), tolerance=_EXACT),
    _op("MaxPool", 1, _pool(NUMBERS), {**_WINDOW, **_LAST}, _pool_cost, tolerance=_EXACT),
    _op(
        "MaxPoolIndices",
        1,
        _max_pool_indices,
        {**_WINDOW, "storage_order": default(0)},
        _pool_cost,
        tolerance=_EXACT,
        outputs=2,
    ),
    _op("AveragePool", 1, _pool(FLOATS), {**_WINDOW, "count_include_pad": default(0), **_LAST}, _pool_cost),
    _op("LpPool", 1, _pool(FLOATS), {**_WINDOW, "p": default(2), **_LAST}, _pool_cost, tolerance=Tolerance(8.0, True)),
    _op("BatchNormalization", 5, _normalize(4), {**_EPSILON, **_LAST}, rules.per_input(4), tolerance=Tolerance(8.0)),
    _op(
        "InstanceNormalization",
        3,
        _normalize(2, 3),
        {**_EPSILON, **_LAST},
        rules.per_input(8),
        tolerance=Tolerance(8.0, True),
    ),
    _op(
        "GroupNormalization",
        3,
        _normalize(2),
        {**_EPSILON, "num_groups": INT, **_LAST},
        rules.per_input(8),
        tolerance=Tolerance(8.0, True),
    ),
    _op(
        "LayerNormalization",
        (2, 3),
        _layer_norm,
        {"axis": default(-1), **_EPSILON},
        rules.per_input(8),
        tolerance=Tolerance(8.0, True),
    ),
    _op(
        "RMSNormalization",
        2,
        _layer_norm,
        {"axis": default(-1), **_EPSILON},
        rules.per_input(4),
        tolerance=Tolerance(8.0, True),
    ),
    _op(
        "LRN",
        1,
        _lrn,
        {"size": INT, "alpha": default(1e-4), "beta": default(0.75), "bias": default(1.0), **_LAST},
        rules.per_input(14),
        tolerance=Tolerance(8.0, True),
    ),
    _op("DynamicQuantizeLinear", 1, _dynamic_quantize, {}, rules.per_input(6), tolerance=_EXACT, outputs=3),
    OpDef(
        "Histogram",
        Kind.REDUCTION,
        (1, 1),
        _histogram,
        histogram.REFERENCES["Histogram"],
        rules.per_input(4),
        tolerance=_EXACT,
    ),
)
