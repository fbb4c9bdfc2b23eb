"""NonZero (templates/positions.c)."""

from __future__ import annotations

from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cpu.direct import Direct, array_c
from temper.tactics.cpu.instructions import C_TYPES
from temper.tactics.cpu.render import template_text
from temper.tactics.cpu.source import defines


class Positions(Direct):
    """One pass over the elements."""

    name = "cpu.positions"
    ops = frozenset({"Positions"})

    def declines(self, w: Workload) -> str | None:
        x = w.inputs[0]
        assert x is not None
        if x.type.dtype not in C_TYPES:
            return f"{x.type.dtype} has no C form"
        return None if x.type.static else "its size is not known at build"

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        x = w.inputs[0]
        assert x is not None
        values: dict[str, int | str] = {"ENTRY": entry, "T": C_TYPES[x.type.dtype], "RANK": x.type.rank}
        sizes = array_c([max(1, int(str(d))) for d in x.type.shape])
        text = defines({**values, "SIZES": sizes, "COUNT": int(str(x.type.count))})
        source = template_text("vec.h") + text + template_text("positions.c")
        return Kernel(source, (entry,), (("input", 0), ("output", 0), ("output", 1)), (), in_place=False)
