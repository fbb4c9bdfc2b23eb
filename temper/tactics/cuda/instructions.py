"""Renders single instructions of an elementwise program as Triton text; CPU: tactics/cpu/instructions.py.

Halves (float16, bfloat16) are computed in float32 and rounded after every instruction; 8-bit floats are only moved and
converted, and those that Triton lacks are handled as bits (formats.py). Integers narrower than 32 bits are computed in
int32 and wrap when they narrow. Max, Min, Relu and Clip propagate NaN.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from temper.dtypes import CODED, NARROW_INTS
from temper.reference.formats import number, numbers, range_of
from temper.tactics.cuda.formats import decoded, encoded, narrowed
from temper.tactics.cuda.loads import FLOATS8, HALVES, widened
from temper.tactics.cuda.rounding import CODED as ROUNDED
from temper.tactics.epilogue import Attr, Instr

#: Types that programs hold as bits, with the type of the bits.
BIT_TYPES: Mapping[str, str] = {
    **dict.fromkeys(sorted(CODED - FLOATS8.keys()), "uint8"),
    **{name: "int8" if signed else "uint8" for name, (_, signed) in NARROW_INTS.items()},
}

#: Element types a program may use, as Triton's scalar types and as its pointer types; bool is a byte in memory.
TRITON_TYPES: Mapping[str, str] = {
    "float32": "tl.float32",
    "float64": "tl.float64",
    **HALVES,
    **FLOATS8,
    **{f"{sign}int{bits}": f"tl.{sign}int{bits}" for bits in (8, 16, 32, 64) for sign in ("", "u")},
    "bool": "tl.int1",
    **{name: f"tl.{bits}" for name, bits in BIT_TYPES.items()},
}
POINTER_TYPES: Mapping[str, str] = {
    **{f"float{bits}": f"*fp{bits}" for bits in (16, 32, 64)},
    "bfloat16": "*bf16",
    "float8e4m3fn": "*fp8e4nv",
    **{f"int{bits}": f"*i{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"*u{bits}" for bits in (8, 16, 32, 64)},
    "bool": "*i8",
    **{name: "*i8" if bits == "int8" else "*u8" for name, bits in BIT_TYPES.items()},
}

_FLOATS = frozenset({"float32", *HALVES})
_INTS = frozenset(f"{sign}int{bits}" for bits in (8, 16, 32, 64) for sign in ("", "u"))
#: Types computed in int32, with the bits that an unsigned one keeps when widened: Triton may extend the sign.
_NARROW: Mapping[str, str] = {"int8": "", "uint8": " & 255", "int16": "", "uint16": " & 65535"}
_DOUBLE = frozenset({"float64"})
_NUMBERS = _FLOATS | _INTS | _DOUBLE
_BOOL = frozenset({"bool"})
_ANY = _NUMBERS | _BOOL | FLOATS8.keys() | BIT_TYPES.keys()


@dataclass(frozen=True)
class OpText:
    """Triton of one op: `{0}`, `{1}` are the arguments, `{name}` its attributes; `takes`: legal argument dtypes.

    ints, double: text for integers and for float64 where it differs; unsigned: for unsigned integers.
    """

    text: str
    takes: frozenset[str] = _FLOATS
    attrs: tuple[tuple[str, float], ...] = ()
    arity: int = 1  # -1: any number, folded from the left
    ints: str = ""
    unsigned: str = ""
    double: str = ""

    def of(self, dtype: str) -> str:
        """The text for arguments of this type."""
        if dtype in _DOUBLE:
            return self.double or self.text
        if dtype in _INTS:
            return (self.unsigned if dtype.startswith("u") else "") or self.ints or self.text
        return self.text


OPS: Mapping[str, OpText] = {
    "Identity": OpText("{0}", _ANY),
    "Add": OpText("{0} + {1}", _NUMBERS, arity=2),
    "Sub": OpText("{0} - {1}", _NUMBERS, arity=2),
    "Mul": OpText("{0} * {1}", _NUMBERS, arity=2),
    "Div": OpText(
        "tl.div_rn({0}, {1})", _NUMBERS, arity=2, ints="quotient({0}, {1})", unsigned="unsigned_quotient({0}, {1})",
        double="{0} / {1}",
    ),  # fmt: skip
    "Mod": OpText("modulo({0}, {1})", _INTS, arity=2, unsigned="unsigned_remainder({0}, {1})"),
    "Max": OpText("at_least({0}, {1})", _NUMBERS, arity=-1, double="at_least64({0}, {1})"),
    "Min": OpText("at_most({0}, {1})", _NUMBERS, arity=-1, double="at_most64({0}, {1})"),
    "Sum": OpText("{0} + {1}", _NUMBERS, arity=-1),
    "Neg": OpText("-{0}", _NUMBERS, ints="0 - {0}"),
    "Abs": OpText("tl.abs({0})", _NUMBERS, unsigned="{0}"),
    "Sign": OpText(
        "sign({0})",
        _NUMBERS,
        ints="({0} > 0).to({0}.dtype) - ({0} < 0).to({0}.dtype)",
        unsigned="({0} > 0).to({0}.dtype)",
        double="tl.where({0} > 0, 1.0, tl.where({0} < 0, -1.0, {0}))",
    ),
    "Relu": OpText("at_least({0}, 0)", _NUMBERS, double="at_least64({0}, 0.0)"),
    "LeakyRelu": OpText("tl.where({0} < 0, {0} * {alpha}, {0})", attrs=(("alpha", 0.01),)),
    "PRelu": OpText("tl.where({0} < 0, {0} * {1}, {0})", arity=2),
    "Sigmoid": OpText("sigmoid({0})", _FLOATS | _DOUBLE, double="sigmoid64({0})"),
    "Tanh": OpText("tanh({0})"),
    "Exp": OpText("tl.exp({0})", _FLOATS | _DOUBLE),
    "Log": OpText("log({0})", _FLOATS | _DOUBLE, double="tl.log({0})"),
    "Sqrt": OpText("tl.sqrt_rn({0})", _FLOATS | _DOUBLE, double="tl.sqrt({0})"),
    "Reciprocal": OpText("tl.div_rn(1.0, {0})", _FLOATS | _DOUBLE, double="1.0 / {0}"),
    "Erf": OpText("tl.erf({0})"),
    "Sin": OpText("tl.sin({0})"),
    "Cos": OpText("tl.cos({0})"),
    "HardSigmoid": OpText("hard_sigmoid({0}, {alpha}, {alpha_lo}, {beta})", attrs=(("alpha", 0.2), ("beta", 0.5))),
    "HardSwish": OpText("{0} * (at_most(at_least({0} + 3.0, 0.0), 6.0) * 0.1666666716337204)"),
    "Silu": OpText("{0} * sigmoid({0})"),
    "Elu": OpText("tl.where({0} < 0, expm1_negative({0}) * {alpha}, {0})", attrs=(("alpha", 1.0),)),
    "Selu": OpText(
        "tl.where({0} < 0, expm1_negative({0}) * {alpha}, {0}) * {gamma}",
        attrs=(("alpha", 1.67326319217681884765625), ("gamma", 1.05070102214813232421875)),
    ),
    "Celu": OpText("tl.where({0} < 0, expm1_negative({0} / {alpha}) * {alpha}, {0})", attrs=(("alpha", 1.0),)),
    "Softplus": OpText("softplus({0})"),
    "Softsign": OpText("tl.div_rn({0}, 1 + tl.abs({0}))"),
    "Mish": OpText("mish({0})"),
    "Shrink": OpText(
        "tl.where({0} < -({lambd}), {0} + {bias}, tl.where({0} > {lambd}, {0} - {bias}, 0.0))",
        attrs=(("lambd", 0.5), ("bias", 0.0)),
    ),
    "ThresholdedRelu": OpText("tl.where({0} > {alpha}, {0}, 0.0)", attrs=(("alpha", 1.0),)),
    "Floor": OpText("floor({0})", _FLOATS | _DOUBLE, double="tl.floor({0})"),
    "Ceil": OpText("ceil({0})", _FLOATS | _DOUBLE, double="tl.ceil({0})"),
    "Round": OpText("round_half_even({0})", _FLOATS | _DOUBLE, double="round64({0})"),
    "BitwiseAnd": OpText("{0} & {1}", _INTS, arity=2),
    "BitwiseOr": OpText("{0} | {1}", _INTS, arity=2),
    "BitwiseXor": OpText("{0} ^ {1}", _INTS, arity=2),
    "BitwiseNot": OpText("~{0}", _INTS),
    "Equal": OpText("{0} == {1}", _NUMBERS | _BOOL, arity=2),
    "Less": OpText("{0} < {1}", _NUMBERS, arity=2),
    "LessOrEqual": OpText("{0} <= {1}", _NUMBERS, arity=2),
    "Greater": OpText("{0} > {1}", _NUMBERS, arity=2),
    "GreaterOrEqual": OpText("{0} >= {1}", _NUMBERS, arity=2),
    "IsNaN": OpText("{0} != {0}", _FLOATS | _DOUBLE),
    "And": OpText("{0} & {1}", _BOOL, arity=2),
    "Or": OpText("{0} | {1}", _BOOL, arity=2),
    "Xor": OpText("{0} ^ {1}", _BOOL, arity=2),
    "Not": OpText("{0} == 0", _BOOL),
    "Where": OpText("tl.where({0}, {1}, {2})", _ANY, arity=3),
    "FakeQuantize": OpText(
        "tl.where({1} > 0, at_most(at_least(round_half_even(tl.div_rn({0}, {1})), {2}), {2} + 255) * {1}, {0})", arity=3
    ),
}

_POW: Mapping[float, str] = {
    -1.0: "tl.div_rn(1.0, {0})",
    1.0: "{0}",
    2.0: "{0} * {0}",
    3.0: "{0} * {0} * {0}",
    4.0: "({0} * {0}) * ({0} * {0})",
}

#: functions of float arguments, evaluated in float64
_FUNCTIONS: Mapping[str, str] = {
    name: f"{name.lower()}64" for name in ("Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh", "Tan")
}


def literal(value: Attr, dtype: str = "float32") -> str:
    """Exact text of the value rounded to `dtype`."""
    if dtype in _FLOATS or dtype == "float64":
        x = float(numbers(number(value, dtype), dtype))  # type: ignore[arg-type]
        return repr(x) if np.isfinite(x) else f'float("{x}")'
    return str(int(value))  # type: ignore[arg-type]


def expression(instr: Instr, args: Sequence[str], dtypes: Sequence[str]) -> str | None:
    """The Triton expression of one instruction, or None if there is none."""
    if instr.op == "Constant":
        if instr.dtype in (*FLOATS8, *BIT_TYPES):
            return None
        return f"tl.full((1, 1), {literal(instr.attr('value'), instr.dtype)}, {TRITON_TYPES[instr.dtype]})"
    if instr.op == "Cast" and instr.attr("codes", 0):
        less = "code_near" if instr.attr("codes", 0) == 2 else "code_less"
        return f"code_number({args[0]})" if len(args) == 1 else f"{less}({', '.join(args)})"
    if instr.op == "Cast":
        return _cast(instr, dtypes[0], instr.dtype, args[0])
    if instr.op == "BitCast":
        return _bit_cast(args[0], dtypes[0], instr.dtype)
    wide = [_widened(a, d) for a, d in zip(args, dtypes, strict=True)]
    text = _operation(instr, wide, dtypes) or _rare(instr, wide, dtypes)
    if text is None or instr.dtype not in (*_NARROW, *HALVES):
        return text
    return f"({text}).to({TRITON_TYPES[instr.dtype]})"


def _widened(arg: str, dtype: str) -> str:
    """The argument in the type its kind is computed in."""
    if dtype in HALVES:
        return widened(arg, dtype)
    return f"({arg}.to(tl.int32){_NARROW[dtype]})" if dtype in _NARROW else arg


def _cast(instr: Instr, source: str, target: str, arg: str) -> str | None:
    if source == target:
        return arg
    value, kind = arg, source
    if source in NARROW_INTS:
        value, kind = f"{arg}.to(tl.int32)", "int32"
    elif source in BIT_TYPES:
        value, kind = decoded(source, arg), "float32"
    elif source in _NARROW:
        value, kind = _widened(arg, source), "int32"
    elif source in FLOATS8 or source == "bfloat16":
        value, kind = widened(arg, source), "float32"
    if target == "bool":
        return f"{value} != 0"
    if target in NARROW_INTS:
        return narrowed(f"{value}.to(tl.int64).to(tl.int32)" if kind != "int32" else value, target)
    if target in BIT_TYPES or target in FLOATS8:
        single = value if kind == "float32" else f"{value}.to(tl.float32)"
        if kind in ("float64", *_INTS):
            single = f"to_odd({value}.to(tl.float64))"
        saturate = bool(instr.attr("saturate", 1))
        if target in FLOATS8 and saturate:
            return f"{single}.to({FLOATS8[target]})"
        text = encoded(target, single, saturate, instr.attr("round_mode", "up"))
        return f"{text}.to({FLOATS8[target]}, bitcast=True)" if target in FLOATS8 else text
    if target == "bfloat16":
        return f"{value}.to(tl.float32).to(tl.bfloat16)"
    if kind in (*_FLOATS, "float64") and target in (*_NARROW, "uint32"):
        # beyond the type a conversion is undefined; through a wider one the low bits remain
        value = f"{value}.to({'tl.int64' if target == 'uint32' else 'tl.int32'})"
    return f"{value}.to({TRITON_TYPES[target]})"


def _bit_cast(arg: str, source: str, target: str) -> str | None:
    """The bits of a `source` as a `target` of the same width."""
    if source == "bool" or target == "bool":
        return f"{arg} != 0" if target == "bool" else f"{arg}.to({TRITON_TYPES[target]})"
    if target in NARROW_INTS:
        return narrowed(f"{arg}.to(tl.int32)", target)
    if source in NARROW_INTS:
        return f"({arg}.to(tl.int32) & {(1 << NARROW_INTS[source][0]) - 1}).to({TRITON_TYPES[target]})"
    return arg if TRITON_TYPES[source] == TRITON_TYPES[target] else f"{arg}.to({TRITON_TYPES[target]}, bitcast=True)"


def _clip(instr: Instr, arg: str, dtype: str) -> str:
    attrs, suffix = dict(instr.attrs), "64" if dtype == "float64" else ""
    for name, function in (("min", "at_least"), ("max", "at_most")):
        if name in attrs:
            bound = attrs[name]
            if dtype in _INTS:
                low, high = range_of(dtype)
                bound = max(low, min(float(bound), high))  # type: ignore[arg-type]
            arg = f"{function}{suffix}({arg}, {literal(bound, dtype)})"
    return arg


def _saturate(instr: Instr, arg: str) -> str:
    """Rounding to a code, its zero point added."""
    low, high = (-128, 127) if instr.dtype == "int8" else (0, 255)
    zero = int(instr.attr("zero_point", 0))  # type: ignore[arg-type]
    if (name := ROUNDED.get((instr.dtype, zero))) is not None:
        # a minimum or maximum of NaN and a number is the number
        return f"{name}({arg if instr.attr('finite', 0) else f'tl.maximum({arg}, {low - zero}.0)'})"
    even = zero & ~1
    text = f"to_code({arg}, {low - zero}.0, {high - zero}.0, {even}.0)"
    return f"{text} + 1" if zero != even else text


def _operation(instr: Instr, args: Sequence[str], dtypes: Sequence[str]) -> str | None:
    """The expression on arguments as `_widened` makes them."""
    if not args:
        return None
    if instr.op == "Clip":
        return _clip(instr, args[0], dtypes[0]) if dtypes[0] in _NUMBERS and len(args) == 1 else None
    if instr.op == "Saturate":
        return _saturate(instr, args[0]) if dtypes == ["float32"] and instr.dtype in ("int8", "uint8") else None
    if instr.op == "Gelu":
        kind = str(instr.attr("approximate", "none"))
        return f"gelu{'' if kind == 'none' else f'_{kind}'}({args[0]})" if dtypes[0] in _FLOATS else None
    if instr.op == "Div" and instr.attr("codes", 0):
        return f"{'code_quotient' if instr.attr('codes', 0) == 1 else 'rough_quotient'}({args[0]}, {args[1]})"
    if instr.op == "Pow" and len(args) == 1:
        exponent = float(instr.attr("exponent"))  # type: ignore[arg-type]
        constant = f"tl.full((1, 1), {literal(exponent, 'float64')}, tl.float64)"
        power = _POW.get(exponent, f"power64({{0}}.to(tl.float64), {constant}).to(tl.float32)")
        return power.format(*args) if dtypes[0] in _FLOATS else None
    op = OPS.get(instr.op)
    if op is None or (op.arity >= 0 and op.arity != len(args)):
        return None
    values = dtypes[1:] if instr.op == "Where" else dtypes
    if any(d not in op.takes for d in values) or len(set(values)) > 1:
        return None
    if instr.op == "Where" and dtypes[0] != "bool":
        return None
    if (instr.op == "Mod" and instr.attr("fmod", 0)) or (instr.op == "Silu" and instr.attr("alpha", 1.0) != 1.0):
        return None
    attrs = {name: literal(instr.attr(name, default)) for name, default in op.attrs}
    for name, default in op.attrs:
        value = float(instr.attr(name, default))  # type: ignore[arg-type]
        attrs[f"{name}_lo"] = literal(value - float(np.float32(value)))
    text = op.of(values[0])
    if op.arity != -1:
        return text.format(*args, **attrs)
    out = args[0]
    for a in args[1:]:
        out = text.format(f"({out})" if "(" not in text else out, a)
    return out


def _rare(instr: Instr, args: Sequence[str], dtypes: Sequence[str]) -> str | None:
    """The expression of an instruction that few models have; None if there is none."""
    op, kind = instr.op, dtypes[0] if dtypes else ""
    alike = len(set(dtypes)) == 1
    if op in _FUNCTIONS and kind in (*_FLOATS, "float64"):
        text = f"{_FUNCTIONS[op]}({args[0]}.to(tl.float64))"
        return text if kind == "float64" else f"{text}.to(tl.float32)"
    if op == "Silu" and kind in _FLOATS:
        return f"{args[0]} * sigmoid({literal(instr.attr('alpha', 1.0))} * {args[0]})"
    if op == "Mod" and kind in _INTS and alike:
        return f"{'unsigned_' if kind.startswith('u') else ''}remainder({args[0]}, {args[1]})"
    if op == "Mod" and kind in _FLOATS and alike:
        function = "remainder64" if instr.attr("fmod", 0) else "modulo64"
        return f"{function}({args[0]}.to(tl.float64), {args[1]}.to(tl.float64)).to(tl.float32)"
    if op == "Pow" and len(args) == 2:
        return _power(kind, dtypes[1], args)
    if op == "BitShift" and kind in _INTS and alike:
        function = f"{'unsigned_' if kind.startswith('u') else ''}shift_{str(instr.attr('direction')).lower()}"
        return f"{function}({args[0]}, {args[1]}, {np.dtype(kind).itemsize * 8})"
    if op == "IsInf" and kind in (*_FLOATS, "float64"):
        both = (("inf", "detect_positive"), ("-inf", "detect_negative"))
        found = [f'({args[0]} == float("{inf}"))' for inf, name in both if instr.attr(name, 1)]
        return " | ".join(found) or f"{args[0]} != {args[0]} + 0"
    return None


def _power(base: str, exponent: str, args: Sequence[str]) -> str | None:
    double = f"power64({args[0]}.to(tl.float64), {args[1]}.to(tl.float64))"
    if base in (*_FLOATS, "float64") and exponent in (*_FLOATS, "float64", *_INTS):
        return double if base == "float64" else f"{double}.to(tl.float32)"
    if base in _INTS and exponent in (*_FLOATS, "float64"):
        wide = "tl.int32" if base in _NARROW else TRITON_TYPES[base]
        return f"whole64({double}).to({wide})"
    if base in _INTS and exponent in _INTS and exponent != "uint64" and base != "uint64":
        wide = "tl.int32" if base in _NARROW else TRITON_TYPES[base]
        return f"integer_power({args[0]}.to(tl.int64), {args[1]}.to(tl.int64)).to({wide})"
    return None
