"""The front of the solver is that of trying every choice; minimum cuts are minimal."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from temper.quantize.solver import Choice, Edge, Problem, Site


def _random(seed: int, pinned: bool) -> Problem:
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 9))
    sites = []
    for i in range(n):
        slow = float(rng.uniform(1, 4))
        fast = slow * float(rng.uniform(0.2, 1.2))  # INT8 is not always the faster one
        seconds = {"int8": fast, "float32": slow}
        if pinned and rng.random() < 0.3:
            seconds.pop(str(rng.choice(["int8", "float32"])))
        sites.append(Site(f"s{i}", seconds, {"int8": float(rng.exponential(1)) * (rng.random() < 0.9)}))
    kinds = (("int8", "float32"), ("float32", "int8"))
    edges = [
        Edge(f"s{a}", f"s{b}", {k: float(rng.exponential(0.5)) for k in kinds})
        for a, b in itertools.combinations(range(n), 2)
        if rng.random() < 0.4
    ]
    return Problem(sites, edges)


def _every(p: Problem) -> list[Choice]:
    free = [n for n, s in p.sites.items() if len(s.seconds) == 2]
    always = [n for n, s in p.sites.items() if "int8" not in s.seconds]
    return [
        p.evaluate([*always, *chosen])
        for k in range(len(free) + 1)
        for chosen in itertools.combinations(free, k)
    ]


def _hull(points: list[Choice]) -> list[tuple[float, float]]:
    """Corners of the lower left hull of (loss, seconds), fastest first."""
    corners: list[tuple[float, float]] = []
    for x, y in sorted((c.loss, c.seconds) for c in points):
        if corners and (x == corners[-1][0] or y >= corners[-1][1] - 1e-12):
            continue
        while len(corners) > 1:
            (x1, y1), (x2, y2) = corners[-2:]
            if (x2 - x1) * (y - y1) - (y2 - y1) * (x - x1) > 1e-12:
                break
            corners.pop()
        corners.append((x, y))
    return corners[::-1]


@pytest.mark.parametrize("pinned", [False, True])
@pytest.mark.parametrize("seed", range(25))
def test_the_front_is_that_of_trying_everything(seed: int, pinned: bool) -> None:
    p = _random(seed, pinned)
    every = _every(p)
    found = [(c.loss, c.seconds) for c in p.front()]
    for got, want in zip(found, _hull(every), strict=True):
        assert got == pytest.approx(want, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("seed", range(25))
def test_each_price_has_its_best_choice(seed: int) -> None:
    p = _random(seed, pinned=True)
    every = _every(p)
    for price in (0.0, 0.3, 1.0, 5.0):
        c = p.best(price)
        assert c.seconds + price * c.loss == pytest.approx(min(e.seconds + price * e.loss for e in every), rel=1e-9)


def test_a_costly_conversion_keeps_neighbours_together() -> None:
    """One sensitive site between two others: where conversions cost more than INT8 gains, all three stay float."""

    def chain(conversion: float) -> Problem:
        sites = [
            Site(n, {"int8": 1.0, "float32": 1.5}, {"int8": loss})
            for n, loss in (("a", 0.01), ("b", 5.0), ("c", 0.01))
        ]
        price = {("int8", "float32"): conversion, ("float32", "int8"): conversion}
        return Problem(sites, [Edge("a", "b", price), Edge("b", "c", price)])

    assert [set(c.high) for c in chain(0.1).front()][:2] == [set(), {"b"}]
    assert [set(c.high) for c in chain(0.9).front()] == [set(), {"a", "b", "c"}]


def test_nothing_to_choose() -> None:
    assert Problem([], []).front() == [Choice(frozenset(), 0, 0)]
    only = Problem([Site("a", {"float32": 2.0}, {})], []).front()
    assert [c.high for c in only] == [frozenset({"a"})]


def test_mistakes_are_named() -> None:
    a = Site("a", {"int8": 1.0, "float32": 2.0}, {"int8": 1.0})
    with pytest.raises(ValueError, match="unknown sites"):
        Problem([a], [Edge("a", "b", {})])
    with pytest.raises(ValueError, match="below zero"):
        Problem([a], [Edge("a", "a", {("int8", "float32"): -1.0})])
    with pytest.raises(ValueError, match="neither"):
        Problem([Site("a", {}, {})], [])


def test_hundreds_of_sites_take_moments() -> None:
    rng = np.random.default_rng(0)
    sites = [
        Site(f"s{i}", {"int8": 1.0, "float32": 1.0 + float(rng.exponential(1))}, {"int8": float(rng.exponential(1))})
        for i in range(250)
    ]
    price = {("int8", "float32"): 0.2, ("float32", "int8"): 0.2}
    front = Problem(sites, [Edge(f"s{i}", f"s{i + 1}", price) for i in range(249)]).front()
    assert len(front) > 50
    assert all(a.seconds < b.seconds and a.loss > b.loss for a, b in itertools.pairwise(front))
    assert all(a.high <= b.high for a, b in itertools.pairwise(front)), "cuts of a rising price are nested"
