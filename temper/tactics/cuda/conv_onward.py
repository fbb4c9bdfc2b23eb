"""A 1x1 convolution of codes whose result others read too, fused with the 1x1 convolution that reads it next.

A block computes the first convolution's codes for its pixels, some channels at a time, stores them, and multiplies them
by the second's weights while it still has them. In a residual network the sum at the end of a block is the largest
tensor there is, and the next block begins by reading all of it to make a fourth of its channels: that read is saved.
Codes, sums and roundings are those of the two separate kernels, bit for bit.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from textwrap import indent

import numpy as np

from temper.compile.triton import TritonSource
from temper.ir.dims import ceil_div
from temper.tactics.base import Params, Workload, chained
from temper.tactics.conv_geometry import TYPICAL_PIXELS, ConvShape, conv_shape
from temper.tactics.cuda import register_tiles
from temper.tactics.cuda.conv import ConvImplicitGemm
from temper.tactics.cuda.conv_pair import EXACT, middle, packed_links
from temper.tactics.cuda.epilogue_triton import (
    POINTER_TYPES,
    Parameter,
    epilogue_helpers,
    epilogue_parameters,
    epilogue_statements,
)
from temper.tactics.cuda.kernel import TritonKernel
from temper.tactics.cuda.levels import declines
from temper.tactics.cuda.product_text import (
    Blocking,
    module_text,
    product_text,
    row_length,
    sizes_of,
)
from temper.tactics.cuda.source import SCALARS, extract_lines, stores
from temper.tactics.geometry import static

_PRODUCT = ConvImplicitGemm()

_READ = """\
block = tl.program_id(0)
middle = tl.arange(0, IC)
m = tl.minimum(block * BM + tl.arange(0, BM), ROWS - 1)
codes = tl.load(x + m.to(tl.int64)[:, None] * X_STRIDE + middle[None, :])
"""

_WIDE = """\
n2 = tl.arange(0, OC2)
sums = tl.zeros((BM, OC2), tl.int32)
{scalars}for start in tl.range(0, WIDE, STEP, num_stages=STAGES):
    channel = start + tl.arange(0, STEP)
    channel_ok = channel < WIDE
    live = row_ok[:, None] & channel_ok[None, :]
    n1 = start + {columns}
    first = tl.load(w1 + n1[None, :] * W1_STRIDE + middle[:, None])
    second = tl.load(w2 + n2[None, :] * W2_STRIDE + channel[:, None])
{early}    acc = tl.dot({codes}, first, out_dtype=tl.int32)
{order}    b_v0 = acc + tl.load(bias1 + channel)[None, :]
{steps}    sums = tl.dot({wide}, second, sums, out_dtype=tl.int32)
channel = n2
channel_ok = channel < OC2
live = row_ok[:, None] & channel_ok[None, :]
v0 = sums + tl.load(bias2 + n2)[None, :]
{last}"""

#: Channels of what is kept that a step computes, and of what others are computed from or made.
_STEP, _WIDTHS = 64, (64, 128)

#: Bytes that are kept at least: fewer are still in the cache when they are read again.
_LEAST = 48e6

_WAYS = ("bm", "warps", "stages", "depth", "registers")
#: Where what is kept is computed from 64 channels, and from more.
_NARROW = ((128, 8, 3, 3, 128), (128, 4, 3, 3, 0), (64, 4, 3, 3, 0))
_BROAD = ((128, 4, 3, 3, 0), (64, 4, 3, 3, 0))


class ConvOnward:
    """Parameters. bm, warps: of a tile of pixels; stages: parts of the channels under way; depth: of the first
    convolution's loop, where there are three; registers: the most a thread may have, 0 for any number."""

    name = "cuda.conv_onward"
    ops = frozenset({"Chain"})
    packing = ()

    def accepts(self, w: Workload) -> str | None:
        if (reason := declines(w, "Chain", "chains")) is not None:
            return reason
        found = _shapes(w)
        if isinstance(found, str):
            return found
        pixels = static(found[-1].pixels)
        if pixels is None or pixels * found[-2].ocg < _LEAST:
            return f"is for {_LEAST / 1e6:.0f} MB and more that are kept, known as it is built"
        return None

    def candidates(self, w: Workload) -> Sequence[Params]:
        found = _NARROW if _accepted(w)[-2].icg == 64 else _BROAD
        return sorted((tuple(zip(_WAYS, c, strict=True)) for c in found), key=lambda p: self.predict(w, p))

    def predict(self, w: Workload, params: Params) -> float:
        """By elements of what is kept, for which everything waits, and the first convolution's products: fitted to five
        shapes on one H100."""
        shapes, q = _accepted(w), dict(params)
        pixels = static(shapes[-1].pixels) or TYPICAL_PIXELS
        total = 3e-6 + pixels * shapes[-2].ocg * (1e-12 + 1.5e-15 * shapes[-2].icg)
        if len(shapes) == 3:
            total += 2 * pixels * shapes[0].k * shapes[0].ocg / 700e12
        return total * (1.03 if q["bm"] == 64 else 1.0)

    def generate(self, w: Workload, params: Params, entry: str) -> TritonKernel:
        shapes, q = _accepted(w), dict(params)
        wide, last = shapes[-2:]
        links = list(zip(w.links, chained(w), strict=True))
        data = w.links[0].input_dtype(0)
        body, packed = _READ, [("w1", "*i8"), ("bias1", "*i32"), ("w2", "*i8"), ("bias2", "*i32")]
        codes, sizes = "codes", sizes_of(wide, Blocking(q["bm"], _STEP, wide.icg, q["warps"], q["stages"]), 1)
        if len(shapes) == 3:
            (head, link), borders = (shapes[0], w.links[0]), _PRODUCT.borders(w.links[0])
            b = Blocking(q["bm"], head.ocg, min(128, head.icg), q["warps"], q["stages"], 1, 0, 1)
            packed = [("w", "*i8"), ("bias", "*i32"), *([("blank", POINTER_TYPES[data])] if borders else []), *packed]
            sizes = sizes_of(head, b, 1)
            body, codes = middle(link, head, b, borders), f"a_v{link.epilogue.results[0]}"
        operands = [
            Parameter(f"{name}_q{k}", POINTER_TYPES[o.dtype], ("input", at))
            for (link, (_, own)), name in zip(links[:-1], "ab" if len(shapes) == 3 else "b", strict=True)
            for k, (o, at) in enumerate(zip(link.epilogue.operands[1:], own, strict=True), 1)
        ]
        pointers = [
            Parameter("x", POINTER_TYPES[data], ("input", 0)),
            *(Parameter(name, kind, ("packed", i)) for i, (name, kind) in enumerate(packed)),
            *operands,
            *epilogue_parameters(w.epilogue),
            Parameter("kept", "*i8", ("output", 1)),
        ]
        signature = (*((p.name, p.type) for p in pointers), *((f"dim_{name}", "i32") for name in w.symbols))
        body += register_tiles.ROWS + self._onward(w, wide, last, codes)
        if (pixels := static(last.pixels)) is not None and pixels % q["bm"] == 0:
            body = re.sub(r", mask=(live|row_ok\[:, None\])", "", body)
        sizes |= {
            "WIDE": wide.ocg, "W1_STRIDE": row_length(wide, 1), "OC2": last.ocg, "W2_STRIDE": row_length(last, 1),
            "STEP": _STEP, "STAGES": q["stages"],
        }  # fmt: skip
        about = f"1x1 convolution of {wide.icg} to {wide.ocg} channels, stored, and on to {last.ocg}."
        if len(shapes) == 3:
            about = f"{shapes[0].kernel[0]}x{shapes[0].kernel[1]} convolution, then " + about
        helpers = product_text(data, False).rstrip() + "\n" + epilogue_helpers(w.epilogue, body)
        text = module_text(about, entry, [name for name, _ in signature], sizes, body, helpers)
        source = TritonSource(
            text, entry, signature, frozenset(p.name for p in pointers), q["warps"], q["depth"], late=True,
            registers=q["registers"],
        )  # fmt: skip
        return TritonKernel(
            text, (entry,), tuple(p.ref for p in pointers), w.symbols, in_place=False,
            grid=ceil_div(last.pixels, q["bm"]), triton=source,
        )  # fmt: skip

    def _onward(self, w: Workload, wide: ConvShape, last: ConvShape, codes: str) -> str:
        """The statements behind the codes that both products need."""
        e = w.links[-2].epilogue
        lines = epilogue_statements(e, channels=wide.ocg, row_strides=[w.outputs[1].row_stride])
        text = "".join(f"{line}\n" for line in lines).replace("tl.store(o0 ", "tl.store(kept ")
        scalars, text = extract_lines(SCALARS, text)
        early, text = extract_lines(r"^v\w+ = tl\.load\(q\d+ \+ row.*\n", text)
        scalars, early, text = (re.sub(r"\b([qv]\d+)\b", r"b_\1", t) for t in (scalars, early, text))
        body = _WIDE.format(
            scalars=scalars,
            columns=register_tiles.columns("STEP", _STEP),
            early=indent(early, "    "),
            codes=codes,
            order=indent(register_tiles.ordered("acc", _STEP, _STEP)[0], "    "),
            steps=indent(text, "    "),
            wide=f"b_v{e.results[0]}",
            last=stores(w, last.ocg),
        )
        body = body.replace("live = row_ok[:, None] & channel_ok[None, :]", "live = row_ok[:, None]")
        return re.sub(r", mask=channel_ok(\[None, :\])?(, other=0)?", "", body)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Of each product what its own kernel packs."""
        return packed_links(w, constants)


def _shapes(w: Workload) -> tuple[ConvShape, ...] | str:
    """Geometry of all, or why there is no kernel."""
    if w.isa != register_tiles.ISA:
        return f"is for {register_tiles.ISA}"
    if len(w.links) < 2 or any(link.op != "ConvInt8" for link in w.links) or len(w.outputs) != 2:
        return "computes convolutions of codes of which the last but one is kept"
    shapes = []
    for link in w.links:
        s = conv_shape(link)
        if isinstance(s, str):
            return s
        if (reason := _PRODUCT.accepts(link)) is not None:
            return reason
        if link is not w.links[-1] and any(i.op not in EXACT for i in link.epilogue.instrs):
            return "codes between may be off by one, which the next product would spread"
        if any(o.kind == "full" for o in link.epilogue.operands[1:]) and link is not w.links[-2]:
            return "programs but that of what is kept read no more than a value a channel"
        shapes.append(s)
    if any(not s.flat for s in shapes[-2:]):
        return "the last two convolutions are not of single pixels, one for one"
    wide, last = shapes[-2:]
    if any(link.input_dtype(0) != "int8" for link in w.links[-2:]):
        return "what lies between are not signed codes"
    if wide.icg not in _WIDTHS or wide.ocg % _STEP or last.ocg not in _WIDTHS or last.ocg > wide.icg:
        return f"computes {' or '.join(map(str, _WIDTHS))} channels of as many at least, through a multiple of {_STEP}"
    if len(shapes) == 3 and wide.icg != 64:
        return "sums of more than 64 channels of a first convolution leave no registers"
    return tuple(shapes)


def _accepted(w: Workload) -> tuple[ConvShape, ...]:
    found = _shapes(w)
    if isinstance(found, str):
        raise ValueError(f"workload was not accepted: {found}")
    return found
