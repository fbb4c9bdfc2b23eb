"""Transposed convolution in the cases that passes/lower.py does not turn into plain convolution.

These are depthwise ones, those dilated with a stride, and those whose weights are not constants. Slow, except for
depthwise ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import numpy as np

from temper.compile.cc import ISAS
from temper.ir.dims import Dim, DimLike
from temper.tactics.base import ArgRef, Kernel, Params, Workload
from temper.tactics.conv_geometry import TransposedShape, transposed_shape
from temper.tactics.cpu.render import anchor_declines, epilogue_args, template_text, workload_epilogue_c
from temper.tactics.cpu.source import c_dim, defines


class ConvTransposeFallback:
    """Every 2-D and 3-D float32 transposed convolution."""

    name = "cpu.conv_transpose"
    ops = frozenset({"ConvTranspose"})

    def accepts(self, w: Workload) -> str | None:
        if w.op != "ConvTranspose":
            return f"computes ConvTranspose, not {w.op}"
        if w.isa not in ISAS:
            return f"no such CPU level: {w.isa}"
        if any(s is not None and s.type.dtype != "float32" for s in w.inputs):
            return "computes float32 only"
        if reason := anchor_declines(w.epilogue):
            return reason
        found = transposed_shape(w)
        return found if isinstance(found, str) else None

    def candidates(self, w: Workload) -> Sequence[Params]:
        return [()]

    def predict(self, w: Workload, params: Params) -> float:
        s = transposed_shape(w)
        assert isinstance(s, TransposedShape)
        pixels = 1
        for d in w.outputs[0].type.shape[:-1]:
            pixels *= 28 if isinstance(d, Dim) else d
        lanes = ISAS[w.isa].lanes
        depthwise = s.icg == s.ocg == 1
        vectors = -(-s.groups // lanes) if depthwise else s.groups * -(-s.ocg // lanes)
        taps = prod(s.kernel)
        met = taps / prod(s.strides)
        return pixels * vectors * (taps * 4 + met * s.icg * 4 + 20) / 3.8e9 / w.threads

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        s = transposed_shape(w)
        assert isinstance(s, TransposedShape)
        x, y = w.inputs[0], w.outputs[0]
        assert x is not None
        lead: tuple[DimLike, ...] = (1,) if x.type.rank == 4 else ()
        sizes = (*lead, *x.type.shape[1:-1], *lead, *y.type.shape[1:-1])
        dims: dict[str, DimLike] = {"BATCH": x.type.shape[0]}
        dims |= zip(("ID", "IH", "IW", "OD", "OH", "OW"), sizes, strict=True)
        bias = int(len(w.inputs) > 2 and w.inputs[2] is not None)
        values: dict[str, int | str] = {"ENTRY": entry, **{k: c_dim(d, w.symbols) for k, d in dims.items()}}
        values |= {
            "ICG": s.icg,
            "OCG": s.ocg,
            "GROUPS": s.groups,
            **dict(zip(("KD", "KH", "KW"), s.kernel, strict=True)),
            **dict(zip(("SD", "SH", "SW"), s.strides, strict=True)),
            **dict(zip(("DD", "DH", "DW"), s.dilations, strict=True)),
            **{k: f"({n})" for k, n in zip(("PAD_F", "PAD_T", "PAD_L"), s.pads, strict=True)},
            "XLD": x.row_stride or s.icg * s.groups,
            "OLD": y.row_stride or s.ocg * s.groups,
            "BIAS": bias,
            "P_OUT": 2 + bias,
            "DEPTHWISE": int(s.icg == s.ocg == 1),
        }
        args: list[ArgRef] = [*(("input", i) for i in range(2 + bias)), ("output", 0), *epilogue_args(w.epilogue)]
        head = template_text("vec.h", "vmath.h") + defines(values)
        return Kernel(
            head + workload_epilogue_c(w, 3 + bias) + template_text("conv_transpose.c"),
            (entry,),
            tuple(args),
            w.symbols,
        )

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()
