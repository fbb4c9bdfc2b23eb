"""Symbolic dimensions: integers built from named variables (batch, height ...) by + - * // % min max.

A dimension is a plain `int` wherever its value is known, and a `Dim` otherwise. `Dim` keeps a canonical polynomial, so
that two expressions that are equal after expansion compare equal; floor division, modulo, min and max are opaque atoms.

A symbol whose name starts with an underscore is a size that depends on data: some step finds it while the model runs
(`Graph.binders`), and it may be 0. All other symbols are bound by the sizes of inputs, and count as at least 1.
"""

from __future__ import annotations

import ast
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Union

Atom = Union[str, "Opaque"]
Monomial = tuple[tuple[str, int], ...]  # ((printed atom, power), ...) sorted

_OPAQUE: Mapping[str, Callable[[int, int], int]] = {
    "//": lambda a, b: a // b,
    "%": lambda a, b: a % b,
    "min": min,
    "max": max,
}


@dataclass(frozen=True)
class Opaque:
    """An atom that does not expand: `a // b`, `a % b`, `min(a, b)`, `max(a, b)`."""

    fn: str
    a: DimLike
    b: DimLike

    def __str__(self) -> str:
        return f"{self.fn}({self.a}, {self.b})" if self.fn in ("min", "max") else f"(({self.a}) {self.fn} ({self.b}))"


class Dim:
    """A symbolic integer; immutable, hashable, equal to another by canonical form."""

    def __init__(self, terms: Mapping[Monomial, int], atoms: Mapping[str, Atom]) -> None:
        self.terms = {m: c for m, c in sorted(terms.items()) if c}
        used = {a for m in self.terms for a, _ in m}
        self.atoms = {k: atoms[k] for k in sorted(used)}

    @staticmethod
    def symbol(name: str) -> Dim:
        if not name.isidentifier():
            raise ValueError(f"a dimension's name must be an identifier, not {name!r}")
        return Dim({((name, 1),): 1}, {name: name})

    @cached_property
    def _text(self) -> str:
        parts = []
        for monomial, c in self.terms.items():
            factors = [a for a, power in monomial for _ in range(power)]
            parts.append("*".join(([str(c)] if c != 1 or not factors else []) + factors))
        return " + ".join(parts) or "0"

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"Dim({self._text})"

    def __hash__(self) -> int:
        return hash(self._text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dim) and self._text == other._text

    def __add__(self, other: DimLike) -> DimLike:
        o = _lift(other)
        terms = dict(self.terms)
        for m, c in o.terms.items():
            terms[m] = terms.get(m, 0) + c
        return _lower(Dim(terms, {**self.atoms, **o.atoms}))

    __radd__ = __add__

    def __neg__(self) -> DimLike:
        return self * -1

    def __sub__(self, other: DimLike) -> DimLike:
        return self + (other * -1)

    def __rsub__(self, other: DimLike) -> DimLike:
        return (self * -1) + other

    def __mul__(self, other: DimLike) -> DimLike:
        o = _lift(other)
        terms: dict[Monomial, int] = {}
        for m1, c1 in self.terms.items():
            for m2, c2 in o.terms.items():
                powers: dict[str, int] = {}
                for a, p in (*m1, *m2):
                    powers[a] = powers.get(a, 0) + p
                m = tuple(sorted(powers.items()))
                terms[m] = terms.get(m, 0) + c1 * c2
        return _lower(Dim(terms, {**self.atoms, **o.atoms}))

    __rmul__ = __mul__

    def _apart(self, by: int) -> tuple[Dim, int] | None:
        """(whole, rest) with self = whole * by + rest where `by` divides every coefficient but the constant."""
        rest = self.terms.get((), 0) % by
        if any(c % by for m, c in self.terms.items() if m):
            return None
        terms = {m: (c - (rest if not m else 0)) // by for m, c in self.terms.items()}
        return Dim(terms, self.atoms), rest

    def __floordiv__(self, other: DimLike) -> DimLike:
        if self == other:
            return 1
        if isinstance(other, int) and other > 0 and (apart := self._apart(other)) is not None:
            return _lower(apart[0])  # floor(by * whole + rest, by) = whole as 0 <= rest < by
        if isinstance(other, Dim) and (exact := self._quotient(other)) is not None:
            return exact
        return opaque("//", self, other)

    def _quotient(self, other: Dim) -> DimLike | None:
        """The polynomial that times `other` is this one; None if there is none with whole coefficients.

        Long division: the leading terms of the quotient are found one after the other, in one order of monomials.
        """
        names = sorted({*self.atoms, *other.atoms})

        def order(m: Monomial) -> tuple[int, ...]:
            powers = dict(m)
            return (sum(powers.values()), *(powers.get(a, 0) for a in names))

        lead = max(other.terms, key=order)
        rest, found = dict(self.terms), dict[Monomial, int]()
        while rest:
            m = max(rest, key=order)
            powers = dict(m)
            for a, p in lead:
                powers[a] = powers.get(a, 0) - p
            if min(powers.values(), default=0) < 0 or rest[m] % other.terms[lead]:
                return None
            term, c = tuple(sorted((a, p) for a, p in powers.items() if p)), rest[m] // other.terms[lead]
            found[term] = c
            for by, factor in other.terms.items():
                raised = dict(term)
                for a, p in by:
                    raised[a] = raised.get(a, 0) + p
                at = tuple(sorted(raised.items()))
                rest[at] = rest.get(at, 0) - c * factor
            rest = {k: v for k, v in rest.items() if v}
        return _lower(Dim(found, {**self.atoms, **other.atoms}))

    def __rfloordiv__(self, other: DimLike) -> DimLike:
        return opaque("//", other, self)

    def __mod__(self, other: DimLike) -> DimLike:
        if self == other:
            return 0
        if isinstance(other, int) and other > 0 and (apart := self._apart(other)) is not None:
            return apart[1]
        return opaque("%", self, other)

    def __rmod__(self, other: DimLike) -> DimLike:
        return opaque("%", other, self)

    @property
    def symbols(self) -> frozenset[str]:
        """Names of the variables this dimension depends on."""
        out: set[str] = set()
        for atom in self.atoms.values():
            out |= {atom} if isinstance(atom, str) else symbols_of(atom.a) | symbols_of(atom.b)
        return frozenset(out)

    def evaluate(self, env: Mapping[str, int]) -> int:
        """The value with every symbol bound; KeyError names an unbound one."""

        def atom(a: Atom) -> int:
            return env[a] if isinstance(a, str) else _OPAQUE[a.fn](evaluate(a.a, env), evaluate(a.b, env))

        total = 0
        for m, c in self.terms.items():
            for a, p in m:
                c *= atom(self.atoms[a]) ** p
            total += c
        return total


DimLike = int | Dim


def _lift(d: DimLike) -> Dim:
    return d if isinstance(d, Dim) else Dim({(): int(d)} if d else {}, {})


def _lower(d: Dim) -> DimLike:
    if not d.terms:
        return 0
    if set(d.terms) == {()}:
        return d.terms[()]
    return d


def opaque(fn: str, a: DimLike, b: DimLike) -> DimLike:
    """`a fn b` for fn in `//  %  min  max`; folded when both sides are integers."""
    if isinstance(a, int) and isinstance(b, int):
        return _OPAQUE[fn](a, b)
    if fn in ("min", "max") and a == b:
        return a
    o = Opaque(fn, a, b)
    return Dim({((str(o), 1),): 1}, {str(o): o})


def ceil_div(a: DimLike, b: DimLike) -> DimLike:
    """Ceiling of a / b for positive b."""
    return (a + b - 1) // b


def evaluate(d: DimLike, env: Mapping[str, int]) -> int:
    """Value of an int or a `Dim` under `env`."""
    return d.evaluate(env) if isinstance(d, Dim) else int(d)


def substitute(d: DimLike, values: Mapping[str, DimLike]) -> DimLike:
    """`d` with atoms replaced: symbols by name, opaque atoms by their text (looked up before their parts are)."""
    if not isinstance(d, Dim):
        return d
    found: dict[str, DimLike] = {}
    for text, atom in d.atoms.items():
        if text in values:
            found[text] = values[text]
        elif isinstance(atom, Opaque):
            a, b = substitute(atom.a, values), substitute(atom.b, values)
            found[text] = a // b if atom.fn == "//" else a % b if atom.fn == "%" else opaque(atom.fn, a, b)
    total: DimLike = 0
    for monomial, c in d.terms.items():
        part: DimLike = c
        for text, power in monomial:
            for _ in range(power):
                part = (found[text] if text in found else Dim({((text, 1),): 1}, {text: d.atoms[text]})) * part
        total = part + total
    return total


def solved(d: Dim, value: int) -> tuple[str, int] | None:
    """(symbol, its value) where `d` is `a * symbol + b` and has this value for a whole number; None otherwise."""
    varying = [m for m in d.terms if m]
    if len(varying) != 1 or len(varying[0]) != 1 or varying[0][0][1] != 1:
        return None
    name, a, rest = varying[0][0][0], d.terms[varying[0]], value - d.terms.get((), 0)
    return (name, rest // a) if isinstance(d.atoms[name], str) and rest % a == 0 else None


def symbols_of(d: DimLike) -> frozenset[str]:
    """Names an int or a `Dim` depends on."""
    return d.symbols if isinstance(d, Dim) else frozenset()


def from_data(symbol: str) -> bool:
    """True for a symbol that a step binds while the model runs, as against one that the inputs' sizes bind."""
    return symbol.startswith("_")


def data_symbols(*dims: DimLike) -> frozenset[str]:
    """The symbols of several dimensions that depend on data."""
    return frozenset(s for d in dims if isinstance(d, Dim) for s in d.symbols if from_data(s))


def product(dims: tuple[DimLike, ...]) -> DimLike:
    """Product of dimensions; 1 for none."""
    out: DimLike = 1
    for d in dims:
        out = d * out
    return out


#: CPython 3.11 counts the depth of a syntax tree for all threads together, and fails where two parse at once
#: (python/cpython#106905).
_PARSING = threading.Lock()


def parse_dim(text: str, named: Callable[[str], DimLike] = Dim.symbol) -> DimLike:
    """Inverse of `str(dim)`, with `named` giving a name's dimension.

    ValueError on anything but integers, names, + - * // % min max.
    """

    def walk(n: ast.AST) -> DimLike:
        if isinstance(n, ast.Expression):
            return walk(n.body)
        if isinstance(n, ast.Constant) and type(n.value) is int:
            return n.value
        if isinstance(n, ast.Name):
            return named(n.id)
        if isinstance(n, ast.UnaryOp) and isinstance(n.op, ast.USub):
            return walk(n.operand) * -1
        if isinstance(n, ast.BinOp):
            a, b = walk(n.left), walk(n.right)
            if isinstance(n.op, ast.Add):
                return a + b
            if isinstance(n.op, ast.Sub):
                return a - b
            if isinstance(n.op, ast.Mult):
                return a * b
            if isinstance(n.op, ast.FloorDiv):
                return a // b
            if isinstance(n.op, ast.Mod):
                return a % b
        if (
            isinstance(n, ast.Call)
            and isinstance(n.func, ast.Name)
            and n.func.id in ("min", "max")
            and len(n.args) == 2
        ):
            return opaque(n.func.id, walk(n.args[0]), walk(n.args[1]))
        raise ValueError(f"not a dimension expression: {text!r}")

    try:
        with _PARSING:
            tree = ast.parse(text.strip(), mode="eval")
        return walk(tree)
    except SyntaxError as e:
        raise ValueError(f"not a dimension expression: {text!r}") from e
