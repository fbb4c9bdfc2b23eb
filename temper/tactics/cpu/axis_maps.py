"""Pad, Tile, Slice, Expand and nearest Resize of axes whose sizes are known at run time only: index tables made by the
kernel.

The same copy as cpu.index_copy's, with its tables in shared scratch: a first entry computes the input index of every
output index from the sizes, axis by axis, in the reference's own arithmetic (Resize: float32 coordinates); then the
copy runs. Making a table costs its length, which is one axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from temper.ir.dims import DimLike, product
from temper.ir.types import itemsize
from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cpu.index_copy import BLOCK_BYTES, INTEGER, Axis, declines_copy, fill_bits, merged
from temper.tactics.cpu.render import template_text
from temper.tactics.cpu.source import c_dim, defines
from temper.tactics.geometry import attrs_of_axis, strides_of, typical_count

#: Shared scratch a table of one axis needs: int32 indices.
_ENTRY_BYTES = 4

_COORDINATES: Mapping[str, str] = {
    "half_pixel": "HALF_PIXEL",
    "pytorch_half_pixel": "(out > 1 ? HALF_PIXEL : 0.0f)",
    "half_pixel_symmetric": "((float)size / 2.0f * (1.0f - (float)out / (s * (float)size)) + HALF_PIXEL)",
    "align_corners": "(out > 1 ? (float)i * (float)(size - 1) / "
    "((s * (float)size - (float)out > 1e-3f ? s * (float)size : (float)out) - 1.0f) : 0.0f)",
    "asymmetric": "((float)i / s)",
    "tf_half_pixel_for_nn": "(((float)i + 0.5f) / s)",
    "tf_crop_and_resize": "(out > 1 ? r0 * (float)(size - 1) + (float)i * (r1 - r0) * (float)(size - 1) / "
    "(float)(out - 1) : 0.5f * (r0 + r1) * (float)(size - 1))",
}

_ROUNDING: Mapping[str, str] = {
    "round_prefer_floor": "-floor_of(0.5 - tie(at))",
    "round_prefer_ceil": "floor_of(tie(at) + 0.5)",
    "floor": "floor_of(at)",
    "ceil": "-floor_of(-at)",
}


def float_literal(x: float) -> str:
    """C text of the float32 nearest to `x`, exactly."""
    return f"{float(np.float32(x)).hex()}f"


def coordinate(attrs: Mapping[str, object]) -> str | None:
    """C text of the float32 input position of output index i, as `reference.resize.source_coordinates` has it, over
    size, out, s (the scale), r0 and r1 (the crop); None for a mode without one."""
    return _COORDINATES.get(str(attrs["coordinate_transformation_mode"]))


def scale_text(attrs: Mapping[str, object]) -> str:
    """C text of one axis's scale: the given one, or output over input."""
    scales = attrs.get("scales")
    return float_literal(float(scales[0])) if isinstance(scales, tuple) else "(float)((double)out / (double)size)"


def roi_text(attrs: Mapping[str, object]) -> str:
    """C declarations of an axis's crop."""
    roi = attrs.get("roi")
    first, last = roi if isinstance(roi, tuple) else (0.0, 1.0)
    return f"const float r0 = {float_literal(float(first))}, r1 = {float_literal(float(last))};"


def unchanged(attrs: Mapping[str, object]) -> str:
    """C condition that an axis is left as it is: sizes that turn out equal, without a crop."""
    cropped = attrs["coordinate_transformation_mode"] == "tf_crop_and_resize" and attrs.get("roi") != (0.0, 1.0)
    return "0" if cropped or "scales" in attrs else "size == out"


def _resize_map(attrs: Mapping[str, object]) -> str:
    mode = str(attrs["coordinate_transformation_mode"])
    body = (
        f"const float s = {scale_text(attrs)}; {roi_text(attrs)} (void)s; (void)r0; (void)r1; "
        f"const float place = {coordinate(attrs)}; const double at = place; "
        f"from = limited({_ROUNDING[str(attrs['nearest_mode'])]}, size);"
    )
    if mode == "tf_crop_and_resize":
        body += " if (place < 0.0f || place > (float)(size - 1)) from = -1;"
    return f"if ({unchanged(attrs)}) from = i; else {{ {body} }}"


def _pad_map(attrs: Mapping[str, object], w: Workload) -> str | None:
    pads, mode = attrs["pads"], attrs["mode"]
    assert isinstance(pads, tuple)
    begin, end = pads
    if mode == "constant":
        return f"from = i - {c_dim(begin, w.symbols)}; if (from < 0 || from >= size) from = -1;"
    cut, tail = (max(-p, 0) if isinstance(p, int) else 0 for p in (begin, end))
    ahead = max(begin, 0) if isinstance(begin, int) else begin
    rules = {"edge": "limited", "reflect": "reflected", "wrap": "modulo"}
    if mode not in rules:
        return None
    first, kept = c_dim(ahead, w.symbols), f"size - {cut + tail}"
    return f"from = {rules[str(mode)]}(i - {first}, {kept}) + {cut};"


def _slice_map(attrs: Mapping[str, object], w: Workload) -> str | None:
    starts, steps = attrs["starts"], attrs["steps"]
    assert isinstance(starts, tuple) and isinstance(steps, tuple)
    start, step = starts[0], steps[0]
    if not isinstance(step, int):
        return None
    first = c_dim(start, w.symbols)
    if isinstance(start, int) and start < 0:
        first = f"(size + {first} > 0 ? size + {first} : 0)"
    last = "size" if step > 0 else "(size - 1)"
    return f"const int64_t first = {first}; from = (first < {last} ? first : {last}) + i * ({step});"


def _maps(w: Workload) -> list[tuple[Axis, str]] | str:
    """Every output axis and the C statements that set `from` for its index i ("" where both sides walk alike), or why
    there are none."""
    x, y = w.inputs[0], w.outputs[0]
    assert x is not None
    x_steps = strides_of(x.type.shape, (True,) * x.type.rank, x.row_stride)
    y_steps = strides_of(y.type.shape, (True,) * y.type.rank, y.row_stride)
    lead = y.type.rank - x.type.rank
    out: list[tuple[Axis, str]] = []
    for a, d in enumerate(y.type.shape):
        before = x.type.shape[a - lead] if a >= lead else 1
        x_step = x_steps[a - lead] if a >= lead else 0
        if w.op == "Expand":
            text: str | None = "" if before == d else "from = 0;"
        elif (attrs := attrs_of_axis(w, a)) is None:
            text = ""
        elif w.op == "Pad":
            text = _pad_map(attrs, w)
        elif w.op == "Tile":
            text = "from = i % size;"
        elif w.op == "Slice":
            text = _slice_map(attrs, w)
        else:
            text = _resize_map(attrs) if coordinate(attrs) and str(attrs["nearest_mode"]) in _ROUNDING else None
        if text is None:
            return f"it maps axis {a} in a way that has no formula here"
        size = f"const int64_t size = {c_dim(before, w.symbols)}, out = {c_dim(d, w.symbols)}; (void)size; (void)out; "
        out.append((Axis(d, x_step, y_steps[a], given=bool(text)), text and size + text))
    return out


class _Layout:
    """Loops of the copy: mapped and plain outer axes, the innermost mapped axis, and the contiguous run below it."""

    def __init__(self, outer: Sequence[tuple[Axis, str]], inner: tuple[Axis, str], run: DimLike) -> None:
        self.outer, self.inner, self.run = outer, inner, run

    @property
    def tables(self) -> list[tuple[Axis, str]]:
        return [(a, text) for a, text in (*self.outer, self.inner) if a.mapped]

    @property
    def offsets(self) -> list[DimLike]:
        """Where each table begins, in entries; last the number of all entries."""
        out: list[DimLike] = [0]
        for a, _ in self.tables:
            out.append(a.size + out[-1])
        return out


def _layout(w: Workload) -> _Layout | str:
    found = _maps(w)
    if isinstance(found, str):
        return found
    if any(a.size == 0 for a, _ in found):
        return "it moves no element"
    text = {id(a): t for a, t in found}
    axes = [(a, text.get(id(a), "")) for a in merged([a for a, _ in found])]
    last = max((i for i, (a, _) in enumerate(axes) if a.mapped), default=None)
    if last is None:
        return "no axis changes: it is a plain copy"
    tail = axes[last + 1 :]
    while len(tail) > 1 or (tail and (tail[-1][0].x_step, tail[-1][0].y_step) != (1, 1)):
        first, _ = tail.pop(0)
        last += 1
        axes[last] = (Axis(first.size, first.x_step, first.y_step, given=True), "from = i;")
    return _Layout(axes[:last], axes[last], tail[0][0].size if tail else 1)


class AxisMaps:
    """Pad, Tile, Slice, Expand and nearest Resize with run-time sizes, of elements of 1, 2, 4 or 8 bytes."""

    name = "cpu.axis_maps"
    ops = frozenset({"Pad", "Tile", "Slice", "Expand", "Resize"})

    def accepts(self, w: Workload) -> str | None:
        if reason := declines_copy(w, self.ops):
            return reason
        found = _layout(w)
        return found if isinstance(found, str) else None

    def candidates(self, w: Workload) -> Sequence[Params]:
        return [()]

    def predict(self, w: Workload, params: Params) -> float:
        layout = _layout(w)
        assert isinstance(layout, _Layout)
        count = typical_count(w.outputs[0].type.shape)
        tables = sum(typical_count((a.size,)) for a, _ in layout.tables)
        run = typical_count((layout.run,))
        size = itemsize(w.outputs[0].type.dtype)
        return 7e-7 + tables * 2e-9 + (count * size / 15e9 + count / run * 1.5e-9) / w.threads

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        layout = _layout(w)
        assert isinstance(layout, _Layout)
        size = itemsize(w.outputs[0].type.dtype)
        offsets = dict(zip((id(a) for a, _ in layout.tables), layout.offsets, strict=False))
        index = []
        for a, _ in reversed(layout.outer):
            d, x_step, y_step = (c_dim(s, w.symbols) for s in (a.size, a.x_step, a.y_step))
            source = f"((const int32_t *)p[2])[{c_dim(offsets[id(a)], w.symbols)} + i]" if a.mapped else "i"
            index.append(
                f"{{ const int64_t i = outer % {d}, t = {source}; outer /= {d}; at_out += i * {y_step}; "
                f"at_in += t * {x_step}; hole |= t < 0; }}"
            )
        fills = "\n".join(
            f"  for (int64_t i = 0; i < {c_dim(a.size, w.symbols)}; i++) {{ int64_t from; {text} "
            f"t[{c_dim(offsets[id(a)], w.symbols)} + i] = (int32_t)from; }}"
            for a, text in layout.tables
        )
        inner, fill = layout.inner[0], fill_bits(w)
        run = layout.run if isinstance(layout.run, int) else BLOCK_BYTES
        block = max(1, BLOCK_BYTES // (run * size))
        values: dict[str, int | str] = {
            "ENTRY": entry,
            "T": INTEGER[size],
            "OUTER": c_dim(product(tuple(a.size for a, _ in layout.outer)), w.symbols),
            "OUTER_INDEX": " ".join([*index, "(void)outer; (void)hole;"]),
            "Q": c_dim(inner.size, w.symbols),
            "R": c_dim(layout.run, w.symbols),
            "X_Q": c_dim(inner.x_step, w.symbols),
            "Y_Q": c_dim(inner.y_step, w.symbols),
            "FILL": f"(T){fill or 0}u" + ("ll" if size == 8 else ""),
            "HAS_FILL": int(fill is not None),
            "BLOCK": min(block, inner.size) if isinstance(inner.size, int) else block,
            "TABLE": 2,
            "TABLE_OFFSET": c_dim(offsets[id(inner)], w.symbols),
            "FORM": 0,
            "ONE": int(layout.run == 1),
        }
        tables = (
            f"EXPORT void {entry}_tables(void *const *p, const int64_t *v, int32_t part, int32_t parts)\n{{\n"
            f"  (void)v; (void)parts;\n  if (part) return;\n  int32_t *t = p[2];\n{fills}\n}}\n"
        )
        source = template_text("vec.h", "axis_maps.h") + tables + defines(values) + template_text("index_copy.c")
        return Kernel(
            source,
            (f"{entry}_tables", entry),
            (("input", 0), ("output", 0), ("shared", 0)),
            w.symbols,
            shared_workspace=layout.offsets[-1] * _ENTRY_BYTES,
            in_place=False,
        )

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()
