"""GatherElements, GatherND, ScatterElements and ScatterND with indices that are known at run time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from temper.compile.cc import ISAS
from temper.ir.dims import Dim, DimLike, product
from temper.ir.types import itemsize
from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cpu.instructions import C_TYPES
from temper.tactics.cpu.render import template_text
from temper.tactics.cpu.source import c_dim, defines

_BITS = {1: "uint8_t", 2: "uint16_t", 4: "uint32_t", 8: "uint64_t"}
_TYPICAL_DIM = 16
_OPS = {
    "GatherElements": "GATHER_ELEMENTS",
    "GatherND": "GATHER_ND",
    "ScatterElements": "SCATTER_ELEMENTS",
    "ScatterND": "SCATTER_ND",
}
#: NaN wins over numbers, as in numpy
_REDUCE = {
    "none": "(b)",
    "add": "((T)((a) + (b)))",
    "mul": "((T)((a) * (b)))",
    "max": "((a) != (a) || (a) > (b) ? (a) : (b))",
    "min": "((a) != (a) || (a) < (b) ? (a) : (b))",
}


class Indexed:
    """One element, or one run of contiguous elements, for each index or tuple of indices."""

    name = "cpu.indexed"
    ops = frozenset(_OPS)

    def accepts(self, w: Workload) -> str | None:
        if w.op not in _OPS:
            return f"computes {', '.join(_OPS)}, not {w.op}"
        if w.isa not in ISAS:
            return f"no such CPU level: {w.isa}"
        if w.epilogue.instrs or len(w.outputs) != 1:
            return "it moves elements and computes nothing after"
        if any(s is not None and s.row_stride is not None for s in (*w.inputs, *w.outputs)):
            return "its tensors must be dense"
        dtype = w.outputs[0].type.dtype
        if dtype == "string" or itemsize(dtype) not in _BITS:
            return f"elements of type {dtype} are not moved here"
        if w.attr("reduction", "none") != "none" and dtype not in C_TYPES:
            return f"{w.attr('reduction')} of {dtype} has no C form"
        return None

    def candidates(self, w: Workload) -> Sequence[Params]:
        return [()]

    def predict(self, w: Workload, params: Params) -> float:
        count = 1
        for d in w.outputs[0].type.shape:
            count *= _TYPICAL_DIM if isinstance(d, Dim) else d
        return 1e-6 + count * 2e-9 / w.threads

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        x, indices = w.inputs[0], w.inputs[1]
        assert x is not None and indices is not None
        shape, dtype = x.type.shape, x.type.dtype
        scatter, reduction = w.op.startswith("Scatter"), str(w.attr("reduction", "none"))

        def array(dims: Sequence[DimLike]) -> str:
            return "{" + ", ".join(c_dim(d, w.symbols) for d in dims) + "}"

        values: dict[str, int | str] = {
            "ENTRY": entry,
            "COPY": f"{entry}_copy",
            _OPS[w.op]: 1,
            "T": C_TYPES[dtype] if reduction != "none" else _BITS[itemsize(dtype)],
            "INDEX": f"{indices.type.dtype}_t",
            "RANK": len(shape),
            "SIZES": array(shape),
            "STRIDES": array([product(shape[a + 1 :]) for a in range(len(shape))]),
            "COUNT": c_dim(x.type.count, w.symbols),
            "REDUCE(a, b)": _REDUCE[reduction],
        }
        if w.op.endswith("Elements"):
            own = indices.type.shape
            values |= {
                "AXIS": int(str(w.attr("axis"))) % len(shape),
                "SHAPE": array(own),
                "LAST": c_dim(own[-1], w.symbols),
                "LINES": c_dim(product(own[:-1]), w.symbols),
            }
        else:
            batch = int(str(w.attr("batch_dims", 0)))
            lead, depth = indices.type.shape[:-1], int(str(indices.type.shape[-1]))
            values |= {
                "BATCH": batch,
                "DEPTH": depth,
                "RUN": c_dim(product(shape[batch + depth :]), w.symbols),
                "TUPLES": c_dim(product(lead), w.symbols),
                "EACH": c_dim(product(lead[batch:]), w.symbols),
            }
        source = template_text("vec.h") + defines(values) + template_text("indexed.c")
        if scatter:
            args = (("input", 0), ("input", 1), ("input", 2), ("output", 0))
            return Kernel(source, (f"{entry}_copy", entry), args, w.symbols, in_place=False)
        return Kernel(source, (entry,), (("input", 0), ("input", 1), ("output", 0)), w.symbols)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()
