"""Products in tiles whose number of rows is not a power of two, so that the tiles divide evenly over the processors.

A tile of 192 rows consists of one of 128 and one of 64, whose sums are computed in one loop that reads the weights
once. It serves where tiles of a power of two would be one and a half for each processor.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from temper.compile.triton import TritonSource
from temper.ir.types import itemsize
from temper.tactics.base import Params, Workload
from temper.tactics.conv_geometry import ConvShape
from temper.tactics.cuda import register_tiles
from temper.tactics.cuda.conv import PackedAsGemm, work_of
from temper.tactics.cuda.epilogue_triton import epilogue_helpers
from temper.tactics.cuda.kernel import TritonKernel
from temper.tactics.cuda.product_model import seconds
from temper.tactics.cuda.product_text import (
    GROUPED,
    IMAGE,
    ORDERED,
    PIXEL,
    Blocking,
    blocks,
    constants_added,
    finished,
    module_text,
    product_text,
    sizes_of,
)
from temper.tactics.geometry import static

#: Pixels below which its tiles leave processors idle.
_LEAST = 4096

_CHANNELS = """\
tile = tl.program_id(0)
{order}channel = column * BN + tl.arange(0, BN)
channel_ok = channel < OC
k = tl.arange(0, BK)
n = column * BN + {columns}
b_at = w + n[None, :] * W_STRIDE + k[:, None]
"""

#: Of one part of the rows.
_PART = """\
m = tl.minimum(block * BM + {first} + tl.arange(0, {rows}), ROWS - 1)
{pixel}a_at{i} = x + pixel[:, None] * X_STRIDE + k[None, :]
sums{i} = tl.zeros(({rows}, BN), {type})
"""

_STEPS = """\
for step in range(0, {steps}):
    {place}
    b = tl.load(b_at + {terms})
{loads}    sums0 = product(a0, b, sums0)
    sums1 = product(a1, b, sums1)
"""

_PLACE = """\
tap = step // CHUNKS
    chunk = step % CHUNKS * BK
    dy = tap // KW * DILATION_Y
    dx = tap % KW * DILATION_X"""

_TAP = "a_at{i} + ((dy * IW + dx) * X_STRIDE + chunk)"
_INSIDE = "    inside{i} = (top{i} + dy >= 0) & (top{i} + dy < IH) & (left{i} + dx >= 0) & (left{i} + dx < IW)\n"


#: First row and rows of a tile's parts.
_PARTS = ((0, 128), (128, 64))


@dataclass(frozen=True)
class Tall:
    """192 pixels (bm) by bn channels by bk terms a step; warps; pipeline stages; near: data and weights come through
    the processor's own cache."""

    bm: int
    bn: int
    bk: int
    warps: int
    stages: int
    near: int = 0

    @property
    def params(self) -> Params:
        return tuple(vars(self).items())

    @property
    def blocking(self) -> Blocking:
        return Blocking(self.bm, self.bn, self.bk, self.warps, self.stages, direct=1, near=self.near)


#: Channels, bytes of terms, warps and stages, of windows and of single pixels.
_WINDOWS = ((256, 128, 8, 3), (128, 128, 8, 3))
_FLAT = ((128, 128, 4, 2),)
#: Terms of single pixels at most.
_TERMS = 1024


class ConvTall(PackedAsGemm):
    """Conv and ConvInt8 of 8 and 16 bits; packs as `ConvImplicitGemm` does."""

    name = "cuda.conv_tall"

    def accepts(self, w: Workload) -> str | None:
        if (reason := self.base.accepts(w)) is not None:
            return reason
        s, data = self.base.geometry(w), w.input_dtype(0)
        if w.isa != register_tiles.ISA or not register_tiles.part(w):
            return f"computes results of one size on {register_tiles.ISA}"
        if itemsize(data) > 2:
            return f"computes codes and halves, not {data}"
        pixels = static(s.pixels)
        if pixels is None or pixels < _LEAST:
            return f"is for {_LEAST} pixels and more, known as it is built"
        if not self.candidates(w):
            return "channels are not multiples of its tiles'"
        return None

    def candidates(self, w: Workload) -> Sequence[Params]:
        return sorted((t.params for t in self._found(w)), key=lambda p: self.predict(w, p))

    def _found(self, w: Workload) -> Iterator[Tall]:
        s, size = self.base.geometry(w), itemsize(w.input_dtype(0))
        window = not s.flat
        # two blocks of 128 threads have no registers for halves and their sums, nor for rows that are farther apart
        for bn, bk, warps, stages in _WINDOWS if window else _FLAT if size == 1 and s.k <= _TERMS else ():
            if s.icg * size % bk == 0 and s.ocg % bn == 0 and (s.flat or s.kernel != (1, 1)):
                yield Tall(192, bn, bk // size, warps, stages, int(window and size == 1))

    def predict(self, w: Workload, params: Params) -> float:
        return seconds(self.base.geometry(w), Tall(**dict(params)).blocking, work_of(w), w.isa)

    def generate(self, w: Workload, params: Params, entry: str) -> TritonKernel:
        s, t = self.base.geometry(w), Tall(**dict(params))
        data = w.input_dtype(0)
        codes = data in ("int8", "uint8")
        pointers = self.base.parameters(w)
        signature = (*((p.name, p.type) for p in pointers), *((f"dim_{name}", "i32") for name in w.symbols))
        names = [name for name, _ in signature]
        body = self._body(w, s, t, names, codes)
        about = f"{s.kernel[0]}x{s.kernel[1]} convolution, {s.icg} to {s.ocg} channels: tiles of {t.bm}x{t.bn}x{t.bk}."
        helpers = product_text(data, w.tf32).rstrip() + "\n" + epilogue_helpers(w.epilogue)
        text = module_text(about, entry, names, sizes_of(s, t.blocking, itemsize(data)), body, helpers)
        aligned = frozenset(p.name for p in pointers)
        return TritonKernel(
            text,
            (entry,),
            tuple(p.ref for p in pointers),
            w.symbols,
            in_place=len(w.epilogue.results) == 1,
            triton=TritonSource(text, entry, signature, aligned, t.warps, t.stages, near=bool(t.near), late=codes),
            grid=blocks(s, t.blocking),
        )

    def _body(self, w: Workload, s: ConvShape, t: Tall, names: Sequence[str], codes: bool) -> str:
        part = register_tiles.part(w)
        order, columns = (GROUPED if s.ocg > t.bn else ORDERED), register_tiles.columns("BN", part)
        window = not s.flat
        body, loads, last = _CHANNELS.format(order=order, columns=columns), "", ""
        for i, (first, rows) in enumerate(_PARTS):
            kind = "tl.int32" if codes else "tl.float32"
            pixel = f"{PIXEL}top{i} = y0\nleft{i} = x0\n" if window else "pixel = m.to(tl.int64)\n"
            body += _PART.format(first=first, rows=rows, pixel=pixel, i=i, type=kind)
            body += constants_added(s, names).replace("acc", f"sums{i}")
            at, mask = (_TAP if window else "a_at{i} + step * BK").format(i=i), ""
            if s.padded:
                loads += _INSIDE.format(i=i)
                if "blank" in names:
                    at = f"tl.where(inside{i}[:, None], {at}, blank + k[None, :])"
                else:
                    mask = f", mask=inside{i}[:, None], other=0"
            loads += f"    a{i} = tl.load({at}{mask})\n"
            named, rest = register_tiles.epilogue(finished(w, s).replace("= acc", f"= sums{i}"), f"sums{i}", t.bn, part)
            text = (named + IMAGE + rest).replace("block * BM + order", f"block * TILE + {first} + order")
            # a part of fewer rows than the warps have is held by some of them in as many columns
            text = re.sub(r"\bWARPS\b", str(min(t.warps, rows // 16)), re.sub(r"\bBM\b", str(rows), text))
            last += text.replace("TILE", "BM")
        place, terms = (_PLACE, "(tap * IC + chunk)") if window else ("# every term is of the same pixel", "step * BK")
        return body + _STEPS.format(steps=t.blocking.steps(s), place=place, terms=terms, loads=loads) + last
