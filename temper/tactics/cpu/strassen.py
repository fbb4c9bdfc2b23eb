"""Float matrix products with a constant right operand by one level of Strassen's algorithm (templates/strassen.c).

Seven products of half the size replace eight, so a product that is bound by its multiply-adds takes 7/8 of their time;
the additions of the left operand and of the results cost 1-3 %. The right operand's sums are made at build: packed
weights grow by 7/4, in the plan and in what passes through the caches, so that few rows are better served by gemm.py.

Error bound. In the norm max |x|, to first order in u = 2^-24, one level on top of ordinary products of n terms errs by
at most (12 ((n/2)^2 + 5 n/2) - 5 n) u |A| |B| (Higham, Accuracy and Stability of Numerical Algorithms, 2nd ed., section
23.2.2) where the ordinary product has n^2 u |A| |B|: three times as much for long sums, `error_factor`. On Gaussian
data the RMS error is 1.4 times the ordinary one's, 1.8 with outlying columns. The bound is normwise: an element of
the result whose own row and column are small beside the paired ones loses relative accuracy, and an infinity or NaN in
one row reaches the paired one. Rows are paired within an image (an index of the first axis, where that is not all
there is), so images do not touch each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from temper.compile.cc import ISAS
from temper.ir.dims import DimLike, ceil_div, product
from temper.tactics.base import ArgRef, Kernel, Params, Workload
from temper.tactics.cpu.gemm import GemmPacked
from temper.tactics.cpu.render import epilogue_args, template_text, workload_epilogue_c
from temper.tactics.cpu.source import c_dim, defines
from temper.tactics.geometry import static

#: Below these the additions and the larger weights cost what the eighth product saves.
_LEAST_ROWS, _LEAST_TERMS = 48, 256

#: Pairs of rows that stand for an unknown number when candidates are ranked.
_TYPICAL_PAIRS = 64

_UNROLL = 4


@dataclass(frozen=True)
class _Shape:
    """A workload's sizes. image: rows of one image, paired i with i + half; vectors: vectors of half the columns."""

    batch: DimLike
    image: DimLike
    k: int
    n: int
    lda: int
    old: int
    lanes: int

    @property
    def half(self) -> DimLike:
        return ceil_div(self.image, 2)

    @property
    def pairs(self) -> DimLike:
        return product((self.batch, self.half))

    @property
    def vectors(self) -> int:
        return self.n // 2 // self.lanes

    @property
    def row(self) -> int:
        """Elements of a row of left factors: an odd number of cache lines, with a vector of slack."""
        return ((self.k // 2 + self.lanes + 15) // 16 | 1) * 16


def _shape(w: Workload) -> _Shape:
    a, out = w.inputs[0], w.outputs[0]
    assert a is not None
    k, n = static(a.type.shape[-1]), static(out.type.shape[-1])
    assert k is not None and n is not None
    lead = a.type.shape[:-1]
    batch, image = lead[0], product(lead[1:])
    if image == 1:
        batch, image = 1, batch
    return _Shape(batch, image, k, n, a.row_stride or k, out.row_stride or n, ISAS[w.isa].lanes)


def _tiles(s: _Shape, registers: int) -> list[tuple[int, int]]:
    """Register tiles (row pairs, vectors) that divide the columns and leave the last rows little to fill."""
    pairs = static(s.pairs) or _TYPICAL_PAIRS
    out: dict[tuple[int, int], None] = {}
    for nb in (4, 3, 2):
        if s.vectors % nb == 0:
            most = min((registers - 1 - nb) // nb, 12)
            fits = sorted(range(max(1, most // 2), most + 1), key=lambda mr: (-(-pairs // mr) * mr, -mr))
            out |= dict.fromkeys((mr, nb) for mr in fits[:2])
    return list(out)


class GemmStrassen:
    """Parameters. mr, nb: register tile in row pairs and vectors; kc: terms of a K block; pt: tiles of a row block."""

    name = "cpu.gemm_strassen"
    ops = frozenset({"MatMul"})
    packing = ("nb", "kc")

    def accepts(self, w: Workload) -> str | None:
        if reason := GemmPacked().accepts(w):
            return reason
        a = w.inputs[0]
        assert a is not None
        rows = static(product(a.type.shape[:-1]))
        if rows is not None and rows < _LEAST_ROWS:
            return f"{rows} rows are too few for larger weights to pay"
        s = _shape(w)
        if s.k % 2 or s.k < _LEAST_TERMS:
            return f"{s.k} terms do not halve, or are too few for the additions to pay"
        if s.n % (2 * s.lanes) or not _tiles(s, ISAS[w.isa].registers):
            return f"{s.n} columns do not halve into register tiles"
        return None

    def error_factor(self, params: Params) -> float:
        """The rounding bound over that of the ordinary product (docstring above)."""
        return 3.0

    def candidates(self, w: Workload) -> Sequence[Params]:
        s = _shape(w)
        pairs, terms = static(s.pairs) or _TYPICAL_PAIRS, s.k // 2
        found: dict[Params, None] = {}
        for mr, nb in _tiles(s, ISAS[w.isa].registers):
            tiles = -(-pairs // mr)
            for most in (512, 768):
                kc = -(-terms // -(-terms // most))
                for wanted in (64, 128):
                    pt = -(-tiles // -(-tiles // -(-wanted // mr)))
                    found[("mr", mr), ("nb", nb), ("kc", kc), ("pt", pt)] = None
        return sorted(found, key=lambda p: self.predict(w, p))

    def predict(self, w: Workload, params: Params) -> float:
        s, p = _shape(w), dict(params)
        pairs, terms = static(s.pairs) or _TYPICAL_PAIRS, s.k // 2
        padded = -(-pairs // p["mr"]) * p["mr"]
        fma = 1.0 if w.isa == "portable" else 0.5
        per_term = max(p["mr"] * p["nb"] * fma, (p["mr"] + p["nb"]) * 0.5, 4.0) / p["mr"] / p["nb"]
        products = 7 * padded * s.vectors * terms * per_term * 1.03
        updates = 12 * padded * s.vectors * -(-terms // p["kc"]) * 1.5
        results = 4 * pairs * s.vectors * (2 + 0.7 * len(w.epilogue.instrs))
        factors = 7 * pairs * terms / s.lanes * 1.5
        blocks = s.vectors // p["nb"]
        share = -(-blocks // w.threads) / blocks
        row_blocks = -(-padded // (p["mr"] * p["pt"]))
        weights = 7 * terms * s.n // 2 * 4
        streams = weights / 20 + (row_blocks - 1) * weights / 48
        cycles = (products + updates + results) * share + factors / w.threads + streams
        return cycles / 3.8e9 + (2e-6 if w.threads > 1 else 0)

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        s, p = _shape(w), dict(params)
        symbols = w.symbols
        args: list[ArgRef] = [("input", 0), ("packed", 0), ("shared", 0), ("workspace", 0), ("output", 0)]
        first = len(args)
        text = defines({
            "ENTRY_SUMS": f"{entry}_sums", "ENTRY": entry, "BATCH": c_dim(s.batch, symbols),
            "IMAGE": c_dim(s.image, symbols), "HALF_M": c_dim(s.half, symbols),
            "IMG_ROWS": c_dim(product(w.outputs[0].type.shape[1:-1]), symbols), "COLS_K": s.k, "COLS_N": s.n,
            "LDA": s.lda, "LDS": s.row, "OLD": s.old, "MR": p["mr"], "NB": p["nb"], "PT": p["pt"], "KC": p["kc"],
            "UK": _UNROLL, "PFL": -(-_UNROLL * p["nb"] * s.lanes * 4 // (64 * p["pt"])),
            "P_A": 0, "P_B": 1, "P_SHARED": 2, "P_WS": 3, "P_OUT": 4,
        })  # fmt: skip
        source = template_text("vec.h", "vmath.h") + text + workload_epilogue_c(w, first) + template_text("strassen.c")
        workspace = 4 * 4 * p["pt"] * p["mr"] * p["nb"] * s.lanes
        factors = ceil_div(s.pairs, p["mr"]) * (4 * 7 * p["mr"] * s.row)
        return Kernel(
            source, (f"{entry}_sums", entry), (*args, *epilogue_args(w.epilogue)), symbols, workspace, factors
        )

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        """The seven right factors, rounded once, as [block][K block][product][term][nb * lanes]."""
        s, p = _shape(w), dict(params)
        b = constants[1].T if w.attr("transB", 0) else constants[1]
        k, n, width = s.k // 2, s.n // 2, p["nb"] * s.lanes
        e, f, g, h = b[:k, :n], b[:k, n:], b[k:, :n], b[k:, n:]
        out = np.empty(7 * k * n, np.float32)
        factors = [x.astype(np.float32) for x in (e + h, e, f - h, g - e, h, e + f, g + h)]
        at = 0
        for j in range(0, n, width):
            for first in range(0, k, p["kc"]):
                rows = slice(first, min(k, first + p["kc"]))
                for x in factors:
                    piece = x[rows, j : j + width]
                    out[at : at + piece.size] = piece.ravel()
                    at += piece.size
        return (out,)


#: Exported for the registry.
