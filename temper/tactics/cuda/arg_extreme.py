"""ArgMax and ArgMin on a CUDA GPU, by lines of outputs as other reductions (reduce_lines.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

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
from temper.tactics.cuda.source import kernel_of, stores

#: Elements of a block, each with its position in 64 bits, that fit in registers.
_HELD = 2048


class ArgExtreme:
    """ArgMax and ArgMin along one axis; NaN counts as the extreme, as in numpy. Parameters as Reduce has them."""

    name = "cuda.arg_extreme"
    ops = frozenset({"ArgMax", "ArgMin"})

    def accepts(self, w: Workload) -> str | None:
        if w.op not in self.ops:
            return f"computes ArgMax and ArgMin, not {w.op}"
        if (reason := level_declines(w)) is not None:
            return reason
        x = w.inputs[0] if w.inputs else None
        if x is None or x.type.rank == 0:
            return "the input must have axes"
        if x.type.dtype == "bool" or not accumulator("ReduceMax", x.type.dtype):
            return f"{x.type.dtype} has no Triton form"
        if 0 in w.outputs[0].type.shape:
            return "it computes no element"
        if any(i and o.kind == "general" for i, o in enumerate(w.epilogue.operands)):
            return "an operand is broadcast along inner axes"
        return program_declines(w.epilogue)

    def candidates(self, w: Workload) -> Sequence[Params]:
        found = list(line_blockings(self._lines(w), False, CODES_AT_ONCE if handles_codes(w) else 1))
        found = [p for p in found if dict(p)["line"] * dict(p)["depth"] <= _HELD]
        return sorted(found, key=lambda p: self.predict(w, p))

    def predict(self, w: Workload, params: Params) -> float:
        return line_seconds(w, self._lines(w), params)

    @staticmethod
    def _lines(w: Workload) -> Lines:
        x, axis = w.inputs[0], w.attr("axis", 0)
        assert x is not None and isinstance(axis, int)
        return lines_of(w, frozenset({axis % x.type.rank}), bool(w.attr("keepdims", 1)))

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        x, lines, p = w.inputs[0], self._lines(w), dict(params)
        assert x is not None
        dtype = x.type.dtype
        acc, largest = accumulator("ReduceMax", dtype), w.op == "ArgMax"
        last = bool(w.attr("select_last_index", 0))
        start = start_text("lowest" if largest else "highest", dtype, acc)
        load = loaded("tl.load(x_at + base[:, None] + place[None, :], mask=taken, other=0)", dtype, acc)
        better = f"(x {'>' if largest else '<'}{'=' if last else ''} best)"
        nan = ""
        if acc.startswith("float"):
            # nothing is better than a NaN but, if the last is asked for, another
            better = f"({better} & (best == best)) | ((x != x){'' if last else ' & (best == best)'})"
            nan = "nan = tl.max((best != best).to(tl.int32), axis=1)[:, None] > 0\n"
        # lanes that met nothing have index -1; positions of what equals the extreme compete
        body = f"""\
tile = tl.program_id(0)
{lines.head()}best = tl.full((LINE, DEPTH), {start}, {TRITON_TYPES[acc]})
index = tl.full((LINE, DEPTH), -1, tl.int64)
for first in range(0, COUNT, DEPTH):
    k = first + tl.arange(0, DEPTH).to(tl.int64)
    place = {lines.element()}
    taken = line_ok[:, None] & (k < COUNT)[None, :]
    x = {load}
    wins = taken & (({better}) | (index < 0))
    best = tl.where(wins, x, best)
    index = tl.where(wins, k[None, :], index)
{nan}extreme = tl.{'max' if largest else 'min'}(best, axis=1)[:, None]
has = (index >= 0) & ({'tl.where(nan, best != best, best == extreme)' if nan else 'best == extreme'})
"""
        absent = "-1" if last else "0x7FFFFFFFFFFFFFFF"
        pick = "max" if last else "min"
        made = w.epilogue.operands[0].dtype
        body += f"v0 = tl.{pick}(tl.where(has, index, {absent}), axis=1).to({TRITON_TYPES[made]}){lines.spread}\n"
        inputs = [Parameter("x_at", POINTER_TYPES[dtype], ("input", 0))]
        return kernel_of(
            w, entry, f"{w.op} of {dtype}.", inputs, line_sizes(w, lines, params), body + stores(w),
            grid=lines.blocks(p["line"]), warps=p["warps"], stages=2,
        )  # fmt: skip

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()
