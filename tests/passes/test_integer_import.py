"""Quantized models of every form as integer arithmetic: no product stays float, no step runs on the host, compiled bits
are the reference's, and ONNX Runtime's answers are within a code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from temper.builder import build_plan
from temper.config import BuildConfig
from temper.ir.evaluate import evaluate
from temper.runtime.engine import Engine

Array = np.ndarray[Any, Any]


@dataclass
class Writer:
    """An ONNX graph under construction: x is its input, float32 of a given shape."""

    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(7))
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, onnx.TensorProto] = field(default_factory=dict)

    def __call__(self, op: str, *inputs: str | None, **attrs: Any) -> str:
        name = f"v{len(self.nodes)}"
        attrs = {"name": name, **attrs}
        domain = "com.microsoft" if op.startswith("QLinear") and op not in ("QLinearConv", "QLinearMatMul") else ""
        self.nodes.append(helper.make_node(op, [i or "" for i in inputs], [name], domain=domain, **attrs))
        return name

    def many(self, op: str, count: int, *inputs: str, **attrs: Any) -> list[str]:
        names = [f"v{len(self.nodes)}_{k}" for k in range(count)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=names[0], **attrs))
        return names

    def const(self, array: Any, dtype: Any = None, kind: int | None = None) -> str:
        """kind: an ONNX type that numpy lacks."""
        a, name = np.asarray(array, dtype), f"c{len(self.constants)}"
        if kind is None:
            self.constants[name] = numpy_helper.from_array(a, name)
        else:
            self.constants[name] = helper.make_tensor(name, kind, a.shape, a.reshape(-1))
        return name

    def codes(self, x: str, scale: float, zero: int = 128, dtype: type = np.uint8) -> str:
        return self("QuantizeLinear", x, self.const(scale, np.float32), self.const(zero, dtype))

    def dq(self, q: str, scale: float, zero: int = 128, dtype: type = np.uint8) -> str:
        return self("DequantizeLinear", q, self.const(scale, np.float32), self.const(zero, dtype))

    def fake(self, x: str, scale: float, zero: int = 128, dtype: type = np.uint8) -> str:
        return self.dq(self.codes(x, scale, zero, dtype), scale, zero, dtype)

    def weights(self, *shape: int, dtype: type = np.int8, zero: int | list[int] = 0, axis: int = 0) -> str:
        """DequantizeLinear of random full-range codes with a scale for each index of `axis` if `zero` is a list."""
        info = np.iinfo(dtype)
        q = self.const(self.rng.integers(info.min, info.max + 1, shape), dtype)
        scale = self.rng.uniform(0.002, 0.01, shape[axis] if isinstance(zero, list) else ())
        return self("DequantizeLinear", q, self.const(scale, np.float32), self.const(zero, dtype), axis=axis)

    def model(self, y: str, x: tuple[int, ...], opset: int = 21) -> onnx.ModelProto:
        graph = helper.make_graph(
            self.nodes,
            "quantized",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, x)],
            [helper.make_tensor_value_info(y, TensorProto.FLOAT, None)],
            list(self.constants.values()),
        )
        imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
        return helper.make_model(graph, opset_imports=imports, ir_version=10)


def unsigned_weights(n: Writer) -> str:
    x = n("Conv", n.fake("x", 0.03), n.weights(12, 4, 3, 3, dtype=np.uint8, zero=119), pads=[1, 1, 1, 1])
    x = n("Conv", n.fake(x, 0.3), n.weights(12, 1, 3, 3, dtype=np.uint8, zero=131), group=12)
    return n.fake(n("Conv", n.fake(x, 0.5), n.weights(8, 6, 1, 1, dtype=np.uint8, zero=140), group=2), 0.5)


def unsigned_channels(n: Writer) -> str:
    zeros = [0, 255, 128, 100, 156, 127]
    return n.fake(n("Conv", n.fake("x", 0.03), n.weights(6, 4, 3, 3, dtype=np.uint8, zero=zeros)), 0.2)


def turned(n: Writer) -> str:
    """Gemm whose weights have features first, with a bias."""
    x = n("Reshape", n.fake("x", 0.03), n.const([6, -1], np.int64))
    w = n.weights(5, 48, zero=[0] * 5)
    return n.fake(n("Gemm", x, w, n.const(n.rng.normal(0, 1, 5), np.float32), transB=1), 0.1)


def channel_scales(n: Writer) -> str:
    """Data of a depthwise convolution with a scale for each channel, after a bound that is none of its codes."""
    x = n("Clip", n("Conv", n.fake("x", 0.03), n.weights(6, 4, 1, 1, zero=[0] * 6)), n.const(-0.9, np.float32))
    s, z = n.const(n.rng.uniform(0.02, 0.1, 6), np.float32), n.const([7] * 6, np.uint8)
    x = n("DequantizeLinear", n("QuantizeLinear", x, s, z, axis=1), s, z, axis=1)
    return n.fake(n("Conv", x, n.weights(12, 1, 3, 3, zero=[0] * 12), group=6, pads=[1, 1, 1, 1]), 0.1)


def left(n: Writer) -> str:
    x = n("Reshape", n.fake("x", 0.03), n.const([48, 6], np.int64))
    return n.fake(n("Gemm", x, n.weights(48, 5, zero=[0] * 5, axis=1), transA=1), 0.1)


def line(n: Writer) -> str:
    x = n("Reshape", n.fake("x", 0.03), n.const([1, 4, 72], np.int64))
    return n.fake(n("Conv", x, n.weights(6, 4, 5, zero=[0] * 6), pads=[2, 2], strides=[2]), 0.2)


def volume(n: Writer) -> str:
    x = n("Reshape", n.fake("x", 0.03), n.const([1, 2, 4, 6, 6], np.int64))
    x = n("Conv", x, n.weights(4, 2, 3, 3, 3, zero=[0] * 4), pads=[1] * 6)
    return n.fake(n("Conv", n.fake(x, 0.3), n.weights(4, 1, 2, 3, 3, dtype=np.uint8, zero=117), group=4), 0.3)


def four_bits(n: Writer) -> str:
    w = n.const(n.rng.integers(-8, 8, (6, 4, 3, 3)), kind=TensorProto.INT4)
    s, z = n.const(n.rng.uniform(0.02, 0.1, 6), np.float32), n.const(np.arange(-3, 3), kind=TensorProto.INT4)
    return n.fake(n("Conv", n.fake("x", 0.03), n("DequantizeLinear", w, s, z, axis=0)), 0.2)


def dynamic_conv(n: Writer, dtype: type = np.int8, zero: int = 0) -> str:
    """What quantizing activations at run time makes of a convolution: padded, grouped, depthwise."""
    x = "x"
    for shape, group in (((12, 4, 3, 3), 1), ((12, 1, 3, 3), 12), ((8, 6, 3, 3), 2)):
        q, s, z = n.many("DynamicQuantizeLinear", 3, x)
        info = np.iinfo(dtype)
        w = n.const(n.rng.integers(info.min, info.max + 1, shape), dtype)
        acc = n("ConvInteger", q, w, z, n.const(zero, dtype), pads=[1, 1, 1, 1], group=group)
        scale = n("Mul", s, n.const(0.004, np.float32))
        y = n("Mul", n("Cast", acc, to=TensorProto.FLOAT), scale)
        x = n("Add", y, n.const(n.rng.normal(0, 1, (1, shape[0], 1, 1)), np.float32))
    return x


def dynamic_unsigned(n: Writer) -> str:
    return dynamic_conv(n, np.uint8, 121)


def dynamic_product(n: Writer) -> str:
    x = n("Reshape", "x", n.const([2, 3, 48], np.int64))
    q, s, z = n.many("DynamicQuantizeLinear", 3, x)
    w = n.const(n.rng.integers(-127, 128, (48, 20)), np.int8)
    acc = n("MatMulInteger", q, w, z, n.const(np.arange(-10, 10), np.int8))
    scale = n("Mul", s, n.const(n.rng.uniform(0.001, 0.01, 20), np.float32))
    y = n("Mul", n("Cast", acc, to=TensorProto.FLOAT), scale)
    return n("Relu", n("Add", y, n.const(n.rng.normal(0, 1, 20), np.float32)))


def transposed(n: Writer) -> str:
    """Phases, groups, a cropped border, and dilation with stride 1; a scale for each channel, biases as codes."""
    bias = n("DequantizeLinear", n.const([500, -300, 90, 0, 7, 800], np.int32), n.const(0.0003, np.float32))
    w = n.weights(4, 6, 3, 3, zero=[0] * 6, axis=1)
    attrs: dict[str, Any] = {"strides": [2, 2], "pads": [1, 1, 1, 1], "output_padding": [1, 1]}
    x = n("ConvTranspose", n.fake("x", 0.03), w, bias, **attrs)
    w = n.weights(6, 2, 2, 3, dtype=np.uint8, zero=133)
    x = n("ConvTranspose", n.fake(x, 0.2), w, n.const([0.5, -0.5, 0.1, 2], np.float32), group=2, strides=[2, 3])
    return n.fake(n("ConvTranspose", n.fake(x, 0.3), n.weights(4, 3, 3, 3, zero=0), dilations=[2, 2]), 0.2)


def activations(n: Writer) -> str:
    """Functions between codes, with codes within: each is one table."""
    x = n.fake(n("Conv", n.fake("x", 0.03), n.weights(6, 4, 1, 1, zero=[0] * 6)), 0.05)
    silu = n.fake(n("Mul", x, n.fake(n("Sigmoid", x), 1 / 256, 0)), 0.03)
    swish = n.fake(n("HardSwish", silu), 0.02)
    return n.fake(n("Conv", n.fake(n("Tanh", swish), 1 / 128), n.weights(6, 6, 1, 1, zero=[0] * 6)), 0.05)


def means(n: Writer) -> str:
    x = n.fake(n("Conv", n.fake("x", 0.03), n.weights(20, 4, 1, 1, zero=[0] * 20)), 0.1)
    y = n.fake(n("AveragePool", x, kernel_shape=[3, 2], strides=[2, 1]), 0.05, 100)
    y = n.fake(n("AveragePool", y, kernel_shape=[2, 2], pads=[1, 1, 0, 0], count_include_pad=1), 0.04, -3, np.int8)
    w = n.weights(8, 20, 1, 1, zero=[0] * 8)
    return n.fake(n("Conv", n.fake(n("GlobalAveragePool", y), 0.01, 140), w), 0.01)


def moves(n: Writer) -> str:
    """Branches of different scales are joined, padded, split and moved before they are quantized again."""
    x = n.fake("x", 0.03)
    a = n("Relu", n("Conv", x, n.weights(8, 4, 1, 1, zero=[0] * 8)))
    b = n.fake(n("Conv", x, n.weights(8, 4, 3, 3, zero=[0] * 8), pads=[1, 1, 1, 1]), 0.2, 0, np.int8)
    y = n("MaxPool", n("Concat", a, b, axis=1), kernel_shape=[2, 2], strides=[2, 2])
    y = n("Pad", n("DepthToSpace", y, blocksize=2), n.const([0, 0, 1, 0, 0, 0, 0, 2], np.int64))
    y = n.fake(n("Transpose", y, perm=[0, 1, 3, 2]), 0.1, 90)
    return n.fake(n("Conv", y, n.weights(6, 4, 3, 3, zero=[0] * 6)), 0.3)


#: what each makes, and the step of the codes it ends with (0: float)
NETS: dict[Callable[[Writer], str], tuple[int, float]] = {
    unsigned_weights: (3, 0.5),
    unsigned_channels: (1, 0.2),
    turned: (1, 0.1),
    left: (1, 0.1),
    channel_scales: (2, 0.1),
    line: (1, 0.2),
    volume: (3, 0.3),
    four_bits: (1, 0.2),
    transposed: (3, 0.2),
    activations: (2, 0.05),
    means: (4, 0.01),
    moves: (3, 0.3),
    dynamic_conv: (3, 0.0),
    dynamic_unsigned: (3, 0.0),
    dynamic_product: (1, 0.0),
}
SHAPE = (2, 4, 6, 6)


@pytest.mark.parametrize("make", NETS, ids=lambda m: m.__name__)
def test_products_of_imported_models_are_integer(make: Callable[[Writer], str], tmp_path: Path) -> None:
    products, step = NETS[make]
    n = Writer()
    model = n.model(make(n), SHAPE)
    x = np.random.default_rng(1).normal(0, 2, SHAPE).astype(np.float32)
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    (want,) = ort.InferenceSession(model.SerializeToString(), options).run(None, {"x": x})
    build = build_plan(model, BuildConfig(effort=0, cache=tmp_path / "cache.sqlite"))
    regions = build.plan.report["regions"]
    assert [r["name"] for r in regions if r["tactic"] == "host"] == []
    ops = [r["op"] for r in regions]
    assert not {"Conv", "MatMul", "ConvTranspose"} & set(ops)
    assert sum(op in ("ConvInt8", "MatMulInt8") for op in ops) == products
    (got,) = Engine(build.plan).run({"x": x})
    if step == 0:
        np.testing.assert_allclose(got, want, atol=2e-5 * float(np.abs(want).max()))
        return
    # whole steps of the last codes: ONNX Runtime, in float, and rounded sums of its own, where it does otherwise
    assert np.abs(got - want).max() <= step * 1.001
    assert (got != want).mean() < 0.02
    (bits,) = evaluate(build.graph, {"x": x})
    np.testing.assert_array_equal(got, bits)
