"""Row kernels for halves in which each warp computes whole rows: LayerNorm and others that need sums over a row.

A row lies in strips of 32 lanes by 16 bytes, so that all elements of a row are within one warp: sums need neither
shared memory nor barriers, and a row whose length is not a power of two wastes only the end of its last strip.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from temper.ir.dims import Dim, DimLike, ceil_div, product
from temper.ir.types import itemsize
from temper.tactics.base import Params, Workload
from temper.tactics.cuda.epilogue_triton import Parameter
from temper.tactics.cuda.kernel import TritonKernel
from temper.tactics.cuda.source import LAST_FIRST, SCALARS, extract_lines, kernel_of, stores

#: Elements of a row that one lane may hold.
_HELD = 64


@dataclass(frozen=True)
class Strips:
    """columns: of a row. width: of a strip."""

    columns: int
    width: int

    @staticmethod
    def of(columns: DimLike, dtype: str) -> Strips | str:
        """How rows of this type are cut, or why they are not."""
        width = 32 * 16 // itemsize(dtype)
        if isinstance(columns, Dim) or columns > 32 * _HELD:
            return f"keeps at most {32 * _HELD} elements of a row in a warp's registers, not {columns}"
        if columns * itemsize(dtype) % 16:
            return f"reads 16 bytes at a time, and rows of {columns} are not a multiple of that"
        return Strips(columns, width) if columns > width // 2 else f"rows of {columns} leave lanes idle"

    @property
    def count(self) -> int:
        return -(-self.columns // self.width)

    def ragged(self, index: int) -> bool:
        """The strip goes beyond the row's end."""
        return (index + 1) * self.width > self.columns

    def each(self, text: str) -> str:
        """Statements for every strip: `text` with {i} for its number."""
        return "".join(text.format(i=i) for i in range(self.count))


def strip_blockings() -> Iterator[Params]:
    """Rows of a block, one a warp, for many rows: of few, several warps a row are faster."""
    for warps in (4, 8, 2):
        yield (("bm", warps), ("warps", warps), ("strips", 1))


def strip_kernel(
    w: Workload,
    entry: str,
    about: str,
    inputs: Sequence[Parameter],
    sizes: Mapping[str, DimLike],
    *,
    rows: DimLike,
    strips: Strips,
    load: str,
    sums: str,
    value: str,
    params: Params,
) -> TritonKernel:
    """A kernel over the rows of the output, flat over all axes but the last.

    inputs: pointers besides those of the epilogue.
    load: expression of strip {i} in float32, of `channel_{i}`, with {mask} for what its load is masked by.
    sums: statements from x_0, x_1 .. [BM, WIDTH] to sums over rows.
    value: statements that compute v0 of strip {i}; `across` [BM, 1] is zero.
    """
    bm, warps = (dict(params)[k] for k in ("bm", "warps"))
    shape = w.outputs[0].type.shape
    whole = not isinstance(rows, Dim) and rows % bm == 0
    own: dict[str, DimLike] = {
        "ROWS": rows, "COLUMNS": strips.columns, "IMG_ROWS": product(shape[1:-1]), "BM": bm, "WIDTH": strips.width,
    }  # fmt: skip
    body = f"row = ({LAST_FIRST} * BM + tl.arange(0, BM)).to(tl.int64)\nimage = row // IMG_ROWS\n"
    body += f"row_ok = {'tl.full((BM,), 1, tl.int1)' if whole else 'row < ROWS'}\n"
    # vectors of a channel are loaded as wide as the tile: a layout of their own would be changed in shared memory
    body += "across = tl.zeros((BM, 1), tl.int32)\n"
    for i in range(strips.count):
        terms = [*([] if whole else ["row_ok[:, None]"])]
        terms += [f"(channel_{i} < COLUMNS)[None, :]"] if strips.ragged(i) else []
        mask = f", mask={' & '.join(terms)}, other=0.0" if terms else ""
        body += f"channel_{i} = {i * strips.width} + tl.arange(0, WIDTH)\nx_{i} = {load.format(i=i, mask=mask)}\n"
    body += sums
    finish = re.sub(r"(tl\.load\(q\d+ \+ )(channel\[None, :\])", r"\1across + \2", stores(w, strips.columns))
    finish = re.sub(r"(tl\.load\(q\d+ \+ across.*mask=)channel_ok\[None, :\]", r"\1live", finish)
    scalars, finish = extract_lines(SCALARS, finish)
    body += scalars
    for i in range(strips.count):
        ok = "channel < COLUMNS" if strips.ragged(i) else "tl.full((WIDTH,), 1, tl.int1)"
        body += f"channel = channel_{i}\nchannel_ok = {ok}\nlive = row_ok[:, None] & channel_ok[None, :]\n"
        body += value.format(i=i) + finish
    return kernel_of(w, entry, about, inputs, {**own, **sizes}, body, grid=ceil_div(rows, bm), warps=warps)
