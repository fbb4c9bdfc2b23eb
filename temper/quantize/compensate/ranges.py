"""Finds the tensors that gain from a zero point: those that reach much further to one side."""

from __future__ import annotations

from collections.abc import Mapping

from temper.quantize.codes import Range

#: Lesser side over greater side up to which a range with a zero point is better by a good part of a bit.
LOPSIDED = 0.5


def lopsided(spans: Mapping[str, Range], amax: Mapping[str, float]) -> dict[str, Range]:
    """Ranges of the tensors whose lesser side is less than half the greater, clipped at their thresholds.

    spans: least and greatest value seen. amax: threshold, where one is known."""
    found = {}
    for name, (low, high) in spans.items():
        limit = amax.get(name)
        if limit is None or not limit > 0:
            continue
        low, high = max(min(low, 0.0), -limit), min(max(high, 0.0), limit)
        if 0 < min(-low, high) < LOPSIDED * max(-low, high):
            found[name] = (low, high)
    return found
