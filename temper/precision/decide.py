"""Which sites stay in float: nothing asked, a user's metric, or the outputs' distance from the float engine's."""

from __future__ import annotations

import math
from dataclasses import dataclass

from temper.precision.account import Account
from temper.precision.divergence import worst
from temper.precision.request import DROP, Metric, Request, name_of
from temper.precision.trials import Trials


@dataclass
class _Budget:
    """Excess of a choice: what it loses over what it may lose."""

    trials: Trials
    request: Request
    account: Account
    metric: Metric | None = None
    score: float = 0.0
    drop: float = 0.0

    def start(self) -> None:
        """Looks at the float engine."""
        self.account.point(self.trials, self.trials.everything, "float", "FP32")
        if self.request.evaluate is not None:
            self.metric = Metric(self.request.evaluate, name_of(self.request.evaluate))
            self.score = self.trials.score(self.metric, self.trials.everything)
            self.drop = DROP * abs(self.score) if self.request.max_drop is None else self.request.max_drop
            self.account.point(self.trials, self.trials.everything, "float", "FP32", metric=self.score)
            self.account.say(f"FP32: {self.metric.name} {self.score:.6g}; it may drop by {self.drop:.4g}")

    def excess(self, floats: frozenset[str], label: str = "tried") -> float:
        """At most 1 keeps the budget."""
        found = self.trials.divergence(floats)
        ratio = worst(found, self.request.bounds)
        if self.metric is None:
            self.account.point(self.trials, floats, "tried", label, found)
            self.account.say(f"{self._what(floats)}: divergence {ratio:.3g} of the bound")
            return ratio
        score = self.trials.score(self.metric, floats)
        self.account.point(self.trials, floats, "tried", label, found, metric=score)
        self.account.say(f"{self._what(floats)}: {self.metric.name} {score:.6g} ({score - self.score:+.4g})")
        lost = self.score - score
        if lost <= 0:
            return 0.0
        return lost / self.drop if self.drop else math.inf

    def _what(self, floats: frozenset[str]) -> str:
        kept = len(floats)
        return f"{len(self.trials.everything) - kept} layers in INT8, {kept} in float"


def decide(trials: Trials, request: Request, account: Account) -> frozenset[str]:
    """The sites that stay in float; the account gets what was tried, the verdict and the reasons."""
    budget = _Budget(trials, request, account)
    budget.start()
    account.point(trials, trials.naive, "tried", "all INT8")
    if request.pure_int8:
        account.verdict = "--pure-int8: nothing was kept in float to save accuracy"
        return trials.naive
    if trials.held is None and budget.metric is None:
        account.warn("there is no data to judge by: everything is INT8, and what that costs in accuracy is not known")
        account.verdict = "not known: there was no data to judge by"
        return trials.naive
    excess = budget.excess(trials.naive, "all INT8")
    account.met = excess <= 1
    account.verdict = f"all INT8 is at {excess:.3g} of the bound"
    return trials.naive
