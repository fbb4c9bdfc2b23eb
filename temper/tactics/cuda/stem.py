"""A network's first convolution (few input channels, strided) on tensor cores, by space-to-depth and a plain product.

A first launch rewrites ("folds") the image so that one of its pixels holds all stride x stride pixels that a step of
the window passes, with padding included and channels padded to 16 bytes. The window then has stride 1, and each of its
rows is one run of contiguous bytes, which single pixels of 3 channels are not.
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
from temper.tactics.conv_geometry import TYPICAL_PIXELS, ConvShape, conv_shape
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
from temper.tactics.cuda.levels import declines
from temper.tactics.cuda.loads import HALVES
from temper.tactics.cuda.product_model import DEVICES, tile_seconds
from temper.tactics.cuda.product_text import IMAGE, Blocking, constants_added, finished, module_text, product_text
from temper.tactics.cuda.stem_fold import Folded, fold_text, transposed_fold_text
from temper.tactics.geometry import static

_CODES = frozenset({"int8", "uint8"})
#: Most bytes of a pixel: wider ones are read well as they are.
_MOST = 8

#: (rows, channels, bytes of terms, warps, stages)
_TILES = (
    (128, 64, 128, 4, 2), (256, 64, 64, 8, 3), (128, 64, 64, 4, 4), (128, 64, 128, 4, 3), (256, 64, 128, 8, 2),
    (64, 64, 128, 4, 3), (128, 32, 64, 4, 4), (256, 32, 64, 8, 3), (64, 32, 64, 4, 4), (128, 128, 64, 8, 3),
    (64, 16, 64, 2, 4), (128, 32, 32, 4, 4), (64, 16, 32, 2, 4),
)  # fmt: skip


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


@dataclass(frozen=True)
class Stem:
    """A convolution of few channels as its kernels see it. data: type of its input; spots: folded pixels a block
    writes."""

    s: ConvShape
    f: Folded
    data: str
    zero: int
    bias: bool
    spots: int

    @staticmethod
    def of(w: Workload, spots: int = 0) -> Stem:
        s = conv_shape(w)
        if isinstance(s, str):
            raise ValueError(s)
        data = w.input_dtype(0)
        codes, size = data in _CODES, itemsize(data)
        f = Folded.of(s, size, size > 1)
        zero = int(w.attr("zero_point", 0)) if codes else 0  # type: ignore[arg-type]
        bias = len(w.inputs) > 2 and w.inputs[2] is not None
        return Stem(s, f, data, zero, bias, spots or max(1, 4096 // f.depth))

    @property
    def size(self) -> int:
        return itemsize(self.data)

    @property
    def codes(self) -> bool:
        return self.data in _CODES

    @property
    def held(self) -> str:
        """Type of the folded image and of the weights."""
        return "int8" if self.codes else self.data

    @property
    def sums(self) -> str:
        return "tl.int32" if self.codes else "tl.float32"

    @property
    def pixels(self) -> DimLike:
        """Of the folded image."""
        return product((self.s.n, self.f.height, self.f.width))

    def pointers(self, given: str) -> list[Parameter]:
        """What the kernels take but for their programs' operands. given: type of the image that is folded."""
        found = [
            Parameter("x", POINTER_TYPES[given], ("input", 0)),
            Parameter("w", POINTER_TYPES[self.held], ("packed", 0)),
            Parameter("folded", POINTER_TYPES[self.held], ("shared", 0)),
        ]
        if self.codes or self.bias:
            found.append(Parameter("bias", "*i32" if self.codes else "*fp32", ("packed", 1)))
        return found

    def sizes(self) -> dict[str, Any]:
        """Constants of the kernels."""
        s, f = self.s, self.f
        return {
            "N": s.n, "IH": s.ih, "IW": s.iw, "OH": s.oh, "OW": s.ow, "IC": s.icg, "OC": s.ocg, "ROWS": s.pixels,
            "STRIDE_Y": s.strides[0], "STRIDE_X": s.strides[1], "LEAD_Y": f.lead[0], "LEAD_X": f.lead[1],
            "X_STRIDE": s.xld, "HEIGHT": f.height, "WIDTH": f.width, "DEPTH": f.depth, "RUN": f.run,
            "TERMS": f.terms, "SPOTS": self.spots,
        }  # fmt: skip

    def fold(self, entry: str, names: Sequence[str], transposition: Workload | None = None) -> str:
        """The module of the kernel that folds the image, or its planes behind the program of a transposition."""
        about = f"Folds strides of {self.s.strides[0]}x{self.s.strides[1]} into {self.f.depth} channels."
        if transposition is None:
            return module_text(about, entry, names, self.sizes(), fold_text(self.data, self.zero))
        text = transposed_fold_text(transposition, self.s, self.f, self.zero)
        return module_text(about, entry, names, self.sizes(), text, "\n" + epilogue_helpers(transposition.epilogue))

    def products(self, w: Workload, b: Blocking, entry: str, names: Sequence[str]) -> str:
        """The module of the kernel that multiplies, with the epilogue of `w`."""
        s, f = self.s, self.f
        tile = {
            "BM": b.bm, "BN": b.bn, "BK": b.bk, "COLUMNS": -(-s.ocg // b.bn), "SPOTS": self.spots, "WARPS": b.warps,
        }  # fmt: skip
        rest, order = finished(w, s), ""
        if b.direct:
            part = register_tiles.part(w)
            order = f"n = tl.minimum(column * BN + {register_tiles.columns('BN', part)}, OC - 1)\n"
            named, rest = register_tiles.epilogue(rest, "acc", b.bn, part)
            rest = named + IMAGE + rest
        body = _RUNS.format(sums=self.sums, first=constants_added(s, names), order=order)
        helpers = product_text(self.held, False).rstrip() + "\n" + epilogue_helpers(w.epilogue)
        about = f"{f.rows}x{f.columns} windows of {f.depth} channels: tiles of {b.bm}x{b.bn}x{b.bk}."
        return module_text(about, entry, names, self.sizes() | tile, body + rest, helpers)


class ConvFewChannels:
    """Conv and ConvInt8 of at most 8 bytes a pixel, strided."""

    name = "cuda.conv_few_channels"
    ops = frozenset({"Conv", "ConvInt8"})
    packing: tuple[str, ...] = ()

    def accepts(self, w: Workload) -> str | None:
        if (reason := declines(w, self.ops)) is not None:
            return reason
        s = conv_shape(w)
        if isinstance(s, str):
            return s
        data, weights = (w.input_dtype(i) for i in (0, 1))
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
        x = Stem.of(w)
        s, f, size = x.s, x.f, x.size
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
        x = Stem.of(w)
        s, f, size = x.s, x.f, x.size
        b, d = Blocking.of(params), DEVICES[w.isa]
        pixels = static(s.pixels) or TYPICAL_PIXELS
        tiles = -(-pixels // b.bm) * -(-s.ocg // b.bn)
        multiply, load, finish = tile_seconds(b, f.terms, work_of(w), d)
        fold = pixels * f.depth * size * 4 / d.bandwidth + 2.5e-6
        store = pixels * (f.depth + s.ocg) * size / d.bandwidth
        total = fold + max(tiles / d.processors * max(multiply, load, finish), store) + 2e-6
        return total * (0.95 if b.direct else 1.0) * (1 + 0.02 * (b.stages - 2)) * (1.2 if b.warps > 4 else 1.0)

    def generate(self, w: Workload, params: Params, entry: str) -> TritonKernel:
        b, x = Blocking.of(params), Stem.of(w)
        pointers = [*x.pointers(x.data), *epilogue_parameters(w.epilogue)]
        signature = (*((p.name, p.type) for p in pointers), *((f"dim_{name}", "i32") for name in w.symbols))
        names, aligned = [name for name, _ in signature], frozenset(p.name for p in pointers)
        first, second = x.fold(f"{entry}_fold", names), x.products(w, b, entry, names)
        return TritonKernel(
            first + "\n\n" + second,
            (f"{entry}_fold", entry),
            tuple(p.ref for p in pointers),
            w.symbols,
            shared_workspace=x.pixels * (x.f.depth * x.size),
            in_place=len(w.epilogue.results) == 1,
            triton=TritonSource(first, f"{entry}_fold", signature, aligned, 4, 1),
            grid=ceil_div(x.pixels, x.spots),
            then=(TritonSource(second, entry, signature, aligned, b.warps, b.stages, near=bool(b.near), late=x.codes),),
            later=(ceil_div(x.s.pixels, b.bm) * -(-x.s.ocg // b.bn),),
        )

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Weights as [OC, window rows, window columns, depth], zero where a pixel has no such tap; the bias, of codes
        less what the zero point adds."""
        stem = Stem.of(w)
        s, f, data = stem.s, stem.f, stem.data
        given = constants[1].reshape(*s.kernel, s.icg, s.ocg)
        packed = np.zeros((s.ocg, f.rows, f.columns, f.depth), given.dtype)
        (sy, sx), (skip_y, skip_x) = s.strides, f.skip
        for ky in range(s.kernel[0]):
            for kx in range(s.kernel[1]):
                y, x = ky + skip_y, kx + skip_x
                at = (y % sy * sx + x % sx) * s.icg
                packed[:, y // sy, x // sx, at : at + s.icg] = given[ky, kx].T
        if data not in _CODES:
            if not stem.bias:
                return (packed,)
            return packed, numbers(constants[2], w.input_dtype(2)).astype(np.float32)
        bias = constants[2].astype(np.int64) if stem.bias else np.zeros(s.ocg, np.int64)
        zero = stem.zero - (128 if data == "uint8" else 0)
        return packed, (bias - zero * given.astype(np.int64).sum(axis=(0, 1, 2))).astype(np.int32)
