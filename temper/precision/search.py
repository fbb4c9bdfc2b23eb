"""Searches for the fastest precisions within the budget: along the solver's front, then layers go back to INT8.

Measurements decide; predictions only choose what to measure next. `measure` gives the excess of a choice: what it loses
over what it may lose, so that at most 1 keeps the budget. The search knows neither what a site is nor how losses are
measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from temper.quantize.solver import Choice, Problem

#: Excess of a choice, given by the names of the sites in higher precision.
Measure = Callable[[frozenset[str]], float]

#: Predictions are sums over sites measured alone: guesses stay this far below the budget.
_SLACK = 0.9

#: Excess goes as this power of the predicted loss until two measurements tell: losses add up as squares of errors do,
#: and answers turn as errors do or slower.
_POWER = 0.5

#: A choice that ought to lose less than another and loses more by this factor shows that the ranking is wrong.
_DISORDER = 1.1

#: A return that is predicted to exceed the budget by this factor is not tried.
_HOPE = 2.0

#: Sites whose return gains less than this share of the time are not worth a measurement.
_WORTH = 0.003


@dataclass(frozen=True)
class Tried:
    """high: sites in higher precision. excess: measured. why: what it was tried for."""

    high: frozenset[str]
    excess: float
    seconds: float
    why: str

    @property
    def keeps(self) -> bool:
        return self.excess <= 1.0


@dataclass(frozen=True)
class Found:
    """best: what keeps the budget in the least predicted time; of a search that found nothing, what exceeds it least.

    blame: where the budget was not kept, sites still in low precision by what they lose, the most first.
    """

    best: Tried
    tried: tuple[Tried, ...]
    reranked: bool = False
    blame: tuple[str, ...] = ()

    @property
    def met(self) -> bool:
        return self.best.keeps


@dataclass
class Search:
    """problem: the sites with predicted losses. measure: see above. tries: measurements there may be in all.

    again: asked once, for a better ranking, if measurements contradict the prediction. told: called after every
    measurement.
    """

    problem: Problem
    measure: Measure
    tries: int = 12
    again: Callable[[], Problem | None] = lambda: None
    told: Callable[[Tried], None] = lambda tried: None
    #: measurements kept for the give-back pass
    reserve: int = 3
    tried: dict[frozenset[str], Tried] = field(default_factory=dict)
    reranked: bool = False

    def run(self) -> Found:
        start = self._try(self._forced(), "everything in the lower precision")
        if start.keeps:
            return self._found(start)
        self._along(self.problem.front(), start)
        if (good := self._fastest()) is None:
            return self._found(min(self.tried.values(), key=lambda t: t.excess))
        return self._found(self._give_back(good))

    # ---- measurements ----

    def _forced(self) -> frozenset[str]:
        return frozenset(n for n, s in self.problem.sites.items() if self.problem.low not in s.seconds)

    def _fastest(self) -> Tried | None:
        """Of what was tried and keeps the budget."""
        return min((t for t in self.tried.values() if t.keeps), key=lambda t: t.seconds, default=None)

    def _left(self) -> int:
        return self.tries - len(self.tried)

    def _try(self, high: Iterable[str], why: str) -> Tried:
        chosen = frozenset(high)
        if chosen not in self.tried:
            choice = self.problem.evaluate(chosen)
            # nothing in the lower precision: there is nothing to measure
            excess = 0.0 if len(chosen) == len(self.problem.sites) else self.measure(chosen)
            self.tried[chosen] = Tried(chosen, math.inf if math.isnan(excess) else excess, choice.seconds, why)
            self.told(self.tried[chosen])
        return self.tried[chosen]

    def _found(self, best: Tried) -> Found:
        blame: tuple[str, ...] = ()
        if not best.keeps:
            low = [s for s in self.problem.sites.values() if s.name not in best.high]
            low.sort(key=lambda s: -s.loss.get(self.problem.low, 0.0))
            blame = tuple(s.name for s in low[:5])
        return Found(best, tuple(self.tried.values()), self.reranked, blame)

    # ---- along the front ----

    def _along(self, front: Sequence[Choice], start: Tried) -> None:
        """Looks for the first corner of the front that keeps the budget, by bisection guided by predictions."""
        base = self.problem.evaluate(start.high).loss
        corners = [c for c in front if c.loss < base]
        if not corners:
            return
        known = [(base, start.excess)]
        low, high = -1, len(corners)
        if not corners[-1].loss:
            # nothing is predicted to lose anything there: kept as what is known to be good, measured only if it is left
            high = len(corners) - 1
        reserve = min(self.reserve, self._left() // 2)
        while high - low > 1 and self._left() > reserve:
            guess = next((i for i, c in enumerate(corners) if _predicted(known, c.loss) <= _SLACK), high)
            at = guess if low < guess < high else (low + high) // 2
            point = self._try(corners[at].high, "the front")
            if self._disorder(point) and not self.reranked:
                better = self.again()
                self.reranked = True
                if better is not None:
                    self.problem = better
                    self._along(better.front(), start)
                    return
            known.append((corners[at].loss, point.excess))
            low, high = (low, at) if point.keeps else (at, high)
        if high < len(corners) and self._fastest() is None:
            # without tries left what needs no measurement
            end = corners[high].high if self._left() > 0 else corners[-1].high
            if self._left() > 0 or len(end) == len(self.problem.sites):
                self._try(end, "the front's safe end")

    def _known(self) -> list[tuple[float, float]]:
        """Predicted loss and measured excess of what was tried."""
        return [(self.problem.evaluate(t.high).loss, t.excess) for t in self.tried.values()]

    def _disorder(self, point: Tried) -> bool:
        """More is in higher precision than in another choice that was tried, and yet more is lost."""
        return any(
            t.high < point.high and point.excess > max(1.0, _DISORDER * t.excess)
            for t in self.tried.values()
            if t is not point
        )

    # ---- give back ----

    def _give_back(self, best: Tried) -> Tried:
        """Returns sites to the lower precision while the budget holds, those that cost the most time first."""
        forced = self._forced()
        refused: set[str] = set()
        while self._left() > 0:
            bundle = self._bundle(best, forced, refused)
            if not bundle:
                break
            point = self._try(best.high - bundle, "give back " + ", ".join(sorted(bundle)))
            if point.keeps:
                best = point
            elif len(bundle) == 1:
                refused |= bundle
            else:
                # of several at once the one that loses most is not asked for again
                refused.add(max(bundle, key=lambda n: self.problem.sites[n].loss.get(self.problem.low, 0.0)))
        return best

    def _bundle(self, best: Tried, forced: frozenset[str], refused: set[str]) -> frozenset[str]:
        """Sites to return at once: in order of time per loss, as many as the budget ought to hold; at least one."""
        now = self.problem.evaluate(best.high)
        known = self._known()
        room = _allowed(known, _SLACK) - now.loss
        gains: list[tuple[float, float, str]] = []
        for name in best.high - forced - refused:
            without = self.problem.evaluate(best.high - {name})
            hopeless = _predicted(known, without.loss) > _HOPE
            if now.seconds - without.seconds > _WORTH * now.seconds and not hopeless:
                gains.append((now.seconds - without.seconds, without.loss - now.loss, name))
        gains.sort(key=lambda g: (-g[0] / max(g[1], 1e-30), g[2]))
        chosen: set[str] = set()
        for _, loss, name in gains:
            if loss <= room:
                chosen.add(name)
                room -= loss
        if not chosen and gains:
            chosen.add(max(gains)[2])
        if len(chosen) > 1 and best.high - chosen in self.tried:
            chosen = {next(name for _, _, name in gains if name in chosen)}
        return frozenset(chosen) if best.high - chosen not in self.tried else frozenset()


def _predicted(known: Sequence[tuple[float, float]], loss: float) -> float:
    """Excess at a predicted loss, from (predicted loss, measured excess): a power law through the two measurements
    around it, or the one nearest to it."""
    points = sorted((x, e) for x, e in known if x > 0 and 0 < e < math.inf)
    if not points or loss <= 0:
        return 0.0 if loss <= 0 else math.inf
    below, above = [p for p in points if p[0] <= loss], [p for p in points if p[0] > loss]
    near = below[-1] if below else above[0]
    power = _POWER
    if below and above and above[0][1] > below[-1][1]:
        power = math.log(above[0][1] / below[-1][1]) / math.log(above[0][0] / below[-1][0])
    return near[1] * (loss / near[0]) ** power


def _allowed(known: Sequence[tuple[float, float]], excess: float) -> float:
    """The largest predicted loss at which at most this excess is expected."""
    low, high = 0.0, max((x for x, _ in known), default=0.0)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (middle, high) if _predicted(known, middle) <= excess else (low, middle)
    return low
