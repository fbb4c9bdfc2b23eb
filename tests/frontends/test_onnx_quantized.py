"""Quantized operators, ONNX's and ONNX Runtime's, against ONNX Runtime; and what is said about scales that are none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from temper.errors import TemperError
from temper.frontends.onnx import import_onnx
from temper.ir.evaluate import evaluate

MS = "com.microsoft"
Array = np.ndarray[Any, Any]
U8, S8 = np.uint8, np.int8
F = np.float32


def codes(*shape: int, dtype: type = U8, seed: int = 0) -> Array:
    info = np.iinfo(dtype)
    return np.random.default_rng(seed + sum(shape)).integers(info.min, info.max + 1, shape).astype(dtype)


def s(value: float | Sequence[float]) -> Array:
    return np.array(value, F)


def z(value: int | Sequence[int], dtype: type = U8) -> Array:
    return np.array(value, dtype)


def node_model(
    op: str, inputs: Sequence[Array | None], given: Sequence[int], result: type, domain: str = MS, **attrs: Any
) -> onnx.ModelProto:
    """One node; operands in `given` are inputs of the model, the rest initializers."""
    names = ["" if a is None else f"i{k}" for k, a in enumerate(inputs)]
    node = helper.make_node(op, names, ["y"], name="the_node", domain=domain, **attrs)
    arrays = {n: a for n, a in zip(names, inputs, strict=True) if a is not None}
    shown = [
        helper.make_tensor_value_info(f"i{k}", helper.np_dtype_to_tensor_dtype(arrays[f"i{k}"].dtype), a.shape)
        for k, a in enumerate(inputs)
        if k in given and a is not None
    ]
    graph = helper.make_graph(
        [node],
        "g",
        shown,
        [helper.make_tensor_value_info("y", helper.np_dtype_to_tensor_dtype(np.dtype(result)), None)],
        [numpy_helper.from_array(a, n) for n, a in arrays.items() if n not in {v.name for v in shown}],
    )
    return helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17), helper.make_opsetid(MS, 1)], ir_version=9
    )


def reference(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> Array:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    (y,) = ort.InferenceSession(model.SerializeToString(), options).run(None, dict(feeds))
    return np.asarray(y)


X, XI = codes(2, 3, 5, 4), codes(2, 3, 5, 4, dtype=S8)
ROWS = codes(4, 6)
#: op, operands, which of them are inputs, result, attributes
CASES: dict[str, tuple[str, list[Array | None], tuple[int, ...], type, dict[str, Any]]] = {
    "add": ("QLinearAdd", [X, s(0.1), z(7), X[:, ::-1].copy(), s(0.03), z(200), s(0.12), z(90)], (0, 3), U8, {}),
    "add_s8": (
        "QLinearAdd", [XI, s(0.1), z(-7, S8), XI[:, ::-1].copy(), s(0.03), z(0, S8), s(0.1), z(5, S8)], (0, 3), S8, {},
    ),
    "add_broadcast": (
        "QLinearAdd", [X, s(0.1), z(7), codes(4), s(0.03), z(20), s(0.12), z(90)], (0,), U8, {},
    ),
    "mul": ("QLinearMul", [X, s(0.1), z(128), codes(2, 3, 1, 1), s(0.03), z(3), s(0.3), z(120)], (0, 3), U8, {}),
    "sigmoid": ("QLinearSigmoid", [X, s(0.05), z(128), s(1 / 256), z(0)], (0,), U8, {}),
    "leaky": ("QLinearLeakyRelu", [XI, s(0.05), z(12, S8), s(0.04), z(-20, S8)], (0,), S8, {"alpha": 0.1}),
    "average": (
        "QLinearAveragePool", [X, s(0.05), z(128), s(0.04), z(110)], (0,), U8,
        {"kernel_shape": [3, 3], "strides": [2, 1], "pads": [1, 1, 1, 1]},
    ),
    "average_last": (
        "QLinearAveragePool", [codes(2, 5, 4, 3), s(0.05), z(128), s(0.04), z(110)], (0,), U8,
        {"kernel_shape": [2, 2], "channels_last": 1},
    ),
    "global": ("QLinearGlobalAveragePool", [X, s(0.05), z(128), s(0.02), z(110)], (0,), U8, {}),
    "global_last": (
        "QLinearGlobalAveragePool", [codes(2, 5, 4, 3), s(0.05), z(128), s(0.02), z(110)], (0,), U8,
        {"channels_last": 1},
    ),
    "concat": (
        "QLinearConcat", [s(0.07), z(100), X, s(0.05), z(128), codes(2, 2, 5, 4), s(0.09), z(30)], (2, 5), U8,
        {"axis": 1},
    ),
    "softmax": ("QLinearSoftmax", [ROWS, s(0.05), z(128), s(1 / 256), z(0)], (0,), U8, {"axis": -1, "opset": 13}),
    "softmax_flat": ("QLinearSoftmax", [X, s(0.02), z(128), s(1 / 256), z(0)], (0,), U8, {"axis": 1, "opset": 11}),
    "where": (
        "QLinearWhere", [np.array([True, False, True, False]), X, s(0.1), z(7), codes(2, 3, 5, 4, seed=3), s(0.05),
                         z(100), s(0.08), z(50)], (0, 1, 4), U8, {},
    ),
    "gemm": (
        "QGemm", [ROWS, s(0.02), z(130), codes(5, 6, dtype=S8), s(np.linspace(0.001, 0.01, 5).tolist()),
                  z([0] * 5, S8), np.arange(-900, 100, 200).astype(np.int32), s(0.05), z(99)], (0,), U8, {"transB": 1},
    ),
    "gemm_float": (
        "QGemm", [ROWS, s(0.02), z(130), codes(6, 5, dtype=U8), s(0.01), z(140), None], (0,), F, {"alpha": 1.0},
    ),
    "to_float": (
        "MatMulIntegerToFloat", [ROWS, codes(6, 5, dtype=S8), s(0.02), s(0.01), z(130), z(3, S8), s([1, 2, 3, 4, 5])],
        (0,), F, {},
    ),
    "to_float_at_run_time": (
        "MatMulIntegerToFloat", [ROWS, codes(6, 5, dtype=S8), s(0.02), s(np.linspace(0.01, 0.02, 5).tolist()), z(130)],
        (0, 2, 4), F, {},
    ),
    "dynamic": (
        "DynamicQuantizeMatMul", [np.random.default_rng(5).normal(0, 2, (3, 4, 6)).astype(F), codes(6, 5, dtype=S8),
                                  s(0.01), z(0, S8), s([1, 2, 3, 4, 5])], (0,), F, {},
    ),
    "conv": (
        "QLinearConv", [codes(1, 4, 6, 5), s(0.02), z(99), codes(6, 2, 3, 3), s(0.01), z(131), s(0.2), z(127),
                        np.arange(-300, 300, 100).astype(np.int32)], (0,), U8, {"pads": [1, 1, 1, 1], "group": 2},
    ),
    "attention": (
        "QAttention", [codes(2, 3, 4), codes(4, 12, dtype=S8), np.linspace(-1, 1, 12).astype(F), s(0.02), s(0.01),
                       np.array([3, 2], np.int32), z(120), z(0, S8)], (0, 5), F, {"num_heads": 2},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_within_a_code_of_onnx_runtime(case: str) -> None:
    op, inputs, given, result, attrs = CASES[case]
    model = node_model(op, inputs, given, result, "" if op == "QLinearConv" else MS, **attrs)
    feeds = {f"i{k}": a for k in given if (a := inputs[k]) is not None}
    want = reference(model, feeds)
    (got,) = evaluate(import_onnx(model), feeds)
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    if result is F:
        np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
        return
    off = np.abs(got.astype(int) - want.astype(int))
    assert off.max() <= 1
    # the global pool of ONNX Runtime, and its tables, multiply by reciprocals: ties and near ties differ
    assert (off > 0).mean() <= 0.1


def _linear(op: str, **changed: Array | None) -> onnx.ModelProto:
    x = X.astype(F) if op == "QuantizeLinear" else X
    operands: dict[str, Array | None] = {"x": x, "scale": s(0.1), "zero": z(7)}
    operands |= changed
    return node_model(op, list(operands.values()), (0,), U8 if op == "QuantizeLinear" else F, "")


@pytest.mark.parametrize("scale", [0.0, -0.1, np.nan, np.inf, 1e-42])
@pytest.mark.parametrize("op", ["QuantizeLinear", "DequantizeLinear"])
def test_a_scale_is_a_positive_number(op: str, scale: float) -> None:
    with pytest.raises(TemperError, match=r"the_node.*the scale 'i1' is .*Quantize the model again"):
        import_onnx(_linear(op, scale=s(scale)))


@pytest.mark.parametrize("op", ["QLinearAdd", "QLinearConcat", "QLinearConv", "QGemm", "QLinearGlobalAveragePool"])
def test_scales_of_quantized_operators_are_checked(op: str) -> None:
    found = next(c for c in CASES.values() if c[0] == op)
    where = next(k for k, a in enumerate(found[1]) if a is not None and a.dtype == F and a.size == 1)
    inputs = list(found[1])
    inputs[where] = s(0.0)
    with pytest.raises(TemperError, match=f"the_node.*the scale 'i{where}' is 0"):
        import_onnx(node_model(op, inputs, found[2], found[3], "" if op == "QLinearConv" else MS, **found[4]))


def test_a_channel_of_zeros_may_have_the_scale_zero() -> None:
    x = np.zeros((2, 3), S8)
    model = node_model("DequantizeLinear", [x, s([0.1, 0.0, 0.2]), z([0, 0, 0], S8)], (), F, "", axis=1)
    (got,) = evaluate(import_onnx(model), {})
    np.testing.assert_array_equal(got, np.zeros((2, 3), F))


@pytest.mark.parametrize("op", ["QuantizeLinear", "DequantizeLinear"])
@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"scale": s([0.1, 0.2]), "zero": z([0, 0])}, "scale"),
        ({"scale": s([0.1, 0.2, 0.3]), "zero": z([0, 0])}, "zero point .* and scale .* must have one shape"),
        ({"zero": np.array(0, np.int32)}, "int32|zero point"),
        ({"scale": None}, "the required input 1"),
    ],
)
def test_operands_that_contradict_each_other_are_named(
    op: str, changed: dict[str, Array | None], reason: str
) -> None:
    with pytest.raises(TemperError, match=f"(?s)the_node.*({reason})"):
        import_onnx(_linear(op, **changed))


def test_a_zero_point_of_another_type_than_the_data() -> None:
    with pytest.raises(TemperError, match="the_node.*zero point is int8, the data uint8|the_node.*int8.*uint8"):
        import_onnx(_linear("DequantizeLinear", zero=z(3, S8)))


def test_an_operator_without_its_scale_is_named() -> None:
    op, inputs, given, result, attrs = CASES["add"]
    with pytest.raises(TemperError, match=r"the_node.*input 4 is missing"):
        import_onnx(node_model(op, [*inputs[:4], None, *inputs[5:]], given, result, MS, **attrs))
    with pytest.raises(TemperError, match=r"the_node.*three inputs a part"):
        import_onnx(node_model("QLinearConcat", CASES["concat"][1][:-1], (2, 5), U8, MS, axis=1))
