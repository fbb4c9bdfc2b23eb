"""Range and ConstantOfShape (templates/filled.c) of sizes known at run time only; others are constants by now."""

from __future__ import annotations

from temper.ir.dims import Dim, DimLike, symbols_of
from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cpu.direct import Direct
from temper.tactics.cpu.instructions import C_TYPES, literal
from temper.tactics.cpu.render import template_text
from temper.tactics.cpu.source import c_dim, defines


class Filled(Direct):
    """An arithmetic progression; one value repeated is the one that does not progress."""

    name = "cpu.filled"
    ops = frozenset({"Range", "ConstantOfShape"})
    seconds = 2e-10

    def declines(self, w: Workload) -> str | None:
        dtype = w.outputs[0].type.dtype
        return None if dtype in C_TYPES else f"{dtype} has no C form"

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        out = w.outputs[0].type
        ranged = w.op == "Range"
        start = w.attr("start") if ranged else w.attr("value", 0)
        delta = w.attr("delta") if ranged else 0
        names = set(w.symbols) | (symbols_of(start) if isinstance(start, Dim) else frozenset())
        symbols = tuple(sorted(names))

        def number(value: object) -> str:
            if isinstance(value, Dim):
                return c_dim(value, symbols)
            assert isinstance(value, (int, float))
            return literal(value, "float64") if isinstance(value, float) else f"{int(value)}ll"

        exact = not any(isinstance(a, float) for a in (start, delta))
        count: DimLike = out.count
        text = defines(
            {
                "ENTRY": entry,
                "T": C_TYPES[out.dtype],
                "A": "int64_t" if exact else "double",
                "START": number(start),
                "DELTA": number(delta),
                "COUNT": c_dim(count, symbols),
            }
        )
        source = template_text("vec.h") + text + template_text("filled.c")
        return Kernel(source, (entry,), (("output", 0),), symbols)
