"""Winograd convolution F(mh x mw, 3 x 3) in FP32: 3x3, stride 1, dilation 1, group 1, channels-last, constant weights.

An output tile of mh x mw pixels costs (mh + 2)(mw + 2) multiplications per channel pair in place of 9 mh mw (Lavin and
Gray 2015, arXiv:1509.09308): y = A^T [(G w G^T) . (B^T x B)] A, where the products over channels are (mh + 2)(mw + 2)
independent matrix products. G w G^T is computed in float64 at build and rounded once. m = 1: no transform on that axis.

Points. m = 2 uses 0, +-1, infinity. m = 4 uses 0, +-5/8, +-3/2, infinity: every pair (+-a, +-b) needs the same number
of vector operations, and among pairs whose coefficients are exact in FP32 this one is near the least error on Gaussian
data: 1.8 times direct convolution's RMS error at 64 to 256 channels, where the usual 0, +-1, +-2 have 3.7. (That small
integers are not the best points is the finding of Barabasz et al. 2018, arXiv:1803.10986.)

Error bound. Let |x| <= X in a tile, |w| <= W in a filter of C channels, u = 2^-24. Direct convolution adds 9 C terms,
so its error is at most (9 C) u * 9 C X W. The error of nested sums is at most (roundings along a path) * u * (sum of
the magnitudes added), which for Winograd's three linear maps gives, to first order in u,
    (C + k) u * C X W * S_h S_w,    S = max_i sum_j |A^T|_ij g_j b_j,  g_j = sum_l |G|_jl,  b_j = sum_l |B^T|_jl,
with k roundings in the transforms (`_DEPTH` per axis, and one for the stored weight). The ratio of the two bounds,
S_h S_w (C + k) / (81 C), is `error_factor`; S_h S_w / 9 is 7.1 for F(2x2) and 62.7 for F(4x4), but the sum over
channels is 9 times shorter. The bound is normwise: it is for max |x| max |w|, not relative to one output's own sum of
|x| |w|; for the same reason an infinity or NaN in x spreads over the whole tile.

Costs. Products dominate from ~32 channels on. Weights grow by (mh + 2)(mw + 2) / 9, which decides where few tiles share
many channels: 7x7x512 reads 16.8 MB at 2x2 and 37.7 MB at 4x4, from DRAM, so weights are fetched ahead in software.
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from math import prod

import numpy as np

from temper.compile.cc import ISAS
from temper.ir.dims import Dim, DimLike, ceil_div, evaluate, product
from temper.tactics.base import ArgRef, Kernel, Params, Slot, Workload
from temper.tactics.cpu.points import odd_lines, products_at_points
from temper.tactics.cpu.render import anchor_declines, epilogue_args, template_text, workload_epilogue_c
from temper.tactics.cpu.source import c_dim, defines

#: Finite interpolation points by outputs per axis; infinity is always the last.
POINTS: Mapping[int, tuple[Fraction, ...]] = {
    2: (Fraction(0), Fraction(1), Fraction(-1)),
    4: (Fraction(0), Fraction(5, 8), Fraction(-5, 8), Fraction(3, 2), Fraction(-3, 2)),
}

#: Roundings along one path through B^T and A^T of the template.
_DEPTH: Mapping[int, int] = {1: 2, 2: 1 + 2, 4: 3 + 3}

#: Outputs per tile (rows, columns) worth trying.
_TILES = ((4, 4), (2, 2), (4, 2), (1, 2))

_CHUNK_VECTORS, _AHEAD_KB = 4, 96

#: For `predict`: clock; bytes per second of weights from DRAM; multiply-adds a cycle; cycles per vector of V and of M.
_CLOCK, _STREAM = 3.7e9, 27e9
_FMA = {16: 2.0, 8: 2.0, 4: 1.0}  # by lanes
_INPUT_CYCLES, _OUTPUT_CYCLES = 5.5, 4.0


@dataclass(frozen=True)
class Matrices:
    """A^T [m, m + 2], G [m + 2, 3] and B^T [m + 2, m + 2] of F(m, 3), float64 and exact but for G's rounding."""

    at: np.ndarray
    g: np.ndarray
    bt: np.ndarray


@cache
def matrices(m: int) -> Matrices:
    """The transforms of F(m, 3), m in {1, 2, 4}, by Lagrange interpolation at `POINTS[m]` and infinity."""
    if m == 1:
        return Matrices(np.ones((1, 3)), np.eye(3), np.eye(3))
    points = POINTS[m]
    count = len(points)
    at, g, bt = np.zeros((m, count + 1)), np.zeros((count + 1, 3)), np.zeros((count + 1, count + 1))
    for j, p in enumerate(points):
        others = [q for q in points if q != p]
        norm = prod((p - q for q in others), start=Fraction(1))
        sign = -1 if m == 2 and p == 0 else 1  # the template computes x0 - x2 where interpolation gives x2 - x0
        at[:, j] = [float(p**i) for i in range(m)]
        g[j] = [float(sign * p**k / norm) for k in range(3)]
        bt[j, :count] = [float(sign * c) for c in _polynomial(others)]
    at[m - 1, count] = g[count, 2] = 1.0
    bt[count] = [float(c) for c in _polynomial(points)]
    return Matrices(at, g, bt)


def _polynomial(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients, lowest power first, of the monic polynomial with these roots."""
    out = [Fraction(1)]
    for r in roots:
        out = [low - r * high for low, high in zip([Fraction(0), *out], [*out, Fraction(0)], strict=True)]
    return out


def error_factor(params: Params, channels: int = 1) -> float:
    """This variant's rounding bound over direct convolution's (docstring above), at least 1; most for one channel."""
    p = dict(params)
    growth, depth = 1.0, 1
    for m in (p["mh"], p["mw"]):
        t = matrices(m)
        growth *= float((np.abs(t.at) @ (np.abs(t.g).sum(1) * np.abs(t.bt).sum(1))).max())
        depth += _DEPTH[m]
    return max(1.0, growth * (channels + depth) / (81.0 * channels))


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


@dataclass(frozen=True)
class _Shape:
    """A workload's sizes."""

    n: DimLike
    h: DimLike
    w: DimLike
    ic: int
    oh: DimLike
    ow: DimLike
    oc: int
    pads: tuple[int, int]  # top, left
    lanes: int

    @staticmethod
    def of(w: Workload) -> _Shape:
        x = w.inputs[0]
        assert x is not None
        n, h, width, ic = x.type.shape
        _, oh, ow, oc = w.outputs[0].type.shape
        assert isinstance(ic, int) and isinstance(oc, int)
        pads = w.attr("pads", (0, 0, 0, 0))
        assert isinstance(pads, tuple)
        return _Shape(n, h, width, ic, oh, ow, oc, (int(pads[0]), int(pads[1])), ISAS[w.isa].lanes)

    @property
    def vectors(self) -> int:
        """Vectors of output channels."""
        return _ceil(self.oc, self.lanes)

    def tiles(self, mh: int, mw: int) -> DimLike:
        return product((self.n, ceil_div(self.oh, mh), ceil_div(self.ow, mw)))

    def typical_tiles(self, mh: int, mw: int) -> int:
        """Tiles of one image, an unknown height or width taken as 32: for ranking only."""
        tiles = product((1, ceil_div(self.oh, mh), ceil_div(self.ow, mw)))
        batch = self.n if isinstance(self.n, int) else 1
        return max(1, batch * (evaluate(tiles, dict.fromkeys(tiles.symbols, 32)) if isinstance(tiles, Dim) else tiles))


@dataclass(frozen=True)
class _Plan:
    """Parameters. mh, mw: outputs per tile; tiles: per block; mr, nb: register tile (tiles x output-channel vectors).

    shared: 1 = one input transform for all threads, work split over output channels; 0 = work split over tiles, with no
    barrier. ahead: KiB by which weights are fetched ahead, 0 = left to the hardware.
    """

    mh: int
    mw: int
    tiles: int
    mr: int
    nb: int
    shared: int
    ahead: int

    @property
    def params(self) -> Params:
        return tuple(sorted(vars(self).items()))

    @property
    def points(self) -> int:
        return (self.mh + 2) * (self.mw + 2)


def _plans(s: _Shape, registers: int, threads: int) -> list[_Plan]:
    """Every blocking worth ranking."""
    out: dict[_Plan, None] = {}
    for mh, mw in _TILES:
        total = s.typical_tiles(mh, mw)
        points = (mh + 2) * (mw + 2)
        ahead = _AHEAD_KB if 4 * points * s.ic * s.vectors * s.lanes > 256 << 10 else 0
        for wanted in (1, 2, 3, 4):
            nb = _ceil(s.vectors, _ceil(s.vectors, wanted))
            rows = min((registers - 1 - nb) // nb, 24)
            for shared in (0, 1):
                share = total if shared else _ceil(total, threads)
                per_tile = 4 * points * (nb * s.lanes + (0 if shared else s.ic))
                for budget in (288 << 10, 576 << 10):
                    tiles = _ceil(share, _ceil(share, max(rows, budget // per_tile)))
                    mr = _ceil(tiles, _ceil(tiles, rows))
                    out[_Plan(mh, mw, tiles, mr, nb, shared, ahead)] = None
    return list(out)


class WinogradConv:
    """F(mh x mw, 3 x 3); parameters are the fields of `_Plan`."""

    name = "cpu.conv.winograd"
    ops = frozenset({"Conv"})
    packing = ("mh", "mw", "nb")

    def accepts(self, w: Workload) -> str | None:
        if w.op != "Conv":
            return f"computes Conv, not {w.op}"
        if w.isa not in ISAS:
            return f"no code for {w.isa}"
        x, weights = w.inputs[0], w.inputs[1]
        if x is None or weights is None or x.type.rank != 4:
            return "needs a 2-D convolution"
        if not w.attr("channels_last", 0):
            return "needs channels-last tensors"
        slots: tuple[Slot | None, ...] = (*w.inputs, w.outputs[0])
        if any(s is not None and s.type.dtype != "float32" for s in slots):
            return "computes in float32 only"
        if tuple(weights.type.shape[:2]) != (3, 3):
            return "needs a 3x3 kernel"
        if w.attr("strides", (1, 1)) != (1, 1) or w.attr("dilations", (1, 1)) != (1, 1) or w.attr("group", 1) != 1:
            return "needs stride 1, dilation 1 and one group"
        if not w.constant[1]:
            return "the weights are not constant, so they cannot be transformed at build"
        if not weights.type.static or not isinstance(x.type.shape[3], int):
            return "channel counts must be known at build"
        pads = w.attr("pads", (0, 0, 0, 0))
        if not isinstance(pads, tuple) or len(pads) != 4 or any(not 0 <= int(p) <= 2 for p in pads):
            return "needs explicit pads of 0 to 2"
        return anchor_declines(w.epilogue)

    def candidates(self, w: Workload) -> Sequence[Params]:
        plans = _plans(_Shape.of(w), ISAS[w.isa].registers, w.threads)
        ranked = sorted((self.predict(w, p.params), p.params) for p in plans)
        return [params for _, params in ranked[:16]]

    def error_factor(self, params: Params) -> float:
        """`error_factor` for any number of channels: what verification multiplies a convolution's tolerance by."""
        return error_factor(params)

    def predict(self, w: Workload, params: Params) -> float:
        s, p = _Shape.of(w), _Plan(**dict(params))
        threads = max(1, w.threads)
        total = s.typical_tiles(p.mh, p.mw)
        groups = _ceil(p.tiles, p.mr)
        rows = p.tiles / groups
        # Two loads and two multiply-adds a cycle; eight accumulators hide the latency; seven instructions a cycle.
        cycles = 0.0
        for b, count in ((p.nb, s.vectors // p.nb), (s.vectors % p.nb, 1)):
            if b:
                term = max(rows * b / _FMA[ISAS[w.isa].lanes], (rows + b) / 2, 4.0, (rows * b + rows + b + 2) / 7)
                cycles += count * (s.ic * term + 30 + rows * b)
        cycles *= p.points * total / rows
        cycles += p.points * total * (_INPUT_CYCLES * _ceil(s.ic, s.lanes) + _OUTPUT_CYCLES * s.vectors)
        units = _ceil(s.vectors, p.nb) * _ceil(total, p.tiles) if p.shared else total
        seconds = cycles / _CLOCK * _ceil(units, threads) / units
        if p.shared and threads > 1:
            seconds += 2e-6
        blocks = 1 if p.shared else _ceil(_ceil(total, threads), p.tiles)
        weights = 4.0 * p.points * s.ic * s.vectors * s.lanes * (1 + 0.2 * (blocks - 1)) / _STREAM
        return max(seconds, weights) + 0.2 * min(seconds, weights)

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        s, p = _Shape.of(w), _Plan(**dict(params))
        args: list[ArgRef] = [("input", 0), ("packed", 0), ("workspace", 0)]
        if p.shared:
            args.append(("shared", 0))
        bias = -1
        if len(w.inputs) > 2 and w.inputs[2] is not None:
            bias = len(args)
            args.append(("packed", 1) if w.constant[2] else ("input", 2))
        out = len(args)
        args += [("output", 0), *epilogue_args(w.epilogue)]
        x, y = w.inputs[0], w.outputs[0]
        assert x is not None
        dims = {"BATCH": s.n, "H": s.h, "W": s.w, "OH": s.oh, "OW": s.ow}
        a, b = POINTS[4][1], POINTS[4][3]
        constants = {"A": a, "B": b, "A2": a**2, "B2": b**2, "A3": a**3, "B3": b**3}
        constants |= {"SUM": a**2 + b**2, "PRODUCT": (a * b) ** 2}
        text = defines({
            "ENTRY": entry, **{name: c_dim(d, w.symbols) for name, d in dims.items()},
            "IC": s.ic, "OC": s.oc, "PT": s.pads[0], "PL": s.pads[1],
            "XLD": x.row_stride or s.ic, "OLD": y.row_stride or s.oc,
            "MH": p.mh, "MW": p.mw, "SHARED": p.shared, "CHUNK": _CHUNK_VECTORS * s.lanes,
            **products_at_points(p.points, s.ic, False, p.tiles, p.mr, p.nb, s.vectors, s.lanes, p.ahead),
            "P_X": 0, "P_U": 1, "P_WS": 2, "P_SH": 3, "P_BIAS": f"({bias})", "P_Y": out,
            **{f"W4_{name}": f"{float(value)!r}f" for name, value in constants.items()},
        })
        epilogue = workload_epilogue_c(w, out + 1)
        source = "\n".join([template_text("vec.h", "vmath.h"), text, epilogue, template_text("points.h", "winograd.c")])
        row = odd_lines(s.ic)
        workspace = odd_lines(p.tiles * p.nb * s.lanes) + (0 if p.shared else odd_lines(p.tiles * row))
        shared = (s.tiles(p.mh, p.mw) * row + 16) * (4 * p.points) if p.shared else 0
        entries = (f"{entry}_input", f"{entry}_output") if p.shared else (entry,)
        return Kernel(source, entries, tuple(args), w.symbols, 4 * p.points * workspace, shared)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        """U[output-channel block][point][IC][block's lanes] (zero lanes behind OC), then the bias if it is constant."""
        s, p = _Shape.of(w), _Plan(**dict(params))
        weights = constants[1].astype(np.float64)
        u = np.einsum("ai,bj,ijco->abco", matrices(p.mh).g, matrices(p.mw).g, weights, optimize=True)
        padded = np.zeros((p.points, s.ic, s.vectors * s.lanes), np.float32)
        padded[:, :, :s.oc] = u.reshape(p.points, s.ic, s.oc)
        width = p.nb * s.lanes
        packed = [np.concatenate([padded[:, :, c:c + width].ravel() for c in range(0, s.vectors * s.lanes, width)])]
        if len(w.inputs) > 2 and w.inputs[2] is not None and w.constant[2]:
            packed.append(np.ascontiguousarray(constants[2], np.float32))
        return tuple(packed)


#: Exported for the registry.
