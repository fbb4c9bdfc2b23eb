"""Gradient against differences, of second order, at other values, and what it refuses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from temper.errors import UnsupportedError
from temper.frontends.onnx import import_onnx
from temper.ir.evaluate import evaluate
from tests.frontends.models import NODE

TRAINING = "ai.onnx.preview.training"


def gradient(inputs: Sequence[str], outputs: Sequence[str], **attrs: Any) -> onnx.NodeProto:
    return helper.make_node("Gradient", inputs, outputs, domain=TRAINING, **attrs)


def model(
    nodes: Sequence[onnx.NodeProto],
    shapes: Mapping[str, Sequence[int]],
    outputs: Sequence[str],
    constants: Mapping[str, Any] | None = None,
) -> onnx.ModelProto:
    ins = [helper.make_tensor_value_info(n, TensorProto.DOUBLE, s) for n, s in shapes.items()]
    outs = [helper.make_tensor_value_info(n, TensorProto.DOUBLE, None) for n in outputs]
    known = [onnx.numpy_helper.from_array(np.asarray(v), n) for n, v in (constants or {}).items()]
    graph = helper.make_graph(nodes, "g", ins, outs, known)
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(TRAINING, 1)]
    return helper.make_model(graph, opset_imports=opsets)


_FUNCTIONS: Mapping[str, tuple[list[onnx.NodeProto], dict[str, Sequence[int]]]] = {
    "broadcast": ([NODE("Mul", ["a", "b"], ["p"]), NODE("Sub", ["p", "b"], ["y"])], {"a": [2, 3, 4], "b": [3, 1]}),
    "quotient": ([NODE("Div", ["a", "b"], ["y"])], {"a": [3, 4], "b": [4]}),
    "power": ([NODE("Pow", ["a", "b"], ["y"])], {"a": [3, 4], "b": [3, 1]}),
    "chain": (
        [
            NODE("Exp", ["a"], ["e"]),
            NODE("Log", ["b"], ["l"]),
            NODE("Sqrt", ["b"], ["s"]),
            NODE("Add", ["e", "l"], ["t"]),
            NODE("Mul", ["t", "s"], ["u"]),
            NODE("Tanh", ["u"], ["v"]),
            NODE("Sigmoid", ["v"], ["w"]),
            NODE("Sin", ["w"], ["x"]),
            NODE("Cos", ["x"], ["y"]),
        ],
        {"a": [5], "b": [5]},
    ),
    "layer": (
        [
            NODE("MatMul", ["a", "b"], ["h"]),
            NODE("Relu", ["h"], ["r"]),
            NODE("Softmax", ["r"], ["p"], axis=-1),
            NODE("Transpose", ["p"], ["t"], perm=[1, 0]),
            NODE("Mul", ["t", "t"], ["q"]),
            NODE("ReduceMean", ["q"], ["m"], keepdims=0),
            NODE("Neg", ["m"], ["n"]),
            NODE("Abs", ["n"], ["y"]),
        ],
        {"a": [4, 3], "b": [3, 5]},
    ),
    "batched": ([NODE("MatMul", ["a", "b"], ["p"]), NODE("Mul", ["p", "p"], ["y"])], {"a": [2, 3, 4], "b": [4, 2]}),
}


@pytest.mark.parametrize("name", _FUNCTIONS)
def test_differences(name: str) -> None:
    nodes, shapes = _FUNCTIONS[name]
    names, rng = list(shapes), np.random.default_rng(1)
    feeds = {n: rng.uniform(0.3, 1.5, s) for n, s in shapes.items()}
    ends = [f"d{n}" for n in names]
    found = evaluate(import_onnx(model([*nodes, gradient(names, ends, xs=names, y="y")], shapes, ends)), feeds)
    plain, step = import_onnx(model(nodes, shapes, ["y"])), 1e-6
    for x, got in zip(names, found, strict=True):
        assert got.shape == feeds[x].shape
        for at in np.ndindex(got.shape):
            moved = []
            for sign in (1, -1):
                near = {n: v.copy() for n, v in feeds.items()}
                near[x][at] += sign * step
                moved.append(evaluate(plain, near)[0].sum())
            assert abs((moved[0] - moved[1]) / (2 * step) - got[at]) < 1e-7 * max(1, abs(got[at])) + 1e-8


def test_second_order() -> None:
    nodes = [
        NODE("Mul", ["a", "a"], ["s"]),
        NODE("Mul", ["s", "a"], ["y"]),
        gradient(["a"], ["d"], xs=["a"], y="y"),
        gradient(["a"], ["dd"], xs=["a"], y="d"),
    ]
    a = np.array([0.5, -2.0])
    first, second = evaluate(import_onnx(model(nodes, {"a": [2]}, ["d", "dd"])), {"a": a})
    np.testing.assert_allclose(first, 3 * a * a)
    np.testing.assert_allclose(second, 6 * a)


def test_at_another_value_and_in_any_order() -> None:
    nodes = [
        gradient(["b", "z"], ["d"], xs=["a"], zs=["z"], y="y"),
        NODE("Mul", ["s", "z"], ["y"]),
        NODE("Mul", ["a", "a"], ["s"]),
    ]
    feeds = {n: np.array(v) for n, v in (("a", [1.0, 2.0]), ("b", [3.0, 5.0]), ("z", [7.0, 11.0]))}
    (d,) = evaluate(import_onnx(model(nodes, {n: [2] for n in feeds}, ["d"])), feeds)
    np.testing.assert_allclose(d, 2 * feeds["b"] * feeds["z"])


def test_what_y_does_not_depend_on_has_derivative_zero() -> None:
    nodes = [NODE("Add", ["a", "a"], ["y"]), gradient(["a", "b"], ["da", "db"], xs=["a", "b"], y="y")]
    da, db = evaluate(import_onnx(model(nodes, {"a": [2], "b": [3]}, ["da", "db"])), {"a": np.ones(2), "b": np.ones(3)})
    assert da.tolist() == [2, 2] and db.tolist() == [0, 0, 0]


def test_unknown_derivative_is_refused_by_name() -> None:
    nodes = [NODE("Erf", ["a"], ["y"]), gradient(["a"], ["d"], xs=["a"], y="y")]
    with pytest.raises(UnsupportedError, match="derivative of Erf"):
        import_onnx(model(nodes, {"a": [2]}, ["d"]))
