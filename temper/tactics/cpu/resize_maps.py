"""Linear and cubic Resize of axes whose sizes are known at run time only: the kernel makes its own tables of taps.

The weighted means are those of templates/resize.c, as for known sizes; a first entry computes every axis's first input
index and weights into shared scratch, with the reference's float32 coordinates and float64 weights.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from temper.compile.cc import ISAS
from temper.ir.dims import Dim, DimLike, product
from temper.tactics.base import ArgRef, Kernel, Params, Workload
from temper.tactics.cpu.axis_maps import coordinate, roi_text, scale_text, unchanged
from temper.tactics.cpu.render import epilogue_args, template_text, workload_epilogue_c
from temper.tactics.cpu.resize import c_float, declines_resize
from temper.tactics.cpu.source import c_dim, defines
from temper.tactics.geometry import typical_count
from temper.tactics.resize_geometry import AXES, axis_attrs, last_axis

_TAPS: Mapping[str, int] = {"linear": 2, "cubic": 4}


@dataclass(frozen=True)
class Axis:
    """One axis between the first resized one and the channels. attrs: of a resized one, for this axis alone."""

    size: DimLike
    out: DimLike
    taps: int
    attrs: Mapping[str, object] | None


@dataclass(frozen=True)
class Geometry:
    """outer: groups of pixels before the axes; run: contiguous elements of a pixel after them."""

    outer: DimLike
    axes: tuple[Axis, ...]
    run: int
    xld: int
    old: int


def _one_axis(attrs: Mapping[str, object]) -> Mapping[str, object]:
    """`axis_attrs` of a two-dimensional problem as those of its first axis."""
    roi, out = attrs["roi"], dict(attrs)
    assert isinstance(roi, tuple)
    out["roi"] = (roi[0], roi[2])
    for name in ("scales", "sizes"):
        value = attrs.get(name)
        if isinstance(value, tuple):
            out[name] = value[:1]
    return out


def geometry(w: Workload) -> Geometry | str:
    """Geometry of a workload, or the reason it has none here."""
    x, y = w.inputs[0], w.outputs[0]
    assert x is not None
    rank = x.type.rank
    changed = [a for a in range(rank) if axis_attrs(w, a)]
    if not changed:
        return "no axis changes: it is a plain copy"
    if w.attr("antialias"):
        return "the number of taps of an antialiased axis depends on its size"
    first, last = changed[0], max(changed[-1], rank - 2)
    if last - first + 1 > AXES:
        return f"it resizes over {last - first + 1} axes, more than {AXES}"
    if last == rank - 1 and (x.row_stride is not None or y.row_stride is not None):
        return "it resizes the last axis of a view"
    channels = y.type.shape[-1]
    if last < rank - 1 and isinstance(channels, Dim):
        return "the number of channels is not known at build"
    if 0 in (*y.type.shape, *x.type.shape):
        return "it moves no element"
    axes = []
    for a in range(first, last + 1):
        found = axis_attrs(w, a)
        if found and coordinate(found) is None:
            return f"coordinate mode {found['coordinate_transformation_mode']} has no formula here"
        taps = _TAPS[str(w.attr("mode"))] if found else 1
        axes.append(Axis(x.type.shape[a], y.type.shape[a], taps, _one_axis(found) if found else None))
    run = 1 if last == rank - 1 else int(str(channels))
    one = Axis(1, 1, 1, None)
    whole = (*(one,) * (AXES - len(axes)), *axes)
    return Geometry(product(y.type.shape[:first]), whole, run, x.row_stride or run, y.row_stride or run)


class ResizeMaps:
    """Resize with mode linear or cubic and run-time sizes, float32."""

    name = "cpu.resize_maps"
    ops = frozenset({"Resize"})

    def accepts(self, w: Workload) -> str | None:
        return declines_resize(w, geometry)

    def candidates(self, w: Workload) -> Sequence[Params]:
        return [()]

    def predict(self, w: Workload, params: Params) -> float:
        g = geometry(w)
        assert isinstance(g, Geometry)
        taps = float(np.prod([a.taps for a in g.axes]))
        pixels = typical_count((g.outer, *(a.out for a in g.axes)))
        tables = typical_count(tuple(a.out for a in g.axes[1:])) ** 0.5
        vectors = -(-g.run // ISAS[w.isa].lanes)
        return 7e-7 + tables * 1e-8 + pixels * (taps * (vectors + 2) + 2 * vectors) / 3.8e9 / w.threads

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        g = geometry(w)
        assert isinstance(g, Geometry)
        scalar = last_axis(w)
        crop = w.attr("coordinate_transformation_mode") == "tf_crop_and_resize"
        values: dict[str, int | str] = {"ENTRY": entry, "OUTER": c_dim(g.outer, w.symbols)}
        for i, a in enumerate(g.axes):
            values |= {f"I{i}": c_dim(a.size, w.symbols), f"O{i}": c_dim(a.out, w.symbols), f"T{i}": a.taps}
        weights: DimLike = 0
        for a in g.axes:
            weights = a.out + weights
        values |= {
            "C": g.run,
            "XLD": g.xld,
            "OLD": g.old,
            "IMG_ROWS": c_dim(product(w.outputs[0].type.shape[1:-1]), w.symbols),
            "P_START": 1,
            "P_WEIGHT": 1,
            "WEIGHT_AT": c_dim(weights, w.symbols),
            "TAP(first, tap, size)": "((first) + (tap) < (size) ? (first) + (tap) : (size) - 1)",
            "P_OUT": 2,
            "SCALAR": int(scalar),
            "CROP": int(crop),
            "OUTSIDE": c_float(float(str(w.attr("extrapolation_value")))),
        }
        tables, start, at = [], 0 * weights, weights
        for a in g.axes:
            tables.append(_axis_source(w, a, c_dim(start, w.symbols), c_dim(at, w.symbols)))
            start, at = a.out + start, a.out * a.taps + at
        maker = (
            f"EXPORT void {entry}_tables(void *const *p, const int64_t *v, int32_t part, int32_t parts)\n{{\n"
            f"  (void)v; (void)parts;\n  if (part) return;\n{''.join(tables)}}}\n"
        )
        args: list[ArgRef] = [("input", 0), ("shared", 0), ("output", 0), *epilogue_args(w.epilogue)]
        head = template_text("vec.h", "vmath.h", "axis_maps.h", "axis_taps.h") + maker + defines(values)
        body = ("" if scalar else workload_epilogue_c(w, 3)) + template_text("resize.c")
        return Kernel(head + body, (f"{entry}_tables", entry), tuple(args), w.symbols, shared_workspace=at * 4)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()


def _axis_source(w: Workload, a: Axis, start: str, weight: str) -> str:
    """C that fills the tables of one axis; start, weight: where they begin in shared scratch, in elements."""
    head = (
        f"  {{\n    const int64_t size = {c_dim(a.size, w.symbols)}, out = {c_dim(a.out, w.symbols)};\n"
        f"    int32_t *start = (int32_t *)p[1] + {start};\n    float *weight = (float *)p[1] + {weight};\n"
        "    (void)size;\n"
    )
    same = f"same_tap(i, size, {a.taps}, start + i, weight + i * {a.taps});"
    if a.attrs is None:
        return head + f"    for (int64_t i = 0; i < out; i++) {same}\n  }}\n"
    cubic = int(a.taps == 4)
    coefficient = float(str(w.attr("cubic_coeff_a"))).hex()
    crop = a.attrs["coordinate_transformation_mode"] == "tf_crop_and_resize"
    outside = "if (place < 0.0f || place > (float)(size - 1)) start[i] = -1;" if crop else ""
    return head + (
        f"    const float s = {scale_text(a.attrs)}; {roi_text(a.attrs)}\n    (void)s; (void)r0; (void)r1;\n"
        f"    for (int64_t i = 0; i < out; i++) {{\n"
        f"      if ({unchanged(a.attrs)}) {{ {same} continue; }}\n"
        f"      const float place = {coordinate(a.attrs)};\n"
        f"      taps_at(place, size, {a.taps}, {cubic}, {coefficient}, {int(str(w.attr('exclude_outside')))}, "
        f"start + i, weight + i * {a.taps});\n      {outside}\n    }}\n  }}\n"
    )
