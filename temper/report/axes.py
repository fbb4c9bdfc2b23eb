"""Where a value lies on an axis, and which values are labelled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Axis:
    """Values from low to high over 0 to 100 per cent. log: logarithmic, values below `low` (0 too) lie at 0."""

    low: float
    high: float
    log: bool = False

    def at(self, value: float) -> float:
        """Per cent of the axis' length, within 0 to 100."""
        if self.log:
            if value <= self.low:
                return 0.0
            part = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return 100 * min(1.0, max(0.0, part))

    def ticks(self) -> list[float]:
        """Round values inside, four to seven of them, or powers of ten."""
        if self.log:
            first, last = math.ceil(math.log10(self.low)), math.floor(math.log10(self.high))
            step = max(1, math.ceil((last - first + 1) / 7))
            return [10.0**e for e in range(first, last + 1, step)]
        rough = (self.high - self.low) / 5
        unit = 10 ** math.floor(math.log10(rough))
        step = unit * next(m for m in (1, 2, 2.5, 5, 10) if m * unit >= 0.75 * rough)
        first = math.ceil(self.low / step - 1e-9)
        return [round(i * step, 12) for i in range(first, math.floor(self.high / step + 1e-9) + 1)]


def linear(values: Sequence[float], *, zero: bool = False) -> Axis:
    """Holds every value with some room; from 0 where `zero`."""
    low, high = min(values), max(values)
    if zero:
        low = min(0.0, low)
    room = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return Axis(0.0 if zero and low == 0 else low - room, high + room)


def logarithmic(values: Sequence[float]) -> Axis:
    """Holds every positive value with some room below, where zeros lie."""
    positive = [v for v in values if v > 0 and math.isfinite(v)] or [1.0]
    return Axis(min(positive) / 3, max(positive) * 1.6, log=True)
