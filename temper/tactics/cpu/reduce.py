"""Reductions over any axes of float32 (templates/reduce.c), and the position of an extreme along one axis (argmax.c).

Axes are collapsed to alternating kept and reduced ones. Work is split over outputs only, so the order of additions
depends on the shape alone. Bound by reading the input: 64 bytes a cycle from L1, 30-40 from L2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from temper.compile.cc import ISAS
from temper.ir.dims import Dim, product
from temper.tactics.base import ArgRef, Kernel, Params, Workload
from temper.tactics.cpu.instructions import C_TYPES
from temper.tactics.cpu.render import anchor_declines, epilogue_args, epilogue_c, template_text, workload_epilogue_c
from temper.tactics.cpu.source import c_dim, defines, identity_epilogue_c
from temper.tactics.geometry import Axis, collapse_axes, reduced_axes, strides_of, typical_count

#: Kind of accumulation, and how the result follows from the total `t`, the shift `s` and the element count ELEMENTS.
_KINDS: Mapping[str, tuple[str, str]] = {
    "ReduceSum": ("SUM", "(t)"),
    "ReduceMean": ("SUM", "((t) / splat((float)(ELEMENTS)))"),
    "ReduceMax": ("MAX", "(t)"),
    "ReduceMin": ("MIN", "(t)"),
    "ReduceProd": ("PROD", "(t)"),
    "ReduceL1": ("ABS_SUM", "(t)"),
    "ReduceL2": ("SQUARE_SUM", "v_sqrt(t)"),
    "ReduceSumSquare": ("SQUARE_SUM", "(t)"),
    "ReduceLogSum": ("SUM", "v_log(t)"),
    "ReduceLogSumExp": ("EXP_SUM", "(v_log(t) + (s))"),
}


def origin_c(axes: Sequence[Axis], symbols: tuple[str, ...]) -> str:
    """C function: input offset of kept index u, the last kept axis varying fastest."""
    lines = ["INLINE int64_t origin(int64_t u, const int64_t *v) {", "  int64_t at = 0;"]
    for a in reversed(axes):
        size = c_dim(a.size, symbols)
        lines.append(f"  at += u % {size} * {c_dim(a.stride, symbols)}; u /= {size};")
    return "\n".join([*lines, "  (void)u; (void)v;", "  return at;", "}", ""])


def nest_c(axes: Sequence[Axis], symbols: tuple[str, ...]) -> str:
    """The value of NEST(at, ...): loops over the outer reduced axes."""
    loops = " ".join(f"for (int64_t i{k} = 0; i{k} < {c_dim(a.size, symbols)}; i{k}++)" for k, a in enumerate(axes))
    offset = " + ".join(["0", *(f"i{k} * {c_dim(a.stride, symbols)}" for k, a in enumerate(axes))])
    return f"{loops} {{ const int64_t at = {offset}; __VA_ARGS__ }}"


class Reduce:
    """ReduceSum, Mean, Max, Min, Prod, L1, L2, SumSquare, LogSum and LogSumExp of float32."""

    name = "cpu.reduce"
    ops = frozenset(_KINDS)

    def accepts(self, w: Workload) -> str | None:
        if w.op not in _KINDS:
            return f"computes {', '.join(_KINDS)}, not {w.op}"
        if w.isa not in ISAS:
            return f"no such CPU level: {w.isa}"
        x = w.inputs[0] if w.inputs else None
        if x is None or x.type.rank == 0:
            return "a reduction needs an input with axes"
        if {x.type.dtype, w.outputs[0].type.dtype} != {"float32"}:
            return f"computes float32 only, not {x.type.dtype}"
        ranged = any(isinstance(d, Dim) for d in w.outputs[0].type.shape[-1:])
        if ranged and (w.epilogue.instrs or len(w.epilogue.operands) > 1):
            return "an epilogue needs the output's last axis to be known at build time"
        return anchor_declines(w.epilogue)

    def candidates(self, w: Workload) -> Sequence[Params]:
        x = w.inputs[0]
        assert x is not None
        last = x.type.shape[-1]
        if x.type.rank - 1 in reduced_axes(w) or not isinstance(last, int):
            return [(("cb", 1),)]
        vectors = max(1, -(-last // ISAS[w.isa].lanes))
        most = 4 if ISAS[w.isa].registers > 16 else 2
        return sorted({(("cb", min(cb, vectors)),) for cb in (1, 2, most)}, key=lambda p: self.predict(w, p))

    def predict(self, w: Workload, params: Params) -> float:
        x = w.inputs[0]
        assert x is not None
        count = typical_count(x.type.shape)
        cost = 10.0 if w.op == "ReduceLogSumExp" else 1.0
        cb = dict(params)["cb"]
        return 5e-7 + count * 4 * (cost + 0.2 / cb) / 30e9 / w.threads

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        axes = collapse_axes(w, reduced_axes(w))
        symbols = w.symbols
        out = w.outputs[0]
        kind, finish = _KINDS[w.op]
        keep_inner = not axes[-1].reduced
        kept = [a for a in axes if not a.reduced]
        reduced = [a for a in axes if a.reduced]
        outer, inner = (reduced[:-1], reduced[-1]) if reduced else ([], Axis(1, 0, True))
        shape = out.type.shape
        last = shape[-1] if shape else 1
        width = axes[-1].size if keep_inner else 1
        rows = product(tuple(a.size for a in kept[:-1])) if keep_inner else product(tuple(a.size for a in kept))
        args: tuple[ArgRef, ...] = (("input", 0), ("output", 0), *epilogue_args(w.epilogue))
        text = defines(
            {
                "ENTRY": entry,
                "KEEP_INNER": int(keep_inner),
                "KIND": kind,
                "FINISH(t, s)": finish,
                "ELEMENTS": c_dim(product(tuple(a.size for a in reduced)), symbols),
                "COUNT": c_dim(inner.size, symbols),
                "STEP": c_dim(inner.stride, symbols),
                "WIDTH": c_dim(width, symbols),
                "OUTPUTS": c_dim(rows, symbols),
                "OLD": c_dim(out.row_stride or last, symbols),
                "LAST": c_dim(last, symbols),
                "PIXELS": c_dim(product(shape[1:-1]) if len(shape) > 1 else 1, symbols),
                "CB": dict(params)["cb"],
                "NEST(at, ...)": nest_c(outer, symbols),
            }
        )
        origin = origin_c(kept[:-1] if keep_inner else kept, symbols)
        source = template_text("vec.h", "vmath.h") + _epilogue(w) + text + origin + template_text("reduce.c")
        return Kernel(source, (entry,), args, symbols)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()


def _epilogue(w: Workload) -> str:
    """The epilogue of a workload whose output may be a scalar or have a run-time last axis."""
    if any(isinstance(d, Dim) for d in w.outputs[0].type.shape[-1:]):
        return identity_epilogue_c()
    if w.outputs[0].type.shape:
        return workload_epilogue_c(w, 2)
    return epilogue_c(w.epilogue, first_arg=2, channels=1)


class ArgExtreme:
    """ArgMax and ArgMin along one axis, of any numeric type; NaN counts as the extreme, as in numpy."""

    name = "cpu.arg_extreme"
    ops = frozenset({"ArgMax", "ArgMin"})

    def accepts(self, w: Workload) -> str | None:
        if w.op not in ("ArgMax", "ArgMin"):
            return f"computes ArgMax and ArgMin, not {w.op}"
        if w.isa not in ISAS:
            return f"no such CPU level: {w.isa}"
        x = w.inputs[0] if w.inputs else None
        if x is None or x.type.rank == 0 or x.type.dtype not in C_TYPES:
            return "the input must have axes and a type C has"
        if w.epilogue.instrs or len(w.outputs) != 1:
            return "stores positions only: no epilogue"
        if w.outputs[0].row_stride is not None:
            return "the output must be dense"
        return None

    def candidates(self, w: Workload) -> Sequence[Params]:
        return [()]

    def predict(self, w: Workload, params: Params) -> float:
        x = w.inputs[0]
        assert x is not None
        count = typical_count(x.type.shape)
        return 5e-7 + count * 1e-9 / w.threads

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        x = w.inputs[0]
        assert x is not None
        shape, symbols = x.type.shape, w.symbols
        axis = int(w.attr("axis", 0)) % len(shape)  # type: ignore[arg-type]
        strides = strides_of(shape, (True,) * len(shape), x.row_stride)
        kept = [Axis(d, s, False) for i, (d, s) in enumerate(zip(shape, strides, strict=True)) if i != axis]
        text = defines(
            {
                "ENTRY": entry,
                "TYPE": C_TYPES[x.type.dtype],
                "BETTER": ">" if w.op == "ArgMax" else "<",
                "LAST_INDEX": str(w.attr("select_last_index", 0)),
                "COUNT": c_dim(shape[axis], symbols),
                "STEP": c_dim(strides[axis], symbols),
                "OUTPUTS": c_dim(product(tuple(a.size for a in kept)), symbols),
            }
        )
        source = template_text("vec.h") + text + origin_c(kept, symbols) + template_text("argmax.c")
        return Kernel(source, (entry,), (("input", 0), ("output", 0)), symbols)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()
