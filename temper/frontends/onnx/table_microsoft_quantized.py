"""Quantized operators of ONNX Runtime's domain: float operators between DequantizeLinear and QuantizeLinear.

Operands and attributes are those of ONNX Runtime's ContribOperators.md. Where scale and zero point of the data are
known at run time only (DynamicQuantizeMatMul, and MatMulIntegerToFloat after DynamicQuantizeLinear), the product is one
of codes, and its sums are scaled: (a - za) @ (b - zb) (sa sb) + bias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from temper.errors import ModelError
from temper.frontends.onnx.context import Context, Emit, Row
from temper.frontends.onnx.table_microsoft import DOMAIN, attention, embed_layer
from temper.frontends.onnx.table_movement import axes_from_front
from temper.frontends.onnx.table_quantization import (
    dequantize,
    dequantize_node,
    dequantized,
    qlinear_conv,
    quantize,
    requantized,
)
from temper.frontends.onnx.table_reduction import global_pool, pool, softmax, softmax_flat
from temper.ir.graph import Value


def _as(c: Context, op: str, inputs: Sequence[Value | None], attrs: Mapping[str, Any], emit: Emit) -> Value:
    """What ONNX's own row makes of other operands."""
    own = replace(c, op=op, inputs=list(inputs), attrs=attrs)
    result = emit(own)
    c.inner = own.inner
    if isinstance(result, Value):
        return result
    assert result[0] is not None
    return result[0]


def _pointwise(op: str, *attrs: str) -> Emit:
    """Q(op(DQ(x)))."""

    def emit(c: Context) -> Value:
        y = c.emit(op, dequantized(c, 0), **c.take(*attrs))
        return requantized(c, y, 3)

    return emit


def _binary(op: str) -> Emit:
    """Q(op(DQ(a), DQ(b)))."""

    def emit(c: Context) -> Value:
        return requantized(c, c.emit(op, dequantized(c, 0), dequantized(c, 3)), 6)

    return emit


def _where(c: Context) -> Value:
    return requantized(c, c.emit("Where", c.input(0), dequantized(c, 1), dequantized(c, 4)), 7)


def _turned(c: Context, x: Value, inverse: bool) -> Value:
    """Channels moved to where ONNX has them, or back."""
    axes = tuple(range(x.type.rank))
    return c.emit("Transpose", x, perm=(0, *axes[2:], 1) if inverse else (0, axes[-1], *axes[1:-1]))


def _pooled(op: str, emit: Emit) -> Emit:
    """Q(pool(DQ(x))); channels_last: the data has its channels last."""

    def row(c: Context) -> Value:
        last = bool(c.attr("channels_last", 0))
        x = dequantized(c, 0)
        attrs = {k: v for k, v in c.attrs.items() if k != "channels_last"}
        y = _as(c, op, [_turned(c, x, False) if last else x], attrs, emit)
        return requantized(c, _turned(c, y, True) if last else y, 3)

    return row


def _mean(c: Context) -> Value:
    x = dequantized(c, 0)
    rank = x.type.rank
    axes = axes_from_front(c, c.attr("axes") or range(rank), rank)
    return requantized(c, c.emit("ReduceMean", x, axes=tuple(sorted(axes)), keepdims=c.attr("keepdims", 1)), 3)


def _softmax(c: Context) -> Value:
    """opset: of the Softmax this was; before 13 everything from `axis` on is one axis."""
    whole = c.attr("opset", 13) < 13
    attrs = {"axis": c.attr("axis", 1 if whole else -1)}
    return requantized(c, _as(c, "Softmax", [dequantized(c, 0)], attrs, softmax_flat if whole else softmax), 3)


def _concat(c: Context) -> Value:
    """Operands: scale and zero point of the result, then tensor, scale and zero point of each part."""
    if len(c.inputs) < 5 or (len(c.inputs) - 2) % 3:
        raise ModelError(f"{c}: it needs a scale and a zero point, then three inputs a part; it has {len(c.inputs)}")
    parts = [dequantized(c, i) for i in range(2, len(c.inputs), 3)]
    return requantized(c, c.emit("Concat", *parts, axis=c.axis(parts[0].type.rank)), 0)


def _gemm(c: Context) -> Value:
    """Q(alpha DQ(a) DQ(b) + c), c in units of alpha sa sb; float32 where there is no scale of the result."""
    alpha, a_scale, b_scale = c.attr("alpha", 1.0), c.input(1), c.input(4)
    turned = bool(c.attr("transB", 0))
    a, b = dequantized(c, 0), dequantized(c, 3, axis=0 if turned else 1)
    attrs = {"transA": 1} if c.attr("transA", 0) else {}
    y = c.emit("MatMul", a, b, **attrs, **({"transB": 1} if turned else {}))
    if alpha != 1.0:
        y = c.emit("Mul", y, c.like(alpha, y))
    bias = c.optional(6)
    if bias is not None:
        scale = c.emit("Mul", c.reshape(a_scale, ()), b_scale)
        if alpha != 1.0:
            scale = c.emit("Mul", scale, c.like(alpha, scale))
        y = c.emit("Add", y, c.emit("DequantizeLinear", bias, scale, axis=max(bias.type.rank - 1, 0)))
    return requantized(c, y, 7) if c.has(7) else y


def _scaled_product(
    c: Context, a: Value, b: Value, scales: tuple[Value, Value], zeros: Sequence[Value | None]
) -> Value:
    """(a - za) @ (b - zb) as int32, times sa sb."""
    sums = c.emit("MatMulInteger", a, b, *zeros)
    factor = c.emit("Mul", c.reshape(scales[0], ()) if scales[0].type.count == 1 else scales[0], scales[1])
    return c.emit("Mul", c.emit("Cast", sums, to="float32"), factor)


def _biased(c: Context, y: Value, i: int) -> Value:
    return c.emit("Add", y, c.input(i)) if c.has(i) else y


def _integer_to_float(c: Context) -> Value:
    """Operands a, b, sa, sb, za, zb, bias."""
    a, b, sa, sb = (c.input(i) for i in range(4))
    if sa.const is None or sb.const is None:
        return _biased(c, _scaled_product(c, a, b, (sa, sb), [c.optional(4), c.optional(5)]), 6)
    left = dequantize(c, a, sa, c.optional(4), axis=max(a.type.rank - 2, 0))
    right = dequantize(c, b, sb, c.optional(5), axis=b.type.rank - 1)
    return _biased(c, c.emit("MatMul", left, right), 6)


def _dynamic_matmul(c: Context) -> Value:
    """Operands a (float), b, sb, zb, bias."""
    codes, scale, zero = c.emit_many("DynamicQuantizeLinear", [c.input(0)], {})
    return _biased(c, _scaled_product(c, codes, c.input(1), (scale, c.input(2)), [zero, c.optional(3)]), 4)


def _attention(c: Context) -> list[Value | None]:
    """Operands x, weights, bias, their scales, mask, their zero points, past."""
    x = dequantize(c, c.input(0), c.input(3), c.optional(6))
    w = dequantize(c, c.input(1), c.input(4), c.optional(7), axis=1)
    own = replace(c, op="Attention", inputs=[x, w, c.optional(2), c.optional(5), c.optional(8)])
    result = attention(own)
    c.inner = own.inner
    return result


def _conv(c: Context) -> Value:
    """QLinearConv whose data may have their channels last; the weights never have."""
    if not c.attr("channels_last", 0):
        return qlinear_conv(c)
    attrs = {k: v for k, v in c.attrs.items() if k != "channels_last"}
    x = _turned(c, c.input(0), False)
    return _turned(c, _as(c, "QLinearConv", [x, *c.inputs[1:]], attrs, qlinear_conv), True)


def _embed(c: Context) -> list[Value | None]:
    """Operands: token and segment numbers, the five tables' codes, mask, then the tables' scales and zero points."""
    tables: list[Value | None] = [
        dequantize(c, c.input(2 + k), c.input(8 + k), c.optional(13 + k)) if c.has(2 + k) else None for k in range(5)
    ]
    own = replace(c, inputs=[c.input(0), c.optional(1), *tables, c.optional(7)])
    result = embed_layer(own)
    c.inner = own.inner
    return result[:2]


ROWS: tuple[Row, ...] = tuple(
    Row(op, emit, domain=DOMAIN)
    for op, emit in (
        ("QuantizeLinear", quantize),
        ("DequantizeLinear", dequantize_node),
        ("QLinearAdd", _binary("Add")),
        ("QLinearMul", _binary("Mul")),
        ("QLinearWhere", _where),
        ("QLinearSigmoid", _pointwise("Sigmoid")),
        ("QLinearLeakyRelu", _pointwise("LeakyRelu", "alpha")),
        ("QLinearAveragePool", _pooled("AveragePool", pool)),
        ("QLinearGlobalAveragePool", _pooled("GlobalAveragePool", global_pool("ReduceMean"))),
        ("QLinearReduceMean", _mean),
        ("QLinearSoftmax", _softmax),
        ("QLinearConcat", _concat),
        ("QLinearConv", _conv),
        ("QGemm", _gemm),
        ("QAttention", _attention),
        ("QEmbedLayerNormalization", _embed),
        ("MatMulIntegerToFloat", _integer_to_float),
        ("DynamicQuantizeMatMul", _dynamic_matmul),
    )
)
