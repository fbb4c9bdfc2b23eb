"""Codes of a part are a part of codes, where the parts have no other reader."""

from __future__ import annotations

import numpy as np

from temper.ir.evaluate import evaluate
from temper.ir.graph import Graph
from temper.passes.manager import Log, run_passes
from temper.passes.split_codes import SPLIT_CODES
from tests.passes.nets import Net, feeds


def net(also: bool = False, each: bool = False) -> Graph:
    """also: another part has a reader. each: a scale a channel."""
    n = Net()
    x = n("Sigmoid", n.input(2, 3, 8))
    parts = n.many("Split", x, axis=2, sizes=(3, 5))
    scale = n.const(np.linspace(0.1, 0.2, 5).astype(np.float32) if each else np.float32(0.01).reshape(()))
    codes = n("Saturate", n("Div", parts[1], scale), to="int8", zero_point=-7)
    outputs = [codes, n("Relu", parts[0])] if also else [codes]
    n.graph.set_outputs(outputs, ["a", "b"][: len(outputs)])
    return n.graph


def run(graph: Graph) -> tuple[Graph, Log]:
    after = graph.copy()
    log = run_passes(after, (SPLIT_CODES,))
    for a, b in zip(evaluate(graph, feeds(graph)), evaluate(after, feeds(graph)), strict=True):
        np.testing.assert_array_equal(a, b)
    return after, log


def test_codes_are_made_before_they_are_parted() -> None:
    after, log = run(net())
    assert [n.op for n in after.nodes] == ["Sigmoid", "Div", "Saturate", "Split"]
    assert [rule for rule, _ in log.applied] == ["split-codes"]


def test_where_other_parts_are_floats_or_scales_differ_it_stays() -> None:
    after, log = run(net(also=True))
    assert [n.op for n in after.nodes][:2] == ["Sigmoid", "Split"]
    assert any("are read as floats" in reason for _, _, reason in log.declined)
    after, log = run(net(each=True))
    assert [n.op for n in after.nodes] == ["Sigmoid", "Split", "Div", "Saturate"] and not log.applied
