"""Sliding-window kernels over channels-last planes without tensor cores: depthwise convolution and pooling.

A block computes BM groups of output pixels by BN channels. A group is R rows by C columns of pixels, each with its own
accumulator, so that an input element is loaded once for all of them: with a 3x3 window of stride 1, a group of 2x4
loads 24 elements and uses them 72 times. Large windows are loops over their taps, with one pixel per group.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from textwrap import indent

from temper.compile.triton import TritonSource
from temper.ir.dims import Dim, DimLike, ceil_div, product
from temper.ir.types import itemsize
from temper.tactics.base import Params, Workload
from temper.tactics.cuda.epilogue_triton import (
    Parameter,
    epilogue_helpers,
    epilogue_parameters,
    epilogue_statements,
)
from temper.tactics.cuda.kernel import TritonKernel, dim_text
from temper.tactics.cuda.tiles import constants_text
from temper.tactics.geometry import int_tuple

#: Uses of loaded elements beyond which taps are a loop.
_UNROLLED = 160

#: Extents that stand for unknown ones where candidates are ranked.
_TYPICAL = (1, 28, 28)


@dataclass(frozen=True)
class Window:
    """Geometry of a window over [n, ih, iw, ..] that gives [n, oh, ow, channels].

    pads: top, left, bottom, right.
    stride: elements between input pixels.
    share: input elements read once for each element of the result, besides the window's strides.
    """

    n: DimLike
    ih: DimLike
    iw: DimLike
    oh: DimLike
    ow: DimLike
    channels: DimLike
    kernel: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    pads: tuple[int, int, int, int]
    stride: DimLike
    share: float = 1.0

    @property
    def taps(self) -> int:
        return self.kernel[0] * self.kernel[1]

    @property
    def typical(self) -> tuple[int, int, int, int]:
        """n, oh, ow and channels, with guesses for what varies."""
        n, oh, ow = (t if isinstance(d, Dim) else d for t, d in zip(_TYPICAL, (self.n, self.oh, self.ow), strict=True))
        return n, oh, ow, 64 if isinstance(self.channels, Dim) else self.channels


def window_of(w: Workload, kernel: tuple[int, int] | None = None, share: float = 1.0) -> Window | str:
    """Geometry of a workload, or why it has none. kernel: where it is not the attribute `kernel_shape`."""
    x = w.inputs[0] if w.inputs else None
    if x is None or x.type.rank != 4 or not w.attr("channels_last", 0):
        return "computes channels-last planes only"
    size = kernel or int_tuple(w, "kernel_shape", 2, 1)
    strides, dilations = int_tuple(w, "strides", 2, 1), int_tuple(w, "dilations", 2, 1)
    pads = int_tuple(w, "pads", 4, 0)
    if size is None or strides is None or dilations is None or pads is None:
        return "kernel_shape, strides and dilations must have 2 entries, pads 4"
    n, ih, iw, c = x.type.shape
    _, oh, ow, channels = w.outputs[0].type.shape
    if 0 in (n, oh, ow, channels):
        return "it computes no element"
    return Window(
        n, ih, iw, oh, ow, channels, (size[0], size[1]), (strides[0], strides[1]), (dilations[0], dilations[1]),
        (pads[0], pads[1], pads[2], pads[3]), x.row_stride or c, share,
    )  # fmt: skip


@dataclass(frozen=True)
class Blocking:
    """bm groups of rows x cols pixels by bn channels a block of so many warps."""

    bm: int
    bn: int
    rows: int
    cols: int
    warps: int

    @property
    def params(self) -> Params:
        return tuple(vars(self).items())

    @staticmethod
    def of(params: Params) -> Blocking:
        return Blocking(**dict(params))

    @property
    def each(self) -> int:
        """Elements of a tile that a thread has."""
        return max(1, self.bm * self.bn // (32 * self.warps))


#: (rows, columns) of a group.
_GROUPS = ((1, 1), (1, 2), (2, 2), (2, 4), (4, 2), (4, 4), (7, 1), (1, 4))


def blockings(g: Window, size: int, live: int) -> list[Blocking]:
    """size: bytes of an input element. live: registers an element of a tile needs besides its accumulators."""
    _, oh, ow, channels = g.typical
    found: dict[Blocking, None] = {}
    widest = 1 << (channels - 1).bit_length()
    for rows, cols in _GROUPS:
        uses = rows * cols * g.taps
        if (rows > oh or cols > ow or uses > _UNROLLED) and (rows, cols) != (1, 1):
            continue
        for each in (2, 4, 8, 16) if size == 1 else (1, 2, 4, 8):
            if each * (rows * cols + live) > 160 and each > 2:
                continue
            for warps in (2, 4):
                for bn in (16, 32, 64, 128, 256):
                    bm = each * 32 * warps // bn
                    if bm >= 1 and (bn <= widest or bn == 16):
                        found[Blocking(bm, bn, rows, cols, warps)] = None
    return list(found)


def seconds(g: Window, b: Blocking, size: int, stored: int, work: float, terms: int = 1) -> float:
    """Predicted time.

    size, stored: bytes of an input element and of all results of one.
    work: operations a tap.
    terms: as in `Body`.
    """
    n, oh, ow, channels = g.typical
    groups = n * -(-oh // b.rows) * -(-ow // b.cols)
    blocks = -(-groups // b.bm) * -(-channels // b.bn)
    tile = zip(g.kernel, g.dilations, (b.rows, b.cols), g.strides, strict=True)
    spans = [(k - 1) * d + (r - 1) * s + 1 for k, d, r, s in tile]
    loads = min(spans[0] * spans[1], g.taps * b.rows * b.cols)
    vectors = -(-b.each * size // 16) if b.bn * size >= 16 else b.each
    operations = b.each * (g.taps * b.rows * b.cols * work + loads) + loads * (3 + 4 * vectors)
    operations = terms * operations + b.each * 12 * b.rows * b.cols
    resident = min(16, 64 // b.warps)
    waves = -(-blocks // (132 * resident))
    busy = blocks * b.warps * operations / (132 * 2 * 1.7e9) * (waves * 132 * resident / blocks if blocks > 2000 else 1)
    one = (loads * 12 + operations * 4) / 1.7e9 + 0.3e-6 * (terms - 1)
    pixels = n * oh * ow * channels
    moved = pixels * (size * g.strides[0] * g.strides[1] * g.share + stored)
    # the lines of neighbouring channels that a narrow block fetches in vain
    share = 1.0 if b.bn * size >= 32 or b.bn >= channels else 32 / (b.bn * size)
    return 1.5e-6 + max(one * waves, busy, share * moved / 2.6e12 if moved > 3e7 else share * moved / 4e12)


def unrolled(g: Window, b: Blocking) -> bool:
    """Its taps are written out; else they are a loop."""
    return g.taps * b.rows * b.cols <= _UNROLLED


@dataclass(frozen=True)
class Body:
    """What is done under the window, as text.

    before: lines ahead of everything.
    tap: lines ahead of a tap of a loop; the tap's number is `tap`.
    value: lines that make `value`, which was loaded where `taken` [BM, BN] holds and is 0 elsewhere, what `step` takes.
    start: lines that give an accumulator its first value. step(accumulator, tap): lines that add `value`; no number in
        a loop.
    finish: lines that make v0 of an accumulator of the group's pixel (r, c).
    source: the input channel.
    terms: how often all taps are gone through, with the number in `term`.
    each: lines ahead of them.
    """

    start: Callable[[str], str]
    step: Callable[[str, int | None], str]
    finish: Callable[[str, int, int], str]
    before: str = ""
    tap: str = ""
    value: str = ""
    source: str = "channel"
    terms: int = 1
    each: str = ""


_HEAD = """\
tile = tl.program_id(0)
group = tile // COLUMNS * BM + tl.arange(0, BM)
channel = tile % COLUMNS * BN + tl.arange(0, BN)
group_ok = group < GROUPS
channel_ok = channel < CHANNELS
image = (group // (GH * GW)){wide}
top = group // GW % GH * R
left = group % GW * C
y0 = top * STRIDE_Y - PAD_TOP
x0 = left * STRIDE_X - PAD_LEFT
plane = image * IH
"""

_LOAD = """\
taken = ({row_in} & (x0 + {dx} >= 0) & (x0 + {dx} < IW))[:, None] & channel_ok[None, :]
value = tl.load(x + ({line} + {dx})[:, None] * X_STRIDE + {source}[None, :], mask=taken, other=0)
"""

_LOOP = """\
for tap in range(TAPS):
    dx = tap % KW * DILATION_X
    y = y0 + tap // KW * DILATION_Y
    line = (plane + y) * IW + x0
    row_in = group_ok & (y >= 0) & (y < IH)
"""

_PIXEL = """\
row = (image * OH + top + {r}) * OW + left + {c}
row_ok = group_ok{below}{beside}
live = row_ok[:, None] & channel_ok[None, :]
"""


def window_kernel(
    w: Workload, entry: str, about: str, g: Window, b: Blocking, inputs: Sequence[Parameter], body: Body
) -> TritonKernel:
    """inputs: pointers besides those of the epilogue, the data first, under the name `x`."""
    sizes = window_sizes(g, b)
    pointers = [*inputs, *epilogue_parameters(w.epilogue)]
    signature = (*((p.name, p.type) for p in pointers), *((f"dim_{name}", "i32") for name in w.symbols))
    strides = [s.row_stride for s in w.outputs]
    lines = epilogue_statements(w.epilogue, channels=dim_text(g.channels), row_strides=strides)
    text = window_text(w, g, b, body, lines)
    source = (
        f'"""{about}"""\n\nimport triton\nimport triton.language as tl\n{epilogue_helpers(w.epilogue)}'
        f"\n\n@triton.jit\ndef {entry}({', '.join(name for name, _ in signature)}):\n"
        + indent(constants_text(sizes) + "\n\n" + text, "    ")
    )
    aligned = frozenset(p.name for p in pointers)
    return TritonKernel(
        source,
        (entry,),
        tuple(p.ref for p in pointers),
        w.symbols,
        in_place=len(w.epilogue.results) == 1,
        triton=TritonSource(source, entry, signature, aligned, b.warps, 1),
        grid=ceil_div(sizes["GROUPS"], b.bm) * sizes["COLUMNS"],
    )


def window_sizes(g: Window, b: Blocking) -> dict[str, DimLike]:
    """Constants of the text of a window."""
    gh, gw = ceil_div(g.oh, b.rows), ceil_div(g.ow, b.cols)
    return {
        "IH": g.ih, "IW": g.iw, "OH": g.oh, "OW": g.ow, "CHANNELS": g.channels, "GH": gh, "GW": gw,
        "GROUPS": product((g.n, gh, gw)), "R": b.rows, "C": b.cols, "BM": b.bm, "BN": b.bn,
        "COLUMNS": ceil_div(g.channels, b.bn), "TAPS": g.taps, "KW": g.kernel[1],
        "STRIDE_Y": g.strides[0], "STRIDE_X": g.strides[1], "DILATION_Y": g.dilations[0],
        "DILATION_X": g.dilations[1], "PAD_TOP": g.pads[0], "PAD_LEFT": g.pads[1], "PAD_BOTTOM": g.pads[2],
        "PAD_RIGHT": g.pads[3], "X_STRIDE": g.stride,
    }  # fmt: skip


def window_text(
    w: Workload, g: Window, b: Blocking, body: Body, lines: Sequence[str], head: str = _HEAD
) -> str:
    """Statements of a block. lines: what follows each pixel's sums, loads of what all pixels share among them. head:
    names as `_HEAD` gives them."""
    text = head.format(wide=".to(tl.int64)" if _wide(w) else "") + body.before
    pixels = [(r, c) for r in range(b.rows) for c in range(b.cols)]
    text += "".join(body.start(f"a{r}_{c}") for r, c in pixels)
    taps = f"source = {body.source}\n{body.each}" + (_unrolled(g, b, body) if unrolled(g, b) else _looped(b, body))
    text += taps if body.terms == 1 else f"for term in range({body.terms}):\n" + indent(taps, "    ")
    # what all pixels of a group share; loads are not merged across the stores between pixels
    shared = [line for line in lines if " = tl.load(" in line and "row" not in line and "image" not in line]
    text += "".join(f"{line}\n" for line in shared)
    after = "".join(f"{line}\n" for line in lines if line not in shared)
    for r, c in pixels:
        below = f" & (top + {r} < OH)" if _ragged(g.oh, b.rows) else ""
        beside = f" & (left + {c} < OW)" if _ragged(g.ow, b.cols) else ""
        text += _PIXEL.format(r=r, c=c, below=below, beside=beside) + body.finish(f"a{r}_{c}", r, c) + after
    return text


def _ragged(size: DimLike, step: int) -> bool:
    return step > 1 and (isinstance(size, Dim) or size % step != 0)


def _wide(w: Workload) -> bool:
    """Offsets may not fit 32 bits."""
    for slot in (*w.inputs, *w.outputs):
        if slot is None:
            continue
        count = product(slot.type.shape[:-1]) * (slot.row_stride or slot.type.shape[-1]) if slot.type.rank else 1
        if isinstance(count, Dim) or count * itemsize(slot.type.dtype) >= 1 << 31:
            return True
    return False


def _unrolled(g: Window, b: Blocking, body: Body) -> str:
    (kh, kw), (sy, sx), (dy, dx) = g.kernel, g.strides, g.dilations
    rows: dict[int, list[tuple[int, int]]] = {}
    for r in range(b.rows):
        for k in range(kh):
            rows.setdefault(r * sy + k * dy, []).append((r, k))
    columns: dict[int, list[tuple[int, int]]] = {}
    for c in range(b.cols):
        for k in range(kw):
            columns.setdefault(c * sx + k * dx, []).append((c, k))
    text = ""
    for iy, over in sorted(rows.items()):
        text += f"y = y0 + {iy}\nline = (plane + y) * IW + x0\nrow_in = group_ok & (y >= 0) & (y < IH)\n"
        for ix, beside in sorted(columns.items()):
            text += _LOAD.format(row_in="row_in", line="line", dx=ix, source="source") + body.value
            text += "".join(body.step(f"a{r}_{c}", ky * kw + kx) for r, ky in over for c, kx in beside)
    return text


def _looped(b: Blocking, body: Body) -> str:
    if (b.rows, b.cols) != (1, 1):
        raise ValueError("a window that is a loop has one pixel a group")
    load = _LOAD.format(row_in="row_in", line="line", dx="dx", source="source")
    return _LOOP + indent(body.tap + load + body.value + body.step("a0_0", None), "    ")
