"""Epilogue program -> C text for the CPU templates (needs vec.h and vmath.h before it).

Two forms share the table `OPS` of instructions.py: `epilogue_c` gives the function every anchor template calls once per
register of results, and `body_c` the bare statements, which the pointwise tactic wraps in loops over vectors or typed
scalars.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from temper.tactics.base import ArgRef, Workload
from temper.tactics.cpu.instructions import BYTES, LANE_DTYPES, SCALAR_TYPES, instr_c, literal, saturate_c, zero_point
from temper.tactics.cpu.parabolas import BENDS, Coded, table_c
from temper.tactics.cpu.parabolas import coded as coded_at
from temper.tactics.cpu.ranges import bound, exact_product
from temper.tactics.epilogue import Epilogue, Instr

_FLOAT = frozenset({"float32"})


@cache
def template_text(*names: str) -> str:
    """Concatenated text of files in templates/."""
    folder = Path(__file__).parent / "templates"
    return "\n".join((folder / name).read_text() for name in names)


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
        if instr_c(instr, [f"v{a}" for a in instr.args], dtypes, vector) is None:
            return f"{instr.op} on ({', '.join(dtypes)}) has no C form"
    return None


#: Magnitudes that every conversion to int32 takes.
_CONVERTS = 2.0**31 - 2.0**8


def _exact_sum(e: Epilogue, instr: Instr) -> str | None:
    """A sum in one instruction, where one of its terms is a product without rounding."""
    for product, other in (instr.args, instr.args[::-1]):
        if (factors := exact_product(e, product)) is not None:
            return f"FMA(v{factors[0]}, v{factors[1]}, v{other})"
    return None


def body_c(e: Epilogue, *, vector: bool, wide: int = -1, coded: Coded | None = None) -> str:
    """Statements that compute v<n>.. from v0..v<n-1>, n = number of operands.

    wide: a value that Saturate makes and that is only stored, by st_code(): it is left unsaturated.
    coded: what parabolas, at e->units, compute where registers hold them (vectors only).
    ValueError for what `body_declines` names.
    """
    if (reason := body_declines(e, vector=vector)) is not None:
        raise ValueError(reason)
    lines = []
    for i, instr in enumerate(e.instrs, len(e.operands)):
        args = [f"v{a}" for a in instr.args]
        text = instr_c(instr, args, [e.dtype_of(a) for a in instr.args], vector)
        if vector and instr.op == "Add" and instr.dtype == "float32":
            text = _exact_sum(e, instr) or text
        if i == wide:
            text = saturate_c(instr, args[0], "v_wide_within" if bound(e, instr.args[0]) <= _CONVERTS else "v_wide")
        ctype = SCALAR_TYPES[instr.dtype] if not vector else "vf" if instr.dtype == "float32" else "vi"
        line = f"  const {ctype} v{i} = {text};"
        if coded is not None and i == coded.function:
            line = f"#if VL != 16\n{line}\n#endif"
        elif coded is not None and i == coded.quotient:
            x = e.instrs[coded.function - len(e.operands)].args[0]
            near = f"  const vf v{i} = v_parabola(v{x}, e->units, {literal(BENDS[coded.name].step)});"
            line = f"#if VL == 16\n{near}\n#else\n{line}\n#endif"
        lines.append(line)
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
    if dtype in BYTES:
        return f"st_byte((uint8_t *){pointer} + {offset}, {value}, n);"
    return f"st_bool((uint8_t *){pointer} + {offset}, {value}, n);"


def epilogue_args(e: Epilogue) -> tuple[ArgRef, ...]:
    """The pointers `epi_init` reads from p[first_arg] on: operands 1.., then results 1.. (templates store result 0)."""
    return (*(("operand", i) for i in range(1, len(e.operands))), *(("output", i) for i in range(1, len(e.results))))


def epilogue_c(e: Epilogue, *, first_arg: int, channels: int, row_strides: Sequence[int | None] = ()) -> str:
    """C text of `epi_t`, `epi_init(e, p)`, `epilogue(v0, e, img, pix, c, n)` and `epi_store(out, at, v, n)`, which
    stores what epilogue() returns as elements `at`.. of result 0. EPI_CODES: v_codes() may do so for four registers,
    with EPI_ZERO and EPI_SIGNED.

    first_arg: index in `p` of the first pointer of `epilogue_args`.
    channels: size of the output's last axis.
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
        zero, signed = zero_point(e.instrs[wide - len(e.operands)]), int(first == "int8")
        store = f"st_code((uint8_t *)out + at, v, n, {zero}, {signed});"
        codes = ["#define EPI_CODES 1", f"#define EPI_ZERO ({zero})", f"#define EPI_SIGNED {signed}"]
    init = [f"  e->q[{i}] = p[{first_arg + i}];" for i in range(n)]
    init += [f"  e->o[{k}] = p[{first_arg + n + k}];" for k in range(m)]
    near = coded_at(e, wide) if wide >= 0 and e.operands[0].dtype == "int32" else None
    fields = f"const void *q[{max(n, 1)}]; void *o[{max(m, 1)}];"
    if near is not None:
        codes += ["#if VL == 16", table_c(near.name), "#endif"]
        fields += " const float *units; float own[96] __attribute__((aligned(64)));"
        unit = f"((const float *)e->q[{near.unit - 1}])[0]"
        init += ["#if VL == 16", f"  v_in_units(e->own, parabolas[0], {unit}), e->units = e->own;", "#endif"]
    return "\n".join([
        *codes,
        f"typedef struct {{ {fields} }} epi_t;",
        "INLINE void epi_init(epi_t *e, void *const *p) {", *(init or ["  (void)e; (void)p;"]), "}",
        f"INLINE {vector[first]} epilogue({vector[e.operands[0].dtype]} v0, const epi_t *e, int64_t img, int64_t pix, "
        "int64_t c, int n) {",
        *loads, body_c(e, vector=True, wide=wide, coded=near), *stores,
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
