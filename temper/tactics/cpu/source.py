"""Pieces of a CPU kernel's C text: dimensions as expressions, and `#define`s."""

from __future__ import annotations

from collections.abc import Mapping

from temper.ir.dims import Dim, DimLike, Opaque


def c_dim(d: DimLike, symbols: tuple[str, ...]) -> str:
    """C expression (int64_t) of a dimension; symbol i of `symbols` is v[i].

    Dimensions are non-negative where kernels use them, so C's truncating `/` and `%` agree with Python's.
    """
    if not isinstance(d, Dim):
        return f"({int(d)})" if int(d) < 0 else str(int(d))
    parts: list[str] = []
    for monomial, coefficient in d.terms.items():
        factors = [] if coefficient == 1 and monomial else [f"((int64_t){coefficient})"]
        for name, power in monomial:
            atom = d.atoms[name]
            text = _opaque(atom, symbols) if isinstance(atom, Opaque) else f"v[{symbols.index(atom)}]"
            factors += [text] * power
        parts.append("*".join(factors))
    return "(" + (" + ".join(parts) or "0") + ")"


def _opaque(o: Opaque, symbols: tuple[str, ...]) -> str:
    a, b = c_dim(o.a, symbols), c_dim(o.b, symbols)
    if o.fn in ("min", "max"):
        return f"({a} {'<' if o.fn == 'min' else '>'} {b} ? {a} : {b})"
    op = "/" if o.fn == "//" else "%"
    return f"({a} {op} {b})"


def identity_epilogue_c() -> str:
    """The empty program behind an anchor, which needs no channel count: the last axis may be a run-time size."""
    return (
        "typedef struct { char none; } epi_t;\n"
        "INLINE void epi_init(epi_t *e, void *const *p) { (void)e; (void)p; }\n"
        "INLINE vf epilogue(vf v0, const epi_t *e, int64_t img, int64_t pix, int64_t c, int n) { return v0; }\n"
    )


def defines(values: Mapping[str, int | str]) -> str:
    """One `#define` a line, in the given order."""
    return "".join(f"#define {name} {value}\n" for name, value in values.items())
