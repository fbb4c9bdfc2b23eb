"""Axes hold their values, and label round numbers inside."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temper.report.axes import Axis, linear, logarithmic

FINITE = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(st.lists(FINITE, min_size=1, max_size=6), st.booleans())
def test_linear(values: list[float], zero: bool) -> None:
    axis = linear(values, zero=zero)
    assert all(axis.low <= v <= axis.high for v in values)
    ticks = axis.ticks()
    assert 2 <= len(ticks) <= 9
    assert all(-1e-6 <= axis.at(t) <= 100 + 1e-6 for t in ticks) and ticks == sorted(ticks)


def test_ticks_are_round() -> None:
    assert Axis(0.0, 2.6).ticks() == [0, 0.5, 1, 1.5, 2, 2.5]


def test_logarithmic() -> None:
    axis = logarithmic([0.0, 0.01, 10.0])
    assert axis.at(0.0) == 0.0
    assert axis.at(0.1) - axis.at(0.01) == pytest.approx(axis.at(1.0) - axis.at(0.1))
    assert axis.ticks() == [0.01, 0.1, 1.0, 10.0]
    assert logarithmic([0.0]).at(1.0) > 0
