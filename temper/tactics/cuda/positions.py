"""NonZero on a CUDA GPU: indices of elements that are not zero, in order, zeros behind them, and how many there are.

NaN counts as not zero. One block does it all: where a row of indices goes depends on all elements before it.
"""

from __future__ import annotations

from collections.abc import Sequence

from temper.ir.dims import DimLike
from temper.tactics.base import Workload
from temper.tactics.cuda.direct import Direct, Stage, pointer
from temper.tactics.cuda.epilogue_triton import Parameter
from temper.tactics.cuda.instructions import BIT_TYPES, POINTER_TYPES
from temper.tactics.cuda.loads import FLOATS8

_PIECE = 4096


class Positions(Direct):
    """Counted and written a piece at a time."""

    name = "cuda.positions"
    ops = frozenset({"Positions"})
    seconds = 1e-9

    def declines(self, w: Workload) -> str | None:
        x = w.inputs[0]
        assert x is not None
        if x.type.dtype not in POINTER_TYPES or x.type.dtype in (*BIT_TYPES, *FLOATS8):
            return f"{x.type.dtype} has no Triton form"
        return None if x.type.static else "its size is not known at build"

    def stages(self, w: Workload) -> tuple[Sequence[Parameter], Sequence[Stage], DimLike]:
        x = w.inputs[0]
        assert x is not None
        shape = [max(1, int(str(d))) for d in x.type.shape]
        rank, count = len(shape), int(str(x.type.count))
        lines = [
            "found = tl.full((), 0, tl.int64)",
            "for start in range(0, COUNT, PIECE):",
            "    i = start + tl.arange(0, PIECE)",
            "    taken = (tl.load(x + i, mask=i < COUNT, other=0) != 0) & (i < COUNT)",
            "    one = taken.to(tl.int32)",
            "    row = found + tl.cumsum(one, 0) - 1",
        ]
        below = 1
        for a in reversed(range(rank)):
            whole = f"i // {below} % {shape[a]}"
            lines.append(f"    tl.store(rows + row * {rank} + {a}, ({whole}).to(tl.int64), mask=taken)")
            below *= shape[a]
        lines += [
            "    found += tl.sum(one)",
            f"for start in range(0, COUNT * {rank}, PIECE):",
            "    i = start + tl.arange(0, PIECE)",
            f"    rest = (i >= found * {rank}) & (i < COUNT * {rank})",
            "    tl.store(rows + i, tl.zeros((PIECE,), tl.int64), mask=rest)",
            "tl.store(number, found)",
        ]
        pointers = [pointer(w, "input", 0, "x"), pointer(w, "output", 0, "rows"), pointer(w, "output", 1, "number")]
        return pointers, [Stage("\n".join(lines), 1, {"COUNT": count, "PIECE": _PIECE}, 8)], 0
