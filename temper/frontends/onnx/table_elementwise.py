"""Elementwise ONNX ops."""

from __future__ import annotations

import numpy as np

from temper.dtypes import CODED
from temper.errors import ModelError, ShapeError
from temper.frontends.onnx.context import Context, Emit, Refusal, Row, same
from temper.frontends.onnx.tensors import dtype_of
from temper.ir.graph import Value


def _chain(op: str) -> Emit:
    """n operands -> op(op(a, b), c) ..."""

    def emit(c: Context) -> Value:
        total = c.input(0)
        for i in range(1, len(c.inputs)):
            total = c.emit(op, total, c.input(i))
        return total

    return emit


def _aligned(op: str) -> Emit:
    """Before opset 7 the second operand's axes stood where `axis` says, or at the end."""

    def emit(c: Context) -> Value:
        a, b = c.input(0), c.input(1)
        if c.attr("broadcast", 0) and c.attrs.get("axis") is not None and b.type.rank < a.type.rank:
            axis = c.axis(a.type.rank)
            tail = a.type.rank - axis - b.type.rank
            if tail < 0:
                raise ShapeError(f"{c}: {b.type} at axis {axis} reaches beyond {a.type}")
            b = c.reshape(b, (*b.type.shape, *(1,) * tail))
        return c.emit(op, a, b)

    return emit


def _prelu_by_channel(c: Context) -> Value:
    """Before opset 7 a vector of slopes was one per channel."""
    x, slope = c.input(0), c.input(1)
    if slope.type.rank == 1 and x.type.rank > 2:
        slope = c.reshape(slope, (slope.type.shape[0], *(1,) * (x.type.rank - 2)))
    return c.emit("PRelu", x, slope)


def _mean(c: Context) -> Value:
    total = _chain("Add")(c)
    assert isinstance(total, Value)
    return c.emit("Div", total, c.like(len(c.inputs), total)) if len(c.inputs) > 1 else total


def _clip_attributes(c: Context) -> Value:
    # The schema's defaults, +-3.4e38, mean no bound.
    limit = float(np.finfo(np.float32).max)
    bounds = {k: c.attrs[k] for k in ("min", "max") if k in c.attrs and abs(c.attrs[k]) < limit}
    return c.emit("Clip", c.input(0), **bounds) if bounds else c.input(0)


def _clip_operands(c: Context) -> Value:
    x = c.input(0)
    bounds: dict[str, int | float] = {}
    for i, name, op in ((1, "min", "Max"), (2, "max", "Min")):
        v = c.optional(i)
        if v is None:
            continue
        if v.type.rank and v.type.count != 1:
            raise ShapeError(f"{c}: {name} (input {i}, '{v.name}') must be a scalar, not {v.type}")
        known = c.known(v)
        if known is not None and known.dtype != object:
            bounds[name] = known.reshape(-1)[0].item()
        else:
            if bounds:
                x = c.emit("Clip", x, **bounds)
                bounds = {}
            x = c.emit(op, x, c.reshape(v, ()))
    return c.emit("Clip", x, **bounds) if bounds else x


def _cast(c: Context) -> Value:
    return _cast_to(c, dtype_of(c.attr("to"), f"{c}: attribute 'to'"))


def _cast_to(c: Context, to: str) -> Value:
    if c.input(0).type.dtype == to:
        return c.input(0)
    attrs: dict[str, int | str] = {}
    if to in CODED:
        if not c.attr("saturate", 1):
            attrs["saturate"] = 0
        if to == "float8e8m0" and c.attr("round_mode", "up") != "up":
            attrs["round_mode"] = c.attr("round_mode")
    return c.emit("Cast", c.input(0), to=to, **attrs)


def _of_number(op: str, *attrs: str) -> Emit:
    """A question about one number; 8-bit floats are asked in float32, which holds them."""

    def emit(c: Context) -> Value:
        x = c.input(0)
        return c.emit(op, c.emit("Cast", x, to="float32") if x.type.dtype in CODED else x, **c.take(*attrs))

    return emit


def _bit_cast(c: Context) -> Value:
    to = dtype_of(c.attr("to"), f"{c}: attribute 'to'")
    return c.input(0) if c.input(0).type.dtype == to else c.emit("BitCast", c.input(0), to=to)


def _cast_like(c: Context) -> Value:
    return _cast_to(c, c.input(1).type.dtype)


def _identity(c: Context) -> Value:
    return c.input(0)


def _dropout(c: Context) -> list[Value]:
    if c.opset < 7 and not c.attr("is_test", 0):
        raise Refusal("training mode (is_test=0) is not supported; export the model for inference")
    x = c.input(0)
    if c.has(2) and c.array(2, "training_mode").any():
        return _training_dropout(c, x)
    kept = c.constant(np.array(True))
    return [x] if not c.wants(1) else [x, c.emit("Expand", kept, shape=x.type.shape)]


def _training_dropout(c: Context, x: Value) -> list[Value]:
    """Elements are kept where a uniform number is not below the ratio, and divided by the share that is kept. Without a
    seed, the seed is 0: ONNX leaves it open, and a model must not give other results from run to run unasked."""
    ratio = float(c.scalar(1, "ratio")) if c.has(1) else 0.5
    if not 0 <= ratio < 1:
        raise ModelError(f"{c}: ratio must be at least 0 and below 1, not {ratio}")
    if ratio == 0:
        return [x, c.emit("Expand", c.constant(np.array(True)), shape=x.type.shape)]
    drawn = c.emit("RandomUniform", shape=x.type.shape, to="float64", seed=c.attr("seed", 0) or 0)
    kept = c.emit("GreaterOrEqual", drawn, c.constant(np.array(ratio)))
    scaled = c.emit("Mul", x, c.like(1 / (1 - ratio), x))
    return [c.emit("Where", kept, scaled, c.like(0.0, x)), kept]


def _gelu(c: Context) -> Value:
    return c.emit("Gelu", c.input(0), approximate=c.attr("approximate", "none"))


def _swish(c: Context) -> Value:
    return c.emit("Silu", c.input(0), alpha=c.attr("alpha", 1.0))


_PLAIN = (
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Pow",
    "PRelu",
    "Where",
    "Relu",
    "Abs",
    "Neg",
    "Sign",
    "Floor",
    "Ceil",
    "Round",
    "Sqrt",
    "Reciprocal",
    "Exp",
    "Log",
    "Erf",
    "Sigmoid",
    "Sin",
    "Cos",
    "Tan",
    "Asin",
    "Acos",
    "Atan",
    "Sinh",
    "Cosh",
    "Tanh",
    "Asinh",
    "Acosh",
    "Atanh",
    "Softplus",
    "Mish",
    "Softsign",
    "HardSwish",
    "Equal",
    "Less",
    "LessOrEqual",
    "Greater",
    "GreaterOrEqual",
    "And",
    "Or",
    "Xor",
    "Not",
    "BitwiseAnd",
    "BitwiseOr",
    "BitwiseXor",
    "BitwiseNot",
)

#: ops whose operands were broadcast by attributes before opset 7
_BROADCAST_SINCE_7 = ("Add", "Sub", "Mul", "Div", "Pow", "And", "Or", "Xor", "Equal", "Less", "Greater")

ROWS: tuple[Row, ...] = (
    *(Row(op, same(op)) for op in _PLAIN if op not in (*_BROADCAST_SINCE_7, "PRelu")),
    *(Row(op, _aligned(op)) for op in _BROADCAST_SINCE_7),
    *(Row(op, same(op), 7) for op in (*_BROADCAST_SINCE_7, "PRelu")),
    Row("PRelu", _prelu_by_channel),
    Row("Mod", same("Mod", "fmod")),
    Row("BitShift", same("BitShift", "direction")),
    Row("LeakyRelu", same("LeakyRelu", "alpha")),
    Row("HardSigmoid", same("HardSigmoid", "alpha", "beta")),
    Row("Elu", same("Elu", "alpha")),
    Row("Selu", same("Selu", "alpha", "gamma")),
    Row("Celu", same("Celu", "alpha")),
    Row("Shrink", same("Shrink", "lambd", "bias")),
    Row("ThresholdedRelu", same("ThresholdedRelu", "alpha")),
    Row("IsInf", _of_number("IsInf", "detect_positive", "detect_negative")),
    Row("IsNaN", _of_number("IsNaN")),
    Row("Max", _chain("Max")),
    Row("Min", _chain("Min")),
    Row("Sum", _chain("Add")),
    Row("Mean", _mean),
    Row("Clip", _clip_attributes),
    Row("Clip", _clip_operands, 11),
    Row("Cast", _cast),
    Row("CastLike", _cast_like),
    Row("BitCast", _bit_cast),
    Row("Identity", _identity),
    Row("Dropout", _dropout),
    Row("Gelu", _gelu),
    Row("Swish", _swish),
)
