"""CumSum and CumProd of any number type along any axis (templates/running.c)."""

from __future__ import annotations

from temper.ir.dims import product
from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cpu.direct import Direct
from temper.tactics.cpu.instructions import C_TYPES
from temper.tactics.cpu.render import template_text
from temper.tactics.cpu.source import c_dim, defines


class Running(Direct):
    """A block of neighbouring lines at a time; bound by the latency of one addition where the axis is the last."""

    name = "cpu.running"
    ops = frozenset({"CumSum", "CumProd"})

    def declines(self, w: Workload) -> str | None:
        dtype = w.outputs[0].type.dtype
        return None if dtype in C_TYPES and dtype != "bool" else f"{dtype} has no C form"

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        x = w.outputs[0].type
        axis = int(str(w.attr("axis"))) % x.rank
        text = defines(
            {
                "ENTRY": entry,
                "T": C_TYPES[x.dtype],
                "A": "double" if x.dtype.startswith("float") else "uint64_t",
                "OP": "+" if w.op == "CumSum" else "*",
                "START": int(w.op == "CumProd"),
                "EXCLUSIVE": str(w.attr("exclusive", 0)),
                "REVERSE": str(w.attr("reverse", 0)),
                "OUTER": c_dim(product(x.shape[:axis]), w.symbols),
                "LENGTH": c_dim(x.shape[axis], w.symbols),
                "INNER": c_dim(product(x.shape[axis + 1 :]), w.symbols),
            }
        )
        source = template_text("vec.h") + text + template_text("running.c")
        return Kernel(source, (entry,), (("input", 0), ("output", 0)), w.symbols)
