"""Histogram of |x| for calibration (templates/histogram.c): about 0.4 ns a value on AVX-512."""

from __future__ import annotations

from temper.ir.dims import Dim
from temper.reference.histogram import BINS, LEAST
from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cpu.direct import Direct
from temper.tactics.cpu.render import template_text
from temper.tactics.cpu.source import c_dim, defines

#: Values worth a table of their own, and most tables. Their number fixes the split, whatever the number of threads.
_CHUNK, _CHUNKS = 1 << 15, 8


class Histogram(Direct):
    """Extremes of every chunk, then a table of counts of every chunk, then their sum."""

    name = "cpu.histogram"
    ops = frozenset({"Histogram"})

    def declines(self, w: Workload) -> str | None:
        return None

    def predict(self, w: Workload, params: Params) -> float:
        x = w.inputs[0]
        assert x is not None
        count = x.type.count
        return 1e-5 + 4e-10 * (_CHUNK if isinstance(count, Dim) else count) / w.threads

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        x = w.inputs[0]
        assert x is not None
        count = x.type.count
        chunks = _CHUNKS if isinstance(count, Dim) else min(_CHUNKS, max(1, -(-count // _CHUNK)))
        text = defines(
            {
                "EXTREMES": f"{entry}_extremes",
                "COUNTS": f"{entry}_counts",
                "SUM": f"{entry}_sum",
                "COUNT": c_dim(count, w.symbols),
                "BINS": BINS,
                "BIAS": -LEAST,
                "CHUNKS": chunks,
            }
        )
        entries = (f"{entry}_extremes", f"{entry}_counts", f"{entry}_sum")
        shared = chunks * 4 * (BINS + 16)
        source = template_text("vec.h") + text + template_text("histogram.c")
        return Kernel(source, entries, (("input", 0), ("output", 0), ("shared", 0)), w.symbols, 0, shared)
