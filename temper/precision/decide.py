"""Decides which sites stay in float: none, by a user's metric, or by the outputs' distance from float ones."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from temper.precision import costs
from temper.precision import outcome as record
from temper.precision.calibration import Calibration
from temper.precision.divergence import Divergence, share, worst
from temper.precision.evaluation_inputs import recorded_inputs
from temper.precision.evidence import Evidence
from temper.precision.float8_fallback import Float8Fallback
from temper.precision.float_for_speed import FloatForSpeed
from temper.precision.outcome_builder import OutcomeBuilder, layers
from temper.precision.request import DROP, Metric, Request, name_of
from temper.precision.search import Found, Search, Tried
from temper.precision.simulate import Simulator
from temper.precision.trials import Trials
from temper.quantize.solver import Problem

#: Engines that a search by a metric may try, the first one included.
_TRIES = 12

#: Share of all INT8's time that may be spent on accuracy where a choice is accepted, but falls short of what is aimed
#: at; the share that predictions are held to; and what may be spent where the choice already costs more than that.
_SPEND, _SPEND_PREDICTED, _LITTLE = 0.08, 0.06, 0.02

#: Share of its own time that may be spent on accuracy where a choice is accepted but all INT8 is spoiled.
_SPEND_SPOILED = 0.15

#: A search for what is just accepted stays this far below it, since it is simulated and few samples judge.
_MARGIN = 0.8

#: All INT8 that is this many times further off than is accepted is spoiled: its speed cannot be had, and more may be
#: spent on what is aimed at. Nearer to the bound it may well do, so that most of its speed is kept. Times do not decide
#: which it is: they vary from build to build.
_SPOILED = 2.0

#: Searches after the real engine turned out to be worse than its simulation.
_ROUNDS = 3


def decide(
    trials: Trials,
    request: Request,
    account: OutcomeBuilder,
    calibration: Calibration | None,
    simulator: Simulator | None = None,
) -> frozenset[str]:
    """The sites that stay in float; the account gets what was tried, the verdict and the reasons. simulator: of the
    recipe, if there is one already."""
    budget = Budget(trials, request, account)
    budget.start()
    account.point(trials, trials.naive, "tried", request.everything)
    if request.pure_int8:
        account.verdict = f"not looked at: pure {request.word} was asked for"
        return trials.naive
    if trials.held is None and budget.metric is None:
        account.warn(
            f"a calibration cache holds ranges, and no data to judge by: everything is {request.word}, and what that "
            "costs in accuracy is not known. Give inputs too (--calib), or a score (--eval), and what loses too much "
            "stays in float; --pure-int8 says that this is what you want"
        )
        account.verdict = "not known: there was no data to judge by"
        return trials.naive
    excess = budget.excess(trials.naive, request.everything)
    chosen = trials.naive
    evidence = Evidence(trials, request, account, calibration, simulator)
    if budget.accepts(chosen):
        if excess > 1.0 and (better := Unlabelled(evidence, budget).improved(trials.naive)):
            chosen = better
    else:
        no_data = trials.held is None
        if budget.metric is not None and no_data and not _ranked_by_evaluation(trials, budget.metric, account):
            found = budget.safe()
        elif budget.metric is not None:
            problem = evidence.problem()
            search = Search(problem, budget.excess, _TRIES, evidence.again)
            search.tried[chosen] = Tried(chosen, excess, problem.evaluate(chosen).seconds, request.everything)
            found = search.run()
        else:
            found = Unlabelled(evidence, budget).run()
        chosen = found.best.high
        account.met = budget.accepts(chosen)
    evidence.reasons(chosen - trials.naive)
    if account.met:
        chosen = Float8Fallback(evidence, budget.excess, budget.accepts).lowered(chosen)
        chosen = FloatForSpeed(evidence, budget.excess, budget.accepts).raised(chosen)
    account.verdict = budget.verdict(chosen)
    if not account.met:
        blame = f"; most to blame: {', '.join(found.blame)}" if found.blame else ""
        account.verdict += blame
        account.warn(f"the accuracy budget is not met{blame}")
    return chosen


def _ranked_by_evaluation(trials: Trials, metric: Metric, account: OutcomeBuilder) -> bool:
    """Without calibration data, layers are ranked by what the evaluation runs; False if that is not to be had."""
    found = recorded_inputs(trials.subject, trials.build(trials.everything).plan, metric)
    if found is None:
        account.warn(
            f"there is no data to search with: {metric.name} ran no engine(...) or engine.run(...) that could be "
            "listened to. Everything that may be is in float; give inputs beside the calibration cache (--calib)"
        )
        return False
    source = record.Source(f"inputs of {metric.name}", found.digest, f"{len(found)} batches, {found.count} samples")
    account.data = record.Data(source, 0, found.count)
    account.warn(
        f"layers were ranked by {found.count:,} inputs that {metric.name} runs, since there is no calibration data; "
        "its score decided"
    )
    trials.held, trials.memory = found, trials.memory.beside(found.digest)
    return True


@dataclass
class Budget:
    """Excess of a choice: what it loses over what it may lose."""

    trials: Trials
    request: Request
    account: OutcomeBuilder
    metric: Metric | None = None
    score: float = 0.0
    drop: float = 0.0
    scores: dict[frozenset[str], float] = field(default_factory=dict)

    def start(self) -> None:
        """Looks at the float engine."""
        self.account.point(self.trials, self.trials.everything, "float", "FP32")
        if self.request.evaluate is not None:
            self.metric = Metric(self.request.evaluate, name_of(self.request.evaluate))
            self.score = self.trials.score(self.metric, self.trials.everything)
            self.drop = DROP * abs(self.score) if self.request.max_drop is None else self.request.max_drop
            self.account.drop = self.drop
            self.account.point(self.trials, self.trials.everything, "float", "FP32", metric=self.score)
            self.account.say(f"FP32: {self.metric.name} {self.score:.6g}; it may drop by {self.drop:.4g}")

    def excess(self, floats: frozenset[str], label: str = "") -> float:
        """Of a real engine, from what is aimed at; at most 1 keeps the budget."""
        if self.metric is None:
            found = self.trials.divergence(floats)
            ratio = worst(found, self.request.bounds, aim=True)
            self.account.point(self.trials, floats, "tried", label, found)
            self.account.say(
                f"{self._what(floats)}: outputs off by {share(worst(found, self.request.bounds))} what is accepted, "
                f"{share(ratio)} what is aimed at"
            )
            return ratio
        score = self.scores[floats] = self.trials.score(self.metric, floats)
        self.account.point(self.trials, floats, "tried", label, metric=score)
        self.account.say(f"{self._what(floats)}: {self.metric.name} {score:.6g} ({score - self.score:+.4g})")
        lost = self.score - score
        if lost <= 0:
            return 0.0
        return lost / self.drop if self.drop else math.inf

    def accepts(self, floats: frozenset[str]) -> bool:
        """Of an engine that was looked at."""
        if self.metric is None:
            return worst(self.trials.divergence(floats), self.request.bounds) <= 1.0
        return self.scores.get(floats, self.score) >= self.score - self.drop

    def verdict(self, floats: frozenset[str]) -> str:
        """One sentence on an engine that was looked at."""
        kept = f"budget {'kept' if self.accepts(floats) else 'NOT MET'}: "
        if self.metric is None:
            found = self.trials.divergence(floats)
            samples = self.trials.held.count if self.trials.held else 0
            return (
                f"{kept}on {samples:,} held-back sample{'s' * (samples != 1)} outputs differ from FP32's by "
                f"{share(worst(found, self.request.bounds))} what is accepted ({_measures(found)})"
            )
        score = self.scores.get(floats, self.score)
        change = f"{score - self.score:+.4g}; it may drop by {self.drop:.4g}"
        return f"{kept}{self.metric.name} {score:.6g} where FP32 has {self.score:.6g} ({change})"

    def safe(self) -> Found:
        """Everything that may be in float."""
        chosen = self.trials.everything - self.trials.subject.pins.low
        excess = 0.0 if chosen >= self.trials.recipe.sites else self.excess(chosen)
        return Found(Tried(chosen, excess, 0.0, "everything that may be in float"), ())

    def _what(self, floats: frozenset[str]) -> str:
        eights = len(self.trials.eights(floats))
        on = len(self.trials.everything - floats)
        return layers(on, len(self.trials.everything) - on - eights, self.request.word, eights)


@dataclass
class Unlabelled:
    """The search by divergence: simulated, then confirmed by the real engine."""

    evidence: Evidence
    budget: Budget
    ratio: float = 1.0
    problem: Problem = field(init=False)

    def run(self) -> Found:
        """The cheapest choice that is accepted, improved for little time. No more passes are made than there may be:
        where they do not suffice to find one that a real engine confirms, everything that may be stays in float."""
        evidence, trials = self.evidence, self.evidence.trials
        self.problem = problem = evidence.problem()
        for _ in range(_ROUNDS):
            found = self._search(self.problem)
            chosen = found.best.high
            if chosen >= trials.recipe.sites:
                return found
            if evidence.left < 1:
                break
            self.budget.excess(chosen)
            if self.budget.accepts(chosen):
                chosen = self.improved(chosen) or chosen
                best = Tried(chosen, 0.0, problem.evaluate(chosen).seconds, "chosen")
                return Found(best, found.tried, found.reranked)
            if not found.met or evidence.left < 2:
                break
            real = worst(trials.divergence(chosen), evidence.request.bounds)
            self.ratio = max(self.ratio, 1.05 * real / max(1e-9, evidence.look(chosen).over))
            evidence.account.say("the real engine is further off than its simulation: searching with that margin")
        safe = trials.everything - trials.subject.pins.low
        evidence.account.say("no choice was confirmed within the passes there are: everything that may be is in float")
        if safe < trials.everything and evidence.left >= 1:
            self.budget.excess(safe)
        excess = 0.0 if safe >= trials.recipe.sites else math.inf
        blame = () if not excess else found.blame or _blame(problem, chosen)
        return Found(Tried(safe, excess, problem.evaluate(safe).seconds, "chosen"), found.tried, found.reranked, blame)

    def improved(self, accepted: frozenset[str]) -> frozenset[str] | None:
        """What hardly more time buys for an accepted choice that falls short of the aim; None unless the real engine is
        nearer to it and about as fast."""
        evidence, trials = self.evidence, self.evidence.trials
        bounds = evidence.request.bounds
        before = worst(trials.divergence(accepted), bounds, aim=True)
        if before <= 1.0 or evidence.left < 1:
            return None
        problem = evidence.problem()
        now, least = problem.evaluate(accepted), problem.evaluate(trials.naive)
        corners = [c for c in problem.front() if c.high > accepted and c.loss < now.loss]
        spoiled = worst(trials.divergence(trials.naive), bounds) >= _SPOILED
        more = _SPEND_SPOILED if spoiled else _LITTLE
        limit = max((1 + _SPEND_PREDICTED) * least.seconds, (1 + more) * now.seconds)
        able = [c for c in corners if c.seconds <= limit]
        if not able:
            return None
        chosen = min(able, key=lambda c: c.loss).high
        if self.budget.excess(chosen, "a little time for accuracy") >= before or not self.budget.accepts(chosen):
            return None
        if trials.subject.absent:
            return chosen
        plans = {k: trials.build(k).plan for k in dict.fromkeys((trials.naive, accepted, chosen))}
        seconds = costs.timed(plans, evidence.held[0], device=trials.subject.config.device)
        limit = max((1 + _SPEND) * seconds[trials.naive], (1 + more) * seconds[accepted])
        return chosen if seconds[chosen] <= limit else None

    def _search(self, problem: Problem) -> Found:
        def measure(floats: frozenset[str]) -> float:
            return self.ratio * self.evidence.look(floats).over / _MARGIN

        known = {self.evidence.trials.naive, *self.evidence.seen}

        def left() -> int:
            return max(0, int(self.evidence.left - 1))  # one is for the real engine

        def again() -> Problem | None:
            better = self.evidence.again()
            search.tries = min(search.tries, len(search.tried) + left())
            return better

        search = Search(problem, measure, len(known) + left(), again)
        for floats in known:
            if floats in self.evidence.seen:
                search.tried[floats] = Tried(floats, measure(floats), problem.evaluate(floats).seconds, "known")
        start = worst(self.evidence.trials.divergence(self.evidence.trials.naive), self.evidence.request.bounds)
        naive, everything = self.evidence.trials.naive, self.evidence.request.everything
        search.tried[naive] = Tried(naive, start / _MARGIN, problem.evaluate(naive).seconds, everything)
        found = search.run()
        self.problem = search.problem
        return found


def _blame(problem: Problem, high: frozenset[str]) -> tuple[str, ...]:
    low = [s for s in problem.sites.values() if s.name not in high]
    return tuple(s.name for s in sorted(low, key=lambda s: -s.loss.get(problem.low, 0.0))[:5])


def _measures(found: Sequence[Divergence]) -> str:
    """The measures of the head that is worst off."""
    answers = [d for d in found if d.answers]
    if not answers:
        return f"noise is {share(max((d.noise for d in found), default=0.0))} the outputs' variance"
    d = max(answers, key=lambda d: d.loss)
    return f"expected to lose {share(d.loss)} the right answers, {d.flips:,} of {d.answers:,} answers changed"
