"""Which sites stay in float: nothing asked, a user's metric, or the outputs' distance from the float engine's."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from temper.errors import ConfigError
from temper.precision import costs
from temper.precision.account import Account
from temper.precision.calibration import Calibration
from temper.precision.divergence import Divergence, worst
from temper.precision.request import DROP, Metric, Request, name_of
from temper.precision.search import Found, Search, Tried
from temper.precision.sensitivity import losses
from temper.precision.simulate import Simulator
from temper.precision.trials import Trials
from temper.quantize.histogram import Histogram
from temper.quantize.solver import Problem

#: Engines that a search by a metric may try, the first one included.
_TRIES = 12

#: Share of the allowed work that goes into sensitivities.
_SWEEP = 0.45

#: Share of all INT8's time that is spent on accuracy where all INT8 is accepted, but falls short of what is aimed at;
#: and the share that predictions are held to.
_SPEND, _SPEND_PREDICTED = 0.08, 0.06

#: Searches after the real engine turned out to be worse than its simulation.
_ROUNDS = 3


def decide(trials: Trials, request: Request, account: Account, calibration: Calibration | None) -> frozenset[str]:
    """The sites that stay in float; the account gets what was tried, the verdict and the reasons."""
    budget = _Budget(trials, request, account)
    budget.start()
    account.point(trials, trials.naive, "tried", "all INT8")
    if request.pure_int8:
        account.verdict = "not looked at: pure INT8 was asked for"
        return trials.naive
    if trials.held is None and budget.metric is None:
        account.warn("there is no data to judge by: everything is INT8, and what that costs in accuracy is not known")
        account.verdict = "not known: there was no data to judge by"
        return trials.naive
    excess = budget.excess(trials.naive, "all INT8")
    chosen = trials.naive
    if budget.accepts(chosen):
        if excess > 1.0 and (better := _Searched(trials, request, account, calibration, budget, excess).spent()):
            chosen = better
    else:
        found = _Searched(trials, request, account, calibration, budget, excess).run()
        chosen = found.best.high
        account.met = budget.accepts(chosen)
    account.verdict = budget.verdict(chosen)
    if not account.met:
        account.verdict += f"; most to blame: {', '.join(found.blame)}"
        account.warn(f"the accuracy budget is not met: {account.verdict}")
    return chosen


@dataclass
class _Budget:
    """Excess of a choice: what it loses over what it may lose."""

    trials: Trials
    request: Request
    account: Account
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
            self.account.point(self.trials, self.trials.everything, "float", "FP32", metric=self.score)
            self.account.say(f"FP32: {self.metric.name} {self.score:.6g}; it may drop by {self.drop:.4g}")

    def excess(self, floats: frozenset[str], label: str = "tried") -> float:
        """Of a real engine, from what is aimed at; at most 1 keeps the budget."""
        if self.metric is None:
            found = self.trials.divergence(floats)
            ratio = worst(found, self.request.bounds, aim=True)
            self.account.point(self.trials, floats, "tried", label, found)
            self.account.say(
                f"{self._what(floats)}: {worst(found, self.request.bounds):.3g} of what is accepted, "
                f"{ratio:.3g} of what is aimed at"
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
        kept = "" if self.accepts(floats) else "NOT MET: "
        if self.metric is None:
            found = self.trials.divergence(floats)
            return (
                f"{kept}outputs differ from FP32's on {self.trials.held.count if self.trials.held else 0} held-back "
                f"samples by {worst(found, self.request.bounds):.2g} of what is accepted{_measures(found)}"
            )
        score = self.scores.get(floats, self.score)
        return f"{kept}{self.metric.name} {score:.6g}, {score - self.score:+.4g} (at most -{self.drop:.4g})"

    def _what(self, floats: frozenset[str]) -> str:
        kept = len(floats)
        return f"{len(self.trials.everything) - kept} layers in INT8, {kept} in float"


@dataclass
class _Searched:
    """The search, where all INT8 exceeds the budget."""

    trials: Trials
    request: Request
    account: Account
    calibration: Calibration | None
    budget: _Budget
    excess: float
    ratio: float = 1.0

    def run(self) -> Found:
        """The search, where all INT8 exceeds the budget."""
        problem, again = self._asked()
        trials = self.trials
        start = Tried(trials.naive, self.excess, problem.evaluate(trials.naive).seconds, "all INT8")
        if self.budget.metric is not None:
            search = Search(problem, self.budget.excess, _TRIES, again, self._told)
            search.tried[trials.naive] = start
            found = search.run()
        else:
            found = self._without_metric(problem, again, start)
        self._reasons(found.best.high)
        return found

    def spent(self) -> frozenset[str] | None:
        """Where all INT8 is accepted: the best that hardly more time buys, if the real engine is better and as fast."""
        problem, _ = self._asked()
        trials = self.trials
        most = problem.evaluate(trials.naive).seconds * (1 + _SPEND_PREDICTED)
        corners = [c for c in problem.front() if c.seconds <= most and c.high > trials.naive]
        if not corners or self.trials.held is None:
            return None
        chosen = min(corners, key=lambda c: c.loss).high
        if self.budget.excess(chosen, "a little time for accuracy") >= self.excess:
            return None
        plans = {k: trials.build(k).plan for k in (trials.naive, chosen)}
        seconds = costs.timed(plans, self.trials.held[0])
        if seconds[chosen] > (1 + _SPEND) * seconds[trials.naive]:
            return None
        self._reasons(chosen)
        return chosen

    def _asked(self) -> tuple[Problem, Callable[[], Problem | None]]:
        """What the solver is asked, and what it is asked if that turns out to be wrong."""
        trials, request = self.trials, self.request
        if trials.held is None:
            # a metric, but no data to measure sensitivity on
            raise ConfigError("the search needs calibration data beside the calibration cache: give --calib too")
        self.found = trials.divergence(trials.naive)
        self.prior = priors(trials, self.calibration)
        self.simulator: Simulator | None = None
        self.simulated: dict[frozenset[str], float] = {}
        fast, slow = (
            costs.site_times(trials.build(k).plan, trials.subject.sites, trials.held[0])
            for k in (trials.naive, trials.everything)
        )
        self.account.int8_seconds, self.account.float_seconds = fast.sites, slow.sites
        price = costs.conversion(trials.subject.config)
        links = costs.edges(trials.subject.graph, trials.subject.sites, price, trials.subject.optimum)
        pins = dict.fromkeys(trials.subject.pins.fp32, "float32") | dict.fromkeys(trials.subject.pins.int8, "int8")

        def problem(loss: Mapping[str, float]) -> Problem:
            self.account.loss = loss
            return costs.problem(trials.subject.sites, fast, slow, links, loss, pins)

        first = problem(self._losses())

        def again() -> Problem | None:
            if self._left() < 0.2 * request.passes:
                return None
            self.account.say("losses do not add up as predicted: measuring them again, from all INT8")
            return problem(self._losses(base=trials.recipe.sites))

        return first, again

    # ---- without a metric: simulated, then confirmed by the real engine ----

    def _without_metric(self, problem: Problem, again: Callable[[], Problem | None], start: Tried) -> Found:
        reserve = 1.0  # for the real engine
        for _ in range(_ROUNDS):
            left = max(1, int(self._left() - reserve))
            search = Search(problem, self._simulate, len(self.simulated) + left, again, self._told)
            search.tried[start.high] = start
            search.tried |= {
                k: Tried(k, x * self.ratio, problem.evaluate(k).seconds, "simulated")
                for k, x in self.simulated.items()
            }
            found = search.run()
            best = found.best
            if best.high >= self.trials.recipe.sites:
                return found
            real = self.budget.excess(best.high)
            confirmed = Tried(best.high, real, best.seconds, best.why)
            if real <= 1.0 or not found.met or self._left() < 2:
                break
            self.ratio = max(self.ratio, 1.05 * real / self.simulated[best.high])
            self.account.say(f"the real engine is {real / best.excess:.2g} times as far off as its simulation")
        return Found(confirmed, found.tried, found.reranked, found.blame if real <= 1 else _blame(problem, best.high))

    def _simulate(self, floats: frozenset[str]) -> float:
        """Excess of a choice as the simulator has it."""
        trials = self.trials
        assert trials.held is not None
        if floats not in self.simulated:

            def measure() -> float:
                simulator = self._made()
                on = trials.everything - floats
                before = simulator.work
                outputs = [simulator.run(batch, on) for batch in trials.held or ()]
                trials.passes += (simulator.work - before) / max(1, trials.held.count if trials.held else 1)
                return worst(trials.reference.compare(outputs), self.request.bounds, aim=True)

            self.simulated[floats] = float(trials.memory.get(f"simulated {trials.key(floats)}", measure))
        return self.simulated[floats] * self.ratio

    def _told(self, tried: Tried) -> None:
        if self.budget.metric is None:
            n = len(self.trials.everything)
            self.account.say(
                f"simulated {n - len(tried.high)} layers in INT8, {len(tried.high)} in float: "
                f"{tried.excess:.3g} of what is aimed at, {1e3 * tried.seconds:.3g} ms predicted ({tried.why})"
            )

    # ---- sensitivities ----

    def _made(self) -> Simulator:
        if self.simulator is None:
            self.simulator = Simulator(self.trials.subject.graph, self.trials.recipe, self.trials.subject.config)
        return self.simulator

    def _left(self) -> float:
        return self.request.passes - self.trials.passes

    def _losses(self, base: frozenset[str] = frozenset()) -> dict[str, float]:
        """Loss by site in units of what may be lost, as far as losses add up."""
        trials = self.trials
        assert trials.held is not None
        held = trials.held

        def measure() -> dict[str, float]:
            simulator = self._made()
            before = simulator.work
            report = trials.progress or (lambda stage, done, total: None)
            found = losses(
                simulator,
                held,
                trials.reference,
                [_weight(d, self.request) for d in self.found],
                self.prior,
                _SWEEP * self._left() * held.count,
                base=base,
                told=lambda done, total: report("sensitivity", done, total),
            )
            trials.passes += (simulator.work - before) / held.count
            return found

        key = f"losses {len(base)} {self.request.bounds}"
        found: dict[str, float] = trials.memory.get(key, measure)
        worst_first = sorted(found, key=lambda n: -found[n])
        total = sum(found.values()) or 1.0
        self.account.say(
            f"sensitivity of {len(found)} layers ({trials.passes:.1f} of {self.request.passes:g} passes so far): "
            + ", ".join(f"{n} {found[n] / total:.0%}" for n in worst_first[:4])
        )
        return found

    def _reasons(self, chosen: frozenset[str]) -> None:
        loss = self.account.loss
        total = sum(loss.values()) or 1.0
        for name in chosen:
            share = loss.get(name, 0.0) / total
            quick, slow = self.account.int8_seconds.get(name, 0.0), self.account.float_seconds.get(name, 0.0)
            if share >= 0.01:
                self.account.why[name] = f"makes {share:.0%} of what all layers lose in INT8"
            elif quick >= slow:
                self.account.why[name] = "no faster in INT8"
            else:
                self.account.why[name] = "beside layers in float: conversions would cost more than INT8 gains"


def _blame(problem: Problem, high: frozenset[str]) -> tuple[str, ...]:
    low = [s for s in problem.sites.values() if s.name not in high]
    return tuple(s.name for s in sorted(low, key=lambda s: -s.loss.get(problem.low, 0.0))[:5])


def _measures(found: Sequence[Divergence]) -> str:
    """The measures of the head that is worst off."""
    answers = [d for d in found if d.answers]
    if not answers:
        return f" (noise {max((d.noise for d in found), default=0.0):.2g} of the outputs' variance)"
    d = max(answers, key=lambda d: d.loss)
    return f" (expected loss of right answers {100 * d.loss:.2g} %, answers changed {d.flips} of {d.answers})"


def _weight(found: Divergence, request: Request) -> float:
    """Turns a head's energy into what it is over its bounds, by what both are with everything in INT8."""
    over = found.short(request.bounds)
    return over / found.energy if found.energy > 0 and math.isfinite(over) else 1.0


def priors(trials: Trials, calibration: Calibration | None) -> dict[str, float]:
    """By site that may be in INT8, the noise of rounding its data relative to their power (1 where it is not known)."""
    found = {}
    for s in trials.subject.sites:
        if s.name not in trials.recipe.sites:
            continue
        ratios = [1.0] if calibration is None else []
        for t in s.tensors:
            histogram = None if calibration is None else calibration.histograms.get(t)
            if histogram is not None and t in trials.recipe.amax:
                ratios.append(_noise(histogram, trials.recipe.amax[t]))
        found[s.name] = max(ratios, default=0.0) + 1e-6
    return found


def _noise(h: Histogram, amax: float) -> float:
    centre = (np.arange(len(h.counts)) + 0.5) * h.width
    power = float((h.counts * centre**2).sum())
    beyond = float((h.counts * np.maximum(centre - amax, 0) ** 2).sum())
    return ((amax / 127) ** 2 / 12 * h.total + beyond) / power if power else 0.0
