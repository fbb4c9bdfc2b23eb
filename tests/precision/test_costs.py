"""What sites and conversions cost: whose time a step's is, what would be converted, and whole engines in turns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest

from temper.builder import build_plan
from temper.config import BuildConfig
from temper.ir.graph import Graph
from temper.plan.format import Plan
from temper.precision import costs
from temper.precision.costs import Conversion, conversions, edges, owners, predicted_times, site_times
from temper.quantize.placement import Site, sites_of
from temper.quantize.solver import Edge
from temper.runtime.engine import Engine
from tests.quantize.nets import float_net, joined, mobile, transformer


def _site(name: str, op: str = "Conv", origin: tuple[str, ...] = ()) -> Site:
    return Site(name, op, name, (0,), (), origin)


def test_a_step_belongs_to_the_site_of_its_source_nodes() -> None:
    sites = [_site("a"), _site("b", origin=("rule:fold", "before b"))]
    rows: list[dict[str, object]] = [
        {"origin": ["a"], "inputs": []},
        {"origin": ["a relu"], "inputs": [0]},
        {"origin": ["before b"], "inputs": [1]},
        {"origin": ["input cast"], "inputs": []},
        {"origin": ["softmax"], "inputs": [3, 2]},
    ]
    assert owners(rows, sites) == {0: "a", 1: "a", 2: "b", 4: "b"}


def test_a_sum_in_the_epilogue_of_a_product_is_the_products() -> None:
    sites = [_site("sum", "Add"), _site("product")]
    for order in (sites, sites[::-1]):
        assert owners([{"origin": ["sum", "product"], "inputs": []}], order) == {0: "product"}


def _by_name(graph: Graph) -> dict[str, Any]:
    return {v.name: v for v in graph.values}


@pytest.mark.parametrize("make", [mobile, joined, transformer])
def test_edges_count_the_data_between_sites(make: Any) -> None:
    graph, _ = float_net(make)
    sites, values = sites_of(graph), _by_name(graph)
    found = edges(graph, sites, Conversion(4e-9, 2e-9), {})
    assert found
    order = {s.name: i for i, s in enumerate(sites)}
    for e in found:
        (reader,) = [s for s in sites if s.name == e.reader]
        assert order[e.source] < order[e.reader]
        most = sum(values[t].type.count for t in reader.tensors) / 2
        quantize, dequantize = e.seconds["float32", "int8"], e.seconds["int8", "float32"]
        assert 0 < quantize <= 4e-9 * most * 1.001 and quantize == pytest.approx(2 * dequantize)


def test_conversions_are_those_of_the_data_a_site_reads() -> None:
    price = {("float32", "int8"): 3.0, ("int8", "float32"): 1.0}
    links = [Edge("a", "b", price), Edge("b", "c", price), Edge("a", "c", price)]
    assert conversions(links, ()) == {"b": 0.0, "c": 0.0}
    assert conversions(links, {"a"}) == {"b": 3.0, "c": 3.0}
    assert conversions(links, {"b"}) == {"b": 1.0, "c": 3.0}
    assert conversions(links, {"a", "b", "c"}) == {"b": 0.0, "c": 0.0}


def _plan(make: Any, quick: BuildConfig) -> tuple[Any, tuple[Site, ...], dict[str, np.ndarray]]:
    graph, feeds = float_net(make)
    sites = sites_of(graph)
    return build_plan(graph.copy(), quick), sites, dict(feeds)


def test_times_of_sites_add_up_to_those_of_all_steps(quick: BuildConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    build, sites, feeds = _plan(mobile, quick)
    seen: list[float] = []
    profile = Engine.profile_layers

    def kept(self: Engine, *args: Any) -> Any:
        layers = profile(self, *args)
        seen.append(sum(x.seconds for x in layers))
        return layers

    monkeypatch.setattr(Engine, "profile_layers", kept)
    found = site_times(build.plan, sites, feeds, 2)
    assert found.total == pytest.approx(seen[0])
    assert found.sites.keys() == {s.name for s in sites}
    assert all(found.sites[s.name] > 0 for s in sites if s.product)


def test_predicted_times_of_sites(quick: BuildConfig) -> None:
    build, sites, _ = _plan(transformer, quick)
    found = predicted_times(build, sites)
    assert found.sites.keys() == {s.name for s in sites} and found.rest >= 0
    assert all(found.sites[s.name] > 0 for s in sites if s.product)


def test_a_conversion_costs_something(quick: BuildConfig) -> None:
    predicted = costs.conversion(quick, measured=False)
    measured = costs.conversion(quick)
    for price in (predicted, measured):
        assert 0 < price.quantize < 1e-6 and 0 < price.dequantize < 1e-6


def test_pinned_sites_have_one_precision() -> None:
    sites = [_site("a"), _site("b")]
    quick, slow = (costs.Times({"a": t, "b": t}, 0.0) for t in (1.0, 3.0))
    p = costs.problem(sites, quick, slow, [], {"a": 0.5, "b": -0.1}, {"b": "float32"})
    assert p.sites["a"].seconds == {"int8": 1.0, "float32": 3.0} and p.sites["b"].seconds == {"float32": 3.0}
    assert p.sites["a"].loss == {"int8": 0.5} and p.sites["b"].loss == {"int8": 0.0}


def test_engines_take_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    clock = [0.0]

    def repeated(plan: str, feeds: Mapping[str, np.ndarray], device: str) -> Callable[[], None]:
        def call() -> None:
            calls.append(plan)
            clock[0] += {"fast": 1e-3, "slow": 3e-3}[plan]

        return call

    monkeypatch.setattr(costs, "repeated", repeated)
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    plans: dict[str, Plan] = {"fast": "fast", "slow": "slow"}  # type: ignore[dict-item]
    found = costs.timed(plans, {}, 0.05)
    assert found == pytest.approx({"fast": 1e-3, "slow": 3e-3})
    assert calls.count("fast") == calls.count("slow") and calls[4:8] == ["fast", "fast", "slow", "slow"]
