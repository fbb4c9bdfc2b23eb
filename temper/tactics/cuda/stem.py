"""Convolution of few input channels (a network's first) on tensor cores: strides become channels, then a plain product.

A first launch writes the image so that one pixel of it holds all stride x stride pixels that a step of the window
passes (space to depth), padding included and channels padded to 16 bytes. The window then is of stride 1, and each of
its rows one run of contiguous bytes: terms that single pixels of 3 channels could not be read by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from temper.compile.triton import TritonSource
from temper.ir.dims import DimLike, ceil_div, product
from temper.ir.types import itemsize
from temper.reference.formats import numbers
from temper.tactics.base import Params, Workload
from temper.tactics.cpu.blocking import TYPICAL_PIXELS, ConvShape, static
from temper.tactics.cpu.conv import conv_shape
from temper.tactics.cuda import register_tiles
from temper.tactics.cuda.conv import work_of
from temper.tactics.cuda.epilogue_triton import (
    POINTER_TYPES,
    Parameter,
    epilogue_declines,
    epilogue_helpers,
    epilogue_parameters,
)
from temper.tactics.cuda.kernel import TritonKernel
from temper.tactics.cuda.levels import level_declines
from temper.tactics.cuda.loads import HALVES
from temper.tactics.cuda.product_model import DEVICES, tile_seconds
from temper.tactics.cuda.product_text import IMAGE, Blocking, constants_added, finished, module_text, product_text

_CODES = frozenset({"int8", "uint8"})
#: Bytes of a packed pixel are a multiple of this.
_PIXEL = 16
#: Most bytes of a pixel: wider ones are read well as they are.
_MOST = 8

#: (rows, channels, bytes of terms, warps, stages)
_TILES = (
    (128, 64, 128, 4, 2), (256, 64, 64, 8, 3), (128, 64, 64, 4, 4), (128, 64, 128, 4, 3), (256, 64, 128, 8, 2),
    (64, 64, 128, 4, 3), (128, 32, 64, 4, 4), (256, 32, 64, 8, 3), (64, 32, 64, 4, 4), (128, 128, 64, 8, 3),
    (64, 16, 64, 2, 4), (128, 32, 32, 4, 4), (64, 16, 32, 2, 4),
)  # fmt: skip


@dataclass(frozen=True)
class _Folded:
    """The image as the second launch reads it: [n, height, width, depth], and windows of `rows` x `columns` pixels.
    depth and, for codes, columns are powers of two.

    skip: leading rows and columns of the first pixel that are outside the window; lead: rows and columns of padding.
    """

    height: DimLike
    width: DimLike
    depth: int
    rows: int
    columns: int
    skip: tuple[int, int]
    lead: tuple[int, int]

    @staticmethod
    def of(s: ConvShape, size: int, exact: bool) -> _Folded:
        """exact: what the weights of added columns multiply may not be a number."""
        (sy, sx), (kh, kw) = s.strides, s.kernel
        skip = (-s.pads[0] % sy, -s.pads[1] % sx)
        rows, columns = (kh - 1 + skip[0]) // sy + 1, (kw - 1 + skip[1]) // sx + 1
        columns = columns if exact else 1 << (columns - 1).bit_length()
        depth = max(_PIXEL // size, 1 << (sy * sx * s.icg - 1).bit_length())
        lead = (s.pads[0] + skip[0], s.pads[1] + skip[1])
        return _Folded(s.oh + rows - 1, s.ow + columns - 1, depth, rows, columns, skip, lead)

    @property
    def run(self) -> int:
        """Elements of a row of the window."""
        return self.columns * self.depth

    @property
    def terms(self) -> int:
        return self.rows * self.run


_FOLD = """\
spot = tl.program_id(0) * SPOTS + tl.arange(0, SPOTS)
known = spot < N * HEIGHT * WIDTH
image = spot // (HEIGHT * WIDTH)
place = tl.arange(0, DEPTH)
sub = place // IC
y = (spot // WIDTH % HEIGHT * STRIDE_Y - LEAD_Y)[:, None] + (sub // STRIDE_X)[None, :]
x0 = (spot % WIDTH * STRIDE_X - LEAD_X)[:, None] + (sub % STRIDE_X)[None, :]
inside = (y >= 0) & (y < IH) & (x0 >= 0) & (x0 < IW)
live = known[:, None] & (sub < STRIDE_Y * STRIDE_X)[None, :]
at = ((image.to(tl.int64) * IH)[:, None] + y) * IW + x0
value = tl.load(x + at * X_STRIDE + (place % IC)[None, :], mask=inside & live, other={outside})
{negative}tl.store(folded + spot.to(tl.int64)[:, None] * DEPTH + place[None, :], {value}, mask=known[:, None])
"""

_RUNS = """\
block = tl.program_id(0) // COLUMNS
row = (block * BM + tl.arange(0, BM)).to(tl.int64)
column = tl.program_id(0) % COLUMNS
channel = column * BN + tl.arange(0, BN)
row_ok = row < ROWS
channel_ok = channel < OC
live = row_ok[:, None] & channel_ok[None, :]
m = tl.minimum(block * BM + tl.arange(0, BM), ROWS - 1)
n = tl.minimum(channel, OC - 1)
{order}image = m // (OH * OW)
pixel = (image.to(tl.int64) * HEIGHT + m // OW % OH) * WIDTH + m % OW

acc = tl.zeros((BM, BN), {sums})
{first}
k = tl.arange(0, BK)
a_at = folded + pixel[:, None] * DEPTH
b_at = w + n[None, :] * TERMS
for step in range(0, TERMS // BK):
    term = step * BK + k
    a = tl.load(a_at + (term // RUN * (WIDTH * DEPTH) + term % RUN)[None, :])
    b = tl.load(b_at + term[:, None])
    acc = product(a, b, acc)
"""


class ConvFewChannels:
    """Conv and ConvInt8 of at most 8 bytes a pixel, strided."""

    name = "cuda.conv_few_channels"
    ops = frozenset({"Conv", "ConvInt8"})
    packing: tuple[str, ...] = ()

    def accepts(self, w: Workload) -> str | None:
        if w.op not in self.ops:
            return f"computes {', '.join(sorted(self.ops))}, not {w.op}"
        if (reason := level_declines(w)) is not None:
            return reason
        s = conv_shape(w)
        if isinstance(s, str):
            return s
        data, weights = (w.inputs[i].type.dtype for i in (0, 1))  # type: ignore[union-attr]
        codes = data in _CODES
        if (data not in HALVES and not codes) or weights != ("int8" if codes else data):
            return f"computes floats of 16 bits or codes, not {data} with weights of {weights}"
        if s.groups != 1 or s.icg * itemsize(data) > _MOST:
            return f"computes pixels of at most {_MOST} bytes in one group, not {s.groups} groups of {s.icg} {data}"
        if s.strides == (1, 1) or s.dilations != (1, 1) or any(p < 0 for p in s.pads):
            return "computes strided windows without dilation only"
        if not w.constant[1] or (len(w.inputs) > 2 and w.inputs[2] is not None and not w.constant[2]):
            return "weights and bias must be constant to be packed"
        if len(w.inputs) > 3:
            return "its zero point is known at run time only"
        if w.inputs[2:] and w.inputs[2] is not None and codes != (w.inputs[2].type.dtype == "int32"):
            return f"the bias is {w.inputs[2].type.dtype}"
        if not self.candidates(w):
            return "no block of terms divides its windows"
        if codes:
            return epilogue_declines(w.epilogue, "int32")
        if w.epilogue.operands[0].dtype not in ("float32", data):
            return f"sums in float32, not {w.epilogue.operands[0].dtype}"
        return epilogue_declines(w.epilogue)

    def candidates(self, w: Workload) -> Sequence[Params]:
        s, f, size = self._parts(w)
        found = []
        for bm, bn, bk, warps, stages in _TILES:
            terms = bk // size
            whole = f.terms % terms == 0 and (f.run % terms == 0 or terms % f.run == 0)
            if whole and bn <= max(16, 1 << (s.ocg - 1).bit_length()):
                b = Blocking(bm, bn, terms, warps, stages)
                found.append(b)
                if register_tiles.fits(w, bm, bn, warps):
                    found += [replace(b, direct=1), replace(b, direct=1, near=1, stages=2)]
        distinct = dict.fromkeys(b.params for b in found)
        return sorted(distinct, key=lambda p: (self.predict(w, p), -dict(p)["bm"] * dict(p)["bn"]))

    def predict(self, w: Workload, params: Params) -> float:
        """The first launch's bytes at the chip's bandwidth, then blocks as of other products, or the second's bytes."""
        s, f, size = self._parts(w)
        b, d = Blocking.of(params), DEVICES[w.isa]
        pixels = static(s.pixels) or TYPICAL_PIXELS
        tiles = -(-pixels // b.bm) * -(-s.ocg // b.bn)
        multiply, load, finish = tile_seconds(b, f.terms, work_of(w), d)
        fold = pixels * f.depth * size * 4 / d.bandwidth + 2.5e-6
        store = pixels * (f.depth + s.ocg) * size / d.bandwidth
        total = fold + max(tiles / d.processors * max(multiply, load, finish), store) + 2e-6
        return total * (0.95 if b.direct else 1.0) * (1 + 0.02 * (b.stages - 2)) * (1.2 if b.warps > 4 else 1.0)

    def generate(self, w: Workload, params: Params, entry: str) -> TritonKernel:
        s, f, size = self._parts(w)
        b = Blocking.of(params)
        data = w.inputs[0].type.dtype  # type: ignore[union-attr]
        codes = data in _CODES
        held = "int8" if codes else data
        pointers = [
            Parameter("x", POINTER_TYPES[data], ("input", 0)),
            Parameter("w", POINTER_TYPES[held], ("packed", 0)),
            Parameter("folded", POINTER_TYPES[held], ("shared", 0)),
        ]
        if codes or self._has_bias(w):
            pointers.append(Parameter("bias", "*i32" if codes else "*fp32", ("packed", 1)))
        pointers += epilogue_parameters(w.epilogue)
        signature = (*((p.name, p.type) for p in pointers), *((f"dim_{name}", "i32") for name in w.symbols))
        names, aligned = [name for name, _ in signature], frozenset(p.name for p in pointers)
        spots = max(1, 4096 // f.depth)
        sizes: dict[str, Any] = {
            "N": s.n, "IH": s.ih, "IW": s.iw, "OH": s.oh, "OW": s.ow, "IC": s.icg, "OC": s.ocg, "ROWS": s.pixels,
            "STRIDE_Y": s.strides[0], "STRIDE_X": s.strides[1], "LEAD_Y": f.lead[0], "LEAD_X": f.lead[1],
            "X_STRIDE": s.xld, "HEIGHT": f.height, "WIDTH": f.width, "DEPTH": f.depth, "RUN": f.run,
            "TERMS": f.terms, "BM": b.bm, "BN": b.bn, "BK": b.bk, "COLUMNS": -(-s.ocg // b.bn), "SPOTS": spots,
            "WARPS": b.warps,
        }  # fmt: skip
        value = "(value ^ 128).to(tl.int8, bitcast=True)" if data == "uint8" else "value"
        outside = int(w.attr("zero_point", 0)) if codes else 0  # type: ignore[arg-type]
        negative = ""
        if outside < 0:  # Triton 3.6 extends its sign over the other bytes of a vector
            negative, outside = f"value = tl.where(inside & live, value, {outside})\n", 0
        fold = _FOLD.format(outside=outside, value=value, negative=negative)
        about = f"Folds strides of {s.strides[0]}x{s.strides[1]} into {f.depth} channels."
        first = module_text(about, f"{entry}_fold", names, sizes, fold)
        rest, order = finished(w, s), ""
        if b.direct:
            part = register_tiles.part(w)
            order = f"n = tl.minimum(column * BN + {register_tiles.columns('BN', part)}, OC - 1)\n"
            named, rest = register_tiles.epilogue(rest, "acc", b.bn, part)
            rest = named + IMAGE + rest
        body = _RUNS.format(
            sums="tl.int32" if codes else "tl.float32", first=constants_added(s, names), order=order
        )
        body += rest
        helpers = product_text(held, False).rstrip() + "\n" + epilogue_helpers(w.epilogue)
        about = f"{f.rows}x{f.columns} windows of {f.depth} channels: tiles of {b.bm}x{b.bn}x{b.bk}."
        second = module_text(about, entry, names, sizes, body, helpers)
        folded = product((s.n, f.height, f.width))
        return TritonKernel(
            first + "\n\n" + second,
            (f"{entry}_fold", entry),
            tuple(p.ref for p in pointers),
            w.symbols,
            shared_workspace=folded * (f.depth * size),
            in_place=len(w.epilogue.results) == 1,
            triton=TritonSource(first, f"{entry}_fold", signature, aligned, 4, 1),
            grid=ceil_div(folded, spots),
            then=(TritonSource(second, entry, signature, aligned, b.warps, b.stages, near=bool(b.near), late=codes),),
            later=(ceil_div(s.pixels, b.bm) * -(-s.ocg // b.bn),),
        )

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Weights as [OC, window rows, window columns, depth], zero where a pixel has no such tap; the bias, of codes
        less what the zero point adds."""
        s, f, _ = self._parts(w)
        data = w.inputs[0].type.dtype  # type: ignore[union-attr]
        given = constants[1].reshape(*s.kernel, s.icg, s.ocg)
        packed = np.zeros((s.ocg, f.rows, f.columns, f.depth), given.dtype)
        (sy, sx), (skip_y, skip_x) = s.strides, f.skip
        for ky in range(s.kernel[0]):
            for kx in range(s.kernel[1]):
                y, x = ky + skip_y, kx + skip_x
                at = (y % sy * sx + x % sx) * s.icg
                packed[:, y // sy, x // sx, at : at + s.icg] = given[ky, kx].T
        if data not in _CODES:
            if not self._has_bias(w):
                return (packed,)
            return packed, numbers(constants[2], w.inputs[2].type.dtype).astype(np.float32)  # type: ignore[union-attr]
        bias = constants[2].astype(np.int64) if self._has_bias(w) else np.zeros(s.ocg, np.int64)
        zero = int(w.attr("zero_point", 0)) - (128 if data == "uint8" else 0)  # type: ignore[arg-type]
        return packed, (bias - zero * given.astype(np.int64).sum(axis=(0, 1, 2))).astype(np.int32)

    def _parts(self, w: Workload) -> tuple[ConvShape, _Folded, int]:
        s = conv_shape(w)
        if isinstance(s, str):
            raise ValueError(s)
        size = itemsize(w.inputs[0].type.dtype)  # type: ignore[union-attr]
        return s, _Folded.of(s, size, size > 1), size

    @staticmethod
    def _has_bias(w: Workload) -> bool:
        return len(w.inputs) > 2 and w.inputs[2] is not None
