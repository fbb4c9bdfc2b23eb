"""Scan and Loop with an LSTM cell as their body become recurrent layers."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from temper.frontends.onnx import import_onnx
from temper.ir.evaluate import evaluate
from temper.ir.graph import Graph
from temper.passes.cleanup import CLEANUP
from temper.passes.manager import Log, run_passes
from temper.passes.recurrent_loops import RECURRENT_LOOPS
from tests.frontends.models import INPUT, NODE

B, F, H = 2, 3, 4
FLOAT, INT64, BOOL = onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.BOOL

#: the nodes of a step: h and c are hp and cp before, hn and cn after
CELL = (
    NODE("MatMul", ["x", "W"], ["xw"]),
    NODE("MatMul", ["hp", "R"], ["hr"]),
    NODE("Add", ["xw", "hr"], ["s"]),
    NODE("Add", ["s", "b"], ["z"]),
    NODE("Split", ["z"], ["i", "f", "g", "o"], axis=1),
    *(NODE("Sigmoid", [k], [f"a{k}"]) for k in "ifo"),
    NODE("Tanh", ["g"], ["ag"]),
    NODE("Mul", ["af", "cp"], ["fc"]),
    NODE("Mul", ["ai", "ag"], ["ig"]),
    NODE("Add", ["fc", "ig"], ["cn"]),
    NODE("Tanh", ["cn"], ["tc"]),
    NODE("Mul", ["ao", "tc"], ["hn"]),
    NODE("Identity", ["hn"], ["y"]),
)


def _model(nodes: list[onnx.NodeProto], steps: int | str, outputs: dict[str, list[int | str]]) -> onnx.ModelProto:
    rng = np.random.default_rng(0)
    constants = {
        "W": rng.standard_normal((F, 4 * H)).astype(np.float32),
        "R": rng.standard_normal((H, 4 * H)).astype(np.float32),
        "b": rng.standard_normal(4 * H).astype(np.float32),
        "trips": np.array(100),
        "begin": np.array(0),
    }
    graph = helper.make_graph(
        nodes,
        "loops",
        [INPUT("X", FLOAT, [steps, B, F]), *(INPUT(k, FLOAT, [B, H]) for k in ("h0", "c0"))],
        [INPUT(k, INT64 if k == "count" else FLOAT, s) for k, s in outputs.items()],
        [numpy_helper.from_array(a, k) for k, a in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def scan(steps: int | str) -> onnx.ModelProto:
    body = helper.make_graph(
        CELL,
        "body",
        [INPUT("hp", FLOAT, [B, H]), INPUT("cp", FLOAT, [B, H]), INPUT("x", FLOAT, [B, F])],
        [INPUT(k, FLOAT, [B, H]) for k in ("hn", "cn", "y")],
    )
    node = NODE("Scan", ["h0", "c0", "X"], ["h", "c", "Y"], body=body, num_scan_inputs=1)
    return _model([node], steps, {"Y": [steps, B, H], "h": [B, H], "c": [B, H]})


def loop(outputs: tuple[str, ...] = ("Y",), last: str = "y") -> onnx.ModelProto:
    """100 steps, with a counter that the loop carries; last: what it gives of every step."""
    one = numpy_helper.from_array(np.array(1), "one")
    nodes = [
        NODE("Constant", [], ["one"], value=one),
        NODE("Gather", ["X", "at"], ["x"], axis=0),
        *CELL,
        NODE("Add", ["at", "one"], ["next"]),
        NODE("Identity", ["going"], ["still"]),
    ]
    body = helper.make_graph(
        nodes,
        "body",
        [INPUT("number", INT64, []), INPUT("going", BOOL, []), INPUT("at", INT64, []),
         *(INPUT(k, FLOAT, [B, H]) for k in ("hp", "cp"))],
        [INPUT("still", BOOL, []), INPUT("next", INT64, []), *(INPUT(k, FLOAT, [B, H]) for k in ("hn", "cn", last))],
    )  # fmt: skip
    node = NODE("Loop", ["trips", "", "begin", "h0", "c0"], ["count", "h", "c", "Y"], body=body)
    shapes: dict[str, list[int | str]] = {"Y": [100, B, H], "h": [B, H], "c": [B, H], "count": []}
    return _model([node], 100, {k: shapes[k] for k in outputs})


def passed(proto: onnx.ModelProto, steps: int) -> tuple[Graph, Log]:
    """The graph after the pass, which computes what it did before."""
    graph, log = import_onnx(proto), Log()
    rng = np.random.default_rng(1)
    shapes = {"X": (steps, B, F), "h0": (B, H), "c0": (B, H)}
    feeds = {k: rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()}
    want = evaluate(graph, feeds)
    RECURRENT_LOOPS.run(graph, log)
    run_passes(graph, (CLEANUP,))
    for a, b in zip(evaluate(graph, feeds), want, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    return graph, log


def ops(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes if n.op != "Reshape"]


@pytest.mark.parametrize("steps", [100, "T"])
def test_scan(steps: int | str) -> None:
    graph, _ = passed(scan(steps), 100 if steps == 100 else 7)
    assert ops(graph) == ["MatMul", "Add", "Recurrence"]


@pytest.mark.parametrize("outputs", [("Y",), ("Y", "h", "c")])
def test_loop_with_a_counter(outputs: tuple[str, ...]) -> None:
    graph, _ = passed(loop(outputs), 100)
    assert ops(graph) == ["MatMul", "Add", "Recurrence"]


@pytest.mark.parametrize(
    ("proto", "why"),
    [(loop(("Y", "count")), "read afterwards"), (loop(last="cn"), "more than h")],
    ids=lambda x: x if isinstance(x, str) else "",
)
def test_loops_that_do_more_stay(proto: onnx.ModelProto, why: str) -> None:
    graph, log = passed(proto, 100)
    assert "Loop" in ops(graph)
    assert [why in reason for _, _, reason in log.declined] == [True]
