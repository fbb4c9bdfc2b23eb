"""The plot of every point that was tried, and what each step of the way gained and cost."""

from __future__ import annotations

import math

from temper.precision.outcome import Outcome, Point, Step
from temper.report.axes import Axis, linear, logarithmic
from temper.report.derived import badness, by_metric, front, time_of
from temper.report.markup import Markup, join, scroller, section, table, tag
from temper.report.words import UNKNOWN, milliseconds, number, plural, times

#: Divergences that span more than this are plotted on a logarithmic axis.
_WIDE = 20.0

_KINDS = {"float": "FP32", "naive": "naive INT8", "chosen": "chosen", "tried": "tried"}


def points_section(outcome: Outcome) -> Markup | None:
    """Time against quality of every point, and the same as a table."""
    points = outcome.points
    shown = [p for p in points if time_of(p) is not None and badness(p, points) is not None]
    hidden = len(points) - len(shown)
    parts: list[Markup | None] = [
        _plane(outcome, shown) if len(shown) > 1 else None,
        tag("p", f"In the table only: {plural(hidden, 'point')} whose time or quality is not known.")
        if hidden and len(shown) > 1
        else None,
        _points_table(outcome),
    ]
    return section("points", "Speed against accuracy", *parts)


def _quality(outcome: Outcome) -> str:
    return (outcome.budget.metric or "metric") if by_metric(outcome.points) else "divergence"


def _plane(outcome: Outcome, shown: list[Point]) -> Markup:
    points = outcome.points
    metric = by_metric(points)
    x = linear([time_of(p) or 0.0 for p in shown], zero=True)
    short = x.high < 1
    values = [p.metric or 0.0 for p in shown] if metric else [_finite(badness(p, points)) for p in shown]
    limit = _limit(outcome)
    with_limit = [*values, *([] if limit is None else [limit])]
    positive = [v for v in with_limit if v > 0]
    log = not metric and bool(positive) and max(positive) > _WIDE * min(positive)
    y = logarithmic(with_limit) if log else linear(with_limit)
    best = front(points)
    marks = [_mark(p, i, x, y, value, outcome) for i, (p, value) in enumerate(zip(shown, values, strict=True))]
    direction = "higher is better" if metric else "lower is better"
    return tag(
        "figure",
        tag("p", f"{_quality(outcome)}, {direction}{' (logarithmic)' if log else ''}", class_="axis-name"),
        tag(
            "div",
            tag("div", *(_label(y.at(t), "bottom", t) for t in y.ticks()), class_="y-ticks"),
            tag(
                "div",
                *(tag("i", class_="grid-h", style=f"bottom:{y.at(t):.2f}%") for t in y.ticks()),
                *(tag("i", class_="grid-v", style=f"left:{x.at(t):.2f}%") for t in x.ticks()),
                _line(best, points, x, y),
                None
                if limit is None
                else tag("i", tag("span", "budget"), class_="budget", style=f"bottom:{y.at(limit):.2f}%"),
                *marks,
                class_="plane",
            ),
            tag("div", *(_label(x.at(t), "left", 1e3 * t if short else t) for t in x.ticks()), class_="x-ticks"),
            class_="plot",
        ),
        tag("p", f"{'micro' if short else 'milli'}seconds, faster to the left", class_="axis-name right"),
        tag(
            "figcaption",
            _legend(shown),
            tag("p", "Touch a point, or reach it with the Tab key, to read about it.", id="point-note", role="status"),
        ),
    )


def _finite(value: float | None) -> float:
    return value if value is not None and math.isfinite(value) else 1e6


def _limit(outcome: Outcome) -> float | None:
    """Where the budget lies on the quality axis."""
    bound, baseline = outcome.budget.bound, outcome.point("float")
    if bound is None:
        return None
    if by_metric(outcome.points):
        return None if baseline is None or baseline.metric is None else baseline.metric - bound
    return bound if outcome.budget.kind == "divergence" else None


def _label(at: float, side: str, value: float) -> Markup:
    return tag("span", number(value), style=f"{side}:{at:.2f}%")


def _mark(point: Point, index: int, x: Axis, y: Axis, value: float, outcome: Outcome) -> Markup:
    about = describe(point, outcome)
    guess = point.ms is None
    return tag(
        "button",
        type="button",
        class_=f"mark {point.kind}{' guess' if guess else ''}",
        style=f"left:{x.at(time_of(point) or 0.0):.2f}%;bottom:{y.at(value):.2f}%",
        data_note=about,
        aria_label=about,
        title=about,
    )


def describe(point: Point, outcome: Outcome) -> str:
    """One line about a point, for a tooltip."""
    parts = [point.label, f"{point.sites_on} of {plural(point.sites, 'layer')} in INT8"]
    if point.ms is not None:
        baseline = outcome.point("float")
        gain = f", {times(baseline.ms / point.ms)} FP32" if baseline is not None and baseline.ms else ""
        parts.append(f"{milliseconds(point.ms)} measured{gain}")
    elif point.predicted_ms is not None:
        parts.append(f"{milliseconds(point.predicted_ms)} predicted")
    if point.metric is not None:
        parts.append(f"{outcome.budget.metric or 'metric'} {number(point.metric, 5)}")
    if point.divergence is not None:
        parts.append(f"divergence {number(point.divergence)}")
    if point.floats and point.kind != "float":
        more = f" and {len(point.floats) - 4} more" if len(point.floats) > 4 else ""
        parts.append(f"in float: {', '.join(point.floats[:4])}{more}")
    if point.compensation:
        parts.append(", ".join(point.compensation))
    return " · ".join(parts)


def _line(best: list[Point], points: tuple[Point, ...], x: Axis, y: Axis) -> Markup | None:
    """The front, as steps: between two points the better of the two faster ones is the best there is."""
    if len(best) < 2:
        return None
    sign = -1 if by_metric(points) else 1
    at = [(x.at(time_of(p) or 0.0), 100 - y.at(sign * _finite(badness(p, points)))) for p in best]
    path = f"M{at[0][0]:.2f} {at[0][1]:.2f}" + "".join(f"H{a:.2f}V{b:.2f}" for a, b in at[1:])
    shape = tag("path", d=path, vector_effect="non-scaling-stroke")
    return tag("svg", shape, class_="front", viewBox="0 0 100 100", preserveAspectRatio="none", aria_hidden="true")


def _legend(shown: list[Point]) -> Markup:
    kinds = [k for k in _KINDS if any(p.kind == k for p in shown)]
    items = [tag("li", tag("i", class_=f"mark {k}"), " ", _KINDS[k]) for k in kinds]
    if any(p.ms is None for p in shown):
        items.append(tag("li", tag("i", class_="mark tried guess"), " time predicted, not measured"))
    return tag("ul", *items, class_="legend")


def _points_table(outcome: Outcome) -> Markup:
    baseline = outcome.point("float")
    rows = [
        (
            p.label,
            _KINDS.get(p.kind, p.kind),
            f"{p.sites_on} / {p.sites}",
            milliseconds(p.ms),
            milliseconds(p.predicted_ms),
            times(baseline.ms / p.ms) if baseline is not None and baseline.ms and p.ms else UNKNOWN,
            number(p.metric, 5),
            number(p.divergence),
        )
        for p in outcome.points
    ]
    head = ("Point", "Kind", "INT8 layers", "Measured", "Predicted", "Speed-up", outcome.budget.metric or "Metric")
    return tag(
        "details",
        tag("summary", f"All {plural(len(rows), 'point')} as a table"),
        tag("p", f"Divergence: {outcome.budget.meaning}.") if outcome.budget.meaning else None,
        scroller("Every point tried", table((*head, "Divergence"), rows, class_="figures")),
    )


#: Stands for the user's metric among the measures of steps.
_METRIC = "metric"


def steps_section(outcome: Outcome) -> Markup | None:
    """What each step gained and cost, in order. Bars of one measure share an axis."""
    if not outcome.steps:
        return None
    both = [_of(s) for s in outcome.steps]
    axes = {}
    for measure in {m for m, _, _ in both}:
        known = [v for m, *pair in both if m == measure for v in pair if v is not None and math.isfinite(v)]
        axes[measure] = linear(known, zero=measure != _METRIC) if known else Axis(0.0, 1.0)
    items = [_step(s, *found, axes[found[0]], outcome) for s, found in zip(outcome.steps, both, strict=True)]
    return section(
        "steps",
        "What each step gained and cost",
        tag("p", "Bars reach from before a step to after it: green for the better, red for the worse."),
        tag("ol", *items, class_="steps"),
    )


def _of(step: Step) -> tuple[str, float | None, float | None]:
    """What a step is judged by, before and after it: the metric if it is known."""
    if step.metric_after is not None:
        return _METRIC, step.metric_before, step.metric_after
    return step.measure or "divergence", step.divergence_before, step.divergence_after


def _step(step: Step, measure: str, before: float | None, after: float | None, axis: Axis, outcome: Outcome) -> Markup:
    bar: Markup | None = None
    if before is not None and after is not None:
        a, b = sorted((axis.at(before), axis.at(after)))
        better = (after > before) == (measure == _METRIC)
        kind = "same" if before == after else "better" if better else "worse"
        bar = tag("div", tag("i", class_=kind, style=f"left:{a:.2f}%;width:{max(b - a, 0.6):.2f}%"), class_="bar")
    spent = ""
    if step.ms_before is not None and step.ms_after is not None:
        spent = f"{milliseconds(step.ms_before)} → {milliseconds(step.ms_after)}"
    change = UNKNOWN
    if after is not None:
        name = (outcome.budget.metric or measure) if measure == _METRIC else measure
        change = f"{name} {number(after) if before is None else f'{number(before)} → {number(after)}'}"
    return tag(
        "li",
        tag("div", tag("b", step.name), " ", _taken(step), class_="step-name"),
        tag("div", join(change), class_="step-change"),
        bar or tag("div", class_="bar none"),
        tag("div", spent, class_="step-time"),
        tag("p", step.why, class_="step-why"),
        class_=None if step.accepted else "refused",
    )


def _taken(step: Step) -> Markup:
    return tag("span", "taken" if step.accepted else "not taken", class_=f"chip {'yes' if step.accepted else 'no'}")
