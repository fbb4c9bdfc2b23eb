"""Histograms of |x| that merge exactly: the result does not depend on how samples are batched or ordered.

Bins are a power of two wide and start at zero. A value beyond the last bin doubles the width until it fits, which joins
neighbouring bins in pairs; since every width divides the next, counts taken at different widths add up to what one
histogram of all the data would hold. The final width follows from the largest value alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

#: Bins of a histogram. The largest value lies in the upper half of them (unless all values are zero), so that
#: thresholds are searched on at least 4,096 bins however the width came out.
BINS = 8192

#: Narrowest bin: 2**-140; the largest value of anything observed is then at least 2**-128, or counts as zero.
_LEAST = -140


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of |x| of one tensor.

    exponent: bins are 2**exponent wide. counts: int64[BINS], bin i holds i*w <= |x| < (i+1)*w; zeros are counted in
    bin 0 too. zeros: values equal to 0. low, high: least and greatest value (signed); inf and -inf of no values.
    """

    exponent: int
    counts: np.ndarray
    zeros: int
    low: float
    high: float

    @property
    def total(self) -> int:
        """Number of values seen."""
        return int(self.counts.sum())

    @property
    def amax(self) -> float:
        """Largest |x| seen; 0 of no values."""
        return max(abs(self.low), abs(self.high)) if self.low <= self.high else 0.0

    @property
    def width(self) -> float:
        return math.ldexp(1.0, self.exponent)

    def widened(self, exponent: int) -> Histogram:
        """The same counts in bins of 2**exponent, which is at least the present width."""
        step = exponent - self.exponent
        if step < 0:
            raise ValueError(f"bins of 2**{self.exponent} cannot become narrower (2**{exponent})")
        if step == 0:
            return self
        factor = 1 << min(step, BINS.bit_length() - 1)
        counts = np.zeros(BINS, np.int64)
        counts[: BINS // factor] = self.counts.reshape(-1, factor).sum(axis=1)
        return Histogram(exponent, counts, self.zeros, self.low, self.high)

    def merged(self, other: Histogram) -> Histogram:
        """Counts of both. Associative and commutative."""
        exponent = max(self.exponent, other.exponent)
        a, b = self.widened(exponent), other.widened(exponent)
        return Histogram(exponent, a.counts + b.counts, a.zeros + b.zeros, min(a.low, b.low), max(a.high, b.high))

    def resampled(self, bins: int) -> np.ndarray:
        """float64[bins]: counts over `bins` equal intervals of [0, amax], bins that straddle an edge shared out by
        length."""
        if not self.amax:
            out = np.zeros(bins)
            out[0] = self.total
            return out
        # The last bin in use ends at amax, not at its edge: nothing lies beyond.
        edges = np.minimum(np.arange(BINS + 1) * self.width, self.amax)
        below = np.concatenate([[0], np.cumsum(self.counts)]).astype(np.float64)
        used = min(BINS, int(self.amax / self.width) + 1)
        at = np.linspace(0.0, self.amax, bins + 1)
        return np.diff(np.interp(at, edges[: used + 1], below[: used + 1]))


EMPTY = Histogram(_LEAST, np.zeros(BINS, np.int64), 0, math.inf, -math.inf)


def exponent_for(amax: float) -> int:
    """Exponent of the narrowest bins whose last one still holds `amax` (finite, not negative)."""
    if amax == 0:
        return _LEAST
    return max(_LEAST, math.frexp(amax)[1] - (BINS.bit_length() - 1))


def observe(x: np.ndarray) -> Histogram:
    """Histogram of an array of finite floats: the reference of the compiled kernel."""
    if not x.size:
        return EMPTY
    magnitude = np.abs(x.astype(np.float64, copy=False)).reshape(-1)
    exponent = exponent_for(float(magnitude.max()))
    index = np.minimum((magnitude * math.ldexp(1.0, -exponent)).astype(np.int64), BINS - 1)
    counts = np.bincount(index, minlength=BINS).astype(np.int64)
    return Histogram(exponent, counts, int((magnitude == 0).sum()), float(x.min()), float(x.max()))
