"""Recipes: which readers get codes, that what is off is exact, deltas, and patterns that pin a precision."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from temper.builder import build_plan, float_graph
from temper.config import BuildConfig
from temper.errors import ConfigError
from temper.ir.evaluate import evaluate, evaluate_values
from temper.ir.graph import Graph, Value
from temper.passes.manager import Log, run_passes
from temper.passes.pipeline import PIPELINE
from temper.quantize.codes import codes_of, weight_scales
from temper.quantize.placement import narrow_parts, place_sites, sites_of
from temper.quantize.recipe import Recipe, pinned
from temper.runtime.engine import Engine
from tests.passes.nets import Net
from tests.quantize.nets import NETS, Make, float_net, joined, mobile, recipe_of, residual, transformer

AT = [p.name for p in PIPELINE].index("integer")
by_name = pytest.mark.parametrize("make", NETS, ids=lambda m: m.__name__)


def applied(graph: Graph, recipe: Recipe) -> Graph:
    out = graph.copy()
    recipe.apply(out, Log())
    return out


def reads_codes(graph: Graph, key: str, i: int) -> bool:
    """Some tensor on the way to this reader was quantized."""
    node = next(n for n in graph.nodes if n.outputs[0].name == key)
    v = node.inputs[i]
    while v is not None and v.producer is not None and v.producer.op in ("MaxPool", "Concat", "Reshape", "Transpose"):
        v = v.producer.inputs[0]
    return v is not None and v.producer is not None and v.producer.op == "DequantizeLinear"


@by_name
def test_a_site_reads_codes_if_and_only_if_it_is_on(make: Make) -> None:
    graph, feeds = float_net(make)
    sites = sites_of(graph)
    recipe = recipe_of(graph, feeds)
    rng = np.random.default_rng(0)
    for _ in range(12):
        on = {s.name for s in sites if rng.random() < 0.5}
        q = applied(graph, recipe.only(on))
        for s in sites:
            for i in s.inputs:
                assert reads_codes(q, s.key, i) == (s.name in on), (s.name, on)


@by_name
def test_with_everything_off_nothing_changes(make: Make) -> None:
    graph, feeds = float_net(make)
    q = applied(graph, recipe_of(graph, feeds).only(()))
    assert q.hash() == graph.hash()


@by_name
def test_names_do_not_depend_on_the_run(make: Make) -> None:
    assert sites_of(float_net(make)[0]) == sites_of(float_net(make)[0])


@by_name
def test_any_part_may_be_integer(make: Make, tmp_path: Path) -> None:
    """What is on is computed in integers, what is off in floats, and the engine agrees with the references."""
    graph, feeds = float_net(make)
    sites = sites_of(graph)
    recipe = recipe_of(graph, feeds)
    (exact,) = evaluate(graph, feeds)
    scale = float(np.abs(exact).max())
    rng = np.random.default_rng(1)
    config = BuildConfig(effort=0, cache=tmp_path / "cache.sqlite")
    for _ in range(3):
        on = {s.name for s in sites if rng.random() < 0.6}
        build = build_plan(graph.copy(), config, quantize=recipe.only(on))
        integer = [n for n in build.graph.nodes if n.op in ("ConvInt8", "MatMulInt8")]
        assert len(integer) == sum(s.product and s.name in on for s in sites)
        simulated = evaluate(applied(graph, recipe.only(on)), feeds)[0]
        got = Engine(build.plan).run(feeds)[0]
        assert np.abs(got - simulated).max() <= 0.04 * scale
        assert ((got - exact) ** 2).mean() <= 0.01 * (exact**2).mean()


def test_readers_that_are_no_sites_get_codes_where_all_sites_do() -> None:
    graph, _ = float_net(residual)
    sites = sites_of(graph)
    (sigmoid,) = [n for n in graph.nodes if n.op == "Sigmoid"]
    reader = (sigmoid.outputs[0].name, 0)
    last = [s for s in sites if s.product][-1].name
    everything = {s.name for s in sites}
    assert reader in place_sites(graph, sites, everything).reads
    assert reader not in place_sites(graph, sites, everything - {last}).reads


def test_codes_are_made_after_a_pool_where_the_pool_has_a_float_reader() -> None:
    graph, _ = float_net(joined)
    sites = sites_of(graph)
    (pool,) = [n for n in graph.nodes if n.op == "MaxPool"]
    key = pool.outputs[0].name
    readers = [s.name for s in sites if key in {v.name for v in _inputs(graph, s.key)}]
    assert len(readers) >= 2
    everything = {s.name for s in sites}
    assert key in place_sites(graph, sites, everything).moves
    part = place_sites(graph, sites, everything - {readers[0]})
    assert key not in part.moves
    assert any(key in g.tensors for g in part.groups)


def _inputs(graph: Graph, key: str) -> list:
    node = next(n for n in graph.nodes if n.outputs[0].name == key)
    return [v for v in node.inputs if v is not None]


def test_a_concat_shares_a_scale_only_where_codes_are_joined() -> None:
    graph, _ = float_net(joined)
    sites = sites_of(graph)
    names = [s.name for s in sites if s.product]
    assert max(len(g.tensors) for g in place_sites(graph, sites, names).groups) == 3
    assert max(len(g.tensors) for g in place_sites(graph, sites, names[:-1]).groups) == 1


def test_normalizations_read_floats() -> None:
    graph, _ = float_net(transformer)
    sites = sites_of(graph)
    reads = place_sites(graph, sites, {s.name for s in sites}).reads
    normal = {n.outputs[0].name for n in graph.nodes if n.op == "LayerNormalization"}
    assert normal and not normal & {key for key, _ in reads}


def test_a_bias_is_shifted_only_where_the_product_is_on() -> None:
    for make in (mobile, transformer):
        graph, feeds = float_net(make)
        recipe = recipe_of(graph, feeds)
        site = [s for s in sites_of(graph) if s.product][-1]
        y = next(n for n in graph.nodes if n.outputs[0].name == site.key).output
        shift = np.linspace(-0.5, 0.5, int(str(y.type.shape[-1]))).astype(np.float32)
        moved = Recipe(recipe.sites, recipe.amax, biases={site.name: shift})
        (plain,), (shifted,) = (evaluate(applied(graph, r), feeds) for r in (recipe, moved))
        change = shifted - plain  # channels-first at the end, and the last product adds straight to the result
        want = np.broadcast_to(shift.reshape((1, -1) + (1,) * (change.ndim - 2)), change.shape)
        np.testing.assert_allclose(change, want, atol=2e-2)
        off = applied(graph, moved.without([site.name]))
        assert off.hash() == applied(graph, recipe.without([site.name])).hash()


def test_replaced_constants_hold_whether_sites_are_on_or_off() -> None:
    graph, feeds = float_net(mobile)
    recipe = recipe_of(graph, feeds)
    site = next(s for s in sites_of(graph) if s.product)
    w = _inputs(graph, site.key)[1].const
    assert w is not None
    off = Recipe(frozenset(), recipe.amax, operands={(site.key, 1): w * 2})
    assert not np.allclose(evaluate(applied(graph, off), feeds)[0], evaluate(graph, feeds)[0])
    with pytest.raises(ConfigError, match="replaces input 1"):
        applied(graph, Recipe(frozenset(), {}, operands={(site.key, 1): w[..., :1]}))


def test_weight_scales_are_taken_over() -> None:
    graph, feeds = float_net(mobile)
    recipe = recipe_of(graph, feeds)
    site = next(s for s in sites_of(graph) if s.product)
    w = _inputs(graph, site.key)[1].const
    assert w is not None
    scale = weight_scales(w) * np.float32(0.7)
    q = applied(graph, Recipe(recipe.sites, recipe.amax, weight_scales={site.name: scale}))
    found = _inputs(q, site.key)[1].producer
    assert found is not None and found.inputs[1] is not None
    np.testing.assert_array_equal(found.inputs[1].const, scale)


def test_missing_and_illegal_thresholds_are_named() -> None:
    graph, feeds = float_net(mobile)
    recipe = recipe_of(graph, feeds)
    name = next(iter(recipe.amax))
    for wrong, message in (({}, "no threshold"), ({name: np.nan}, "must be a float32 number")):
        amax = {k: v for k, v in recipe.amax.items() if k != name} | wrong
        with pytest.raises(ConfigError, match=message) as e:
            applied(graph, Recipe(recipe.sites, amax))
        assert name in str(e.value)


def test_int8_codes_on_demand() -> None:
    graph, feeds = float_net(residual)
    recipe = recipe_of(graph, feeds)
    unsigned = {t for g in recipe.placement(graph).groups if not g.signed for t in g.tensors}
    assert unsigned
    signed = Recipe(recipe.sites, recipe.amax, signed=frozenset(unsigned))
    assert all(g.signed for g in signed.placement(graph).groups)


def _two_layers(batch: int | str) -> bytes:
    rng = np.random.default_rng(0)
    constants = {"a": rng.standard_normal((8, 3, 3, 3)), "b": rng.standard_normal((4, 8, 3, 3))}
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "a"], ["t"], "/stem/conv", pads=[1] * 4),
            helper.make_node("Relu", ["t"], ["u"], "/stem/relu"),
            helper.make_node("Conv", ["u", "b"], ["v"], "/head/conv", pads=[1] * 4),
            helper.make_node("Softmax", ["v"], ["y"], "/head/softmax", axis=1),
        ],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 4, 8, 8])],
        [numpy_helper.from_array(v.astype(np.float32), k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]).SerializeToString()


def test_one_recipe_serves_every_profile(tmp_path: Path) -> None:
    model = _two_layers("N")
    config = BuildConfig(effort=0, cache=tmp_path / "c.sqlite", batches=((1, 1, 1), (4, 4, 4), (2, 3, 5)))
    graph = float_graph(model, config)
    assert [s.name for s in sites_of(graph)] == ["/stem/conv", "/head/conv"]
    x = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32)
    recipe = Recipe(frozenset({"/head/conv"}), {t: 4.0 for s in sites_of(graph) for t in s.tensors})
    build = build_plan(model, config, quantize=recipe)
    assert len({r["profile"] for r in build.plan.report["regions"] if r["op"] == "ConvInt8"}) == 3
    engine = Engine(build.plan)
    whole = engine.run({"x": x})[0]
    np.testing.assert_allclose(whole[:3], engine.run({"x": x[:3]})[0], atol=1e-6)


def test_a_recipe_for_another_model_is_an_error() -> None:
    with pytest.raises(ConfigError, match="'/neck/conv'"):
        build_plan(_two_layers(1), BuildConfig(effort=0), quantize=Recipe(frozenset({"/neck/conv"}), {}))


def test_patterns() -> None:
    graph = float_graph(_two_layers(1))
    pins = pinned(graph, ["/*=int8", "/head/*=fp32"])
    assert (pins.fp32, pins.low, pins.idle) == ({"/head/conv"}, {"/stem/conv"}, ())
    assert pinned(graph, ["*softmax=fp32"]).idle == ("*softmax=fp32",)
    with pytest.raises(ConfigError, match="matches no layer.*/head/conv"):
        pinned(graph, ["/head/con=fp32"])
    with pytest.raises(ConfigError, match="the precisions are"):
        pinned(graph, ["/head/*"])
    with pytest.raises(ConfigError, match="the precisions are"):
        pinned(graph, ["/head/*=int4"])


def test_sums_that_only_normalization_reads_stay_float() -> None:
    """The residual stream through a layer norm: products read its codes, the next sum its floats."""
    net = Net(4)
    x = net("MatMul", net.input(2, 9, 8), net.weights(8, 8))
    for _ in range(2):
        x = net.many("LayerNormalization", x, net.weights(8), net.weights(8), axis=-1, epsilon=1e-5)[0]
        x = net("Add", x, net("MatMul", net("Gelu", net("MatMul", x, net.weights(8, 16))), net.weights(16, 8)))
    y = net.many("LayerNormalization", x, net.weights(8), net.weights(8), axis=-1, epsilon=1e-5)[0]
    net.graph.set_outputs([y])
    sites = sites_of(net.graph)
    assert [s.op for s in sites] == ["MatMul"] * 5
    q = net.graph.copy()
    Recipe(frozenset(s.name for s in sites), {t: 3.0 for s in sites for t in s.tensors}).apply(q, Log())
    sums = [n for n in q.nodes if n.op == "Add"]
    assert sums and not any(reads_codes(q, n.output.name, i) for n in sums for i in (0, 1))


def gated(net: Net, x: Value) -> Value:
    """SiLU and hard-swish: values that reach much further up than down, through a pad, a pool, a Concat and a sum."""
    x = net("Silu", net.conv(x, 8, 3))
    y = net("HardSwish", net.conv(x, 8, 3, group=8))
    z = net("Concat", net.pool(x, "MaxPool", 3, 1, 1), net("HardSwish", net.conv(y, 8, 1)), axis=1)
    y = net("Add", net.conv(z, 8, 3), y)
    return net.conv(net("HardSwish", y), 5, 3)


def test_ranges_give_zero_points_and_keep_a_bit(tmp_path: Path) -> None:
    graph, feeds = float_net(gated)
    recipe = recipe_of(graph, feeds)
    names = list(recipe.amax)
    values = [v for v in graph.values if v.name in names]
    seen = evaluate_values(graph, feeds, values)
    ranges = {v.name: (float(seen[v.id].min()), float(seen[v.id].max())) for v in values}
    lopsided = {n: r for n, r in ranges.items() if -r[0] < 0.5 * r[1]}
    assert len(lopsided) >= 4
    (exact,) = evaluate(graph, feeds)
    errors = []
    for chosen in ({}, lopsided):
        made = replace(recipe, ranges=chosen)
        assert {c.dtype for c in codes_of(graph, made.placement(graph), made.amax, chosen)} >= {"int8"}
        q = applied(graph, made)
        build = build_plan(graph.copy(), BuildConfig(effort=0, cache=tmp_path / "c.sqlite"), quantize=made)
        assert not [r for r in build.plan.report["regions"] if r["tactic"] == "host"]
        (got,) = Engine(build.plan).run(feeds)
        run_passes(q, PIPELINE[AT:])
        (want,) = evaluate(q, feeds)
        np.testing.assert_allclose(got, want, atol=0.02 * np.abs(want).max())
        assert ((got - want) ** 2).mean() <= 0.1 * ((want - exact) ** 2).mean()
        errors.append(float(((want - exact) ** 2).mean()))
    assert errors[1] < 0.6 * errors[0]
    # a group one of whose tensors has no range is symmetric
    joined_group = max(recipe.placement(graph).groups, key=lambda g: len(g.tensors))
    assert len(joined_group.tensors) == 2
    part = {n: r for n, r in ranges.items() if n != joined_group.tensors[0]}
    at = recipe.placement(graph).groups.index(joined_group)
    assert codes_of(graph, recipe.placement(graph), recipe.amax, part)[at].dtype == "int8"


def stacked(net: Net, x: Value) -> Value:
    """Two parts of one input, each read by a product of its own."""
    t = net("Reshape", x, shape=(2, 3, 143))
    small = net("Slice", t, starts=(0,), ends=(1,), axes=(1,), steps=(1,))
    large = net("Slice", t, starts=(1,), ends=(3,), axes=(1,), steps=(1,))
    a, b = net("MatMul", small, net.weights(143, 8)), net("MatMul", large, net.weights(143, 8))
    return net("Concat", a, b, axis=1)


def test_a_small_part_of_a_tensor_gets_codes_of_its_own() -> None:
    """A state stacked with another a hundred times larger keeps its bits; the large one shares the whole's codes."""
    graph, feeds = float_net(stacked)
    feeds["x"][:, 0] *= 0.01
    seen = evaluate_values(graph, feeds, graph.values)
    amax = {v.name: float(np.abs(seen[v.id]).max()) for v in graph.values if v.const is None}
    found = narrow_parts(graph, amax)
    recipe = Recipe(frozenset(s.name for s in sites_of(graph)), amax)
    (exact,) = evaluate(graph, feeds)

    def error(r: Recipe) -> float:
        (y,) = evaluate(applied(graph, r), feeds)
        return float(np.abs(y[:, 0] - exact[:, 0]).max() / np.abs(exact[:, 0]).max())

    apart = replace(recipe, apart=found)
    assert error(recipe) > 0.3 and error(apart) < 0.03
    assert len(apart.placement(graph).groups) == 2 and len(recipe.placement(graph).groups) == 1


def test_parts_of_one_range_share_codes() -> None:
    graph, feeds = float_net(stacked)
    seen = evaluate_values(graph, feeds, graph.values)
    assert narrow_parts(graph, {v.name: float(np.abs(seen[v.id]).max()) for v in graph.values}) == frozenset()
