"""Histograms of |x| that merge exactly: the result does not depend on how samples are batched or ordered.

Bins are a power of two wide and start at zero. A value beyond the last bin doubles the width until it fits, which joins
neighbouring bins in pairs; since every width divides the next, counts taken at different widths add up to what one
histogram of all the data would hold. The final width follows from the largest value alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from temper.reference import histogram as layout
from temper.reference.histogram import BINS


@dataclass(frozen=True, eq=False)
class Histogram:
    """Counts of |x| of one tensor.

    exponent: bins are 2**exponent wide.
    counts: int64[BINS], bin i holds i*w <= |x| < (i+1)*w; zeros are counted in bin 0 too.
    zeros: values equal to 0.
    low, high: least and greatest value (signed); inf and -inf of no values.
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
        """Counts of both: associative and commutative."""
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


@dataclass(eq=False)
class Accumulator:
    """Merges histograms in place, as the op Histogram gives them: the same result as `Histogram.merged`, with nothing
    allocated."""

    exponent: int = layout.LEAST
    counts: np.ndarray = field(default_factory=lambda: np.zeros(BINS, np.int64))
    zeros: int = 0
    low: float = math.inf
    high: float = -math.inf

    @staticmethod
    def of(h: Histogram) -> Accumulator:
        return Accumulator(h.exponent, h.counts.copy(), h.zeros, h.low, h.high)

    def add(self, v: np.ndarray) -> float:
        """Adds what the op Histogram gave, values that are not finite aside; returns the largest |x| in it."""
        exponent, counts = int(v[layout.EXPONENT]), v[:BINS]
        if exponent > self.exponent:
            narrow = self.counts.copy()
            self.counts[:] = 0
            self._join(narrow, exponent - self.exponent)
            self.exponent = exponent
        self._join(counts, self.exponent - exponent)
        low, high = extremes(v)
        self.zeros += int(v[layout.ZEROS])
        self.low, self.high = min(self.low, low), max(self.high, high)
        return max(abs(low), abs(high)) if low <= high else 0.0

    def _join(self, counts: np.ndarray, doublings: int) -> None:
        """Adds counts of bins that are 2**doublings narrower."""
        for _ in range(min(doublings, BINS.bit_length() - 1)):
            counts = counts[0::2] + counts[1::2]
        self.counts[: len(counts)] += counts

    def histogram(self) -> Histogram:
        """A copy of the present state."""
        return Histogram(self.exponent, self.counts.copy(), self.zeros, self.low, self.high)


EMPTY = Histogram(layout.LEAST, np.zeros(BINS, np.int64), 0, math.inf, -math.inf)


def extremes(v: np.ndarray) -> tuple[float, float]:
    """Least and greatest finite value of what the op Histogram gave."""
    low, high = v[layout.LOW : layout.HIGH + 1].astype(np.int32).view(np.float32).tolist()
    return low, high


def from_vector(v: np.ndarray) -> Histogram:
    """What the op Histogram gave; values that are not finite are left out of it."""
    low, high = extremes(v)
    return Histogram(int(v[layout.EXPONENT]), v[:BINS].copy(), int(v[layout.ZEROS]), low, high)


def observe(x: np.ndarray) -> Histogram:
    """Histogram of an array of floats."""
    return from_vector(layout.histogram(x))
