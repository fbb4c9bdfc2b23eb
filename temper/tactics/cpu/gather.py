"""Gather with indices that are known at run time only (embeddings): rows copied by index."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from temper.compile.cc import ISAS
from temper.ir.dims import DimLike, product
from temper.ir.types import itemsize
from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cpu.render import template_text
from temper.tactics.cpu.source import c_dim, defines
from temper.tactics.geometry import typical_count

_INTEGER = {1: "uint8_t", 2: "uint16_t", 4: "uint32_t", 8: "uint64_t"}


def _axis(w: Workload) -> int:
    assert w.inputs[0] is not None
    return int(str(w.attr("axis"))) % w.inputs[0].type.rank


class GatherRows:
    """Gather along any axis with int32 or int64 indices of any shape; constant indices too, though `IndexCopy` is
    faster.
    """

    name = "cpu.gather"
    ops = frozenset({"Gather"})

    def accepts(self, w: Workload) -> str | None:
        if w.op != "Gather":
            return f"gathers, and does not compute {w.op}"
        if w.isa not in ISAS:
            return f"no such CPU level: {w.isa}"
        if w.epilogue.instrs or len(w.outputs) != 1:
            return "it copies and computes nothing"
        x, indices, y = w.inputs[0], w.inputs[1], w.outputs[0]
        assert x is not None and indices is not None
        if y.type.dtype == "string" or itemsize(y.type.dtype) not in _INTEGER:
            return f"elements of type {y.type.dtype} are not moved here"
        if indices.row_stride is not None:
            return "its indices are a view"
        if (x.row_stride is not None or y.row_stride is not None) and _axis(w) != x.type.rank - 2:
            return "in a view it gathers whole rows only"
        return None

    def candidates(self, w: Workload) -> Sequence[Params]:
        return [()]

    def predict(self, w: Workload, params: Params) -> float:
        count = typical_count(w.outputs[0].type.shape, 16)
        return 1e-6 + count * itemsize(w.outputs[0].type.dtype) / 5e9 / w.threads

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        x, indices, y = w.inputs[0], w.inputs[1], w.outputs[0]
        assert x is not None and indices is not None
        axis = _axis(w)
        run: DimLike = product(x.type.shape[axis + 1 :])
        dims: dict[str, DimLike] = {
            "OUTER": product(x.type.shape[:axis]),
            "SIZE": x.type.shape[axis],
            "COUNT": indices.type.count,
            "R": run,
            "X_ROW": x.row_stride or run,
            "Y_ROW": y.row_stride or run,
        }
        values = {
            "ENTRY": entry,
            "T": _INTEGER[itemsize(y.type.dtype)],
            "INDEX": f"{indices.type.dtype}_t",
            **{k: c_dim(d, w.symbols) for k, d in dims.items()},
        }
        source = template_text("vec.h") + defines(values) + template_text("gather.c")
        return Kernel(source, (entry,), (("input", 0), ("input", 1), ("output", 0)), w.symbols)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()
