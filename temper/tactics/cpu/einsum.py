"""Einsum straight from its definition (templates/einsum.c): what is not lowered to a matrix product.

Diagonals, float64 and integers, also in MatMul, which is an Einsum; and products whose number of columns is known at
run time only. Repeated labels need nothing special: their strides add.
"""

from __future__ import annotations

from temper.ir.dims import Dim, DimLike, product
from temper.ir.opdef import AttrValue
from temper.ir.ops.contraction import einsum_terms
from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cpu.direct import Direct, array_c
from temper.tactics.cpu.instructions import C_TYPES
from temper.tactics.cpu.render import template_text
from temper.tactics.cpu.source import c_dim, defines
from temper.tactics.geometry import typical_count


class Einsum(Direct):
    """One output element at a time, its products added in the order of the labels."""

    name = "cpu.einsum"
    ops = frozenset({"Einsum", "MatMul"})

    def declines(self, w: Workload) -> str | None:
        dtype = w.outputs[0].type.dtype
        if w.op == "MatMul" and any(s is None or s.type.rank < 2 for s in w.inputs):
            return "leaves products of vectors to other kernels"
        if w.op == "MatMul" and dtype == "float32" and not isinstance(w.outputs[0].type.shape[-1], Dim):
            return "leaves products of float32 with a known number of columns to other kernels"
        return None if dtype in C_TYPES and dtype != "bool" else f"{dtype} has no C form"

    def predict(self, w: Workload, params: Params) -> float:
        sizes, _, _ = _terms(w)
        return 1e-6 + typical_count(tuple(sizes.values())) * len(w.inputs) * 1e-9 / w.threads

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        sizes, operands, out = _terms(w)
        summed = [x for x in sizes if x not in out]
        strides = [_strides(s.type.shape, labels) for s, labels in zip(w.inputs, operands, strict=True) if s]
        names = [*out, *summed]

        def dims(values: list[DimLike]) -> list[str]:
            return [c_dim(d, w.symbols) for d in values] or ["1"]

        text = defines(
            {
                "ENTRY": entry,
                "T": C_TYPES[w.outputs[0].type.dtype],
                "A": "double" if w.outputs[0].type.dtype.startswith("float") else "uint64_t",
                "OPERANDS": len(strides),
                "KEPT": len(out),
                "LABELS": len(names),
                "SIZES": array_c(dims([sizes[x] for x in names])),
                "STRIDES": array_c([array_c(dims([s.get(x, 0) for x in names])) for s in strides]),
                "OUTPUTS": c_dim(w.outputs[0].type.count, w.symbols),
                "TERMS": c_dim(product(tuple(sizes[x] for x in summed)), w.symbols),
            }
        )
        args = (*(("input", i) for i in range(len(strides))), ("output", 0))
        return Kernel(template_text("vec.h") + text + template_text("einsum.c"), (entry,), args, w.symbols)


def _terms(w: Workload) -> tuple[dict[str, DimLike], list[list[str]], list[str]]:
    attrs: dict[str, AttrValue] = dict(w.attrs)
    if w.op == "MatMul":
        left, right = "ji" if w.attr("transA", 0) else "ij", "kj" if w.attr("transB", 0) else "jk"
        attrs = {"equation": f"...{left},...{right}->...ik"}
    return einsum_terms([None if s is None else s.type for s in w.inputs], attrs)


def _strides(shape: tuple[DimLike, ...], labels: list[str]) -> dict[str, DimLike]:
    """Elements from one index of a label to the next; 0 where an axis of size 1 is broadcast."""
    out: dict[str, DimLike] = {}
    for a, label in enumerate(labels):
        if shape[a] != 1:
            out[label] = product(shape[a + 1 :]) + out.get(label, 0)
    return out
