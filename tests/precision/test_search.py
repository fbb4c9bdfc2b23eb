"""The search over planted losses: it finds the sites that hurt, keeps to its tries, and says what is to blame."""

from __future__ import annotations

import math

import numpy as np
import pytest

from temper.precision.search import Found, Search
from temper.quantize.solver import Problem, Site


def _problem(losses: list[float], pinned: dict[int, str] | None = None, gain: float = 1.0) -> Problem:
    sites = []
    for i, loss in enumerate(losses):
        seconds = {"int8": 1.0, "float32": 1.0 + gain}
        if pinned and i in pinned:
            seconds = {pinned[i]: seconds[pinned[i]]}
        sites.append(Site(f"s{i}", seconds, {"int8": loss}))
    return Problem(sites, [])


Asked = list[frozenset[str]]


def _run(problem: Problem, true: list[float], budget: float = 1.0, tries: int = 12) -> tuple[Found, Asked]:
    asked: Asked = []

    def measure(high: frozenset[str]) -> float:
        asked.append(high)
        return sum(x for i, x in enumerate(true) if f"s{i}" not in high) / budget

    return Search(problem, measure, tries).run(), asked


def test_what_keeps_the_budget_is_taken_at_once() -> None:
    found, asked = _run(_problem([0.1] * 5), [0.1] * 5)
    assert found.met and not found.best.high and len(asked) == 1


def test_the_planted_layer_is_the_one_kept() -> None:
    losses = [0.01] * 20
    losses[7] = 30.0
    found, asked = _run(_problem(losses), losses)
    assert found.met and found.best.high == {"s7"}
    assert len(asked) <= 4


@pytest.mark.parametrize("seed", range(20))
def test_few_measurements_find_nearly_the_best(seed: int) -> None:
    """Predicted losses are off by a factor of up to three either way; about as few sites are kept."""
    rng = np.random.default_rng(seed)
    true = list(rng.lognormal(-3, 2, 40))
    believed = [x * float(np.exp(rng.uniform(-1, 1))) for x in true]
    budget = 0.2 * sum(true)
    found, asked = _run(_problem(believed), true, budget)
    assert found.met and len(asked) <= 12
    assert len(set(asked)) == len(asked), "nothing is measured twice"
    # keep the largest until the rest fits: the least number of sites
    least, rest = 0, sorted(true)
    while sum(rest) > budget:
        rest.pop()
        least += 1
    assert len(found.best.high) <= 2 * least + 4


def test_a_budget_that_pinned_sites_exceed_is_reported() -> None:
    losses = [0.1, 5.0, 0.2, 3.0]
    found, _ = _run(_problem(losses, {1: "int8"}), losses)
    assert not found.met and found.best.excess == pytest.approx(5.0)
    assert found.blame[0] == "s1"


def test_pinned_float_sites_stay() -> None:
    losses = [0.1, 0.1, 9.0]
    found, asked = _run(_problem(losses, {0: "float32"}), losses)
    assert found.met and found.best.high == {"s0", "s2"}
    assert all("s0" in high for high in asked)


def test_contradicted_ranking_is_asked_for_again() -> None:
    """Believed: s0 hurts. In truth keeping it hurts, and s5 is to blame."""
    true = {f"s{i}": 0.01 for i in range(8)} | {"s5": 4.0}

    def measure(high: frozenset[str]) -> float:
        return sum(x for n, x in true.items() if n not in high) + (2.0 if high & {"s0"} and "s5" not in high else 0.0)

    wrong = [5.0] + [0.01] * 7
    again = [true[f"s{i}"] for i in range(8)]
    found = Search(_problem(wrong), measure, again=lambda: _problem(again)).run()
    assert found.reranked and found.met and found.best.high == {"s5"}


def test_a_measure_that_is_no_number_is_never_kept() -> None:
    found = Search(_problem([1.0, 1.0]), lambda high: math.nan).run()
    assert found.met and found.best.high == {"s0", "s1"}, "all float is what remains"


def test_give_back_returns_what_the_front_took_too_much() -> None:
    """Two sites that the front moves together as they tie: only one has to be kept."""
    losses = [2.0, 2.0, 0.01]
    found, _ = _run(_problem(losses), losses, budget=2.5)
    assert found.met and len(found.best.high) == 1


def test_tries_are_never_exceeded() -> None:
    losses = list(np.random.default_rng(0).lognormal(0, 1, 60))
    for tries in (1, 2, 5):
        found, asked = _run(_problem(losses), losses, budget=0.01, tries=tries)
        assert len(asked) <= max(tries, 1) and len(found.tried) <= tries + 1
