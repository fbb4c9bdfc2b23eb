"""The top of the page: was the budget kept, how sure is that, and the three engines side by side."""

from __future__ import annotations

from temper.precision.outcome import Outcome, Point
from temper.report.answers import Changes
from temper.report.axes import Axis
from temper.report.derived import Verdict
from temper.report.markup import Child, Markup, scroller, tag
from temper.report.statistics import Paired
from temper.report.words import UNKNOWN, milliseconds, number, percent, plural, size, times


def banner(outcome: Outcome) -> Markup | None:
    """Said first and loudly: synthetic data tells nothing about accuracy."""
    if not outcome.data.synthetic:
        return None
    return tag(
        "p",
        tag("b", "Random data. "),
        "This engine was calibrated on random numbers, as was asked for. Its times are real; nothing on this page says "
        "anything about its accuracy on real inputs. Calibrate on real data before using it.",
        class_="banner",
        role="alert",
    )


def verdict_box(outcome: Outcome, found: Verdict) -> Markup:
    """The sentence, the table of engines, the interval."""
    tone, chosen = "yes" if found.passed else "no", found.chosen
    test = chosen.test if chosen is not None else None
    return tag(
        "section",
        tag("p", tag("span", _word(outcome, found), class_=f"stamp {tone}"), class_="stamp-row"),
        tag("p", lead(outcome), class_="lead"),
        tag("p", outcome.verdict) if outcome.verdict else None,
        *(tag("p", line) for line in _certainty(outcome, found)),
        _interval(test, found.bound) if test is not None and found.bound is not None else None,
        scroller("The engines side by side", _engines(outcome, found)),
        tag("ul", *(tag("li", w) for w in outcome.warnings), class_="warnings") if outcome.warnings else None,
        id="verdict",
        class_=f"verdict {tone}",
    )


def lead(outcome: Outcome) -> str:
    """The result in a sentence or two."""
    baseline, chosen = outcome.point("float"), outcome.point("chosen")
    kept = {"none": "There was no budget to keep", "metric": f"a drop of {outcome.budget.metric or 'the metric'}"}
    if outcome.budget.kind == "none" or outcome.budget.bound is None:
        start = kept["none"]
    else:
        what = kept.get(outcome.budget.kind, "a divergence")
        verb = "Keeps" if outcome.met else "Does not keep"
        start = f"{verb} the budget, {what} of at most {number(outcome.budget.bound)}"
    if chosen is None:
        return f"{start}."
    layers = f"{chosen.sites_on} of {plural(chosen.sites, 'layer')} in INT8"
    speed = _speed(baseline, chosen)
    return f"{start}: {layers}{f', {speed} the speed of FP32' if speed != UNKNOWN else ''}."


def _word(outcome: Outcome, found: Verdict) -> str:
    if outcome.data.synthetic:
        return "NO VERDICT"
    if outcome.budget.kind == "none":
        return "NO BUDGET"
    return "PASS" if found.passed else "FAIL"


def _certainty(outcome: Outcome, found: Verdict) -> list[str]:
    """What the samples can and cannot certify, in sentences."""
    answers, chosen = outcome.answers, found.chosen
    if answers is None or chosen is None:
        return [
            "No answers were recorded sample by sample, so there is no confidence interval: the figures are those of "
            "the samples at hand."
        ]
    where = f"on {plural(chosen.n, 'sample')} ({answers.origin})"
    lines = []
    if chosen.test is None:
        lines.append(
            f"Without labels: {percent(chosen.churn)} of the answers change {where}, 95 % interval "
            f"{percent(chosen.churn_low)} to {percent(chosen.churn_high)}. Accuracy cannot fall by more than that."
        )
    elif found.certainty is not None and found.bound is not None:
        test, bound = chosen.test, percent(found.bound)
        lines.append(
            f"Accuracy {where}: {percent(chosen.baseline_right)} in FP32, {percent(chosen.right)} in INT8. "
            f"Loss {percent(test.loss)}, 95 % interval {percent(test.low)} to {percent(test.high)} "
            f"(standard error {percent(test.error)}; {test.b} went wrong, {test.c} became right)."
        )
        lines.append(_sure(found.certainty.kind, found.certainty.needed, test, bound))
    if answers.searched:
        lines.append("The search looked at these samples, so they flatter the result: judge by others.")
    return lines


def _sure(kind: str, needed: int | None, test: Paired, bound: str) -> str:
    if kind == "certified":
        return f"The whole interval lies within a loss of {bound}: these samples certify it."
    if kind == "exceeded":
        return f"The whole interval lies beyond a loss of {bound}: the loss is real."
    if kind == "unlikely":
        return f"The loss exceeds {bound}, but chance alone could explain it: the interval reaches below."
    about = f"at these rates about {needed:,} would do" if needed else "at these rates no affordable number would do"
    return f"N = {test.n:,} is too small to certify a loss of at most {bound}: the interval reaches beyond; {about}."


def _interval(test: Paired, bound: float) -> Markup:
    """The loss, its interval and the bound on one line."""
    ends = [test.low, test.high, 0.0, bound]
    room = 0.15 * (max(ends) - min(ends)) or 0.001
    axis = Axis(min(ends) - room, max(ends) + room)
    kind = "yes" if test.high <= bound else "no" if test.low > bound else "unsure"
    told = f"Loss {percent(test.loss)}, between {percent(test.low)} and {percent(test.high)}; bound {percent(bound)}"
    left, right = axis.at(test.low), axis.at(test.high)
    return tag(
        "div",
        tag("div", class_="allowed", style=f"width:{axis.at(bound):.2f}%"),
        tag("i", class_="zero", style=f"left:{axis.at(0.0):.2f}%"),
        tag("i", class_="bound", style=f"left:{axis.at(bound):.2f}%"),
        tag("i", class_=f"reach {kind}", style=f"left:{left:.2f}%;width:{right - left:.2f}%"),
        tag("i", class_=f"dot {kind}", style=f"left:{axis.at(test.loss):.2f}%"),
        tag("span", "no loss", style=f"left:{axis.at(0.0):.2f}%"),
        tag("span", f"bound {percent(bound)}", style=f"left:{axis.at(bound):.2f}%", class_="upper"),
        class_="interval",
        role="img",
        aria_label=told,
    )


def _engines(outcome: Outcome, found: Verdict) -> Markup:
    baseline, naive, chosen = outcome.point("float"), _naive(outcome), outcome.point("chosen")
    columns = [("FP32", baseline), ("naive INT8", naive), ("Temper INT8", chosen)]
    keep = [i for i, (_, p) in enumerate(columns) if p is not None or (i == 1 and found.naive is not None)]
    points = [p for _, p in columns]
    rows: list[tuple[str, list[Child]]] = []

    def row(title: str, cells: list[Child]) -> None:
        if any(c not in (UNKNOWN, "", None) for c in cells):
            rows.append((title, cells))

    name = outcome.budget.metric or "metric"
    row(name, [number(p.metric, 5) if p else UNKNOWN for p in points])
    row("divergence", [number(p.divergence) if p else UNKNOWN for p in points])
    if found.chosen is not None:
        sides: list[Changes | None] = [None, found.naive, found.chosen]
        first = percent(found.chosen.baseline_right)
        row("accuracy", [first, *(percent(c.right) if c else UNKNOWN for c in sides[1:])])
        row("loss, 95 % interval", ["", *(_loss(c) for c in sides[1:])])
        row("changed answers", ["", *(percent(c.churn) if c else UNKNOWN for c in sides[1:])])
        row("characters wrong", [UNKNOWN if e is None else str(e) for e in found.edits])
    row("latency", [milliseconds(p.ms) if p else UNKNOWN for p in points])
    row("speed-up", ["", *(_speed(baseline, p) for p in points[1:])])
    row("layers in INT8", [f"{p.sites_on} / {p.sites}" if p else UNKNOWN for p in points])
    row("plan", [size(p.size) if p else UNKNOWN for p in points])
    head = tag("tr", tag("td"), *(tag("th", columns[i][0], scope="col") for i in keep))
    body = [tag("tr", tag("th", title, scope="row"), *(tag("td", cells[i]) for i in keep)) for title, cells in rows]
    return tag("table", tag("thead", head), tag("tbody", *body), class_="engines")


def _naive(outcome: Outcome) -> Point | None:
    """The engine whose answers are told as naive: of a build's own answers, that with the most layers in INT8."""
    point, answers = outcome.point("naive"), outcome.answers
    if point is not None or answers is None or not answers.searched or answers.naive is None:
        return point
    return max((p for p in outcome.points if p.kind in ("tried", "chosen")), key=lambda p: p.sites_on, default=None)


def _loss(change: Changes | None) -> str:
    if change is None or change.test is None:
        return UNKNOWN
    return f"{percent(change.test.loss)} ({percent(change.test.low)} to {percent(change.test.high)})"


def _speed(baseline: Point | None, point: Point | None) -> str:
    if baseline is None or point is None or not baseline.ms or not point.ms:
        return UNKNOWN
    return times(baseline.ms / point.ms)
