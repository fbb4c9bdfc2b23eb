"""RoiAlign (templates/roi_align.c) and MaxRoiPool (templates/max_roi_pool.c)."""

from __future__ import annotations

from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cpu.direct import Direct
from temper.tactics.cpu.instructions import C_TYPES, literal
from temper.tactics.cpu.render import template_text
from temper.tactics.cpu.source import c_dim, defines


class _Regions(Direct):
    """What both poolings of regions share: images [N, C, H, W] and results [R, C, rows, columns]."""

    template = ""

    def declines(self, w: Workload) -> str | None:
        odd = sorted({s.type.dtype for s in w.inputs[:2] if s is not None} - {"float32", "float64"})
        return f"computes float32 and float64, not {odd[0]}" if odd else None

    def more(self, w: Workload) -> dict[str, int | str]:
        """What the template needs beside the sizes."""
        raise NotImplementedError

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        x, y = w.inputs[0], w.outputs[0].type
        assert x is not None
        n, c, h, wide = (c_dim(d, w.symbols) for d in x.type.shape)
        values: dict[str, int | str] = {"ENTRY": entry, "T": C_TYPES[y.dtype], "REGIONS": c_dim(y.shape[0], w.symbols)}
        values |= {"IMAGES": n, "CHANNELS": c, "HEIGHT": h, "WIDTH": wide, "ROWS": str(y.shape[2])}
        values |= {"COLUMNS": str(y.shape[3]), "SCALE": literal(w.attr("spatial_scale", 1.0)), **self.more(w)}
        source = template_text("vec.h", "interpolate.h") + defines(values) + template_text(self.template)
        args = (*(("input", i) for i in range(len(w.inputs))), ("output", 0))
        return Kernel(source, (entry,), args, w.symbols)


class RoiAlign(_Regions):
    """Positions and weights once a sample of a region, in double as the reference; then every channel."""

    name = "cpu.roi_align"
    ops = frozenset({"RoiAlign"})
    seconds = 1e-7
    template = "roi_align.c"

    def more(self, w: Workload) -> dict[str, int | str]:
        half = w.attr("coordinate_transformation_mode") == "half_pixel"
        return {
            "MAXIMUM": int(w.attr("mode") == "max"),
            "HALF": int(half),
            "GRID": str(w.attr("sampling_ratio", 0)),
        }


class MaxRoiPool(_Regions):
    """One bin of one channel at a time."""

    name = "cpu.max_roi_pool"
    ops = frozenset({"MaxRoiPool"})
    seconds = 5e-8
    template = "max_roi_pool.c"

    def more(self, w: Workload) -> dict[str, int | str]:
        return {}
