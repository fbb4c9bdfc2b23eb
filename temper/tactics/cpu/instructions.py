"""C of the single instructions of an epilogue program, in vectors or in typed scalars (functions: vec.h and vmath.h).

Max, Min, Relu and Clip propagate NaN, as numpy and ONNX Runtime do (measured: Relu(NaN) = NaN, Max(1, NaN) = NaN).
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from temper.tactics.cpu.rare import BIT_TYPES, cast_c, rare_c
from temper.tactics.epilogue import Attr, Instr

C_TYPES: Mapping[str, str] = {
    "float32": "float", "float64": "double", "int8": "int8_t", "uint8": "uint8_t", "int16": "int16_t",
    "uint16": "uint16_t", "int32": "int32_t", "uint32": "uint32_t", "int64": "int64_t", "uint64": "uint64_t",
    "bool": "uint8_t",
}
#: Types of typed scalar loops: also those that only travel and convert.
SCALAR_TYPES: Mapping[str, str] = {**C_TYPES, **BIT_TYPES}
#: Types whose values fit the 32-bit lanes of a float vector: programs over these only are rendered with vectors.
LANE_DTYPES = frozenset({"float32", "int32", "bool", "int8", "uint8", "bfloat16"})
#: Of those, types that widen to int32 when loaded. Only ops whose result such a type always holds take them in vectors.
BYTES = frozenset({"int8", "uint8"})
_BYTE_OPS = frozenset({"Identity", "Max", "Min", "Relu", "Where"})

_FLOAT = frozenset({"float32"})
_FLOATS = frozenset({"float32", "float64"})
_INTS = frozenset({"int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64"})
_NARROW = frozenset({"int8", "uint8", "int16", "uint16"})
_NUMBERS = _FLOATS | _INTS
_BOOL = frozenset({"bool"})
_ANY = _NUMBERS | _BOOL


@dataclass(frozen=True)
class OpText:
    """C of one op: `{0}`, `{1}` are the arguments, `{name}` its attributes (`{name_lo}`: what float32 loses of them).

    takes: legal dtypes of the arguments.
    """

    text: str
    takes: frozenset[str] = _FLOAT
    attrs: tuple[tuple[str, float], ...] = ()
    ints: str | None = None  # text for integer arguments where it differs
    arity: int = 1           # -1: any number, folded from the left


OPS: Mapping[str, OpText] = {
    "Identity": OpText("{0}", _ANY),
    "Add": OpText("{0} + {1}", _NUMBERS, arity=2),
    "Sub": OpText("{0} - {1}", _NUMBERS, arity=2),
    "Mul": OpText("{0} * {1}", _NUMBERS, arity=2),
    "Div": OpText("{0} / {1}", _NUMBERS, ints="v_idiv({0}, {1})", arity=2),
    "Mod": OpText("v_imod({0}, {1})", _INTS, arity=2),
    "Max": OpText("v_max({0}, {1})", _NUMBERS, arity=-1),
    "Min": OpText("v_min({0}, {1})", _NUMBERS, arity=-1),
    "Sum": OpText("{0} + {1}", _NUMBERS, arity=-1),
    "Neg": OpText("v_neg({0})", _NUMBERS),
    "Abs": OpText("v_abs({0})", _NUMBERS),
    "Sign": OpText("v_sign({0})", _NUMBERS),
    "Relu": OpText("v_relu({0})", _NUMBERS),
    "LeakyRelu": OpText("v_leaky({0}, {alpha})", attrs=(("alpha", 0.01),)),
    "PRelu": OpText("v_prelu({0}, {1})", arity=2),
    "Sigmoid": OpText("v_sigmoid({0})"),
    "Tanh": OpText("v_tanh({0})"),
    "Exp": OpText("v_exp({0})"),
    "Log": OpText("v_log({0})"),
    "Sqrt": OpText("v_sqrt({0})", _FLOATS),
    "Reciprocal": OpText("1.0f / {0}", _FLOATS),
    "Erf": OpText("v_erf({0})"),
    "Sin": OpText("v_sin({0})"),
    "Cos": OpText("v_cos({0})"),
    "HardSigmoid": OpText("v_hardsigmoid({0}, {alpha}, {alpha_lo}, {beta})", attrs=(("alpha", 0.2), ("beta", 0.5))),
    "HardSwish": OpText("v_hardswish({0})"),
    "Silu": OpText("v_silu({0})"),
    "Elu": OpText("v_elu({0}, {alpha})", attrs=(("alpha", 1.0),)),
    "Selu": OpText("v_selu({0}, {alpha}, {gamma})",
                   attrs=(("alpha", 1.67326319217681884765625), ("gamma", 1.05070102214813232421875))),
    "Celu": OpText("v_celu({0}, {alpha})", attrs=(("alpha", 1.0),)),
    "Softplus": OpText("v_softplus({0})"),
    "Softsign": OpText("v_softsign({0})"),
    "Mish": OpText("v_mish({0})"),
    "Shrink": OpText("v_shrink({0}, {lambd}, {bias})", attrs=(("lambd", 0.5), ("bias", 0.0))),
    "BitwiseAnd": OpText("{0} & {1}", _INTS, arity=2),
    "BitwiseOr": OpText("{0} | {1}", _INTS, arity=2),
    "BitwiseXor": OpText("{0} ^ {1}", _INTS, arity=2),
    "BitwiseNot": OpText("~{0}", _INTS),
    "ThresholdedRelu": OpText("v_thresholded({0}, {alpha})", attrs=(("alpha", 1.0),)),
    "Floor": OpText("v_floor({0})"),
    "Ceil": OpText("v_ceil({0})"),
    "Round": OpText("v_round({0})"),
    "Pow": OpText("v_pow({0}, {1})", arity=2),
    "Equal": OpText("{0} == {1}", _ANY, arity=2),
    "Less": OpText("{0} < {1}", _NUMBERS, arity=2),
    "LessOrEqual": OpText("{0} <= {1}", _NUMBERS, arity=2),
    "Greater": OpText("{0} > {1}", _NUMBERS, arity=2),
    "GreaterOrEqual": OpText("{0} >= {1}", _NUMBERS, arity=2),
    "IsNaN": OpText("{0} != {0}", _FLOATS),
    "And": OpText("{0} & {1}", _BOOL, arity=2),
    "Or": OpText("{0} | {1}", _BOOL, arity=2),
    "Xor": OpText("{0} ^ {1}", _BOOL, arity=2),
    "Not": OpText("v_not({0})", _BOOL),
    "Where": OpText("v_where({0}, {1}, {2})", _ANY, arity=3),
    "FakeQuantize": OpText("v_fake({0}, {1}, {2})", arity=3),
}

_POW: Mapping[float, str] = {
    -1.0: "1.0f / {0}", 1.0: "{0}", 2.0: "{0} * {0}", 3.0: "{0} * {0} * {0}",
    4.0: "({0} * {0}) * ({0} * {0})",
}


def literal(value: Attr, dtype: str = "float32") -> str:
    """An exact C literal of the value rounded to `dtype`."""
    if dtype in ("float32", "float64"):
        x = float(np.float32(value)) if dtype == "float32" else float(value)  # type: ignore[arg-type]
        suffix = "f" if dtype == "float32" else ""
        if x != x:
            return f'__builtin_nan{suffix}("")'
        if x in (float("inf"), float("-inf")):
            return f"({'-' if x < 0 else ''}__builtin_inf{suffix}())"
        return f"({x.hex()}{suffix})"
    return f"({C_TYPES[dtype]}){int(value)}{'u' if dtype == 'uint64' else ''}ll"  # type: ignore[arg-type]


_LANE_CASTS: Mapping[tuple[str, str], str] = {
    ("float32", "bool"): "v_truth({0})", ("bool", "float32"): "v_from_truth({0})", ("int32", "bool"): "({0}) != 0",
    ("bool", "int32"): "-({0})", ("float32", "int32"): "v_to_int({0})", ("int32", "float32"): "v_from_int({0})",
    ("int8", "int32"): "{0}", ("uint8", "int32"): "{0}", ("int8", "float32"): "v_from_int({0})",
    ("uint8", "float32"): "v_from_int({0})", ("float32", "int8"): "v_to_int({0}) << 24 >> 24",
    ("float32", "uint8"): "v_to_int({0}) & 255",
    ("int32", "int8"): "({0}) << 24 >> 24", ("int32", "uint8"): "{0} & 255",
    ("float32", "bfloat16"): "v_to_brain({0})", ("bfloat16", "float32"): "v_from_brain({0})",
}


def _cast(instr: Instr, source: str, target: str, vector: bool) -> str | None:
    """C of a conversion of `{0}`; None where vectors cannot express it."""
    if source == target:
        return "{0}"
    if not vector:
        if source in BIT_TYPES or target in BIT_TYPES:
            return cast_c(instr, source, target, C_TYPES)
        if source in _FLOATS and target in _NARROW:
            # C leaves a conversion beyond the type undefined; through int32 the low bits remain, as numpy has it
            return f"({C_TYPES[target]})(int32_t)({{0}})"
        return "({0}) != 0" if target == "bool" else f"({C_TYPES[target]})({{0}})"
    return _LANE_CASTS.get((source, target))


def _clip(instr: Instr, arg: str, dtype: str) -> str:
    attrs = dict(instr.attrs)
    kind = dtype if dtype in _FLOATS else "int64"
    text = arg
    if "min" in attrs:
        text = f"v_atleast({text}, {literal(attrs['min'], kind)})"
    if "max" in attrs:
        text = f"v_atmost({text}, {literal(attrs['max'], kind)})"
    return text


def _code_range(dtype: str) -> tuple[int, int]:
    """Least and greatest value of an 8-bit type."""
    return (-128, 127) if dtype == "int8" else (0, 255)


def saturate_c(instr: Instr, arg: str, name: str) -> str | None:
    """Rounding to a code: clipped before the conversion, which has no defined result beyond int32. name: the C
    function."""
    if instr.dtype not in BYTES:
        return None
    low, high = _code_range(instr.dtype)
    zero = zero_point(instr)
    return f"{name}({arg}, {low - zero}.0f, {high - zero}.0f, {zero})"


def zero_point(instr: Instr) -> int:
    return int(instr.attr("zero_point", 0))  # type: ignore[arg-type]


def instr_c(instr: Instr, args: Sequence[str], dtypes: Sequence[str], vector: bool) -> str | None:
    """The C expression of one instruction, or None if there is none."""
    text = _common_c(instr, args, dtypes, vector)
    return text if text is not None or vector else rare_c(instr, args, dtypes, C_TYPES)


def _common_c(instr: Instr, args: Sequence[str], dtypes: Sequence[str], vector: bool) -> str | None:
    """As `instr_c`, of what the table `OPS` and the forms below have."""
    if instr.op == "Constant":
        text = literal(instr.attr("value"), instr.dtype)
        if not vector:
            return text
        if instr.dtype == "bool":
            return f"splati({-int(bool(instr.attr('value')))})"
        return f"splat({text})" if instr.dtype == "float32" else f"splati({text})"
    if instr.op == "Cast":
        text_or_none = _cast(instr, dtypes[0], instr.dtype, vector)
        return text_or_none.format(*args) if text_or_none else None
    if instr.op == "Saturate":
        return saturate_c(instr, args[0], "v_code" if vector else "v_code1") if dtypes == ["float32"] else None
    if instr.op == "Clip":
        if dtypes[0] not in (_FLOAT if vector else _NUMBERS) or len(args) != 1:
            return None
        return _clip(instr, args[0], dtypes[0])
    if instr.op == "Gelu":
        if dtypes[0] != "float32":
            return None
        return f"v_gelu{'_tanh' if instr.attr('approximate', 'none') == 'tanh' else ''}({args[0]})"
    if instr.op == "Pow" and len(args) == 1:
        exponent = float(instr.attr("exponent"))  # type: ignore[arg-type]
        constant = f"splat({literal(exponent)})" if vector else literal(exponent)
        return _POW.get(exponent, f"v_pow({{0}}, {constant})").format(*args) if dtypes[0] == "float32" else None
    op = OPS.get(instr.op)
    if op is None or (op.arity >= 0 and op.arity != len(args)) or not args:
        return None
    values = dtypes[1:] if instr.op == "Where" else dtypes
    if any(d not in op.takes for d in values) or len(set(values)) > 1 or (instr.op == "Where" and dtypes[0] != "bool"):
        return None
    if (instr.op == "Mod" and instr.attr("fmod", 0)) or (instr.op == "Silu" and instr.attr("alpha", 1.0) != 1.0):
        return None
    if vector and values[0] == "int32" and instr.op in ("Div", "Mod"):
        return None
    if vector and values[0] in BYTES and instr.op not in _BYTE_OPS:
        return None
    attrs = {name: literal(instr.attr(name, default)) for name, default in op.attrs}
    for name, default in op.attrs:
        value = float(instr.attr(name, default))  # type: ignore[arg-type]
        attrs[name + "_lo"] = literal(value - float(np.float32(value)))
    text = op.ints if op.ints is not None and values[0] in _INTS else op.text
    if op.arity != -1:
        return text.format(*args, **attrs)
    out = args[0]
    for a in args[1:]:
        out = f"({text.format(out, a)})" if "(" not in text else text.format(out, a)
    return out
