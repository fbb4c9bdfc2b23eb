"""Histogram of |x| for calibration on a CUDA GPU, in stages: extremes of each part, counts of bins, result.

Counts are integers: the order in which they are added does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence

from temper.ir.dims import Dim, DimLike
from temper.reference.histogram import BINS, LEAST
from temper.tactics.base import Workload
from temper.tactics.cuda.direct import Direct, Stage, pointer, scratch
from temper.tactics.cuda.epilogue_triton import Parameter

#: Most blocks that share the values, and values a block looks at at once. A block's extremes are _STATS integers.
_PARTS, _PIECE, _STATS = 128, 2048, 4

_FUNCTIONS = """

@triton.jit
def exponent(stats, PARTS: tl.constexpr, BIAS: tl.constexpr):
    # bins so wide that the largest finite magnitude is in the upper half of them
    p = tl.arange(0, PARTS) * 4
    low = tl.min(tl.load(stats + p).to(tl.float32, bitcast=True))
    high = tl.max(tl.load(stats + p + 1).to(tl.float32, bitcast=True))
    size = tl.where(low <= high, tl.maximum(-low, high), 0.0) + 0.0
    return (size.to(tl.int32, bitcast=True) >> 23) - BIAS, low + 0.0, high + 0.0
"""

_EXTREMES = """
part = tl.program_id(0)
low = tl.full((PIECE,), float("inf"), tl.float32)
high = tl.full((PIECE,), float("-inf"), tl.float32)
zeros = tl.zeros((PIECE,), tl.int32)
odd = tl.zeros((PIECE,), tl.int32)
for start in range(part * PIECE, COUNT, PARTS * PIECE):
    i = start + tl.arange(0, PIECE)
    live = i < COUNT
    v = tl.load(x + i, mask=live, other=0.0)
    finite = (v.to(tl.int32, bitcast=True) & 2139095040) != 2139095040
    low = tl.where(live & finite & (v < low), v, low)
    high = tl.where(live & finite & (v > high), v, high)
    zeros += (live & (v == 0)).to(tl.int32)
    odd += (live & (finite == 0)).to(tl.int32)
tl.store(stats + part * 4, tl.min(low).to(tl.int32, bitcast=True))
tl.store(stats + part * 4 + 1, tl.max(high).to(tl.int32, bitcast=True))
tl.store(stats + part * 4 + 2, tl.sum(zeros))
tl.store(stats + part * 4 + 3, tl.sum(odd))
b = part * (BINS // PARTS) + tl.arange(0, BINS // PARTS)
tl.store(stats + 4 * PARTS + b, tl.zeros((BINS // PARTS,), tl.int32))
"""

_COUNTS = """
part = tl.program_id(0)
e, low, high = exponent(stats, PARTS, BIAS)
# 2^-e may be beyond float32: two factors, of which the first never makes a value that counts denormal
half = -e // 2
f = ((half + 127) << 23).to(tl.float32, bitcast=True)
g = ((-e - half + 127) << 23).to(tl.float32, bitcast=True)
for start in range(part * PIECE, COUNT, PARTS * PIECE):
    i = start + tl.arange(0, PIECE)
    v = tl.load(x + i, mask=i < COUNT, other=0.0)
    counted = ((v.to(tl.int32, bitcast=True) & 2139095040) != 2139095040) & (v != 0) & (i < COUNT)
    bin = (tl.where(counted, tl.abs(v), 0.0) * f * g).to(tl.int32)
    tl.atomic_add(stats + 4 * PARTS + bin, 1, mask=counted)
"""

_VECTOR = """
e, low, high = exponent(stats, PARTS, BIAS)
p = tl.arange(0, PARTS) * 4
zeros = tl.sum(tl.load(stats + p + 2)).to(tl.int64)
b = tl.arange(0, BINS)
counts = tl.load(stats + 4 * PARTS + b).to(tl.int64)
tl.store(y + b, counts + tl.where(b == 0, zeros, 0))
tl.store(y + BINS, e.to(tl.int64))
tl.store(y + BINS + 1, zeros)
tl.store(y + BINS + 2, low.to(tl.int32, bitcast=True).to(tl.int64))
tl.store(y + BINS + 3, high.to(tl.int32, bitcast=True).to(tl.int64))
tl.store(y + BINS + 4, tl.sum(tl.load(stats + p + 3)).to(tl.int64))
"""


class Histogram(Direct):
    """Two passes over the values, shared by a fixed number of blocks."""

    name = "cuda.histogram"
    ops = frozenset({"Histogram"})

    def declines(self, w: Workload) -> str | None:
        x = w.inputs[0]
        assert x is not None
        if x.type.dtype != "float32":
            return f"counts float32, not {x.type.dtype}"
        count = x.type.count
        return None if isinstance(count, Dim) or count < 1 << 31 else "it counts less than 2^31 values"

    def stages(self, w: Workload) -> tuple[Sequence[Parameter], Sequence[Stage], DimLike]:
        x = w.inputs[0]
        assert x is not None
        count = x.type.count
        parts = _PARTS if isinstance(count, Dim) else min(_PARTS, 1 << max(0, -(-count // _PIECE) - 1).bit_length())
        sizes: dict[str, DimLike] = {
            "COUNT": count,
            "PARTS": parts,
            "PIECE": _PIECE,
            "BINS": BINS,
            "BIAS": -LEAST,
        }
        pointers = [pointer(w, "input", 0, "x"), pointer(w, "output", 0, "y"), scratch("stats", "*i32")]
        stages = [
            Stage(_EXTREMES, parts, sizes),
            Stage(_COUNTS, parts, sizes, 4, _FUNCTIONS),
            Stage(_VECTOR, 1, sizes, 8, _FUNCTIONS),
        ]
        return pointers, stages, 4 * (_STATS * parts + BINS)
