"""Contractions: convolution, transposed convolution, matrix products. The usual anchors of regions.

pads are (begin.., end..) over the spatial axes; strides, pads and dilations are always present: a layer has one form.
"""

from __future__ import annotations

from collections.abc import Sequence

from temper.errors import ShapeError
from temper.ir.dims import Dim, DimLike, product
from temper.ir.opdef import Attrs, AttrSpec, Kind, OpDef, Tolerance
from temper.ir.ops import rules
from temper.ir.ops.rules import FLOATS, INTS, INTS_ATTR, Types, allow, default, need
from temper.ir.types import TensorType
from temper.reference.contraction import REFERENCES

_SUM = Tolerance(relative=1.0, reduction=True)
_WIDE_INTS = INTS - {"int8", "uint8", "int16", "uint16"}
_BYTES = frozenset({"int8", "uint8"})


def spatial_of(t: TensorType, attrs: Attrs) -> tuple[DimLike, ...]:
    """The spatial dimensions of an activation."""
    if t.rank < 3:
        raise ShapeError(f"{t} needs a batch axis, a channel axis and at least one spatial axis")
    return t.shape[1:-1] if rules.integer(attrs, "channels_last") else t.shape[2:]


def channels_of(t: TensorType, attrs: Attrs) -> DimLike:
    return t.shape[-1 if rules.integer(attrs, "channels_last") else 1]


def activation(dtype: str, batch: DimLike, spatial: Sequence[DimLike], channels: DimLike, attrs: Attrs) -> TensorType:
    """[N, spatial.., C] or [N, C, spatial..], as `channels_last` says."""
    shape = (batch, *spatial, channels) if rules.integer(attrs, "channels_last") else (batch, channels, *spatial)
    return TensorType(dtype, shape)


def window_attrs(attrs: Attrs, rank: int) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]:
    """(strides, pads, dilations), checked for length and sign."""
    strides, pads, dilations = rules.ints(attrs, "strides"), rules.ints(attrs, "pads"), rules.ints(attrs, "dilations")
    if len(strides) != rank or len(dilations) != rank or len(pads) != 2 * rank:
        raise ShapeError(
            f"{rank} spatial axes need {rank} strides and dilations and {2 * rank} pads, "
            f"not {strides}, {dilations}, {pads}"
        )
    if min(strides) < 1 or min(dilations) < 1:
        raise ShapeError(f"strides {strides} and dilations {dilations} must be positive")
    return strides, pads, dilations


def windowed(size: DimLike, kernel: int, stride: int, begin: int, end: int, dilation: int) -> DimLike:
    """Number of windows along one axis; ShapeError if it is known that none fits."""
    extent = (kernel - 1) * dilation + 1
    room = size + (begin + end - extent)
    if not isinstance(room, Dim) and room < 0:
        raise ShapeError(f"a window of {extent} does not fit into {size} elements padded by {begin} and {end}")
    return room // stride + 1


def _kernel(w: TensorType, attrs: Attrs) -> tuple[int, ...]:
    shape = w.shape[:-2] if rules.integer(attrs, "channels_last") else w.shape[2:]
    out = []
    for k in shape:
        if isinstance(k, Dim) or k < 1:
            raise ShapeError(f"kernel sizes must be known and positive, not {rules.shape_text(shape)}")
        out.append(k)
    return tuple(out)


def _operands(types: Types, attrs: Attrs) -> tuple[TensorType, TensorType, tuple[int, ...], int]:
    x, w = need(types, 0), need(types, 1)
    spatial_of(x, attrs)
    if w.rank != x.rank:
        raise ShapeError(f"weights {w} must have the rank of the data {x}")
    kernel = _kernel(w, attrs)
    group = rules.integer(attrs, "group")
    if group < 1:
        raise ShapeError(f"group must be positive, not {group}")
    return x, w, kernel, group


def _conv_shape(types: Types, attrs: Attrs, dtype: str) -> list[TensorType]:
    x, w, kernel, group = _operands(types, attrs)
    last = rules.integer(attrs, "channels_last")
    features, depth = (w.shape[-1], w.shape[-2]) if last else (w.shape[0], w.shape[1])
    rules.equal_or_raise(channels_of(x, attrs), depth * group, f"channels of {x} against weights {w} in {group} groups")
    if features % group != 0:
        raise ShapeError(f"{features} output channels do not divide into {group} groups")
    strides, pads, dilations = window_attrs(attrs, len(kernel))
    out = [
        windowed(d, kernel[i], strides[i], pads[i], pads[len(kernel) + i], dilations[i])
        for i, d in enumerate(spatial_of(x, attrs))
    ]
    return [activation(dtype, x.shape[0], out, features, attrs)]


def _conv(types: Types, attrs: Attrs) -> list[TensorType]:
    x = allow(need(types, 0), FLOATS, "data")
    rules.same_dtype([x, need(types, 1)])
    out = _conv_shape(types, attrs, x.dtype)
    rules.vector(rules.optional(types, 2), channels_of(out[0], attrs), "bias")
    return out


def _conv_integer(types: Types, attrs: Attrs) -> list[TensorType]:
    allow(need(types, 0), _BYTES, "data")
    allow(need(types, 1), _BYTES, "weights")
    return _conv_shape(types, attrs, "int32")


def _int8_operands(types: Types, out: Sequence[TensorType], features: DimLike) -> list[TensorType]:
    allow(need(types, 0), _BYTES, "data")
    allow(need(types, 1), frozenset({"int8", "int16"}), "weights")
    bias, zero = rules.optional(types, 2), rules.optional(types, 3)
    if bias is not None:
        rules.vector(allow(bias, frozenset({"int32"}), "bias"), features, "bias")
    if zero is not None and (zero.dtype != need(types, 0).dtype or zero.shape != ()):
        raise ShapeError(f"the zero point must be a scalar of the data's type, not {zero}")
    return list(out)


def _conv_int8(types: Types, attrs: Attrs) -> list[TensorType]:
    """Exact products of codes: data less its zero point, weights without one, an int32 bias.

    Weights are int8, or int16 in [-255, 255], which differences of codes fit. The zero point is an attribute, or
    operand 3 where it is known at run time only (the attribute is not read then).
    """
    out = _conv_shape(types, attrs, "int32")
    return _int8_operands(types, out, channels_of(out[0], attrs))


def _matmul_int8(types: Types, attrs: Attrs) -> list[TensorType]:
    out = _integer_product(need(types, 0), need(types, 1))
    return _int8_operands(types, out, out[0].shape[-1])


def _bfloat16_operands(types: Types, out: Sequence[TensorType]) -> list[TensorType]:
    for i, what in enumerate(("data", "weights")):
        allow(need(types, i), frozenset({"bfloat16"}), what)
    return list(out)


def _conv_bfloat16(types: Types, attrs: Attrs) -> list[TensorType]:
    """Products of bfloat16, which float32 holds exactly, summed in float32; a float32 bias."""
    out = _conv_shape(types, attrs, "float32")
    bias = rules.optional(types, 2)
    if bias is not None:
        rules.vector(allow(bias, frozenset({"float32"}), "bias"), channels_of(out[0], attrs), "bias")
    return _bfloat16_operands(types, out)


def _matmul_bfloat16(types: Types, attrs: Attrs) -> list[TensorType]:
    out = matmul_shape(need(types, 0).shape, need(types, 1).shape)
    return _bfloat16_operands(types, [TensorType("float32", out)])


def _conv_transpose(types: Types, attrs: Attrs) -> list[TensorType]:
    x, w, kernel, group = _operands(types, attrs)
    rules.same_dtype([allow(x, FLOATS, "data"), w])
    last = rules.integer(attrs, "channels_last")
    depth, per_group = (w.shape[-2], w.shape[-1]) if last else (w.shape[0], w.shape[1])
    rules.equal_or_raise(channels_of(x, attrs), depth, f"channels of {x} against weights {w}")
    if depth % group != 0:
        raise ShapeError(f"{depth} channels do not divide into {group} groups")
    rank = len(kernel)
    strides, pads, dilations = window_attrs(attrs, rank)
    extra = rules.ints(attrs, "output_padding")
    if len(extra) != rank:
        raise ShapeError(f"output_padding {extra} must have {rank} entries")
    out = []
    for i, d in enumerate(spatial_of(x, attrs)):
        size = (d - 1) * strides[i] + (extra[i] + (kernel[i] - 1) * dilations[i] + 1 - pads[i] - pads[rank + i])
        if not isinstance(size, Dim) and size < 0:
            raise ShapeError(f"pads {pads} crop more than the output has")
        out.append(size)
    features = per_group * group
    rules.vector(rules.optional(types, 2), features, "bias")
    return [activation(x.dtype, x.shape[0], out, features, attrs)]


def _conv_cost(inputs: Types, outputs: Sequence[TensorType], attrs: Attrs) -> DimLike:
    w = need(inputs, 1)
    depth = w.shape[-2 if rules.integer(attrs, "channels_last") else 1]
    per_output = product(_kernel(w, attrs)) * depth * 2 + (1 if rules.optional(inputs, 2) else 0)
    return outputs[0].count * per_output


def _conv_transpose_cost(inputs: Types, outputs: Sequence[TensorType], attrs: Attrs) -> DimLike:
    w = need(inputs, 1)
    per_group = w.shape[-1 if rules.integer(attrs, "channels_last") else 1]
    return need(inputs, 0).count * (product(_kernel(w, attrs)) * per_group * 2)


def matmul_shape(a: tuple[DimLike, ...], b: tuple[DimLike, ...]) -> tuple[DimLike, ...]:
    """numpy.matmul's shape rule."""
    if not a or not b:
        raise ShapeError("matrix products need operands of rank 1 or more")
    left, right = a if len(a) > 1 else (1, *a), b if len(b) > 1 else (*b, 1)
    rules.equal_or_raise(left[-1], right[-2], f"inner dimensions of {rules.shape_text(a)} @ {rules.shape_text(b)}")
    batch = rules.broadcast(left[:-2], right[:-2])
    return (*batch, *((left[-2],) if len(a) > 1 else ()), *((right[-1],) if len(b) > 1 else ()))


def _swapped(t: TensorType, swap: int) -> tuple[DimLike, ...]:
    return (*t.shape[:-2], t.shape[-1], t.shape[-2]) if swap and t.rank > 1 else t.shape


def _matmul(types: Types, attrs: Attrs) -> list[TensorType]:
    a, b = allow(need(types, 0), FLOATS | _WIDE_INTS), need(types, 1)
    shape = matmul_shape(_swapped(a, rules.integer(attrs, "transA")), _swapped(b, rules.integer(attrs, "transB")))
    return [TensorType(rules.same_dtype([a, b]), shape)]


def _matmul_integer(types: Types, attrs: Attrs) -> list[TensorType]:
    a, b = allow(need(types, 0), _BYTES), allow(need(types, 1), _BYTES)
    return _integer_product(a, b)


def _integer_product(a: TensorType, b: TensorType) -> list[TensorType]:
    return [TensorType("int32", matmul_shape(a.shape, b.shape))]


def _matmul_cost(inputs: Types, outputs: Sequence[TensorType], attrs: Attrs) -> DimLike:
    a = need(inputs, 0)
    depth = a.shape[-2 if attrs.get("transA") and a.rank > 1 else -1]
    return outputs[0].count * depth * 2


def einsum_terms(types: Types, attrs: Attrs) -> tuple[dict[str, DimLike], list[list[str]], list[str]]:
    """Size of every label, the labels of every operand, and the output's; the axes of `...` are 0, 1 .. from the right.

    ShapeError where operands and equation contradict each other.
    """
    equation = rules.text(attrs, "equation").replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(types):
        raise ShapeError(f"'{equation}' has {len(terms)} terms for {len(types)} operands")
    size: dict[str, DimLike] = {}
    count: dict[str, int] = {}
    widest, named = 0, []
    for i, term in enumerate(terms):
        t = need(types, i)
        labels = _labels(term, t.rank - len(term.replace("...", "")) if "..." in term else 0)
        widest = max(widest, sum(not x.isalpha() for x in labels))
        named.append(labels)
        if len(labels) != t.rank:
            raise ShapeError(f"term '{term}' of '{equation}' does not fit {t}")
        for label, d in zip(labels, t.shape, strict=True):
            count[label] = count.get(label, 0) + 1
            known = size.get(label, 1)
            if known == 1:
                size[label] = d
            elif d != 1 and d != known:
                raise ShapeError(f"'{equation}': label '{label}' is {known} and {d}")
    if arrow:
        out = _labels(right, widest)
    else:
        out = _labels("...", widest) + sorted(x for x, c in count.items() if c == 1 and x.isalpha())
    unknown = [x for x in out if x not in size]
    if unknown:
        raise ShapeError(f"'{equation}': label '{unknown[0]}' is in no operand")
    return size, named, out


def _labels(term: str, ellipsis: int) -> list[str]:
    if ellipsis < 0:
        raise ShapeError(f"term '{term}' has more labels than its operand has axes")
    head, dots, tail = term.partition("...")
    return [*head, *(str(i) for i in range(ellipsis - 1, -1, -1) if dots), *tail]


def _einsum(types: Types, attrs: Attrs) -> list[TensorType]:
    size, _, out = einsum_terms(types, attrs)
    return [TensorType(rules.same_dtype(types), tuple(size[x] for x in out))]


def _einsum_cost(inputs: Types, outputs: Sequence[TensorType], attrs: Attrs) -> DimLike:
    size, _, _ = einsum_terms(inputs, attrs)
    return product(tuple(size.values())) * 2


_CONV = {
    "strides": INTS_ATTR,
    "pads": INTS_ATTR,
    "dilations": INTS_ATTR,
    "group": default(1),
    "channels_last": default(0),
}

OPS: tuple[OpDef, ...] = (
    OpDef("Conv", Kind.CONTRACTION, (2, 3), _conv, REFERENCES["Conv"], _conv_cost, _CONV, tolerance=_SUM),
    OpDef(
        "ConvTranspose",
        Kind.CONTRACTION,
        (2, 3),
        _conv_transpose,
        REFERENCES["ConvTranspose"],
        _conv_transpose_cost,
        {**_CONV, "output_padding": INTS_ATTR},
        tolerance=_SUM,
    ),
    OpDef(
        "MatMul",
        Kind.CONTRACTION,
        (2, 2),
        _matmul,
        REFERENCES["MatMul"],
        _matmul_cost,
        {"transA": default(0), "transB": default(0)},
        tolerance=_SUM,
    ),
    OpDef(
        "Einsum",
        Kind.CONTRACTION,
        (1, None),
        _einsum,
        REFERENCES["Einsum"],
        _einsum_cost,
        {"equation": AttrSpec(str, required=True)},
        tolerance=_SUM,
    ),
    OpDef(
        "MatMulInteger",
        Kind.CONTRACTION,
        (2, 4),
        _matmul_integer,
        REFERENCES["MatMulInteger"],
        _matmul_cost,
        tolerance=Tolerance(relative=0.0),
    ),
    OpDef(
        "ConvInteger",
        Kind.CONTRACTION,
        (2, 4),
        _conv_integer,
        REFERENCES["ConvInteger"],
        _conv_cost,
        _CONV,
        tolerance=Tolerance(relative=0.0),
    ),
    OpDef(
        "ConvBfloat16",
        Kind.CONTRACTION,
        (2, 3),
        _conv_bfloat16,
        REFERENCES["ConvBfloat16"],
        _conv_cost,
        _CONV,
        tolerance=_SUM,
    ),
    OpDef(
        "MatMulBfloat16",
        Kind.CONTRACTION,
        (2, 2),
        _matmul_bfloat16,
        REFERENCES["MatMulBfloat16"],
        _matmul_cost,
        tolerance=_SUM,
    ),
    # bits: every sum of products, without the bias, is below 2^bits in magnitude
    OpDef(
        "ConvInt8",
        Kind.CONTRACTION,
        (2, 4),
        _conv_int8,
        REFERENCES["ConvInt8"],
        _conv_cost,
        {**_CONV, "zero_point": default(0), "bits": default(31)},
        tolerance=Tolerance(relative=0.0),
    ),
    OpDef(
        "MatMulInt8",
        Kind.CONTRACTION,
        (2, 4),
        _matmul_int8,
        REFERENCES["MatMulInt8"],
        _matmul_cost,
        {"zero_point": default(0)},
        tolerance=Tolerance(relative=0.0),
    ),
)
