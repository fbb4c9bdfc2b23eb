"""Elementwise ops: one output element from one element of each (numpy-broadcast) operand."""

from __future__ import annotations

from collections.abc import Mapping

from temper.dtypes import NARROW_INTS
from temper.errors import ShapeError
from temper.ir.opdef import Attrs, AttrSpec, InferFn, Kind, OpDef, Tolerance
from temper.ir.ops import rules
from temper.ir.ops.rules import BOOL, FLOATS, INTS, NUMBERS, SIGNED, Types, allow, default, need
from temper.ir.types import DTYPES, TensorType
from temper.reference.elementwise import REFERENCES
from temper.reference.formats import MINI_FLOATS, UNNAMED, bits_of

_EXACT = Tolerance(relative=0.0)
_ROUNDED = Tolerance(relative=1.0)
_FUNCTION = Tolerance(relative=4.0)


def _row(
    name: str,
    operands: int,
    infer: InferFn,
    *,
    ops: int = 1,
    attrs: Mapping[str, AttrSpec] | None = None,
    tolerance: Tolerance = _FUNCTION,
    least: int | None = None,
) -> OpDef:
    return OpDef(
        name,
        Kind.ELEMENTWISE,
        (operands if least is None else least, operands),
        infer,
        REFERENCES[name],
        rules.per_element(ops),
        attrs or {},
        tolerance=tolerance,
    )


def _broadcast(allowed: frozenset[str], result: str = "") -> InferFn:
    """Operands of one dtype, broadcast; the output has that dtype, or `result`."""

    def infer(types: Types, attrs: Attrs) -> list[TensorType]:
        operands = [allow(need(types, i), allowed, f"operand {i}") for i in range(len(types))]
        dtype = rules.same_dtype(operands)
        return [TensorType(result or dtype, rules.broadcast(*(t.shape for t in operands)))]

    return infer


def _unary(
    name: str,
    allowed: frozenset[str],
    *,
    ops: int = 1,
    attrs: Mapping[str, AttrSpec] | None = None,
    tolerance: Tolerance = _FUNCTION,
) -> OpDef:
    return _row(name, 1, rules.same_as_input(allowed), ops=ops, attrs=attrs, tolerance=tolerance)


def _binary(
    name: str,
    allowed: frozenset[str],
    *,
    result: str = "",
    attrs: Mapping[str, AttrSpec] | None = None,
    tolerance: Tolerance = _EXACT,
    ops: int = 1,
) -> OpDef:
    return _row(name, 2, _broadcast(allowed, result), attrs=attrs, tolerance=tolerance, ops=ops)


def _pow(types: Types, attrs: Attrs) -> list[TensorType]:
    base, exponent = allow(need(types, 0), NUMBERS), allow(need(types, 1), NUMBERS)
    return [TensorType(base.dtype, rules.broadcast(base.shape, exponent.shape))]


def _prelu(types: Types, attrs: Attrs) -> list[TensorType]:
    x, slope = allow(need(types, 0), NUMBERS), need(types, 1)
    rules.same_dtype([x, slope])
    if rules.broadcast(x.shape, slope.shape) != x.shape:
        raise ShapeError(f"slope {slope} does not broadcast to {x}")
    return [x]


def _where(types: Types, attrs: Attrs) -> list[TensorType]:
    condition, a, b = allow(need(types, 0), BOOL, "condition"), need(types, 1), need(types, 2)
    return [TensorType(rules.same_dtype([a, b]), rules.broadcast(condition.shape, a.shape, b.shape))]


def _cast(types: Types, attrs: Attrs) -> list[TensorType]:
    to = rules.text(attrs, "to")
    if to not in DTYPES:
        raise ShapeError(f"to={to!r} is not a dtype")
    if attrs.get("round_mode", "up") not in ("up", "down", "nearest"):
        raise ShapeError(f"round_mode={attrs['round_mode']!r} is not up, down or nearest")
    return [TensorType(to, need(types, 0).shape)]


def _bit_cast(types: Types, attrs: Attrs) -> list[TensorType]:
    x, to = need(types, 0), rules.text(attrs, "to")
    if to not in DTYPES or "string" in (to, x.dtype):
        raise ShapeError(f"the bits of {x.dtype} cannot be read as {to}")
    if bits_of(to) != bits_of(x.dtype):
        raise ShapeError(f"{x.dtype} has {bits_of(x.dtype)} bits, {to} has {bits_of(to)}")
    return [TensorType(to, x.shape)]


def _bool_of(allowed: frozenset[str]) -> InferFn:
    def infer(types: Types, attrs: Attrs) -> list[TensorType]:
        return [TensorType("bool", allow(need(types, 0), allowed).shape)]

    return infer


def _check_parameters(x: TensorType, types: Types, attrs: Attrs) -> TensorType:
    """Scale (and zero point): scalar, one per index of `axis`, or one per block of `axis`."""
    scale, zero = need(types, 1), rules.optional(types, 2)
    block = rules.integer(attrs, "block_size")
    if block:
        axis = rules.axis_of(rules.integer(attrs, "axis"), x.rank)
        blocks = (x.shape[axis] + (block - 1)) // block
        expected = (*x.shape[:axis], blocks, *x.shape[axis + 1 :])
        if scale.shape != expected:
            raise ShapeError(f"scale must have shape {rules.shape_text(expected)}, not {rules.shape_text(scale.shape)}")
    elif scale.shape not in ((), (1,)):
        axis = rules.axis_of(rules.integer(attrs, "axis"), x.rank)
        rules.vector(scale, x.shape[axis], "scale")
    single = ((), (1,))
    if zero is not None and zero.shape != scale.shape and not (zero.shape in single and scale.shape in single):
        raise ShapeError(f"zero point {zero} and scale {scale} must have one shape")
    return scale


def _quantize(types: Types, attrs: Attrs) -> list[TensorType]:
    x, zero = allow(need(types, 0), FLOATS | {"int32"}), rules.optional(types, 2)
    _check_parameters(x, types, attrs)
    to = rules.text(attrs, "to") or (zero.dtype if zero is not None else "uint8")
    if zero is not None and zero.dtype != to:
        raise ShapeError(f"to={to} contradicts the zero point's dtype {zero.dtype}")
    if to in UNNAMED and not attrs.get("to"):
        raise ShapeError(f"to={to} must be stated: the reference sees the zero point's codes only")
    if to not in _QUANTIZED:
        raise ShapeError(f"cannot quantize to {to}")
    return [TensorType(to, x.shape)]


def _saturate(types: Types, attrs: Attrs) -> list[TensorType]:
    x, to = allow(need(types, 0), frozenset({"float32"})), rules.text(attrs, "to")
    if to not in ("int8", "uint8"):
        raise ShapeError(f"to={to!r} is not a type of codes")
    return [TensorType(to, x.shape)]


def _fake_quantize(types: Types, attrs: Attrs) -> list[TensorType]:
    x = allow(need(types, 0), frozenset({"float32"}))
    for i, what in ((1, "scale"), (2, "lowest code")):
        if (t := allow(need(types, i), frozenset({"float32"}), what)).shape not in ((), (1,)):
            raise ShapeError(f"{what} must be one number, not {t}")
    return [x]


def _dequantize(types: Types, attrs: Attrs) -> list[TensorType]:
    x, zero = allow(need(types, 0), _QUANTIZED), rules.optional(types, 2)
    if zero is not None and zero.dtype != x.dtype:
        raise ShapeError(f"zero point is {zero.dtype}, the data {x.dtype}")
    scale = allow(_check_parameters(x, types, attrs), FLOATS, "scale")
    to = rules.text(attrs, "to") or scale.dtype
    if to not in FLOATS:
        raise ShapeError(f"cannot dequantize to {to}")
    return [TensorType(to, x.shape)]


#: what quantized data may be
_QUANTIZED = INTS | frozenset(MINI_FLOATS) | frozenset(NARROW_INTS)
#: of a cast to a float of at most 8 bits; absent means 1 and "up"
_CAST = {"to": AttrSpec(str, required=True), "saturate": AttrSpec(int), "round_mode": AttrSpec(str)}
_AXIS = {"axis": default(1), "block_size": default(0)}
_BOUND = AttrSpec(rules.NUMBER)

OPS: tuple[OpDef, ...] = (
    _binary("Add", NUMBERS),
    _binary("Sub", NUMBERS),
    _binary("Mul", NUMBERS),
    _binary("Div", NUMBERS),
    _binary("Mod", NUMBERS, attrs={"fmod": default(0)}),
    _binary("Max", NUMBERS),
    _binary("Min", NUMBERS),
    _row("Pow", 2, _pow, ops=10),
    _row("PRelu", 2, _prelu, tolerance=_EXACT),
    _row("Where", 3, _where, tolerance=_EXACT),
    _row("Cast", 1, _cast, attrs=_CAST, tolerance=_EXACT),
    _row("BitCast", 1, _bit_cast, ops=0, attrs={"to": AttrSpec(str, required=True)}, tolerance=_EXACT),
    _unary("Identity", rules.ANY | UNNAMED, ops=0, tolerance=_EXACT),
    _unary("Clip", NUMBERS, attrs={"min": _BOUND, "max": _BOUND}, tolerance=_EXACT),
    _unary("Relu", NUMBERS, tolerance=_EXACT),
    _unary("LeakyRelu", FLOATS, attrs={"alpha": default(0.01)}, tolerance=_ROUNDED),
    _unary("Abs", NUMBERS, tolerance=_EXACT),
    _unary("Neg", FLOATS | SIGNED, tolerance=_EXACT),
    _unary("Sign", NUMBERS, tolerance=_EXACT),
    _unary("Floor", FLOATS, tolerance=_EXACT),
    _unary("Ceil", FLOATS, tolerance=_EXACT),
    _unary("Round", FLOATS, tolerance=_EXACT),
    _unary("Sqrt", FLOATS, tolerance=_EXACT),
    _unary("Reciprocal", FLOATS, tolerance=_EXACT),
    *(
        _unary(name, FLOATS, ops=10)
        for name in (
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
        )
    ),
    _unary("Silu", FLOATS, ops=10, attrs={"alpha": default(1.0)}),
    _unary("Gelu", FLOATS, ops=12, attrs={"approximate": default("none")}),
    _unary("Softsign", FLOATS, ops=3),
    _unary("HardSwish", FLOATS, ops=4),
    _unary("HardSigmoid", FLOATS, ops=3, attrs={"alpha": default(0.2), "beta": default(0.5)}),
    _unary("Elu", FLOATS, ops=10, attrs={"alpha": default(1.0)}),
    _unary(
        "Selu",
        FLOATS,
        ops=11,
        attrs={"alpha": default(1.67326319217681884765625), "gamma": default(1.05070102214813232421875)},
    ),
    _unary("Celu", FLOATS, ops=11, attrs={"alpha": default(1.0)}),
    _unary("Shrink", FLOATS, ops=3, attrs={"lambd": default(0.5), "bias": default(0.0)}),
    _unary("ThresholdedRelu", FLOATS, attrs={"alpha": default(1.0)}, tolerance=_EXACT),
    *(_binary(name, NUMBERS, result="bool") for name in ("Less", "LessOrEqual", "Greater", "GreaterOrEqual")),
    _binary("Equal", rules.ANY, result="bool"),
    *(_binary(name, BOOL) for name in ("And", "Or", "Xor")),
    _unary("Not", BOOL, tolerance=_EXACT),
    _row("IsNaN", 1, _bool_of(FLOATS), tolerance=_EXACT),
    _row(
        "IsInf",
        1,
        _bool_of(FLOATS),
        attrs={"detect_positive": default(1), "detect_negative": default(1)},
        tolerance=_EXACT,
    ),
    *(_binary(name, INTS) for name in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")),
    _unary("BitwiseNot", INTS, tolerance=_EXACT),
    _binary("BitShift", INTS, attrs={"direction": AttrSpec(str, required=True)}),
    _row(
        "QuantizeLinear",
        3,
        _quantize,
        least=2,
        ops=4,
        attrs={**_AXIS, "to": default(""), "saturate": AttrSpec(int)},
        tolerance=_EXACT,
    ),
    # what codes make of a tensor, with a scale that may change from run to run and 0 for none
    _row("FakeQuantize", 3, _fake_quantize, ops=6, tolerance=_EXACT),
    _row("DequantizeLinear", 3, _dequantize, least=2, ops=2, attrs={**_AXIS, "to": default("")}, tolerance=_EXACT),
    _row(
        "Saturate",
        1,
        _saturate,
        ops=3,
        attrs={"to": AttrSpec(str, required=True), "zero_point": default(0)},
        tolerance=_EXACT,
    ),
)
