"""The calibration algorithms against straightforward loops, and on data whose answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from temper.quantize.histogram import observe
from temper.quantize.thresholds import ALGORITHMS, FIRST, SEARCH_BINS, entropy, kl_divergences, minmax, mse, percentile


def kl_by_hand(bins: np.ndarray, size: int, levels: int) -> float:
    """One candidate as the published pseudocode has it."""
    p = bins[:size].copy()
    outliers = bins[size:].sum()
    q = np.zeros(size)
    group = np.digitize(np.arange(size), np.linspace(0, size, levels + 1)) - 1
    for j in range(levels):
        members = (group == j) & (p > 0)
        if members.any():
            q[members] = p[group == j].sum() / members.sum()
    p[-1] += outliers
    p, q = p / p.sum(), q / q.sum()
    if np.any((p > 0) & (q == 0)):
        return np.inf
    filled = p > 0
    return float((p[filled] * np.log(p[filled] / q[filled])).sum())


@pytest.mark.parametrize("levels", [128, 256])
@pytest.mark.parametrize("sparse", [False, True])
def test_divergences_equal_the_published_loop(levels: int, sparse: bool) -> None:
    rng = np.random.default_rng(1)
    bins = rng.exponential(100.0, 400) * np.exp(-np.arange(400) / 60)
    if sparse:
        bins[rng.random(400) < 0.5] = 0
        bins[-1] = 3
    got = kl_divergences(bins, levels)
    want = [kl_by_hand(bins, i, levels) for i in range(FIRST, 401)]
    np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-12)


def test_an_outlier_does_not_stretch_the_range() -> None:
    """Normal data with one value at 60 sigma: what ONNX Runtime's default entropy calibration gets wrong."""
    x = np.random.default_rng(0).normal(size=200_000).astype(np.float32)
    x[7] = 60.0
    h = observe(x)
    assert minmax(h) == 60.0
    for name in ("entropy", "percentile:99.99", "percentile:99.999"):
        assert 3.0 < ALGORITHMS[name](h, 127) < 9.0, name


@pytest.mark.parametrize("name", ALGORITHMS)
def test_uniform_data_keep_their_range(name: str) -> None:
    x = np.random.default_rng(0).uniform(-2, 2, 500_000).astype(np.float32)
    assert 1.95 < ALGORITHMS[name](observe(x), 127) <= 2.0


@pytest.mark.parametrize("levels", [127, 255])
def test_mse_finds_the_least_error(levels: int) -> None:
    x = np.random.default_rng(3).standard_t(3, 100_000).astype(np.float32)
    h = observe(x)

    def error(amax: float) -> float:
        s = amax / levels
        return float(((np.clip(np.rint(np.abs(x) / s), 0, levels) * s - np.abs(x)) ** 2).mean())

    best = min(error(h.amax * k / 256) for k in range(FIRST * 256 // SEARCH_BINS, 257))
    assert error(mse(h, levels)) <= best * 1.03


def test_percentile_is_the_quantile() -> None:
    x = np.random.default_rng(2).normal(size=400_000).astype(np.float32)
    h = observe(x)
    for p in (99.0, 99.9, 99.99):
        assert abs(percentile(h, p) - np.quantile(np.abs(x), p / 100)) <= 2 * h.width
    assert percentile(h, 100) == h.amax
    with pytest.raises(ValueError, match="percentile"):
        percentile(h, 0)


@pytest.mark.parametrize("name", ALGORITHMS)
def test_zero_tensor(name: str) -> None:
    assert ALGORITHMS[name](observe(np.zeros(9, np.float32)), 127) == 0.0


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("value", [1e-38, 1.0, 3e38])
def test_constant_tensor(name: str, value: float) -> None:
    amax = ALGORITHMS[name](observe(np.full(9, value, np.float32)), 127)
    assert 0.4 * value < amax <= np.float32(value)


def test_relu_spike_does_not_decide() -> None:
    """Half the values at zero: the threshold is that of the values alone."""
    x = np.abs(np.random.default_rng(5).normal(size=100_000)).astype(np.float32)
    spiked = np.concatenate([x, np.zeros(900_000, np.float32)])
    assert abs(entropy(observe(spiked), 255) - entropy(observe(x), 255)) < 0.25
