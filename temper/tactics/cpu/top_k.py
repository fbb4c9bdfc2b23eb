"""TopK of any number type along any axis (templates/top_k.c)."""

from __future__ import annotations

from temper.ir.dims import product
from temper.ir.types import itemsize
from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cpu.direct import Direct
from temper.tactics.cpu.instructions import C_TYPES
from temper.tactics.cpu.render import template_text
from temper.tactics.cpu.source import c_dim, defines


class TopK(Direct):
    """A heap of the best k found so far, one line at a time: most elements cost one comparison."""

    name = "cpu.top_k"
    ops = frozenset({"TopK"})
    seconds = 2e-8

    def declines(self, w: Workload) -> str | None:
        dtype = w.outputs[0].type.dtype
        return None if dtype in C_TYPES and dtype != "bool" else f"{dtype} has no C form"

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        x, y = w.inputs[0], w.outputs[0].type
        assert x is not None
        axis = int(str(w.attr("axis"))) % y.rank
        text = defines(
            {
                "ENTRY": entry,
                "T": C_TYPES[y.dtype],
                "KEYS": int(itemsize(y.dtype) <= 4),
                "FLOATS": int(y.dtype.startswith("float")),
                "LARGEST": str(w.attr("largest", 1)),
                "OUTER": c_dim(product(y.shape[:axis]), w.symbols),
                "LENGTH": c_dim(x.type.shape[axis], w.symbols),
                "K": c_dim(y.shape[axis], w.symbols),
                "INNER": c_dim(product(y.shape[axis + 1 :]), w.symbols),
            }
        )
        source = template_text("vec.h") + text + template_text("top_k.c")
        args = (("input", 0), ("output", 0), ("output", 1), ("workspace", 0))
        return Kernel(source, (entry,), args, w.symbols, y.shape[axis] * 16)
