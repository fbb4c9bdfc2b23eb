"""Compensation: changes that bring a quantized network's outputs nearer to the float ones, without training or labels.

Every step proposes a change of the recipe, which is accepted only if the outputs on held-back samples get nearer by
more than they vary by chance. Every proposal is reported, accepted or not, with the distances before and after.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from temper.config import BuildConfig
from temper.ir.graph import Graph
from temper.precision.distance import Distance
from temper.precision.simulate import Batch, Simulator
from temper.quantize.codes import Range, codes_of
from temper.quantize.compensate import migrate
from temper.quantize.compensate.bias import correction
from temper.quantize.compensate.channels import Channels
from temper.quantize.compensate.ranges import lopsided
from temper.quantize.compensate.weights import least_error_scales, weights_share
from temper.quantize.placement import Site
from temper.quantize.recipe import Recipe

#: A change is taken for better if it lowers the sum of distances by this share at least.
_BETTER = 0.02

#: Rounds of bias correction.
_ROUNDS = 2

#: What channels of equal size may exceed what the statistics saw of them.
_ROOM = 1.05

#: Batches that thresholds are compared on, the loss below which another is clearly better, and thresholds as good as
#: equal.
_FEW = 8
_CLEARLY = 0.95
_SAME = 0.02

#: Largest shift of a bias, in standard deviations of its channel: beyond, statistics are too few, or the layer is lost.
_LARGEST = 2.0


@dataclass(frozen=True)
class Step:
    """One proposal. before, after: sum of distances; reason: why it was not accepted, empty if it was."""

    name: str
    before: float
    after: float
    reason: str
    changed: tuple[str, ...] = ()

    @property
    def accepted(self) -> bool:
        return not self.reason


@dataclass(frozen=True, eq=False)
class Data:
    """What compensation works with.

    calibration: batches that statistics are taken from, few will do.
    held: batches to judge by.
    spare: more to judge by, calibration data which statistics are not taken from.
    spans, alternatives: by tensor, least and greatest value, and thresholds by calibrator.
    ranged: of codes that have a zero point, thresholds by tensor, where they are not those of symmetric codes.
    """

    calibration: Sequence[Batch]
    held: Sequence[Batch]
    spare: Sequence[Batch] = ()
    spans: Mapping[str, Range] = field(default_factory=dict)
    alternatives: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    ranged: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Compensated:
    """The recipe with what was accepted, the steps, and a simulator of it. work, calibrating: passes over single
    samples, held-back ones and calibration data."""

    recipe: Recipe
    steps: tuple[Step, ...]
    simulator: Simulator
    work: float
    calibrating: float


class Compensation:
    """One run of all steps."""

    def __init__(
        self,
        graph: Graph,
        recipe: Recipe,
        config: BuildConfig,
        data: Data,
        say: Callable[[Step], None] = lambda step: None,
    ) -> None:
        """graph: the float graph. recipe: to start from; its sites are those that distances are taken with."""
        self.graph, self.recipe, self.config, self.data, self.say = graph, recipe, config, data, say
        self.nodes = {n.outputs[0].name: n for n in graph.nodes}
        self.steps: list[Step] = []
        #: passes over single samples: held-back ones, and others
        self._worked = self.calibrating = 0.0
        self.simulator = self._simulator(recipe)
        self.products = [s for s in self.simulator.sites if s.product and s.name in recipe.sites]
        self._judges = (*data.held, *data.spare)
        self._exact = [self._counted(self.simulator, i, ()) for i in range(len(self._judges))]
        self.distance = Distance(graph, self._exact)
        self.losses = self._judged(self.simulator, recipe)
        self._channels: dict[str, Channels] = {}

    # ---- judging ----

    def _simulator(self, recipe: Recipe, taps: Sequence[str] = ()) -> Simulator:
        return Simulator(self.graph, recipe, self.config, taps)

    def _judged(self, simulator: Simulator, recipe: Recipe) -> np.ndarray:
        simulator.recipe = recipe
        found = [self.distance(x, self._counted(simulator, i, recipe.sites)) for i, x in enumerate(self._exact)]
        return np.array(found, np.float64)

    def _counted(self, simulator: Simulator, i: int, on: Collection[str]) -> list[np.ndarray]:
        start = simulator.work
        outputs = simulator.run(self._judges[i], on)
        if i < len(self.data.held):
            self._worked += simulator.work - start
        else:
            self.calibrating += simulator.work - start
        return outputs

    def propose(
        self,
        name: str,
        recipe: Recipe,
        changed: Iterable[str],
        simulator: Simulator | None = None,
        *,
        likely: bool = False,
    ) -> bool:
        """Takes the recipe over if it is better. simulator: of it, where its operands are others. likely: it makes
        every rounding error smaller, so that it need not be told from chance."""
        names = tuple(changed)
        before = float(self.losses.sum())
        if not names:
            self._told(Step(name, before, before, "there is nothing to change"))
            return False
        tried = simulator or self.simulator
        losses = self._judged(tried, recipe)
        reason = _worse(self.losses, losses, likely)
        if reason:
            self.simulator.recipe = self.recipe
        else:
            self.recipe, self.losses, self.simulator = recipe, losses, tried
        self._told(Step(name, before, float(losses.sum()), reason, names))
        return not reason

    def _told(self, step: Step) -> None:
        self.steps.append(step)
        self.say(step)

    # ---- statistics ----

    def _measured(self, simulator: Simulator, tensors: Iterable[str], on: Iterable[str]) -> dict[str, Channels]:
        """Statistics of tensors over the calibration batches."""
        wanted, chosen = list(dict.fromkeys(tensors)), frozenset(on)
        found: dict[str, Channels] = {}
        start = simulator.work
        for batch in self.data.calibration:
            simulator.run(batch, chosen)
            for t in wanted:
                one = Channels.of(simulator.tap(t))
                found[t] = found[t].merged(one) if t in found else one
        self.calibrating += simulator.work - start
        return found

    def _operand(self, site: Site) -> str:
        x = self.nodes[site.key].inputs[0]
        assert x is not None
        return x.name

    def _weights(self, site: Site) -> np.ndarray:
        found = self.recipe.operands.get((site.key, 1))
        w = self.nodes[site.key].inputs[1]
        if found is None:
            assert w is not None and w.const is not None
            found = w.const
        return found

    def _taps(self) -> list[str]:
        """Operands and results of all products."""
        return list(dict.fromkeys(t for s in self.products for t in (self._operand(s), s.key)))

    def float_statistics(self) -> Mapping[str, Channels]:
        """Of operands and results of all products in the float network."""
        if not self._channels:
            self._channels = self._measured(self._simulator(self.recipe, self._taps()), self._taps(), ())
        return self._channels

    # ---- steps ----

    def zero_points(self) -> None:
        """Ranges for tensors that reach further to one side."""
        found = lopsided(self.data.spans, self.recipe.amax)
        found |= lopsided(self.data.spans, {t: self.data.ranged[t] for t in found if t in self.data.ranged})
        found = {t: r for t, r in found.items() if t in self._read}
        recipe = replace(self.recipe, ranges={**self.recipe.ranges, **found})
        self.propose("zero points", recipe, found, likely=True)

    @property
    def _read(self) -> set[str]:
        return {t for s in self.simulator.sites if s.name in self.recipe.sites for t in s.tensors}

    def thresholds(self) -> None:
        """For every tensor the calibrator whose threshold disturbs the outputs least, all else in float."""
        losses = self._by_threshold()
        amax, ranges = dict(self.recipe.amax), dict(self.recipe.ranges)
        changed = []
        for tensors, found in losses.items():
            # a few samples shall not decide alone
            size = {name: float(x.mean()) * _centre(x) for name, x in found.items()}
            best = min(size, key=lambda name: size[name])
            if size[best] < _CLEARLY**2 * size[""]:
                self._set(amax, ranges, tensors, best)
                changed.append(f"{', '.join(tensors)} ({best})")
        self.propose("thresholds by output", replace(self.recipe, amax=amax, ranges=ranges), changed)

    def _set(self, amax: dict[str, float], ranges: dict[str, Range], tensors: Sequence[str], name: str) -> None:
        for t in tensors:
            limit = self.data.alternatives.get(t, {}).get(name)
            if limit is None:
                continue
            amax[t] = limit
            if t in ranges:
                low, high = self.data.spans[t]
                ranges[t] = (max(min(low, 0.0), -limit), min(max(high, 0.0), limit))

    def _by_threshold(self) -> dict[tuple[str, ...], dict[str, np.ndarray]]:
        """Distances by group of tensors and calibrator, "" for the present threshold, over a few batches."""
        simulator, kept = self.simulator, self.recipe
        chosen = [s for s in simulator.sites if s.name in kept.sites]
        groups = [g.tensors for g in kept.placement(self.graph, simulator.sites).groups]
        tried: dict[tuple[str, ...], dict[str, Recipe]] = {}
        for tensors in groups:
            options: dict[str, Recipe] = {"": kept}
            seen = [max(_limit(t, kept.amax, kept.ranges) for t in tensors)]
            for name in dict.fromkeys(a for t in tensors for a in self.data.alternatives.get(t, ())):
                amax, ranges = dict(kept.amax), dict(kept.ranges)
                self._set(amax, ranges, tensors, name)
                limit = max(_limit(t, amax, ranges) for t in tensors)
                if limit > 0 and all(abs(limit - other) > _SAME * other for other in seen):
                    options[name] = replace(kept, amax=amax, ranges=ranges)
                    seen.append(limit)
            if len(options) > 1:
                tried[tensors] = options
        losses: dict[tuple[str, ...], dict[str, list[float]]] = {t: {n: [] for n in o} for t, o in tried.items()}
        start = simulator.work
        for batch in _spread(self.data.calibration, _FEW):
            want = simulator.run(batch, ())
            for tensors, options in reversed(tried.items()):
                readers = [s.name for s in chosen if not set(tensors).isdisjoint(s.tensors)]
                for name, recipe in options.items():
                    simulator.recipe = recipe
                    losses[tensors][name].append(self.distance(want, simulator.run(batch, readers)))
        simulator.recipe = kept
        self.calibrating += simulator.work - start
        return {t: {n: np.array(x) for n, x in found.items()} for t, found in losses.items()}

    def migration(self) -> None:
        """Equalisation and SmoothQuant."""
        operands: dict[migrate.Operand, np.ndarray] = dict(self.recipe.operands)
        amax, ranges = dict(self.recipe.amax), dict(self.recipe.ranges)
        statistics = dict(self.float_statistics())
        found = []
        for place in migrate.places(self.graph):
            if place.tensor not in statistics or not any(t in amax for t in place.tensors):
                continue
            for key, i in (*place.divided, *((n.outputs[0].name, 1) for n in place.sinks)):
                v = self.nodes[key].inputs[i]
                assert v is not None and v.const is not None
                operands.setdefault((key, i), v.const)
            x = statistics[place.tensor]
            present = max(_limit(t, amax, ranges) for t in place.tensors)
            levels = migrate.levels_of(self.graph, place.tensor)
            m = migrate.migration(place, x, operands, levels, min(present, float(x.amax.max())))
            if m is None:
                continue
            migrate.apply(m, operands)
            found.append(f"{place.tensor} (alpha {m.alpha:.1f})")
            s = m.factors
            for t in place.tensors:
                if t in amax:  # what clipped outliers of one channel would now clip all channels
                    amax[t] = float((x.amax / s).max()) * _ROOM
                if t in ranges:
                    low, high = float((x.low / s).min()), float((x.high / s).max())
                    ranges[t] = (min(low, 0.0), max(high, 0.0))
        if not found:
            self.propose("channel ranges", self.recipe, ())
            return
        changed = {k: a for k, a in operands.items() if a is not self._original(k)}
        recipe = replace(self.recipe, operands=changed, amax=amax, ranges=ranges)
        if self.propose("channel ranges", recipe, found, self._simulator(recipe)):
            self._channels = {}

    def _original(self, at: migrate.Operand) -> np.ndarray | None:
        v = self.nodes[at[0]].inputs[at[1]]
        return None if v is None else v.const

    def weights(self) -> None:
        """Weight scales of least error where rounding weights costs more than rounding their operand."""
        statistics = self.float_statistics()
        placement = self.recipe.placement(self.graph, self.simulator.sites)
        codes = codes_of(self.graph, placement, self.recipe.amax, self.recipe.ranges)
        scales = dict(self.recipe.weight_scales)
        changed = []
        for s in self.products:
            if not self._has_weights(s):
                continue
            w, group = self._weights(s), self._group(s)
            square = statistics[self._operand(s)].mean_square
            step = float(codes[placement.reads[s.key, 0]].scale)
            if weights_share(s.op, w, group, square, step) > 0.5:
                scales[s.name] = least_error_scales(s.op, w, group, square)
                changed.append(s.name)
        self.propose("weight scales", replace(self.recipe, weight_scales=scales), changed)

    def _has_weights(self, site: Site) -> bool:
        w = self.nodes[site.key].inputs[1]
        return w is not None and w.const is not None

    def _group(self, site: Site) -> int:
        node = self.nodes[site.key]
        return int(str(node.attrs["group"])) if node.op == "Conv" else 1

    def biases(self) -> None:
        """Sequential bias correction."""
        exact = self.float_statistics()
        simulator = self._simulator(self.recipe, self._taps())
        recipe = self.recipe
        for _ in range(_ROUNDS):
            simulator.recipe = recipe
            found = self._measured(simulator, self._taps(), recipe.sites)
            biases = dict(recipe.biases)
            for s in self.products:
                if not self._has_weights(s):
                    continue
                x, y = ((exact[t].mean, found[t].mean) for t in (self._operand(s), s.key))
                shift = correction(s.op, self._weights(s), self._group(s), x, y)
                spread = np.sqrt(np.maximum(exact[s.key].mean_square - exact[s.key].mean ** 2, 0))
                shift = np.clip(shift, -_LARGEST * spread, _LARGEST * spread)
                biases[s.name] = (biases.get(s.name, np.zeros(len(shift))) + shift).astype(np.float32)
            recipe = replace(recipe, biases=biases)
        self.propose("bias correction", recipe, recipe.biases)

    def done(self) -> Compensated:
        self.simulator.recipe = self.recipe
        return Compensated(self.recipe, tuple(self.steps), self.simulator, self._worked, self.calibrating)


def _limit(tensor: str, amax: Mapping[str, float], ranges: Mapping[str, Range]) -> float:
    """Largest value that a tensor's codes stand for; 0 of one without a threshold."""
    return max(map(abs, ranges[tensor])) if tensor in ranges else amax.get(tensor, 0.0)


def _spread(batches: Sequence[Batch], count: int) -> list[Batch]:
    """At most `count` of them, evenly."""
    step = max(1, len(batches) // count)
    return list(batches)[::step][:count]


def _centre(losses: np.ndarray) -> float:
    """Square of the mean root: a few samples with large losses decide it less than they do the mean."""
    return float(np.sqrt(losses).mean() ** 2)


def _worse(before: np.ndarray, after: np.ndarray, likely: bool = False) -> str:
    """Why a change is not taken for better; empty if it is."""
    if not np.isfinite(after).all():
        return "outputs are not finite"
    was, now = float(before.sum()), float(after.sum())
    if likely and now <= was:
        return ""
    if not now < (1 - _BETTER) * was:
        return f"the distance from the float engine would go from {was:.4g} to {now:.4g}"
    # which values rounding moves to another code is chance, and decides a good part of every sample's loss: compared
    # are roots, so that a few large losses do not hide what happens to the others
    change = np.sqrt(after) - np.sqrt(before)
    chance = float(change.std(ddof=1)) / np.sqrt(len(change)) if len(change) > 1 else 0.0
    if not -change.mean() > chance:
        return f"the distance would go from {was:.4g} to {now:.4g}, which may be by chance"
    return ""


#: All steps, in the order that recovers most per pass: ranges first, biases last, since they correct what is left.
STEPS: tuple[str, ...] = ("zero_points", "thresholds", "migration", "weights", "biases")


def compensate(
    graph: Graph,
    recipe: Recipe,
    config: BuildConfig,
    data: Data,
    steps: Sequence[str] = STEPS,
    say: Callable[[Step], None] = lambda step: None,
) -> Compensated:
    """Runs the steps named, in order. Each costs a pass over `data.held`, and there are two before the first.
    Statistics cost about four over `data.calibration`, thresholds half as many as there are candidates over eight of
    its batches."""
    made = Compensation(graph, recipe, config, data, say)
    for name in steps:
        getattr(made, name)()
    return made.done()
