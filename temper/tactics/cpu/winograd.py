"""Winograd convolution F(mh x mw, 3 x 3) in FP32: 3x3, stride 1, dilation 1, group 1, channels-last, constant weights.

An output tile of mh x mw pixels costs (mh + 2)(mw + 2) multiplications per channel pair in place of 9 mh mw (Lavin & Gray 2015,
arXiv:1509.09308): y = A^T [(G w G^T) . (B^T x B)] A, where the products over channels are (mh + 2)(mw + 2) independent matrix
products. G w G^T is computed in float64 at build and rounded once. m = 1 means "no transform along this axis".

Points. m = 2 uses 0, +-1, infinity. m = 4 uses 0, +-5/8, +-3/2, infinity: any pair (+-a, +-b) needs the same number of vector
operations, and among pairs whose coefficients are exact in FP32 this one had the least error on Gaussian data: 1.8 times direct
convolution's RMS error at IC = 64..256, where the usual 0, +-1, +-2 have 3.7. (That points of magnitude around 1 matter more than
small integers is the finding of Barabasz et al. 2018, arXiv:1803.10986.)

Error bound. Let |x| <= X in a tile and |w| <= W for a filter of C input channels, u = 2^-24. Direct convolution errs by at most
9 C u X W sum-wise: (9 C) u * (9 C X W). For Winograd every operation's rounding is relative to the sum of magnitudes of what it
adds, so (Higham, Accuracy and Stability, ch. 3) the error is at most
    (C + k) u * C * X W * S,     S = max_i sum_j |A^T|_ij g_j b_j  (1-D; the 2-D S is the product of both axes'),
g_j = sum_k |G|_jk, b_j = sum_k |B^T|_jk, with k = 2 (depth of B^T) + 1 (rounded weight) + 2 (depth of A^T) roundings along one path.
The ratio of the bounds is S (C + k) / (9 * 9 C), at least 1: `error_factor`. S / 9 is 7.1 for F(2x2) and 62.7 for F(4x4), but the
sum over channels is 9 times shorter. The bound is normwise: it does not hold relative to sum |x| |w| of a single output when the
tile's pixels differ by orders of magnitude.

Costs. Products dominate while both channel counts are at least ~32; the weights grow by (mh + 2)(mw + 2) / 9, which decides where
few tiles share many channels (7x7x512: 16.8 MB at 2x2, 37.7 MB at 4x4, from DRAM).
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from temper.compile.cc import ISAS
from temper.ir.dims import Dim, DimLike, ceil_div, evaluate, product
from temper.tactics.base import ArgRef, Kernel, Params, Slot, Workload
from temper.tactics.cpu.render import anchor_declines, epilogue_args, template_text, workload_epilogue_c
from temper.tactics.cpu.source import c_dim, defines

#: Finite interpolation points by outputs per axis; infinity is always the last.
POINTS: Mapping[int, tuple[Fraction, ...]] = {
    2: (Fraction(0), Fraction(1), Fraction(-1)),
    4: (Fraction(0), Fraction(5, 8), Fraction(-5, 8), Fraction(3, 2), Fraction(-3, 2)),
}

#: FP32 GFLOPS of one core, GB/s of weights streaming from DRAM, and GB/s of transforms (bytes of V and M touched), for `predict`.
_PEAK = {"avx512": 242e9, "avx2": 121e9, "portable": 30e9}
_STREAM, _CACHE = 20e9, 60e9
_CHUNK_VECTORS = 4


@dataclass(frozen=True)
class Matrices:
    """A^T [m, m + 2], G [m + 2, 3] and B^T [m + 2, m + 2] of F(m, 3), float64."""

    at: np.ndarray
    g: np.ndarray
    bt: np.ndarray


def matrices(m: int) -> Matrices:
    """The three transforms of F(m, 3), m in {1, 2, 4}, by Lagrange interpolation at `POINTS[m]` and infinity; m = 1: no transform."""
    if m == 1:
        return Matrices(np.ones((1, 3)), np.eye(3), np.eye(3))
    points = POINTS[m]
    count = len(points)
    at, g, bt = np.zeros((m, count + 1)), np.zeros((count + 1, 3)), np.zeros((count + 1, count + 1))
    for j, p in enumerate(points):
        others = [q for q in points if q != p]
        norm = product_of([p - q for q in others])
        sign = -1 if m == 2 and p == 0 else 1  # the template computes x0 - x2 where interpolation gives x2 - x0
        at[:, j] = [float(p**i) for i in range(m)]
        g[j] = [float(sign * p**k / norm) for k in range(3)]
        bt[j, :count] = [float(sign * c) for c in _polynomial(others)]
    at[m - 1, count] = g[count, 2] = 1.0
    bt[count] = [float(c) for c in _polynomial(list(points))]
    return Matrices(at, g, bt)


def product_of(factors: Sequence[Fraction]) -> Fraction:
    """Exact product; 1 for none."""
    out = Fraction(1)
    for f in factors:
        out *= f
    return out


def _polynomial(roots: Sequence[Fraction]) -> list[Fraction]:
    """Coefficients, lowest power first, of the monic polynomial with these roots."""
    out = [Fraction(1)]
    for r in roots:
        out = [low - r * high for low, high in zip([Fraction(0), *out], [*out, Fraction(0)], strict=True)]
    return out


def error_factor(params: Params, channels: int = 1 << 30) -> float:
    """How many times direct convolution's rounding bound this variant's normwise bound is (docstring above); at least 1."""
    def axis(m: int) -> float:
        t = matrices(m)
        return float((np.abs(t.at) @ (np.abs(t.g).sum(1) * np.abs(t.bt).sum(1))).max())
    p = dict(params)
    depth = sum(2 * {1: 0, 2: 1, 4: 3}[m] + {1: 2, 2: 2, 4: 4}[m] for m in (p["mh"], p["mw"])) + 1
    return max(1.0, axis(p["mh"]) * axis(p["mw"]) * (channels + depth) / (81.0 * channels))


@dataclass(frozen=True)
class _Shape:
    """The workload's sizes under the template's names."""

    n: DimLike
    h: DimLike
    w: DimLike
    ic: int
    oh: DimLike
    ow: DimLike
    oc: int
    pads: tuple[int, ...]

    @staticmethod
    def of(w: Workload) -> _Shape:
        x, y = w.inputs[0], w.outputs[0]
        assert x is not None
        n, h, width, ic = x.type.shape
        pads = w.attr("pads", (0, 0, 0, 0))
        assert isinstance(pads, tuple)
        oc = y.type.shape[3]
        assert isinstance(ic, int) and isinstance(oc, int)
        top, left, bottom, right = (int(p) for p in pads)
        return _Shape(n, h, width, ic, h + top + bottom - 2, width + left + right - 2, oc, (top, left, bottom, right))

    def tiles(self, mh: int, mw: int) -> DimLike:
        return product((self.n, ceil_div(self.oh, mh), ceil_div(self.ow, mw)))

    def nominal(self, d: DimLike) -> int:
        """A size to predict with: batch 1, other run-time dimensions 32."""
        if isinstance(d, int):
            return d
        batch = self.n.symbols if isinstance(self.n, Dim) else frozenset()
        return max(1, evaluate(d, {s: 1 if s in batch else 32 for s in d.symbols}))


def _odd_lines(floats: int) -> int:
    return (ceil_of(floats, 16) | 1) * 16


def ceil_of(a: int, b: int) -> int:
    """Ceiling of a / b."""
    return -(-a // b)


def _register_tiles(registers: int, vectors: int) -> list[tuple[int, int]]:
    """(nb, largest mr) whose accumulators, weights and one broadcast fit the register file; nb divides `vectors` evenly or nearly."""
    out = {}
    for wanted in (1, 2, 3, 4):
        nb = ceil_of(vectors, ceil_of(vectors, wanted))
        out[nb] = min((registers - 1 - nb) // nb, 16 if nb > 1 else 24)
    return sorted(out.items())


def _block_sizes(ic: int, block: int, points: int, share: int, mr: int) -> list[int]:
    """Tiles per block, multiples of mr: what leaves V and M in about half of, and about all of, a 1 MiB second-level cache."""
    out = set()
    for budget in (384 << 10, 768 << 10):
        fit = budget // (4 * points * (ic + block))
        count = ceil_of(share, max(mr, fit // mr * mr))
        out.add(min(share, ceil_of(ceil_of(share, count), mr) * mr))
    return sorted(out)


class WinogradConv:
    """F(mh x mw, 3 x 3). Parameters: mh, mw (outputs per tile); tiles (per block); mr, nb (register tile: tiles x vectors of output
    channels); shared (1: one input transform for all threads, work split over output channels; 0: split over tiles, no barrier)."""

    name = "cpu.conv.winograd"

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
        if any(s is not None and s.type.dtype != "float32" for s in slots) or w.epilogue.operands[0].dtype != "float32":
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
        s = _Shape.of(w)
        isa = ISAS[w.isa]
        vectors = ceil_of(s.oc, isa.lanes)
        found: dict[Params, float] = {}
        for mh, mw in ((4, 4), (2, 2), (4, 2), (1, 2)):
            total = s.nominal(s.tiles(mh, mw))
            for shared in (0, 1):
                share = ceil_of(total, w.threads) if not shared else total
                for nb, mr in _register_tiles(isa.registers, vectors):
                    mr = min(mr, share)
                    for tiles in _block_sizes(s.ic, nb * isa.lanes, (mh + 2) * (mw + 2), share, mr):
                        p: Params = (("mh", mh), ("mr", mr), ("mw", mw), ("nb", nb), ("shared", shared), ("tiles", tiles))
                        found[p] = self.predict(w, p)
        return sorted(found, key=lambda p: (found[p], p))[:16]

    def predict(self, w: Workload, params: Params) -> float:
        s, p = _Shape.of(w), dict(params)
        lanes = ISAS[w.isa].lanes
        points, total = (p["mh"] + 2) * (p["mw"] + 2), s.nominal(s.tiles(p["mh"], p["mw"]))
        oc = ceil_of(s.oc, lanes) * lanes
        flops = 2.0 * points * total * s.ic * oc
        # A register tile of r x b needs r + b loads (2 a cycle) for its r b multiply-adds (2 a cycle) and hides 4 cycles of latency with >= 8.
        groups = ceil_of(p["tiles"], p["mr"])
        r, b = p["tiles"] / groups, p["nb"]
        efficiency = 0.9 * min(1.0, r * b / 8.0) / max(1.0, (r + b) / (r * b))
        weights = 4.0 * points * s.ic * oc
        transforms = 4.0 * points * total * (2 * s.ic * (1 if p["shared"] else 1) + 2 * oc)
        threads = max(1, w.threads)
        units = ceil_of(s.oc, lanes * p["nb"]) * ceil_of(total, p["tiles"]) if p["shared"] else total
        balance = units / (ceil_of(units, threads) * threads)
        compute = flops / (_PEAK[w.isa] * efficiency) + transforms / _CACHE
        if p["shared"] and threads > 1:
            compute += 2e-6
        return max(compute / (threads * balance), weights / _STREAM)

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        s, p = _Shape.of(w), dict(params)
        isa = ISAS[w.isa]
        vectors = ceil_of(s.oc, isa.lanes)
        nb = min(p["nb"], vectors)
        last = vectors - (ceil_of(vectors, nb) - 1) * nb
        points = (p["mh"] + 2) * (p["mw"] + 2)
        total = s.tiles(p["mh"], p["mw"])
        row = _odd_lines(s.ic)
        v_bytes, m_bytes = 4 * points * _odd_lines(p["tiles"] * row), 4 * points * _odd_lines(p["tiles"] * nb * isa.lanes)
        args: list[ArgRef] = [("input", 0), ("packed", 0), ("workspace", 0)]
        if p["shared"]:
            args.append(("shared", 0))
        bias = -1
        if len(w.inputs) > 2 and w.inputs[2] is not None:
            bias = len(args)
            args.append(("packed", 1) if w.constant[2] else ("input", 2))
        args.append(("output", 0))
        first = len(args)
        args += epilogue_args(w.epilogue)
        x, y = w.inputs[0], w.outputs[0]
        assert x is not None
        values: dict[str, int | str] = {
            "ENTRY": entry, "BATCH": c_dim(s.n, w.symbols), "H": c_dim(s.h, w.symbols), "W": c_dim(s.w, w.symbols), "OH": c_dim(s.oh, w.symbols),
            "OW": c_dim(s.ow, w.symbols), "IC": s.ic, "OC": s.oc, "PT": s.pads[0], "PL": s.pads[1], "XLD": x.row_stride or s.ic,
            "OLD": y.row_stride or s.oc, "MH": p["mh"], "MW": p["mw"], "TB": p["tiles"], "MR": p["mr"], "NB": nb, "NBL": last,
            "SHARED": p["shared"], "CHUNK": _CHUNK_VECTORS * isa.lanes, "P_X": 0, "P_U": 1, "P_WS": 2, "P_SH": 3,
            "P_Y": first - 1, "P_BIAS": f"({bias})",
            "KERNELS(X)": " ".join(f"X({r}, {b})" for r in range(1, p["mr"] + 1) for b in sorted({nb, last})),
            "CASES(X)": " ".join(f"X({r})" for r in range(1, p["mr"] + 1)),
        }
        a, b = POINTS[4][1], POINTS[4][3]
        for name, value in (("A", a), ("B", b), ("A2", a**2), ("B2", b**2), ("A3", a**3), ("B3", b**3), ("SUM", a**2 + b**2),
                            ("PRODUCT", a**2 * b**2)):
            values[f"W4_{name}"] = f"{float(value)!r}f"
        source = "\n".join([template_text("vec.h", "vmath.h"), defines(values), workload_epilogue_c(w, first), template_text("winograd.c")])
        entries = (f"{entry}_input", f"{entry}_output") if p["shared"] else (entry,)
        return Kernel(source, entries, tuple(args), w.symbols, workspace=m_bytes + (0 if p["shared"] else v_bytes),
                      shared_workspace=points * 4 * (total * row + 16) if p["shared"] else 0)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        """U[output-channel block][point][IC][block's lanes] (zero lanes behind OC), then the bias if it is constant."""
        s, p = _Shape.of(w), dict(params)
        gh, gw = matrices(p["mh"]).g, matrices(p["mw"]).g
        u = np.einsum("ai,bj,ijco->abco", gh, gw, constants[1].astype(np.float64), optimize=True)
        lanes = ISAS[w.isa].lanes
        vectors, nb = ceil_of(s.oc, lanes), p["nb"]
        padded = np.zeros((len(gh) * len(gw), s.ic, vectors * lanes), np.float32)
        padded[:, :, :s.oc] = u.reshape(-1, s.ic, s.oc)
        blocks = [padded[:, :, b * nb * lanes:(b + 1) * nb * lanes].ravel() for b in range(ceil_of(vectors, nb))]
        packed = [np.concatenate(blocks)]
        if len(w.inputs) > 2 and w.inputs[2] is not None and w.constant[2]:
            packed.append(np.ascontiguousarray(constants[2], np.float32))
        return tuple(packed)
