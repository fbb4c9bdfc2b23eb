"""Products of codes whose zero point is known at run time only, for GPUs: the same integers, no step on the host."""

from __future__ import annotations

import numpy as np
import pytest

from temper.builder import build_plan
from temper.config import BuildConfig
from temper.ir.dims import Dim
from temper.ir.evaluate import evaluate
from temper.ir.graph import Graph
from temper.ir.ops import make
from temper.ir.types import TensorType
from temper.passes.manager import Log
from temper.passes.pipeline import PIPELINE, for_gpus
from temper.passes.zero_points import ZERO_POINTS
from tests.uncompiled import uncompiled

rng = np.random.default_rng(0)


def product(op: str, shape: tuple[int, ...], weights: tuple[int, ...], **attrs: object) -> Graph:
    g = Graph("g")
    x, zero = g.add_input("x", TensorType("uint8", shape)), g.add_input("zero", TensorType("uint8", ()))
    w = g.add_constant(rng.integers(-127, 128, weights).astype(np.int8), "w")
    bias = g.add_constant(rng.integers(-999, 999, weights[-1]).astype(np.int32), "bias")
    y = make(g, op, [x, w, bias, zero], attrs).output  # type: ignore[arg-type]
    g.set_outputs([y], ["y"])
    return g


CONV = {"strides": (1, 2), "dilations": (1, 1), "group": 1, "channels_last": 1}
CASES = {
    "rows": product("MatMulInt8", (3, 5, 40), (40, 7)),
    "image": product("ConvInt8", (2, 6, 7, 4), (3, 3, 4, 5), pads=(0, 0, 0, 0), **CONV),
    "padded image": product("ConvInt8", (2, 6, 7, 4), (3, 3, 4, 5), pads=(1, 0, 2, 1), **CONV),
}


@pytest.mark.parametrize("name", CASES)
def test_integers_stay_the_same(name: str) -> None:
    g = CASES[name]
    shape = g.inputs[0].type.shape
    feeds = {"x": rng.integers(0, 256, [int(str(d)) for d in shape]).astype(np.uint8), "zero": np.array(131, np.uint8)}
    want = evaluate(g, feeds)[0]
    ZERO_POINTS.run(g, Log())
    assert all(len(n.inputs) < 4 for n in g.nodes)
    np.testing.assert_array_equal(evaluate(g, feeds)[0], want)


@pytest.mark.parametrize("late", [False, True])
def test_weights_that_exceed_a_byte(late: bool) -> None:
    g = Graph("g")
    x = g.add_input("x", TensorType("uint8", (3, 5, 40)))
    w = g.add_constant(rng.integers(-107, 149, (40, 7)).astype(np.int16), "w")
    bias = g.add_constant(rng.integers(-999, 999, 7).astype(np.int32), "bias")
    operands = [x, w, bias, g.add_input("zero", TensorType("uint8", ()))] if late else [x, w, bias]
    g.set_outputs([make(g, "MatMulInt8", operands, {} if late else {"zero_point": 93}).output], ["y"])
    feeds = {"x": rng.integers(0, 256, (3, 5, 40)).astype(np.uint8)}
    feeds |= {"zero": np.array(93, np.uint8)} if late else {}
    want = evaluate(g, feeds)[0]
    ZERO_POINTS.run(g, Log())
    assert all(v.type.dtype != "int16" for v in g.constants if v.uses) and all(len(n.inputs) < 4 for n in g.nodes)
    np.testing.assert_array_equal(evaluate(g, feeds)[0], want)


@pytest.mark.parametrize("weights_zero", [120, 128])
def test_dynamically_quantized_products_run_on_the_gpu(weights_zero: int) -> None:
    """What ONNX Runtime's quantize_dynamic writes."""
    assert ZERO_POINTS in for_gpus(PIPELINE) and ZERO_POINTS not in PIPELINE
    g = Graph("g")
    x = g.add_input("x", TensorType("float32", (Dim.symbol("N"), 300)))
    codes, scale, zero = make(g, "DynamicQuantizeLinear", [x]).outputs
    w = g.add_constant(rng.integers(0, 256, (300, 16)).astype(np.uint8), "w")
    y = make(g, "MatMulInteger", [codes, w, zero, g.add_constant(np.array(weights_zero, np.uint8), "wz")]).output
    y = make(g, "Mul", [make(g, "Cast", [y], {"to": "float32"}).output, scale]).output
    g.set_outputs([y], ["y"])
    with uncompiled():
        rows = build_plan(g, BuildConfig(device="cuda:sm_90", effort=0)).plan.report["regions"]
    assert not [r["name"] for r in rows if r["tactic"] == "host"]
    assert "MatMulInt8" in {r["op"] for r in rows}
