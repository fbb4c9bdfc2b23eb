"""Which graphs the verifier sees after which passes."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from temper.errors import VerificationError
from temper.frontends.onnx import import_onnx
from temper.ir.graph import Graph
from temper.ir.ops import make
from temper.ir.text import to_text
from temper.passes import manager
from temper.passes.manager import Log, Pass, run_passes
from temper.passes.pipeline import PIPELINE, for_gpus
from tests.conftest import small_model
from tests.passes.nets import Net


def test_what_changes_a_graph_counts_as_an_edit() -> None:
    net = Net(1)
    x = net.input(2, 4)
    y = net("Relu", x)
    g = net.graph
    g.set_outputs([y], ["y"])
    seen = [g.edits]

    def edited() -> bool:
        seen.append(g.edits)
        return seen[-1] > seen[-2]

    c = g.add_constant(np.ones(4, np.float32), "c")
    assert edited()
    z = make(g, "Add", [x, c], {}).output
    assert edited()
    g.set_input(z.producer, 1, x)  # type: ignore[arg-type]
    assert edited()
    g.rename(z, "z")
    assert edited()
    g.remove_constant(c)
    assert edited()
    g.replace_uses(y, z)
    assert edited()
    g.order_inputs(list(g.inputs))
    assert edited()
    g.prune()
    assert edited()
    g.prune()
    assert not edited()


def test_edits_of_inner_graphs_count() -> None:
    net = Net(1)
    inner = Graph("inner")
    inner.set_outputs([make(inner, "Relu", [inner.add_input("a", net.input(2).type)], {}).output])
    node = net.graph.add_node("If", [net.graph.inputs[0]], [], {"then_branch": inner})
    before = net.graph.edits
    inner.add_constant(np.ones(1, np.float32))
    assert net.graph.edits > before and node.attrs["then_branch"] is inner


@pytest.mark.parametrize("model", [small_model(), small_model("N", 3)])
def test_no_pass_changes_a_graph_without_edits(model: onnx.ModelProto) -> None:
    graph = import_onnx(model)
    for p in for_gpus(PIPELINE):
        text, edits = to_text(graph), graph.edits
        p.run(graph, Log())
        assert to_text(graph) == text or graph.edits > edits, p.name


def test_graphs_are_verified_where_a_pass_edits(monkeypatch: pytest.MonkeyPatch) -> None:
    verified: list[int] = []
    monkeypatch.setattr(manager, "verify", lambda g, inside: verified.append(g.edits))
    net = Net(1)
    net.graph.set_outputs([net("Relu", net.input(2, 4))], ["y"])

    def edit(graph: Graph, log: Log) -> None:
        graph.add_constant(np.ones(1, np.float32))

    passes = [Pass(str(i), edit if i in (1, 2) else lambda graph, log: None) for i in range(5)]
    run_passes(net.graph, passes, always=False)
    assert len(verified) == 3, "as it came, and after both edits"
    run_passes(net.graph, passes)
    assert len(verified) == 3 + 5


def test_a_pass_that_breaks_a_law_is_found() -> None:
    net = Net(1)
    net.graph.set_outputs([net("Relu", net.input(2, 4))], ["y"])

    def breaks(graph: Graph, log: Log) -> None:
        graph.add_node("Relu", [graph.inputs[0]], [graph.add_constant(np.ones(3, np.float32)).type])

    with pytest.raises(VerificationError):
        run_passes(net.graph, [Pass("harmless", lambda graph, log: None), Pass("breaks", breaks)], always=False)
