"""ONNX's quantization ops. Integer operators become float ones between DequantizeLinear and QuantizeLinear."""

from __future__ import annotations

from typing import Any

from temper.dtypes import CODED
from temper.errors import ShapeError
from temper.frontends.onnx.context import Context, Refusal, Row
from temper.frontends.onnx.table_contraction import convolution
from temper.frontends.onnx.tensors import dtype_of
from temper.ir.graph import Value
from temper.reference.formats import UNNAMED


def _quantized_axis(c: Context) -> int:
    """The axis attribute; irrelevant where the scale is a scalar, and then often out of range."""
    scale, rank = c.input(1).type, c.input(0).type.rank
    if scale.count == 1 and scale.rank <= 1 and not c.attr("block_size", 0):
        return 0
    return c.axis(rank, 1)


def _quantize(c: Context) -> Value:
    if c.attr("precision", 0) not in (0, 1):
        raise Refusal(f"precision {c.attr('precision')} is not supported")
    attrs = _stated_type(c)
    zero = c.optional(2)
    if not attrs and zero is not None and zero.type.dtype in UNNAMED:
        attrs["to"] = zero.type.dtype
    if attrs.get("to") in CODED and not c.attr("saturate", 1):
        attrs["saturate"] = 0
    return c.emit(
        "QuantizeLinear", *_with_scale(c), axis=_quantized_axis(c), block_size=c.attr("block_size", 0), **attrs
    )


def _with_scale(c: Context) -> list[Value | None]:
    """The operands, with a scale of float8e8m0 (a microscaling format's) as the number it is."""
    scale = c.input(1)
    return [c.input(0), c.emit("Cast", scale, to="float32") if scale.type.dtype in CODED else scale, *c.inputs[2:]]


def _stated_type(c: Context) -> dict[str, Any]:
    to = c.attr("output_dtype", 0)
    return {"to": dtype_of(to, f"{c}: attribute 'output_dtype'")} if to else {}


def _dequantize(c: Context) -> Value:
    attrs, scale = _stated_type(c), c.input(1)
    if scale.type.dtype in CODED and not attrs:
        raise ShapeError(f"{c}: with a scale of {scale.type.dtype}, output_dtype must state the type of the result")
    return c.emit(
        "DequantizeLinear", *_with_scale(c), axis=_quantized_axis(c), block_size=c.attr("block_size", 0), **attrs
    )


def _dynamic(c: Context) -> list[Value]:
    return c.emit_many("DynamicQuantizeLinear", [c.input(0)], {})


def _requantize(c: Context, y: Value, scale: Value, zero: Value) -> Value:
    if scale.type.count != 1:
        raise Refusal("an output scale for each channel is not supported")
    return c.emit("QuantizeLinear", y, scale, zero, axis=0)


def _qlinear_conv(c: Context) -> Value:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero = (c.input(i) for i in range(8))
    operands: list[Value | None] = [
        c.emit("DequantizeLinear", x, x_scale, x_zero, axis=0),
        c.emit("DequantizeLinear", w, w_scale, w_zero, axis=0),
    ]
    bias = c.optional(8)
    if bias is not None:
        if x_scale.type.count != 1:
            raise Refusal("an input scale for each channel is not supported")
        scale = c.emit("Mul", c.reshape(x_scale, ()), w_scale)
        operands.append(c.emit("DequantizeLinear", bias, scale, axis=0))
    return _requantize(c, convolution(c, "Conv", operands), y_scale, y_zero)


def _qlinear_matmul(c: Context) -> Value:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = (c.input(i) for i in range(8))
    if max(a_scale.type.rank, b_scale.type.rank) > 1:
        raise Refusal("a scale for each matrix of a batch is not supported")
    left = c.emit("DequantizeLinear", a, a_scale, a_zero, axis=max(a.type.rank - 2, 0))
    right = c.emit("DequantizeLinear", b, b_scale, b_zero, axis=b.type.rank - 1)
    return _requantize(c, c.emit("MatMul", left, right), y_scale, y_zero)


ROWS: tuple[Row, ...] = (
    Row("QuantizeLinear", _quantize),
    Row("DequantizeLinear", _dequantize),
    Row("DynamicQuantizeLinear", _dynamic),
    Row("QLinearConv", _qlinear_conv),
    Row("QLinearMatMul", _qlinear_matmul),
)
