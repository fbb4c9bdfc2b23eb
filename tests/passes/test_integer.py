"""Q/DQ graphs as integer arithmetic: what becomes integer, what it computes, and that compiled code computes the same
bits."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from temper.builder import build_plan
from temper.config import BuildConfig
from temper.frontends.onnx import import_onnx
from temper.ir.evaluate import evaluate, evaluate_values
from temper.ir.graph import Graph, Value
from temper.ir.ops import make
from temper.passes.integer_products import sum_bits
from temper.passes.manager import run_passes
from temper.passes.pipeline import PIPELINE
from temper.quantize.codes import insert
from temper.quantize.placement import place, quantizable
from temper.runtime.engine import Engine
from temper.tactics.epilogue import GELU_UNIT
from tests.passes.nets import Net

AT = [p.name for p in PIPELINE].index("integer")


def chain(net: Net, x: Value) -> Value:
    return net("Relu", net.conv(net("Relu", net.conv(x, 16, 3)), 9, 1))


def residual(net: Net, x: Value) -> Value:
    """A block with a projection, then one with the identity."""
    x = net("Relu", net.conv(x, 8, 3))
    y = net.conv(net("Relu", net.conv(x, 16, 3, stride=2)), 16, 3)
    x = net("Relu", net("Add", y, net.conv(x, 16, 1, stride=2)))
    y = net.conv(net("Relu", net.conv(x, 16, 1)), 16, 3)
    return net.conv(net("Relu", net("Add", x, y)), 5, 1)


def joined(net: Net, x: Value) -> Value:
    """Branches of different ranges share a scale; the pool runs on codes."""
    x = net("Relu", net.conv(x, 8, 3))
    x = net("MaxPool", x, kernel_shape=(2, 2), strides=(2, 2), pads=(0, 0, 0, 0), dilations=(1, 1))
    a, b = net("Relu", net.conv(x, 6, 1)), net("Mul", net.conv(x, 5, 3), net.const(3.0))
    return net.conv(net("Concat", a, b, x, axis=1), 7, 3)


def mobile(net: Net, x: Value) -> Value:
    """Depthwise, ReLU6, no activation before the add."""
    x = net.conv(x, 8, 3)
    y = net("Clip", net.conv(x, 24, 1), min=0.0, max=6.0)
    y = net("Clip", net.conv(y, 24, 3, group=24), min=0.0, max=6.0)
    return net.conv(net("Add", net.conv(y, 8, 1), x), 4, 1)


def classifier(net: Net, x: Value) -> Value:
    x = net("Relu", net.conv(x, 12, 3))
    flat = net("Reshape", net("ReduceMean", x, axes=(2, 3), keepdims=1), shape=(2, 12))
    return net("Add", net("MatMul", flat, net.weights(12, 10)), net.weights(10))


def smooth(net: Net, x: Value) -> Value:
    """SiLU is float32 between the accumulator and the codes."""
    return net.conv(net("Silu", net.conv(x, 16, 3)), 5, 3)


def twice(net: Net, x: Value) -> Value:
    """Codes that one reader takes and another cannot."""
    x = net.conv(x, 8, 3)
    return net("Add", net.conv(net("Relu", x), 8, 1), net("Sigmoid", x))


NETS: dict[Callable[[Net, Value], Value], int] = {
    chain: 2,
    residual: 7,
    joined: 4,
    mobile: 5,
    classifier: 2,
    smooth: 2,
    twice: 2,
}


def quantized(make: Callable[[Net, Value], Value]) -> tuple[Graph, Graph, dict[str, np.ndarray]]:
    """The float graph, the one with Q/DQ by the largest values of one batch, and that batch."""
    net = Net(3)
    net.graph.set_outputs([make(net, net.input(2, 3, 13, 11))], ["y"])
    feeds = {"x": net.rng.standard_normal((2, 3, 13, 11)).astype(np.float32)}
    run_passes(net.graph, PIPELINE[:AT])
    q = net.graph.copy()
    placement = place(q, [n for n in q.nodes if quantizable(n) is None])
    names = {t for g in placement.groups for t in g.tensors}
    values = [v for v in q.values if v.name in names]
    seen = evaluate_values(q, feeds, values)
    insert(q, placement, {v.name: float(np.abs(seen[v.id]).max()) for v in values})
    return net.graph, q, feeds


@pytest.mark.parametrize("make", NETS, ids=lambda m: m.__name__)
@pytest.mark.parametrize("threads", [1, 2])
def test_compiled_bits_are_the_references(make: Callable[[Net, Value], Value], threads: int, tmp_path: Path) -> None:
    plain, q, feeds = quantized(make)
    (simulated,) = evaluate(q, feeds)
    graph = q.copy()
    run_passes(graph, PIPELINE[AT:])
    products = [n.op for n in graph.nodes if n.op in ("Conv", "MatMul", "ConvInt8", "MatMulInt8")]
    assert [p for p in products if not p.endswith("Int8")] == []
    assert len(products) == NETS[make]

    build = build_plan(q, BuildConfig(threads=threads, effort=0, cache=tmp_path / "cache.sqlite"))
    (got,) = Engine(build.plan).run(feeds)
    (want,) = evaluate(graph, feeds)
    if make in (smooth, twice):  # float functions may differ by their rounding
        step = np.abs(want).max() * 0.02
        np.testing.assert_allclose(got, want, atol=step)
    else:
        np.testing.assert_array_equal(got, want)

    # integer arithmetic against the simulation in float: a code here and there
    (exact,) = evaluate(plain, feeds)
    scale = float(np.abs(exact).max())
    assert np.abs(want - simulated).max() <= 0.04 * scale
    assert np.abs(want - exact).max() <= 0.2 * scale
    assert ((want - exact) ** 2).mean() <= 0.005 * (exact**2).mean() + 1e-6


def _qdq_model(zero: int, dtype: type, weight_zero: int) -> onnx.ModelProto:
    """x -> Q/DQ -> conv (per-channel weights, int32 bias) -> relu -> Q/DQ -> y, as quantizers write it."""
    rng = np.random.default_rng(abs(zero))
    constants = {
        "xs": np.array(0.021, np.float32),
        "xz": np.array(zero, dtype),
        "w": rng.integers(-127, 128, (6, 4, 3, 3)).astype(np.int8),
        "ws": rng.uniform(0.002, 0.01, 6).astype(np.float32),
        "wz": np.full(6, weight_zero, np.int8),
        "b": rng.integers(-3000, 3000, 6).astype(np.int32),
        "bz": np.zeros(6, np.int32),
        "ys": np.array(0.037, np.float32),
        "yz": np.array(zero // 2, dtype),
    }
    if weight_zero:
        constants["w"] = rng.integers(-100, 101, (6, 4, 3, 3)).astype(np.int8)
    constants["bs"] = constants["xs"] * constants["ws"]
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "xs", "xz"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=0),
        helper.make_node("DequantizeLinear", ["b", "bs", "bz"], ["bd"], axis=0),
        helper.make_node("Conv", ["xd", "wd", "bd"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c"], ["r"]),
        helper.make_node("QuantizeLinear", ["r", "ys", "yz"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "ys", "yz"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "qdq",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 4, 9, 8))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 6, 9, 8))],
        [numpy_helper.from_array(a, n) for n, a in constants.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


@pytest.mark.parametrize(
    ("zero", "dtype"), [(0, np.int8), (128, np.uint8), (0, np.uint8), (-11, np.int8), (37, np.uint8)]
)
@pytest.mark.parametrize("weight_zero", [0, 5])
def test_imported_qdq_is_within_one_code_of_onnx_runtime(
    zero: int, dtype: type, weight_zero: int, tmp_path: Path
) -> None:
    model = _qdq_model(zero, dtype, weight_zero)
    x = np.random.default_rng(1).normal(0, 1.5, (1, 4, 9, 8)).astype(np.float32)
    (want,) = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    plan = build_plan(model, BuildConfig(effort=0, cache=tmp_path / "cache.sqlite")).plan
    assert [r["op"] for r in plan.report["regions"] if "Conv" in r["op"]] == ["ConvInt8"]
    (got,) = Engine(plan).run({"x": x})
    assert np.abs(got - want).max() <= 0.037 * 1.001
    assert (got != want).mean() < 0.01


def test_unusable_weights_stay_float_and_say_why() -> None:
    model = _qdq_model(0, np.uint8, 0)
    weights = next(t for t in model.graph.initializer if t.name == "w")
    zeros = next(t for t in model.graph.initializer if t.name == "wz")
    weights.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weights).astype(np.int16) * 200, "w"))
    zeros.CopyFrom(numpy_helper.from_array(np.zeros(6, np.int16), "wz"))
    model.opset_import[0].version = 21
    graph = import_onnx(model)
    log = run_passes(graph, PIPELINE)
    assert "ConvInt8" not in [n.op for n in graph.nodes]
    assert any(rule == "integer product" and "at most 8 bits (int16)" in why for rule, _, why in log.declined)


def attending(net: Net) -> Value:
    """Merged projections, attention, projection and residual over tokens of two sentences."""
    x = net("MatMul", net.input(2, 9, 24), net.weights(24, 24))
    y = net("Add", net("MatMul", x, net.weights(24, 72)), net.weights(72))
    q, k, v = net.many("Split", y, axis=2, sizes=(24, 24, 24))
    attrs = {"heads": 3, "kv_heads": 3, "scale": 0.3, "layout": "rrrr", "causal": 1}
    return net("Add", x, net("MatMul", net("Attention", q, k, v, **attrs), net.weights(24, 24)))


@pytest.mark.parametrize("zero_points", [False, True])
def test_attention_of_codes(zero_points: bool, tmp_path: Path) -> None:
    """Pieces of one product become codes in its epilogue, each in its unit; attention multiplies them; its mean of
    values becomes codes of the next product's."""
    net = Net(5)
    net.graph.set_outputs([attending(net)], ["y"])
    feeds = {"x": net.rng.standard_normal((2, 9, 24)).astype(np.float32)}
    (plain,) = evaluate(net.graph, feeds)
    q = net.graph.copy()
    placement = place(q, [n for n in q.nodes if quantizable(n) is None])
    names = {t for g in placement.groups for t in g.tensors}
    values = [v for v in q.values if v.name in names]
    seen = evaluate_values(q, feeds, values)
    assert len(placement.groups) == 6
    ranges = {v.name: (float(seen[v.id].min()), float(seen[v.id].max())) for v in values} if zero_points else None
    insert(q, placement, {v.name: float(np.abs(seen[v.id]).max()) for v in values}, None, ranges)
    log = run_passes(q, PIPELINE[AT:])
    assert sorted(n.op for n in q.nodes if n.op.endswith("Int8")) == ["AttentionInt8"] + ["MatMulInt8"] * 3
    assert [n.name for n in q.nodes if n.op in ("QuantizeLinear", "DequantizeLinear", "Div")] == ["x.codes.div"]
    split = next(n for n in q.nodes if n.op == "Split")
    assert {v.type.dtype for v in split.outputs} == {"int8"} and "split codes" in {rule for rule, _ in log.applied}
    (want,) = evaluate(q, feeds)
    (got,) = Engine(build_plan(q, BuildConfig(threads=2, effort=0, cache=tmp_path / "c")).plan).run(feeds)
    assert got.tobytes() == want.tobytes()
    assert np.sqrt(np.mean((want - plain) ** 2) / np.mean(plain**2)) < 0.03


def test_layers_of_attention_share_a_kernel(tmp_path: Path) -> None:
    """What the units of two layers' scores are is data of one kernel."""
    net = Net(5)
    x = net.input(2, 9, 24)
    y = x
    for _ in range(2):
        q, k, v = net.many("Split", net("MatMul", y, net.weights(24, 72)), axis=2, sizes=(24, 24, 24))
        y = net("MatMul", net("Attention", q, k, v, heads=3, kv_heads=3, scale=0.3, layout="rrrr"), net.weights(24, 24))
    net.graph.set_outputs([y], ["y"])
    feeds = {"x": net.rng.standard_normal((2, 9, 24)).astype(np.float32)}
    placement = place(net.graph, [n for n in net.graph.nodes if quantizable(n) is None])
    tensors = {t for g in placement.groups for t in g.tensors}
    values = [v for v in net.graph.values if v.name in tensors]
    seen = evaluate_values(net.graph, feeds, values)
    insert(net.graph, placement, {v.name: float(np.abs(seen[v.id]).max()) for v in values})
    run_passes(net.graph, PIPELINE[AT:])
    scales = [n.inputs[4] for n in net.graph.nodes if n.op == "AttentionInt8"]
    assert len({float(s.const) for s in scales if s is not None and s.const is not None}) == 2
    (want,) = evaluate(net.graph, feeds)
    made = build_plan(net.graph, BuildConfig(threads=2, effort=0, cache=tmp_path / "c"))
    layers = [c.candidate.kernel for c in made.choices if c is not None and "attention" in c.candidate.tactic.name]
    assert len(layers) == 2 and len({k.source for k in layers}) == 1
    assert Engine(made.plan).run(feeds)[0].tobytes() == want.tobytes()


def test_pieces_that_cannot_share_a_product() -> None:
    """A piece that is an output too, and pieces of floats."""
    for product in (True, False):
        net = Net(5)
        x = net.input(2, 9, 24)
        y = net("MatMul", x, net.weights(24, 72)) if product else net("Sigmoid", net("Concat", x, x, x, axis=2))
        q, k, v = net.many("Split", y, axis=2, sizes=(24, 24, 24))
        a = net("Attention", q, k, v, heads=3, kv_heads=3, scale=0.3, layout="rrrr")
        net.graph.set_outputs([a, v] if product else [a], None)
        placement = place(net.graph, [n for n in net.graph.nodes if quantizable(n) is None])
        insert(net.graph, placement, {t: 2.0 for g in placement.groups for t in g.tensors})
        log = run_passes(net.graph, PIPELINE[AT : AT + 1])
        reason = "a piece has other readers than one quantization" if product else "its data are not sums of codes"
        assert ("split codes", reason) in [(rule, why) for rule, _, why in log.declined]
        assert [n.op for n in net.graph.nodes if n.op.startswith("Attention")] == ["AttentionInt8"]


def test_sums_that_need_few_bits() -> None:
    few, many = (np.full((3, 3, channels, 2), -127, np.int8) for channels in (115, 116))
    assert 115 * 9 * 127 * 255 < 2**25 < 116 * 9 * 127 * 255
    assert sum_bits(few) == 25 and sum_bits(many) == 31
    few[..., 1] = 0
    assert sum_bits(few) == 25


@pytest.mark.parametrize(
    "kinds", [("int8", 0, "int8", 0), ("uint8", 121, "uint8", 131), ("uint8", 0, "int8", -7), ("int8", 5, "uint8", 128)]
)
def test_products_of_two_activations(kinds: tuple[str, int, str, int], tmp_path: Path) -> None:
    """Queries times keys turned, as explicit Q/DQ models write attention; every kind of zero point; codes again."""
    net = Net(6)
    values = []
    for name, (kind, zero) in zip("ab", (kinds[:2], kinds[2:]), strict=True):
        x = net.input(2, 3, 7 if name == "a" else 10, 20, name=name)
        constants = [net.const(np.array(0.02, np.float32)), net.const(np.array(zero, kind))]
        codes = make(net.graph, "QuantizeLinear", [x, *constants], {"axis": 0, "to": kind}).output
        values.append(make(net.graph, "DequantizeLinear", [codes, *constants], {"axis": 0}).output)
    y = net("MatMul", *values, transB=1)
    constants = [net.const(np.array(0.05, np.float32)), net.const(np.array(3, np.int8))]
    y = make(net.graph, "QuantizeLinear", [y, *constants], {"axis": 0, "to": "int8"}).output
    net.graph.set_outputs([y], ["y"])
    shapes = {"a": (2, 3, 7, 20), "b": (2, 3, 10, 20)}
    feeds = {k: (net.rng.standard_normal(s) * 1.3).astype(np.float32) for k, s in shapes.items()}
    (simulated,) = evaluate(net.graph, feeds)
    graph = net.graph.copy()
    run_passes(graph, PIPELINE[AT:])
    assert [n.op for n in graph.nodes if n.op.startswith("MatMul")] == ["MatMulInt8"]
    (want,) = evaluate(graph, feeds)
    assert np.abs(want.astype(int) - simulated.astype(int)).max() <= 1 and (want != simulated).mean() < 0.01
    build = build_plan(graph, BuildConfig(threads=2, effort=0, cache=tmp_path / "c"))
    (got,) = Engine(build.plan).run(feeds)
    assert got.tobytes() == want.tobytes()
    assert [r["tactic"].split()[0] for r in build.plan.report["regions"] if r["op"] == "MatMulInt8"] == [
        "cpu.gemm_int8_batched"
    ]


@pytest.mark.parametrize("scale", [0.02, GELU_UNIT, 1e-4, 3e-30, 1e-40])
def test_gelu_of_units_too_small_for_kernels_is_scaled_first(scale: float) -> None:
    net = Net(3)
    x = net.input(4, 64)
    constants = [net.const(np.array(scale, np.float32)), net.const(np.array(0, np.int8))]
    codes = make(net.graph, "QuantizeLinear", [net("Gelu", x), *constants], {"to": "int8"}).output
    net.graph.set_outputs([codes], ["y"])
    feeds = {"x": np.linspace(-40, 3, 256, dtype=np.float32).reshape(4, 64)}
    (want,) = evaluate(net.graph, feeds)
    log = run_passes(net.graph, [PIPELINE[AT]])
    assert any(n.op == "Div" for n in net.graph.nodes), log
    assert any(n.op == "Mul" for n in net.graph.nodes) == (scale < GELU_UNIT)
    (got,) = evaluate(net.graph, feeds)
    assert np.array_equal(got, want)
