"""Reductions over any axes on a CUDA GPU.

A block computes a line of outputs that are neighbours along the output's last axis (or its rows where that has one
element), and reads their elements in steps. Where outputs are few and elements many, the elements are split among
blocks as well, and a second launch joins the partial results: the order of additions depends only on the shape and the
parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import indent

import numpy as np

from temper.ir.dims import ceil_div
from temper.ir.types import itemsize
from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cuda.epilogue_triton import Parameter, program_declines
from temper.tactics.cuda.instructions import POINTER_TYPES, TRITON_TYPES
from temper.tactics.cuda.levels import level_declines
from temper.tactics.cuda.reduce_lines import (
    CODES_AT_ONCE,
    Lines,
    accumulator,
    handles_codes,
    line_blockings,
    line_seconds,
    line_sizes,
    lines_of,
    loaded,
    start_text,
)
from temper.tactics.cuda.source import Stage, kernel_of, stores
from temper.tactics.geometry import reduced_axes


@dataclass(frozen=True)
class _Kind:
    """element: of x, as it joins the total. join: of two totals a and b. finish: the result from `total`."""

    element: str = "x"
    join: str = "{a} + {b}"
    finish: str = "total"
    start: str = "zero"  # or one, lowest, highest


_KINDS: Mapping[str, _Kind] = {
    "ReduceSum": _Kind(),
    "ReduceMean": _Kind(finish="total / COUNT"),
    "ReduceMax": _Kind(join="larger({a}, {b})", start="lowest"),
    "ReduceMin": _Kind(join="smaller({a}, {b})", start="highest"),
    "ReduceProd": _Kind(join="{a} * {b}", start="one"),
    "ReduceL1": _Kind("tl.abs(x)"),
    "ReduceL2": _Kind("x * x", finish="tl.sqrt_rn(total)"),
    "ReduceSumSquare": _Kind("x * x"),
    "ReduceLogSum": _Kind(finish="tl.log(total)"),
    "ReduceLogSumExp": _Kind(),
}
#: Kinds whose result is not a whole number.
_REAL = frozenset({"ReduceL2", "ReduceLogSum", "ReduceLogSumExp"})

_HELPERS: Mapping[str, str] = {
    "larger": "tl.maximum(a, b, propagate_nan=tl.PropagateNan.ALL)",
    "smaller": "tl.minimum(a, b, propagate_nan=tl.PropagateNan.ALL)",
    "times": "a * b",
}


class Reduce:
    """ReduceSum, Mean, Max, Min, Prod, L1, L2, SumSquare, LogSum and LogSumExp.

    Parameters. line: outputs of a block. depth: elements of a step. splits: blocks that share an output's elements.
    """

    name = "cuda.reduce"
    ops = frozenset(_KINDS)

    def accepts(self, w: Workload) -> str | None:
        if w.op not in _KINDS:
            return f"computes {', '.join(_KINDS)}, not {w.op}"
        if (reason := level_declines(w)) is not None:
            return reason
        x = w.inputs[0] if w.inputs else None
        if x is None or x.type.rank == 0:
            return "a reduction needs an input with axes"
        dtype = x.type.dtype
        if not accumulator(w.op, dtype) or (w.op in _REAL and not dtype.startswith(("float", "bfloat"))):
            return f"{w.op} of {dtype} has no Triton form"
        if 0 in w.outputs[0].type.shape:
            return "it computes no element"
        if any(i and o.kind == "general" for i, o in enumerate(w.epilogue.operands)):
            return "an operand is broadcast along inner axes"
        return program_declines(w.epilogue)

    def candidates(self, w: Workload) -> Sequence[Params]:
        found = list(line_blockings(self._lines(w), True, CODES_AT_ONCE if handles_codes(w) else 1))
        return sorted(found, key=lambda p: self.predict(w, p))

    def predict(self, w: Workload, params: Params) -> float:
        return line_seconds(w, self._lines(w), params)

    @staticmethod
    def _lines(w: Workload) -> Lines:
        return lines_of(w, reduced_axes(w), bool(w.attr("keepdims", 1)))

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        x, kind, lines, p = w.inputs[0], _KINDS[w.op], self._lines(w), dict(params)
        assert x is not None
        dtype = x.type.dtype
        acc = accumulator(w.op, dtype)
        exponential = w.op == "ReduceLogSumExp"
        inputs = [Parameter("x_at", POINTER_TYPES[dtype], ("input", 0))]
        sizes, start = line_sizes(w, lines, params), start_text(kind.start, dtype, acc)
        load = loaded("tl.load(x_at + base[:, None] + place[None, :], mask=taken, other=0)", dtype, acc)
        step = f"k = first + tl.arange(0, DEPTH).to(tl.int64)\nplace = {lines.element()}\n"
        step += f"taken = line_ok[:, None] & (k < LAST)[None, :]\nx = {load}\n"
        pick = step + f"x = tl.where(taken, {kind.element}, {start})\ntotal = {kind.join.format(a='total', b='x')}\n"
        if exponential:
            sink = 'x = tl.where(taken, x, float("-inf"))\n'
            body = _loop("top", 'float("-inf")', acc, step + sink + "top = larger(top, x)\n")
            body += f"{_reduced('ReduceMax', 'top')}{_SHIFT}"
            body += _loop("total", "0.0", acc, step + f"{sink}total += tl.exp(x - shift[:, None])\n")
        else:
            body = _loop("total", start, acc, pick)
        body += _reduced(w.op, "total")
        finish = _finish(w, kind, dtype, lines)
        helpers = "".join(f"\n\n@triton.jit\ndef {n}(a, b):\n    return {t}\n" for n, t in _HELPERS.items())
        about = f"{w.op} over {len(lines.reduced)} runs of axes."
        blocks, splits = lines.blocks(p["line"]), p["splits"]
        if splits == 1:
            body = f"tile = tl.program_id(0)\n{lines.head()}FIRST = 0\nLAST = COUNT\n{body}{finish}"
            return kernel_of(
                w, entry, about, inputs, sizes, body, helpers=helpers, grid=blocks, warps=p["warps"], stages=2
            )  # fmt: skip
        outputs = lines.rows * lines.channels
        parts = 2 if exponential else 1
        inputs.append(Parameter("found", POINTER_TYPES[acc], ("shared", 0)))
        sizes |= {"OUTPUTS": outputs, "SHARE": ceil_div(lines.count, splits)}
        flat = "(at_row * CHANNELS + at_channel)"
        before = f"tile = tl.program_id(0) // SPLITS\nsplit = tl.program_id(0) % SPLITS\n{lines.head()}"
        before += f"FIRST = split * SHARE\nLAST = tl.minimum(FIRST + SHARE, COUNT)\n{body}"
        before += f"tl.store(found + split * OUTPUTS + {flat}, total, mask=line_ok)\n"
        if exponential:
            before += f"tl.store(found + (SPLITS + split) * OUTPUTS + {flat}, top, mask=line_ok)\n"
        after = f"tile = tl.program_id(0)\n{lines.head()}s = tl.arange(0, SPLITS)\n"
        after += f"place = found + s[None, :] * OUTPUTS + {flat}[:, None]\n"
        after += "taken = line_ok[:, None] & (s < SPLITS)[None, :]\n"
        if exponential:
            after += 'top = tl.load(place + SPLITS * OUTPUTS, mask=taken, other=float("-inf"))\ntops = top\n'
            after += f"{_reduced('ReduceMax', 'top')}{_SHIFT}"
            after += "total = tl.load(place, mask=taken, other=0.0)\n"
            after += 'total = tl.where(tops == float("-inf"), 0.0, total * tl.exp(tops - shift[:, None]))\n'
        else:
            after += f"total = tl.load(place, mask=taken, other=0)\ntotal = tl.where(taken, total, {start})\n"
        after += _reduced(w.op, "total") + finish
        stage = Stage(before, blocks * splits, p["warps"], 2)
        return kernel_of(
            w, entry, about, inputs, sizes, after, helpers=helpers, grid=blocks, warps=4, before=(stage,),
            scratch=outputs * (splits * parts * itemsize(acc)),
        )  # fmt: skip

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()


_SHIFT = 'shift = tl.where(tl.abs(top) < float("inf"), top, 0.0)\n'


def _loop(name: str, start: str, acc: str, step: str) -> str:
    """Statements that join the elements FIRST .. LAST in `name` [LINE, DEPTH]."""
    kind = TRITON_TYPES[acc]
    return f"{name} = tl.full((LINE, DEPTH), {start}, {kind})\nfor first in range(FIRST, LAST, DEPTH):\n" + indent(
        step, "    "
    )


def _reduced(op: str, name: str) -> str:
    """The statement that joins what a line's lanes hold."""
    function = {"ReduceMax": "larger", "ReduceMin": "smaller", "ReduceProd": "times"}.get(op)
    return f"{name} = tl.reduce({name}, 1, {function})\n" if function else f"{name} = tl.sum({name}, axis=1)\n"


def _finish(w: Workload, kind: _Kind, dtype: str, lines: Lines) -> str:
    """Statements from `total` [LINE] to the stores."""
    text = kind.finish
    if dtype == "float64":
        text = text.replace("sqrt_rn", "sqrt")
    if w.op == "ReduceLogSumExp":
        text = "tl.log(total) + shift"
    elif w.op == "ReduceMean" and not dtype.startswith(("float", "bfloat")):  # divided toward zero
        text = "(total.to(tl.float64) / COUNT).to(tl.int64)"
    made = w.epilogue.operands[0].dtype
    cast = " != 0" if made == "bool" else f".to({TRITON_TYPES[made]})"
    return f"v0 = (({text}){cast}){lines.spread}\n" + stores(w)
