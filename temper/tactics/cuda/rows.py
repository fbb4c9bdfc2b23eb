"""Kernels whose blocks compute whole rows, since every element depends on sums over its row (softmax, normalisation).

A block has BM rows and BN columns at a time. A row of at most BN elements is read once and kept in registers; a longer
one is read once for every pass, from the cache after the first.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import indent

from temper.ir.dims import Dim, DimLike, ceil_div, product
from temper.tactics.base import Params, Workload
from temper.tactics.cuda.epilogue_triton import Parameter
from temper.tactics.cuda.kernel import TritonKernel
from temper.tactics.cuda.source import LAST_FIRST, kernel_of, stores

#: Longest row that is kept in registers, and how much of a longer one is read at once.
KEPT, PIECE = 16384, 4096
#: Elements of a block that one thread may hold.
_HELD = 64


@dataclass(frozen=True)
class Pass:
    """A sum over the row: text before the row, for each piece of it `x` [BM, BN], and after it."""

    before: str
    piece: str
    after: str = ""


def row_blockings(rows: DimLike, columns: DimLike, processors: int, results: int = 1) -> Iterator[Params]:
    """Rows of a block and warps, what should be fastest first. results: how many tensors are written."""
    width = _width(columns)
    count = 1 << 14 if isinstance(rows, Dim) else rows
    found = []
    for bm in (1, 2, 4, 8, 16, 32):
        for warps in (1, 2, 4, 8, 16):
            held = bm * width / (32 * warps)
            if held > _HELD or (held < 4 and (warps > 1 or bm > 1)) or (bm > 1 and bm > count):
                continue
            # few rows: one a block, and 16 bytes a thread; many: twice as much in flight
            idle = count < 4 * processors * bm
            best = 16 if results == 1 and not idle else 8
            found.append((abs(held - best) / best + (0.5 * (bm - 1) if idle else 0.0) + 0.05 * warps, bm, warps))
    return ((("bm", bm), ("warps", warps)) for _, bm, warps in sorted(found))


def row_kernel(
    w: Workload,
    entry: str,
    about: str,
    inputs: Sequence[Parameter],
    sizes: Mapping[str, DimLike],
    *,
    rows: DimLike,
    columns: DimLike,
    load: str,
    passes: Sequence[Pass],
    value: str,
    params: Params,
) -> TritonKernel:
    """A kernel over the rows of the output, flat over all axes but the last (`columns` long).

    inputs: pointers besides those of the epilogue.
    sizes: constants that the texts use.
    load: expression of the piece `x`, 0 where it is not `live`.
    value: statements that compute v0 of a piece from x.
    """
    bm, warps = (dict(params)[k] for k in ("bm", "warps"))
    shape = w.outputs[0].type.shape
    bn = _width(columns)
    whole = not isinstance(columns, Dim) and columns <= bn
    own: dict[str, DimLike] = {"ROWS": rows, "COLUMNS": columns, "IMG_ROWS": product(shape[1:-1]), "BM": bm, "BN": bn}
    finish = value.strip("\n") + "\n" + stores(w, columns)
    head = (
        f"row = ({LAST_FIRST} * BM + tl.arange(0, BM)).to(tl.int64)\nrow_ok = row < ROWS\nimage = row // IMG_ROWS\n"
    )
    if whole:
        body = "channel = tl.arange(0, BN)\nchannel_ok = channel < COLUMNS\n"
        body += f"live = row_ok[:, None] & channel_ok[None, :]\nx = {load}\n"
        body += "".join(f"{p.before}\n{p.piece}\n{p.after}\n" for p in passes) + finish
    else:
        step = (
            "for first in range(0, COLUMNS, BN):\n    channel = first + tl.arange(0, BN)\n"
            f"    channel_ok = channel < COLUMNS\n    live = row_ok[:, None] & channel_ok[None, :]\n    x = {load}\n"
        )
        body = "".join(f"{p.before}\n{step}{indent(p.piece, '    ')}\n{p.after}\n" for p in passes)
        body += step + indent(finish, "    ")
    return kernel_of(
        w, entry, about, inputs, {**own, **sizes}, f"{head}\n{body}", grid=ceil_div(rows, bm), warps=warps
    )


def _width(columns: DimLike) -> int:
    """Columns of a block at a time, a power of two."""
    return PIECE if isinstance(columns, Dim) or columns > KEPT else 1 << max(0, columns - 1).bit_length()
