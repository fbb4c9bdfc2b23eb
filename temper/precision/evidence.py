"""The evidence that a search for precisions uses: costs of sites, their losses, and simulations of a choice."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from temper.builder import Build
from temper.errors import ConfigError
from temper.precision import costs
from temper.precision.calibration import Calibration
from temper.precision.data import Samples
from temper.precision.divergence import Divergence, share, worst
from temper.precision.outcome_builder import OutcomeBuilder, layers
from temper.precision.request import Request
from temper.precision.sensitivity import losses
from temper.precision.simulate import Simulator
from temper.precision.trials import Trials
from temper.quantize.histogram import Histogram
from temper.quantize.solver import Edge, Problem

#: Share of the allowed work that goes into sensitivities.
_SWEEP = 0.45

#: Share of the allowed work below which sensitivities are not measured anew.
_AGAIN = 0.2


@dataclass(frozen=True)
class Seen:
    """What the simulator makes of a choice: its divergence over what is accepted, and over what is aimed at."""

    over: float
    short: float


@dataclass
class Evidence:
    """Collected when it is asked for, and kept."""

    trials: Trials
    request: Request
    account: OutcomeBuilder
    calibration: Calibration | None
    simulator: Simulator | None = None
    seen: dict[frozenset[str], Seen] = field(default_factory=dict)
    _asked_again: bool = False
    _times: tuple[costs.Times, costs.Times] | None = None

    @property
    def held(self) -> Samples:
        if self.trials.held is None:
            raise ConfigError("a search needs inputs beside the calibration cache: give --calib too")
        return self.trials.held

    @property
    def left(self) -> float:
        """Passes over the held-back samples that there may still be."""
        return self.request.passes - self.trials.passes

    # ---- what the solver is asked ----

    def problem(self, base: frozenset[str] = frozenset()) -> Problem:
        """Sites, edges and losses. base: sites in INT8 while losses are measured."""
        trials = self.trials
        fast, slow = self.times()
        links = self.account.links
        pins = dict.fromkeys(trials.subject.pins.off, "float32") | dict.fromkeys(trials.subject.pins.low, "int8")
        self.account.loss = loss = self._losses(base)
        return costs.problem(trials.subject.sites, fast, slow, links, loss, pins)

    def times(self) -> tuple[costs.Times, costs.Times]:
        """Of the sites with all of them in INT8, and with none; the account gets them, and what conversions cost."""
        trials = self.trials
        if self._times is None:
            # in turn, so that what disturbs one disturbs the other
            builds = [trials.quick(), trials.higher()]
            first, second = ([self.timed(b) for b in builds] for _ in range(2))
            fast, slow = (a.least(b) for a, b in zip(first, second, strict=True))
            self._times = fast, slow
            self.account.int8_seconds, self.account.float_seconds = fast.sites, slow.sites
            self.links()
        return self._times

    def links(self) -> tuple[Edge, ...]:
        """Data between sites, and what its conversion costs; the account gets them."""
        subject = self.trials.subject
        if not self.account.links:
            half = subject.half if subject.target.widens else "float32"
            price = costs.conversion(replace(subject.plain, device=subject.config.device), not subject.absent, half)
            self.account.links = tuple(costs.edges(subject.graph, subject.sites, price, subject.optimum))
        return self.account.links

    def estimates(self, floats: frozenset[str]) -> tuple[costs.Times, costs.Times, bool] | None:
        """Times of the sites in a choice, which is built, and in higher precision, and whether these were measured:
        what is known, or found out without building another engine; None where nothing is to be had."""
        trials, subject = self.trials, self.trials.subject
        if self._times is not None:
            return (*self._times, True)
        if not subject.target.widens:
            builds = [trials.build(floats), trials.build(trials.everything)]
            first, second = ([self.timed(b) for b in builds] for _ in range(2))
            quick, slow = (a.least(b) for a, b in zip(first, second, strict=True))
            return quick, slow, True
        tuned = costs.tuned_times(trials.build(floats), subject.sites)
        if tuned is None:
            return None
        return tuned, costs.predicted_build_times(subject.parsed, subject.one, None, subject.sites), False

    def timed(self, build: Build) -> costs.Times:
        """Of the target's engine, measured, or predicted where the target is not here."""
        if self.trials.subject.absent:
            return costs.predicted_times(build, self.trials.subject.sites)
        return costs.site_times(build.plan, self.trials.subject.sites, self.held[0])

    def again(self) -> Problem | None:
        """The problem with losses measured from the other end, all others in INT8; None if there is no work left, or
        they were before."""
        if self._asked_again or self.left < _AGAIN * self.request.passes:
            return None
        self._asked_again = True
        self.account.say(f"losses do not add up as predicted: measuring them again, from {self.request.everything}")
        return self.problem(self.trials.recipe.sites)

    def _losses(self, base: frozenset[str]) -> dict[str, float]:
        """Loss by site in units of what may be lost, as far as losses add up."""
        trials, held = self.trials, self.held

        def measure() -> dict[str, float]:
            simulator = self.simulated()
            before = simulator.work
            report = trials.progress or (lambda stage, done, total: None)
            found = losses(
                simulator,
                held,
                trials.reference,
                [_weight(d, self.request) for d in trials.divergence(trials.naive)],
                priors(trials, self.calibration),
                _SWEEP * self.left * held.count,
                base=base,
                told=lambda done, total: report("sensitivity", done, total),
            )
            trials.passes += (simulator.work - before) / held.count
            return found

        found: dict[str, float] = trials.memory.get(f"losses {len(base)}", measure)
        worst_first = sorted(found, key=lambda n: -found[n])
        total = sum(found.values()) or 1.0
        self.account.say(
            f"sensitivity of {len(found)} layers ({self._spent()}): "
            + ", ".join(f"{n} {found[n] / total:.0%}" for n in worst_first[:4])
        )
        return found

    def _spent(self) -> str:
        return f"{self.trials.passes:.1f} of {self.request.passes:g} passes so far"

    # ---- what the simulator makes of a choice ----

    def look(self, floats: frozenset[str]) -> Seen:
        """One pass over the held-back samples, or less."""
        trials, held = self.trials, self.held
        if floats not in self.seen:

            def measure() -> list[float]:
                simulator = self.simulated()
                before = simulator.work
                on = trials.everything - floats
                found = trials.reference.compare([simulator.run(batch, on) for batch in held])
                trials.passes += (simulator.work - before) / held.count
                return [worst(found, self.request.bounds, aim) for aim in (False, True)]

            self.seen[floats] = Seen(*trials.memory.get(f"simulated {trials.key(floats)}", measure))
            seen = self.seen[floats]
            self.account.say(
                f"simulated {layers(len(trials.everything - floats), len(floats), self.request.word)}: outputs off by "
                f"{share(seen.over)} what is accepted, {share(seen.short)} what is aimed at ({self._spent()})"
            )
        return self.seen[floats]

    def simulated(self) -> Simulator:
        """The simulator of the recipe, made when it is first asked for."""
        if self.simulator is None:
            self.simulator = Simulator(self.trials.subject.graph, self.trials.recipe, self.trials.subject.plain)
        return self.simulator

    # ---- for the record ----

    def reasons(self, chosen: frozenset[str]) -> None:
        """Why each of these sites is in float."""
        loss = self.account.loss
        total, word = sum(loss.values()) or 1.0, self.request.word
        for name in chosen:
            share = loss.get(name, 0.0) / total
            quick, slow = self.account.int8_seconds.get(name, 0.0), self.account.float_seconds.get(name, 0.0)
            if share >= 0.01:
                self.account.why[name] = f"makes {share:.0%} of what all layers lose in {word}"
            elif not quick and not slow:
                self.account.why[name] = "computed together with a layer in float"
            elif quick >= slow:
                self.account.why[name] = f"no faster in {word}"
            else:
                self.account.why[name] = f"beside layers in float: conversions would cost more than {word} gains"


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
