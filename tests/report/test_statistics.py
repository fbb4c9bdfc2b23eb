"""Paired statistics against scipy, published examples and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from temper.report.statistics import certainty, exact_p, holm, paired, score_interval, wilson


@pytest.mark.parametrize(("b", "c"), [(0, 1), (1, 7), (3, 3), (0, 30), (25, 9), (400, 350), (5000, 4000)])
def test_exact_p_is_the_binomial_test(b: int, c: int) -> None:
    assert exact_p(b, c) == pytest.approx(stats.binomtest(b, b + c).pvalue, rel=1e-9)
    assert exact_p(c, b) == exact_p(b, c)


def test_nothing_discordant_is_no_evidence() -> None:
    assert exact_p(0, 0) == 1.0


def test_standard_error_is_that_of_the_differences() -> None:
    """sqrt(b + c - (b - c)^2 / N) / N is the standard deviation of -1, 0, 1 over sqrt(N)."""
    each = np.repeat([1, -1, 0], [90, 60, 4850])
    assert paired(5000, 90, 60).error == pytest.approx(each.std() / math.sqrt(5000))


def test_published_interval() -> None:
    """Airway measurements before and after stem cell transplantation (Bentur et al.): 1 and 7 of 21 discordant."""
    low, high = score_interval(21, 1, 7)
    assert (round(low, 3), round(high, 3)) == (-0.517, -0.026)


def test_large_counts_agree_with_the_normal_interval() -> None:
    test = paired(200_000, 4000, 3000)
    assert test.low == pytest.approx(test.loss - 1.96 * test.error, abs=2e-5)
    assert test.high == pytest.approx(test.loss + 1.96 * test.error, abs=2e-5)


def test_no_flips_still_leave_doubt() -> None:
    """z^2 / (n + z^2): where the error is 0, the interval is not."""
    test = paired(1000, 0, 0)
    assert test.error == 0
    assert test.high == pytest.approx(3.8415 / 1003.8415, rel=1e-4)
    assert test.low == pytest.approx(-test.high)


def test_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(0)
    n, lose, win = 400, 0.03, 0.01
    draws = rng.multinomial(n, [lose, win, 1 - lose - win], 1000)
    inside = [low <= lose - win <= high for low, high in (score_interval(n, int(b), int(c)) for b, c, _ in draws)]
    assert 0.93 <= np.mean(inside) <= 0.975


def test_wilson_is_scipys() -> None:
    for k, n in [(0, 20), (3, 50), (50, 50)]:
        expected = stats.binomtest(k, n).proportion_ci(method="wilson")
        assert wilson(n, k) == pytest.approx((expected.low, expected.high))


def test_holm() -> None:
    """Worked by hand: 4 x 0.005, 3 x 0.01, 2 x 0.03, and never below the one before."""
    assert holm([0.03, 0.005, 0.04, 0.01]) == pytest.approx([0.06, 0.02, 0.06, 0.03])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.parametrize(
    ("n", "b", "c", "budget", "kind"),
    [
        (5000, 10, 12, 0.003, "certified"),
        (5000, 60, 60, 0.003, "likely"),
        (540, 4, 2, 0.003, "unlikely"),
        (540, 40, 2, 0.003, "exceeded"),
        (1000, 0, 0, 0.003, "likely"),
    ],
)
def test_certainty(n: int, b: int, c: int, budget: float, kind: str) -> None:
    assert certainty(paired(n, b, c), budget).kind == kind


def test_the_samples_it_asks_for_are_enough_and_barely_so() -> None:
    needed = certainty(paired(5000, 60, 60), 0.003).needed
    assert needed is not None
    rate = 60 / 5000
    assert score_interval(needed, round(rate * needed), round(rate * needed))[1] <= 0.003
    less = int(0.95 * needed)
    assert score_interval(less, round(rate * less), round(rate * less))[1] > 0.003


def test_a_loss_at_the_budget_needs_more_samples_than_there_are() -> None:
    assert certainty(paired(1000, 3, 0), 0.003).needed is None


def test_impossible_counts() -> None:
    with pytest.raises(ValueError, match="not counts"):
        paired(10, 8, 3)
