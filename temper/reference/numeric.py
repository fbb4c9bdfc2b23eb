"""Number formats and special functions shared by the references: widening, rounding, saturation, erf."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from temper.dtypes import storage
from temper.reference.formats import bfloat16_to_float32 as bfloat16_to_float32
from temper.reference.formats import float32_to_bfloat16 as float32_to_bfloat16
from temper.reference.formats import range_of

Arrays = Sequence["np.ndarray | None"]
Attrs = Mapping[str, Any]
ReferenceFn = Callable[[Arrays, Attrs], list[np.ndarray]]


def widen(x: np.ndarray) -> np.ndarray:
    """Real floats as float64, everything else unchanged."""
    return x.astype(np.float64) if x.dtype.kind == "f" else x


def present(arrays: Arrays) -> list[np.ndarray]:
    """The operands, without trailing or inner absent ones."""
    return [a for a in arrays if a is not None]


def rounded_once(fn: Callable[..., np.ndarray]) -> ReferenceFn:
    """Reference that evaluates `fn(*arrays, **attrs)` in float64 and rounds to the first operand's dtype once."""

    def reference(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
        inputs = present(arrays)
        with np.errstate(all="ignore"):
            return [np.asarray(fn(*map(widen, inputs), **attrs)).astype(inputs[0].dtype, copy=False)]

    return reference


def exact(fn: Callable[..., np.ndarray]) -> ReferenceFn:
    """Reference that evaluates `fn(*arrays, **attrs)` in the operands' own dtype."""

    def reference(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
        with np.errstate(all="ignore"):
            return [np.asarray(fn(*present(arrays), **attrs))]

    return reference


def saturate(x: np.ndarray, dtype: str) -> np.ndarray:
    """Whole-valued floats clipped to an integer type's range; NaN becomes the lowest value."""
    low, high = range_of(dtype)
    with np.errstate(all="ignore"):
        return np.where(np.isnan(x), low, np.clip(x, low, high)).astype(storage(dtype))


def _polynomial(x: np.ndarray, coefficients: Sequence[float]) -> np.ndarray:
    out = np.full_like(x, coefficients[0])
    for c in coefficients[1:]:
        out = out * x + c
    return out


# W. J. Cody, "Rational Chebyshev approximations for the error function", Math. Comp. 23 (1969):
# one rational each for |x| <= 0.46875, <= 4 and > 4.
_ERF_P = (
    1.85777706184603153e-1,
    3.16112374387056560,
    1.13864154151050156e2,
    3.77485237685302021e2,
    3.20937758913846947e3,
)
_ERF_Q = (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3)
_MID_P = (
    2.15311535474403846e-8,
    5.64188496988670089e-1,
    8.88314979438837594,
    6.61191906371416295e1,
    2.98635138197400131e2,
    8.81952221241769090e2,
    1.71204761263407058e3,
    2.05107837782607147e3,
    1.23033935479799725e3,
)
_MID_Q = (
    1.0,
    1.57449261107098347e1,
    1.17693950891312499e2,
    5.37181101862009858e2,
    1.62138957456669019e3,
    3.29079923573345963e3,
    4.36261909014324716e3,
    3.43936767414372164e3,
    1.23033935480374942e3,
)
_FAR_P = (
    1.63153871373020978e-2,
    3.05326634961232344e-1,
    3.60344899949804439e-1,
    1.25781726111229246e-1,
    1.60837851487422766e-2,
    6.58749161529837803e-4,
)
_FAR_Q = (
    1.0,
    2.56852019228982242,
    1.87295284992346725,
    5.27905102951428412e-1,
    6.05183413124413191e-2,
    2.33520497626869185e-3,
)


def _erfc_tail(a: np.ndarray) -> np.ndarray:
    """1 - erf(a) for a >= 0.46875."""
    middle = np.clip(a, 0.46875, 4.0)
    tail = np.exp(-middle * middle) * _polynomial(middle, _MID_P) / _polynomial(middle, _MID_Q)
    far = np.clip(a, 4.0, 30.0)
    inverse = 1.0 / (far * far)
    series = inverse * _polynomial(inverse, _FAR_P) / _polynomial(inverse, _FAR_Q)
    far_tail = np.exp(-far * far) / far * (1.0 / np.sqrt(np.pi) - series)
    return np.where(a <= 4.0, tail, far_tail)


def erf(x: np.ndarray) -> np.ndarray:
    """The error function of float64 values, to about 1e-16 relative."""
    a = np.abs(x)
    square = a * a
    near = x * _polynomial(square, _ERF_P) / _polynomial(square, _ERF_Q)
    outer = np.sign(x) * (1.0 - _erfc_tail(a))
    return np.where(np.isnan(x), x, np.where(a <= 0.46875, near, outer))


def erfc_negative(x: np.ndarray) -> np.ndarray:
    """1 + erf(x), without cancellation for negative x: what Gelu needs in its left tail."""
    return np.where(x < -0.46875, _erfc_tail(np.abs(x)), 1.0 + erf(x))
