"""The registry of what is checked on a real GPU, and the small model that the checks run. See device.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from temper.plan.format import Plan

#: By name, in order: what is checked of the small model's plan; returns what it found, in words.
CHECKS: dict[str, Callable[[Plan], str]] = {}


def check(f: Callable[[Plan], str]) -> Callable[[Plan], str]:
    CHECKS[f.__name__] = f
    return f


def model(channels: int = 16, layers: int = 6, width: int = 8) -> bytes:
    """x [N, width, 16, 16] -> y [N, channels] through convolutions."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", width, 16, 16))
    nodes, weights, name = [], [], "x"
    for k in range(layers):
        w = rng.standard_normal((channels, width, 3, 3), np.float32) / (3 * width**0.5)
        weights.append(numpy_helper.from_array(w, f"w{k}"))
        nodes.append(helper.make_node("Conv", [name, f"w{k}"], [f"c{k}"], pads=[1, 1, 1, 1], name=f"conv{k}"))
        nodes.append(helper.make_node("Relu", [f"c{k}"], [f"r{k}"], name=f"relu{k}"))
        name, width = f"r{k}", channels
    nodes.append(helper.make_node("GlobalAveragePool", [name], ["p"], name="mean"))
    nodes.append(helper.make_node("Flatten", ["p"], ["y"], name="flat"))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", channels))
    graph = helper.make_graph(nodes, "small", [x], [y], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(made.SerializeToString())


def inputs(batch: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((batch, 8, 16, 16), np.float32)


def same(a: Any, b: Any) -> None:
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
