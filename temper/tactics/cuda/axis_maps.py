"""Pad, Tile, Slice, Expand, Trilu and nearest Resize on a CUDA GPU: each output axis maps to an input axis by formula.

The formulas are the references' own arithmetic (Resize: float32 coordinates), and also hold for sizes known at run time
only. An element whose formula points outside the input gets the fill value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from temper.ir.dims import Dim, DimLike
from temper.tactics.base import Workload
from temper.tactics.cuda.indexed import Body, Tiled, dense, input_pointer, loaded, output_index
from temper.tactics.cuda.kernel import dim_text
from temper.tactics.geometry import attrs_of_axis

#: The float32 input position of output index i: `reference.resize.source_coordinates` over size, out and s (the scale);
#: empty where it takes more than an expression.
_HALF_PIXEL = "tl.div_rn(i + 0.5, s) - 0.5"
_COORDINATES: Mapping[str, str] = {
    "half_pixel": _HALF_PIXEL,
    "pytorch_half_pixel": "",
    "half_pixel_symmetric": "size / 2.0 * (1.0 - tl.div_rn(out, s * size)) + ({half})",
    "align_corners": "",
    "asymmetric": "tl.div_rn(i, s)",
    "tf_half_pixel_for_nn": "tl.div_rn(i + 0.5, s)",
    "tf_crop_and_resize": "",
}

_ROUNDING: Mapping[str, str] = {
    "round_prefer_floor": "-tl.floor(0.5 - tie(at))",
    "round_prefer_ceil": "tl.floor(tie(at) + 0.5)",
    "floor": "tl.floor(at)",
    "ceil": "-tl.floor(-at)",
}


@dataclass(frozen=True)
class AxisMap:
    """Statements that set s (input index) from i (output index) of one axis; hole: condition of no input, or empty."""

    statements: tuple[str, ...]
    hole: str = ""


def _slice(attrs: Mapping[str, object], size: DimLike) -> AxisMap | str:
    starts, steps = attrs["starts"], attrs["steps"]
    assert isinstance(starts, tuple) and isinstance(steps, tuple)
    start, step = starts[0], steps[0]
    if not isinstance(step, int):
        return "its steps are not known at build"
    last = size if step > 0 else size - 1
    if isinstance(start, int) and isinstance(size, int):
        start = max(0, min(start + size if start < 0 else start, int(str(last))))
        return AxisMap((f"s = i * ({step}) + {start}",))
    first = dim_text(start)
    if isinstance(start, int) and start < 0:
        first = f"tl.maximum({dim_text(size)} + ({start}), 0)"
    return AxisMap((f"s = i * ({step}) + tl.minimum({first}, {dim_text(last)})",))


def _pad(attrs: Mapping[str, object], size: DimLike) -> AxisMap | str:
    pads, mode = attrs["pads"], attrs["mode"]
    assert isinstance(pads, tuple)
    begin, end = pads
    if mode == "constant":
        return AxisMap((f"s = i - ({dim_text(begin)})",), f"(s < 0) | (s >= {dim_text(size)})")
    cut, tail = (max(-p, 0) if isinstance(p, int) else 0 for p in (begin, end))
    ahead = max(begin, 0) if isinstance(begin, int) else begin
    rules = {"edge": "limited", "reflect": "reflected", "wrap": "wrapped_into"}
    if mode not in rules:
        return f"pads by mode {mode} are not computed here"
    kept = dim_text(size - (cut + tail))
    return AxisMap((f"s = {rules[str(mode)]}(i - ({dim_text(ahead)}), {kept}) + {cut}",))


def _number(x: object) -> str:
    return repr(float(np.float32(float(str(x)))))


#: Positions that are outside of what is cropped.
BEYOND = "(place < 0) | (place > size - 1.0)"


def source_position(attrs: Mapping[str, object], size: DimLike, out: DimLike) -> list[str] | str:
    """Statements that set place, the float32 input position of output index i, of one axis of Resize; i becomes float32
    and whole keeps the index. Or why there are none.

    attrs: the op's, for this axis only.
    """
    mode = str(attrs["coordinate_transformation_mode"])
    if mode not in _COORDINATES:
        return f"coordinates by {mode} are not computed here"
    scales, roi = attrs.get("scales"), attrs.get("roi")
    first, last = roi if isinstance(roi, tuple) else (0.0, 1.0)
    r0, r1 = _number(first), _number(last)
    lines = [
        f"size = tl.full((1, 1), {dim_text(size)}, tl.int32).to(tl.float32)"
        if isinstance(size, int)
        else f"size = ({dim_text(size)} + tl.zeros((1, 1), tl.int32)).to(tl.float32)",
        f"out = tl.full((1, 1), {dim_text(out)}, tl.int32).to(tl.float32)"
        if isinstance(out, int)
        else f"out = ({dim_text(out)} + tl.zeros((1, 1), tl.int32)).to(tl.float32)",
        f"s = tl.full((1, 1), {_number(scales[0])}, tl.float32)"
        if isinstance(scales, tuple)
        else "s = (out.to(tl.float64) / size.to(tl.float64)).to(tl.float32)",
        "whole = i",
        "i = i.to(tl.float32)",
    ]
    if mode == "pytorch_half_pixel":
        lines.append(f"place = tl.where(out > 1, {_HALF_PIXEL}, 0.0)")
    elif mode == "align_corners":
        lines += [
            "span = tl.where(s * size - out > 1e-3, s * size, out) - 1.0",
            "place = tl.where(out > 1, tl.div_rn(i * (size - 1.0), tl.where(out > 1, span, 1.0)), 0.0)",
        ]
    elif mode == "tf_crop_and_resize":
        lines += [
            f"r0 = tl.full((1, 1), {r0}, tl.float32)",
            f"r1 = tl.full((1, 1), {r1}, tl.float32)",
            "wide = r0 * (size - 1.0) + tl.div_rn(i * (r1 - r0) * (size - 1.0), tl.maximum(out - 1.0, 1.0))",
            "place = tl.where(out > 1, wide, 0.5 * (r0 + r1) * (size - 1.0))",
        ]
    else:
        lines.append(f"place = {_COORDINATES[mode].format(half=_HALF_PIXEL)}")
    return lines


def is_cropped(attrs: Mapping[str, object]) -> bool:
    """Whether a part of the axis is resized, not all of it."""
    roi = attrs.get("roi")
    whole = not isinstance(roi, tuple) or roi == (0.0, 1.0)
    return attrs["coordinate_transformation_mode"] == "tf_crop_and_resize" and not whole


def _resize(attrs: Mapping[str, object], size: DimLike, out: DimLike) -> AxisMap | str:
    rounding = str(attrs["nearest_mode"])
    if rounding not in _ROUNDING:
        return f"positions rounded by {rounding} are not computed here"
    lines = source_position(attrs, size, out)
    if isinstance(lines, str):
        return lines
    lines += [
        "at = place.to(tl.float64)",
        f"s = limited(({_ROUNDING[rounding]}).to(tl.int32), {dim_text(size)})",
    ]
    if isinstance(size, Dim) and not is_cropped(attrs) and attrs.get("scales") is None:  # sizes that turn out equal
        lines.append("s = tl.where(size == out, whole, s)")
    return AxisMap(tuple(lines), BEYOND if attrs["coordinate_transformation_mode"] == "tf_crop_and_resize" else "")


class AxisMaps(Tiled):
    """Every axis mapped on its own, and Trilu, whose hole depends on two."""

    name = "cuda.axis_maps"
    ops = frozenset({"Pad", "Tile", "Slice", "Expand", "Resize", "Trilu"})

    def declines(self, w: Workload) -> str | None:
        if w.op == "Resize" and w.attr("mode") != "nearest":
            return f"mode {w.attr('mode')} computes weighted means"
        found = self._maps(w)
        return found if isinstance(found, str) else None

    def _maps(self, w: Workload) -> dict[int, AxisMap] | str:
        """Of the output axes that do not map to themselves."""
        x, y = w.inputs[0], w.outputs[0].type
        assert x is not None
        lead = y.rank - x.type.rank
        out: dict[int, AxisMap] = {}
        for a, d in enumerate(y.shape):
            size = x.type.shape[a - lead] if a >= lead else 1
            found: AxisMap | str | None = None
            if w.op == "Expand":
                found = None if size == d else AxisMap(("s = i * 0",))
            elif w.op != "Trilu" and (attrs := attrs_of_axis(w, a)) is not None:
                if w.op == "Pad":
                    found = _pad(attrs, size)
                elif w.op == "Tile":
                    found = AxisMap((f"s = i % ({dim_text(size)})",))
                elif w.op == "Slice":
                    found = _slice(attrs, size)
                else:
                    found = _resize(attrs, size, d)
            if isinstance(found, str):
                return found
            if found is not None:
                out[a] = found
        return out

    def body(self, w: Workload, number: Callable[[float], str]) -> Body:
        maps, index, x = self._maps(w), output_index(w), w.inputs[0]
        assert isinstance(maps, dict) and x is not None
        lead = w.outputs[0].type.rank - x.type.rank
        lines, holes, terms = list(index.statements), [], []
        for a, stride in enumerate(dense(w, 0), lead):
            name = index.names[a]
            if a in maps and w.op != "Expand":
                lines += [f"i = {name}", *maps[a].statements, f"s{a} = s"]
                name = f"s{a}"
                if maps[a].hole:
                    lines.append(f"hole{a} = {maps[a].hole}")
                    holes.append(f"hole{a}")
            if stride != 0 and not (w.op == "Expand" and a in maps):
                terms.append(f"{name} * ({dim_text(stride)})")
        if w.op == "Trilu":
            order = "<" if w.attr("upper", 1) else ">"
            holes.append(f"({index.names[-1]} - {index.names[-2]} {order} ({dim_text(w.attr('k', 0))}))")  # type: ignore[arg-type]
        offset = " + ".join(terms) or "tl.zeros((1, 1), tl.int32)"
        if holes:
            lines.append(f"kept = live & (({' | '.join(holes)}) == 0)")
            lines.append(f"v0 = tl.where(kept, {loaded(w, 'x', offset, 'kept')}, {number(_fill(w))})")
        else:
            read = [a for a in range(lead, len(index.names)) if not (w.op == "Expand" and a in maps)]
            lines.append(f"v0 = tl.broadcast_to({loaded(w, 'x', offset, index.mask(read))}, (BM, BN))")
        return Body(lines, [input_pointer(w, 0, "x")], f"{w.op}.")


def _fill(w: Workload) -> float:
    """What a hole takes."""
    value = dict(w.attrs).get({"Pad": "value", "Resize": "extrapolation_value"}.get(w.op, ""), 0)
    assert isinstance(value, (int, float))
    return value
