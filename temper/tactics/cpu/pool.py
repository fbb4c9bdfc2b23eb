"""Max and average pooling of channels-last images (templates/pool.c): bound by loads, KH*KW/2 cycles a vector."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from temper.compile.cc import ISAS
from temper.ir.dims import Dim
from temper.tactics.base import ArgRef, Kernel, Params, Workload
from temper.tactics.cpu.instructions import C_TYPES
from temper.tactics.cpu.render import anchor_declines, epilogue_args, template_text, workload_epilogue_c
from temper.tactics.cpu.source import c_dim, defines
from temper.tactics.geometry import int_tuple

_TYPICAL_EXTENT = 28


@dataclass(frozen=True)
class Window:
    """Kernel geometry of a pool."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[int, ...]


def _window(w: Workload) -> Window | str:
    kernel = int_tuple(w, "kernel_shape", 2, 1)
    strides, dilations = int_tuple(w, "strides", 2, 1), int_tuple(w, "dilations", 2, 1)
    pads = int_tuple(w, "pads", 4, 0)
    if kernel is None or strides is None or dilations is None or pads is None:
        return "kernel_shape, strides and dilations must have 2 entries, pads 4"
    return Window(kernel, strides, dilations, pads)


def _declines(w: Workload) -> str | None:
    """Why the workload is not a channels-last pool of planes; the ops and dtypes are for the tactic to check."""
    if w.isa not in ISAS:
        return f"no such CPU level: {w.isa}"
    x = w.inputs[0] if w.inputs else None
    if x is None or x.type.rank != 4 or not w.attr("channels_last", 0):
        return "computes channels-last 2-D pools only"
    if isinstance(x.type.shape[3], Dim):
        return "the channel count must be known at build time"
    window = _window(w)
    return window if isinstance(window, str) else None


def _geometry(w: Workload) -> dict[str, int | str]:
    """Definitions of sizes and window."""
    window = _window(w)
    x, out = w.inputs[0], w.outputs[0]
    assert isinstance(window, Window) and x is not None
    n, ih, iw, c = x.type.shape
    _, oh, ow, _ = out.type.shape
    symbols = w.symbols
    return {
        "BATCH": c_dim(n, symbols), "IH": c_dim(ih, symbols), "IW": c_dim(iw, symbols),
        "OH": c_dim(oh, symbols), "OW": c_dim(ow, symbols), "C": c_dim(c, symbols),
        "KH": window.kernel[0], "KW": window.kernel[1], "SH": window.strides[0], "SW": window.strides[1],
        "DH": window.dilations[0], "DW": window.dilations[1], "PAD_T": window.pads[0], "PAD_L": window.pads[1],
        "PAD_B": window.pads[2], "PAD_R": window.pads[3], "XLD": c_dim(x.row_stride or c, symbols),
        "OLD": c_dim(out.row_stride or c, symbols),
    }


class Pool:
    """MaxPool and AveragePool with any window, stride, dilation and padding."""

    name = "cpu.pool"
    ops = frozenset({"MaxPool", "AveragePool"})

    def accepts(self, w: Workload) -> str | None:
        if w.op not in ("MaxPool", "AveragePool"):
            return f"computes MaxPool and AveragePool, not {w.op}"
        if reason := _declines(w):
            return reason
        x = w.inputs[0]
        assert x is not None
        if {x.type.dtype, w.outputs[0].type.dtype} != {"float32"}:
            return f"computes float32 only, not {x.type.dtype}"
        return anchor_declines(w.epilogue)

    def candidates(self, w: Workload) -> Sequence[Params]:
        x = w.inputs[0]
        assert x is not None and isinstance(x.type.shape[3], int)
        vectors = -(-x.type.shape[3] // ISAS[w.isa].lanes)
        return sorted({(("cb", min(cb, vectors)),) for cb in (2, 4, 8)}, key=lambda p: self.predict(w, p))

    def predict(self, w: Workload, params: Params) -> float:
        window = _window(w)
        assert isinstance(window, Window)
        n, oh, ow, c = (d if isinstance(d, int) else _TYPICAL_EXTENT if i else 1
                        for i, d in enumerate(w.outputs[0].type.shape))
        cb = dict(params)["cb"]
        taps = window.kernel[0] * window.kernel[1]
        vectors = -(-c // ISAS[w.isa].lanes)
        per_pixel = vectors * (taps * 1.0 + 3 + len(w.epilogue.instrs)) + -(-vectors // cb) * (12 + taps * 1.5)
        return n * oh * ow * per_pixel / 3.8e9 / w.threads + 3e-7

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        args: tuple[ArgRef, ...] = (("input", 0), ("output", 0), *epilogue_args(w.epilogue))
        average = 0 if w.op == "MaxPool" else 2 if w.attr("count_include_pad", 0) else 1
        text = defines({**_geometry(w), "ENTRY": entry, "AVERAGE": average, "CB": dict(params)["cb"]})
        source = template_text("vec.h", "vmath.h") + workload_epilogue_c(w, 2) + text + template_text("pool.c")
        return Kernel(source, (entry,), args, w.symbols)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()


class PoolBytes:
    """MaxPool of 8-bit codes."""

    name = "cpu.pool_bytes"
    ops = frozenset({"MaxPool"})

    def accepts(self, w: Workload) -> str | None:
        if w.op != "MaxPool":
            return f"computes MaxPool, not {w.op}"
        if reason := _declines(w):
            return reason
        x = w.inputs[0]
        assert x is not None
        if x.type.dtype not in ("int8", "uint8"):
            return f"computes int8 and uint8 only, not {x.type.dtype}"
        if w.epilogue.instrs or len(w.outputs) > 1:
            return "it computes nothing after"
        return None

    def candidates(self, w: Workload) -> Sequence[Params]:
        return [()]

    def predict(self, w: Workload, params: Params) -> float:
        window = _window(w)
        assert isinstance(window, Window)
        n, oh, ow, c = (d if isinstance(d, int) else _TYPICAL_EXTENT if i else 1
                        for i, d in enumerate(w.outputs[0].type.shape))
        vectors = -(-c // (4 * ISAS[w.isa].lanes))
        return n * oh * ow * vectors * (window.kernel[0] * window.kernel[1] * 2.0 + 6) / 3.8e9 / w.threads + 3e-7

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        x = w.inputs[0]
        assert x is not None
        dtype = x.type.dtype
        text = {**_geometry(w), "ENTRY": entry, "T": C_TYPES[dtype], "LOWEST": "(-128)" if dtype == "int8" else 0}
        source = template_text("vec.h") + defines(text) + template_text("pool_bytes.c")
        return Kernel(source, (entry,), (("input", 0), ("output", 0)), w.symbols)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()
