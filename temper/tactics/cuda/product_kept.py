"""Weight-stationary 1x1 convolution of 8-bit operands with few input channels: blocks keep their weights.

A block belongs to one column of output tiles. It reads that column's weights once, all terms of them, and goes through
the tiles of the column. Their data, and everything the epilogue reads, are copied to shared memory one or two tiles
ahead, while the epilogue of the tile before is computed. With few terms the weights of a tile are as many bytes as its
data, so that keeping them halves the traffic from the L2 cache; and the latency of loads hides behind computation.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from textwrap import indent

from temper.compile.triton import TritonSource
from temper.ir.dims import Dim, DimLike, ceil_div
from temper.ir.types import itemsize
from temper.tactics.base import Params, Workload
from temper.tactics.conv_geometry import ConvShape
from temper.tactics.cuda import register_tiles
from temper.tactics.cuda.conv import PackedAsGemm, work_of
from temper.tactics.cuda.epilogue_triton import epilogue_helpers
from temper.tactics.cuda.kernel import TritonKernel
from temper.tactics.cuda.loads import FLOATS
from temper.tactics.cuda.product_model import DEVICES, kept_seconds
from temper.tactics.cuda.product_text import Blocking, module_text, product_text, sizes_of
from temper.tactics.cuda.source import SCALARS, extract_lines, stores
from temper.tactics.geometry import static

#: Terms of a step at most and at least, and steps of a tile at most.
_STEP, _LEAST, _STEPS = 256, 32, 8

_KERNEL = """\
column = tl.program_id(0) % COLUMNS
channel = column * BN + tl.arange(0, BN)
channel_ok = channel < OC
n = {channels}
k = tl.arange(0, BK)
b_at = w + n[None, :] * W_STRIDE + k[:, None]
{weights}m = tl.arange(0, BM)
{first}{scalars}for block in tl.range(tl.program_id(0) // COLUMNS, BLOCKS, GROUPS, num_stages=STAGES):
{tile}
"""

_ROWS = """\
row = (block * BM + m).to(tl.int64)
row_ok = row < ROWS
live = row_ok[:, None] & channel_ok[None, :]
"""

#: The pixels of a tile's rows where some are passed over; those beyond the last are the last.
_STRIDED = """\
picked = tl.minimum(block * BM + m, ROWS - 1)
y0 = picked // OW % OH * STRIDE_Y
x0 = picked % OW * STRIDE_X
pixel = ((picked // (OH * OW)).to(tl.int64) * IH + y0) * IW + x0
"""


@dataclass(frozen=True)
class Kept:
    """Parameters of a weight-stationary product.

    bm, bn: pixels and channels of a tile.
    warps: warps of a block.
    stages: tiles of data in shared memory.
    beside: blocks that a processor is meant to hold at a time.
    direct: results are stored from the accumulator registers (register_tiles.py).
    """

    bm: int
    bn: int
    warps: int
    stages: int
    beside: int
    direct: int = 0

    @property
    def params(self) -> Params:
        return tuple(vars(self).items())


#: bm, bn, warps.
_TILES = ((64, 128, 4), (128, 128, 4), (128, 128, 8), (256, 128, 8), (128, 64, 4), (256, 64, 8))


def step_terms(s: ConvShape) -> int:
    """Terms of a step: a power of two that divides them; 0 if there is none that tensor cores take."""
    terms = min(s.icg & -s.icg, _STEP)
    return terms if terms >= _LEAST and s.icg <= _STEPS * terms else 0


def _shared(s: ConvShape, k: Kept, full: int) -> int:
    """Bytes of shared memory of a block: weights, tiles of data, and what the epilogue reads, `full` at an element."""
    return s.icg * (k.bn + k.stages * k.bm) + (k.stages - 1) * k.bn * (full * k.bm + 8) + 1024


class ConvKept(PackedAsGemm):
    """1x1 convolutions of 8-bit numbers; packs as `ConvImplicitGemm` does."""

    name = "cuda.conv_kept"

    def accepts(self, w: Workload) -> str | None:
        if (reason := self.base.accepts(w)) is not None:
            return reason
        s, data = self.base.geometry(w), w.input_dtype(0)
        if s.kernel != (1, 1) or s.padded:
            return "computes products of single pixels only, without padding"
        if itemsize(data) > 1:
            return f"keeps weights of 8 bits only: beside those of {data} there is no room for data"
        if not step_terms(s):
            return f"keeps all of few terms, in steps of {_LEAST} or more, not {s.icg}"
        if not self.candidates(w):
            return "the product is too small or too large for its tiles"
        return None

    def candidates(self, w: Workload) -> Sequence[Params]:
        found = self._found(w)
        return sorted((k.params for k in found), key=lambda p: self.predict(w, p))

    def _found(self, w: Workload) -> Iterator[Kept]:
        s, d = self.base.geometry(w), DEVICES[w.isa]
        pixels, full = static(s.pixels), sum(itemsize(o.dtype) for o in w.epilogue.operands[1:] if o.kind == "full")
        whole = s.ocg % max(1, register_tiles.part(w)) == 0
        for bm, bn, warps in _TILES:
            if bn > max(64, s.ocg) or (pixels is not None and pixels < bm):
                continue
            direct = int(w.isa == register_tiles.ISA and whole and register_tiles.fits(w, bm, bn, warps))
            registers = bm * bn // (32 * warps) + 55 + 45 * full
            for stages in (3, 2):
                k = Kept(bm, bn, warps, stages, 1, direct)
                beside = min(d.shared // _shared(s, k, full), 65536 // (registers * 32 * warps))
                if beside * warps >= 8:  # fewer leave a processor idle whenever one waits
                    yield replace(k, beside=beside)

    def predict(self, w: Workload, params: Params) -> float:
        k = Kept(**dict(params))
        s = self.base.geometry(w)
        b = Blocking(k.bm, k.bn, s.icg, k.warps, k.stages, direct=k.direct)
        return kept_seconds(s, b, k.beside, work_of(w), w.isa)

    def generate(self, w: Workload, params: Params, entry: str) -> TritonKernel:
        s, k = self.base.geometry(w), Kept(**dict(params))
        terms, data = step_terms(s), w.input_dtype(0)
        b = Blocking(k.bm, k.bn, terms, k.warps, k.stages, direct=k.direct)
        pointers = self.base.parameters(w)
        signature = (*((p.name, p.type) for p in pointers), *((f"dim_{name}", "i32") for name in w.symbols))
        names = [name for name, _ in signature]
        blocks, columns = ceil_div(s.pixels, k.bm), -(-s.ocg // k.bn)
        groups = max(1, DEVICES[w.isa].processors * k.beside // columns)
        if not isinstance(blocks, Dim):
            groups = min(groups, blocks)
        sizes: dict[str, DimLike] = {**sizes_of(s, b, 1), "GROUPS": groups, "STAGES": k.stages}
        body = self._body(w, s, k, terms, names, data in ("int8", "uint8"))
        about = f"{s.icg} to {s.ocg} channels of every row: tiles of {k.bm}x{k.bn}, weights kept."
        helpers = product_text(data, w.tf32).rstrip() + "\n" + epilogue_helpers(w.epilogue)
        text = module_text(about, entry, names, sizes, body, helpers)
        source = TritonSource(text, entry, signature, frozenset(p.name for p in pointers), k.warps, k.stages)
        return TritonKernel(
            text,
            (entry,),
            tuple(p.ref for p in pointers),
            w.symbols,
            in_place=len(w.epilogue.results) == 1,
            triton=source,
            grid=groups * columns,
        )

    def _body(self, w: Workload, s: ConvShape, k: Kept, terms: int, names: Sequence[str], codes: bool) -> str:
        pixels = static(s.pixels)
        rows, whole = pixels is not None and pixels % k.bm == 0, s.ocg % k.bn == 0
        steps = range(s.icg // terms)
        part = register_tiles.part(w) if k.direct else 0
        added = " + tl.load(bias + channel, mask=channel_ok, other=0)[None, :]" if "bias" in names else ""
        rest = f"v0 = acc{added}\n"
        accumulator = w.epilogue.operands[0].dtype
        if accumulator in FLOATS and accumulator != "float32":
            rest += f"v0 = v0.to({FLOATS[accumulator]})\n"
        rest += stores(w, s.ocg)
        named = _ROWS
        if part:
            named, rest = register_tiles.epilogue(rest, "acc", k.bn, part)
        if re.search(r"\bimage\b", rest):
            named += "image = row // (OH * OW)\n"
        early, rest = extract_lines(r"^v\w+ = tl\.load\(q\d+ \+ row.*\n", rest)
        scalars, rest = extract_lines(SCALARS, rest)
        mask = "" if rows else f", mask=inside[:, None], other={'0' if codes else '0.0'}"
        tile = "at = (tl.zeros((1, 1), tl.int64) + block) * (BM * X_STRIDE)\n" if s.flat else _STRIDED
        tile += "" if rows or not s.flat else "inside = block * BM + m < ROWS\n"
        at, mask = ("a_at + at", mask) if s.flat else ("x + pixel[:, None] * X_STRIDE + k[None, :]", "")
        tile += "".join(f"a{i} = tl.load({at} + {i} * BK{mask})\n" for i in steps) + named + early
        tile += f"acc = tl.zeros((BM, BN), {'tl.int32' if codes else 'tl.float32'})\n"
        tile += "".join(f"acc = product(a{i}, b{i}, acc)\n" for i in steps) + rest
        if whole:
            tile = re.sub(r", mask=channel_ok\w*(\[None, :\])?(, other=0)?", "", tile)
            tile = re.sub(r"^(live\w*) = .*$", r"\1 = row_ok[:, None]", tile, flags=re.MULTILINE)
        if whole and rows:
            tile = re.sub(r", mask=live\w*", "", tile)
        channels = f"column * BN + {register_tiles.columns('BN', part)}" if part else "channel"
        return _KERNEL.format(
            channels=channels if whole else f"tl.minimum({channels}, OC - 1)",
            weights="".join(f"b{i} = tl.load(b_at + {i} * BK)\n" for i in steps),
            first="a_at = x + m[:, None] * X_STRIDE + k[None, :]\n" if s.flat else "",
            scalars=scalars,
            tile=indent(tile, "    "),
        )
