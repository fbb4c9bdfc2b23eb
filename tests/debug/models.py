"""Small ONNX models with seeded faults in mind."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from temper.debug.extract import Case


def model(
    nodes: list[onnx.NodeProto],
    weights: dict[str, np.ndarray] | None = None,
    *,
    shape: tuple[int | str, ...] = (4, 8),
    output: str = "y",
) -> onnx.ModelProto:
    """x float32 of `shape` -> `output`."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape)],
        [numpy_helper.from_array(a, k) for k, a in (weights or {}).items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)


def chain(*ops: str, shape: tuple[int, ...] = (4, 8)) -> Case:
    """Unary ops one after another, on seeded data; node k is called OP_k and writes vk, the last one y."""
    names = ["x", *(f"v{k}" for k in range(len(ops) - 1)), "y"]
    nodes = [helper.make_node(op, [names[k]], [names[k + 1]], name=f"{op}_{k}") for k, op in enumerate(ops)]
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return Case(model(nodes, shape=shape), {"x": x})


def perceptron() -> Case:
    """Two products with a bias, an activation between them, and a residual sum; the hidden width is 16."""
    rng = np.random.default_rng(1)
    weights = {
        "w1": rng.standard_normal((8, 16)).astype(np.float32),
        "b1": rng.standard_normal(16).astype(np.float32),
        "w2": rng.standard_normal((16, 8)).astype(np.float32),
        "shape": np.array([4, 8], np.int64),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["p"], name="first"),
        helper.make_node("Add", ["p", "b1"], ["q"], name="bias"),
        helper.make_node("Sigmoid", ["q"], ["s"], name="gate"),
        helper.make_node("MatMul", ["s", "w2"], ["t"], name="second"),
        helper.make_node("Add", ["t", "x"], ["u"], name="skip"),
        helper.make_node("Reshape", ["u", "shape"], ["y"], name="view"),
    ]
    return Case(model(nodes, weights), {"x": rng.standard_normal((4, 8)).astype(np.float32)})
