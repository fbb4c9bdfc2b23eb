"""Kernel texts of implicit convolution and matrix product with constant weights on tensor cores.

A block computes BM rows (output pixels) by BN output channels, over steps of BK terms. Rows and channels beyond the
last are clamped to it, so that only loads from outside the image need masks; those give zeros. Codes stand for
`code - zero_point`. The bias makes up for the zero point as if every window were inside the image; for windows that are
not, either a table says what to add for each way of leaving it, or the lost taps read a pixel filled with zero points.

With SPLIT > 1 (split-K) each block sums one of SPLIT equal ranges of the steps into scratch, and a second launch adds
the ranges in order and applies the epilogue: results do not depend on which block was first.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import indent

from temper.ir.dims import DimLike, ceil_div
from temper.tactics.base import Params, Workload
from temper.tactics.conv_geometry import ConvShape
from temper.tactics.cuda import register_tiles
from temper.tactics.cuda.epilogue_triton import epilogue_helpers
from temper.tactics.cuda.loads import FLOATS, FLOATS8
from temper.tactics.cuda.source import stores
from temper.tactics.cuda.tiles import constants_text

#: Bytes to which a row of packed weights is padded, so that every row starts on a 16-byte boundary.
ROW = 16


@dataclass(frozen=True)
class Blocking:
    """Parameters of a tiled product.

    bm, bn, bk: pixels and channels of a tile, and terms of a step.
    warps, stages: warps of a block, and stages of its software pipeline.
    split: ranges that the steps are split into (split-K).
    flat: blocks of terms are cut without regard to taps.
    group: blocks of rows that go through all channels together, so that weights and data come from the L2 cache.
    early: tensors that the epilogue reads are loaded before the products.
    direct: results are stored from the accumulator registers (register_tiles.py), by weights packed in their order (1)
        or copied in it (2).
    near: data and weights are copied through the L1 cache.
    """

    bm: int
    bn: int
    bk: int
    warps: int
    stages: int
    split: int = 1
    flat: int = 0
    group: int = 8
    early: int = 0
    direct: int = 0
    near: int = 0

    @property
    def params(self) -> Params:
        return tuple(vars(self).items())

    @staticmethod
    def of(params: Params) -> Blocking:
        return Blocking(**dict(params))

    def steps(self, s: ConvShape) -> int:
        taps = s.kernel[0] * s.kernel[1]
        return -(-s.k // self.bk) if self.flat else taps * -(-s.icg // self.bk)


@dataclass(frozen=True)
class Border:
    """Taps that a window can lose above, below, left and right of the image."""

    above: int
    below: int
    left: int
    right: int

    @staticmethod
    def of(s: ConvShape) -> Border:
        top, left, bottom, right = s.pads
        lost = [
            min(k, -(-max(pad, 0) // d))
            for k, pad, d in zip(
                (s.kernel[0], s.kernel[0], s.kernel[1], s.kernel[1]),
                (top, bottom, left, right),
                (s.dilations[0], s.dilations[0], s.dilations[1], s.dilations[1]),
                strict=True,
            )
        ]
        return Border(*lost)

    @property
    def rows(self) -> int:
        return (self.above + 1) * (self.below + 1) * (self.left + 1) * (self.right + 1)


def row_length(s: ConvShape, size: int) -> int:
    """Elements of a row of packed weights, padding included."""
    return -(-s.k * size // ROW) * ROW // size


def blocks(s: ConvShape, b: Blocking) -> DimLike:
    """Number of the output's tiles."""
    return ceil_div(s.pixels, b.bm) * -(-s.ocg // b.bn)


_TILE = """\
tile = tl.program_id(0)
"""

_TILE_OF_SPLIT = """\
part = tl.program_id(0) // (BLOCKS * COLUMNS)
tile = tl.program_id(0) % (BLOCKS * COLUMNS)
"""

GROUPED = """\
first = tile // (GROUP * COLUMNS) * GROUP
inside_group = tile % (GROUP * COLUMNS)
height = tl.minimum(BLOCKS - first, GROUP)
block = first + inside_group % height
column = inside_group // height
"""

ORDERED = """\
block = tile // COLUMNS
column = tile % COLUMNS
"""

PLACE = """\
row = (block * BM + tl.arange(0, BM)).to(tl.int64)
channel = column * BN + tl.arange(0, BN)
row_ok = row < ROWS
channel_ok = channel < OC
live = row_ok[:, None] & channel_ok[None, :]
m = tl.minimum(block * BM + tl.arange(0, BM), ROWS - 1)
n = tl.minimum(channel, OC - 1)
"""

#: The input pixel of the first tap, which may lie in the padding.
PIXEL = """\
image = m // (OH * OW)
y0 = m // OW % OH * STRIDE_Y - PAD_TOP
x0 = m % OW * STRIDE_X - PAD_LEFT
pixel = (image.to(tl.int64) * IH + y0) * IW + x0
"""

IMAGE = "image = row // (OH * OW)\n"

_ROWS = """\
k = tl.arange(0, BK)
a_at = x + m.to(tl.int64)[:, None] * X_STRIDE + k[None, :]
b_at = w + n[None, :] * W_STRIDE + k[:, None]
for step in range({start}, {stop}):
    {tail}a = tl.load(a_at + step * BK{mask_a})
    b = tl.load(b_at + step * BK{mask_b})
    acc = product(a, b, acc)
"""

_TAPS = """\
k = tl.arange(0, BK)
a_at = x + pixel[:, None] * X_STRIDE + k[None, :]
b_at = w + n[None, :] * W_STRIDE + k[:, None]
for step in range({start}, {stop}):
    tap = step // CHUNKS
    chunk = step % CHUNKS * BK
    dy = tap // KW * DILATION_Y
    dx = tap % KW * DILATION_X
    {tail}{inside}a = tl.load({a_at}{mask_a})
    b = tl.load(b_at + (tap * IC + chunk){mask_b})
    acc = product(a, b, acc)
"""

#: Where a tap's data lie, and where what stands for them outside the image does.
_TAP = "a_at + ((dy * IW + dx) * X_STRIDE + chunk)"
_BLANK = f"tl.where(inside[:, None], {_TAP}, blank + k[None, :])"

_INSIDE = "inside = (y0 + dy >= 0) & (y0 + dy < IH) & (x0 + dx >= 0) & (x0 + dx < IW)\n    "

_FLAT = """\
for step in range({start}, {stop}):
    k = step * BK + tl.arange(0, BK)
    tap = k // IC
    dy = (tap // KW * DILATION_Y)[None, :]
    dx = (tap % KW * DILATION_X)[None, :]
    iy = y0[:, None] + dy
    ix = x0[:, None] + dx
    inside = (k < TERMS)[None, :] & (iy >= 0) & (iy < IH) & (ix >= 0) & (ix < IW)
    a = tl.load(x + (pixel[:, None] + dy * IW + dx) * X_STRIDE + (k % IC)[None, :], mask=inside, other=0)
    b = tl.load(w + n[None, :] * W_STRIDE + k[:, None], mask=(k < TERMS)[:, None], other=0)
    acc = product(a, b, acc)
"""

#: Rows of the table, by the taps lost on each side.
_BORDER = """\
above = tl.minimum((tl.maximum(-y0, 0) + DILATION_Y - 1) // DILATION_Y, {above})
below = tl.minimum((tl.maximum(y0 + LAST_Y - IH + 1, 0) + DILATION_Y - 1) // DILATION_Y, {below})
left = tl.minimum((tl.maximum(-x0, 0) + DILATION_X - 1) // DILATION_X, {left})
right = tl.minimum((tl.maximum(x0 + LAST_X - IW + 1, 0) + DILATION_X - 1) // DILATION_X, {right})
lost = ((above * {height} + below) * {width} + left) * {depth} + right
acc += tl.load(table + lost[:, None] * OC + n[None, :], mask=(lost > 0)[:, None], other=0)
"""

_BIAS = "acc += tl.load(bias + n)[None, :]\n"

_PARTIAL = """\
at = (part.to(tl.int64) * ROWS + row)[:, None] * OC + channel[None, :]
tl.store(sums + at, acc, mask=live)
"""

_ADDED = """\
at = row[:, None] * OC + channel[None, :]
acc = tl.load(sums + at, mask=live, other=0)
for part in tl.static_range(1, SPLIT):
    acc += tl.load(sums + part * ROWS * OC + at, mask=live, other=0)
"""

_PRODUCT = """


@triton.jit
def product(a, b, acc):
    return {}
"""


def product_text(data: str, tf32: bool) -> str:
    """Text of the function `product`, one step of the product, for data of this element type."""
    if data == "int8":
        return _PRODUCT.format("tl.dot(a, b, acc, out_dtype=tl.int32)")
    if data == "uint8":
        return _PRODUCT.format("tl.dot((a ^ 128).to(tl.int8, bitcast=True), b, acc, out_dtype=tl.int32)")
    if data in FLOATS8:
        # sums as tensor cores make them, of 14 bits on sm_90: adding every step's in float32 takes twice the registers
        return _PRODUCT.format("tl.dot(a, b, acc)")
    precision = "tf32" if tf32 and data == "float32" else "ieee"
    return _PRODUCT.format(f'tl.dot(a, b, acc, input_precision="{precision}")')


def sizes_of(s: ConvShape, b: Blocking, size: int) -> dict[str, DimLike]:
    """Compile-time constants of the kernels (of both where the terms are split)."""
    taps_y, taps_x = s.kernel
    sizes: dict[str, DimLike] = {
        "IH": s.ih, "IW": s.iw, "OH": s.oh, "OW": s.ow, "IC": s.icg, "OC": s.ocg, "ROWS": s.pixels,
        "KW": taps_x, "STRIDE_Y": s.strides[0], "STRIDE_X": s.strides[1],
        "DILATION_Y": s.dilations[0], "DILATION_X": s.dilations[1], "PAD_TOP": s.pads[0], "PAD_LEFT": s.pads[1],
        "LAST_Y": (taps_y - 1) * s.dilations[0], "LAST_X": (taps_x - 1) * s.dilations[1],
        "X_STRIDE": s.xld, "W_STRIDE": row_length(s, size), "TERMS": s.k, "CHUNKS": -(-s.icg // b.bk),
        "BM": b.bm, "BN": b.bn, "BK": b.bk, "GROUP": b.group, "SPLIT": b.split,
        "BLOCKS": ceil_div(s.pixels, b.bm), "COLUMNS": -(-s.ocg // b.bn), "WARPS": b.warps,
    }  # fmt: skip
    return sizes


def product_body(s: ConvShape, b: Blocking, codes: bool, first: str = "", blank: bool = False, part: int = 0) -> str:
    """Statements up to the sum of products `acc` of the block's tile, or of its part of the terms.

    first: statements that add to the sum before there are products, while these are loaded.
    blank: taps outside the image are read from there, not zeros.
    part: channels are in the order of such parts of `register_tiles`.
    """
    body = _TILE_OF_SPLIT if b.split > 1 else _TILE
    body += (GROUPED if s.ocg > b.bn and b.group > 1 else ORDERED) + PLACE
    if part:
        body += f"n = tl.minimum(column * BN + {register_tiles.columns('BN', part)}, OC - 1)\n"
    body += IMAGE if s.flat else PIXEL
    body += f"\nacc = tl.zeros((BM, BN), {'tl.int32' if codes else 'tl.float32'})\n{first}"
    total = b.steps(s)
    each = -(-total // b.split)
    start, stop = "0", str(total)
    if b.split > 1:
        start = f"part * {each}"
        stop = f"part * {each} + {each}" if total % b.split == 0 else f"tl.minimum(part * {each} + {each}, {total})"
    if b.flat:
        return body + _FLAT.format(start=start, stop=stop)
    # a last step of a tap that goes beyond its channels
    tail = "" if s.icg % b.bk == 0 else f"rest = IC - {'step * BK' if s.flat else 'chunk'}\n    "
    inside = _INSIDE if s.padded else ""
    masked = inside and not blank
    masks = [text for text, used in (("inside[:, None]", masked), ("(k < rest)[None, :]", tail)) if used]
    mask_a = f", mask={' & '.join(masks)}, other=0" if masks else ""
    mask_b = ", mask=(k < rest)[:, None], other=0" if tail else ""
    text = _ROWS if s.flat else _TAPS
    a_at = _BLANK if inside and blank else _TAP
    return body + text.format(
        start=start, stop=stop, tail=tail, inside=inside, a_at=a_at, mask_a=mask_a, mask_b=mask_b
    )


def border_text(s: ConvShape) -> str:
    """Statements that add the table's corrections to rows whose windows leave the image."""
    b = Border.of(s)
    return _BORDER.format(
        above=b.above, below=b.below, left=b.left, right=b.right,
        height=b.below + 1, width=b.left + 1, depth=b.right + 1,
    )  # fmt: skip


def constants_added(s: ConvShape, parameters: Sequence[str]) -> str:
    """Statements that add the border corrections and the bias to the sums."""
    return (border_text(s) if "table" in parameters else "") + (_BIAS if "bias" in parameters else "")


def finished(w: Workload, s: ConvShape) -> str:
    """Statements that apply the epilogue to the sums and store the results."""
    accumulator = w.epilogue.operands[0].dtype
    narrow = f".to({FLOATS[accumulator]})" if accumulator in FLOATS and accumulator != "float32" else ""
    return f"\nv0 = acc{narrow}\n" + stores(w, s.ocg)


def module_text(
    about: str, entry: str, parameters: Sequence[str], sizes: Mapping[str, DimLike], body: str, helpers: str = ""
) -> str:
    """The text of a module with one kernel."""
    words = set(re.findall(r"\w+", body))
    used = {name: d for name, d in sizes.items() if name in words}
    return (
        f'"""{about}"""\n\nimport triton\nimport triton.language as tl{helpers.rstrip()}'
        f"\n\n\n@triton.jit\ndef {entry}({', '.join(parameters)}):\n"
        + indent(f"{constants_text(used)}\n\n{body}", "    ")
    )


def one_launch(w: Workload, s: ConvShape, b: Blocking, entry: str, parameters: Sequence[str], size: int) -> str:
    """Text of the kernel whose blocks each compute whole tiles."""
    data = w.input_dtype(0)
    first, rest = constants_added(s, parameters), finished(w, s)
    names = ""
    if b.direct:
        names, rest = register_tiles.epilogue(rest, "acc", b.bn, register_tiles.part(w))
    if b.early:
        loads = re.findall(r"^v\w+ = tl\.load\(q\d+ \+ row.*\n", rest, re.MULTILINE)
        first = "".join(loads) + first
        for line in loads:
            rest = rest.replace(line, "", 1)
    part = register_tiles.part(w) if b.direct else 0
    body = product_body(s, b, data in ("int8", "uint8"), names + first, "blank" in parameters, part)
    body = _zeros(data, body) + (IMAGE if b.direct and not s.flat else "") + rest
    helpers = product_text(data, w.tf32).rstrip() + "\n" + epilogue_helpers(w.epilogue)
    return module_text(_about(s, b), entry, parameters, sizes_of(s, b, size), body, helpers)


def two_launches(
    w: Workload, s: ConvShape, b: Blocking, entry: str, parameters: Sequence[str], size: int, tile: tuple[int, int]
) -> tuple[str, str]:
    """The kernel that leaves sums of parts of the terms in `sums`, and the one that adds them, in tiles of `tile`."""
    data = w.input_dtype(0)
    sizes = sizes_of(s, b, size)
    body = _zeros(data, product_body(s, b, data in ("int8", "uint8"), blank="blank" in parameters)) + _PARTIAL
    first = module_text(_about(s, b), entry, parameters, sizes, body, product_text(data, w.tf32))
    own = Blocking(*tile, b.bk, 4, 1, b.split, 0, 1)
    body = _TILE + ORDERED + PLACE + (IMAGE if s.flat else PIXEL) + _ADDED
    body += constants_added(s, parameters) + finished(w, s)
    about = f"Adds {b.split} parts of the sums in tiles of {tile[0]}x{tile[1]}."
    second = module_text(
        about, f"{entry}_sum", parameters, sizes_of(s, own, size), body, "\n" + epilogue_helpers(w.epilogue)
    )
    return first, second


def _zeros(data: str, body: str) -> str:
    """`body` with what masked loads give in a form that the data's type is made of: 8-bit floats of no integer."""
    return body.replace("other=0)", "other=0.0)") if data in FLOATS8 else body


def _about(s: ConvShape, b: Blocking) -> str:
    return (
        f"{s.kernel[0]}x{s.kernel[1]} convolution, {s.icg} to {s.ocg} channels: tiles of {b.bm}x{b.bn}x{b.bk}"
        f"{f', {b.split} parts' if b.split > 1 else ''}."
    )
