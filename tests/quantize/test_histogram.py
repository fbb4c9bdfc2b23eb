"""Histograms of |x|: exact merging in any order, and what resampling keeps."""

from __future__ import annotations

import math

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from temper.quantize.histogram import BINS, EMPTY, Accumulator, Histogram, observe
from temper.reference import histogram as layout

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)


def same(a: Histogram, b: Histogram) -> bool:
    return (a.exponent, a.zeros, a.low, a.high) == (b.exponent, b.zeros, b.low, b.high) and np.array_equal(
        a.counts, b.counts
    )


@settings(max_examples=200, deadline=None)
@given(arrays(np.float32, st.integers(1, 60), elements=floats), st.data())
def test_any_batching_and_order_gives_the_same(x: np.ndarray, data: st.DataObject) -> None:
    order = data.draw(st.permutations(range(len(x))))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(x)), max_size=5)))
    total = EMPTY
    for part in np.split(x[list(order)], cuts):
        total = observe(part).merged(total)
    assert same(total, observe(x))


@settings(max_examples=200, deadline=None)
@given(arrays(np.float32, st.integers(1, 40), elements=floats))
def test_counts(x: np.ndarray) -> None:
    h = observe(x)
    assert h.total == x.size
    assert h.amax == np.abs(x.astype(np.float64)).max()
    assert h.zeros == (x == 0).sum()
    if h.amax >= 2.0**-126:
        assert h.amax < BINS * h.width <= 2 * h.amax
        for v in x:
            assert h.counts[int(abs(float(v)) / h.width)] > 0
    assert math.isclose(h.resampled(2048).sum(), x.size)


def test_resampling_shares_out_by_length() -> None:
    x = np.random.default_rng(0).uniform(0, 3.7, 1_000_000).astype(np.float32)
    h = observe(x)
    want, _ = np.histogram(x, bins=2048, range=(0, h.amax))
    got = h.resampled(2048)
    assert np.abs(got - want).max() < 6 * math.sqrt(want.max())
    assert np.abs(np.cumsum(got) - np.cumsum(want)).max() <= h.counts.max()


def test_all_zero() -> None:
    h = observe(np.zeros(5, np.float32))
    assert (h.amax, h.total, h.zeros) == (0.0, 5, 5)
    assert h.resampled(2048)[0] == 5


def test_accumulating_is_merging() -> None:
    """Whatever the widths, and in whatever order they come."""
    rng = np.random.default_rng(4)
    arrays = [rng.standard_normal(500).astype(np.float32) * np.float32(10.0**k) for k in (-3, 2, 0, 0, 12, -30, 5)]
    arrays += [np.zeros(3, np.float32), np.array([np.nan, 1.0], np.float32), np.zeros(0, np.float32)]
    total, merged = Accumulator(), EMPTY
    for x in arrays:
        total.add(layout.histogram(x))
        merged = merged.merged(observe(x))
        found = total.histogram()
        assert np.array_equal(found.counts, merged.counts)
        assert (found.exponent, found.zeros, found.low, found.high) == (
            merged.exponent,
            merged.zeros,
            merged.low,
            merged.high,
        )
    again = Accumulator.of(merged)
    again.add(layout.histogram(arrays[0]))
    assert merged.total == total.histogram().total == again.histogram().total - 500
