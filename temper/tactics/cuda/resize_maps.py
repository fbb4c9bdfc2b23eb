"""Linear and cubic Resize on a CUDA GPU with weights computed in place, for axes whose sizes are known at run time.

Positions are the reference's float32 coordinates (axis_maps.py), weights float32 formulas of their fractions.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from math import prod

from temper.tactics.base import Params, Workload
from temper.tactics.cuda.axis_maps import BEYOND, source_position
from temper.tactics.cuda.indexed import Body, Tiled, dense, input_pointer, loaded, output_index
from temper.tactics.cuda.kernel import dim_text
from temper.tactics.cuda.loads import FLOATS, HALVES
from temper.tactics.geometry import attrs_of_axis, typical_count

_TAPS = {"linear": 2, "cubic": 4}
#: Elements that one result may combine, each written out.
_MOST_TAPS = 64


def _weights(mode: str, coefficient: float) -> list[str]:
    """Weights of neighbours by the fraction f of the position. Cubic: Keys' kernel at 1 + f, f, 1 - f and 2 - f."""
    if mode == "linear":
        return ["1.0 - f", "f"]
    a = repr(coefficient)

    def near(d: str) -> str:
        return f"(({a} + 2.0) * {d} - ({a} + 3.0)) * {d} * {d} + 1.0"

    def far(d: str) -> str:
        return f"(({a} * {d} - 5.0 * {a}) * {d} + 8.0 * {a}) * {d} - 4.0 * {a}"

    return [far("(1.0 + f)"), near("f"), near("(1.0 - f)"), far("(2.0 - f)")]


class ResizeMaps(Tiled):
    """Resize with mode linear or cubic; of known sizes resize.py has tables, which are quicker."""

    name = "cuda.resize_maps"
    ops = frozenset({"Resize"})
    moves = False

    def declines(self, w: Workload) -> str | None:
        x = w.inputs[0]
        if w.attr("mode") not in _TAPS:
            return f"mode {w.attr('mode')} is a copy"
        if x is None or x.type.dtype not in FLOATS or w.epilogue.operands[0].dtype not in ("float32", *HALVES):
            return f"computes {', '.join(FLOATS)}"
        if w.attr("antialias"):
            return "the number of neighbours of an antialiased axis depends on its size"
        count = 1
        for a, d in enumerate(w.outputs[0].type.shape):
            if (attrs := attrs_of_axis(w, a)) is not None:
                count *= _TAPS[str(w.attr("mode"))]
                if isinstance(found := source_position(attrs, x.type.shape[a], d), str):
                    return found
        return f"it combines {count} elements into one" if count > _MOST_TAPS else None

    def predict(self, w: Workload, params: Params) -> float:
        taps = prod(_TAPS[str(w.attr("mode"))] for a in range(len(w.outputs[0].type.shape)) if attrs_of_axis(w, a))
        return 2.1e-6 + typical_count(w.outputs[0].type.shape) * (4 + taps * 4.0) / 4e12

    def body(self, w: Workload, number: Callable[[float], str]) -> Body:
        x, y, index, mode = w.inputs[0], w.outputs[0].type, output_index(w), str(w.attr("mode"))
        assert x is not None
        lines, holes = list(index.statements), []
        places: list[list[str]] = []  # by axis: the terms of the offset, and their weights
        weights: list[list[str]] = []
        for a, stride in enumerate(dense(w, 0)):
            name, attrs, by = index.names[a], attrs_of_axis(w, a), f"({dim_text(stride)})"
            if attrs is None:
                places.append([f"{name} * {by}"])
                weights.append([""])
                continue
            found = source_position(attrs, x.type.shape[a], y.shape[a])
            assert not isinstance(found, str)
            size = dim_text(x.type.shape[a])
            lines += [f"i = {name}", *found, "f = place - tl.floor(place)", "s = tl.floor(place).to(tl.int32)"]
            taps = _weights(mode, float(str(w.attr("cubic_coeff_a"))))
            for k, weight in enumerate(taps):
                at = f"s + {k - (len(taps) // 2 - 1)}"
                inside = f"(({at}) >= 0) & (({at}) < {size})"
                kept = f"tl.where({inside}, {weight}, 0.0)" if w.attr("exclude_outside") else weight
                lines += [f"w{a}_{k} = {kept}", f"s{a}_{k} = limited({at}, {size})"]
            if w.attr("exclude_outside"):
                lines.append(f"total = {' + '.join(f'w{a}_{k}' for k in range(len(taps)))}")
                lines += [f"w{a}_{k} = w{a}_{k} / total" for k in range(len(taps))]
            if attrs["coordinate_transformation_mode"] == "tf_crop_and_resize":
                lines.append(f"hole{a} = {BEYOND}")
                holes.append(f"hole{a}")
            places.append([f"s{a}_{k} * {by}" for k in range(len(taps))])
            weights.append([f"w{a}_{k}" for k in range(len(taps))])
        lines.append("acc = tl.zeros((BM, BN), tl.float32)")
        for terms, factors in zip(product(*places), product(*weights), strict=True):
            value = f"{loaded(w, 'x', ' + '.join(terms), 'live')}.to(tl.float32)"
            lines.append(f"acc += {' * '.join([value, *(f for f in factors if f)])}")
        if holes:
            outside = number(float(str(w.attr("extrapolation_value"))))
            lines.append(f"acc = tl.where({' | '.join(holes)}, {outside}, acc)")
        made = w.epilogue.operands[0].dtype
        lines.append(f"v0 = acc{f'.to({HALVES[made]})' if made in HALVES else ''}")
        return Body(lines, [input_pointer(w, 0, "x")], f"Resize, {mode}.")
