"""C of rarely used elementwise ops and types, for typed scalar loops only (templates/rare.h has the functions).

Half precision appears as operands and results, and in conversions, selections and copies; a pass computes the rest of
its ops in float32.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from temper.tactics.epilogue import Instr

#: types that C has no arithmetic for, by the type of their bits
BIT_TYPES: Mapping[str, str] = {"float16": "uint16_t", "bfloat16": "uint16_t"}

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
_DECODE = {"float16": "half_f({0})", "bfloat16": "brain_f({0})"}


def _encode(source: str, target: str) -> str:
    """C of a number of type `source` as the bits of `target`."""
    if target == "float16":
        return "d_half({0})" if source in ("float64", "int32", "uint32", "int64", "uint64") else "f_half({0})"
    return "f_brain((float)({0}))"


def cast_c(source: str, target: str, c_types: Mapping[str, str]) -> str | None:
    """C of a conversion from or to a type of `BIT_TYPES`; None for any other."""
    if source in BIT_TYPES:
        wide = _DECODE[source]
        if target in BIT_TYPES:
            return _encode("float32", target).format(wide)
        return f"{wide} != 0" if target == "bool" else f"({c_types[target]})({wide})"
    return _encode(source, target) if target in BIT_TYPES else None


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
    if op == "Pow" and len(args) == 2 and kind in _INTS and dtypes[1] in _INTS and dtypes[1] != "uint64":
        return f"v_ipow({args[0]}, (int64_t){args[1]})"
    if op == "BitShift" and kind in _INTS:
        return f"{'v_shl' if instr.attr('direction') == 'LEFT' else 'v_shr'}({args[0]}, {args[1]})"
    if op == "IsInf" and kind in _FLOATS:
        inf = "__builtin_inf()"
        both = (("", "detect_positive"), ("-", "detect_negative"))
        return " || ".join(f"{args[0]} == {sign}{inf}" for sign, name in both if instr.attr(name, 1)) or "0"
    if op == "Identity" and kind in BIT_TYPES:
        return args[0]
    if op == "Where" and dtypes[0] == "bool" and dtypes[1] == dtypes[2] and dtypes[1] in BIT_TYPES:
        return f"({args[0]} ? {args[1]} : {args[2]})"
    return None


_NAMES = re.compile(r"\b(d_\w+|half_f|f_half|brain_f|f_brain|f_tan|v_fmod|v_ipow|v_sh[lr])\(")


def needs_rare(body: str) -> bool:
    """True if these statements call functions of templates/rare.h."""
    return _NAMES.search(body) is not None
