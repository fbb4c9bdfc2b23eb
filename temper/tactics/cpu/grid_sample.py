"""GridSample over two or three spatial axes in all its modes (templates/grid_sample.c)."""

from __future__ import annotations

from temper.ir.dims import product
from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cpu.direct import Direct, array_c
from temper.tactics.cpu.instructions import C_TYPES
from temper.tactics.cpu.render import template_text
from temper.tactics.cpu.source import c_dim, defines

_TAPS = {"nearest": 1, "linear": 2, "cubic": 4}
_FLOATS = ("float32", "float64")


class GridSample(Direct):
    """Positions and weights once a point, in double as the reference; then every channel."""

    name = "cpu.grid_sample"
    ops = frozenset({"GridSample"})
    seconds = 1e-8

    def declines(self, w: Workload) -> str | None:
        odd = sorted({s.type.dtype for s in w.inputs if s is not None} - set(_FLOATS))
        return f"computes float32 and float64, not {odd[0]}" if odd else None

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        x, grid = w.inputs[0], w.inputs[1]
        assert x is not None and grid is not None
        spatial, rank = x.type.shape[2:], x.type.rank - 2
        taps = _TAPS[str(w.attr("mode"))]
        text = defines(
            {
                "ENTRY": entry,
                "T": C_TYPES[x.type.dtype],
                "G": C_TYPES[grid.type.dtype],
                "RANK": rank,
                "EACH": taps,
                "TAPS": taps**rank,
                "PADDING": ("zeros", "border", "reflection").index(str(w.attr("padding_mode"))),
                "ALIGN": str(w.attr("align_corners", 0)),
                "SIZES": array_c([c_dim(d, w.symbols) for d in spatial]),
                "STRIDES": array_c([c_dim(product(spatial[a + 1 :]), w.symbols) for a in range(rank)]),
                "PLANE": c_dim(product(spatial), w.symbols),
                "BATCH": c_dim(x.type.shape[0], w.symbols),
                "CHANNELS": c_dim(x.type.shape[1], w.symbols),
                "POINTS": c_dim(product(grid.type.shape[1:-1]), w.symbols),
            }
        )
        source = template_text("vec.h", "interpolate.h") + text + template_text("grid_sample.c")
        return Kernel(source, (entry,), (("input", 0), ("input", 1), ("output", 0)), w.symbols)
