"""Reductions over any axes of float64, integers and bool (templates/reduce_typed.c); float32 has its own in vectors."""

from __future__ import annotations

from collections.abc import Mapping

from temper.ir.dims import product
from temper.reference.formats import range_of
from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cpu.direct import Direct
from temper.tactics.cpu.instructions import C_TYPES
from temper.tactics.cpu.reduce import nest_c, origin_c
from temper.tactics.cpu.render import template_text
from temper.tactics.cpu.source import c_dim, defines
from temper.tactics.geometry import Axis, collapse_axes, reduced_axes, typical_count

#: how an element joins the total, and how the result follows from it
_KINDS: Mapping[str, tuple[str, str]] = {
    "ReduceSum": ("(t) + (A)(x)", "(t)"),
    "ReduceMean": ("(t) + (A)(x)", "((double)(T)(t) / (double)(ELEMENTS))"),
    "ReduceMax": ("v_max((T)(t), (T)(x))", "(t)"),
    "ReduceMin": ("v_min((T)(t), (T)(x))", "(t)"),
    "ReduceProd": ("(t) * (A)(x)", "(t)"),
    "ReduceL1": ("(t) + (A)v_abs(x)", "(t)"),
    "ReduceL2": ("(t) + (A)(x) * (A)(x)", "d_sqrt(t)"),
    "ReduceSumSquare": ("(t) + (A)(x) * (A)(x)", "(t)"),
    "ReduceLogSum": ("(t) + (A)(x)", "d_log(t)"),
    "ReduceLogSumExp": ("(t) + d_exp((x) - s)", "(d_log(t) + s)"),
}
#: kinds whose result is not a whole number
_REAL = frozenset({"ReduceL2", "ReduceLogSum", "ReduceLogSumExp"})
_EXTREMES = frozenset({"ReduceMax", "ReduceMin"})


class ReduceTyped(Direct):
    """One pass over the reduced elements of each output (two for LogSumExp), in the order of memory."""

    name = "cpu.reduce_typed"
    ops = frozenset(_KINDS)

    def declines(self, w: Workload) -> str | None:
        x = w.inputs[0]
        if x is None or x.type.rank == 0:
            return "a reduction needs an input with axes"
        dtype = x.type.dtype
        if dtype not in C_TYPES or dtype == "float32":
            return f"computes float64, integers and bool, not {dtype}"
        if dtype == "bool" and w.op not in _EXTREMES:
            return f"{w.op} of bool has no meaning"
        if dtype != "float64" and w.op in _REAL:
            return f"{w.op} of {dtype} is computed in real numbers"
        return None

    def predict(self, w: Workload, params: Params) -> float:
        x = w.inputs[0]
        assert x is not None
        return 1e-6 + typical_count(x.type.shape) * 1e-9 / w.threads

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        x = w.inputs[0]
        assert x is not None
        axes, symbols, dtype = collapse_axes(w, reduced_axes(w)), w.symbols, x.type.dtype
        kept, reduced = [a for a in axes if not a.reduced], [a for a in axes if a.reduced]
        outer, inner = (reduced[:-1], reduced[-1]) if reduced else ([], Axis(1, 0, True))
        add, finish = _KINDS[w.op]
        text = defines(
            {
                "ENTRY": entry,
                "T": C_TYPES[dtype],
                "A": C_TYPES[dtype] if dtype == "float64" or w.op in _EXTREMES else "uint64_t",
                "ADD(t, x)": f"({add})",
                "START": _start(w.op, dtype),
                "FINISH(t)": finish,
                "SHIFTED": int(w.op == "ReduceLogSumExp"),
                "ELEMENTS": c_dim(product(tuple(a.size for a in reduced)), symbols),
                "COUNT": c_dim(inner.size, symbols),
                "STEP": c_dim(inner.stride, symbols),
                "OUTPUTS": c_dim(product(tuple(a.size for a in kept)), symbols),
                "NEST(at, ...)": nest_c(outer, symbols),
            }
        )
        headers = template_text("vec.h", "vmath.h", "rare.h")
        source = headers + text + origin_c(kept, symbols) + template_text("reduce_typed.c")
        return Kernel(source, (entry,), (("input", 0), ("output", 0)), symbols)


def _start(op: str, dtype: str) -> str:
    """C of the total of no element."""
    if op not in _EXTREMES:
        return str(int(op == "ReduceProd"))
    if dtype == "float64":
        return "(-D_INF)" if op == "ReduceMax" else "D_INF"
    low, high = (0, 1) if dtype == "bool" else range_of(dtype)
    if op == "ReduceMin":
        return f"{high}ull" if dtype == "uint64" else f"{high}ll"
    return f"(-{-(low + 1)}ll - 1)" if low < 0 else "0"
