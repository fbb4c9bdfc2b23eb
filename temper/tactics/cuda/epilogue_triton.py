"""Renders an epilogue program as Triton text that is applied to a tile of results; CPU: tactics/cpu/render.py.

The text is plain statements for the body of a kernel plus the helper functions they call. The kernel around it defines,
for a tile of BM rows (flat index over all axes but the last) and BN channels:

    v0: [BM, BN], the anchor's results    row: [BM], wide enough for row * channels    image: [BM], index along axis 0
    channel: [BN]    row_ok: [BM]    channel_ok: [BN]    live: [BM, BN], row_ok and channel_ok

Multiplications and additions are rounded separately (the compiler runs with contraction off); Div and Sqrt are IEEE's.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from temper.tactics.base import ArgRef
from temper.tactics.cuda.formats import HELPERS as FORMATS
from temper.tactics.cuda.functions import HELPERS as FUNCTIONS
from temper.tactics.cuda.indexing import HELPERS as INDEXING
from temper.tactics.cuda.instructions import POINTER_TYPES as POINTER_TYPES
from temper.tactics.cuda.instructions import TRITON_TYPES as TRITON_TYPES
from temper.tactics.cuda.instructions import expression
from temper.tactics.cuda.loads import HALVES
from temper.tactics.cuda.rounding import HELPERS as ROUNDING
from temper.tactics.cuda.shortcuts import with_shortcuts
from temper.tactics.epilogue import Epilogue

_FLOATS = frozenset({"float32", *HALVES})
#: Helper functions in an order in which each calls only earlier ones.
_HELPERS: Mapping[str, str] = {**FORMATS, **FUNCTIONS, **ROUNDING, **INDEXING}


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
        if expression(instr, [f"v{a}" for a in instr.args], dtypes) is None:
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
    e = with_shortcuts(e)
    lines = []
    for i, o in enumerate(e.operands[1:], 1):
        if o.kind == "general":
            continue
        load = _LOADS[o.kind].format(q=f"q{i}", stride=o.row_stride or f"({channels})")
        lines.append(f"v{i} = {load}{' != 0' if o.dtype == 'bool' else ''}")
    for i, instr in enumerate(e.instrs, len(e.operands)):
        args = [f"v{a}" for a in instr.args]
        lines.append(f"v{i} = {expression(instr, args, [e.dtype_of(a) for a in instr.args])}")
    for k, value in enumerate(e.results):
        stride = (row_strides[k] if k < len(row_strides) else None) or f"({channels})"
        stored = f"v{value}.to(tl.int8)" if e.dtype_of(value) == "bool" else f"v{value}"
        lines.append(f"tl.store(o{k} + row[:, None] * {stride} + channel[None, :], {stored}, mask=live)")
    return lines


def program_function(name: str, e: Epilogue) -> str:
    """A function of operand 0 that gives the first result of a program of one operand, preceded by two blank lines;
    it calls what `epilogue_helpers` defines."""
    lines = [
        f"    v{i} = {expression(instr, [f'v{a}' for a in instr.args], [e.dtype_of(a) for a in instr.args])}\n"
        for i, instr in enumerate(e.instrs, 1)
    ]
    return f"\n\n@triton.jit\ndef {name}(v0):\n{''.join(lines)}    return v{e.results[0]}\n"


def epilogue_helpers(e: Epilogue, body: str = "") -> str:
    """Definitions of the functions that the statements, and a kernel's `body`, call, each preceded by two blank lines;
    empty if there are none."""
    needed: set[str] = set()
    e = with_shortcuts(e)
    todo = [expression(i, [f"v{a}" for a in i.args], [e.dtype_of(a) for a in i.args]) or "" for i in e.instrs]
    todo.append(body)
    while todo:
        text = todo.pop()
        called = (_called(text) & _HELPERS.keys()) - needed
        needed |= called
        todo += [_HELPERS[name] for name in sorted(called)]
    text = "".join(f"\n\n@triton.jit{_HELPERS[name]}" for name in _HELPERS if name in needed)
    return f"\nfrom triton.language.extra.cuda import libdevice\n{text}" if "libdevice." in text else text


def _called(text: str) -> set[str]:
    """Names that the code of `text` calls, but for those behind a dot."""
    return set(re.findall(r"(?<![\w.])(\w+)\(", re.sub(r"#.*", "", text)))
