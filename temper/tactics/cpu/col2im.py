"""Col2Im over any number of spatial axes (templates/col2im.c)."""

from __future__ import annotations

from math import prod

from temper.ir.dims import product
from temper.ir.ops.contraction import windowed
from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cpu.direct import Direct, array_c
from temper.tactics.cpu.instructions import C_TYPES
from temper.tactics.cpu.render import template_text
from temper.tactics.cpu.source import c_dim, defines
from temper.tactics.geometry import integers


class ColumnsToImage(Direct):
    """Every output element collects its windows, so that shares never meet."""

    name = "cpu.col2im"
    ops = frozenset({"Col2Im"})
    seconds = 2e-8

    def declines(self, w: Workload) -> str | None:
        dtype = w.outputs[0].type.dtype
        return None if dtype in C_TYPES and dtype != "bool" else f"{dtype} has no C form"

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        y, block = w.outputs[0].type, integers(w, "block_shape")
        rank, image = len(block), y.shape[2:]
        strides, pads, dilations = integers(w, "strides"), integers(w, "pads"), integers(w, "dilations")
        counts = [windowed(d, block[a], strides[a], pads[a], pads[rank + a], dilations[a]) for a, d in enumerate(image)]
        text = defines(
            {
                "ENTRY": entry,
                "T": C_TYPES[y.dtype],
                "A": "double" if y.dtype.startswith("float") else "uint64_t",
                "RANK": rank,
                "TAPS": prod(block),
                "BLOCK": array_c(block),
                "STEPS": array_c(strides),
                "SPREAD": array_c(dilations),
                "PADS": array_c(pads[:rank]),
                "IMAGE": array_c([c_dim(d, w.symbols) for d in image]),
                "COUNTS": array_c([c_dim(d, w.symbols) for d in counts]),
                "WINDOWS": c_dim(product(tuple(counts)), w.symbols),
                "PIXELS": c_dim(product(image), w.symbols),
                "PLANES": c_dim(product(y.shape[:2]), w.symbols),
            }
        )
        source = template_text("vec.h") + text + template_text("col2im.c")
        return Kernel(source, (entry,), (("input", 0), ("output", 0)), w.symbols)
