"""What a record tells of layers, against the quantized graph itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from temper.config import BuildConfig
from temper.ir.evaluate import evaluate_values
from temper.ir.graph import Value
from temper.passes.manager import Log
from temper.precision.divergence import Reference
from temper.precision.layer_noise import noise_of_sites, weights_parts
from temper.precision.output_kinds import heads
from temper.precision.simulate import Simulator
from tests.passes.nets import Net
from tests.quantize.nets import float_net, mobile, recipe_of


@pytest.fixture
def config(tmp_path: Path) -> BuildConfig:
    return BuildConfig(effort=0, cache=tmp_path / "cache.sqlite")


def decibels(want: np.ndarray, got: np.ndarray) -> float:
    wide = want.astype(np.float64)
    return float(10 * np.log10((wide**2).sum() / ((got - wide) ** 2).sum()))


def test_noise_is_that_of_the_quantized_graph(config: BuildConfig) -> None:
    graph, feeds = float_net(mobile)
    recipe = recipe_of(graph, feeds)
    found = noise_of_sites(graph, recipe, config, [feeds], recipe.sites)
    sites = Simulator(graph, recipe, config).sites
    exact = evaluate_values(graph, feeds, graph.values)
    data = {v.name: exact[v.id] for v in graph.values if v.id in exact}
    first = sites[0]
    x = data[first.tensors[0]].astype(np.float64)
    scale = np.float64(np.float32(recipe.amax[first.tensors[0]] / 127))
    codes = np.clip(np.rint(x / scale), -128, 127) * scale
    assert found[first.name].sqnr == pytest.approx(decibels(x, codes), abs=0.05)
    assert found[first.name].rmse_over_scale == pytest.approx(np.sqrt(((codes - x) ** 2).mean()) / scale, rel=0.02)
    assert found[first.name].clip_rate == 0.0
    narrow = replace(recipe, amax={t: 0.3 * a for t, a in recipe.amax.items()})
    clipped = noise_of_sites(graph, narrow, config, [feeds], ())[first.name]
    beyond = (x > 0.3 * 127.5 * scale) | (x < -0.3 * 128.5 * scale)
    assert clipped.clip_rate == pytest.approx(beyond.mean(), abs=5e-4)
    # in the chosen engine noise adds up, and where nothing is in INT8 there is none
    quantized = graph.copy()
    recipe.apply(quantized, Log())
    last = [s for s in sites if s.product][-1]
    rounded = evaluate_values(quantized, feeds, quantized.outputs)[quantized.outputs[0].id]
    assert found[last.name].sqnr_cumulative == pytest.approx(decibels(data[graph.outputs[0].name], rounded), abs=1.0)
    float_noise = noise_of_sites(graph, recipe, config, [feeds], ())
    assert (float_noise[last.name].sqnr_cumulative or 0) > 100


def test_scaled_channels_are_looked_at_as_they_are(config: BuildConfig) -> None:
    """A recipe that divides a layer's operand by 8 and multiplies its weights: noise is that of the smaller tensor."""

    def two(net: Net, x: Value) -> Value:
        return net.conv(net("Relu", net.conv(x, 8, 3)), 4, 1)

    graph, feeds = float_net(two)
    recipe = recipe_of(graph, feeds)
    sites = Simulator(graph, recipe, config).sites
    a, b = sites
    nodes = {n.outputs[0].name: n for n in graph.nodes}
    weights = {s: nodes[s.key].inputs[1] for s in sites}
    bias = nodes[a.key].inputs[2] if len(nodes[a.key].inputs) > 2 else None
    constants = {s: v.const for s, v in weights.items() if v is not None and v.const is not None}
    operands = {(a.key, 1): constants[a] / np.float32(8), (b.key, 1): constants[b] * np.float32(8)}
    if bias is not None and bias.const is not None:
        operands[a.key, 2] = bias.const / np.float32(8)
    amax = {t: x / 8 if t in b.tensors else x for t, x in recipe.amax.items()}
    plain = noise_of_sites(graph, recipe, config, [feeds], ())[b.name]
    scaled = noise_of_sites(graph, replace(recipe, operands=operands, amax=amax), config, [feeds], ())[b.name]
    assert scaled.sqnr == pytest.approx(plain.sqnr, abs=1e-3)


def test_part_of_the_weights(config: BuildConfig) -> None:
    """Weights that codes hold exactly lose nothing; beside coarse data fine weights lose little."""

    def one(net: Net, x: Value) -> Value:
        return net.conv(x, 4, 3)

    graph, feeds = float_net(one)
    recipe = recipe_of(graph, feeds)
    simulator = Simulator(graph, recipe, config)
    (site,) = simulator.sites
    reference = Reference(heads(graph), [simulator.run(feeds, ())])
    both = weights_parts(simulator, reference, [feeds], [site.name])
    assert 0.05 < both[site.name] < 0.95
    node = next(n for n in graph.nodes if n.outputs[0].name == site.key)
    w = node.inputs[1]
    assert w is not None and w.const is not None
    exact = np.rint(w.const / np.abs(w.const).reshape(-1, w.const.shape[-1]).max(axis=0) * 127).astype(np.float32)
    other = Simulator(graph, replace(recipe, operands={(site.key, 1): exact}), config)
    reference = Reference(heads(graph), [other.run(feeds, ())])
    assert weights_parts(other, reference, [feeds], [site.name])[site.name] < 1e-6
