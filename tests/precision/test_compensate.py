"""Compensation on small networks: steps that help are taken, others are told and left, and the engine gets better."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from temper.builder import build_plan
from temper.config import BuildConfig
from temper.ir.graph import Graph, Value
from temper.passes.manager import run_passes
from temper.passes.pipeline import FLOAT
from temper.precision.compensate import STEPS, Compensation, Data, Step, compensate
from temper.precision.distance import Distance
from temper.precision.simulate import Simulator
from temper.quantize.placement import sites_of
from temper.quantize.recipe import Recipe
from temper.runtime.engine import Engine
from tests.passes.nets import Net
from tests.quantize.compensate.test_mathematics import imbalanced, triple
from tests.quantize.nets import recipe_of, thresholds


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> BuildConfig:
    return BuildConfig(effort=0, cache=tmp_path_factory.mktemp("tuning") / "cache.sqlite")


def classifier(net: Net, x: Value) -> Value:
    """Gated activations and a head of classes."""
    for _ in range(4):
        x = net("Silu", net.conv(x, 12, 3))
    flat = net("Reshape", net("ReduceMean", x, axes=(2, 3), keepdims=1), shape=(2, 12))
    return net("Softmax", net("MatMul", flat, net.weights(12, 5)), axis=-1)


def task(seed: int = 2) -> tuple[Graph, Recipe, Data]:
    net = Net(seed)
    net.graph.set_outputs([classifier(net, net.input(2, 3, 12, 12))], ["y"])
    run_passes(net.graph, FLOAT)
    batches = [{"x": net.rng.standard_normal((2, 3, 12, 12)).astype(np.float32)} for _ in range(24)]
    recipe = recipe_of(net.graph, batches[0])
    seen = [thresholds(net.graph, b) for b in batches]
    wide = {t: 1.3 * max(s[t] for s in seen) for t in recipe.amax}
    spans = {t: (-0.28 if "Silu" in t else -a, a) for t, a in wide.items()}
    choices = {t: {"exact": a / 1.3, "far": a * 2, "near": a * 0.3} for t, a in wide.items()}
    return net.graph, replace(recipe, amax=wide), Data(batches[:10], batches[10:], (), spans, choices)


def loss(graph: Graph, recipe: Recipe, config: BuildConfig, data: Data) -> float:
    plain = Engine(build_plan(graph.copy(), config).plan)
    engine = Engine(build_plan(graph.copy(), config, quantize=recipe).plan)
    outputs = [plain.run(b) for b in data.held]
    distance = Distance(graph, outputs)
    return float(np.mean([distance(want, engine.run(b)) for want, b in zip(outputs, data.held, strict=True)]))


def test_the_engine_gets_better(config: BuildConfig) -> None:
    graph, recipe, data = task()
    told: list[Step] = []
    made = compensate(graph, recipe, config, data, say=told.append)
    assert list(made.steps) == told and len(told) == len(STEPS)
    accepted = {s.name for s in told if s.accepted}
    assert {"zero points", "bias correction"} <= accepted
    for s in told:
        assert (s.after < s.before) if s.accepted else s.reason
    before, after = (loss(graph, r, config, data) for r in (recipe, made.recipe))
    assert after < 0.6 * before
    # every step looks at the held-back samples once, besides the float run and the first
    samples = sum(len(b["x"]) for b in data.held)
    assert made.work <= (len(STEPS) + 2) * samples
    np.testing.assert_allclose(
        made.simulator.run(data.held[0], ())[0], Engine(build_plan(graph, config).plan).run(data.held[0])[0], atol=1e-5
    )


def test_channels_of_different_size_are_evened_out(config: BuildConfig) -> None:
    graph, feeds = imbalanced(triple)
    batches = [{"x": np.random.default_rng(k).standard_normal(feeds["x"].shape).astype(np.float32)} for k in range(16)]
    seen = [thresholds(graph, b) for b in batches]
    recipe = Recipe(frozenset(s.name for s in sites_of(graph)), {t: max(s[t] for s in seen) for t in seen[0]})
    data = Data(batches[:8], batches[8:])
    made = compensate(graph, recipe, config, data, ("migration",))
    assert made.steps[0].accepted and len(made.steps[0].changed) == 2
    assert loss(graph, made.recipe, config, data) < 0.8 * loss(graph, recipe, config, data)
    # off, it is the float network still
    exact, off = (made.simulator.run(batches[0], ()), Simulator(graph, recipe, config).run(batches[0], ()))
    np.testing.assert_allclose(exact[0], off[0], atol=1e-4 * np.abs(off[0]).max())


def test_what_does_not_help_is_left(config: BuildConfig) -> None:
    graph, recipe, data = task()
    tried = Compensation(graph, recipe, config, data)
    coarse = replace(recipe, amax={t: a * 4 for t, a in recipe.amax.items()})
    assert not tried.propose("coarser", coarse, recipe.amax)
    assert tried.recipe is recipe and tried.simulator.recipe is recipe
    assert tried.steps[-1].reason.startswith("the distance from the float engine would go")
    assert not tried.propose("the same", recipe, recipe.amax)
    assert not tried.propose("nothing", recipe, ())
    assert tried.steps[-1].reason == "there is nothing to change"
    broken = replace(recipe, biases={s.name: np.full(12, np.nan, np.float32) for s in tried.products[:1]})
    assert not tried.propose("broken", broken, ["x"])
    assert tried.steps[-1].reason == "outputs are not finite"


def test_thresholds_are_chosen_by_what_they_do_to_the_outputs(config: BuildConfig) -> None:
    graph, recipe, data = task()
    tried = Compensation(graph, recipe, config, data)
    tried.thresholds()
    chosen = [text.rpartition("(")[2] for text in tried.steps[-1].changed]
    assert "far)" not in chosen and "near)" not in chosen and "exact)" in chosen
    for t, a in tried.recipe.amax.items():
        assert a in (recipe.amax[t], *data.alternatives[t].values())


def test_codes_with_a_zero_point_take_thresholds_of_their_own(config: BuildConfig) -> None:
    graph, recipe, data = task()
    gated = [t for t in recipe.amax if "Silu" in t]
    own = {t: recipe.amax[t] / 1.3 for t in gated}  # all that there is
    made = compensate(graph, recipe, config, replace(data, ranged=own), ("zero_points",))
    assert made.steps[0].accepted and set(made.recipe.ranges) == set(gated)
    for t, (low, high) in made.recipe.ranges.items():
        assert (low, high) == (data.spans[t][0], own[t])
    assert made.recipe.amax == recipe.amax


def test_bias_correction_brings_means_back(config: BuildConfig) -> None:
    net = Net(4)
    net.graph.set_outputs([net.conv(net("Relu", net.conv(net.input(2, 3, 12, 12), 8, 3)), 6, 3)], ["y"])
    run_passes(net.graph, FLOAT)
    batches = [{"x": net.rng.standard_normal((2, 3, 12, 12)).astype(np.float32)} for _ in range(12)]
    whole = recipe_of(net.graph, batches[0])
    recipe = replace(whole, amax={t: a * 0.35 for t, a in whole.amax.items()})  # clips a good part
    tried = Compensation(net.graph, recipe, config, Data(batches[:6], batches[6:]))
    tried.biases()
    assert tried.steps[-1].accepted and set(tried.recipe.biases) == {s.name for s in sites_of(net.graph)}
    plain = Engine(build_plan(net.graph.copy(), config).plan)
    means = []
    for r in (recipe, tried.recipe):
        engine = Engine(build_plan(net.graph.copy(), config, quantize=r).plan)
        error = np.concatenate([engine.run(b)[0] - plain.run(b)[0] for b in batches[6:]])
        means.append(np.abs(error.mean(axis=(0, 2, 3))).mean())
    assert means[1] < 0.7 * means[0]


def test_distances() -> None:
    net = Net(1)
    x = net.input(4, 6)
    net.graph.set_outputs([net("Softmax", net("MatMul", x, net.weights(6, 3)), axis=-1)], ["y"])
    p = np.full((4, 3), 1 / 3, np.float32)
    q = np.array([[0.7, 0.2, 0.1]] * 4, np.float32)
    distance = Distance(net.graph, [[q]])
    assert distance([q], [q]) == 0
    assert distance([q], [p]) == pytest.approx(1)
    nearer = np.sqrt(p * q)
    assert 0 < distance([q], [nearer / nearer.sum(axis=-1, keepdims=True)]) < 0.3
    assert distance([q], [np.full_like(q, np.nan)]) == np.inf
