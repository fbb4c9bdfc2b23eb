"""Pointwise functions between 8-bit tensors as lookup tables of 256 codes (templates/lookup.c)."""

from __future__ import annotations

from temper.compile.cc import ISAS
from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cpu.direct import Direct
from temper.tactics.cpu.render import template_text
from temper.tactics.cpu.source import c_dim, defines
from temper.tactics.geometry import typical_count

#: cycles per register of 4 * lanes bytes: a comparison and a shuffle for each row of the table
_CYCLES = 34


class Lookup(Direct):
    """One pass over the bytes."""

    name = "cpu.lookup"
    ops = frozenset({"Lookup"})

    def declines(self, w: Workload) -> str | None:
        return None

    def predict(self, w: Workload, params: Params) -> float:
        lanes = ISAS[w.isa].lanes
        cycles = _CYCLES / (4 * lanes) if lanes > 4 else 1.5
        return 3e-7 + typical_count(w.outputs[0].type.shape) * cycles / 3.8e9 / w.threads

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        text = defines({"ENTRY": entry, "COUNT": c_dim(w.outputs[0].type.count, w.symbols)})
        source = template_text("vec.h") + text + template_text("lookup.c")
        return Kernel(source, (entry,), (("input", 0), ("input", 1), ("output", 0)), w.symbols)
