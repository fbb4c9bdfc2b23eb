"""Strength reduction: a costly elementwise op becomes a cheap one of the same result, or the same within its rounding.

Powers: e^(log) costs about 60 instructions, a product one. Square roots replace powers only where the base cannot be
negative: pow(-inf, 1/2) is inf and pow(-0, 1/2) is 0, which a root does not give. Divisors are replaced where the
reciprocal is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from temper.ir.graph import Graph, Value
from temper.ir.ops import make
from temper.passes.rewrite import Any_, Const, Match, Rule, op, rules_pass

_X, _C = Any_("x"), Const("c")
_WIDE = ("float32", "float64")

#: Ops whose results are never negative, nor -0; NaN may come.
_POSITIVE = frozenset({"Abs", "Exp", "Sigmoid", "Softmax", "ReduceL1", "ReduceL2", "ReduceSumSquare"})

#: Ops of one operand whose results are never negative where the operand is not.
_KEEPING = frozenset({"ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "Reshape", "Transpose", "Sqrt", "Identity"})


def non_negative(v: Value, depth: int = 4) -> bool:
    """True if no element of `v` can be negative or -0: squares, magnitudes, exponentials, their sums and means."""
    if v.const is not None:
        return v.const.dtype.kind == "f" and bool(np.all(v.const >= 0) and not np.any(np.signbit(v.const)))
    node = v.producer
    if node is None or depth == 0:
        return False
    inputs = [i for i in node.inputs if i is not None]
    if node.op in _POSITIVE:
        return True
    if node.op == "Mul" and inputs[0] is inputs[1]:
        return True
    if node.op in ("Add", "Mul", "Div", "Max"):
        return all(non_negative(i, depth - 1) for i in inputs)
    if node.op in _KEEPING:
        return non_negative(inputs[0], depth - 1)
    return False


def _square(graph: Graph, m: Match) -> Value:
    """x^2 = x*x, the same number."""
    return make(graph, "Mul", [m["x"], m["x"]]).output


def _cube(graph: Graph, m: Match) -> Value:
    """x^3 = x*x*x, one rounding more."""
    return make(graph, "Mul", [_square(graph, m), m["x"]]).output


def _fourth(graph: Graph, m: Match) -> Value:
    """x^4 = (x*x)*(x*x), one rounding more."""
    y = _square(graph, m)
    return make(graph, "Mul", [y, y]).output


def _first(graph: Graph, m: Match) -> Value:
    """x^1 = x."""
    return m["x"]


def _inverse(graph: Graph, m: Match) -> Value:
    """x^-1 = 1/x, the same number."""
    return make(graph, "Reciprocal", [m["x"]]).output


def _root(graph: Graph, m: Match) -> Value:
    """x^(1/2) = sqrt(x) for x >= 0, the same number."""
    return make(graph, "Sqrt", [m["x"]]).output


def _inverse_root(graph: Graph, m: Match) -> Value:
    """x^(-1/2) = 1/sqrt(x) for x >= 0, one rounding more."""
    return make(graph, "Reciprocal", [_root(graph, m)]).output


def _is_power(exponent: float, *, wide: bool = False, positive: bool = False) -> Callable[[Graph, Match], str | None]:
    """Check that the exponent is exactly this number. wide: the type has digits to spare for a further rounding."""

    def check(graph: Graph, m: Match) -> str | None:
        c, x = m["c"].const, m["x"]
        if c is None or c.size == 0 or not bool(np.all(c == exponent)) or m["c"].type.dtype == "bfloat16":
            return f"the exponent is not {exponent}"
        if x.type.dtype not in (*_WIDE, "float16") or (wide and x.type.dtype not in _WIDE):
            return f"the base is {x.type.dtype}"
        if positive and not non_negative(x):
            return f"{x!r} may be negative"
        return None

    return check


def _exact_reciprocal(graph: Graph, m: Match) -> str | None:
    c = m["c"].const
    if c is None or m["c"].type.dtype not in _WIDE:
        return f"the divisor is {m['c'].type.dtype}"
    mantissa, _ = np.frexp(c)
    tiny = np.finfo(c.dtype).tiny
    with np.errstate(all="ignore"):
        exact = (np.abs(mantissa) == 0.5) & (np.abs(c) >= tiny) & (np.abs(1 / c) >= tiny)
    return None if exact.all() else "the divisor's reciprocal is not exact"


def _times(graph: Graph, m: Match) -> Value:
    """x / c = x * (1/c) where c is a power of two: the same number."""
    c = m["c"].const
    assert c is not None
    return make(graph, "Mul", [m["x"], graph.add_constant(np.asarray(1 / c, c.dtype), m["c"].name)]).output


_POW = op("Pow", _X, _C)

STRENGTH_RULES: Sequence[Rule] = (
    Rule("power-1", _POW, _first, _is_power(1.0)),
    Rule("power-2", _POW, _square, _is_power(2.0)),
    Rule("power-3", _POW, _cube, _is_power(3.0, wide=True)),
    Rule("power-4", _POW, _fourth, _is_power(4.0, wide=True)),
    Rule("power-inverse", _POW, _inverse, _is_power(-1.0)),
    Rule("power-root", _POW, _root, _is_power(0.5, positive=True)),
    Rule("power-inverse-root", _POW, _inverse_root, _is_power(-0.5, wide=True, positive=True)),
    Rule("divide-by-power-of-two", op("Div", _X, _C), _times, _exact_reciprocal),
)
STRENGTH = rules_pass("strength", STRENGTH_RULES)
