"""Implicit GEMM on a CUDA GPU: convolution with constant weights as a matrix product, and matrix products themselves.

Data are channels-last: floats of 32, 16 or 8 bits, which are summed in float32, or 8-bit codes, summed in int32. Rows
of the product are output pixels, columns are output channels, and its terms run over taps and input channels. Each step
takes a block of channels of one tap or, where input channels are few, a block of the flattened (tap, channel) axis. A
matrix product is a 1x1 convolution of one row. Tensor cores multiply signed bytes: unsigned codes are shifted by 128 as
they are loaded, and the packed bias makes up for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from temper.compile.triton import TritonSource
from temper.ir.dims import ceil_div, product
from temper.ir.types import itemsize
from temper.reference.formats import numbers
from temper.tactics.base import Params, Workload
from temper.tactics.conv_geometry import ConvShape, conv_shape, row_image
from temper.tactics.cuda import register_tiles
from temper.tactics.cuda.epilogue_triton import (
    POINTER_TYPES,
    Parameter,
    epilogue_declines,
    epilogue_parameters,
)
from temper.tactics.cuda.kernel import TritonKernel
from temper.tactics.cuda.levels import declines
from temper.tactics.cuda.loads import FLOATS, FLOATS8
from temper.tactics.cuda.product_model import Work, blockings, seconds
from temper.tactics.cuda.product_text import ROW, Blocking, Border, blocks, one_launch, row_length, two_launches
from temper.tactics.geometry import static

Packed = tuple[np.ndarray, ...]

_CODES = frozenset({"int8", "uint8"})
#: Steps of a program that take many instructions.
_FUNCTIONS = frozenset({"Gelu", "Silu", "Sigmoid", "Tanh", "Erf", "Exp", "Mish", "Softplus", "HardSwish"})


class ImplicitGemm:
    """Base of convolution and matrix product with constant weights and one group."""

    name: str
    ops: frozenset[str]
    #: one packing serves all blockings, but for what is outside the image
    packing: tuple[str, ...] = ("flat",)

    def shape(self, w: Workload) -> ConvShape | str:
        """The workload as a convolution, or the reason why it is none."""
        raise NotImplementedError

    def accepts(self, w: Workload) -> str | None:
        if (reason := declines(w, self.ops)) is not None:
            return reason
        s = self.shape(w)
        if isinstance(s, str):
            return s
        if s.groups != 1:
            return f"computes one group, not {s.groups}"
        data, weights = (w.input_dtype(i) for i in (0, 1))
        codes = data in _CODES
        if (data not in FLOATS and data not in FLOATS8 and not codes) or weights != ("int8" if codes else data):
            return f"computes floats or codes, both operands of one type, not {data} with weights of {weights}"
        if not w.constant[1]:
            return "the weights must be constant to be packed"
        if len(w.inputs) > 3:
            return "its zero point is known at run time only"
        bias = w.inputs[2] if len(w.inputs) > 2 else None
        if bias is not None and (not w.constant[2] or bias.type.dtype not in ({"int32"} if codes else FLOATS)):
            return "the bias must be a constant to be packed"
        if codes:
            return epilogue_declines(w.epilogue, "int32")
        if w.epilogue.operands[0].dtype not in ("float32", data):
            return f"sums in float32, not {w.epilogue.operands[0].dtype}"
        return epilogue_declines(w.epilogue)

    def candidates(self, w: Workload) -> Sequence[Params]:
        s = self.geometry(w)
        found = blockings(s, self._itemsize(w), w.isa, w.tf32)
        if w.isa == register_tiles.ISA:
            found = list(dict.fromkeys(c for b in found for c in self._on_hopper(w, s, b)))
        if any(o.kind == "full" and itemsize(o.dtype) <= 2 for o in w.epilogue.operands[1:]):
            # they take few registers, and few steps of products leave little to wait behind
            found = [*found, *(replace(b, early=1) for b in found if b.split == 1 and b.steps(s) <= 8)]
        return sorted((b.params for b in found), key=lambda p: self.predict(w, p))

    @staticmethod
    def _on_hopper(w: Workload, s: ConvShape, b: Blocking) -> Iterator[Blocking]:
        """Variants of a blocking for sm_90: results stored from registers where possible; for windows, also with copies
        through the L1 cache, which has more room with fewer stages."""
        direct = int(b.split == 1 and not b.flat and register_tiles.fits(w, b.bm, b.bn, b.warps))
        yield replace(b, direct=direct)
        if direct:
            yield b
        if s.kernel != (1, 1) and b.split == 1 and not b.flat:
            yield replace(b, direct=direct, near=1, stages=min(b.stages, 3))

    def predict(self, w: Workload, params: Params) -> float:
        return seconds(self.geometry(w), Blocking.of(params), work_of(w), w.isa)

    def generate(self, w: Workload, params: Params, entry: str) -> TritonKernel:
        s, b, size = self.geometry(w), Blocking.of(params), self._itemsize(w)
        data = w.input_dtype(0)
        codes = data in _CODES
        pointers = list(self.parameters(w, b.flat))
        if b.split > 1:
            pointers.append(Parameter("sums", "*i32" if codes else "*fp32", ("shared", 0)))
        signature = (*((p.name, p.type) for p in pointers), *((f"dim_{name}", "i32") for name in w.symbols))
        names, aligned = [name for name, _ in signature], frozenset(p.name for p in pointers)
        grid = blocks(s, b)
        args = tuple(p.ref for p in pointers)
        if b.split == 1:
            text = one_launch(w, s, b, entry, names, size)
            source = TritonSource(text, entry, signature, aligned, b.warps, b.stages, near=bool(b.near), late=codes)
            in_place = len(w.epilogue.results) == 1
            return TritonKernel(text, (entry,), args, w.symbols, in_place=in_place, triton=source, grid=grid)
        tile = _sum_tile(s)
        first, second = two_launches(w, s, b, entry, names, size, tile)
        return TritonKernel(
            first + "\n\n" + second,
            (entry, f"{entry}_sum"),
            args,
            w.symbols,
            shared_workspace=product((b.split, s.pixels, s.ocg, 4)),
            in_place=len(w.epilogue.results) == 1,
            triton=TritonSource(first, entry, signature, aligned, b.warps, b.stages, near=bool(b.near), late=codes),
            grid=grid * b.split,
            then=(TritonSource(second, f"{entry}_sum", signature, aligned, 4, 1),),
            later=(ceil_div(s.pixels, tile[0]) * -(-s.ocg // tile[1]),),
        )

    def parameters(self, w: Workload, flat: int = 0) -> tuple[Parameter, ...]:
        """Pointers to the operands as `prepack` leaves them, and of the epilogue."""
        data = w.input_dtype(0)
        codes = data in _CODES
        pointers = [
            Parameter("x", POINTER_TYPES[data], ("input", 0)),
            Parameter("w", POINTER_TYPES["int8" if codes else data], ("packed", 0)),
        ]
        if codes or self._has_bias(w):
            pointers.append(Parameter("bias", "*i32" if codes else "*fp32", ("packed", 1)))
        if self.borders(w):
            outside = Parameter("table", "*i32", ("packed", 2))
            pointers.append(outside if flat else Parameter("blank", POINTER_TYPES[data], ("packed", 2)))
        return (*pointers, *epilogue_parameters(w.epilogue))

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Weights as [OC, K padded to 16 bytes], K = (tap, channel), for every blocking; the bias in float32, or that
        of codes in int32 less what shifted codes and a zero point add; then, where windows leave the image and zeros
        do not stand for zero there, a pixel of zero points to be read instead or, where terms are cut without regard
        to taps, what is to be added for each way of leaving it, [ways, OC]."""
        function, about, given = self.packs(w, params)
        return function(about, *(constants[i] for i in given))

    def packs(self, w: Workload, params: Params) -> tuple[Callable[..., Packed], Packing, tuple[int, ...]]:
        """As `tactics.base.packed` asks."""
        s, data = self.geometry(w), w.input_dtype(0)
        bias = w.input_dtype(2) if self._has_bias(w) else ""
        border = Border.of(s) if self.borders(w) and dict(params).get("flat", 0) else None
        row, cut = row_length(s, self._itemsize(w)), w.tf32 and data == "float32"
        about = Packing(s.kernel, s.icg, s.ocg, row, data, bias, cut, self._zero(w), self.borders(w), border)
        return pack, about, (1, 2) if bias else (1,)

    def _zero(self, w: Workload) -> int:
        """The zero point of the codes as they are multiplied, that is after shifting unsigned ones."""
        return int(w.attr("zero_point", 0)) - _shift(w.input_dtype(0))  # type: ignore[arg-type]

    def borders(self, w: Workload) -> bool:
        """Whether windows leave the image and the code 0, which masked loads give, does not stand for zero."""
        data = w.input_dtype(0)
        return data in _CODES and self.geometry(w).padded and self._zero(w) != (-128 if data == "uint8" else 0)

    def geometry(self, w: Workload) -> ConvShape:
        """Of an accepted workload."""
        s = self.shape(w)
        if isinstance(s, str):
            raise ValueError(s)
        return s

    @staticmethod
    def _itemsize(w: Workload) -> int:
        assert w.inputs[0] is not None
        return itemsize(w.inputs[0].type.dtype)

    @staticmethod
    def _has_bias(w: Workload) -> bool:
        return len(w.inputs) > 2 and w.inputs[2] is not None


@dataclass(frozen=True)
class Packing:
    """What packed weights and bias depend on besides their numbers.

    row: elements of a row.
    data, bias: element types, no bias if empty.
    cut: tensor cores cut the weights.
    zero: the zero point of codes as they are multiplied.
    borders: windows leave the image where zeros do not stand for zero.
    border: how, where a table says what that adds.
    """

    kernel: tuple[int, int]
    icg: int
    ocg: int
    row: int
    data: str
    bias: str
    cut: bool
    zero: int
    borders: bool
    border: Border | None


def pack(p: Packing, weights: np.ndarray, added: np.ndarray | None = None) -> Packed:
    """See `ImplicitGemm.prepack`."""
    terms = p.kernel[0] * p.kernel[1] * p.icg
    packed = np.zeros((p.ocg, p.row), weights.dtype)
    matrix = weights.reshape(terms, p.ocg)
    for i in range(0, p.ocg, 128):  # in pieces that stay in the first-level cache
        for j in range(0, terms, 64):
            packed[i : i + 128, j : min(j + 64, terms)] = matrix[j : j + 64, i : i + 128].T
    if p.cut:  # tensor cores cut what they do not multiply, towards zero
        bits = packed.view(np.uint32)
        bits += np.uint32(0xFFF) + (bits >> 13 & 1)
        bits &= np.uint32(0xFFFFE000)
    if p.data not in _CODES:
        return (packed,) if added is None else (packed, numbers(added, p.bias).astype(np.float32))
    given = np.zeros(p.ocg, np.int64) if added is None else added.astype(np.int64)
    taps = weights.reshape(*p.kernel, p.icg, p.ocg).sum(axis=2, dtype=np.int64)
    bias = (given - p.zero * taps.sum(axis=(0, 1))).astype(np.int32)
    if not p.borders:
        return packed, bias
    if p.border is None:
        return packed, bias, np.full(-(-p.icg // ROW) * ROW, p.zero + _shift(p.data), p.data)
    b, outside, rows = p.border, -_shift(p.data), []
    for above in range(b.above + 1):
        for below in range(b.below + 1):
            for left in range(b.left + 1):
                for right in range(b.right + 1):
                    seen = taps[above : max(above, p.kernel[0] - below), left : max(left, p.kernel[1] - right)]
                    # taps that are not seen were taken for `zero` by the bias and are `outside` in the sum
                    rows.append((p.zero - outside) * (taps.sum(axis=(0, 1)) - seen.sum(axis=(0, 1))))
    return packed, bias, np.stack(rows).astype(np.int32)


def _shift(data: str) -> int:
    """What is subtracted from codes as they are loaded."""
    return 128 if data == "uint8" else 0


class ConvImplicitGemm(ImplicitGemm):
    """Conv and ConvInt8: any kernel size, stride, dilation and padding."""

    name = "cuda.conv_implicit_gemm"
    ops = frozenset({"Conv", "ConvInt8"})

    def shape(self, w: Workload) -> ConvShape | str:
        s = conv_shape(w)
        return s if isinstance(s, str) else _patches(s)


class PackedAsGemm:
    """What other ways to compute a convolution share with `ConvImplicitGemm`: its operators, geometry and packing."""

    ops = ConvImplicitGemm.ops
    base = ConvImplicitGemm()
    packing: tuple[str, ...] = ()

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        """As the base packs."""
        return self.base.prepack(w, (), constants)

    def packs(self, w: Workload, params: Params) -> tuple[Callable[..., Packed], Packing, tuple[int, ...]]:
        """As `tactics.base.packed` asks."""
        return self.base.packs(w, ())


class GemmTiles(ImplicitGemm):
    """a [..., M, K] times a constant b [K, N], of floats or codes."""

    name = "cuda.gemm"
    ops = frozenset({"MatMul", "MatMulInt8"})

    def shape(self, w: Workload) -> ConvShape | str:
        a, b = w.inputs[0], w.inputs[1]
        assert a is not None and b is not None
        if a.type.rank < 2 or b.type.rank != 2:
            return f"packs one right operand of rank 2, not {b.type.rank}"
        if w.attr("transA", 0) or w.attr("transB", 0):
            return "an operand is transposed"
        if static(b.type.shape[0]) is None or static(b.type.shape[1]) is None or 0 in (*a.type.shape, *b.type.shape):
            return "a packed operand has a static shape and is not empty"
        return row_image(w)


def _patches(s: ConvShape) -> ConvShape:
    """The same convolution as one of narrower images where windows do not overlap (ViT's patches): the pixels of a
    window's row are contiguous in memory, and count as channels of one pixel."""
    width = s.kernel[1]
    beside = width == s.strides[1] > 1 and s.dilations[1] == 1 and not s.padded and s.xld == s.icg and s.groups == 1
    if not beside or s.iw != s.ow * width:
        return s
    channels = width * s.icg
    return replace(s, iw=s.ow, icg=channels, xld=channels, kernel=(s.kernel[0], 1), strides=(s.strides[0], 1))


@lru_cache(maxsize=4096)
def work_of(w: Workload) -> Work:
    """What the time of a product depends on besides its geometry."""
    full = sum(o.kind == "full" for o in w.epilogue.operands[1:])
    functions = sum(i.op in _FUNCTIONS for i in w.epilogue.instrs)
    return Work(itemsize(w.input_dtype(0)), w.tf32, full, functions)


def _sum_tile(s: ConvShape) -> tuple[int, int]:
    """Rows and channels of a block that adds the parts of split-K: few elements, so that all processors take part."""
    channels = min(128, max(16, 1 << (s.ocg - 1).bit_length()))
    return 512 // channels, channels
