"""Max and average pooling of channels-last planes on a CUDA GPU, of floats or codes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from temper.compile.triton import CUDA_ISAS
from temper.ir.types import itemsize
from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cpu.depthwise import int_tuple
from temper.tactics.cpu.source import typical_count
from temper.tactics.cuda.epilogue_triton import POINTER_TYPES, TRITON_TYPES, Parameter, epilogue_declines
from temper.tactics.cuda.tiles import tile_kernel

#: Below every value, by element type.
_LEAST: Mapping[str, str] = {"float32": 'float("-inf")', "float16": 'float("-inf")', "int8": "-128", "uint8": "0"}

_TAPS = """\
y0 = row // OW % OH * STRIDE_Y - PAD_TOP
x0 = row % OW * STRIDE_X - PAD_LEFT
plane = row // (OH * OW) * IH
{start}
for tap in range(TAPS):
    y = y0 + tap // KW * DILATION_Y
    z = x0 + tap % KW * DILATION_X
    inside = row_ok & (y >= 0) & (y < IH) & (z >= 0) & (z < IW)
    at = ((plane + y) * IW + z)[:, None] * X_STRIDE + channel[None, :]
    taken = inside[:, None] & channel_ok[None, :]
    value = tl.load(x + at, mask=taken, other=0)
    {step}
{finish}
"""


class Pool:
    """MaxPool and AveragePool with any window, stride, dilation and padding."""

    name = "cuda.pool"
    ops = frozenset({"MaxPool", "AveragePool"})

    def accepts(self, w: Workload) -> str | None:
        if w.op not in self.ops:
            return f"computes MaxPool and AveragePool, not {w.op}"
        if w.isa not in CUDA_ISAS:
            return f"no such GPU level: {w.isa}"
        x = w.inputs[0] if w.inputs else None
        if x is None or x.type.rank != 4 or not w.attr("channels_last", 0):
            return "computes channels-last 2-D pools only"
        if _window(w) is None:
            return "kernel_shape, strides and dilations must have 2 entries, pads 4"
        if 0 in w.outputs[0].type.shape:
            return "it computes no element"
        taken = _LEAST if w.op == "MaxPool" else {"float32", "float16"}
        if x.type.dtype not in taken:
            return f"computes {' and '.join(sorted(taken))}, not {x.type.dtype}"
        return epilogue_declines(w.epilogue, x.type.dtype)

    def candidates(self, w: Workload) -> Sequence[Params]:
        return [()]

    def predict(self, w: Workload, params: Params) -> float:
        window = _window(w)
        assert window is not None
        (kh, kw), _, _, _ = window
        return 2e-6 + typical_count(w.outputs[0].type.shape) * (kh * kw + 2) * itemsize(w.outputs[0].type.dtype) / 4e12

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        x, window = w.inputs[0], _window(w)
        assert x is not None and window is not None
        kernel, strides, dilations, pads = window
        _, ih, iw, c = x.type.shape
        _, oh, ow, _ = w.outputs[0].type.shape
        sizes = {
            "IH": ih, "IW": iw, "OH": oh, "OW": ow, "TAPS": kernel[0] * kernel[1], "KW": kernel[1],
            "STRIDE_Y": strides[0], "STRIDE_X": strides[1], "DILATION_Y": dilations[0], "DILATION_X": dilations[1],
            "PAD_TOP": pads[0], "PAD_LEFT": pads[1], "PAD_BOTTOM": pads[2], "PAD_RIGHT": pads[3],
            "X_STRIDE": x.row_stride or c,
        }  # fmt: skip
        dtype = x.type.dtype
        if w.op == "MaxPool":
            # Bytes are compared as int32, and what is not taken is set apart from the load: of bytes Triton 3.6 packs
            # an `other` that is negative wrongly, and widens unsigned ones as if they were signed.
            kind = {"float32": "tl.float32", "float16": "tl.float16"}.get(dtype, "tl.int32")
            wide = f"(value.to({kind}) & 255)" if dtype == "uint8" else f"value.to({kind})"
            narrow = f"v0 = v0.to({TRITON_TYPES[dtype]})" if kind == "tl.int32" else ""
            nan = ", propagate_nan=tl.PropagateNan.ALL" if dtype.startswith("float") else ""
            body = _TAPS.format(
                start=f"v0 = tl.full((BM, BN), {_LEAST[dtype]}, {kind})",
                step=f"v0 = tl.maximum(v0, tl.where(taken, {wide}, {_LEAST[dtype]}){nan})",
                finish=narrow,
            )
        else:
            counted = (
                "(y >= -PAD_TOP) & (y < IH + PAD_BOTTOM) & (z >= -PAD_LEFT) & (z < IW + PAD_RIGHT)"
                if w.attr("count_include_pad", 0)
                else "inside"
            )
            body = _TAPS.format(
                start="total = tl.zeros((BM, BN), tl.float32)\ncount = tl.zeros((BM,), tl.float32)",
                step=f"total += value\n    count += ({counted}).to(tl.float32)",
                finish=f"v0 = tl.div_rn(total, count[:, None]){'.to(tl.float16)' if dtype == 'float16' else ''}",
            )
        inputs = [Parameter("x", POINTER_TYPES[dtype], ("input", 0))]
        about = f"{w.op} of {kernel[0]}x{kernel[1]}."
        return tile_kernel(w, entry, about, inputs, sizes, body, in_place=len(w.epilogue.results) == 1)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()


def _window(w: Workload) -> tuple[tuple[int, ...], ...] | None:
    """Kernel, strides, dilations and pads."""
    kernel = int_tuple(w, "kernel_shape", 2, 1)
    strides, dilations = int_tuple(w, "strides", 2, 1), int_tuple(w, "dilations", 2, 1)
    pads = int_tuple(w, "pads", 4, 0)
    if kernel is None or strides is None or dilations is None or pads is None:
        return None
    return kernel, strides, dilations, pads
