"""The default calibrator: for each tensor, the threshold that quantizes held-back data best.

Thresholds of several algorithms are computed on the calibration data and judged on other data, so that one which
follows accidents of the calibration data does not win by that. The criterion is the error of the products that read the
tensor, in expectation: with e the error of an element and w the weights that it meets, sum over elements of e^2 w^2.
Rounding errors of elements are independent and have mean zero, so this holds for them as it stands. Clipping errors all
point towards zero, and large values lie beside large values: the errors of the elements under one kernel window add up
before they are squared. So squared clipping errors are multiplied by

    k = sum over channels c and results o of (sum over the window of w)^2  /  sum of w^2,

which is 1 where a product has no window (MatMul, 1x1), and never less. The scale of w itself is the same for all
thresholds of a tensor and drops out. Entropy is not a candidate: it compares distributions, not values, and on signed
tensors clips what products need.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from temper.ir.graph import Graph, Value
from temper.passes.integer import MOVES
from temper.quantize.histogram import Histogram
from temper.quantize.placement import not_negative
from temper.quantize.thresholds import algorithm

#: Candidates; of equals the first. Percentiles below 99.99 % clip too much to ever be the best of the mean.
CANDIDATES = ("minmax", "percentile:99.9999", "percentile:99.999", "percentile:99.99", "mse")


@dataclass(frozen=True)
class Chosen:
    """A tensor's threshold. calibrator: the algorithm it comes from. alternatives: thresholds by algorithm.

    errors: by algorithm, the expected squared error on held-back data as a share of the data's mean square.
    """

    amax: float
    calibrator: str
    alternatives: Mapping[str, float] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)


def noise(h: Histogram, amax: float, levels: int, clipping: float = 1.0) -> float:
    """Mean squared error of quantizing what `h` counts with this threshold as a share of the mean square; 0 of zeros.

    Squared clipping errors count `clipping` times. Values of a bin are taken as uniform over it; zeros are exact."""
    counts = h.counts.astype(np.float64)
    counts[0] -= h.zeros
    used = np.flatnonzero(counts)
    if not used.size:
        return 0.0
    counts, centres = counts[used], (used + 0.5) * h.width
    within = h.width**2 / 12
    power = float(counts @ (centres**2 + within))
    if not amax > 0:
        return clipping
    step = amax / levels
    inside = centres <= amax + step / 2
    rounded = (np.rint(centres / step) * step - centres) ** 2 + within
    # wider bins than steps tell nothing of where in a step a value lies
    rounded = np.minimum(rounded, step**2 / 12) if h.width > step else rounded
    clipped = clipping * ((centres - amax) ** 2 + within)
    return float(counts @ np.where(inside, rounded, clipped)) / power


def choose(
    seen: Histogram, held: Histogram, levels: int, clipping: float = 1.0, candidates: Sequence[str] = CANDIDATES
) -> Chosen:
    """The best of `candidates`.

    seen: what thresholds are found on.
    held: what they are judged on, `seen` again if it counts nothing.
    levels: 127 of a signed tensor, 255 of one that cannot be negative.
    """
    found = {name: algorithm(name)(seen, levels) for name in candidates}
    judge = held if held.total else seen
    errors = {name: noise(judge, amax, levels, clipping) for name, amax in found.items()}
    best = min(found, key=lambda name: errors[name])
    return Chosen(found[best], best, found, errors)


def choose_ranged(seen: Histogram, held: Histogram, clipping: float = 1.0) -> Chosen:
    """As `choose`, for uint8 codes with a zero point, which have steps for as much of either side as there are values:
    of 255 * t / (t + the lesser side) below a threshold t. A tensor that hardly reaches to one side has nearly twice
    the steps of a symmetric one, so that clipping gains less."""

    def levels(amax: float) -> int:
        low, high = max(min(seen.low, 0.0), -amax), min(max(seen.high, 0.0), amax)
        return max(127, round(255 * max(-low, high) / (high - low))) if high > low else 127

    found = {name: algorithm(name)(seen, levels(seen.amax)) for name in CANDIDATES}
    judge = held if held.total else seen
    errors = {name: noise(judge, amax, levels(amax), clipping) for name, amax in found.items()}
    best = min(found, key=lambda name: errors[name])
    return Chosen(found[best], best, found, errors)


def thresholds(
    graph: Graph, seen: Mapping[str, Histogram], held: Mapping[str, Histogram], calibrator: str = "auto"
) -> dict[str, Chosen]:
    """Of every tensor in `seen`, by the calibrator named: "auto", or an algorithm for all. ConfigError if there is no
    such algorithm.

    graph: the float graph, whose weights tell what clipping costs. Alternatives and errors are there in any case.
    """
    values = {v.name: v for v in graph.values}
    own = () if calibrator == "auto" else (calibrator,)
    out = {}
    for name, h in seen.items():
        levels = 255 if not_negative(values[name]) else 127
        found = choose(
            h, held.get(name, h), levels, clipping_weight(values[name]), tuple(dict.fromkeys((*own, *CANDIDATES)))
        )
        if own:
            found = Chosen(found.alternatives[calibrator], calibrator, found.alternatives, found.errors)
        out[name] = found
    return out


def clipping_weight(v: Value) -> float:
    """k of the formula above, over all products that read `v`, directly or through what moves its elements; at least
    1."""
    together = apart = 0.0
    todo, seen = [v], {v.id}
    while todo:
        for node in todo.pop().users:
            w = node.inputs[1].const if node.op == "Conv" and node.inputs[1] is not None else None
            if w is not None:
                axes = tuple(range(w.ndim - 2))
                wide = w.astype(np.float64)
                together += float((wide.sum(axis=axes) ** 2).sum())
                apart += float((wide**2).sum())
            elif (
                node.op == "MatMul" and (w := node.inputs[1].const if node.inputs[1] is not None else None) is not None
            ):
                square = float((w.astype(np.float64) ** 2).sum())
                together, apart = together + square, apart + square
            elif node.op in MOVES:
                todo += [o for o in node.outputs if o.id not in seen]
                seen |= {o.id for o in node.outputs}
    return max(1.0, together / apart) if apart else 1.0
