"""Recurrent layers keep batch-first data, and lose initial states of zeros; results stay the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from temper.frontends.onnx import import_onnx
from temper.ir.evaluate import evaluate
from temper.ir.graph import Graph
from temper.passes.cleanup import CLEANUP
from temper.passes.manager import run_passes
from temper.passes.recurrent import RECURRENT
from tests.frontends.models import NODE


def stacked(both: bool, state: float, turned: bool = True) -> onnx.ModelProto:
    """Two layers as PyTorch's exporter writes batch_first=True: Transpose, LSTM, LSTM, Transpose."""
    rng = np.random.default_rng(0)
    d, hidden, size, x = 2 if both else 1, 4, 3, "t"
    constants = {"h": np.full((d, 1, hidden), state, np.float32)}
    nodes = [NODE("Transpose", ["x"], ["t"], perm=[1, 0, 2])] if turned else [NODE("Identity", ["x"], ["t"])]
    nodes.append(NODE("Expand", ["h", "state"], ["h0"]))
    constants["state"] = np.array([d, 2, hidden])
    for i in range(2):
        shapes = {"W": (d, 4 * hidden, size), "R": (d, 4 * hidden, hidden), "B": (d, 8 * hidden)}
        constants |= {f"{k}{i}": rng.standard_normal(s).astype(np.float32) for k, s in shapes.items()}
        direction = "bidirectional" if both else "forward"
        operands = [x, f"W{i}", f"R{i}", f"B{i}", "", "h0", "h0"]
        nodes.append(NODE("LSTM", operands, [f"y{i}"], hidden_size=hidden, direction=direction))
        x = f"r{i}"
        if both:
            nodes.append(NODE("Transpose", [f"y{i}"], [f"s{i}"], perm=[0, 2, 1, 3]))
            constants[f"rows{i}"] = np.array([0, 0, -1])
            nodes.append(NODE("Reshape", [f"s{i}", f"rows{i}"], [x]))
        else:
            constants["one"] = np.array([1])
            nodes.append(NODE("Squeeze", [f"y{i}", "one"], [x]))
        size = d * hidden
    nodes.append(NODE("Transpose", [x], ["y"], perm=[1, 0, 2]) if turned else NODE("Identity", [x], ["y"]))
    graph = helper.make_graph(
        nodes,
        "stacked",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [2, 5, 3] if turned else [5, 2, 3])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [numpy_helper.from_array(a, k) for k, a in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


def passed(proto: onnx.ModelProto) -> Graph:
    graph = import_onnx(proto)
    run_passes(graph, (CLEANUP, RECURRENT, CLEANUP))
    return graph


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("state", [0.0, 0.5])
def test_batch_first_layers_need_no_transposes(both: bool, state: float) -> None:
    proto = stacked(both, state)
    graph = passed(proto)
    layers = [n for n in graph.nodes if n.op == "Recurrence"]
    assert [n.attrs["batch_first"] for n in layers] == [1, 1]
    assert not [n for n in graph.nodes if n.op == "Transpose"]
    assert all((len(n.inputs) > 4 and n.inputs[4] is not None) == bool(state) for n in layers)
    feeds = {"x": np.random.default_rng(1).standard_normal((2, 5, 3)).astype(np.float32)}
    for a, b in zip(evaluate(graph, feeds), evaluate(import_onnx(proto), feeds), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-7)


def test_data_that_is_not_turned_stays_as_it_is() -> None:
    graph = passed(stacked(False, 0.0, turned=False))
    assert [n.attrs["batch_first"] for n in graph.nodes if n.op == "Recurrence"] == [0, 0]
    assert not [n for n in graph.nodes if n.op == "Transpose"]


def test_the_swap_of_a_single_direction_only_renames() -> None:
    rng = np.random.default_rng(0)
    shapes = {"W": (1, 16, 3), "R": (1, 16, 4)}
    graph = helper.make_graph(
        [
            NODE("LSTM", ["x", "W", "R"], ["s"], hidden_size=4),
            NODE("Transpose", ["s"], ["t"], perm=[0, 2, 1, 3]),
            NODE("Reshape", ["t", "rows"], ["y"]),
        ],
        "swap",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["T", "N", 3])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [
            numpy_helper.from_array(np.array([0, 0, -1]), "rows"),
            *(numpy_helper.from_array(rng.standard_normal(s).astype(np.float32), k) for k, s in shapes.items()),
        ],
    )
    made = passed(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8))
    assert [n.op for n in made.nodes] == ["MatMul", "Recurrence"]
