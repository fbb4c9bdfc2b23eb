"""Convolution as an implicit matrix product on a CUDA GPU: channels-last data in float16 or float32 summed in float32,
8-bit codes in int32.

Rows of the product are output pixels, columns output channels, and the terms run over taps and input channels. Either
each step takes a block of channels of one tap, or (few input channels) a block of the flattened (tap, channel) axis.
A matrix product is a 1x1 convolution of one row. Tensor cores multiply signed bytes: unsigned codes are shifted by 128
as they are loaded, and the bias makes up for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import indent

import numpy as np

from temper.compile.triton import CUDA_ISAS, TritonSource
from temper.ir.dims import ceil_div
from temper.ir.types import itemsize
from temper.tactics.base import ArgRef, Params, Workload
from temper.tactics.cpu.blocking import TYPICAL_PIXELS, ConvShape, static
from temper.tactics.cpu.conv import conv_shape
from temper.tactics.cpu.gemm import row_image
from temper.tactics.cuda.epilogue_triton import (
    POINTER_TYPES,
    Parameter,
    epilogue_declines,
    epilogue_helpers,
    epilogue_parameters,
    epilogue_statements,
)
from temper.tactics.cuda.kernel import TritonKernel, dim_text

_FLOATS: Mapping[str, str] = {"float16": "tl.float16", "float32": "tl.float32"}
_CODES = frozenset({"int8", "uint8"})

#: Bytes to which a row of packed weights is padded, so that every row starts on a 16-byte boundary.
_ROW = 16


@dataclass(frozen=True)
class _Device:
    """Rough figures of the largest chip of a level; they rank candidates and nothing else.

    flops: per second in 8-bit integers and float16 (tensor cores) and float32 (without). shared: bytes of shared memory
    one block may use.
    """

    processors: int
    flops8: float
    flops16: float
    flops32: float
    bandwidth: float
    shared: int


_DEVICES: Mapping[str, _Device] = {
    "sm_80": _Device(108, 624e12, 312e12, 19.5e12, 1.9e12, 166_912),
    "sm_89": _Device(142, 724e12, 362e12, 91e12, 0.86e12, 101_376),
    "sm_90": _Device(132, 1979e12, 989e12, 67e12, 3.3e12, 232_448),
    "sm_100": _Device(148, 4500e12, 2250e12, 75e12, 7.7e12, 232_448),
}


@dataclass(frozen=True)
class _Blocking:
    """bm pixels by bn channels by bk terms a step; flat: terms are cut without regard to taps."""

    bm: int
    bn: int
    bk: int
    warps: int
    stages: int
    flat: int

    @property
    def params(self) -> Params:
        return tuple(vars(self).items())

    @staticmethod
    def of(params: Params) -> _Blocking:
        return _Blocking(**dict(params))

    def steps(self, s: ConvShape) -> int:
        taps = s.kernel[0] * s.kernel[1]
        return -(-s.k // self.bk) if self.flat else taps * -(-s.icg // self.bk)


_TILES16 = (
    (128, 128, 64, 8, 4), (128, 128, 64, 4, 4), (128, 64, 64, 4, 4), (64, 64, 64, 4, 5), (256, 64, 64, 8, 3),
    (64, 128, 64, 4, 4), (128, 128, 32, 4, 4), (128, 32, 64, 4, 4), (128, 16, 64, 4, 4), (64, 32, 32, 4, 4),
    (64, 16, 32, 2, 4), (32, 32, 64, 2, 5), (64, 64, 32, 4, 4), (32, 64, 64, 4, 5),
)  # fmt: skip
#: As for float16, with twice the terms a step.
_TILES8 = (
    (128, 128, 128, 8, 3), (128, 128, 128, 4, 4), (128, 128, 64, 4, 4), (128, 64, 128, 4, 4), (64, 64, 128, 4, 4),
    (256, 64, 64, 8, 3), (64, 128, 128, 4, 4), (128, 32, 128, 4, 4), (128, 64, 64, 4, 4), (64, 64, 64, 4, 5),
    (128, 16, 64, 4, 4), (64, 16, 64, 4, 4),
    (64, 32, 64, 4, 4), (32, 64, 128, 4, 4), (256, 128, 64, 8, 3), (32, 32, 128, 2, 5), (64, 128, 64, 4, 4),
)  # fmt: skip
#: Float32 products run on the scalar units, so tiles are bounded by registers.
_TILES32 = (
    (64, 64, 16, 4, 3), (128, 64, 16, 8, 3), (64, 64, 32, 4, 2), (64, 32, 16, 4, 3), (32, 32, 16, 2, 3),
    (64, 16, 16, 2, 3), (128, 32, 16, 4, 3), (32, 64, 32, 4, 3),
)  # fmt: skip


class _ImplicitGemm:
    """What convolution and matrix product have in common: constant weights, one group."""

    name: str
    ops: frozenset[str]

    def shape(self, w: Workload) -> ConvShape | str:
        """Geometry, or why there is none."""
        raise NotImplementedError

    def accepts(self, w: Workload) -> str | None:
        if w.op not in self.ops:
            return f"computes {', '.join(sorted(self.ops))}, not {w.op}"
        if w.isa not in CUDA_ISAS:
            return f"no such GPU level: {w.isa}"
        s = self.shape(w)
        if isinstance(s, str):
            return s
        if s.groups != 1:
            return f"computes one group, not {s.groups}"
        data, weights = (w.inputs[i].type.dtype for i in (0, 1))  # type: ignore[union-attr]
        codes = data in _CODES
        if (data not in _FLOATS and not codes) or weights != ("int8" if codes else data):
            return f"computes float16, float32 or codes, not {data} with weights of {weights}"
        if not w.constant[1]:
            return "the weights must be constant to be packed"
        if len(w.inputs) > 3:
            return "its zero point is known at run time only"
        bias = w.inputs[2] if len(w.inputs) > 2 else None
        if bias is not None and (not w.constant[2] or bias.type.dtype not in ({"int32"} if codes else _FLOATS)):
            return "the bias must be a constant to be packed"
        if codes:
            return epilogue_declines(w.epilogue, "int32")
        if w.epilogue.operands[0].dtype not in ("float32", data):
            return f"sums in float32, not {w.epilogue.operands[0].dtype}"
        return epilogue_declines(w.epilogue)

    def candidates(self, w: Workload) -> Sequence[Params]:
        s, size = self._shape(w), self._itemsize(w)
        width = max(16, 1 << (s.ocg - 1).bit_length())
        found = []
        for bm, bn, bk, warps, stages in {1: _TILES8, 2: _TILES16, 4: _TILES32}[size]:
            if bn > width or stages * (bm + bn) * bk * size > _DEVICES[w.isa].shared:
                continue
            flat = int(s.icg < bk and s.icg * size % _ROW != 0 and s.kernel != (1, 1))
            found.append(_Blocking(bm, bn, bk, warps, stages, flat))
        return sorted((b.params for b in found), key=lambda p: self.predict(w, p))

    def predict(self, w: Workload, params: Params) -> float:
        """Waves of blocks, each as long as its products at the device's rate, or the bytes at its bandwidth."""
        s, b, d, size = self._shape(w), _Blocking.of(params), _DEVICES[w.isa], self._itemsize(w)
        pixels = static(s.pixels) or TYPICAL_PIXELS
        blocks = -(-pixels // b.bm) * -(-s.ocg // b.bn)
        resident = max(1, min(d.shared // (b.stages * (b.bm + b.bn) * b.bk * size), 16 // b.warps))
        rate = {1: d.flops8, 2: d.flops16, 4: d.flops32}[size] / d.processors
        loads = b.steps(s) * (b.bm + b.bn) * b.bk * size / 60e9 / 8  # L2 to one processor, about 480 GB/s
        block = max(2 * b.bm * b.bn * b.bk * b.steps(s) / (0.6 * rate), loads) + 1e-6 / resident
        seconds = -(-blocks // d.processors) * block + b.stages * 0.5e-6 / resident
        bytes_moved = size * (pixels * (s.icg * s.strides[0] * s.strides[1] + s.ocg) + s.k * s.ocg)
        return max(seconds, bytes_moved / d.bandwidth) + 1.5e-6

    def generate(self, w: Workload, params: Params, entry: str) -> TritonKernel:
        s, b = self._shape(w), _Blocking.of(params)
        data = w.inputs[0].type.dtype  # type: ignore[union-attr]
        codes = data in _CODES
        pointers = [
            Parameter("x", POINTER_TYPES[data], ("input", 0)),
            Parameter("w", POINTER_TYPES["int8" if codes else data], ("packed", 0)),
        ]
        if codes or self._has_bias(w):
            pointers.append(Parameter("bias", "*i32" if codes else "*fp32", ("packed", 1)))
        pointers += epilogue_parameters(w.epilogue)
        signature = (*((p.name, p.type) for p in pointers), *((f"dim_{name}", "i32") for name in w.symbols))
        text = _source(w, s, b, entry, [name for name, _ in signature], self._itemsize(w))
        # packed arrays start on the arena's boundaries; other tensors do too unless they are a view into a wider buffer
        views = {ref for ref, stride in self._strides(w).items() if stride is not None}
        aligned = frozenset(p.name for p in pointers if p.ref not in views)
        source = TritonSource(text, entry, signature, aligned, b.warps, b.stages)
        grid = ceil_div(s.pixels, b.bm) * -(-s.ocg // b.bn)
        return TritonKernel(
            text,
            (entry,),
            tuple(p.ref for p in pointers),
            w.symbols,
            in_place=len(w.epilogue.results) == 1,
            triton=source,
            grid=grid,
        )

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        """Weights as [OC, K padded to 16 bytes], K = (tap, channel), for every blocking; the bias in float32, or that
        of codes in int32 less what shifted codes and a zero point add."""
        s, data = self._shape(w), w.inputs[0].type.dtype  # type: ignore[union-attr]
        packed = np.zeros((s.ocg, _row_length(s, self._itemsize(w))), constants[1].dtype)
        packed[:, : s.k] = constants[1].reshape(s.k, s.ocg).T
        if data not in _CODES:
            return (packed, constants[2].astype(np.float32)) if self._has_bias(w) else (packed,)
        given = constants[2].astype(np.int64) if self._has_bias(w) else np.zeros(s.ocg, np.int64)
        offset = int(w.attr("zero_point", 0)) - (128 if data == "uint8" else 0)  # type: ignore[arg-type]
        return packed, (given - offset * packed.astype(np.int64).sum(axis=1)).astype(np.int32)

    def _shape(self, w: Workload) -> ConvShape:
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

    @staticmethod
    def _strides(w: Workload) -> dict[ArgRef, int | None]:
        """Row stride of every tensor a kernel takes; None where it is dense."""
        return {
            **{("input", i): slot.row_stride for i, slot in enumerate(w.inputs) if slot is not None},
            **{("operand", i): o.row_stride for i, o in enumerate(w.epilogue.operands)},
            **{("output", k): slot.row_stride for k, slot in enumerate(w.outputs)},
        }


class ConvImplicitGemm(_ImplicitGemm):
    """Conv and ConvInt8: any kernel size, stride, dilation and padding."""

    name = "cuda.conv_implicit_gemm"
    ops = frozenset({"Conv", "ConvInt8"})

    def shape(self, w: Workload) -> ConvShape | str:
        return conv_shape(w)


class GemmTiles(_ImplicitGemm):
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


def _row_length(s: ConvShape, size: int) -> int:
    """Elements of a row of packed weights."""
    return -(-s.k * size // _ROW) * _ROW // size


_HEAD = """\
tile = tl.program_id(0)
m = tile // COLUMNS * BM + tl.arange(0, BM)
channel = tile % COLUMNS * BN + tl.arange(0, BN)
row_ok = m < ROWS
channel_ok = channel < OC
live = row_ok[:, None] & channel_ok[None, :]
row = m.to(tl.int64)
image = m // (OH * OW)

# the input pixel of the first tap, which may lie in the padding
y0 = m // OW % OH * STRIDE_Y - PAD_TOP
x0 = m % OW * STRIDE_X - PAD_LEFT
pixel = (image.to(tl.int64) * IH + y0) * IW + x0
"""

_BY_TAP = """\
for step in range(TAPS * CHUNKS):
    tap = step // CHUNKS
    c = step % CHUNKS * BK + tl.arange(0, BK)
    dy = tap // KW * DILATION_Y
    dx = tap % KW * DILATION_X
    inside = row_ok & (y0 + dy >= 0) & (y0 + dy < IH) & (x0 + dx >= 0) & (x0 + dx < IW)
    a = tl.load(
        x + (pixel + dy * IW + dx)[:, None] * X_STRIDE + c[None, :],
        mask=inside[:, None] & (c < IC)[None, :],
        other=0,
    )
    a = padded(a, inside[:, None])
    b = tl.load(
        w + channel[None, :] * W_STRIDE + (tap * IC + c)[:, None],
        mask=(c < IC)[:, None] & channel_ok[None, :],
        other=0,
    )
    acc = product(a, b, acc)
"""

_FLAT = """\
for step in range(STEPS):
    k = step * BK + tl.arange(0, BK)
    tap = k // IC
    dy = (tap // KW * DILATION_Y)[None, :]
    dx = (tap % KW * DILATION_X)[None, :]
    iy = y0[:, None] + dy
    ix = x0[:, None] + dx
    inside = row_ok[:, None] & (k < TERMS)[None, :]
    inside = inside & (iy >= 0) & (iy < IH) & (ix >= 0) & (ix < IW)
    a = tl.load(x + (pixel[:, None] + dy * IW + dx) * X_STRIDE + (k % IC)[None, :], mask=inside, other=0)
    a = padded(a, inside)
    b = tl.load(
        w + channel[None, :] * W_STRIDE + k[:, None], mask=(k < TERMS)[:, None] & channel_ok[None, :], other=0
    )
    acc = product(a, b, acc)
"""

#: What lies outside the image: zeros, or codes that stand for zero.
_PADDED = """


@triton.jit
def padded(a, inside):
    return {}
"""

#: One step of the product, by the data's element type.
_PRODUCTS: Mapping[str, str] = {
    "float": """
def product(a, b, acc):
    return tl.dot(a, b, acc, input_precision="ieee")
""",
    "int8": """
def product(a, b, acc):
    return tl.dot(a, b, acc, out_dtype=tl.int32)
""",
    "uint8": """
def product(a, b, acc):
    return tl.dot((a ^ 128).to(tl.int8, bitcast=True), b, acc, out_dtype=tl.int32)
""",
}


def _source(w: Workload, s: ConvShape, b: _Blocking, entry: str, parameters: Sequence[str], size: int) -> str:
    """The module: helpers of the epilogue, then the kernel with its constants, the product, and the epilogue."""
    sizes = {
        "IH": s.ih, "IW": s.iw, "OH": s.oh, "OW": s.ow, "IC": s.icg, "OC": s.ocg, "ROWS": s.pixels,
        "TAPS": s.kernel[0] * s.kernel[1], "KW": s.kernel[1], "STRIDE_Y": s.strides[0], "STRIDE_X": s.strides[1],
        "DILATION_Y": s.dilations[0], "DILATION_X": s.dilations[1], "PAD_TOP": s.pads[0], "PAD_LEFT": s.pads[1],
        "X_STRIDE": s.xld, "W_STRIDE": _row_length(s, size), "BM": b.bm, "BN": b.bn, "BK": b.bk,
        "COLUMNS": -(-s.ocg // b.bn),
    }  # fmt: skip
    sizes |= {"TERMS": s.k, "STEPS": b.steps(s)} if b.flat else {"CHUNKS": -(-s.icg // b.bk)}
    assert w.inputs[0] is not None
    data = w.inputs[0].type.dtype
    codes = data in _CODES
    zero = int(w.attr("zero_point", 0)) if codes else 0  # type: ignore[arg-type]
    padding = _PADDED.format(f"tl.where(inside, a, {zero})" if zero else "a")
    constants = [
        f"{name}{': tl.constexpr' if static(d) is not None else ''} = {dim_text(d)}" for name, d in sizes.items()
    ]
    body = (
        "\n".join(constants)
        + "\n\n"
        + _HEAD
        + f"\nacc = tl.zeros((BM, BN), {'tl.int32' if codes else 'tl.float32'})\n"
        + (_FLAT if b.flat else _BY_TAP)
    )
    if "bias" in parameters:
        body += "acc += tl.load(bias + channel[None, :], mask=channel_ok[None, :])\n"
    accumulator = w.epilogue.operands[0].dtype
    body += f"\nv0 = acc{f'.to({_FLOATS[accumulator]})' if accumulator == 'float16' else ''}\n"
    body += (
        "\n".join(epilogue_statements(w.epilogue, channels=s.ocg, row_strides=[o.row_stride for o in w.outputs])) + "\n"
    )
    about = f"{s.kernel[0]}x{s.kernel[1]} convolution, {s.icg} to {s.ocg} channels: tiles of {b.bm}x{b.bn}x{b.bk}."
    return (
        f'"""{about}"""\n\nimport triton\nimport triton.language as tl\n\n\n@triton.jit'
        f'{_PRODUCTS[data if codes else "float"]}{padding.rstrip()}\n{epilogue_helpers(w.epilogue)}'
        f"\n\n@triton.jit\ndef {entry}({', '.join(parameters)}):\n{indent(body, '    ')}"
    )
