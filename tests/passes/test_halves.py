"""Products of bfloat16: where they are recognised, what they compute, and why others stay float."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from temper.builder import build_plan
from temper.compile.cc import ISAS
from temper.config import BuildConfig
from temper.frontends.onnx import import_onnx
from temper.ir.evaluate import evaluate
from temper.ir.graph import Graph
from temper.passes.halves import HALVES, roundable, rounded
from temper.passes.manager import Log
from temper.passes.pipeline import PIPELINE
from temper.reference.formats import bfloat16_to_float32, float32_to_bfloat16
from temper.runtime.engine import Engine
from temper.runtime.machine import cpu_flags

rng = np.random.default_rng(5)
W1 = rng.standard_normal((8, 3, 3, 3), np.float32)
W2 = rng.standard_normal((8, 1, 3, 3), np.float32)
W3 = rng.standard_normal((8 * 25, 7), np.float32)
X = rng.standard_normal((1, 3, 5, 5), np.float32)


def network() -> bytes:
    """A convolution, a depthwise one, and a matrix product."""
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], pads=[1, 1, 1, 1], name="first"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w2"], ["c"], pads=[1, 1, 1, 1], group=8, name="depthwise"),
        helper.make_node("Reshape", ["c", "shape"], ["d"]),
        helper.make_node("MatMul", ["d", "w3"], ["y"], name="last"),
    ]
    constants = {"w1": W1, "w2": W2, "w3": W3, "shape": np.array([1, 200])}
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 7))],
        [numpy_helper.from_array(v, k) for k, v in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9).SerializeToString()


def before_halves() -> Graph:
    graph = import_onnx(network())
    for p in PIPELINE:
        if p.name == HALVES.name:
            return graph
        p.run(graph, Log())
    raise AssertionError("the pipeline has the pass")


def test_rounded_products_become_products_of_bfloat16() -> None:
    graph = before_halves()
    chosen = [n for n in graph.nodes if roundable(n) is None]
    assert [n.name for n in chosen] == ["first", "last"]
    for node in chosen:
        rounded(graph, node)
    want = evaluate(graph, {"x": X})[0]
    HALVES.run(graph, Log())
    products = [n.op for n in graph.nodes if n.op.startswith(("Conv", "MatMul"))]
    assert products == ["ConvBfloat16", "Conv", "MatMulBfloat16"]
    # both sum the same exact products, the references in float64
    np.testing.assert_allclose(evaluate(graph, {"x": X})[0], want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("isa", ISAS)
def test_every_level_computes_the_same_op(isa: str) -> None:
    if not ISAS[isa].needs <= cpu_flags():
        pytest.skip(f"this CPU cannot run {isa}")
    graph = before_halves()
    for node in [n for n in graph.nodes if roundable(n) is None]:
        rounded(graph, node)
    want = evaluate(graph, {"x": X})[0]
    plan = build_plan(graph, BuildConfig(effort=0, isa=isa)).plan
    assert {"ConvBfloat16", "MatMulBfloat16"} <= {r["op"] for r in plan.report["regions"]}
    # a sum that lands on the other side of a rounding to bfloat16 moves by one of its steps
    np.testing.assert_allclose(Engine(plan)(X), want, rtol=2**-8, atol=2**-8 * np.abs(want).max())


def test_weights_of_more_bits_keep_the_product_float() -> None:
    graph = before_halves()
    node = next(n for n in graph.nodes if n.name == "last")
    weights = node.inputs[1]
    rounded(graph, node)
    graph.set_input(node, 1, weights)
    log = Log()
    HALVES.run(graph, log)
    assert ("bfloat16 product", "last", "its weights are not bfloat16 numbers") in log.declined


def test_bfloat16_models_multiply_bfloat16() -> None:
    w = float32_to_bfloat16(rng.standard_normal((16, 8), np.float32))
    tensor = helper.make_tensor("w", TensorProto.BFLOAT16, w.shape, w.tobytes(), raw=True)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        "bfloat16",
        [helper.make_tensor_value_info("x", TensorProto.BFLOAT16, (4, 16))],
        [helper.make_tensor_value_info("y", TensorProto.BFLOAT16, (4, 8))],
        [tensor],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    plan = build_plan(model.SerializeToString(), BuildConfig(effort=0)).plan
    assert [r["op"] for r in plan.report["regions"]] == ["MatMulBfloat16"]
    x = float32_to_bfloat16(rng.standard_normal((4, 16), np.float32))
    exact = bfloat16_to_float32(x).astype(np.float64) @ bfloat16_to_float32(w).astype(np.float64)
    got = bfloat16_to_float32(Engine(plan)(x))
    np.testing.assert_allclose(got, exact, rtol=2**-8, atol=1e-5)
