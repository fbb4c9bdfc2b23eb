"""Layers that the budget would allow in INT8, but that are faster in higher precision.

INT8 moves fewer bytes and multiplies faster, but rounds to codes what a kernel could have passed on: an attention whose
time goes into softmax, or a small layer, may lose by it. Each step costs more than the one before, and is taken only if
that one promises a gain: known or predicted times, without building anything; an engine with those layers in float,
which tunes only them; its layers' times against their own in INT8; and finally both whole engines, which decide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from temper.precision import costs
from temper.precision import outcome as record
from temper.precision.evidence import Evidence
from temper.quantize import solver

#: Share of a layer's time that it must gain, by measured times and by predicted ones.
_MEASURED, _PREDICTED = 0.03, 0.05

#: Of what a conversion is priced at, the part that counts here: a product that writes 16 bits instead of codes moves
#: one byte more, where a step of its own moves three. The engine that is built will tell.
_CONVERTING = 2 / 3

#: Share of the whole engine's time that must be gained: less may be noise, and INT8 needs less memory.
_WORTH = 0.02

_WORDS = {"float16": "FP16", "bfloat16": "BF16", "float32": "FP32", "float8": "FP8"}


@dataclass
class FloatForSpeed:
    """excess, accepts: of a real engine, as `decide.Budget` has them."""

    evidence: Evidence
    excess: Callable[[frozenset[str]], float]
    accepts: Callable[[frozenset[str]], bool]

    def raised(self, chosen: frozenset[str]) -> frozenset[str]:
        """The choice, which keeps the budget, with further sites in float that are faster so."""
        trials = self.evidence.trials
        subject = trials.subject
        if trials.held is None or subject.absent or not subject.config.effort:  # nothing was tuned
            return chosen
        able = trials.everything - chosen - subject.pins.low
        candidates = self._candidates(chosen, able)
        if not candidates:
            return chosen
        before = self.evidence.timed(trials.aimed(chosen))
        mixed = chosen | candidates
        after = self.evidence.timed(trials.aimed(mixed))
        kept = self._kept(candidates, before, after)
        if not kept:
            self._told(len(candidates), "no faster in float, once they are built")
            return chosen
        if kept < candidates:
            mixed = chosen | kept
            after = self.evidence.timed(trials.aimed(mixed))
        plans = {k: trials.aimed(k).plan for k in (chosen, mixed)}
        seconds = costs.timed(plans, self.evidence.held[0], device=subject.config.device)
        if seconds[mixed] > (1 - _WORTH) * seconds[chosen]:
            self._told(len(kept), "the whole engine is hardly faster so", chosen, mixed, seconds)
            return chosen
        if self.evidence.left < 1:
            self._told(len(kept), "faster, but there is no pass left to look at the outputs", chosen, mixed, seconds)
            return chosen
        self.excess(mixed)
        if not self.accepts(mixed):
            self._told(len(kept), "faster, but the budget does not hold so", chosen, mixed, seconds)
            return chosen
        self._told(len(kept), "faster than in INT8, as measured", chosen, mixed, seconds, taken=True)
        self._reasons(kept, mixed, before, after)
        return mixed

    # ---- which ----

    def _candidates(self, chosen: frozenset[str], able: frozenset[str]) -> frozenset[str]:
        """Sites that ought to be faster in float, conversions included."""
        trials = self.evidence.trials
        known = self.evidence.estimates(chosen)
        if known is None:
            return frozenset()
        quick, slow, measured = known
        margin = _MEASURED if measured else _PREDICTED
        rows = trials.aimed(chosen).plan.report.get("regions", ())
        quick = costs.shared(quick, slow, costs.together(rows, trials.subject.sites))
        gain = {n: (1 - margin) * quick.sites[n] - slow.sites[n] for n in able}
        if sum(g for g in gain.values() if g > 0) < _WORTH * quick.total:
            return frozenset()  # without looking at conversions
        pins = dict.fromkeys(trials.everything - able, "int8") | dict.fromkeys(chosen, "float32")
        demanded = costs.Times({n: t + margin * quick.sites[n] for n, t in slow.sites.items()}, slow.rest)
        links = [
            solver.Edge(e.source, e.reader, {k: _CONVERTING * t for k, t in e.seconds.items()})
            for e in self.evidence.links()
        ]
        problem = costs.problem(trials.subject.sites, quick, demanded, links, {}, pins)
        best, now = problem.best(0.0), problem.evaluate(chosen & trials.everything)
        if now.seconds - best.seconds < _WORTH * (now.seconds + quick.rest):
            return frozenset()
        return best.high & able

    def _kept(self, candidates: frozenset[str], before: costs.Times, after: costs.Times) -> frozenset[str]:
        """Of the candidates those that made their part of the engine faster: theirs and what they exchange data with,
        since conversions are part of either."""
        found: set[str] = set()
        for part, around in parts(candidates, self.evidence.links()):
            was, now = (sum(t.sites[n] for n in around) for t in (before, after))
            if was - now > _MEASURED * sum(before.sites[n] for n in part):
                found |= part
        return frozenset(found)

    # ---- for the record ----

    def _reasons(self, kept: frozenset[str], mixed: frozenset[str], before: costs.Times, after: costs.Times) -> None:
        account, trials = self.evidence.account, self.evidence.trials
        halves = trials.halves(mixed)
        for n in kept:
            quick, slow = before.sites[n], after.sites[n]
            word = _WORDS[trials.subject.half if n in halves else "float32"]
            if slow < quick:
                account.why[n] = f"faster in {word}: {_us(slow)} against {_us(quick)} in {self.evidence.request.word}"
            else:
                account.why[n] = f"beside layers that are faster in {word}: no conversions between them"
        account.int8_seconds = {**account.int8_seconds, **{n: before.sites[n] for n in kept}}
        account.float_seconds = {**account.float_seconds, **{n: after.sites[n] for n in kept}}

    def _told(
        self,
        count: int,
        why: str,
        chosen: frozenset[str] = frozenset(),
        mixed: frozenset[str] = frozenset(),
        seconds: Mapping[frozenset[str], float] | None = None,
        taken: bool = False,
    ) -> None:
        account = self.evidence.account
        name = f"{count} layer{'s' * (count != 1)} in float for speed"
        times = None if seconds is None else (1e3 * seconds[chosen], 1e3 * seconds[mixed])
        account.say(f"{name}: {why}" + (f" ({times[0]:.4g} ms -> {times[1]:.4g} ms)" if times else ""))
        step = record.Step(name, taken, why)
        if times is not None:
            step = replace(step, ms_before=times[0], ms_after=times[1])
        if (before := account.points.get(chosen)) is not None:
            step = replace(step, divergence_before=before.divergence, metric_before=before.metric)
        if (after := account.points.get(mixed)) is not None:
            step = replace(step, divergence_after=after.divergence, metric_after=after.metric)
        account.steps.append(step)


def parts(names: Iterable[str], links: Iterable[solver.Edge]) -> list[tuple[frozenset[str], frozenset[str]]]:
    """The sites in groups that share no neighbour, each with its neighbours and itself."""
    around: dict[str, set[str]] = {n: {n} for n in names}
    for e in links:
        for a, b in ((e.source, e.reader), (e.reader, e.source)):
            if a in around:
                around[a].add(b)
    found: list[tuple[set[str], set[str]]] = []
    for n, near in around.items():
        own, reach = {n}, set(near)
        rest = []
        for group, its in found:
            if its & reach:
                own |= group
                reach |= its
            else:
                rest.append((group, its))
        found = [*rest, (own, reach)]
    return [(frozenset(a), frozenset(b)) for a, b in found]


def _us(seconds: float) -> str:
    return f"{1e6 * seconds:.0f} us" if seconds >= 1e-5 else f"{1e6 * seconds:.1f} us"
