"""Products of 8-bit floats: scales, the graph's form, and the simulator's account of it."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from temper.builder import build_plan, float_graph
from temper.config import BuildConfig
from temper.errors import ConfigError
from temper.ir.evaluate import evaluate
from temper.ir.graph import Graph
from temper.ir.ops import make
from temper.ir.types import TensorType
from temper.ir.verify import verify
from temper.passes.manager import Log
from temper.precision.build import build_int8
from temper.precision.request import Request
from temper.precision.simulate import Simulator
from temper.quantize.float8 import channel_scales, float8_sites, insert, narrow, rounded, scale_of
from temper.quantize.recipe import Recipe
from temper.reference.formats import number, numbers
from tests.conftest import small_model
from tests.precision.conftest import pictures
from tests.runtime.cuda.whole import run

GPU = importlib.util.find_spec("triton") is not None


@pytest.fixture
def config(timing_cache: Path) -> BuildConfig:
    return BuildConfig(threads=2, effort=0, cache=timing_cache)


@pytest.fixture
def graph(config: BuildConfig) -> Graph:
    return float_graph(small_model(2).SerializeToString(), config)


def recipe_of(graph: Graph) -> Recipe:
    amax = {v.name: 6.0 for v in graph.values if v.const is None}
    return Recipe(frozenset(s.name for s in float8_sites(graph)), amax, form="float8")


def test_scales_are_powers_of_two_that_hold_the_largest_value() -> None:
    for amax in (1e-30, 0.1, 447.9, 448.0, 448.1, 3e4, 1e30):
        scale = float(scale_of(amax))
        assert np.log2(scale).is_integer() and amax / scale <= 448 < 2 * amax / scale or amax / scale == 448
    assert scale_of(0.0) == 1
    w = np.random.default_rng(1).standard_normal((3, 3, 8, 5)).astype(np.float32)
    near = rounded(w, channel_scales(w)) * channel_scales(w)
    assert np.abs(near - w).max() <= 2.0**-4 * np.abs(w).max()
    stored = number(rounded(w, channel_scales(w)), "float8e4m3fn")
    assert (numbers(stored, "float8e4m3fn") * channel_scales(w) == near).all()


def test_a_graph_computes_with_rounded_data_and_weights(graph: Graph) -> None:
    feeds = {"image": pictures(2)}
    (want,) = evaluate(graph, feeds)
    recipe, after = recipe_of(graph), graph.copy()
    recipe.apply(after, Log())
    verify(after)
    (got,) = evaluate(after, feeds)
    error = np.abs(got - want).max()
    assert 0 < error < 0.15 * np.abs(want).max()
    assert sum(v.type.dtype == "float8e4m3fn" for v in after.values) == 5  # one a tensor, though two read the first
    for node in after.nodes:
        if node.op in ("Conv", "MatMul"):
            w = node.inputs[1]
            assert w is not None and w.const is not None
            assert (numbers(number(w.const, "float8e4m3fn"), "float8e4m3fn") == w.const).all()


def test_the_simulator_computes_the_same(graph: Graph, config: BuildConfig) -> None:
    recipe, feeds = recipe_of(graph), {"image": pictures(2)}
    simulator = Simulator(graph, recipe, config)
    (plain,), (all_on,) = simulator.run(feeds, ()), simulator.run(feeds, recipe.sites)
    after = graph.copy()
    recipe.apply(after, Log())
    np.testing.assert_allclose(plain, evaluate(graph, feeds)[0], atol=1e-4)
    np.testing.assert_allclose(all_on, evaluate(after, feeds)[0], atol=0.02 * np.abs(all_on).max())
    assert np.abs(all_on - plain).max() > 1e-3
    one = sorted(recipe.sites)[:1]
    partly = graph.copy()
    insert(partly, [s for s in float8_sites(graph) if s.name in one], recipe.amax)
    np.testing.assert_allclose(simulator.run(feeds, one)[0], evaluate(partly, feeds)[0], atol=1e-3)


@pytest.mark.skipif(not GPU, reason="triton is not installed: no GPU kernel can be compiled")
def test_a_gpu_multiplies_what_is_stored(graph: Graph, config: BuildConfig, tmp_path: Path) -> None:
    recipe, feeds = recipe_of(graph), {"image": pictures(2)}
    gpu = replace(config, device="cuda:sm_90", precision="fp16", tf32=False)
    build = build_plan(small_model(2).SerializeToString(), gpu, quantize=recipe)
    products = [r["workload"] for r in build.plan.report["regions"] if r["op"] in ("Conv", "MatMul")]
    assert len(products) == 5 and all("(float8e4m3fn" in w and "=float8e4m3fn" in w for w in products)
    after = graph.copy()
    recipe.apply(after, Log())
    (want,), (got,) = evaluate(after, feeds), run(build, feeds, tmp_path)
    assert np.abs(got - want).max() <= 0.05 * np.abs(want).max()


@pytest.mark.skipif(not GPU, reason="triton is not installed: no GPU kernel can be compiled")
def test_builds_search_in_8_bit_floats(config: BuildConfig) -> None:
    data = small_model().SerializeToString()
    request = Request(calibration=pictures(40), form="float8", work=None)
    gpu = replace(config, device="cuda:sm_90", precision="fp16")
    made = build_int8(data, gpu, replace(request, keep=("conv0b=fp16",)))
    assert {s.precision for s in made.outcome.sites if not s.pinned} <= {"float8", "float16"}
    assert next(s for s in made.outcome.sites if s.name == "conv0b").precision == "float16"
    assert made.build.plan.report["int8"]["form"] == "float8"
    with pytest.raises(ConfigError, match="which cpu does not"):
        build_int8(data, config, request)
    with pytest.raises(ConfigError, match="sm_89"):
        build_int8(data, replace(gpu, device="cuda:sm_80"), request)


def test_products_that_follow_each_other_are_narrowed_together() -> None:
    rng = np.random.default_rng(2)
    graph = Graph("chain")
    x = graph.add_input("x", TensorType("float32", (4, 8)))
    weights = [graph.add_constant(rng.standard_normal((8, 8)).astype(np.float32), f"w{i}") for i in range(2)]
    first = make(graph, "MatMul", [x, weights[0]], {}, name="a").output
    second = make(graph, "MatMul", [first, weights[1]], {}, name="b").output
    graph.set_outputs([second], ["y"])
    feeds = {"x": rng.standard_normal((4, 8)).astype(np.float32)}
    (want,) = evaluate(graph, feeds)
    narrow(graph, {first.name: 4.0, second.name: 20.0})
    verify(graph)
    assert sum(v.type.dtype == "float8e4m3fn" for v in graph.values) == 2
    # two products whose operands are rounded by up to 2^-4 each: 4 * 2^-4 of what they sum, at worst
    np.testing.assert_allclose(evaluate(graph, feeds)[0], want, atol=0.1 * np.abs(want).max())
