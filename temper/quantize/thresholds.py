"""From a histogram of |x| to the largest value an 8-bit code stands for: the calibration algorithms.

Every function returns amax, a float > 0 where the tensor is not constantly zero; the scale is amax / levels with 127
levels for a signed tensor and 255 for one that cannot be negative.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from temper.errors import ConfigError
from temper.quantize.histogram import Histogram

Algorithm = Callable[[Histogram, int], float]

#: Bins of [0, amax] on which thresholds are searched, and the first candidate; Migacz, "8-bit Inference with TensorRT"
#: (GTC 2017).
SEARCH_BINS = 2048
FIRST = 128


def minmax(h: Histogram, levels: int = 127) -> float:
    """The largest value seen."""
    return h.amax


def percentile(h: Histogram, percent: float) -> float:
    """Least bin edge that holds `percent` of the values, but never more than the largest value."""
    if not 0 < percent <= 100:
        raise ValueError(f"a percentile lies in (0, 100], not {percent}")
    if not h.amax:
        return 0.0
    below = np.cumsum(h.counts)
    bin_ = int(np.searchsorted(below, below[-1] * (percent / 100.0)))
    return min((bin_ + 1) * h.width, h.amax)


def entropy(h: Histogram, levels: int = 127) -> float:
    """The threshold whose 8-bit distribution diverges least from the data's (Kullback-Leibler), the last of equals.

    2048 bins over [0, amax]; the first takes the second's count, so that the zeros after a ReLU do not decide; for
    every candidate of 128 to 2048 bins the values beyond are folded into its last bin (P), and P is told with one
    level per group of bins, spread evenly over the bins of the group that are not empty (Q). 128 levels, 256 for
    unsigned codes.
    """
    if not h.amax:
        return 0.0
    bins = h.resampled(SEARCH_BINS)
    bins[0] = bins[1]
    divergence = kl_divergences(bins, 256 if levels > 127 else 128)
    best = len(divergence) - 1 - int(np.argmin(divergence[::-1]))
    if not np.isfinite(divergence[best]):
        return h.amax
    return float(h.amax * (FIRST + best) / SEARCH_BINS)


def kl_divergences(bins: np.ndarray, levels: int) -> np.ndarray:
    """KL(P || Q) of every candidate of FIRST .. len(bins) bins; infinite where Q has no mass in a bin where P has.

    By prefix sums: with S_j the sum and n_j the number of non-empty bins of group j, and o the outliers,
    sum P log(P / Q) = sum p log p - sum_j S_j log(S_j / n_j), to which o adds its share in the last bin.
    """
    n = len(bins)
    size = np.arange(FIRST, n + 1)
    total = bins.sum()
    below = np.concatenate([[0.0], np.cumsum(bins)])
    filled = np.concatenate([[0], np.cumsum(bins > 0)])
    entropies = np.concatenate([[0.0], np.cumsum(_xlogx(bins))])

    edges = -(-np.arange(levels + 1)[None, :] * size[:, None] // levels)
    sums = np.diff(below[edges], axis=1)
    counts = np.diff(filled[edges], axis=1)
    inside = below[size]
    outliers = total - inside
    last = bins[size - 1]
    group = (size - 1) * levels // size  # of the last bin

    with np.errstate(divide="ignore", invalid="ignore"):
        means = np.where(counts > 0, sums / counts, 0.0)
        logs = np.where(means > 0, np.log(means), 0.0)
        cross = (sums * logs).sum(axis=1) + outliers * np.take_along_axis(logs, group[:, None], axis=1)[:, 0]
        own = entropies[size - 1] + _xlogx(last + outliers)
        result = (own - cross) / total - np.log(total) + np.log(inside)
    # Rounding of prefix sums leaves some mass "outside" the whole range.
    beyond = outliers > total * 1e-12
    return np.where((beyond & (last <= 0)) | (inside <= 0), np.inf, result)


def _xlogx(x: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x * np.log(np.where(x > 0, x, 1.0)), 0.0)


def mse(h: Histogram, levels: int = 127) -> float:
    """The threshold of least mean squared error, every bin's values taken as uniform over the bin; the largest of
    equals."""
    if not h.amax:
        return 0.0
    bins = h.resampled(SEARCH_BINS)
    coarse = np.arange(FIRST, SEARCH_BINS + 1, 16)
    best = int(coarse[_last_least(squared_errors(bins, coarse, levels))])
    fine = np.arange(max(FIRST, best - 16), min(SEARCH_BINS, best + 16) + 1)
    return float(h.amax * fine[_last_least(squared_errors(bins, fine, levels))] / SEARCH_BINS)


def squared_errors(bins: np.ndarray, ends: np.ndarray, levels: int) -> np.ndarray:
    """Sum of squared errors (in units of a bin's width) when quantized with a threshold of `ends` bins."""
    centre = np.arange(len(bins)) + 0.5
    scale = ends[:, None] / levels
    code = np.minimum(np.rint(centre / scale), levels)
    # A bin's values move with the centre where its code is one and the same: its own variance of 1/12 adds up.
    result: np.ndarray = ((code * scale - centre) ** 2 + 1 / 12) @ bins
    return result


def _last_least(values: np.ndarray) -> int:
    return len(values) - 1 - int(np.argmin(values[::-1]))


def _percentile_of(percent: float) -> Algorithm:
    return lambda h, levels: percentile(h, percent)


def algorithm(name: str) -> Algorithm:
    """By the name of the command line: one of ALGORITHMS, "percentile" (99.99) or "percentile:P" of any P. ConfigError
    lists what there is."""
    if name in ALGORITHMS:
        return ALGORITHMS[name]
    kind, _, number = name.partition(":")
    try:
        percent = float(number or PERCENT)
    except ValueError:
        percent = 0.0
    if kind != "percentile" or not 0 < percent <= 100:
        raise ConfigError(
            f"there is no calibrator {name!r}; choose auto, minmax, entropy, mse, percentile or percentile:P with a "
            "number P of at most 100"
        )
    return _percentile_of(percent)


#: What "percentile" alone means, as in TensorRT's BERT sample and in ModelOpt.
PERCENT = 99.99

#: Algorithms by the names of the command line.
ALGORITHMS: Mapping[str, Algorithm] = MappingProxyType(
    {
        "minmax": minmax,
        "entropy": entropy,
        "mse": mse,
        **{f"percentile:{p}": _percentile_of(p) for p in (99.9, 99.99, 99.995, 99.999, 99.9999)},
    }
)
