"""The kernel type of CUDA tactics: Triton source and launch grids, in addition to what every `Kernel` has."""

from __future__ import annotations

from dataclasses import dataclass, replace

from temper.compile.triton import TritonSource
from temper.ir.dims import Dim, DimLike, Opaque
from temper.tactics.base import Kernel


@dataclass(frozen=True)
class TritonKernel(Kernel):
    """Entries called as entry(pointers of `args`.., int32 `symbols`.., null scratch pointers..).

    triton: the first entry's source as the compiler takes it; then: those of the others. Each is compiled on its own
    and launched on its own grid (`grid`, `later`), after all blocks of the one before it are done.
    """

    triton: TritonSource = TritonSource("", "", ())
    then: tuple[TritonSource, ...] = ()

    @property
    def sources(self) -> tuple[TritonSource, ...]:
        return (self.triton, *self.then)

    @property
    def grids(self) -> tuple[DimLike, ...]:
        return (self.grid, *self.later)

    @property
    def code(self) -> str:
        plain = [replace(s, text="", aligned=frozenset()) for s in self.sources]
        return "\n".join(
            f"{s.text}\n# {p} {sorted(s.aligned)}{' late' * s.late}{' chained' * s.chained}"
            + (f" {s.registers}" if s.registers else "")
            for s, p in zip(self.sources, plain, strict=True)
        )

    def __post_init__(self) -> None:
        super().__post_init__()
        made = tuple(s.entry for s in self.sources)
        if made != self.entries or len(self.grids) != len(made):
            raise ValueError(f"entries {self.entries} have sources of {made} and {len(self.grids)} grids")


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
