"""Two convolutions of codes as one kernel: found in a graph, and bit for bit what they give apart."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from temper.ir.graph import Graph, Value
from temper.passes.chains import Chain, chains
from temper.passes.manager import Log, run_passes
from temper.passes.partition import partition
from temper.passes.pipeline import FLOAT, for_gpus, quantizing
from temper.tactics.cuda.conv_pair import ConvPair
from temper.tactics.cuda.kernel import TritonKernel
from temper.tactics.workload import workload
from temper.tune.verify import make_problem, mismatch
from tests.passes.nets import Net
from tests.quantize.nets import recipe_of
from tests.tactics.cuda.guarded_run import guarded_run

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed: no GPU kernel can be interpreted", allow_module_level=True)

TACTIC = ConvPair()


def block(net: Net, x: Value, middle: int = 64) -> Value:
    """Two bottlenecks of 64 channels, behind a convolution that makes these."""
    x = net("Relu", net.conv(x, 64, 1))
    for _ in range(2):
        y = net("Relu", net.conv(x, middle, 1))
        y = net("Relu", net.conv(y, middle, 3))
        x = net("Relu", net("Add", net.conv(y, 64, 1), x))
    return net.conv(x, 8, 1)


def integer_graph(middle: int = 64) -> Graph:
    """Of two images of 15 x 17 pixels: squares end inside the planes and outside."""
    net = Net(5)
    net.graph.set_outputs([block(net, net.input(2, 3, 15, 17), middle)], ["y"])
    run_passes(net.graph, FLOAT)
    feeds = {"x": net.rng.standard_normal((2, 3, 15, 17)).astype(np.float32)}
    graph = net.graph.copy()
    run_passes(graph, for_gpus(quantizing(recipe_of(net.graph, feeds).apply)))
    return graph


def pairs(graph: Graph) -> list[Chain]:
    found = [c for c, _ in chains(graph, partition(graph, Log()))]
    return [c for c in found if TACTIC.accepts(workload(c, "sm_90", 1)) is None]


def test_chains_are_found_where_nothing_else_reads_what_lies_between() -> None:
    found = pairs(integer_graph())
    assert [[r.anchor.attrs["pads"][0] for r in c.links if r.anchor is not None] for c in found] == [[1, 0]] * 2
    for c in found:
        inner = {o.id for r in c.links[:-1] for o in r.outputs}
        assert not inner & {v.id for v in c.inputs} and c.outputs == c.links[-1].outputs


def test_agrees_with_the_reference_of_its_parts(tmp_path: Path) -> None:
    chain = pairs(integer_graph())[1]
    w = workload(chain, "sm_90", 1)
    constants = {i: v.const for i, v in enumerate(chain.anchor_inputs) if v is not None and v.const is not None}
    operands = {i: v.const for i, v in enumerate(chain.operands) if v.const is not None}
    full = {i: a.reshape((1,) * (4 - a.ndim) + a.shape) for i, a in operands.items()}
    problem = make_problem(w, constants, {}, operand_constants=full)
    assert all(not b.any() for b in problem.bounds)
    kernel = TACTIC.generate(w, TACTIC.candidates(w)[0], "block")
    assert isinstance(kernel, TritonKernel)
    packed = TACTIC.prepack(w, TACTIC.candidates(w)[0], constants)
    made = guarded_run(kernel, problem, packed, tmp_path / "k")
    assert mismatch(made["output0"], problem.want[0], problem.bounds[0]) is None


def test_declines_with_a_reason() -> None:
    graph = integer_graph(middle=24)
    found = [c for c, _ in chains(graph, partition(graph, Log()))]
    reasons = {TACTIC.accepts(workload(c, "sm_90", 1)) for c in found if not c.keeps}
    assert {TACTIC.accepts(workload(c, "sm_90", 1)) for c in found if c.keeps and len(c.links) == 2} == {
        "what lies between is not stored"
    }
    assert reasons == {
        "computes 32, 64, 128 channels between, not 24",
        "the second convolution is not 1x1, one pixel for one",
        "what follows the first product reads more than a value a channel",
    }


def test_declines_codes_that_another_device_may_round_otherwise() -> None:
    net = Net(6)
    x = net("Relu", net.conv(net.input(1, 3, 9, 9), 32, 3))
    x = net("Silu", net.conv(x, 32, 3))
    net.graph.set_outputs([net.conv(net("Relu", net.conv(x, 16, 1)), 8, 1)], ["y"])
    run_passes(net.graph, FLOAT)
    recipe = recipe_of(net.graph, {"x": net.rng.standard_normal((1, 3, 9, 9)).astype(np.float32)})
    run_passes(net.graph, for_gpus(quantizing(recipe.apply)))
    reasons = [TACTIC.accepts(workload(c, "sm_90", 1)) for c, _ in chains(net.graph, partition(net.graph, Log()))]
    assert "codes behind Silu may be off by one, which the second product would spread" in reasons
