"""Layers that lose too much in INT8 get 8-bit floats (E4M3) instead of half precision, on chips that multiply them.

E4M3 has 3 bits of mantissa whatever a value's size: data with outliers, which spoil INT8's one step for all, lose
little. So a search has three precisions. INT8 or not is decided first (`search`); among the layers that are not, this
module tries 8-bit floats where they are faster, under the same budget and with the same real engines.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from temper.precision import costs
from temper.precision import outcome as record
from temper.precision.evidence import Evidence, priors
from temper.precision.trials import with_eights

#: Engines that may be looked at.
_TRIES = 4

#: A layer whose time shrinks by less than this share of the model's stays as it is: every conversion adds noise.
_WORTH = 0.002


@dataclass
class Float8Fallback:
    """excess, accepts: of a real engine, as `decide.Budget` has them."""

    evidence: Evidence
    excess: Callable[[frozenset[str]], float]
    accepts: Callable[[frozenset[str]], bool]

    def lowered(self, chosen: frozenset[str]) -> frozenset[str]:
        """The choice with those of its float layers marked that 8-bit floats make faster within the budget."""
        trials = self.evidence.trials
        subject = trials.subject
        able = (chosen & subject.eights) - subject.pins.off
        if not able or trials.held is None or trials.recipe.form != "int8":
            return chosen
        able &= trials.eights(with_eights(chosen, able)).keys()
        gain = self._gains(chosen, able)
        left = [n for n in sorted(able, key=self._price, reverse=True) if gain.get(n, 0.0) > 0]
        if not left:
            self._told(chosen, 0, "no layer in float would be faster in 8-bit floats")
            return chosen
        for _ in range(_TRIES):
            tried = with_eights(chosen, left)
            if self.evidence.left < 1:
                break
            self.excess(tried)
            if self.accepts(tried):
                if not self._faster(chosen, tried):
                    self._told(chosen, len(left), "the whole engine is no faster so", tried)
                    return chosen
                self._told(chosen, len(left), "as accurate as asked for, and faster than in half precision", tried)
                for n in left:
                    self.evidence.account.why[n] = "loses too much in INT8, not in 8-bit floats"
                return tried
            left = left[(len(left) + 1) // 2 :]  # what is most sensitive goes first
            if not left:
                break
        self._told(chosen, 0, "the budget does not hold with any of the layers tried in 8-bit floats")
        return chosen

    def _price(self, name: str) -> float:
        """How much the outputs are disturbed by noise in the layer's data, of one size for all: what the layer loses in
        INT8 over the noise that INT8 makes there. E4M3's noise is the same everywhere, relative to the data."""
        noise = priors(self.evidence.trials, self.evidence.calibration)
        return self.evidence.account.loss.get(name, 0.0) / noise.get(name, 1.0)

    def _gains(self, chosen: frozenset[str], able: frozenset[str]) -> dict[str, float]:
        """Seconds that each layer takes less, beyond what is worth nothing."""
        before = self._times(chosen)
        after = self._times(with_eights(chosen, able))
        least = _WORTH * before.total
        return {n: before.sites[n] - after.sites[n] - least for n in able}

    def _times(self, choice: frozenset[str]) -> costs.Times:
        return self.evidence.timed(self.evidence.trials.aimed(choice))

    def _faster(self, chosen: frozenset[str], tried: frozenset[str]) -> bool:
        trials = self.evidence.trials
        if trials.subject.absent:
            return True
        plans = {k: trials.aimed(k).plan for k in (chosen, tried)}
        seconds = costs.timed(plans, self.evidence.held[0], device=trials.subject.config.device)
        return seconds[tried] < seconds[chosen]

    def _told(self, chosen: frozenset[str], count: int, why: str, tried: frozenset[str] | None = None) -> None:
        account = self.evidence.account
        before, after = account.points.get(chosen), account.points.get(tried) if tried is not None else None
        name = f"{count} layer{'s' * (count != 1)} in 8-bit floats" if count else "8-bit floats"
        account.say(f"{name}: {why}")
        account.steps.append(
            record.Step(
                name,
                after is not None and "faster than" in why,
                why,
                None if before is None else before.divergence,
                None if after is None else after.divergence,
                None if before is None else before.metric,
                None if after is None else after.metric,
            )
        )
