"""What follows from an outcome: the figures of its verdict, as data for the page, the JSON file and the gate."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from temper.precision.outcome import Outcome, Point
from temper.report.answers import Changes, Flip, changes, edit_distance, flips
from temper.report.statistics import Certainty, certainty

#: Loss of accuracy that is asked about where the budget is not a bound on a metric.
COMMON_BOUND = 0.003


@dataclass(frozen=True)
class Verdict:
    """passed: the budget was kept and nothing known contradicts it.
    bound: loss of accuracy that `certainty` is about, None where no labels are known.
    naive, chosen: against FP32, None without answers.
    """

    passed: bool
    bound: float | None
    certainty: Certainty | None
    naive: Changes | None
    chosen: Changes | None
    flips: tuple[Flip, ...]
    edits: tuple[int | None, int | None, int | None]


def verdict(outcome: Outcome) -> Verdict:
    """Judges the answers, where there are any. Synthetic data never passes: it says nothing about accuracy."""
    answers = outcome.answers
    passed = outcome.met and not outcome.data.synthetic
    if answers is None or not answers.fp32:
        return Verdict(passed, None, None, None, None, (), (None, None, None))
    chosen = changes(answers, answers.chosen)
    naive = None if answers.naive is None else changes(answers, answers.naive)
    bound = None
    sure = None
    if chosen.test is not None:
        metric = outcome.budget.kind == "metric" and outcome.budget.bound is not None
        bound = outcome.budget.bound if metric else COMMON_BOUND
        assert bound is not None
        sure = certainty(chosen.test, bound)
    edits = tuple(None if of is None else edit_distance(answers, of) for of in _columns(outcome))
    return Verdict(passed, bound, sure, naive, chosen, tuple(flips(answers)), edits)  # type: ignore[arg-type]


def _columns(outcome: Outcome) -> tuple[Any, Any, Any]:
    a = outcome.answers
    assert a is not None
    return a.fp32, a.naive, a.chosen


def front(points: tuple[Point, ...]) -> list[Point]:
    """Those that no other beats in both time and quality (metric, or else divergence), by rising time."""
    known = [p for p in points if time_of(p) is not None and badness(p, points) is not None]
    known.sort(key=lambda p: (time_of(p), badness(p, points)))
    out: list[Point] = []
    for p in known:
        if not out or badness(p, points) < badness(out[-1], points):  # type: ignore[operator]
            out.append(p)
    return out


def time_of(point: Point) -> float | None:
    """Measured, or else predicted, milliseconds."""
    return point.ms if point.ms is not None else point.predicted_ms


def by_metric(points: tuple[Point, ...]) -> bool:
    """Are points judged by the user's metric? Only if the baseline and the chosen one have it."""
    return all(p.metric is not None for p in points if p.kind in ("float", "chosen"))


def badness(point: Point, points: tuple[Point, ...]) -> float | None:
    """What a point is judged by, lower is better."""
    if by_metric(points):
        return None if point.metric is None else -point.metric
    return 0.0 if point.kind == "float" and point.divergence is None else point.divergence


def as_json(outcome: Outcome) -> dict[str, Any]:
    """The outcome with what follows from it under "verdict_figures"; Outcome.from_json reads it."""
    found = dataclasses.asdict(verdict(outcome))
    for flip in found["flips"]:
        del flip["image"]  # it stands among the answers already
    return {**outcome.to_json(), "verdict_figures": found}
