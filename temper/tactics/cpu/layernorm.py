"""Layer and RMS normalisation of float32 over trailing axes (templates/layernorm.c).

Bound by reading and writing the rows; a row is read three times, from L1 after the first.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from temper.compile.cc import ISAS
from temper.ir.dims import Dim, DimLike, product
from temper.tactics.base import ArgRef, Kernel, Params, Workload
from temper.tactics.cpu.instructions import literal
from temper.tactics.cpu.render import STORED, anchor_declines, epilogue_args, template_text, workload_epilogue_c
from temper.tactics.cpu.source import c_dim, defines

_TYPICAL_ROWS = 128


class LayerNorm:
    """One row at a time; rows are shared out."""

    name = "cpu.layernorm"
    ops = frozenset({"LayerNormalization", "RMSNormalization"})

    def accepts(self, w: Workload) -> str | None:
        if w.op not in ("LayerNormalization", "RMSNormalization"):
            return f"computes LayerNormalization and RMSNormalization, not {w.op}"
        if w.isa not in ISAS:
            return f"no such CPU level: {w.isa}"
        x, out = w.inputs[0], w.outputs[0]
        if x is None or x.type.rank == 0:
            return "normalisation needs an input with axes"
        if any(s is not None and s.type.dtype != "float32" for s in w.inputs):
            return "computes in float32 only"
        axis = _axis(w)
        count = product(x.type.shape[axis:])
        if isinstance(count, Dim) or count < 1:
            return f"the number of normalised elements must be known at build time, not {count}"
        for s in w.inputs[1:]:
            if s is not None and (s.type.count != count or s.row_stride is not None):
                return f"scale and bias must have all {count} normalised elements, not {s.type}"
        if axis < x.type.rank - 1:
            if x.row_stride is not None or out.row_stride is not None:
                return "normalised axes must be contiguous"
            if w.epilogue.instrs:
                return "an epilogue is applied to rows of the last axis only"
        return anchor_declines(w.epilogue, stored=STORED)

    def candidates(self, w: Workload) -> Sequence[Params]:
        return [()]

    def predict(self, w: Workload, params: Params) -> float:
        x = w.inputs[0]
        assert x is not None
        count = 1
        for d in x.type.shape:
            count *= _TYPICAL_ROWS if isinstance(d, Dim) else int(d)
        return 5e-7 + count / ISAS[w.isa].lanes * 5 / 3.8e9 / w.threads

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        x, out, symbols = w.inputs[0], w.outputs[0], w.symbols
        assert x is not None
        shape, axis = x.type.shape, _axis(w)
        count = product(shape[axis:])
        bias = len(w.inputs) > 2 and w.inputs[2] is not None
        args: list[ArgRef] = [("input", 0), ("input", 1), *([("input", 2)] if bias else []), ("output", 0)]
        first = len(args)
        pixels: DimLike = product(shape[1:-1]) if axis == len(shape) - 1 else product(shape[1:axis])
        text = defines({
            "ENTRY": entry, "C": c_dim(count, symbols), "RMS": int(w.op == "RMSNormalization"), "BIAS": int(bias),
            "EPSILON": literal(w.attr("epsilon")), "ROWS": c_dim(product(shape[:axis]), symbols),
            "PIXELS": c_dim(pixels, symbols), "XLD": c_dim(x.row_stride or count, symbols),
            "OLD": c_dim(out.row_stride or count, symbols), "P_BIAS": 2, "P_OUT": first - 1,
        })  # fmt: skip
        source = template_text("vec.h", "vmath.h") + workload_epilogue_c(w, first) + text + template_text("layernorm.c")
        return Kernel(source, (entry,), (*args, *epilogue_args(w.epilogue)), symbols)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()


def _axis(w: Workload) -> int:
    x, axis = w.inputs[0], w.attr("axis", -1)
    assert x is not None and isinstance(axis, int)
    return axis % x.type.rank
