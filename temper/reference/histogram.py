"""Counts of |x| in bins that are a power of two wide: what calibration collects of a tensor.

One int64 vector holds it all: BINS counts, then the fields below. Bins are 2**exponent wide, the narrowest width at
which the largest finite |x| still falls into the last one; values that are not finite are counted apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from temper.reference.numeric import Arrays, Attrs, ReferenceFn, present

#: The largest value lies in the upper half of the bins (unless all are zero or denormal), so that thresholds are
#: searched on at least 4,096 bins however the width came out.
BINS = 8192
#: Positions behind the counts: exponent, number of zeros, bits of the least and the greatest finite float32 value (of
#: no values: of inf and -inf), number of values that are not finite.
EXPONENT, ZEROS, LOW, HIGH, NOT_FINITE = range(BINS, BINS + 5)
SIZE = BINS + 5

#: A float32's biased exponent, less this, is the exponent of the bins of which it is in the upper half.
_BIAS = 126 + BINS.bit_length() - 1
#: Exponent of the bins where the largest value is zero or denormal.
LEAST = -_BIAS


def _bits(x: float) -> int:
    return int(np.array(x, np.float32).view(np.int32))


def histogram(x: np.ndarray) -> np.ndarray:
    """The vector described above, of float32 values in any shape."""
    out = np.zeros(SIZE, np.int64)
    flat = x.reshape(-1).astype(np.float32, copy=False)
    finite = flat[np.isfinite(flat)]
    magnitude = np.abs(finite)
    largest = magnitude.max(initial=np.float32(0))
    exponent = (_bits(float(largest)) >> 23) - _BIAS
    index = np.floor(np.ldexp(magnitude.astype(np.float64), -exponent)).astype(np.int64)
    out[:BINS] = np.bincount(index, minlength=BINS)
    out[EXPONENT] = exponent
    out[ZEROS] = (finite == 0).sum()
    # -0 counts as 0
    out[LOW] = _bits(float(finite.min(initial=np.float32(np.inf))) + 0.0)
    out[HIGH] = _bits(float(finite.max(initial=np.float32(-np.inf))) + 0.0)
    out[NOT_FINITE] = flat.size - finite.size
    return out


def _histogram(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    (x,) = present(arrays)
    return [histogram(x)]


REFERENCES: Mapping[str, ReferenceFn] = MappingProxyType({"Histogram": _histogram})
