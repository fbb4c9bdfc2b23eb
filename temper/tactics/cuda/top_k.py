"""TopK along any axis on a CUDA GPU.

Elements of at most 32 bits become integers that order as (element, position) do: equal ones keep their order, and NaN
is above all numbers. A block sorts its lines a piece at a time and keeps the best of what it had and the new piece. For
wider elements a block looks for the best, then for the best of those that come after it, and so on.
"""

from __future__ import annotations

from collections.abc import Sequence

from temper.ir.dims import Dim, DimLike, ceil_div, product
from temper.ir.types import itemsize
from temper.tactics.base import Workload
from temper.tactics.cuda.direct import Direct, Stage, pointer
from temper.tactics.cuda.epilogue_triton import Parameter

_DTYPES = frozenset({"float32", "float16", "bfloat16", "int8", "uint8", "int16", "uint16", "int32", "uint32"})

#: Elements sorted at once, but for more being asked for; and the most that can be.
_PIECE, _MOST = 1024, 4096

_FUNCTIONS = """

@triton.jit
def order_of(x, FLOATS: tl.constexpr, SHIFT: tl.constexpr, MASK: tl.constexpr, LARGEST: tl.constexpr):
    if FLOATS:
        f = x.to(tl.float32) + 0.0  # one zero
        b = f.to(tl.int32, bitcast=True)
        rank = tl.where(f != f, 2147483647, b ^ ((b >> 31) & 2147483647)).to(tl.int64)
    else:
        rank = (x.to(tl.int64) & MASK) - SHIFT if MASK != 0 else x.to(tl.int64)
    return rank if LARGEST else -1 - rank
"""

_BODY = """
line = (tl.program_id(0).to(tl.int64) * LINES + tl.arange(0, LINES))[:, None]
known = line < ALL
base = line // INNER * LENGTH * INNER + line % INNER
least = -9223372036854775807 - 1
best = tl.full((LINES, KEPT), least, tl.int64)
for start in range(0, LENGTH, PIECE):
    i = (start + tl.arange(0, PIECE))[None, :]
    live = known & (i < LENGTH)
    rank = order_of(tl.load(x + base + i.to(tl.int64) * INNER, mask=live, other=0), FLOATS, SHIFT, MASK, LARGEST)
    key = tl.where(live, (rank << 32) | (4294967295 - i.to(tl.int64)), least)
    if tl.max(tl.max(key, 1), 0) > tl.min(tl.min(best, 1), 0):
        top = tl.topk(key, KEPT)
        best = tl.topk(tl.reshape(tl.join(best, top), (LINES, 2 * KEPT)), KEPT)
place = 4294967295 - (best & 4294967295)
k = tl.arange(0, KEPT)[None, :]
live = known & (k < K)
to = line // INNER * K * INNER + line % INNER + k.to(tl.int64) * INNER
tl.store(y + to, tl.load(x + base + place * INNER, mask=live), mask=live)
tl.store(index + to, place, mask=live)
"""


class TopK(Direct):
    """A few short lines, or one long one, a block."""

    name = "cuda.top_k"
    ops = frozenset({"TopK"})
    seconds = 2e-9

    def declines(self, w: Workload) -> str | None:
        y = w.outputs[0].type
        if y.dtype not in _DTYPES:
            return f"orders elements of at most 32 bits, not {y.dtype}"
        k = y.shape[int(str(w.attr("axis"))) % y.rank]
        if not isinstance(k, int):
            return "the number of elements asked for is not known at build"
        return f"sorts at most {_MOST} elements, not {k}" if k > _MOST else None

    def stages(self, w: Workload) -> tuple[Sequence[Parameter], Sequence[Stage], DimLike]:
        x, y = w.inputs[0], w.outputs[0].type
        assert x is not None
        axis = int(str(w.attr("axis"))) % y.rank
        k, inner = int(str(y.shape[axis])), product(y.shape[axis + 1 :])
        kept = max(2, 1 << max(0, k - 1).bit_length())
        length = x.type.shape[axis]
        piece = _PIECE if isinstance(length, Dim) else min(_PIECE, 1 << max(1, length - 1).bit_length())
        unsigned = 8 * itemsize(y.dtype) if y.dtype.startswith("uint") else 0
        piece = max(kept, piece)
        count = product(y.shape[:axis]) * inner
        lines = max(1, _PIECE // piece)
        lines = lines if isinstance(count, Dim) else min(lines, 1 << max(0, count - 1).bit_length())
        sizes: dict[str, DimLike] = {
            "ALL": count,
            "LINES": lines,
            "LENGTH": length,
            "INNER": inner,
            "K": k,
            "KEPT": kept,
            "PIECE": piece,
            "FLOATS": int("float" in y.dtype),
            # an unsigned type is shifted into int32's range
            "SHIFT": 1 << 31 if unsigned == 32 else 0,
            "MASK": (1 << unsigned) - 1,
            "LARGEST": int(str(w.attr("largest", 1))),
        }
        body = _BODY if 0 not in y.shape else "pass"
        pointers = [pointer(w, "input", 0, "x"), pointer(w, "output", 0, "y"), pointer(w, "output", 1, "index")]
        return pointers, [Stage(body, ceil_div(count, lines), sizes, 8, _FUNCTIONS)], 0


_WIDE_FUNCTIONS = """

@triton.jit
def wide_order(x, FLOATS: tl.constexpr, UNSIGNED: tl.constexpr, LARGEST: tl.constexpr):
    if FLOATS:
        f = x + 0.0  # one zero
        b = f.to(tl.int64, bitcast=True)
        rank = tl.where(f != f, 9223372036854775807, b ^ ((b >> 63) & 9223372036854775807))
    elif UNSIGNED:
        rank = x.to(tl.int64, bitcast=True) ^ (-9223372036854775807 - 1)
    else:
        rank = x
    return rank if LARGEST else -1 - rank
"""

_WIDE_BODY = """
line = tl.program_id(0).to(tl.int64)
base = line // INNER * LENGTH * INNER + line % INNER
last = tl.full((), 9223372036854775807, tl.int64)
after = tl.full((), -1, tl.int64)
for k in range(K):
    best = tl.full((), -9223372036854775807 - 1, tl.int64)
    first = tl.full((), LENGTH, tl.int64)
    for start in range(0, LENGTH, PIECE):
        i = start + tl.arange(0, PIECE).to(tl.int64)
        live = i < LENGTH
        rank = wide_order(tl.load(x + base + i * INNER, mask=live, other=0), FLOATS, UNSIGNED, LARGEST)
        left = live & ((rank < last) | ((rank == last) & (i > after)))
        top = tl.max(tl.where(left, rank, -9223372036854775807 - 1))
        place = tl.min(tl.where(left & (rank == top), i, LENGTH))
        better = (place < LENGTH) & ((first == LENGTH) | (top > best))
        best = tl.where(better, top, best)
        first = tl.where(better, place, first)
    to = line // INNER * K * INNER + line % INNER + k * INNER
    tl.store(y + to, tl.load(x + base + first * INNER))
    tl.store(index + to, first)
    last = best
    after = first
"""


class TopKWide(Direct):
    """Of 64-bit elements: as many looks at a line as elements are asked for."""

    name = "cuda.top_k_wide"
    ops = frozenset({"TopK"})
    seconds = 2e-8

    def declines(self, w: Workload) -> str | None:
        dtype = w.outputs[0].type.dtype
        return None if dtype in ("int64", "uint64", "float64") else f"orders elements of 64 bits, not {dtype}"

    def stages(self, w: Workload) -> tuple[Sequence[Parameter], Sequence[Stage], DimLike]:
        x, y = w.inputs[0], w.outputs[0].type
        assert x is not None
        axis = int(str(w.attr("axis"))) % y.rank
        length, inner = x.type.shape[axis], product(y.shape[axis + 1 :])
        sizes: dict[str, DimLike] = {
            "LENGTH": length,
            "INNER": inner,
            "K": y.shape[axis],
            "PIECE": _PIECE if isinstance(length, Dim) else min(_PIECE, 1 << max(1, length - 1).bit_length()),
            "FLOATS": int(y.dtype == "float64"),
            "UNSIGNED": int(y.dtype == "uint64"),
            "LARGEST": int(str(w.attr("largest", 1))),
        }
        body = _WIDE_BODY if 0 not in y.shape else "pass"
        pointers = [pointer(w, "input", 0, "x"), pointer(w, "output", 0, "y"), pointer(w, "output", 1, "index")]
        return pointers, [Stage(body, product(y.shape[:axis]) * inner, sizes, 4, _WIDE_FUNCTIONS)], 0
