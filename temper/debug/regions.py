"""Runs compiled kernels on their real inputs: each region beside its reference, and every candidate for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from temper.compile.cc import compile_object, compiler_version, link
from temper.config import BuildConfig
from temper.debug.deviation import bounds, compare_layers, exponentials, magnitude
from temper.ir.dims import Dim, evaluate
from temper.ir.evaluate import bind, evaluate_values
from temper.ir.graph import Graph
from temper.passes.region import Region
from temper.runtime.cpu import Library
from temper.runtime.engine import Engine
from temper.tactics.base import Workload
from temper.tactics.cpu.sources import cpu_tactics
from temper.tune.candidates import Candidate, candidates_for
from temper.tune.measure import Bench, Loaded, timer_library
from temper.tune.verify import make_problem

if TYPE_CHECKING:
    from temper.builder import Build


@dataclass(frozen=True)
class Kernels:
    """A region whose chosen kernel is wrong. wrong: how. candidates: label and "ok" or what is wrong, the chosen one
    first, the others as predicted."""

    region: Region
    chosen: Candidate
    wrong: str
    candidates: tuple[tuple[str, str], ...]


def faulty_region(build: Build, feeds: Mapping[str, np.ndarray], config: BuildConfig) -> Kernels | None:
    """The first compiled region whose kernel, alone, is not within the bounds of its reference on its real inputs."""
    graph = build.graph
    needed = {v.id: v for p in build.parts for v in p.region.inputs}
    values = evaluate_values(graph, {v.name: feeds[v.name] for v in graph.inputs}, list(needed.values()))
    env = bind(graph, {v.name: feeds[v.name] for v in graph.inputs})
    for part, choice in zip(build.parts, build.choices, strict=True):
        if choice is None:
            continue
        region, w = part.region, part.workload
        sizes = {s: evaluate(part.sizes.get(s, Dim.symbol(s)), env) for s in w.symbols}
        bench = _bench(region, w, values, sizes)
        wrong = _verify(bench, choice.candidate, choice.code, region)
        if wrong is None:
            continue
        tactics = [t for t in cpu_tactics() if t.name not in config.disable]
        others, _ = candidates_for(tactics, w, max(1, config.effort), compiler_version())
        shown = [(choice.candidate.label, wrong)]
        for c in others:
            if c.label != choice.candidate.label:
                found = _verify(bench, c, compile_object(c.kernel.source, c.isa), region)
                shown.append((c.label, "ok" if found is None else found))
        return Kernels(region, choice.candidate, wrong, tuple(shown))
    return None


def _bench(region: Region, w: Workload, values: Mapping[int, np.ndarray], env: Mapping[str, int]) -> Bench:
    """The workload with the region's real data for inputs and operands, constants included."""
    inputs = {i: values[v.id] for i, v in enumerate(region.anchor_inputs) if v is not None}
    rank = len(w.outputs[0].type.shape)
    first = 0 if region.anchor is None else 1
    operands = {
        i: values[v.id].reshape((1,) * (rank - values[v.id].ndim) + values[v.id].shape)
        for i, v in enumerate(region.operands)
        if i >= first
    }
    problem = make_problem(w, inputs, env, operand_constants=operands)
    return Bench(w, problem, timer_library(), w.threads, 1 << 20)


def _verify(bench: Bench, candidate: Candidate, code: bytes, region: Region) -> str | None:
    library = Library(link([code]))
    loaded = Loaded(candidate.kernel, tuple(library.function(e) for e in candidate.kernel.entries))
    constants = {i: v.const for i, v in enumerate(region.anchor_inputs) if v is not None and v.const is not None}
    packed = candidate.tactic.prepack(bench.w, candidate.params, constants)
    factor = float(getattr(candidate.tactic, "error_factor", lambda p: 1.0)(candidate.params))
    return bench.verify(loaded, packed, factor, max(2, bench.w.threads))


def first_wrong_layer(
    after: Graph, engine: Engine, feeds: Mapping[str, np.ndarray]
) -> tuple[str, str, tuple[str, ...]]:
    """Name, what is wrong, and source nodes of the engine's first layer that deviates from the reference on the
    engine's own values. after: the graph as the passes left it."""
    arguments = exponentials(after)
    values = evaluate_values(after, feeds, list(arguments.values()))
    ops = {n.name: n.op for n in after.nodes}
    largest = {k: (ops[k], magnitude(values[v.id], v.type.dtype)) for k, v in arguments.items()}
    layers: Sequence[Mapping[str, Any]] = compare_layers(after, engine, feeds, bounds(engine.plan, largest), None)
    for row, layer in enumerate(layers):
        if layer["deviates"]:
            origin = engine.report["regions"][row]["origin"]
            return (
                layer["name"],
                f"{layer['own']:.3g} of its largest value, tolerance {layer['tolerance']:.3g}",
                tuple(origin),
            )
    return "the end", "", ()
