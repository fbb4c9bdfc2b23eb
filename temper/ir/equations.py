"""Solves equations between symbolic sizes: one symbol in terms of others, or a divisibility condition."""

from __future__ import annotations

from temper.ir.dims import Dim, DimLike, Opaque, from_data, symbols_of
from temper.ir.symbolic import lower_bound


def isolated(left: DimLike, right: DimLike) -> tuple[str, DimLike] | None:
    """(symbol, size): `left` equals `right` exactly where the symbol has that size, which is positive; None if no
    symbol of inputs can be told apart so.
    """
    difference = left - right
    if not isinstance(difference, Dim):
        return None
    for monomial, c in reversed(list(difference.terms.items())):
        if len(monomial) != 1 or monomial[0][1] != 1 or abs(c) != 1:
            continue
        name = monomial[0][0]
        if not isinstance(difference.atoms[name], str) or from_data(name):
            continue
        size = Dim.symbol(name) - difference * c
        if name not in symbols_of(size) and (lower_bound(size) or 0) > 0:
            return name, size
    return None


def divided(left: DimLike, right: DimLike) -> list[str]:
    """Symbols of inputs inside floor divisions and remainders of the two sizes: as multiples they could cancel."""
    found: set[str] = set()
    for d in (left, right):
        for atom in d.atoms.values() if isinstance(d, Dim) else ():
            if isinstance(atom, Opaque) and atom.fn in ("//", "%"):
                found |= symbols_of(atom.a)
    return sorted(s for s in found if not from_data(s))
