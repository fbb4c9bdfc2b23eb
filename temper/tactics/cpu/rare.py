"""C of rarely used elementwise ops and types, for typed scalar loops only (functions in templates/rare.h, formats.h).

Types that C lacks (half precision, floats of at most 8 bits, integers narrower than a byte) appear as operands and
results, and in conversions, selections and copies; passes compute their other ops in float32.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from temper.dtypes import CODED, NARROW_INTS
from temper.reference.formats import MINI_FLOATS, SCALE_ROUNDS
from temper.tactics.epilogue import Instr

#: types that C has no arithmetic for, by the type of their bits
BIT_TYPES: Mapping[str, str] = {
    "float16": "uint16_t",
    "bfloat16": "uint16_t",
    **dict.fromkeys(sorted(CODED), "uint8_t"),
    **{name: "int8_t" if signed else "uint8_t" for name, (_, signed) in NARROW_INTS.items()},
}

_FLOATS = ("float32", "float64")
_INTS = ("int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64")

#: functions of float32 and float64 arguments, evaluated in double
_FUNCTIONS: Mapping[str, str] = {
    "Asin": "d_asin",
    "Acos": "d_acos",
    "Atan": "d_atan",
    "Sinh": "d_sinh",
    "Cosh": "d_cosh",
    "Asinh": "d_asinh",
    "Acosh": "d_acosh",
    "Atanh": "d_atanh",
}
#: functions of float64 arguments; float32 has its own, in vectors
_DOUBLE: Mapping[str, str] = {
    "Exp": "d_exp",
    "Log": "d_log",
    "Sigmoid": "d_sigmoid",
    "Tanh": "d_tanh",
    "Softplus": "d_softplus",
    "Floor": "d_floor",
    "Ceil": "d_ceil",
    "Round": "d_rint",
}
_DECODE = {"float16": "half_f({0})", "bfloat16": "brain_f({0})", "float8e8m0": "scale_f({0})"}


def _decode(source: str) -> str:
    """C of the number that bits of `source` stand for: a float, or the integer itself."""
    if source not in MINI_FLOATS:
        return _DECODE.get(source, "{0}")
    return f"mini_f({{0}}, {', '.join(str(int(n)) for n in MINI_FLOATS[source].decoding)})"


def _encode(source: str, target: str, instr: Instr) -> str:
    """C of a number of type `source` as the bits of `target`; `instr` says how a cast saturates and rounds."""
    if target in NARROW_INTS:
        return _narrow("(int64_t)({0})", target)
    wide = source in ("float64", "int32", "uint32", "int64", "uint64")
    if target == "float16":
        return "d_half({0})" if wide else "f_half({0})"
    if target == "bfloat16":
        return "f_brain((float)({0}))"
    number, saturate = "d_odd((double)({0}))" if wide else "{0}", bool(instr.attr("saturate", 1))
    if target == "float8e8m0":
        return f"f_scale({number}, {int(saturate)}, {SCALE_ROUNDS[str(instr.attr('round_mode', 'up'))]})"
    return f"f_mini({number}, {', '.join(str(int(n)) for n in MINI_FLOATS[target].encoding(saturate))})"


def _narrow(integer: str, target: str) -> str:
    """C of an integer's low bits as a value of `target`."""
    bits, signed = NARROW_INTS[target]
    if not signed:
        return f"(uint8_t)({integer} & {(1 << bits) - 1})"
    return f"(int8_t)((int8_t)((uint64_t){integer} << {8 - bits}) >> {8 - bits})"


def cast_c(instr: Instr, source: str, target: str, c_types: Mapping[str, str]) -> str | None:
    """C of a conversion from or to a type of `BIT_TYPES`; None for any other."""
    if source in BIT_TYPES:
        wide = _decode(source)
        if target in BIT_TYPES:
            return _encode("int8" if source in NARROW_INTS else "float32", target, instr).format(wide)
        return f"{wide} != 0" if target == "bool" else f"({c_types[target]})({wide})"
    return _encode(source, target, instr) if target in BIT_TYPES else None


def _bit_cast_c(arg: str, source: str, target: str, types: Mapping[str, str]) -> str | None:
    """C of the bits of a `source` as a `target` of the same width."""
    if source not in types or target not in types:
        return None
    if target in NARROW_INTS:
        return _narrow(arg, target)
    if source in NARROW_INTS:
        return f"(uint8_t)({arg} & {(1 << NARROW_INTS[source][0]) - 1})"
    return f"((union {{ {types[source]} a; {types[target]} b; }}){{ .a = {arg} }}).b"


def rare_c(instr: Instr, args: Sequence[str], dtypes: Sequence[str], c_types: Mapping[str, str]) -> str | None:
    """The C expression of an instruction that the common table lacks; None if there is none here either."""
    op, kind = instr.op, dtypes[0] if dtypes else ""
    c = c_types.get(kind, "")
    if op in _FUNCTIONS and kind in _FLOATS:
        return f"({c}){_FUNCTIONS[op]}((double)({args[0]}))"
    if op in _DOUBLE and kind == "float64":
        return f"{_DOUBLE[op]}({args[0]})"
    if op == "Tan" and kind == "float32":
        return f"f_tan({args[0]})"
    if op == "Silu" and kind == "float32":
        return f"{args[0]} * v_sigmoid((float){float(instr.attr('alpha', 1.0)).hex()} * {args[0]})"  # type: ignore[arg-type]
    if op == "Mod" and instr.attr("fmod", 0) and kind in (*_FLOATS, *_INTS) and len(set(dtypes)) == 1:
        return f"v_fmod({args[0]}, {args[1]})"
    if op == "Mod" and kind in _FLOATS and len(set(dtypes)) == 1:
        return f"v_mod({args[0]}, {args[1]})"
    if op == "Pow" and len(args) == 2 and kind == "float32" and dtypes[1] in (*_INTS, "float64"):
        return f"(float)d_pow((double){args[0]}, (double){args[1]})"
    if op == "Pow" and len(args) == 2 and kind in _INTS and dtypes[1] in _FLOATS:
        return f"({c})d_whole(d_pow((double){args[0]}, (double){args[1]}))"
    if op == "Pow" and len(args) == 2 and kind in _INTS and dtypes[1] in _INTS and dtypes[1] != "uint64":
        return f"v_ipow({args[0]}, (int64_t){args[1]})"
    if op == "BitShift" and kind in _INTS:
        return f"{'v_shl' if instr.attr('direction') == 'LEFT' else 'v_shr'}({args[0]}, {args[1]})"
    if op == "IsInf" and kind in _FLOATS:
        inf = "__builtin_inf()"
        both = (("", "detect_positive"), ("-", "detect_negative"))
        return " || ".join(f"{args[0]} == {sign}{inf}" for sign, name in both if instr.attr(name, 1)) or "0"
    if op == "BitCast":
        return _bit_cast_c(args[0], kind, instr.dtype, {**c_types, **BIT_TYPES})
    if op == "Identity" and kind in BIT_TYPES:
        return args[0]
    if op == "Where" and dtypes[0] == "bool" and dtypes[1] == dtypes[2] and dtypes[1] in BIT_TYPES:
        return f"({args[0]} ? {args[1]} : {args[2]})"
    return None


_NAMES = re.compile(r"\b(d_\w+|half_f|f_half|brain_f|f_brain|f_tan|v_f?mod|v_ipow|v_sh[lr])\(")
_FORMATS = re.compile(r"\b(mini_f|f_mini|scale_f|f_scale)\(")


def rare_headers(body: str) -> tuple[str, ...]:
    """The files of templates/ whose functions these statements call, beyond the common ones."""
    if _FORMATS.search(body):
        return "rare.h", "formats.h"
    return ("rare.h",) if _NAMES.search(body) else ()
