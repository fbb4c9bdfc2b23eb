"""Epilogue program -> Triton text applied to a tile of results, the counterpart of tactics/cpu/render.py.

The text is plain statements for the body of a kernel plus the helper functions they call. The kernel around it defines,
for a tile of BM rows (flat index over all axes but the last) and BN channels:

    v0: [BM, BN], the anchor's results    row: [BM], wide enough for row * channels    image: [BM], index along axis 0
    channel: [BN]    row_ok: [BM]    channel_ok: [BN]    live: [BM, BN], row_ok and channel_ok

Multiplications and additions are rounded separately (the compiler runs with contraction off); Div and Sqrt are IEEE's.
Exp and what is made of it use the GPU's approximate 2^x: relative error up to 2^-22 + |x| 2^-24. Max, Min, Relu and
Clip propagate NaN. Halves (float16, bfloat16) are computed in float32 and rounded after every instruction; 8-bit floats
are only converted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from temper.reference.formats import number, numbers
from temper.tactics.base import ArgRef
from temper.tactics.cuda.loads import FLOATS8, HALVES, widened
from temper.tactics.epilogue import Attr, Epilogue, Instr

#: Element types a program may use, as Triton's scalar types and as its pointer types; bool is a byte in memory.
TRITON_TYPES: Mapping[str, str] = {
    "float32": "tl.float32",
    **HALVES,
    **FLOATS8,
    "int32": "tl.int32",
    "int8": "tl.int8",
    "uint8": "tl.uint8",
    "bool": "tl.int1",
}
POINTER_TYPES: Mapping[str, str] = {
    "float32": "*fp32",
    "float16": "*fp16",
    "bfloat16": "*bf16",
    "float8e4m3fn": "*fp8e4nv",
    "int32": "*i32",
    "int8": "*i8",
    "uint8": "*u8",
    "bool": "*i8",
}

_FLOATS = frozenset({"float32", *HALVES})
_NUMBERS = _FLOATS | {"int32"}
_INTS = frozenset({"int32"})
_BOOL = frozenset({"bool"})
_CODES = frozenset({"int8", "uint8"})
_ANY = _NUMBERS | _BOOL | _CODES


@dataclass(frozen=True)
class OpText:
    """Triton of one op: `{0}`, `{1}` are the arguments, `{name}` its attributes; `takes`: legal argument dtypes."""

    text: str
    takes: frozenset[str] = _FLOATS
    attrs: tuple[tuple[str, float], ...] = ()
    arity: int = 1  # -1: any number, folded from the left


OPS: Mapping[str, OpText] = {
    "Identity": OpText("{0}", _ANY | FLOATS8.keys()),
    "Add": OpText("{0} + {1}", _NUMBERS, arity=2),
    "Sub": OpText("{0} - {1}", _NUMBERS, arity=2),
    "Mul": OpText("{0} * {1}", _NUMBERS, arity=2),
    "Div": OpText("tl.div_rn({0}, {1})", arity=2),
    "Max": OpText("at_least({0}, {1})", _NUMBERS, arity=-1),
    "Min": OpText("at_most({0}, {1})", _NUMBERS, arity=-1),
    "Sum": OpText("{0} + {1}", _NUMBERS, arity=-1),
    "Neg": OpText("-{0}", _NUMBERS),
    "Abs": OpText("tl.abs({0})", _NUMBERS),
    "Sign": OpText("sign({0})"),
    "Relu": OpText("at_least({0}, 0)", _NUMBERS),
    "LeakyRelu": OpText("tl.where({0} < 0, {0} * {alpha}, {0})", attrs=(("alpha", 0.01),)),
    "PRelu": OpText("tl.where({0} < 0, {0} * {1}, {0})", arity=2),
    "Sigmoid": OpText("sigmoid({0})"),
    "Tanh": OpText("tanh({0})"),
    "Exp": OpText("tl.exp({0})"),
    "Log": OpText("log({0})"),
    "Sqrt": OpText("tl.sqrt_rn({0})"),
    "Reciprocal": OpText("tl.div_rn(1.0, {0})"),
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
    "Floor": OpText("floor({0})"),
    "Ceil": OpText("ceil({0})"),
    "Round": OpText("round_half_even({0})"),
    "BitwiseAnd": OpText("{0} & {1}", _INTS, arity=2),
    "BitwiseOr": OpText("{0} | {1}", _INTS, arity=2),
    "BitwiseXor": OpText("{0} ^ {1}", _INTS, arity=2),
    "BitwiseNot": OpText("~{0}", _INTS),
    "Equal": OpText("{0} == {1}", _ANY, arity=2),
    "Less": OpText("{0} < {1}", _NUMBERS, arity=2),
    "LessOrEqual": OpText("{0} <= {1}", _NUMBERS, arity=2),
    "Greater": OpText("{0} > {1}", _NUMBERS, arity=2),
    "GreaterOrEqual": OpText("{0} >= {1}", _NUMBERS, arity=2),
    "IsNaN": OpText("{0} != {0}"),
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

#: Helper functions in an order in which each calls only earlier ones. Polynomials are those of cpu/templates/vmath.h.
_HELPERS: Mapping[str, str] = {
    "at_least": """
def at_least(x, bound):
    return tl.maximum(x, bound, propagate_nan=tl.PropagateNan.ALL)
""",
    "at_most": """
def at_most(x, bound):
    return tl.minimum(x, bound, propagate_nan=tl.PropagateNan.ALL)
""",
    "sign": """
def sign(x):
    return tl.where(x > 0, 1.0, tl.where(x < 0, -1.0, x))
""",
    "round_half_even": """
def round_half_even(x):
    size = tl.abs(x)
    whole = tl.where(size < 8388608.0, (size + 8388608.0) - 8388608.0, size)  # float32 has no fraction from 2^23 on
    return tl.where(x < 0, -whole, whole)
""",
    "floor": """
def floor(x):
    # the instruction takes subnormal numbers for zero
    y = tl.floor(x)
    return tl.where((x < 0) & (y == 0), -1.0, y)
""",
    "ceil": """
def ceil(x):
    y = tl.ceil(x)
    return tl.where((x > 0) & (y == 0), 1.0, y)
""",
    "to_code": """
def to_code(x, low, high):
    # clipped before rounding; NaN gives the least code. 1.5 * 2^23 has no fraction: adding it rounds half to even and
    # leaves the whole number, in two's complement, in the lower half of the bits
    return (tl.minimum(tl.maximum(x, low), high) + 12582912.0).to(tl.int32, bitcast=True)
""",
    "hard_sigmoid": """
def hard_sigmoid(x, alpha, alpha_lo, beta):
    # alpha_lo is what float32 loses of alpha: near the zero the product and beta cancel
    small = tl.maximum(tl.minimum(x, 1e6), -1e6)
    line = tl.fma(x, tl.full(x.shape, alpha, tl.float32), tl.full(x.shape, beta, tl.float32))
    return at_most(at_least(tl.fma(small, tl.full(x.shape, alpha_lo, tl.float32), line), 0.0), 1.0)
""",
    "sigmoid": """
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))
""",
    "log": """
def log(x):
    # the library's logarithm takes subnormal numbers for zero
    tiny = x < 1.1754943508222875e-38
    y = tl.log(tl.where(tiny, x * 8388608.0, x))
    return tl.where(tiny, y - 15.942384719848633, y)
""",
    "expm1_negative": """
def expm1_negative(x):
    # e^x - 1 for x <= 0: near zero the difference would cancel
    c = 0.0013814467238262296 * x + 0.008368780836462975
    c = c * x + 0.04166839271783829
    c = c * x + 0.1666651964187622
    c = c * x + 0.4999999403953552
    return tl.where(x > -0.34657, c * x * x + x, tl.exp(x) - 1.0)
""",
    "tanh": """
def tanh(x):
    t = expm1_negative(-2.0 * tl.abs(x))
    y = -t / (2.0 + t)
    return tl.where(x < 0, -y, y)
""",
    "softplus": """
def softplus(x):
    # max(x, 0) + log(1 + z); log(u) * z / (u - 1) corrects for the rounding of u = 1 + z
    z = tl.exp(-tl.abs(x))
    u = 1.0 + z
    y = tl.where(u == 1.0, z, tl.log(u) * (z / (u - 1.0)))
    return at_least(x, 0.0) + y
""",
    "mish": """
def mish(x):
    # tanh(log(1 + w)) = n / (n + 2) for n = w (w + 2), w = e^x
    w = tl.exp(at_most(x, 20.0))
    n = w * (w + 2.0)
    return x * (n / (n + 2.0))
""",
    "gelu": """
def gelu(x):
    # max(x, 0) - a * Phi(-a), a = |x|, Phi(-a) = e^(-a^2 / 2) * r(u), u = 1 / (1 + a / 4): x < 0 cancels nothing
    a = at_most(tl.abs(x), 15.0)
    u = 1.0 / (a * 0.25 + 1.0)
    r = 0.032915133982896805 * u - 0.19065138697624207
    r = r * u + 0.3821832835674286
    r = r * u - 0.31659936904907227
    r = r * u + 0.29062819480895996
    r = r * u - 0.01302616111934185
    r = r * u + 0.11904683709144592
    r = r * u + 0.09535721689462662
    r = r * u + 0.10016454011201859
    r = r * u - 1.82778894668445e-05
    square = a * a
    error = tl.fma(a, a, -square)
    return at_least(x, 0.0) - a * (tl.exp(-0.5 * square) * (r - 0.5 * r * error))
""",
    "gelu_tanh": """
def gelu_tanh(x):
    return x * sigmoid(1.5957691669464111 * (x + x * x * x * 0.044714998453855515))
""",
}


def literal(value: Attr, dtype: str = "float32") -> str:
    """Exact text of the value rounded to `dtype`."""
    if dtype in _FLOATS:
        x = float(numbers(number(value, dtype), dtype))  # type: ignore[arg-type]
        return repr(x) if np.isfinite(x) else f'float("{x}")'
    return str(int(value))  # type: ignore[arg-type]


def _cast(source: str, target: str, arg: str) -> str | None:
    if source == target:
        return arg
    if (source in FLOATS8 or target in FLOATS8) and not {source, target} <= _FLOATS | FLOATS8.keys():
        return None
    return f"{arg} != 0" if target == "bool" else f"{arg}.to({TRITON_TYPES[target]})"


def _clip(instr: Instr, arg: str, dtype: str) -> str:
    attrs = dict(instr.attrs)
    for name, function in (("min", "at_least"), ("max", "at_most")):
        if name in attrs:
            arg = f"{function}({arg}, {literal(attrs[name], dtype)})"
    return arg


def _saturate(instr: Instr, arg: str) -> str:
    """Rounding to a code, its zero point added."""
    low, high = (-128, 127) if instr.dtype == "int8" else (0, 255)
    zero = int(instr.attr("zero_point", 0))  # type: ignore[arg-type]
    return f"(to_code({arg}, {low - zero}.0, {high - zero}.0) + {zero}).to({TRITON_TYPES[instr.dtype]})"


def _expression(instr: Instr, args: Sequence[str], dtypes: Sequence[str]) -> str | None:
    """The Triton expression of one instruction, or None if there is none."""
    if instr.op == "Constant":
        return f"tl.full((1, 1), {literal(instr.attr('value'), instr.dtype)}, {TRITON_TYPES[instr.dtype]})"
    if instr.op == "Cast":
        if instr.dtype in FLOATS8 and not instr.attr("saturate", 1):
            return None  # conversions give the largest number for what is beyond it
        return _cast(dtypes[0], instr.dtype, args[0])
    wide = [widened(a, d) if d in HALVES else a for a, d in zip(args, dtypes, strict=True)]
    text = _operation(instr, wide, dtypes)
    if text is None or instr.dtype not in HALVES:
        return text
    return f"({text}).to({HALVES[instr.dtype]})"


def _operation(instr: Instr, args: Sequence[str], dtypes: Sequence[str]) -> str | None:
    """The expression on arguments that are float32 where the program says halves."""
    if not args:
        return None
    if instr.op == "Clip":
        return _clip(instr, args[0], dtypes[0]) if dtypes[0] in _NUMBERS and len(args) == 1 else None
    if instr.op == "Saturate":
        return _saturate(instr, args[0]) if dtypes == ["float32"] and instr.dtype in _CODES else None
    if instr.op == "Gelu":
        name = "gelu_tanh" if instr.attr("approximate", "none") == "tanh" else "gelu"
        return f"{name}({args[0]})" if dtypes[0] in _FLOATS else None
    if instr.op == "Pow" and len(args) == 1:
        power = _POW.get(float(instr.attr("exponent")))  # type: ignore[arg-type]
        return power.format(*args) if power is not None and dtypes[0] in _FLOATS else None
    op = OPS.get(instr.op)
    if op is None or (op.arity >= 0 and op.arity != len(args)):
        return None
    values = dtypes[1:] if instr.op == "Where" else dtypes
    if any(d not in op.takes for d in values) or len(set(values)) > 1:
        return None
    if (instr.op == "Where" and dtypes[0] != "bool") or (instr.op == "Silu" and instr.attr("alpha", 1.0) != 1.0):
        return None
    attrs = {name: literal(instr.attr(name, default)) for name, default in op.attrs}
    for name, default in op.attrs:
        value = float(instr.attr(name, default))  # type: ignore[arg-type]
        attrs[f"{name}_lo"] = literal(value - float(np.float32(value)))
    if op.arity != -1:
        return op.text.format(*args, **attrs)
    out = args[0]
    for a in args[1:]:
        out = op.text.format(out, a)
    return out


def epilogue_declines(e: Epilogue, accumulator: str = "") -> str | None:
    """Why a Triton tactic cannot apply this program (the region is then split there); None if it can.

    accumulator: dtype the kernel computes; any float if not given.
    """
    for i, o in enumerate(e.operands):
        if i and o.kind == "general":
            return f"operand {i} is broadcast along axes {[a for a, m in enumerate(o.mask) if not m]}"
    if e.operands[0].dtype not in ({accumulator} if accumulator else _FLOATS):
        return f"the accumulator is {e.operands[0].dtype}, not {accumulator or 'a float'}"
    return program_declines(e)


def program_declines(e: Epilogue) -> str | None:
    """Why a program has no Triton form; None if it has."""
    for i, o in enumerate(e.operands):
        if o.dtype not in TRITON_TYPES:
            return f"operand {i} is {o.dtype}"
    for instr in e.instrs:
        if instr.dtype not in TRITON_TYPES:
            return f"{instr.op} gives {instr.dtype}"
        dtypes = [e.dtype_of(a) for a in instr.args]
        if _expression(instr, [f"v{a}" for a in instr.args], dtypes) is None:
            return f"{instr.op} on ({', '.join(dtypes)}) has no Triton form"
    return None


@dataclass(frozen=True)
class Parameter:
    """A pointer parameter of the kernel: its name, its Triton type and the tensor it is."""

    name: str
    type: str
    ref: ArgRef


def epilogue_parameters(e: Epilogue) -> tuple[Parameter, ...]:
    """The pointers the program needs: q1.. for operands 1.. that `epilogue_statements` loads, then o0, o1 .. for all
    results."""
    operands = [
        Parameter(f"q{i}", POINTER_TYPES[o.dtype], ("operand", i))
        for i, o in enumerate(e.operands)
        if i and o.kind != "general"
    ]
    results = [Parameter(f"o{k}", POINTER_TYPES[e.dtype_of(r)], ("output", k)) for k, r in enumerate(e.results)]
    return (*operands, *results)


_LOADS: Mapping[str, str] = {
    "full": "tl.load({q} + row[:, None] * {stride} + channel[None, :], mask=live)",
    "channel": "tl.load({q} + channel[None, :], mask=channel_ok[None, :])",
    "image_channel": "tl.load({q} + image[:, None] * {stride} + channel[None, :], mask=live)",
    "pixel": "tl.load({q} + row[:, None], mask=row_ok[:, None])",
    "image": "tl.load({q} + image[:, None], mask=row_ok[:, None])",
    "scalar": "tl.load({q})",
}


def epilogue_statements(e: Epilogue, *, channels: int | str, row_strides: Sequence[int | None] = ()) -> list[str]:
    """Lines that load the operands, compute and store every result, unindented.

    Operands of kind "general" are loaded by the kernel around them, as v1.. too. channels: size of the output's last
    axis, or the text of it. row_strides: of each result (None or absent: dense).
    ValueError for what `epilogue_declines` names.
    """
    if (reason := program_declines(e)) is not None:
        raise ValueError(reason)
    lines = []
    for i, o in enumerate(e.operands[1:], 1):
        if o.kind == "general":
            continue
        load = _LOADS[o.kind].format(q=f"q{i}", stride=o.row_stride or f"({channels})")
        lines.append(f"v{i} = {load}{' != 0' if o.dtype == 'bool' else ''}")
    for i, instr in enumerate(e.instrs, len(e.operands)):
        args = [f"v{a}" for a in instr.args]
        lines.append(f"v{i} = {_expression(instr, args, [e.dtype_of(a) for a in instr.args])}")
    for k, value in enumerate(e.results):
        stride = (row_strides[k] if k < len(row_strides) else None) or f"({channels})"
        stored = f"v{value}.to(tl.int8)" if e.dtype_of(value) == "bool" else f"v{value}"
        lines.append(f"tl.store(o{k} + row[:, None] * {stride} + channel[None, :], {stored}, mask=live)")
    return lines


def epilogue_helpers(e: Epilogue) -> str:
    """Definitions of the functions the statements call, each preceded by two blank lines; empty if there are none."""
    needed: set[str] = set()
    todo = [_expression(i, [f"v{a}" for a in i.args], [e.dtype_of(a) for a in i.args]) or "" for i in e.instrs]
    while todo:
        text = todo.pop()
        called = {name for name in _HELPERS if _calls(text, name)} - needed
        needed |= called
        todo += [_HELPERS[name] for name in sorted(called)]
    return "".join(f"\n\n@triton.jit{_HELPERS[name]}" for name in _HELPERS if name in needed)


def _calls(text: str, name: str) -> bool:
    """True if the code of `text` calls the helper `name`."""
    return re.search(rf"(?<![\w.]){name}\(", re.sub(r"#.*", "", text)) is not None
