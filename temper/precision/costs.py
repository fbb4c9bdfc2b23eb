"""Measured times: of every site in each precision, of conversions, and of whole engines side by side.

A site's time is that of its own steps in an engine where all sites have one precision, and of the steps without a site
of their own (pooling, pointwise ...) that follow it. In such an engine neighbours agree, so that there is no conversion
between them; what one costs where they do not is measured on a tensor of its own, per element.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from temper.builder import Build, build_plan, predict_build
from temper.config import BuildConfig
from temper.dtypes import storage
from temper.ir.graph import Graph, Node, Value
from temper.ir.ops import make
from temper.ir.types import TensorType
from temper.plan.format import Plan
from temper.precision.stepping import repeated
from temper.profiles import Model
from temper.quantize import solver
from temper.quantize.placement import Site
from temper.quantize.recipe import Recipe
from temper.runtime.engine import Engine

#: Elements of the tensor that conversions are timed on: it stays in the second-level cache, as a layer's result does.
_ELEMENTS = 1 << 16

#: On a GPU, where starting a kernel takes as long as many elements: more than its cache holds.
_ELEMENTS_GPU = 1 << 24

Feeds = Mapping[str, np.ndarray]
K = TypeVar("K")


@dataclass(frozen=True)
class Times:
    """Seconds by site of one engine, and of all steps that belong to none."""

    sites: Mapping[str, float]
    rest: float

    @property
    def total(self) -> float:
        return sum(self.sites.values()) + self.rest

    def least(self, other: Times) -> Times:
        """Of two measurements of the same sites."""
        return Times({n: min(t, other.sites[n]) for n, t in self.sites.items()}, min(self.rest, other.rest))


def site_times(plan: Plan, sites: Sequence[Site], feeds: Feeds, repeats: int = 10) -> Times:
    """Least time of every step over `repeats` runs, by site. On one thread: of several, one may find that others did
    its share already, and a step without time."""
    engine = Engine(plan, threads=1)
    rows: list[dict[str, object]] = list(engine.report.get("regions", ()))
    seconds: dict[int, float] = {}
    outside = 0.0
    for layer in engine.profile_layers(feeds, repeats):
        if 0 <= layer.report < len(rows):
            seconds[layer.report] = seconds.get(layer.report, 0.0) + layer.seconds
        else:
            outside += layer.seconds
    owner = owners(rows, sites)
    found = {s.name: 0.0 for s in sites}
    for row, t in seconds.items():
        name = owner.get(row)
        if name is None:
            outside += t
        else:
            found[name] += t
    return Times(found, outside)


def predicted_times(build: Build, sites: Sequence[Site]) -> Times:
    """The cost model's time of every step, by site: for a machine that is not here."""
    rows: list[dict[str, object]] = list(build.plan.report.get("regions", ()))
    pairs = zip(build.parts, build.choices, strict=True)
    seconds = [0.0 if c is None else c.candidate.tactic.predict(p.workload, c.candidate.params) for p, c in pairs]
    return _by_site(list(zip(rows, seconds, strict=False)), sites)


def tuned_times(build: Build, sites: Sequence[Site]) -> Times | None:
    """What the tuner measured of every kernel, by site; None where one was not timed."""
    rows: list[dict[str, object]] = list(build.plan.report.get("regions", ()))[: len(build.choices)]
    if not all(c is None or c.seconds for c in build.choices):
        return None
    timed = [0.0 if c is None else c.seconds or 0.0 for c in build.choices]
    return _by_site(list(zip(rows, timed, strict=True)), sites)


def predicted_build_times(model: Model, config: BuildConfig, recipe: Recipe | None, sites: Sequence[Site]) -> Times:
    """The cost model's time of every step of an engine that is not built, by site."""
    return _by_site(predict_build(model, config, quantize=recipe), sites)


def _by_site(steps: Sequence[tuple[Mapping[str, object], float]], sites: Sequence[Site]) -> Times:
    owner = owners([row for row, _ in steps], sites)
    found, outside = {s.name: 0.0 for s in sites}, 0.0
    for i, (_, seconds) in enumerate(steps):
        if i in owner:
            found[owner[i]] += seconds
        else:
            outside += seconds
    return Times(found, outside)


def together(rows: Sequence[Mapping[str, object]], sites: Sequence[Site]) -> list[frozenset[str]]:
    """Products that one kernel computes together, whose time is one of them's and no time the others'."""
    sources = {o: s.name for s in sites if s.product for o in (s.name, *s.origin) if not o.startswith("rule:")}
    own = [frozenset(sources[o] for o in _strings(r.get("origin")) if o in sources) for r in rows]
    return [names for names in own if len(names) > 1]


def shared(times: Times, other: Times, groups: Iterable[Collection[str]]) -> Times:
    """The times with those of products that are computed together divided among them as `other` has theirs."""
    found = dict(times.sites)
    for names in groups:
        whole, weight = sum(times.sites[n] for n in names), sum(other.sites[n] for n in names)
        if weight:
            found |= {n: whole * other.sites[n] / weight for n in names}
    return Times(found, times.rest)


def owners(rows: Sequence[Mapping[str, object]], sites: Sequence[Site]) -> dict[int, str]:
    """The site that every row of a build report belongs to: that of its source nodes, else that of the first row it
    reads which has one."""
    sources: dict[str, str] = {}
    for s in sites:
        for o in (s.name, *(o for o in s.origin if not o.startswith("rule:"))):
            # a sum in the epilogue of a product is the product's: products come last so that they win
            if s.product or o not in sources:
                sources[o] = s.name
    products = {s.name for s in sites if s.product}
    found: dict[int, str] = {}
    for i, r in enumerate(rows):
        own = [sources[o] for o in _strings(r.get("origin")) if o in sources]
        own.sort(key=lambda n: n not in products)
        before = [found[k] for k in _numbers(r.get("inputs")) if k in found]
        if own or before:
            found[i] = (own or before)[0]
    return found


def _strings(value: object) -> Iterable[str]:
    return (v for v in value if isinstance(v, str)) if isinstance(value, (list, tuple)) else ()


def _numbers(value: object) -> Iterable[int]:
    return (v for v in value if isinstance(v, int)) if isinstance(value, (list, tuple)) else ()


@dataclass(frozen=True)
class Conversion:
    """Seconds per element of quantizing and of dequantizing."""

    quantize: float
    dequantize: float


def conversion(config: BuildConfig, measured: bool = True, half: str = "float32") -> Conversion:
    """Of the build's own kernels on one tensor.

    config: without batches or shapes.
    measured: False for what the cost model predicts.
    half: the type of what is not in codes, as it lies in memory.
    """
    count = _ELEMENTS if config.device == "cpu" else _ELEMENTS_GPU

    def step(make_it: Callable[[Graph, Value], Value], dtype: str) -> float:
        g = Graph("conversion")
        x = g.add_input("x", TensorType(dtype, (count // 64, 64)))
        g.set_outputs([make_it(g, x)], ["y"])
        build = build_plan(g, replace(config, profiles=()))
        if not measured:
            return predicted_times(build, ()).rest / count
        engine = Engine(build.plan, threads=1)
        feeds = {"x": np.zeros((count // 64, 64), storage(dtype))}
        return sum(layer.seconds for layer in engine.profile_layers(feeds, 20)) / count

    def constants(g: Graph) -> list[Value]:
        return [g.add_constant(np.array(0.1, np.float32), "scale"), g.add_constant(np.zeros((), np.int8), "zero")]

    def cast(g: Graph, x: Value, to: str) -> Value:
        return x if x.type.dtype == to else make(g, "Cast", [x], {"to": to}).output

    def quantized(g: Graph, x: Value) -> Value:
        return make(g, "QuantizeLinear", [cast(g, x, "float32"), *constants(g)], {"axis": 0, "to": "int8"}).output

    def dequantized(g: Graph, x: Value) -> Value:
        return cast(g, make(g, "DequantizeLinear", [x, *constants(g)], {"axis": 0}).output, half)

    return Conversion(step(quantized, half), step(dequantized, "int8"))


def edges(graph: Graph, sites: Sequence[Site], price: Conversion, sizes: Mapping[str, int]) -> list[solver.Edge]:
    """Data between sites, with what its conversion costs where they differ. sizes: of the symbols, to count at.

    A float result that an INT8 site reads is quantized; codes that a float site reads are dequantized, or a second
    result is written beside them. That is done by the step that makes the tensor, which has it in registers: taken as
    half of what a step of its own costs, which also reads it.
    """
    values = {v.name: v for v in graph.values}
    by_node = {s.key: s for s in sites}
    found: dict[tuple[str, str], float] = {}
    for reader in sites:
        for tensor in reader.tensors:
            source = _source(values[tensor], by_node)
            if source is None or source.name == reader.name:
                continue
            # bytes of float32 to elements, halved
            elements = values[tensor].type.nbytes(sizes) / 4 / 2
            pair = (source.name, reader.name)
            found[pair] = found.get(pair, 0.0) + elements
    return [
        solver.Edge(
            a, b, {("float32", "int8"): n * price.quantize, ("int8", "float32"): n * price.dequantize}
        )
        for (a, b), n in found.items()
    ]


def conversions(links: Iterable[solver.Edge], floats: Collection[str]) -> dict[str, float]:
    """Seconds that converting its data takes, by the site that reads it; floats: the sites that are not in INT8."""
    found: dict[str, float] = {}
    for e in links:
        pair = tuple("float32" if name in floats else "int8" for name in (e.source, e.reader))
        found[e.reader] = found.get(e.reader, 0.0) + e.seconds.get((pair[0], pair[1]), 0.0)
    return found


def _source(value: Value, sites: Mapping[str, Site]) -> Site | None:
    """The site that makes a tensor, or whose result it is after pointwise steps and moves."""
    seen = 0
    node: Node | None = value.producer
    while node is not None and seen < 16:
        site = sites.get(node.outputs[0].name)
        if site is not None and site.product:
            return site
        data = [v for v in node.inputs if v is not None and v.const is None]
        node = data[0].producer if data else None
        seen += 1
    return None


def problem(
    sites: Sequence[Site],
    quick: Times,
    slow: Times,
    links: Iterable[solver.Edge],
    loss: Mapping[str, float],
    pinned: Mapping[str, str],
) -> solver.Problem:
    """What the solver is asked. quick, slow: times with all sites in INT8 and in float32. pinned: precision by site."""
    chosen = []
    for s in sites:
        seconds = {"int8": quick.sites[s.name], "float32": slow.sites[s.name]}
        if s.name in pinned:
            seconds = {pinned[s.name]: seconds[pinned[s.name]]}
        chosen.append(solver.Site(s.name, seconds, {"int8": max(loss.get(s.name, 0.0), 0.0)}))
    return solver.Problem(chosen, links)


def timed(plans: Mapping[K, Plan], feeds: Feeds, seconds: float = 1.0, device: str = "cpu") -> dict[K, float]:
    """Median seconds of a call of each whole engine, called in turn so that what disturbs one disturbs all. seconds:
    to spend on each, about. device: where they run; on a GPU inputs and outputs stay there."""
    engines = {name: repeated(plan, feeds, device) for name, plan in plans.items()}
    samples: dict[K, list[float]] = {name: [] for name in engines}
    for call in engines.values():
        call()
        call()
    end = time.perf_counter() + seconds * len(engines)
    order = list(engines)
    while time.perf_counter() < end or len(samples[order[0]]) < 5:
        for name in order:
            engines[name]()  # brings the engine's own constants back into the caches
            start = time.perf_counter()
            engines[name]()
            samples[name].append(time.perf_counter() - start)
        order.reverse()
    return {name: statistics.median(t) for name, t in samples.items()}
