"""A convolution of codes that is kept with the one behind it, and perhaps the one before, as one kernel."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from temper.builder import build_plan
from temper.config import BuildConfig
from temper.ir.graph import Graph, Value
from temper.passes.chains import Chain, chains
from temper.passes.manager import Log, run_passes
from temper.passes.partition import partition
from temper.passes.pipeline import FLOAT, for_gpus, quantizing
from temper.plan.file import from_bytes, to_bytes
from temper.runtime.cuda.driver import Gpu
from temper.runtime.engine import Engine
from temper.tactics.cuda import conv_onward
from temper.tactics.cuda.conv_onward import ConvOnward
from temper.tactics.workload import workload
from temper.tune.verify import make_problem, mismatch
from tests.passes.nets import Net
from tests.quantize.nets import recipe_of
from tests.runtime.cuda.emulate import Emulator, recording
from tests.tactics.cuda.guarded_run import guarded_run

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed: no GPU kernel can be interpreted", allow_module_level=True)

TACTIC = ConvOnward()


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Chains are accepted that keep little."""
    monkeypatch.setattr(conv_onward, "_LEAST", 0)


def blocks(net: Net, x: Value, wide: int) -> Value:
    """Bottlenecks of 64 channels, the last one's windows two apart."""
    x = net("Relu", net.conv(x, wide, 1))
    for stride in (1, 1, 2):
        y = net("Relu", net.conv(x, 64, 1))
        y = net("Relu", net.conv(y, 64, 3, stride=stride))
        x = net("Relu", net("Add", net.conv(y, wide, 1), net.conv(x, wide, 1, stride=2) if stride > 1 else x))
    return net.conv(x, 64, 1)


def integer_graph(wide: int = 128) -> Graph:
    net = Net(5)
    net.graph.set_outputs([blocks(net, net.input(2, 3, 15, 17), wide)], ["y"])
    run_passes(net.graph, FLOAT)
    feeds = {"x": net.rng.standard_normal((2, 3, 15, 17)).astype(np.float32)}
    graph = net.graph.copy()
    run_passes(graph, for_gpus(quantizing(recipe_of(net.graph, feeds).apply)))
    return graph


def kept(graph: Graph) -> list[Chain]:
    return [c for c, _ in chains(graph, partition(graph, Log())) if c.keeps]


def test_chains_keep_what_others_read() -> None:
    found = kept(integer_graph())
    assert sorted(len(c.links) for c in found) == [2] * 4 + [3] * 3
    for c in found:
        assert c.outputs == (*c.links[-1].outputs, *c.links[-2].outputs)
        inner = {o.id for r in c.links[:-2] for o in r.outputs}
        assert not inner & {v.id for v in c.inputs} and c.outputs[1].id not in {v.id for v in c.inputs}


def test_agrees_with_the_reference_of_its_parts(tmp_path: Path) -> None:
    accepted = [(c, w) for c in kept(integer_graph()) if TACTIC.accepts(w := workload(c, "sm_90", 1)) is None]
    assert {len(c.links) for c, _ in accepted} == {2, 3}
    for number, (chain, w) in enumerate(accepted):
        constants = {i: v.const for i, v in enumerate(chain.anchor_inputs) if v is not None and v.const is not None}
        operands = {i: v.const for i, v in enumerate(chain.operands) if v.const is not None}
        full = {i: a.reshape((1,) * (4 - a.ndim) + a.shape) for i, a in operands.items()}
        problem = make_problem(w, constants, {}, operand_constants=full)
        assert len(problem.want) == 2 and all(not b.any() for b in problem.bounds)
        several = TACTIC.candidates(w)
        for params in several[:: len(several) - 1]:
            kernel = TACTIC.generate(w, params, "onward")
            packed = TACTIC.prepack(w, params, constants)
            made = guarded_run(kernel, problem, packed, tmp_path / f"{number} {several.index(params)}")
            for i in range(2):
                assert mismatch(made[f"output{i}"], problem.want[i], problem.bounds[i]) is None


def test_a_plan_has_what_is_kept_where_others_read_it(monkeypatch: pytest.MonkeyPatch, timing_cache: Path) -> None:
    """Launches are computed by the references, at the plan's addresses."""
    net = Net(5)
    net.graph.set_outputs([blocks(net, net.input(1, 3, 11, 9), 64)], ["y"])
    feeds = {"x": net.rng.standard_normal((1, 3, 11, 9)).astype(np.float32)}
    exact = net.graph.copy()
    run_passes(exact, FLOAT)
    recipe = recipe_of(exact, feeds)
    monkeypatch.setattr(ConvOnward, "predict", lambda self, w, params: 1e-9)
    results = []
    for disable in ((), ("cuda.conv_onward",)):
        config = BuildConfig(device="cuda:sm_90", effort=0, cache=timing_cache, disable=disable)
        with recording() as known:
            plan = build_plan(net.graph.copy(), config, quantize=recipe).plan
        taken = sum("conv_onward" in r["tactic"] for r in plan.report["regions"])
        assert taken == 0 if disable else taken >= 2
        results.append(np.asarray(Engine(from_bytes(to_bytes(plan)), gpu=Gpu(0, Emulator(known=known)))(feeds["x"])))
    np.testing.assert_array_equal(*results)
    assert results[0].std() > 0


def test_declines_with_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = integer_graph(96)
    reasons = {TACTIC.accepts(workload(c, "sm_90", 1)) for c, _ in chains(graph, partition(graph, Log()))}
    assert None not in reasons and any("multiple of 64" in str(r) for r in reasons)
    w = next(w for c in kept(integer_graph()) if TACTIC.accepts(w := workload(c, "sm_90", 1)) is None)
    monkeypatch.setattr(conv_onward, "_LEAST", 48e6)
    assert TACTIC.accepts(w) == "is for 48 MB and more that are kept, known as it is built"
