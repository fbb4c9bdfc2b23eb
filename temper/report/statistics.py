"""Whether two engines differ on the same samples: paired tests and intervals for small and large counts.

b is the number of samples that went from right to wrong, c from wrong to right; the loss is (b - c) / n.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

#: Two-sided 95 % of the normal distribution.
Z95 = 1.959963984540054


@dataclass(frozen=True)
class Paired:
    """Loss of accuracy between two engines on the same samples; fractions of 1, loss > 0 is worse.

    error: standard error, sqrt(b + c - (b - c)^2 / n) / n.
    low, high: 95 % interval of the loss by Tango's score method, which stays honest where b + c is small or 0 (the
        error is then 0, and would claim certainty).
    p: two-sided exact McNemar test that right->wrong and wrong->right are equally likely.
    """

    n: int
    b: int
    c: int
    loss: float
    error: float
    low: float
    high: float
    p: float


def paired(n: int, b: int, c: int) -> Paired:
    """McNemar's comparison of n > 0 paired samples of which b lost and c won; b + c <= n."""
    if n <= 0 or min(b, c) < 0 or b + c > n:
        raise ValueError(f"n={n}, b={b}, c={c} are not counts of paired samples")
    error = math.sqrt(max(0.0, b + c - (b - c) ** 2 / n)) / n
    low, high = score_interval(n, b, c)
    return Paired(n, b, c, (b - c) / n, error, low, high, exact_p(b, c))


def exact_p(b: int, c: int) -> float:
    """Exact McNemar test: the two-sided binomial probability, with p = 1/2, of a split at least as uneven."""
    n, k = b + c, min(b, c)
    if b == c:
        return 1.0
    # Terms relative to the largest, so that they neither under- nor overflow: C(n, i) / C(n, k) for i = k, k-1, ...
    total, term = 0.0, 1.0
    for i in range(k, -1, -1):
        total += term
        term *= i / (n - i + 1)
    log_peak = math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2)
    return min(1.0, 2.0 * math.exp(log_peak) * total)


def score_interval(n: int, b: int, c: int, z: float = Z95) -> tuple[float, float]:
    """Interval of (b - c) / n by Tango, "Equivalence test and confidence interval for the difference in proportions
    for the paired-sample design", Statistics in Medicine 17 (1998)."""

    def statistic(d: float) -> float:
        """How many standard errors, under a true difference d, the observed one lies above d."""
        linear = (2 * n - b + c) * d - b - c
        q = (math.sqrt(max(0.0, linear * linear + 8 * n * c * d * (1 - d))) - linear) / (4 * n)
        variance = n * (2 * q + d * (1 - d))
        gap = b - c - n * d
        return gap / math.sqrt(variance) if variance > 0 else math.copysign(math.inf, gap) if gap else 0.0

    observed = (b - c) / n
    return _root(lambda d: statistic(d) - z, -1.0, observed), _root(lambda d: statistic(d) + z, observed, 1.0)


def _root(decreasing: Callable[[float], float], low: float, high: float) -> float:
    """Where a decreasing function crosses 0 between low and high, or the nearer end where it does not."""
    if decreasing(low) <= 0:
        return low
    if decreasing(high) >= 0:
        return high
    for _ in range(60):
        middle = (low + high) / 2
        if decreasing(middle) > 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def wilson(n: int, k: int, z: float = Z95) -> tuple[float, float]:
    """95 % interval of a proportion k / n (Wilson 1927); n > 0."""
    p, zz = k / n, z * z / n
    centre, half = (p + zz / 2) / (1 + zz), z * math.sqrt(p * (1 - p) / n + zz / (4 * n)) / (1 + zz)
    return max(0.0, centre - half), min(1.0, centre + half)


def holm(p: Sequence[float]) -> list[float]:
    """Holm's (1979) adjusted p-values: reject those below alpha, and the chance of any false alarm stays below it."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = largest
    return adjusted


@dataclass(frozen=True)
class Certainty:
    """What n samples say about a budget. kind: "certified" (the interval lies within), "likely" (the loss is within,
    the interval is not), "unlikely" (the loss exceeds it, the interval does not) or "exceeded" (the whole interval
    lies beyond). needed: samples at which the same rates would certify it, for "likely" only.
    """

    kind: str
    needed: int | None = None


def certainty(test: Paired, budget: float) -> Certainty:
    """Whether the samples can certify that the loss is at most `budget` (a fraction of 1), with 97.5 % confidence."""
    if test.high <= budget:
        return Certainty("certified")
    if test.low > budget:
        return Certainty("exceeded")
    if test.loss > budget:
        return Certainty("unlikely")
    return Certainty("likely", _needed(test, budget))


def _needed(test: Paired, budget: float) -> int | None:
    """Least number of samples, at the observed rates of b and c, whose interval lies within the budget; None beyond a
    hundred million."""

    def certifies(n: int) -> bool:
        b, c = (round(k * n / test.n) for k in (test.b, test.c))
        return score_interval(n, b, c)[1] <= budget

    high = test.n
    while not certifies(high):
        high *= 2
        if high > 100_000_000:
            return None
    low = high // 2
    while high - low > max(1, low // 100):
        middle = (low + high) // 2
        low, high = (low, middle) if certifies(middle) else (middle, high)
    return high
