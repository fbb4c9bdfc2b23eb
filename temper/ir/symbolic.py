"""Values known while a graph is being built: small tensors of integers and sizes, so that shapes become attributes.

A known value is a typed array, or an object array holding ints, `Dim`s and `Ratio`s. A symbol counts as at
least 1, one that depends on data as at least 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from temper.errors import ShapeError
from temper.ir.dims import Dim, DimLike, ceil_div, from_data, opaque
from temper.ir.graph import Value
from temper.ir.opdef import Attrs, Kind
from temper.ir.ops import TABLE
from temper.ir.types import TensorType
from temper.reference import run
from temper.reference.formats import UNNAMED

#: tensors with more elements are not tracked
LIMIT = 4096

_LARGEST_DENOMINATOR = 4096


class _Unknown(Exception):
    """The value depends on the sizes in a way that dimensions cannot express."""


@dataclass(frozen=True)
class Ratio:
    """num / den, for float arithmetic on sizes (`floor(height * 0.5)`)."""

    num: DimLike
    den: int


Element = int | float | Dim | Ratio


def lower_bound(d: DimLike) -> int | None:
    """A number `d` is never below, None if none is known."""
    if isinstance(d, int):
        return d
    total = 0
    for monomial, c in d.terms.items():
        if c < 0 and monomial:
            return None
        part = c
        for name, power in monomial:
            atom = d.atoms[name]
            least = (0 if from_data(atom) else 1) if isinstance(atom, str) else _opaque_bound(atom.fn, atom.a, atom.b)
            if least is None or least < 0:
                return None
            part *= least**power
        total += part
    return total


def _opaque_bound(fn: str, a: DimLike, b: DimLike) -> int | None:
    x, y = lower_bound(a), lower_bound(b)
    if fn == "max":
        return max((v for v in (x, y) if v is not None), default=None)
    if x is None or y is None:
        return None
    if fn == "min":
        return min(x, y)
    if y <= 0:
        return None
    if fn == "//" and isinstance(b, int):
        return x // b
    return 0 if fn == "%" or x >= 0 else None


def sign_of(d: DimLike) -> int | None:
    """-1, 0 or 1 where the sign is the same for all sizes; None otherwise."""
    if isinstance(d, int):
        return (d > 0) - (d < 0)
    low = lower_bound(d)
    if low is not None and low > 0:
        return 1
    high = lower_bound(-d)
    return -1 if high is not None and high > 0 else None


# ---- element arithmetic ----


def _ratio(x: Element) -> tuple[DimLike, int]:
    if isinstance(x, Ratio):
        return x.num, x.den
    if isinstance(x, (float, np.floating)):
        if not np.isfinite(x):
            raise _Unknown
        f = Fraction(float(x))
        if f.denominator > _LARGEST_DENOMINATOR:
            raise _Unknown
        return f.numerator, f.denominator
    return x, 1


def _reduced(num: DimLike, den: int) -> Element:
    if den == 1:
        return num
    if isinstance(num, int):
        return num // den if num % den == 0 else num / den
    return num // den if num % den == 0 else Ratio(num, den)


def _add(a: Element, b: Element) -> Element:
    (p, q), (r, s) = _ratio(a), _ratio(b)
    return _reduced(p * s + r * q, q * s)


def _mul(a: Element, b: Element) -> Element:
    (p, q), (r, s) = _ratio(a), _ratio(b)
    return _reduced(p * r, q * s)


def _neg(a: Element) -> Element:
    return _mul(a, -1)


def _sub(a: Element, b: Element) -> Element:
    return _add(a, _neg(b))


def _divide_float(a: Element, b: Element) -> Element:
    (p, q), (r, s) = _ratio(a), _ratio(b)
    if isinstance(r, Dim):
        quotient = p // r if p == r or (isinstance(p, Dim) and p % r == 0) else None
        if quotient is None:
            raise _Unknown
        return _reduced(quotient * s, q)
    if r == 0:
        raise _Unknown
    return _reduced(p * s * (1 if r > 0 else -1), q * abs(r))


def _whole(a: Element) -> DimLike:
    if isinstance(a, (Ratio, float, np.floating)):
        raise _Unknown
    return a


def _divide_int(a: Element, b: Element) -> Element:
    """Division truncates; it is floor division where neither side can be negative."""
    x, y = _whole(a), _whole(b)
    if (lower_bound(x) or 0) < 0 or lower_bound(x) is None or not (lower_bound(y) or 0) > 0:
        raise _Unknown
    return x // y


def _mod(a: Element, b: Element) -> Element:
    x, y = _whole(a), _whole(b)
    if lower_bound(x) is None or (lower_bound(x) or 0) < 0 or not (lower_bound(y) or 0) > 0:
        raise _Unknown
    return x % y if isinstance(x, Dim) else opaque("%", x, y)


def _floor(a: Element) -> Element:
    p, q = _ratio(a)
    return p // q


def _ceil(a: Element) -> Element:
    p, q = _ratio(a)
    return ceil_div(p, q)


def _truncate(a: Element) -> Element:
    p, q = _ratio(a)
    if q != 1 and sign_of(p) != 1:
        raise _Unknown
    return p // q


def _extreme(fn: str) -> Callable[[Element, Element], Element]:
    def choose(a: Element, b: Element) -> Element:
        x, y = _whole(a), _whole(b)
        sign = sign_of(x - y)
        if sign is not None:
            return x if (sign >= 0) == (fn == "max") else y
        return opaque(fn, x, y)

    return choose


def _compare(test: Callable[[int], bool]) -> Callable[[Element, Element], Element]:
    def compare(a: Element, b: Element) -> Element:
        (p, q), (r, s) = _ratio(a), _ratio(b)
        sign = sign_of(p * s - r * q)
        if sign is None:
            raise _Unknown
        return test(sign)

    return compare


_UNARY: Mapping[str, Callable[[Element], Element]] = {"Neg": _neg, "Floor": _floor, "Ceil": _ceil}
_BINARY: Mapping[str, Callable[[Element, Element], Element]] = {
    "Add": _add,
    "Sub": _sub,
    "Mul": _mul,
    "Min": _extreme("min"),
    "Max": _extreme("max"),
    "Equal": _compare(lambda s: s == 0),
    "Less": _compare(lambda s: s < 0),
    "LessOrEqual": _compare(lambda s: s <= 0),
    "Greater": _compare(lambda s: s > 0),
    "GreaterOrEqual": _compare(lambda s: s >= 0),
}
_REDUCE: Mapping[str, Callable[[Element, Element], Element]] = {
    "ReduceProd": _mul,
    "ReduceSum": _add,
    "ReduceMin": _extreme("min"),
    "ReduceMax": _extreme("max"),
}
_MOVEMENT = frozenset(
    {
        "Gather",
        "Slice",
        "Concat",
        "Split",
        "Squeeze",
        "Unsqueeze",
        "Reshape",
        "Transpose",
        "Expand",
        "Tile",
        "Identity",
        "Flatten",
        "GatherElements",
        "GatherND",
    }
)
_OTHERS = frozenset(
    {"ScatterND", "ScatterElements", "OneHot", "Trilu", "CumSum", "ReduceMean", "ArgMax", "ArgMin", "TopK"}
)


def _object(values: Any, shape: Sequence[int]) -> np.ndarray:
    out = np.empty(len(values), object)
    out[:] = values
    return out.reshape(tuple(shape))


def _lists(array: np.ndarray) -> np.ndarray:
    """The array with Python numbers as elements."""
    return array if array.dtype == object else _object(array.reshape(-1).tolist(), array.shape)


def settle(array: np.ndarray, dtype: str) -> np.ndarray:
    """An object array of plain numbers becomes a typed one; others stay."""
    if array.dtype == object and dtype != "string" and not any(isinstance(e, (Dim, Ratio)) for e in array.reshape(-1)):
        try:
            return array.astype(np.dtype(dtype))
        except OverflowError:  # an absurd size; as an object it is still exact
            return array
    return array


def _computed(op: str) -> bool:
    """True for ops that cost in proportion to operands and results; padding and windows may take far more."""
    return op in TABLE and (TABLE[op].kind is Kind.ELEMENTWISE or op in _MOVEMENT or op in _REDUCE or op in _OTHERS)


def known_outputs(
    op: str,
    inputs: Sequence[np.ndarray | None],
    types: Sequence[TensorType | None],
    attrs: Attrs,
    results: Sequence[TensorType],
) -> list[np.ndarray | None]:
    """The values of an op's outputs where they follow from known inputs; None where they do not.

    inputs: known values of the operands, None where unknown. ShapeError if constant operands are illegal.
    """
    nothing: list[np.ndarray | None] = [None] * len(results)
    if op == "Shape":
        return _shape(types[0], attrs)
    if op == "Size" and types[0] is not None:
        return [settle(_object([types[0].count], ()), "int64")]
    if any(i is None and t is not None for i, t in zip(inputs, types, strict=True)) or not _computed(op):
        return nothing
    if any(isinstance(r.count, Dim) or r.count > LIMIT or r.dtype in UNNAMED or r.dtype == "string" for r in results):
        return nothing
    if any(t is not None and (t.dtype in UNNAMED or t.dtype == "string") for t in types):
        return nothing
    arrays = [i for i in inputs if i is not None]
    if not arrays or not TABLE[op].deterministic:
        return nothing
    if not any(a.dtype == object for a in arrays):
        return _concrete(op, inputs, attrs, results)
    try:
        found = _symbolic(op, [_lists(a) for a in arrays], inputs, attrs, results)
    except _Unknown:
        return nothing
    except (ValueError, IndexError, ArithmeticError) as e:
        raise ShapeError(f"its constant operands are illegal: {e}") from e
    return nothing if found is None else [settle(f, r.dtype) for f, r in zip(found, results, strict=True)]


def encoded_outputs(
    op: str, inputs: Sequence[Value | None], attrs: Attrs, results: Sequence[TensorType]
) -> list[np.ndarray] | None:
    """An op's outputs from small constants where a type numpy lacks is among them (`known_outputs` knows numbers only).

    Arrays are as constants hold them. None where the op has other operands. ShapeError if constants are illegal.
    """
    types = [v.type for v in inputs if v is not None]
    if not types or not any(t.dtype in UNNAMED for t in (*types, *results)) or not TABLE[op].deterministic:
        return None
    if any(v is not None and v.const is None for v in inputs) or _has_dims(attrs) or not _computed(op):
        return None
    if any(isinstance(t.count, Dim) or t.count > LIMIT or t.dtype == "string" for t in (*types, *results)):
        return None
    arrays = [None if v is None else v.const for v in inputs]
    dtypes = [None if v is None else v.type.dtype for v in inputs]
    try:
        with np.errstate(all="ignore"):
            return run(op, arrays, attrs, dtypes, [r.dtype for r in results])
    except (ValueError, IndexError, ArithmeticError) as e:
        raise ShapeError(f"its constant operands are illegal: {e}") from e


def _shape(t: TensorType | None, attrs: Attrs) -> list[np.ndarray | None]:
    if t is None:
        return [None]
    start, end = attrs.get("start"), attrs.get("end")
    part = t.shape[slice(start if isinstance(start, int) else None, end if isinstance(end, int) else None)]
    return [settle(_object(list(part), (len(part),)), "int64")]


def _has_dims(attrs: Attrs) -> bool:
    return any(isinstance(e, Dim) for v in attrs.values() for e in (v if isinstance(v, tuple) else (v,)))


def _concrete(
    op: str, inputs: Sequence[np.ndarray | None], attrs: Attrs, results: Sequence[TensorType]
) -> list[np.ndarray | None]:
    if _has_dims(attrs):
        return [None] * len(results)
    try:
        with np.errstate(all="ignore"):
            found = TABLE[op].reference(inputs, attrs)
    except (ValueError, IndexError, ArithmeticError) as e:
        raise ShapeError(f"its constant operands are illegal: {e}") from e
    return [np.asarray(f) for f in found]


def _symbolic(
    op: str, arrays: list[np.ndarray], inputs: Sequence[np.ndarray | None], attrs: Attrs, results: Sequence[TensorType]
) -> list[np.ndarray] | None:
    out = results[0]
    floating = out.dtype.startswith(("float", "bfloat"))
    shape = tuple(d for d in out.shape if isinstance(d, int))
    if op in _UNARY:
        return [_object([_UNARY[op](e) for e in arrays[0].reshape(-1)], shape)]
    binary = _BINARY.get(op) or {"Div": _divide_float if floating else _divide_int, "Mod": _mod}.get(op)
    if binary is not None:
        a, b = np.broadcast_arrays(*arrays)
        return [_object([binary(x, y) for x, y in zip(a.reshape(-1), b.reshape(-1), strict=True)], shape)]
    if op == "Cast":
        if out.dtype == "bool":
            raise _Unknown
        return [arrays[0] if floating else _object([_truncate(e) for e in arrays[0].reshape(-1)], shape)]
    if op == "Where":
        if inputs[0] is None or inputs[0].dtype == object:
            raise _Unknown
        c, a, b = np.broadcast_arrays(inputs[0], *arrays[1:])
        return [
            _object([x if k else y for k, x, y in zip(c.reshape(-1), a.reshape(-1), b.reshape(-1), strict=True)], shape)
        ]
    if op in _REDUCE and not attrs.get("noop_with_empty_axes"):
        return [_reduce(_REDUCE[op], arrays[0], attrs.get("axes"), shape)]
    if op in _MOVEMENT and not _has_dims(attrs):
        operands = [i if i is None or (op.startswith("Gather") and k == 1) else _lists(i) for k, i in enumerate(inputs)]
        return [np.asarray(r, object) for r in TABLE[op].reference(operands, attrs)]
    return None


def _reduce(
    fn: Callable[[Element, Element], Element], array: np.ndarray, axes: Any, shape: tuple[int, ...]
) -> np.ndarray:
    chosen = [a % array.ndim for a in axes] if axes else list(range(array.ndim))
    rest = [a for a in range(array.ndim) if a not in chosen]
    rows = array.transpose(rest + chosen)
    rows = rows.reshape((int(np.prod([array.shape[a] for a in rest], dtype=np.int64)), -1))
    if rows.shape[1] == 0:
        raise _Unknown
    out = []
    for row in rows:
        total = row[0]
        for e in row[1:]:
            total = fn(total, e)
        out.append(total)
    return _object(out, shape)
