"""The simulator: floats where sites are off, the Q/DQ form where they are on, and only what changed computed again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from temper.builder import build_plan
from temper.compile.cc import ISAS
from temper.config import BuildConfig, Profile
from temper.errors import ConfigError
from temper.ir.dims import Dim
from temper.ir.evaluate import evaluate, evaluate_values
from temper.ir.graph import Graph
from temper.passes.manager import Log, run_passes
from temper.passes.pipeline import FLOAT
from temper.precision.simulate import Simulator
from temper.quantize.codes import weight_scales
from temper.quantize.recipe import Recipe
from temper.runtime.engine import Engine
from temper.target import best_isa
from tests.passes.nets import Net
from tests.quantize.nets import NETS, Make, float_net, joined, mobile, recipe_of, residual, thresholds

by_name = pytest.mark.parametrize("make", NETS, ids=lambda m: m.__name__)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> BuildConfig:
    return BuildConfig(effort=0, cache=tmp_path_factory.mktemp("tuning") / "cache.sqlite")


def reference(graph: Graph, recipe: Recipe, feeds: dict[str, np.ndarray]) -> np.ndarray:
    q = graph.copy()
    recipe.apply(q, Log())
    return evaluate(q, feeds)[0]


def energy(x: np.ndarray) -> float:
    return float((x.astype(np.float64) ** 2).mean())


@by_name
def test_it_computes_what_the_quantized_graph_does(make: Make, config: BuildConfig) -> None:
    graph, feeds = float_net(make)
    recipe = recipe_of(graph, feeds)
    simulator = Simulator(graph, recipe, config)
    (plain,) = simulator.run(feeds, ())
    np.testing.assert_allclose(plain, evaluate(graph, feeds)[0], atol=1e-5 * np.abs(plain).max())
    rng = np.random.default_rng(0)
    names = [s.name for s in simulator.sites]
    sets = [{n} for n in names] + [{n for n in names if rng.random() < 0.5} for _ in range(4)] + [set(names)]
    for on in sets:
        want = reference(graph, recipe.only(on), feeds)
        # float32 rounding moves a value to the next code here and there, and more of them behind those
        part = 0.05 if len(on) == 1 else 0.3
        assert energy(simulator.run(feeds, on)[0] - want) <= part * energy(want - plain) + 1e-12 * energy(plain)


@pytest.mark.parametrize("isa", [i for i in ISAS if ISAS[i].needs <= ISAS[best_isa()].needs])
def test_it_agrees_with_the_integer_engine_at_every_code_level(isa: str, config: BuildConfig) -> None:
    graph, feeds = float_net(mobile)
    recipe = recipe_of(graph, feeds)
    at = replace(config, isa=isa)
    simulator = Simulator(graph, recipe, at)
    (plain,) = simulator.run(feeds, ())
    (integer,) = Engine(build_plan(graph.copy(), at, quantize=recipe).plan).run(feeds)
    assert energy(simulator.run(feeds, recipe.sites)[0] - integer) <= 0.2 * energy(integer - plain)


@by_name
def test_what_was_run_before_does_not_matter(make: Make, config: BuildConfig) -> None:
    graph, feeds = float_net(make)
    other = {k: v[::-1].copy() for k, v in feeds.items()}
    recipe = recipe_of(graph, feeds)
    simulator = Simulator(graph, recipe, config)
    names = [s.name for s in simulator.sites]
    rng = np.random.default_rng(2)
    for batch in (feeds, other, feeds):
        for _ in range(3):
            on = {n for n in names if rng.random() < 0.5}
            got = simulator.run(batch, on)[0]
            copies = {k: v.copy() for k, v in batch.items()}  # other arrays: everything is computed anew
            np.testing.assert_array_equal(got, simulator.run(copies, on)[0])
            simulator.run(batch, set(names) - on)
            np.testing.assert_array_equal(got, simulator.run(batch, on)[0])


@by_name
def test_a_sweep_switches_one_site_at_a_time(make: Make, config: BuildConfig) -> None:
    graph, feeds = float_net(make)
    recipe = recipe_of(graph, feeds)
    simulator = Simulator(graph, recipe, config)
    names = [s.name for s in simulator.sites]
    for base in ((), names):
        swept = dict(simulator.sweep(feeds, base=base))
        assert list(swept) == names[::-1]
        for name in names:
            np.testing.assert_array_equal(swept[name][0], simulator.run(feeds, set(base) ^ {name})[0])
    assert [n for n, _ in simulator.sweep(feeds, names[1:3])] == [names[2], names[1]]


def deep(net: Net, x):  # type: ignore[no-untyped-def]
    for _ in range(12):
        x = net("Relu", net.conv(x, 8, 3))
    return x


def test_a_sweep_costs_half_of_sites_times_a_pass(config: BuildConfig) -> None:
    graph, feeds = float_net(deep)
    simulator = Simulator(graph, recipe_of(graph, feeds), config)
    samples = len(feeds["x"])
    simulator.run(feeds, ())
    assert simulator.work == samples
    simulator.run(feeds, ())
    assert simulator.work == samples  # nothing changed
    list(simulator.sweep(feeds))
    sites = len(simulator.sites)
    assert sites / 2 <= simulator.work / samples - 1 <= sites / 2 + 3


def test_the_recipe_may_change_but_for_its_operands(config: BuildConfig) -> None:
    graph, feeds = float_net(mobile)
    recipe = recipe_of(graph, feeds)
    simulator = Simulator(graph, recipe, config)
    (plain,) = simulator.run(feeds, ())
    site = next(s for s in simulator.sites if s.product)
    node = next(n for n in graph.nodes if n.outputs[0].name == site.key)
    w = node.inputs[1]
    assert w is not None and w.const is not None
    shift = np.linspace(-1, 1, w.const.shape[-1]).astype(np.float32)
    changes = (
        replace(recipe, amax={k: v * 0.6 for k, v in recipe.amax.items()}),
        replace(recipe, weight_scales={site.name: weight_scales(w.const) * np.float32(0.5)}),
        replace(recipe, biases={site.name: shift}),
        replace(recipe, ranges={k: (-0.4 * v, v) for k, v in recipe.amax.items()}),
        recipe,
    )
    for changed in changes:
        simulator.recipe = changed
        want = reference(graph, changed, feeds)
        assert energy(simulator.run(feeds, recipe.sites)[0] - want) <= 0.05 * energy(want - plain)
        np.testing.assert_array_equal(simulator.run(feeds, ())[0], plain)
    with pytest.raises(ConfigError, match="make another"):
        simulator.recipe = replace(recipe, operands={(site.key, 1): w.const * 2})
    doubled = Simulator(graph, replace(recipe, operands={(site.key, 1): w.const * 2}), config)
    assert energy(doubled.run(feeds, ())[0] - plain) > 0.01 * energy(plain)


def test_taps_read_tensors_on_the_way(config: BuildConfig) -> None:
    graph, feeds = float_net(residual)
    recipe = recipe_of(graph, feeds)
    product = next(n for n in graph.nodes if n.op == "Conv")
    tensors = [product.outputs[0].name, *recipe.amax]
    simulator = Simulator(graph, recipe, config, tensors)
    simulator.run(feeds, ())
    values = [v for v in graph.values if v.name in tensors]
    seen = evaluate_values(graph, feeds, values)
    for v in values:
        np.testing.assert_allclose(simulator.tap(v.name), seen[v.id], atol=1e-5 * np.abs(seen[v.id]).max())
    shift = np.full(int(str(product.output.type.shape[-1])), 2.0, np.float32)
    before = simulator.tap(tensors[0]).copy()
    name = next(s.name for s in simulator.sites if s.key == tensors[0])
    simulator.recipe = replace(recipe, biases={name: shift})
    simulator.run(feeds, [name])
    assert abs(float((simulator.tap(tensors[0]) - before).mean()) - 2) < 0.1
    with pytest.raises(ConfigError, match="'nothing'"):
        Simulator(graph, recipe, config, ["nothing"])


def test_batches_of_any_size(config: BuildConfig) -> None:
    net = Net(3)
    net.graph.set_outputs([joined(net, net.input(Dim.symbol("N"), 3, 12, 10))], ["y"])
    run_passes(net.graph, FLOAT)
    feeds = {"x": net.rng.standard_normal((4, 3, 12, 10)).astype(np.float32)}
    recipe = recipe_of(net.graph, feeds)
    assert thresholds(net.graph, feeds) == recipe.amax
    simulator = Simulator(net.graph, recipe, replace(config, profiles=(Profile.of(N=(1, 2, 4)),)))
    whole = simulator.run(feeds, recipe.sites)[0]
    for n in (1, 4, 2):
        part = simulator.run({"x": feeds["x"][:n]}, recipe.sites)[0]
        assert energy(part - whole[:n]) <= 1e-4 * energy(whole)
    assert simulator.work == 4 + 1 + 4 + 2


def test_a_name_that_is_no_site_is_an_error(config: BuildConfig) -> None:
    graph, feeds = float_net(mobile)
    simulator = Simulator(graph, recipe_of(graph, feeds), config)
    with pytest.raises(ConfigError, match="'nothing'"):
        simulator.run(feeds, ["nothing"])


def test_sizes_found_in_data_change_with_what_is_switched(config: BuildConfig) -> None:
    net = Net(5)
    image = net.input(2, 3, 13, 11)
    x = net("Relu", net.conv(net("Relu", net.conv(image, 8, 3)), 4, 3))
    flat = net("Reshape", x, shape=(2 * 4 * 13 * 11,))
    size = Dim.symbol("_Found")
    at = net("NonZero", net("Greater", flat, net.const(0.4)), count=size)
    picked = net("Gather", flat, net("Reshape", at, shape=(size,)), axis=0)
    net.graph.set_outputs([net("Mul", net("Add", picked, net.const(1.0)), picked)], ["y"])
    run_passes(net.graph, FLOAT)
    feeds = {"x": net.rng.standard_normal((2, 3, 13, 11)).astype(np.float32)}
    simulator = Simulator(net.graph, recipe_of(net.graph, feeds), config)
    switched = [(), *((s.name,) for s in simulator.sites)]
    recipe = recipe_of(net.graph, feeds)
    fresh = {on: Simulator(net.graph, recipe, config).run(feeds, on)[0] for on in switched}
    assert len({len(y) for y in fresh.values()}) > 1, "nothing changes size"
    for on in (*fresh, *reversed(fresh)):
        np.testing.assert_array_equal(simulator.run(feeds, on)[0], fresh[on])
    # a GPU's steps cannot be repeated alone then: the CPU's are
    instead = Simulator(net.graph, recipe, replace(config, device="cuda:sm_90"))
    np.testing.assert_array_equal(instead.run(feeds, ())[0], fresh[()])
