"""Epilogue program -> C text for the CPU templates (needs vec.h and vmath.h before it).

Two forms share the table `OPS`: `epilogue_c` gives the function every anchor template calls once per register of
results, and `body_c` the bare statements, which the pointwise tactic wraps in loops over vectors or typed scalars.
Max, Min, Relu and Clip propagate NaN, as numpy and ONNX Runtime do (measured: Relu(NaN) = NaN, Max(1, NaN) = NaN).
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from temper.tactics.base import ArgRef, Workload
from temper.tactics.cpu.ranges import bound, exact_product
from temper.tactics.cpu.rare import BIT_TYPES, cast_c, rare_c
from temper.tactics.epilogue import Attr, Epilogue, Instr

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
_BYTES = frozenset({"int8", "uint8"})
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


@cache
def template_text(*names: str) -> str:
    """Concatenated text of files in templates/."""
    folder = Path(__file__).parent / "templates"
    return "\n".join((folder / name).read_text() for name in names)


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


def code_range(dtype: str) -> tuple[int, int]:
    """Least and greatest value of an 8-bit type."""
    return (-128, 127) if dtype == "int8" else (0, 255)


def _saturate(instr: Instr, arg: str, name: str) -> str | None:
    """Rounding to a code: clipped before the conversion, which has no defined result beyond int32. name: the C
    function."""
    if instr.dtype not in _BYTES:
        return None
    low, high = code_range(instr.dtype)
    zero = _zero_point(instr)
    return f"{name}({arg}, {low - zero}.0f, {high - zero}.0f, {zero})"


def _zero_point(instr: Instr) -> int:
    return int(instr.attr("zero_point", 0))  # type: ignore[arg-type]


def _instr_c(instr: Instr, args: Sequence[str], dtypes: Sequence[str], vector: bool) -> str | None:
    """The C expression of one instruction, or None if there is none."""
    text = _common_c(instr, args, dtypes, vector)
    return text if text is not None or vector else rare_c(instr, args, dtypes, C_TYPES)


def _common_c(instr: Instr, args: Sequence[str], dtypes: Sequence[str], vector: bool) -> str | None:
    """As `_instr_c`, of what the table `OPS` and the forms below have."""
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
        return _saturate(instr, args[0], "v_code" if vector else "v_code1") if dtypes == ["float32"] else None
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
    if vector and values[0] in _BYTES and instr.op not in _BYTE_OPS:
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


def lanes_only(e: Epilogue) -> bool:
    """True if every value of the program fits 32-bit lanes and every op has a vector form."""
    return all(o.dtype in LANE_DTYPES for o in e.operands) and body_declines(e, vector=True) is None


def body_declines(e: Epilogue, *, vector: bool) -> str | None:
    """Why the program has no C form (with vectors, or with typed scalars); None if it has."""
    for operand in e.operands:
        if operand.dtype not in (LANE_DTYPES if vector else SCALAR_TYPES):
            return f"an operand is {operand.dtype}"
    for instr in e.instrs:
        dtypes = [e.dtype_of(a) for a in instr.args]
        if instr.dtype not in (LANE_DTYPES if vector else SCALAR_TYPES):
            return f"{instr.op} gives {instr.dtype}"
        if _instr_c(instr, [f"v{a}" for a in instr.args], dtypes, vector) is None:
            return f"{instr.op} on ({', '.join(dtypes)}) has no C form"
    return None


#: Functions with a cheaper form that is exact enough where its result is rounded to a code at once. (GELU by tanh and
#: by erf are 5e-4 apart: each has its own.)
_CODED: Mapping[str, str] = {"v_gelu(": "v_gelu_coded("}


def _coded(e: Epilogue, value: int) -> bool:
    """Every use of a value is rounding to a code, maybe in other units."""
    users = [(len(e.operands) + k, i) for k, i in enumerate(e.instrs) if value in i.args]
    steps = {"Mul", "Div"}
    return value not in e.results and all(i.op == "Saturate" or (i.op in steps and _coded(e, at)) for at, i in users)


#: Magnitudes that every conversion to int32 takes.
_CONVERTS = 2.0**31 - 2.0**8


def _exact_sum(e: Epilogue, instr: Instr) -> str | None:
    """A sum in one instruction, where one of its terms is a product without rounding."""
    for product, other in (instr.args, instr.args[::-1]):
        if (factors := exact_product(e, product)) is not None:
            return f"FMA(v{factors[0]}, v{factors[1]}, v{other})"
    return None


def body_c(e: Epilogue, *, vector: bool, wide: int = -1, coded: bool = False) -> str:
    """Statements that compute v<n>.. from v0..v<n-1>, n = number of operands.

    wide: a value that Saturate makes and that is only stored, by st_code(): it is left unsaturated.
    coded: what is rounded to codes at once may be off by a small part of a code.
    ValueError for what `body_declines` names.
    """
    if (reason := body_declines(e, vector=vector)) is not None:
        raise ValueError(reason)
    lines = []
    for i, instr in enumerate(e.instrs, len(e.operands)):
        args = [f"v{a}" for a in instr.args]
        text = _instr_c(instr, args, [e.dtype_of(a) for a in instr.args], vector)
        if vector and instr.op == "Add" and instr.dtype == "float32":
            text = _exact_sum(e, instr) or text
        if i == wide:
            text = _saturate(instr, args[0], "v_wide_within" if bound(e, instr.args[0]) <= _CONVERTS else "v_wide")
        if text is not None and coded and _coded(e, i):
            for exact, near in _CODED.items():
                text = text.replace(exact, near)
        ctype = SCALAR_TYPES[instr.dtype] if not vector else "vf" if instr.dtype == "float32" else "vi"
        lines.append(f"  const {ctype} v{i} = {text};")
    return "\n".join(lines)


_OFFSET: Mapping[str, str] = {
    "full": "pix * {stride} + c", "channel": "c", "image_channel": "img * {channels} + c", "pixel": "pix",
    "image": "img", "scalar": "0",
}


#: What templates can store as their first result when they do it with epi_store().
STORED = frozenset({"float32", "int32", "int8", "uint8", "bfloat16"})


def anchor_declines(e: Epilogue, accumulator: str = "float32", stored: frozenset[str] = _FLOAT) -> str | None:
    """Why an anchor's template cannot apply this program (the region is then split there); None if it can.

    accumulator: dtype the template computes. stored: dtypes it can store as first result.
    """
    if e.operands[0].dtype != accumulator:
        return f"the accumulator is {e.operands[0].dtype}, not {accumulator}"
    for i, o in enumerate(e.operands[1:], 1):
        if o.kind == "general":
            return f"operand {i} is broadcast along axes {[a for a, m in enumerate(o.mask) if not m]}"
    if (reason := body_declines(e, vector=True)) is not None:
        return reason
    if e.dtype_of(e.results[0]) not in stored:
        return f"the first result is {e.dtype_of(e.results[0])}, not {' or '.join(sorted(stored))}"
    return None


_LOADS: Mapping[str, tuple[str, str]] = {  # of one element spread over the lanes; of n lanes
    "float32": ("splat({x}[{i}])", "ldx({x} + {i}, n)"),
    "int32": ("splati({x}[{i}])", "ldni({x} + {i}, n)"),
    "bool": ("splati(-{x}[{i}])", "ld_bool({x} + {i}, n)"),
    "int8": ("splati({x}[{i}])", "ld_int8({x} + {i}, n)"),
    "uint8": ("splati({x}[{i}])", "ld_uint8({x} + {i}, n)"),
    "bfloat16": ("splati({x}[{i}])", "ld_brain({x} + {i}, n)"),
}


def load_c(dtype: str, broadcast: bool, pointer: str, offset: str) -> str:
    """Vector load of `n` lanes of an operand, or of one element into all lanes."""
    return _LOADS[dtype][0 if broadcast else 1].format(x=f"((const {SCALAR_TYPES[dtype]} *){pointer})", i=offset)


def store_c(dtype: str, pointer: str, offset: str, value: str) -> str:
    """Vector store of the first `n` lanes."""
    if dtype == "float32":
        return f"stx((float *){pointer} + {offset}, {value}, n);"
    if dtype == "int32":
        return f"stni((int32_t *){pointer} + {offset}, {value}, n);"
    if dtype == "bfloat16":
        return f"st_brain((uint16_t *){pointer} + {offset}, {value}, n);"
    if dtype in _BYTES:
        return f"st_byte((uint8_t *){pointer} + {offset}, {value}, n);"
    return f"st_bool((uint8_t *){pointer} + {offset}, {value}, n);"


def epilogue_args(e: Epilogue) -> tuple[ArgRef, ...]:
    """The pointers `epi_init` reads from p[first_arg] on: operands 1.., then results 1.. (templates store result 0)."""
    return (*(("operand", i) for i in range(1, len(e.operands))), *(("output", i) for i in range(1, len(e.results))))


def epilogue_c(e: Epilogue, *, first_arg: int, channels: int, row_strides: Sequence[int | None] = ()) -> str:
    """C text of `epi_t`, `epi_init(e, p)`, `epilogue(v0, e, img, pix, c, n)` and `epi_store(out, at, v, n)`, which
    stores what epilogue() returns as elements `at`.. of result 0. EPI_CODES: v_codes() may do so for four registers,
    with EPI_ZERO and EPI_SIGNED.

    first_arg: index in `p` of the first pointer of `epilogue_args`. channels: size of the output's last axis.
    row_strides: of each result (None or absent: dense); the first is ignored, the template stores result 0 itself.
    ValueError for what `anchor_declines` names.
    """
    if (reason := anchor_declines(e, e.operands[0].dtype, STORED)) is not None:
        raise ValueError(reason)
    vector = {d: "vf" if d == "float32" else "vi" for d in LANE_DTYPES}
    first = e.dtype_of(e.results[0])
    n, m = len(e.operands) - 1, len(e.results) - 1
    loads, stores = [], []
    for i, o in enumerate(e.operands[1:], 1):
        kind = o.kind
        offset = _OFFSET[kind].format(stride=o.row_stride or channels, channels=channels)
        load = load_c(o.dtype, kind in ("scalar", "pixel", "image"), f"e->q[{i - 1}]", offset)
        loads.append(f"  const {vector[o.dtype]} v{i} = {load};")
    for k, value in enumerate(e.results[1:], 1):
        stride = (row_strides[k] if k < len(row_strides) else None) or channels
        stores.append("  " + store_c(e.dtype_of(value), f"e->o[{k - 1}]", f"pix * {stride} + c", f"v{value}"))
    wide = _only_stored_code(e)
    store, codes = store_c(first, "out", "at", "v"), ["#define EPI_CODES 0"]
    if wide >= 0:
        zero, signed = _zero_point(e.instrs[wide - len(e.operands)]), int(first == "int8")
        store = f"st_code((uint8_t *)out + at, v, n, {zero}, {signed});"
        codes = ["#define EPI_CODES 1", f"#define EPI_ZERO ({zero})", f"#define EPI_SIGNED {signed}"]
    init = [f"  e->q[{i}] = p[{first_arg + i}];" for i in range(n)]
    init += [f"  e->o[{k}] = p[{first_arg + n + k}];" for k in range(m)]
    return "\n".join([
        *codes,
        f"typedef struct {{ const void *q[{max(n, 1)}]; void *o[{max(m, 1)}]; }} epi_t;",
        "INLINE void epi_init(epi_t *e, void *const *p) {", *(init or ["  (void)e; (void)p;"]), "}",
        f"INLINE {vector[first]} epilogue({vector[e.operands[0].dtype]} v0, const epi_t *e, int64_t img, int64_t pix, "
        "int64_t c, int n) {",
        *loads, body_c(e, vector=True, wide=wide, coded=e.operands[0].dtype == "int32"), *stores,
        f"  return v{e.results[0]};", "}",
        f"INLINE void epi_store(void *out, int64_t at, {vector[first]} v, int n) {{",
        "  " + store, "}", ""])


def _only_stored_code(e: Epilogue) -> int:
    """The first result if it is a value that Saturate makes and nothing else reads; -1 otherwise."""
    value = e.results[0]
    made = e.instrs[value - len(e.operands)].op if value >= len(e.operands) else ""
    read = any(value in i.args for i in e.instrs) or e.results.count(value) > 1
    return value if made == "Saturate" and not read else -1


def workload_epilogue_c(w: Workload, first_arg: int) -> str:
    """`epilogue_c` of a workload, with channels and strides taken from its outputs."""
    channels = w.outputs[0].type.shape[-1]
    if not isinstance(channels, int):
        raise ValueError(f"the output's last axis is {channels}; an epilogue needs a static size")
    return epilogue_c(w.epilogue, first_arg=first_arg, channels=channels, row_strides=[s.row_stride for s in w.outputs])
