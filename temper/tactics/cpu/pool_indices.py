"""MaxPool with the positions of its maxima, over any number of spatial axes (templates/pool_indices.c)."""

from __future__ import annotations

from math import prod

from temper.ir.dims import DimLike, product
from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cpu.direct import Direct, array_c
from temper.tactics.cpu.instructions import C_TYPES
from temper.tactics.cpu.render import template_text
from temper.tactics.cpu.source import c_dim, defines
from temper.tactics.geometry import integers


class PoolIndices(Direct):
    """Channels-first, one output element at a time, any number type."""

    name = "cpu.pool_indices"
    ops = frozenset({"MaxPoolIndices"})
    seconds = 2e-8

    def declines(self, w: Workload) -> str | None:
        dtype = w.outputs[0].type.dtype
        return None if dtype in C_TYPES and dtype != "bool" else f"{dtype} has no C form"

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        x, y = w.inputs[0], w.outputs[0].type
        assert x is not None
        spatial: tuple[DimLike, ...] = x.type.shape[2:]
        rank, kernel = len(spatial), integers(w, "kernel_shape")
        rows = [product(spatial[a + 1 :]) for a in range(rank)]
        counted = [product(spatial[:a]) for a in range(rank)] if w.attr("storage_order", 0) else rows
        text = defines(
            {
                "ENTRY": entry,
                "T": C_TYPES[y.dtype],
                "FLOATS": int(y.dtype.startswith("float")),
                "LOWEST": _lowest(y.dtype),
                "RANK": rank,
                "TAPS": prod(kernel),
                "KERNEL": array_c(kernel),
                "STEPS": array_c(integers(w, "strides")),
                "SPREAD": array_c(integers(w, "dilations")),
                "PADS": array_c(integers(w, "pads")[:rank]),
                "SIZES": array_c([c_dim(d, w.symbols) for d in spatial]),
                "OUT": array_c([c_dim(d, w.symbols) for d in y.shape[2:]]),
                "STRIDES": array_c([c_dim(d, w.symbols) for d in rows]),
                "COUNTED": array_c([c_dim(d, w.symbols) for d in counted]),
                "PLANE": c_dim(product(spatial), w.symbols),
                "OUTPUTS": c_dim(product(y.shape[2:]), w.symbols),
                "PLANES": c_dim(product(y.shape[:2]), w.symbols),
            }
        )
        source = template_text("vec.h") + text + template_text("pool_indices.c")
        return Kernel(source, (entry,), (("input", 0), ("output", 0), ("output", 1)), w.symbols)


def _lowest(dtype: str) -> str:
    if dtype.startswith("float"):
        return "(-__builtin_inf())"
    bits = int(dtype.removeprefix("u").removeprefix("int"))
    return "0" if dtype.startswith("u") else f"(-{2 ** (bits - 1) - 1}ll - 1)"
