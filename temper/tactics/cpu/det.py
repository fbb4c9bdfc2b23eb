"""Determinants of batches of matrices (templates/det.c)."""

from __future__ import annotations

from temper.ir.dims import product
from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cpu.direct import Direct
from temper.tactics.cpu.instructions import C_TYPES
from temper.tactics.cpu.render import template_text
from temper.tactics.cpu.source import c_dim, defines


class Determinant(Direct):
    """Elimination with partial pivoting in double, one matrix at a time."""

    name = "cpu.det"
    ops = frozenset({"Det"})
    seconds = 1e-6

    def declines(self, w: Workload) -> str | None:
        dtype = w.outputs[0].type.dtype
        return None if dtype in ("float32", "float64") else f"computes float32 and float64, not {dtype}"

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        x = w.inputs[0]
        assert x is not None
        n = x.type.shape[-1]
        text = defines(
            {
                "ENTRY": entry,
                "T": C_TYPES[x.type.dtype],
                "SIZE": c_dim(n, w.symbols),
                "BATCH": c_dim(product(x.type.shape[:-2]), w.symbols),
            }
        )
        source = template_text("vec.h") + text + template_text("det.c")
        return Kernel(source, (entry,), (("input", 0), ("output", 0), ("workspace", 0)), w.symbols, n * n * 8 + 8)
