"""Linear and cubic Resize on a CUDA GPU: separable weighted means over up to three axes.

First input indices and weights along every axis are tables made at build (tactics/resize_geometry.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from textwrap import indent

import numpy as np

from temper.ir.dims import DimLike
from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cuda.epilogue_triton import POINTER_TYPES, Parameter, epilogue_declines
from temper.tactics.cuda.levels import level_declines
from temper.tactics.cuda.loads import FLOATS, HALVES, widened
from temper.tactics.cuda.tiles import tile_kernel
from temper.tactics.geometry import typical_count
from temper.tactics.resize_geometry import ResizeShape, last_axis, resize_shape

#: Taps written out; more are loops.
_UNROLLED = 16

_TAP = """\
at = ((outer * I0 + s0 + t0) * I1 + s1 + t1) * I2
place = {place}
taken = {taken}
value = tl.load(x + place, mask=taken, other=0.0)
acc += {value} * {weight}
"""


class Resize:
    """Resize with mode linear or cubic of axes whose sizes are known at build."""

    name = "cuda.resize"
    ops = frozenset({"Resize"})

    def accepts(self, w: Workload) -> str | None:
        if w.op != "Resize":
            return f"resizes, and does not compute {w.op}"
        if (reason := level_declines(w)) is not None:
            return reason
        if w.attr("mode") == "nearest":
            return "mode nearest is a copy"
        x = w.inputs[0]
        if x is None or x.type.dtype not in FLOATS:
            return f"computes {', '.join(FLOATS)}"
        if reason := epilogue_declines(w.epilogue):
            return reason
        found = resize_shape(w)
        return found if isinstance(found, str) else None

    def candidates(self, w: Workload) -> Sequence[Params]:
        return [(("tile", tile),) for tile in (1024, 512, 2048)]

    def predict(self, w: Workload, params: Params) -> float:
        taps = prod(a.taps for a in _shape(w).axes)
        order = {1024: 0.0, 512: 1e-8, 2048: 2e-8}[dict(params)["tile"]]
        return 2e-6 + order + typical_count(w.outputs[0].type.shape) * (4 + taps * 3.0) / 4e12

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        s, x = _shape(w), w.inputs[0]
        assert x is not None
        along = last_axis(w)
        sizes: dict[str, DimLike] = {"X_STRIDE": s.xld}
        for i, a in enumerate(s.axes):
            sizes |= {f"I{i}": a.size, f"O{i}": a.out}
        # the index along each axis: of rows [BM], or of the tile's other axis where the last axis is resized
        below = {2: "channel" if along else "row % O2", 1: "row" if along else "row // O2"}
        rows = "row // O1" if along else "row // (O1 * O2)"
        index = (f"({rows}) % O0", f"({below[1]}) % O1", below[2])
        body = f"outer = {rows} // O0\n"
        first, weight = 0, 0
        for i, a in enumerate(s.axes):
            ok = "channel_ok" if along and i == 2 else "row_ok"
            body += f"i{i} = {index[i]}\ns{i} = tl.load(start + {first} + i{i}, mask={ok}, other=0)\n"
            first, weight = first + a.out, weight + a.out * a.taps
        body += "acc = tl.zeros((BM, BN), tl.float32)\n"
        tap = self._tap(w, s, along)
        if prod(a.taps for a in s.axes) <= _UNROLLED:
            for t0 in range(s.axes[0].taps):
                for t1 in range(s.axes[1].taps):
                    for t2 in range(s.axes[2].taps):
                        body += f"t0 = {t0}\nt1 = {t1}\nt2 = {t2}\n{tap}"
        else:
            loops = "".join(f"{'    ' * i}for t{i} in range({a.taps}):\n" for i, a in enumerate(s.axes))
            body += loops + indent(tap, "    " * 3)
        if any((a.start < 0).any() for a in s.axes):
            beyond = " | ".join(f"(s{i} < 0){'[None, :]' if along and i == 2 else '[:, None]'}" for i in range(3))
            body += f"acc = tl.where({beyond}, {_literal(float(str(w.attr('extrapolation_value'))))}, acc)\n"
        made = w.epilogue.operands[0].dtype
        body += f"v0 = acc{f'.to({HALVES[made]})' if made in HALVES else ''}\n"
        inputs = [
            Parameter("x", POINTER_TYPES[x.type.dtype], ("input", 0)),
            Parameter("start", "*i32", ("packed", 0)),
            Parameter("weights", "*fp32", ("packed", 1)),
        ]
        channels = int(str(w.outputs[0].type.shape[-1]))
        bn = min(64 if along else 256, max(1, 1 << (channels - 1).bit_length()))
        tile = (max(1, dict(params)["tile"] // bn), bn)
        about = f"Resize of {'x'.join(str(a.taps) for a in s.axes)} taps."
        return tile_kernel(w, entry, about, inputs, sizes, body, tile=tile, in_place=False)

    @staticmethod
    def _tap(w: Workload, s: ResizeShape, along: bool) -> str:
        x = w.inputs[0]
        assert x is not None
        last = "[None, :]" if along else "[:, None]"
        first, factors, kept = 0, [], ["live"]
        for i, a in enumerate(s.axes):
            side, ok = (last, "channel_ok" if along else "row_ok") if i == 2 else ("[:, None]", "row_ok")
            if a.taps > 1:
                load = f"tl.load(weights + {first} + i{i} * {a.taps} + t{i}, mask={ok}, other=0.0)"
                factors.append(f"{load}{side}")
            # a crop's indices begin at -1 where there is nothing
            kept += [f"(s{i} >= 0){side}"] if (a.start < 0).any() else []
            first += a.out * a.taps
        place = "at[:, None] + (s2 + t2)[None, :]" if along else "(at + s2 + t2)[:, None] * X_STRIDE + channel[None, :]"
        return _TAP.format(
            place=place,
            taken=" & ".join(kept),
            value=widened("value", x.type.dtype),
            weight=f"({' * '.join(factors) or '1.0'})",
        )

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        axes = _shape(w).axes
        return np.concatenate([a.start for a in axes]), np.concatenate([a.weight.reshape(-1) for a in axes])


def _literal(x: float) -> str:
    value = float(np.float32(x))
    return repr(value) if np.isfinite(value) else f'float("{value}")'


def _shape(w: Workload) -> ResizeShape:
    s = resize_shape(w)
    if isinstance(s, str):
        raise ValueError(f"workload was not accepted: {s}")
    return s
