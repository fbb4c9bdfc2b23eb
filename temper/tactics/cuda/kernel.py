"""What a CUDA tactic generates: Triton source and its launch grid, besides what every kernel states."""

from __future__ import annotations

from dataclasses import dataclass

from temper.compile.triton import TritonSource
from temper.ir.dims import Dim, DimLike, Opaque
from temper.tactics.base import Kernel


@dataclass(frozen=True)
class TritonKernel(Kernel):
    """A kernel of one entry, called as entry(pointers of `args`.., int32 `symbols`.., null scratch pointers..).

    triton: the source as the compiler takes it.
    """

    triton: TritonSource = TritonSource("", "", ())


def dim_text(d: DimLike) -> str:
    """Triton expression of a dimension; symbol S is the parameter dim_S. No operand is negative: `//` may truncate."""
    if not isinstance(d, Dim):
        return str(int(d))
    terms = []
    for monomial, coefficient in d.terms.items():
        factors = [] if coefficient == 1 and monomial else [str(coefficient)]
        for name, power in monomial:
            atom = d.atoms[name]
            factors += [_opaque_text(atom) if isinstance(atom, Opaque) else f"dim_{atom}"] * power
        terms.append(" * ".join(factors))
    return " + ".join(terms) or "0"


def _opaque_text(o: Opaque) -> str:
    a, b = dim_text(o.a), dim_text(o.b)
    if o.fn in ("min", "max"):
        return f"tl.{o.fn}imum({a}, {b})"
    return f"(({a}) {o.fn} ({b}))"
