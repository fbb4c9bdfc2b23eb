"""For the report: noise of each layer in the chosen engine, and how much of it comes from weights and from data.

Simulated on a few held-back batches.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from temper.config import BuildConfig
from temper.ir.graph import Graph
from temper.precision.divergence import Reference
from temper.precision.simulate import Batch, Part, Simulator
from temper.quantize.codes import codes_of
from temper.quantize.placement import sites_of
from temper.quantize.recipe import Recipe


@dataclass(frozen=True)
class Noise:
    """Of one site, as in outcome.Site. clip_rate, rmse_over_scale, sqnr: of its data as codes, None if it is float.
    sqnr_cumulative: None where its output is constantly zero."""

    clip_rate: float | None = None
    rmse_over_scale: float | None = None
    sqnr: float | None = None
    sqnr_cumulative: float | None = None


@dataclass
class _Sums:
    power: float = 0.0
    error: float = 0.0
    clipped: int = 0
    count: int = 0

    def add(self, want: np.ndarray, got: np.ndarray, clipped: int = 0) -> None:
        exact = want.astype(np.float64)
        self.power += float((exact**2).sum())
        self.error += float(((got - exact) ** 2).sum())
        self.clipped, self.count = self.clipped + clipped, self.count + exact.size

    @property
    def decibels(self) -> float | None:
        if not self.power:
            return None
        return 10 * math.log10(self.power / self.error) if self.error else math.inf


def noise_of_sites(
    graph: Graph, recipe: Recipe, config: BuildConfig, batches: Iterable[Batch], on: Collection[str]
) -> dict[str, Noise]:
    """Noise of every site. on: the sites in INT8 in the chosen engine; data as codes are looked at as if all of the
    recipe's sites were on. Of the tensors as the recipe's operands leave them, which histograms are not."""
    sites = sites_of(graph)
    nodes = {n.outputs[0].name: n for n in graph.nodes}
    placement = recipe.placement(graph, sites)
    codes = codes_of(graph, placement, recipe.amax, recipe.ranges)
    operand = {s.name: nodes[s.key].inputs[s.inputs[0]] for s in sites}
    names = {s: v.name for s, v in operand.items() if v is not None}
    reads = {s.name: codes[placement.reads[s.key, s.inputs[0]]] for s in sites if s.name in recipe.sites}
    simulator = Simulator(graph, recipe, config, list(dict.fromkeys((*names.values(), *(s.key for s in sites)))))
    data, results = ({s.name: _Sums() for s in sites} for _ in range(2))
    for batch in batches:
        simulator.run(batch, ())
        exact = {s.name: np.array(simulator.tap(s.key)) for s in sites}
        for site, c in reads.items():
            x = simulator.tap(names[site])
            code = np.rint(x / c.scale)
            held = np.clip(code, c.low, c.low + 255)
            data[site].add(x, held * np.float64(c.scale), int((code != held).sum()))
        simulator.run(batch, on)
        for s in sites:
            results[s.name].add(exact[s.name], simulator.tap(s.key))
    found = {}
    for s in sites:
        d, cumulative = data[s.name], results[s.name].decibels
        if not d.count:
            found[s.name] = Noise(sqnr_cumulative=cumulative)
            continue
        rmse = math.sqrt(d.error / d.count) / float(reads[s.name].scale)
        found[s.name] = Noise(d.clipped / d.count, rmse, d.decibels, cumulative)
    return found


def weights_parts(
    simulator: Simulator,
    reference: Reference,
    batches: Sequence[Batch],
    sites: Collection[str],
) -> dict[str, float]:
    """Of every product with weights among the sites, the part of its loss that comes of its weights: what the outputs
    lose with only its weights as codes, over that and what they lose with only its data as codes. Left out where
    neither loses anything. batches: the first ones that the reference is of."""
    lost: dict[Part, dict[str, float]] = {}
    asked = [s.name for s in reversed(simulator.sites) if s.name in sites and simulator.has_weights(s.name)]
    parts: tuple[Part, ...] = ("weights", "data")
    for part in parts:
        sums = dict.fromkeys(asked, 0.0)
        for i, batch in enumerate(batches):
            for name in asked:
                outputs = simulator.run(batch, (name,), part)
                found = reference.compare([outputs if k == i else None for k in range(len(reference.outputs))])
                sums[name] += sum(min(d.energy, 1e9) for d in found)
        lost[part] = sums
    both = {n: lost["weights"][n] + lost["data"][n] for n in asked}
    return {n: lost["weights"][n] / x for n, x in both.items() if x > 0}
