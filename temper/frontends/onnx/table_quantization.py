"""ONNX's quantization ops. Integer operators become float ones between DequantizeLinear and QuantizeLinear."""

from __future__ import annotations

from typing import Any

import numpy as np

from temper.dtypes import CODED
from temper.errors import ModelError, ShapeError
from temper.frontends.onnx.context import Context, Refusal, Row
from temper.frontends.onnx.table_contraction import convolution
from temper.frontends.onnx.tensors import dtype_of
from temper.ir.graph import Value
from temper.reference.formats import UNNAMED


def _quantized_axis(c: Context) -> int:
    """The axis attribute; irrelevant where the scale is a scalar, and then often out of range."""
    x, scale = c.input(0), c.input(1).type
    if scale.count == 1 and scale.rank <= 1 and not c.attr("block_size", 0):
        return 0
    axis = c.axis(x.type.rank, 1)
    if x.const is not None and scale.rank == 1 and x.type.shape[axis] != scale.shape[0] and x.type.shape[axis] == 1:
        # ONNX Runtime's quantizer states axis 0 for biases that are rows; their scales tell what is meant
        fitting = [a for a, d in enumerate(x.type.shape) if d == scale.shape[0]]
        return fitting[0] if len(fitting) == 1 else axis
    return axis


#: Below this a float32 scale is subnormal: codes times it are inexact, and a division by it overflows.
_LEAST = float(np.finfo(np.float32).tiny)


def _check_scale(c: Context, scale: Value, codes: Value | None = None) -> None:
    """ModelError unless every known scale is positive, finite and normal.

    codes: what is dequantized. A channel of constant codes may have the scale 0: quantizers write it for weights that
    are all zero, which they stay.
    """
    if scale.const is None or scale.type.dtype not in ("float16", "float32", "float64"):
        return
    s = scale.const.astype(np.float64)
    bad = ~((s >= _LEAST) & np.isfinite(s))
    if codes is not None and codes.const is not None and s.size > 1:
        bad &= s != 0
    if not bad.any():
        return
    at = int(np.flatnonzero(bad.reshape(-1))[0])
    where = f" at index {at}" if s.size > 1 else ""
    raise ModelError(
        f"{c}: the scale '{scale.name}' is {s.reshape(-1)[at]:g}{where}; a scale is a positive number of at least "
        f"{_LEAST:.3g}. Quantize the model again; for a tensor that is constantly zero, any positive scale will do"
    )


def quantize(c: Context) -> Value:
    if c.attr("precision", 0) not in (0, 1):
        raise Refusal(f"precision {c.attr('precision')} is not supported")
    _check_scale(c, c.input(1))
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


def dequantize_node(c: Context) -> Value:
    attrs, scale = _stated_type(c), c.input(1)
    _check_scale(c, scale, c.input(0))
    if scale.type.dtype in CODED and not attrs:
        raise ShapeError(f"{c}: with a scale of {scale.type.dtype}, output_dtype must state the type of the result")
    return c.emit(
        "DequantizeLinear", *_with_scale(c), axis=_quantized_axis(c), block_size=c.attr("block_size", 0), **attrs
    )


def _dynamic(c: Context) -> list[Value]:
    return c.emit_many("DynamicQuantizeLinear", [c.input(0)], {})


def dequantize(c: Context, x: Value, scale: Value, zero: Value | None, axis: int = 0) -> Value:
    """DequantizeLinear; `axis` is that of a scale which is a vector."""
    _check_scale(c, scale, x)
    return c.emit("DequantizeLinear", x, scale, zero, axis=0 if scale.type.count == 1 else axis)


def dequantized(c: Context, i: int, axis: int = 0) -> Value:
    """Operand i, with the scale and the zero point (which may be absent) that follow it."""
    return dequantize(c, c.input(i), c.input(i + 1), c.optional(i + 2), axis)


def requantized(c: Context, y: Value, i: int) -> Value:
    """Codes of `y` by the scale that is operand i and the zero point (absent: uint8 codes from 0) after it."""
    scale, zero = c.input(i), c.optional(i + 1)
    if scale.type.count != 1:
        raise Refusal("an output scale for each channel is not supported")
    _check_scale(c, scale)
    return c.emit("QuantizeLinear", y, scale, zero, axis=0)


def qlinear_conv(c: Context) -> Value:
    x_scale, w_scale = c.input(1), c.input(4)
    operands: list[Value | None] = [dequantized(c, 0), dequantized(c, 3)]
    bias = c.optional(8)
    if bias is not None:
        if x_scale.type.count != 1:
            raise Refusal("an input scale for each channel is not supported")
        scale = c.emit("Mul", c.reshape(x_scale, ()), w_scale)
        operands.append(c.emit("DequantizeLinear", bias, scale, axis=0))
    return requantized(c, convolution(c, "Conv", operands), 6)


def _qlinear_matmul(c: Context) -> Value:
    a, b = c.input(0), c.input(3)
    if max(c.input(1).type.rank, c.input(4).type.rank) > 1:
        raise Refusal("a scale for each matrix of a batch is not supported")
    left = dequantized(c, 0, axis=max(a.type.rank - 2, 0))
    right = dequantized(c, 3, axis=b.type.rank - 1)
    return requantized(c, c.emit("MatMul", left, right), 6)


ROWS: tuple[Row, ...] = (
    Row("QuantizeLinear", quantize),
    Row("DequantizeLinear", dequantize_node),
    Row("DynamicQuantizeLinear", _dynamic),
    Row("QLinearConv", qlinear_conv),
    Row("QLinearMatMul", _qlinear_matmul),
)
