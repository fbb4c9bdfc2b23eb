"""Simulates INT8 in a float engine whose sites are switched one by one at run time, without building anything.

The effect of codes on a tensor is simulated where a site reads it (FakeQuantize, whose scale is an input of the
program); a product in INT8 reads weights that went through their codes: its launch exists twice, with either set of
packed weights. No memory is shared between tensors, so every step keeps its result, and a run repeats only the steps
whose operands or settings changed since the last one. Products of codes are exact in int32; here they are float32 sums
of the same numbers: outputs differ from the integer engine's by float32 rounding, and where that moves a value to the
next code.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from temper.builder import Build, build_plan
from temper.config import BuildConfig
from temper.errors import ConfigError
from temper.ir.dims import Dim
from temper.ir.graph import Graph, Node, Value
from temper.ir.ops import make
from temper.ir.types import TensorType
from temper.passes.integer import MOVES
from temper.passes.partition import dependencies
from temper.passes.volumes import depth_as_channels
from temper.plan.format import Launch, Native, Ref
from temper.precision.stepping import runs_late, stepper, steps_of
from temper.quantize.codes import codes_of, quantize_weights, threshold, weight_scales
from temper.quantize.float8 import DTYPE, channel_scales, rounded, scale_of
from temper.quantize.placement import Placement, Reader, Site
from temper.quantize.recipe import Recipe

Batch = Mapping[str, np.ndarray]

#: Operands of a product.
Part = Literal["both", "weights", "data"]

_ALIGN = 64

#: Placements kept: those of a sweep over a large model.
_KEPT = 512


@dataclass(frozen=True)
class _Point:
    """A place where a tensor may be read as codes. readers: who reads it there; names of its inputs."""

    readers: tuple[Reader, ...]
    scale: str
    low: str


@dataclass(frozen=True)
class _Weights:
    """A product's launches with other weights, which lie at `offsets` in the constants: packed arrays by number, None
    for the weights as they are."""

    step: int
    launches: tuple[Launch, ...]
    offsets: tuple[int, ...]
    packed: tuple[int | None, ...]
    operand: int


class _Instrumented:
    """The float graph with a switch at every place where codes may be read, and a shift at every product."""

    def __init__(self, graph: Graph, recipe: Recipe, sites: Sequence[Site], taps: Sequence[str]) -> None:
        self.graph = graph.copy()
        recipe.replace_operands(self.graph)
        self.nodes = {n.outputs[0].name: n for n in self.graph.nodes}
        self.form = recipe.form
        reads: set[Reader] = set()
        if recipe.form == "int8":
            reads = set(recipe.only([s.name for s in sites]).placement(graph, sites).reads)
        self.points: list[_Point] = []
        #: site -> name of the input that is added to its result; site -> the float weights, an array of its own
        self.shifts: dict[str, str] = {}
        self.weights: dict[str, np.ndarray] = {}
        #: tensor of the float graph -> what its readers see, before codes
        seen: dict[str, Value] = {v.name: v for v in self.graph.values}
        for s in sites:
            if s.product:
                seen[s.key] = self._product(s, self.nodes[s.key])
        own = {(s.key, i) for s in sites for i in s.inputs}
        shared: dict[int, list[Reader]] = {}
        for key, i in sorted(reads - own):
            node = self.nodes[key]
            x = node.inputs[i]
            assert x is not None
            if node.op in MOVES:
                self._point([(key, i)])
            else:
                shared.setdefault(x.id, []).append((key, i))
        for readers in shared.values():
            self._point(readers)
        for reader in sorted(own):
            self._point([reader])
        missing = [t for t in taps if t not in seen]
        if missing:
            raise ConfigError(f"there are no tensors {', '.join(map(repr, missing))} to read")
        self.graph.set_outputs(
            [*self.graph.outputs, *(seen[t] for t in taps)], [*self.graph.output_names, *(f"tap:{t}" for t in taps)]
        )

    def _product(self, site: Site, node: Node) -> Value:
        w = node.inputs[1]
        if w is not None and w.const is not None:
            mine = self.graph.add_constant(w.const.copy(), f"{site.name}.weights")
            self.graph.set_input(node, 1, mine)
            assert mine.const is not None
            self.weights[site.name] = mine.const
        y = node.output
        name = f"shift:{site.name}"
        shift = self.graph.add_input(name, TensorType("float32", y.type.shape[-1:]))
        readers = list(y.uses)
        total = make(self.graph, "Add", [y, shift], {}, name=f"{node.name}.shifted").output
        for reader, i in readers:
            self.graph.set_input(reader, i, total)
        self.graph.outputs = [total if v is y else v for v in self.graph.outputs]
        self.shifts[site.name] = name
        return total

    def _point(self, readers: Sequence[Reader]) -> None:
        k = len(self.points)
        x = self.nodes[readers[0][0]].inputs[readers[0][1]]
        assert x is not None
        scale = self.graph.add_input(f"scale:{k}", TensorType("float32", ()))
        if self.form == "int8":
            low = self.graph.add_input(f"low:{k}", TensorType("float32", ()))
            codes = make(self.graph, "FakeQuantize", [x, scale, low], {}, name=f"codes:{k}").output
        else:
            low, codes = scale, self._float8(x, scale, k)
        point = _Point(tuple(readers), scale.name, low.name)
        for key, i in readers:
            self.graph.set_input(self.nodes[key], i, codes)
        self.points.append(point)


    def _float8(self, x: Value, scale: Value, k: int) -> Value:
        """`x` as 8-bit floats of this scale stand for it; itself where the scale is 0."""
        y = make(self.graph, "Div", [x, scale], {}, name=f"scaled:{k}").output
        for dtype in (DTYPE, "float32"):
            y = make(self.graph, "Cast", [y], {"to": dtype}, name=f"{dtype}:{k}").output
        y = make(self.graph, "Mul", [y, scale], {}, name=f"again:{k}").output
        zero = self.graph.add_constant(np.zeros((), np.float32), "zero")
        off = make(self.graph, "Equal", [scale, zero], {}, name=f"off:{k}").output
        return make(self.graph, "Where", [off, x, y], {}, name=f"codes:{k}").output


class Simulator:
    """Outputs of a model with any set of its sites in INT8. One run at a time.

    sites: all there are, in topological order. work: passes of the model over single samples done so far, in parts of
    steps: a step repeated for a batch of 8 counts 8 / (number of steps).
    """

    def __init__(self, graph: Graph, recipe: Recipe, config: BuildConfig, taps: Sequence[str] = ()) -> None:
        """graph: as `builder.float_graph` gives it; not changed.
        recipe: thresholds, and deltas of what is on; which of its sites are on is said per run.
        config: of the engine, whose first profile is simulated; nothing is timed. Of a GPU's whose sizes or steps
            depend on data, the CPU's is simulated.
        taps: tensors of the graph that `tap` gives.

        ConfigError if a product's weights are out of reach.
        """
        self.graph, self.sites, self.work = graph, recipe.sites_in(graph), 0.0
        self._names = {s.name: s for s in self.sites}
        self._by_key = {s.key: s.name for s in self.sites}
        self._read = {(n.outputs[0].name, i): v for n in graph.nodes for i, v in enumerate(n.inputs) if v is not None}
        made = _Instrumented(graph, recipe, self.sites, taps)
        self._points, self._shifts, self._float_weights = made.points, made.shifts, made.weights
        one = replace(config, effort=0, profiles=config.profiles[:1], batches=config.batches[:1], portable_graph=False)
        build = build_plan(made.graph, one, share=False)
        if runs_late(build.plan):
            one = replace(one, device="cpu", precision="fp32", wide=())
            build = build_plan(made.graph, one, share=False)
        self._build = build
        plan = build.plan
        extra = len(plan.constants) + -len(plan.constants) % _ALIGN
        self._weights: dict[str, _Weights] = {}
        for step, part in enumerate(build.parts):
            for site, i in self._products_in(part.region.anchor_inputs):
                self._weights[site], extra = self._other_weights(build, step, i, extra)
        for site, step, i in self._volumes_in(build):
            self._weights[site], extra = self._other_weights(build, step, i, extra)
        if lost := sorted(self._float_weights.keys() - self._weights.keys()):
            raise ConfigError(
                f"the weights of {', '.join(map(repr, lost))} cannot be exchanged: a pass rewrites them; keep these "
                "layers in float with --keep NAME=fp32"
            )
        others = {w.step: w.launches for w in self._weights.values()}
        self._stepper = stepper(plan, extra, others, one.device)
        self._outputs = len(graph.outputs)
        self._taps = {t: self._outputs + i for i, t in enumerate(taps)}
        self._set_up(build)
        self._placements: dict[tuple[frozenset[str], frozenset[str]], Placement] = {}
        self._scalars = {p: np.zeros((), np.float32) for point in self._points for p in (point.scale, point.low)}
        self._shift_arrays: dict[str, np.ndarray] = {}
        #: what the packed weights of a product were made with, and how often they were changed
        self._packed: dict[str, tuple[bytes, int]] = {}
        self._batch: tuple[np.ndarray, ...] | None = None
        self._feeds: dict[str, np.ndarray] = {}
        self._results: list[Any] = []
        self._samples = 1
        #: per step a number that stands for its settings and operands, -1 where it has not run
        self._states: list[int] = []
        self._numbers: dict[tuple[object, ...], int] = {}
        self.recipe = recipe

    # ---- construction ----

    def _products_in(self, inputs: Sequence[Value | None]) -> list[tuple[str, int]]:
        """Sites whose weights a region's anchor reads, and at which input."""
        return [
            (site, i)
            for i, v in enumerate(inputs)
            if v is not None and v.const is not None and v.const.dtype == np.float32
            for site, w in self._float_weights.items()
            if v.const is w or (v.const.size == w.size and np.shares_memory(v.const, w))
        ]

    def _volumes_in(self, build: Build) -> list[tuple[str, int, int]]:
        """Sites over volumes, with the step that reads their weights as volumes.py writes them, and at which input."""
        inputs = [(k, i, v) for k, part in enumerate(build.parts) for i, v in enumerate(part.region.anchor_inputs)]
        found: list[tuple[str, int, int]] = []
        taken: set[tuple[int, int]] = set()
        for site, w in self._float_weights.items():
            if site in self._weights or w.ndim != 5:
                continue
            moved = depth_as_channels(w)
            for k, i, v in inputs:
                const = None if v is None or (k, i) in taken else v.const
                if const is not None and const.shape == moved.shape and np.array_equal(const, moved):
                    found.append((site, k, i))
                    taken.add((k, i))
                    break
        return found

    def _other_weights(self, build: Build, step: int, operand: int, at: int) -> tuple[_Weights, int]:
        """A second launch of a step whose weights lie at `at` in the constants; and where the next ones may lie."""
        part, choice = build.parts[step], build.choices[step]
        assert choice is not None
        c = choice.candidate
        packed = c.tactic.prepack(part.workload, c.params, self._constants_of(part.region.anchor_inputs))
        segment = steps_of(build.plan)[step]
        assert isinstance(segment, Native)
        args, offsets, which = list(segment.launches[0].args), [], []
        for k, (kind, i) in enumerate(c.kernel.args):
            array = packed[i] if kind == "packed" else None
            if kind == "input" and i == operand:
                value = part.region.anchor_inputs[i]
                assert value is not None
                array = value.const
            if array is None:
                continue
            args[k] = Ref("const", 0, at)
            offsets.append(at)
            which.append(i if kind == "packed" else None)
            at += array.nbytes + -array.nbytes % _ALIGN + _ALIGN
        launches = tuple(replace(x, args=tuple(args)) for x in segment.launches)
        return _Weights(step, launches, tuple(offsets), tuple(which), operand), at

    @staticmethod
    def _constants_of(inputs: Sequence[Value | None]) -> dict[int, Any]:
        return {i: v.const for i, v in enumerate(inputs) if v is not None and v.const is not None}

    def _set_up(self, build: Build) -> None:
        """For every step: the steps it depends on, and the settings it reads."""
        regions = [p.region for p in build.parts]
        self._needs = [tuple(sorted(d)) for d in dependencies(regions)]
        names = {p for point in self._points for p in (point.scale, point.low)} | set(self._shifts.values())
        self._reads = [tuple(sorted({v.name for v in r.inputs} & names)) for r in regions]
        self._product_at = {w.step: site for site, w in self._weights.items()}

    # ---- settings ----

    @property
    def recipe(self) -> Recipe:
        return self._recipe

    @recipe.setter
    def recipe(self, recipe: Recipe) -> None:
        """Other thresholds, weight scales or biases. ConfigError for other operands: those need another simulator."""
        before = getattr(self, "_recipe", None)
        if before is not None and (
            before.operands.keys() != recipe.operands.keys()
            or any(not np.array_equal(a, recipe.operands[k]) for k, a in before.operands.items())
        ):
            raise ConfigError("a simulator cannot replace operands: make another one")
        self._recipe = recipe
        self._settings: dict[frozenset[str], dict[str, tuple[float, float]]] = {}
        for site, w in self._weights.items():
            self._pack(site, w, recipe.weight_scales.get(site))
        for site in self._shifts:
            shift = recipe.biases.get(site)
            if shift is not None:
                self._shift_arrays[site] = np.ascontiguousarray(shift, np.float32)
            else:
                self._shift_arrays.pop(site, None)

    def _pack(self, site: str, weights: _Weights, scale: np.ndarray | None) -> None:
        key = b"" if scale is None else scale.tobytes()
        old = self._packed.get(site)
        if old is not None and old[0] == key:
            return
        self._packed[site] = (key, 0 if old is None else old[1] + 1)
        part, choice = self._build.parts[weights.step], self._build.choices[weights.step]
        assert choice is not None
        c = choice.candidate
        w = self._float_weights[site]
        if self._recipe.form == "float8":
            of = channel_scales(w)
            fake = (rounded(w, of) * of).astype(np.float32)
        else:
            fake = through_codes(w, weight_scales(w) if scale is None else scale)
        constants = self._constants_of(part.region.anchor_inputs)
        if fake.ndim == 5:
            fake = depth_as_channels(fake)
        constants[weights.operand] = fake.reshape(constants[weights.operand].shape)
        packed = c.tactic.prepack(part.workload, c.params, constants)
        for at, i in zip(weights.offsets, weights.packed, strict=True):
            array = np.ascontiguousarray(constants[weights.operand] if i is None else packed[i])
            self._stepper.write(at, array)

    def _scales(self, on: frozenset[str]) -> dict[str, tuple[float, float]]:
        """Scale and lowest code of every reader of codes, by the point's name; points that are off are left out."""
        if on not in self._settings and self._recipe.form == "float8":
            self._settings[on] = {}
            for p in self._points:
                key, i = p.readers[0]
                if self._by_key[key] in on:
                    scale = float(scale_of(threshold(self._read[key, i], self._recipe.amax)))
                    self._settings[on][p.scale] = (scale, scale)
        elif on not in self._settings:
            placement = self._placed(on)
            codes = codes_of(self.graph, placement, self._recipe.amax, self._recipe.ranges)
            reads = {r: (float(codes[g].scale), float(codes[g].low)) for r, g in placement.reads.items()}
            self._settings[on] = {p.scale: reads.pop(p.readers[0]) for p in self._points if p.readers[0] in reads}
        return self._settings[on]

    def _placed(self, on: frozenset[str]) -> Placement:
        """Where codes go, kept for the last few choices of sites, since thresholds change more often."""
        key = (on, self._recipe.signed)
        if key not in self._placements:
            while len(self._placements) >= _KEPT:
                del self._placements[next(iter(self._placements))]
            self._placements[key] = self._recipe.only(on).placement(self.graph, self.sites)
        return self._placements[key]

    # ---- running ----

    def run(self, batch: Batch, on: Collection[str], part: Part = "both") -> list[np.ndarray]:
        """Outputs in the model's order with exactly the sites `on` in INT8. While it is given the same arrays, which
        must not change, it repeats only what depends on what is switched. part: which operands of these sites are
        codes, only the weights or only the data; biases are shifted where both are. ConfigError for a name that is no
        site."""
        chosen = frozenset(on)
        if unknown := sorted(chosen - self._names.keys()):
            raise ConfigError(f"there are no sites {', '.join(map(repr, unknown[:5]))}")
        self._load(batch)
        self._switch(chosen if part != "weights" else frozenset(), chosen if part == "both" else frozenset())
        heavy = chosen if part != "data" else frozenset()
        states = self._states
        done = 0
        for step, (needs, names) in enumerate(zip(self._needs, self._reads, strict=True)):
            site = self._product_at.get(step)
            weights = self._packed[site][1] if site is not None and site in heavy else -1
            values = tuple(self._feeds[n].tobytes() for n in names)
            state = self._number((step, weights, values, *(states[k] for k in needs)))
            if states[step] == state:
                continue
            states[step] = -1
            self._stepper.run(step, weights >= 0)
            states[step] = state
            done += 1
        self.work += done / max(1, len(states)) * self._samples
        self._results = self._stepper.results()
        return [np.array(a) for a in self._results[: self._outputs]]

    def tap(self, tensor: str) -> np.ndarray:
        """The tensor in the last run, as its readers saw it before codes were made; valid until the next run."""
        found: np.ndarray = self._results[self._taps[tensor]]
        return found

    def has_weights(self, site: str) -> bool:
        """Whether the site multiplies by constants."""
        return site in self._weights

    def sweep(
        self, batch: Batch, sites: Collection[str] | None = None, base: Collection[str] = ()
    ) -> Iterator[tuple[str, list[np.ndarray]]]:
        """Outputs with each of the sites switched against `base` in turn, the last first, so that what comes before a
        site is computed once: with base empty one site on at a time, with all sites in it one off."""
        wanted = self._names.keys() if sites is None else set(sites)
        kept = frozenset(base)
        self.run(batch, kept)
        for site in reversed(self.sites):
            if site.name in wanted:
                yield site.name, self.run(batch, kept ^ {site.name})

    def _number(self, state: tuple[object, ...]) -> int:
        return self._numbers.setdefault(state, len(self._numbers))

    def _load(self, batch: Batch) -> None:
        """Makes `batch` the one that runs are about."""
        names = [v.name for v in self.graph.inputs]
        arrays = tuple(batch[n] for n in names if n in batch)
        old = self._batch
        if old is not None and len(arrays) == len(old) and all(a is b for a, b in zip(arrays, old, strict=True)):
            return
        shifts = {name: np.zeros(self._width(name), np.float32) for name in self._shifts.values()}
        self._feeds = {**self._scalars, **shifts}
        self._stepper.load({**{n: batch[n] for n in batch if n in names}, **self._feeds})
        self._batch = arrays
        self._samples = arrays[0].shape[0] if arrays and arrays[0].ndim else 1
        self._states = [-1] * len(self._needs)
        self._numbers = {}

    def _width(self, name: str) -> int:
        (d,) = next(v.type.shape for v in self._build.graph.inputs if v.name == name)
        assert not isinstance(d, Dim)
        return d

    def _switch(self, on: frozenset[str], shifted: frozenset[str]) -> None:
        scales = self._scales(on)
        for p in self._points:
            scale, low = scales.get(p.scale, (0.0, 0.0))
            self._set(p.scale, scale)
            self._set(p.low, low)
        for site, name in self._shifts.items():
            shift = self._shift_arrays.get(site) if site in shifted else None
            self._set(name, 0.0 if shift is None else shift)

    def _set(self, name: str, value: float | np.ndarray) -> None:
        array = self._feeds[name]
        if not np.array_equal(array, np.broadcast_to(np.asarray(value, np.float32), array.shape)):
            array[...] = value
            self._stepper.changed(name)


def through_codes(w: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """Weights as their int8 codes stand for them, float32."""
    return quantize_weights(w, scale).astype(np.float32) * scale.astype(np.float32)
