"""Linear and cubic Resize: separable weighted means over up to three axes, for float32, with an epilogue.

The weights are those of resize_geometry.py; products of several axes' weights are rounded to float32 once per pixel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from temper.compile.cc import ISAS
from temper.ir.dims import Dim, product
from temper.tactics.base import ArgRef, Kernel, Params, Workload
from temper.tactics.cpu.render import anchor_declines, epilogue_args, template_text, workload_epilogue_c
from temper.tactics.cpu.source import c_dim, defines
from temper.tactics.resize_geometry import ResizeShape, last_axis, resize_shape

_TYPICAL_IMAGES = 1


def declines_resize(w: Workload, geometry: Callable[[Workload], object]) -> str | None:
    """Why weighted means of float32 are not what the workload asks for. geometry: gives a reason, or anything else."""
    if w.op != "Resize":
        return f"resizes, and does not compute {w.op}"
    if w.isa not in ISAS:
        return f"no such CPU level: {w.isa}"
    if w.attr("mode") == "nearest":
        return "mode nearest is a copy"
    x = w.inputs[0]
    if x is None or x.type.dtype != "float32":
        return "computes float32 only"
    if reason := anchor_declines(w.epilogue):
        return reason
    if isinstance(found := geometry(w), str):
        return found
    if last_axis(w) and (w.epilogue.instrs or len(w.outputs) != 1):
        return "it resizes the last axis and cannot apply an epilogue"
    return None


class ResizeTaps:
    """Resize with mode linear or cubic, float32."""

    name = "cpu.resize"
    ops = frozenset({"Resize"})

    def accepts(self, w: Workload) -> str | None:
        return declines_resize(w, resize_shape)

    def candidates(self, w: Workload) -> Sequence[Params]:
        return [()]

    def predict(self, w: Workload, params: Params) -> float:
        s = resize_shape(w)
        assert isinstance(s, ResizeShape)
        taps = float(np.prod([a.taps for a in s.axes]))
        pixels = float(np.prod([a.out for a in s.axes])) * (_TYPICAL_IMAGES if isinstance(s.outer, Dim) else s.outer)
        vectors = -(-s.run // ISAS[w.isa].lanes)
        return 5e-7 + pixels * (taps * (vectors + 2) + 2 * vectors) / 3.8e9 / w.threads

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        s = resize_shape(w)
        assert isinstance(s, ResizeShape)
        scalar = last_axis(w)
        outside = float(str(w.attr("extrapolation_value")))
        values: dict[str, int | str] = {"ENTRY": entry, "OUTER": c_dim(s.outer, w.symbols)}
        for i, a in enumerate(s.axes):
            values |= {f"I{i}": a.size, f"O{i}": a.out, f"T{i}": a.taps}
        values |= {
            "C": s.run,
            "XLD": s.xld,
            "OLD": s.old,
            "IMG_ROWS": c_dim(product(w.outputs[0].type.shape[1:-1]), w.symbols),
            "P_START": 1,
            "P_WEIGHT": 2,
            "WEIGHT_AT": 0,
            "TAP(first, tap, size)": "((first) + (tap))",
            "P_OUT": 3,
            "SCALAR": int(scalar),
            "CROP": int(any((a.start < 0).any() for a in s.axes)),
            "OUTSIDE": f"{c_float(outside)}",
        }
        args: list[ArgRef] = [("input", 0), ("packed", 0), ("packed", 1), ("output", 0), *epilogue_args(w.epilogue)]
        head = template_text("vec.h", "vmath.h") + defines(values)
        body = ("" if scalar else workload_epilogue_c(w, 4)) + template_text("resize.c")
        return Kernel(head + body, (entry,), tuple(args), w.symbols)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        s = resize_shape(w)
        assert isinstance(s, ResizeShape)
        return (np.concatenate([a.start for a in s.axes]), np.concatenate([a.weight.reshape(-1) for a in s.axes]))


def c_float(x: float) -> str:
    """A C expression of the float32 nearest to x."""
    value = np.float32(x)
    if np.isnan(value):
        return '__builtin_nanf("")'
    if np.isinf(value):
        return "__builtin_inff()" if value > 0 else "-__builtin_inff()"
    return f"{float(value)!r}f"
