"""Sensitivity: what each site alone does to the outputs, without labels; the simulator switches one site at a time.

The number of held-back batches used is limited by a share of the allowed work, and by what it takes for the losses to
settle. Where even one batch for every site is too much, only the sites whose data lose most to rounding are switched,
and the others' losses are estimated from these.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np

from temper.precision.data import Samples
from temper.precision.divergence import Divergence, Reference

#: Part of a model's steps that switching one site repeats, on average, before the sweep has shown what it is.
_PART = 0.55

#: Losses have settled when another batch moves them by less than this, relative to their norm.
_SETTLED = 0.1

#: Batches looked at before losses may have settled.
_LEAST = 4


class Sweeper(Protocol):
    """What is asked of a simulator."""

    work: float

    def sweep(
        self, batch: Mapping[str, np.ndarray], sites: Collection[str] | None = None, base: Collection[str] = ()
    ) -> Iterator[tuple[str, list[np.ndarray]]]: ...


def losses(
    simulator: Sweeper,
    held: Samples,
    reference: Reference,
    weights: Sequence[float],
    prior: Mapping[str, float],
    work: float,
    *,
    base: Collection[str] = (),
    told: Callable[[int, int], None] = lambda done, total: None,
) -> dict[str, float]:
    """Loss by site: the sum over heads of weight * energy of the divergence with that site alone in INT8.

    weights: by head of the reference.
    prior: by site, all that are asked for, roughly how much is lost; decides only where the work does not suffice.
    work: in passes over one sample each, at most about that.
    base: sites that are in INT8 meanwhile; of those, the loss is what turning the site off takes away.
    told: batches done, of how many at most.
    """
    samples = max(1.0, held.count / len(held))
    most = len(prior)
    affordable = int(work / samples / _PART)
    asked = set(sorted(prior, key=lambda n: -prior[n])[: max(1, min(most, affordable))])
    sums: dict[str, float] = dict.fromkeys(asked, 0.0)
    start, done = simulator.work, 0
    order = _spread(len(held))
    mean = np.zeros(len(asked))
    for index in order:
        batch = held[index]
        only = [r if i == index else None for i, r in enumerate(reference.outputs)]
        for name, outputs in simulator.sweep(batch, asked, base):
            only[index] = tuple(outputs)
            sums[name] += _energy(reference.compare(only), weights)
        done += 1
        told(done, len(order))
        cost = (simulator.work - start) / done
        latest = np.array(list(sums.values())) / done
        moved = float(np.linalg.norm(latest - mean)) > _SETTLED * float(np.linalg.norm(latest))
        mean = latest
        if (done >= _LEAST and not moved) or simulator.work - start + cost > work:
            break
    found = {n: s / done for n, s in sums.items()}
    if base:
        # with any site off less ought to be lost: the most that is lost with one of them off is nearly the whole
        whole = max(found.values(), default=0.0)
        found = {n: whole - x for n, x in found.items()}
    return _filled(found, prior)


def _energy(found: Sequence[Divergence], weights: Sequence[float]) -> float:
    return float(sum(w * min(d.energy, 1e9) for w, d in zip(weights, found, strict=True)))


def _spread(n: int) -> list[int]:
    """0 .. n-1 so that every beginning is spread out: the order of the bits reversed."""
    bits = max(1, (n - 1).bit_length())
    return sorted(range(n), key=lambda i: int(format(i, f"0{bits}b")[::-1], 2))


def _filled(found: Mapping[str, float], prior: Mapping[str, float]) -> dict[str, float]:
    """Also of the sites that were not switched: as their data lose, by the median of those that were."""
    ratios = [x / prior[n] for n, x in found.items() if prior[n] > 0]
    scale = float(np.median(ratios)) if ratios else 0.0
    return {n: found.get(n, scale * p) for n, p in prior.items()}
