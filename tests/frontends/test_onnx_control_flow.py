"""Loops are unrolled, sequences and optionals resolved, at import; what depends on data says what it needs."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from temper.errors import ModelError, ShapeError, UnsupportedError
from temper.frontends.onnx import import_onnx, import_structured
from temper.frontends.onnx.problems import UnsupportedNodesError
from temper.ir.evaluate import evaluate
from tests.frontends.models import NODE, assert_matches, model

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def info(name: str, kind: int, shape: list[Any]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def loop_body(condition: list[onnx.NodeProto]) -> onnx.GraphProto:
    """sum' = sum + x[i]; every step's sum is a result."""
    nodes = [
        NODE("Gather", ["x", "i"], ["row"]),
        NODE("Add", ["s", "row"], ["s2"]),
        NODE("Identity", ["s2"], ["shown"]),
        *condition,
    ]
    inputs = [info("i", INT64, []), info("going", BOOL, []), info("s", FLOAT, [3])]
    outputs = [info("on", BOOL, []), info("s2", FLOAT, [3]), info("shown", FLOAT, [3])]
    return helper.make_graph(nodes, "body", inputs, outputs)


@pytest.mark.parametrize("trips", [0, 1, 4])
def test_loop_with_a_known_trip_count(trips: int) -> None:
    body = loop_body([NODE("Identity", ["going"], ["on"])])
    constants = {"n": np.array(trips), "yes": np.array(True), "start": np.float32([1, 2, 3])}
    nodes = [NODE("Loop", ["n", "yes", "start"], ["total", "all"], body=body)]
    proto = model(nodes, {"x": [4, 3]}, ("total", "all"), constants)
    assert_matches(proto)
    assert "Loop" not in {n.op for n in import_onnx(proto).nodes}


def test_loop_ends_by_its_condition() -> None:
    body = loop_body([NODE("Less", ["i", "two"], ["on"])])
    constants = {"n": np.array(9), "yes": np.array(True), "start": np.float32([0, 0, 0]), "two": np.array(2)}
    nodes = [NODE("Loop", ["n", "yes", "start"], ["total", "all"], body=body)]
    assert_matches(model(nodes, {"x": [4, 3]}, ("total", "all"), constants))


def test_loop_on_data_names_the_inputs_it_needs() -> None:
    body = loop_body([NODE("Identity", ["going"], ["on"])])
    constants = {"yes": np.array(True), "start": np.float32([0, 0, 0])}
    nodes = [NODE("Loop", ["n", "yes", "start"], ["total", "all"], body=body)]
    proto = model(nodes, {"x": [4, 3], "n": (np.int64, [])}, ("total",), constants)
    with pytest.raises(UnsupportedNodesError, match="trip count") as e:
        import_onnx(proto, dynamic=False)
    assert e.value.problems[0].needs == ("n",)
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    (total,) = evaluate(import_onnx(proto, values={"n": np.array(3)}), {"x": x})
    np.testing.assert_array_equal(total, x[:3].sum(0))


def test_endless_loop_is_refused() -> None:
    body = loop_body([NODE("Identity", ["going"], ["on"])])
    constants = {"yes": np.array(True), "start": np.float32([0, 0, 0])}
    nodes = [NODE("Loop", ["", "yes", "start"], ["total", "all"], body=body)]
    with pytest.raises(UnsupportedError, match="not unrolled"):
        import_onnx(model(nodes, {"x": [4, 3]}, ("total",), constants), dynamic=False)
    with pytest.raises(UnsupportedError, match="never end"):
        import_onnx(model(nodes, {"x": [4, 3]}, ("total",), constants))


@pytest.mark.parametrize("back", [0, 1])
def test_scan(back: int) -> None:
    nodes = [NODE("Add", ["s", "e"], ["s2"]), NODE("Mul", ["s2", "e"], ["y"])]
    body = helper.make_graph(
        nodes, "b", [info("s", FLOAT, [2]), info("e", FLOAT, [2])], [info("s2", FLOAT, [2]), info("y", FLOAT, [2])]
    )
    scan = NODE(
        "Scan", ["start", "x"], ["last", "ys"], body=body, num_scan_inputs=1, scan_input_axes=[1],
        scan_input_directions=[back], scan_output_axes=[-1], scan_output_directions=[back],
    )  # fmt: skip
    assert_matches(model([scan], {"start": [2], "x": [2, 5]}, ("last", "ys")))


def test_sequences() -> None:
    nodes = [
        NODE("SplitToSequence", ["x", "sizes"], ["s"], axis=1),
        NODE("SequenceAt", ["s", "one"], ["b"]),
        NODE("Neg", ["b"], ["c"]),
        NODE("SequenceInsert", ["s", "c", "zero"], ["s2"]),
        NODE("SequenceErase", ["s2"], ["s3"]),
        NODE("ConcatFromSequence", ["s3"], ["y"], axis=1),
        NODE("SequenceLength", ["s2"], ["n"]),
    ]
    constants = {"sizes": np.array([2, 1, 3]), "one": np.array(1), "zero": np.array(0)}
    assert_matches(model(nodes, {"x": [3, 6]}, ("y", "n"), constants))


def test_sequences_as_inputs_and_outputs() -> None:
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(FLOAT, None))
    nodes = [NODE("SequenceInsert", ["s", "x"], ["t"])]
    graph = helper.make_graph(
        nodes, "g", [helper.make_value_info("s", kind), info("x", FLOAT, [2])], [helper.make_value_info("t", kind)]
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    g, counts = import_structured(proto, members={"s": [(3,), (1, 2)]})
    assert (
        counts == (3,) and g.output_names == ["t.0", "t.1", "t.2"] and [v.name for v in g.inputs] == ["s.0", "s.1", "x"]
    )
    with pytest.raises(UnsupportedError, match="members"):
        import_onnx(proto, dynamic=False)
    bad = [NODE("SequenceConstruct", ["x"], ["s"]), NODE("SequenceAt", ["s", "p"], ["y"])]
    with pytest.raises(ShapeError, match="position 1"):
        import_onnx(model(bad, {"x": [2]}, constants={"p": np.array(1)}))
    with pytest.raises(UnsupportedError, match="a sequence"):
        import_onnx(model([bad[0], NODE("Neg", ["s"], ["y"])], {"x": [2]}))
    with pytest.raises(ModelError, match="must be a sequence"):
        import_onnx(model([NODE("SequenceLength", ["x"], ["y"])], {"x": [2]}))


def test_optionals() -> None:
    nodes = [
        NODE("Optional", ["x"], ["o"]),
        NODE("OptionalHasElement", ["o"], ["h"]),
        NODE("OptionalGetElement", ["o"], ["y"]),
    ]
    graph = import_onnx(model(nodes, {"x": [2]}, ("h", "y"), opset=18))
    h, y = evaluate(graph, {"x": np.float32([1, 2])})
    assert h and y.tolist() == [1, 2]


def test_branches_of_different_shapes_need_the_condition() -> None:
    def branch(op: str) -> onnx.GraphProto:
        return helper.make_graph([NODE(op, ["x"], ["r"])], op, [], [onnx.ValueInfoProto(name="r")])

    node = NODE("If", ["c"], ["y"], then_branch=branch("Relu"), else_branch=branch("ReduceSum"))
    with pytest.raises(UnsupportedNodesError, match="differ in type") as e:
        import_onnx(model([node], {"x": [3], "c": (np.bool_, [])}), dynamic=False)
    assert e.value.problems[0].needs == ("c",)
