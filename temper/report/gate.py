"""Reasons to fail a build in continuous integration, read off its outcome and an earlier one."""

from __future__ import annotations

from collections.abc import Collection

from temper.errors import ConfigError
from temper.precision.outcome import Outcome
from temper.report.derived import by_metric, verdict
from temper.report.words import milliseconds, number, percent, plural

#: What can be asked for, and what it means.
CONDITIONS = {
    "budget": "the budget was not kept",
    "uncertain": "the samples do not certify the budget, or there are no labelled answers",
    "warnings": "the build warned",
    "synthetic": "calibrated on random data",
    "accuracy": "the metric (or the divergence) is worse than the baseline's",
    "latency": "slower than the baseline",
}

#: Conditions that compare with an earlier outcome.
COMPARING = frozenset({"accuracy", "latency"})


def failures(
    outcome: Outcome,
    conditions: Collection[str],
    baseline: Outcome | None = None,
    *,
    tolerance: float = 0.0,
    slowdown: float = 0.05,
) -> list[str]:
    """A sentence for each condition that holds; [] lets the build pass.

    tolerance: by how much the metric may be lower (or the divergence higher), in its own unit. slowdown: by which part
    of the baseline's latency it may be slower. ConfigError for an unknown condition, or one that needs a baseline.
    """
    for c in conditions:
        if c not in CONDITIONS:
            raise ConfigError(f"nothing known as '{c}' to fail on; there are {', '.join(CONDITIONS)}")
        if c in COMPARING and baseline is None:
            raise ConfigError(f"'{c}' compares with an earlier build: name its JSON file with --baseline")
    found = {
        "budget": None if outcome.met else outcome.verdict or "it was not kept",
        "uncertain": _uncertain(outcome),
        "warnings": "; ".join(outcome.warnings) or None,
        "synthetic": "calibrated on random data: nothing is known of the accuracy" if outcome.data.synthetic else None,
        "accuracy": None if baseline is None else _worse(outcome, baseline, tolerance),
        "latency": None if baseline is None else _slower(outcome, baseline, slowdown),
    }
    return [f"{c}: {text}" for c in CONDITIONS if c in conditions and (text := found[c]) is not None]


def _uncertain(outcome: Outcome) -> str | None:
    judged = verdict(outcome)
    if judged.certainty is None or judged.chosen is None or judged.chosen.test is None:
        return "no labelled answers were recorded, so nothing can be certified"
    if judged.certainty.kind == "certified":
        return None
    test = judged.chosen.test
    return (
        f"{plural(test.n, 'sample')}: loss {percent(test.loss)}, 95 % interval up to {percent(test.high)}, "
        f"bound {percent(judged.bound)}"
    )


def _worse(outcome: Outcome, baseline: Outcome, tolerance: float) -> str | None:
    new, old = outcome.point("chosen"), baseline.point("chosen")
    if new is None or old is None:
        return "one of the builds has no chosen point"
    if by_metric(outcome.points) and by_metric(baseline.points):
        assert new.metric is not None and old.metric is not None
        if new.metric >= old.metric - tolerance:
            return None
        return f"{outcome.budget.metric or 'metric'} {number(old.metric, 5)} became {number(new.metric, 5)}"
    if new.divergence is None or old.divergence is None:
        return "neither a metric nor a divergence is known of both builds"
    if new.divergence <= old.divergence + tolerance:
        return None
    return f"divergence {number(old.divergence)} became {number(new.divergence)}"


def _slower(outcome: Outcome, baseline: Outcome, slowdown: float) -> str | None:
    if outcome.machine.cpu != baseline.machine.cpu or outcome.machine.threads != baseline.machine.threads:
        where = [f"{m.cpu} ({plural(m.threads, 'thread')})" for m in (baseline.machine, outcome.machine)]
        return f"latencies of {where[0]} and {where[1]} cannot be compared"
    new, old = outcome.point("chosen"), baseline.point("chosen")
    if new is None or old is None or new.ms is None or old.ms is None:
        return "the latency of one of the builds was not measured"
    if new.ms <= old.ms * (1 + slowdown):
        return None
    return f"{milliseconds(old.ms)} became {milliseconds(new.ms)}"
