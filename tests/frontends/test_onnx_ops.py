"""Imported nodes, evaluated with the references, against ONNX Runtime, over the opsets in which an op changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from temper.errors import ModelError, ShapeError, TemperError, UnsupportedError
from temper.frontends.onnx import import_onnx
from temper.ir.dims import Dim
from temper.ir.evaluate import evaluate
from temper.ir.graph import Graph
from tests.frontends.models import NODE, assert_matches, feeds_for, model

IMAGE = {"x": [2, 4, 7, 9]}
MATRIX = {"x": [3, 4]}


def check(
    nodes: onnx.NodeProto | Sequence[onnx.NodeProto],
    inputs: Mapping[str, Any] = IMAGE,
    opset: int = 17,
    *,
    outputs: Sequence[str] = ("y",),
    relative: float = 1e-5,
    sizes: Mapping[str, int] | None = None,
    **constants: Any,
) -> Graph:
    """The import of the nodes gives what ONNX Runtime gives; returns the imported graph."""
    found = [nodes] if isinstance(nodes, onnx.NodeProto) else list(nodes)
    proto = model(found, inputs, outputs, {k: np.asarray(v) for k, v in constants.items()}, opset)
    assert_matches(proto, sizes, relative)
    return import_onnx(proto)


def ops(graph: Graph) -> list[str]:
    return [n.op for n in graph.nodes]


# ---- elementwise ----

_UNARY = (
    "Relu Abs Neg Sign Floor Ceil Round Exp Erf Sigmoid Sin Cos Atan Sinh Cosh Tanh Asinh Softplus Softsign HardSwish "
    "LeakyRelu HardSigmoid Elu Selu Celu Shrink ThresholdedRelu Mish Identity"
).split()


@pytest.mark.parametrize("op", _UNARY)
def test_unary(op: str) -> None:
    check(NODE(op, ["x"], ["y"]), opset=18)


@pytest.mark.parametrize("op", ["Sqrt", "Log", "Reciprocal", "Acosh"])
def test_unary_of_positive_numbers(op: str) -> None:
    check([NODE("Exp", ["x"], ["e"]), NODE("Add", ["e", "one"], ["p"]), NODE(op, ["p"], ["y"])], one=np.float32(1))


@pytest.mark.parametrize("op", ["Asin", "Acos", "Atanh"])
def test_unary_of_small_numbers(op: str) -> None:
    check([NODE("Tanh", ["x"], ["t"]), NODE("Mul", ["t", "k"], ["s"]), NODE(op, ["s"], ["y"])], k=np.float32(0.9))


@pytest.mark.parametrize(
    ("op", "attrs"),
    [
        ("LeakyRelu", {"alpha": 0.3}),
        ("Elu", {"alpha": 2.0}),
        ("HardSigmoid", {"alpha": 0.1, "beta": 0.7}),
        ("Shrink", {"lambd": 0.2, "bias": 0.1}),
    ],
)
def test_unary_attributes(op: str, attrs: dict[str, float]) -> None:
    check(NODE(op, ["x"], ["y"], **attrs))


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_gelu(approximate: str) -> None:
    assert ops(check(NODE("Gelu", ["x"], ["y"], approximate=approximate), opset=20)) == ["Gelu"]


@pytest.mark.parametrize("opset", [7, 13, 17])
@pytest.mark.parametrize("op", ["Add", "Sub", "Mul", "Div"])
def test_binary_broadcast(op: str, opset: int) -> None:
    check(NODE(op, ["x", "c"], ["y"]), opset=opset, c=np.linspace(1, 2, 9, dtype=np.float32))
    check(NODE(op, ["x", "c"], ["y"]), opset=opset, c=np.linspace(1, 2, 4, dtype=np.float32).reshape(4, 1, 1))


@pytest.mark.parametrize("fmod", [0, 1])
def test_mod(fmod: int) -> None:
    check(NODE("Mod", ["x", "c"], ["y"], fmod=fmod), {"x": (np.int32, [4])}, c=np.array([3, -3, 2, 5], np.int32))


@pytest.mark.parametrize("op", ["Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual"])
def test_comparison(op: str) -> None:
    check(NODE(op, ["x", "c"], ["y"]), {"x": (np.int64, [3, 4])}, c=np.array([0, 1, 2, 3]))


@pytest.mark.parametrize("op", ["And", "Or", "Xor"])
def test_logic(op: str) -> None:
    check(NODE(op, ["x", "z"], ["y"]), {"x": (np.bool_, [9]), "z": (np.bool_, [9])})


def test_where_pow_prelu() -> None:
    check(NODE("Where", ["k", "x", "c"], ["y"]), MATRIX, k=np.array([True, False, True, False]), c=np.float32(7))
    check([NODE("Abs", ["x"], ["a"]), NODE("Pow", ["a", "c"], ["y"])], MATRIX, c=np.float32(2.5))
    check(NODE("PRelu", ["x", "c"], ["y"]), c=np.array([0.1, 0.2, 0.3, 0.4], np.float32).reshape(4, 1, 1))


@pytest.mark.parametrize("op", ["Max", "Min", "Sum", "Mean"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_variadic(op: str, count: int) -> None:
    check(NODE(op, ["x", "z", "c"][:count], ["y"]), {"x": [3, 4], "z": [4]}, c=np.float32(0.5))


def test_clip_by_attributes() -> None:
    assert ops(check(NODE("Clip", ["x"], ["y"], min=0.0, max=6.0), opset=7)) == ["Clip"]
    assert ops(check(NODE("Clip", ["x"], ["y"], max=0.5), opset=10)) == ["Clip"]
    assert ops(import_onnx(model([NODE("Clip", ["x"], ["y"])], MATRIX, opset=10))) == []


def test_clip_by_operands() -> None:
    low, high = np.float32(-0.5), np.float32(0.5)
    assert ops(check(NODE("Clip", ["x", "lo", "hi"], ["y"]), lo=low, hi=high)) == ["Clip"]
    assert ops(check(NODE("Clip", ["x", "", "hi"], ["y"]), hi=high)) == ["Clip"]
    graph = check(NODE("Clip", ["x", "lo", "z"], ["y"]), {**IMAGE, "z": []}, lo=low)
    assert ops(graph) == ["Clip", "Min"]


@pytest.mark.parametrize("opset", [9, 13])
def test_cast(opset: int) -> None:
    check(NODE("Cast", ["x"], ["y"], to=onnx.TensorProto.INT32), MATRIX, opset)
    assert ops(import_onnx(model([NODE("Cast", ["x"], ["y"], to=onnx.TensorProto.FLOAT)], MATRIX))) == []


def test_dropout() -> None:
    assert ops(check(NODE("Dropout", ["x"], ["y", "unread"], ratio=0.3), MATRIX, 7)) == []
    assert ops(check(NODE("Dropout", ["x", "r"], ["y"]), MATRIX, r=np.float32(0.5))) == []
    check(NODE("Dropout", ["x"], ["y", "mask"]), MATRIX, outputs=("y", "mask"))
    training = {"r": np.float32(0.5), "t": np.array(True)}
    graph = import_onnx(model([NODE("Dropout", ["x", "r", "t"], ["y"])], MATRIX, constants=training))
    assert ops(graph) == ["RandomUniform", "GreaterOrEqual", "Mul", "Where"]
    with pytest.raises(ModelError, match="ratio"):
        import_onnx(
            model([NODE("Dropout", ["x", "r", "t"], ["y"])], MATRIX, constants={**training, "r": np.float32(1)})
        )


def test_quantize_and_dequantize() -> None:
    nodes = [NODE("QuantizeLinear", ["x", "s", "z"], ["q"]), NODE("DequantizeLinear", ["q", "s", "z"], ["y"])]
    assert ops(check(nodes, s=np.float32(0.02), z=np.uint8(128))) == ["QuantizeLinear", "DequantizeLinear"]
    check(nodes, s=np.array([0.01, 0.02, 0.03, 0.04], np.float32), z=np.zeros(4, np.int8))
    check(
        NODE("DequantizeLinear", ["c", "s"], ["y"], axis=0),
        {"unused": [1]},
        c=np.ones((4, 3), np.int8),
        s=np.ones(4, np.float32),
    )


# ---- movement ----


@pytest.mark.parametrize("shape", [[0, -1], [2, 2, -1, 9], [-1], [0, 0, 63], [2, 4, 7, 9]])
@pytest.mark.parametrize("opset", [7, 14])
def test_reshape(shape: list[int], opset: int) -> None:
    check(NODE("Reshape", ["x", "s"], ["y"]), opset=opset, s=np.array(shape))


def test_reshape_allowzero() -> None:
    check(NODE("Reshape", ["x", "s"], ["y"], allowzero=1), {"x": [0, 3]}, opset=14, s=np.array([3, 0]))


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ([5, -1], "cannot"),
        ([-1, -1], "not a shape"),
        ([0, 0, 0, 0, 0], "does not exist"),
        ([7, 7], "504"),
        ([-2, 3], "not a shape"),
    ],
)
def test_reshape_that_cannot_be(shape: list[int], words: str) -> None:
    with pytest.raises(ShapeError, match=words):
        import_onnx(model([NODE("Reshape", ["x", "s"], ["y"])], IMAGE, constants={"s": np.array(shape)}))


@pytest.mark.parametrize("axis", [-2, 0, 1, 4])
def test_flatten(axis: int) -> None:
    check(NODE("Flatten", ["x"], ["y"], axis=axis), opset=13)


def test_squeeze_and_unsqueeze() -> None:
    check([NODE("Unsqueeze", ["x"], ["u"], axes=[0, 3]), NODE("Squeeze", ["u"], ["y"], axes=[0])], MATRIX, 11)
    check([NODE("Unsqueeze", ["x", "a"], ["u"]), NODE("Squeeze", ["u"], ["y"])], MATRIX, 13, a=np.array([-1, 0]))
    check(
        [NODE("Unsqueeze", ["x", "a"], ["u"]), NODE("Squeeze", ["u", "b"], ["y"])],
        MATRIX,
        13,
        a=np.array([1, 2]),
        b=np.array([-2]),
    )
    with pytest.raises(ShapeError, match="axis 0"):
        import_onnx(model([NODE("Squeeze", ["x", "b"], ["y"])], MATRIX, constants={"b": np.array([0])}))


def test_transpose() -> None:
    check(NODE("Transpose", ["x"], ["y"]))
    check(NODE("Transpose", ["x"], ["y"], perm=[0, 2, 3, 1]))


def test_concat_and_split() -> None:
    check(
        [NODE("Split", ["x"], ["a", "b"], axis=-1, split=[2, 7]), NODE("Concat", ["b", "a"], ["y"], axis=3)], opset=11
    )
    check([NODE("Split", ["x"], ["a", "b"], axis=1), NODE("Concat", ["b", "a"], ["y"], axis=1)], opset=11)
    check(
        [NODE("Split", ["x", "s"], ["a", "b"], axis=-1), NODE("Concat", ["b", "a"], ["y"], axis=3)],
        opset=13,
        s=np.array([2, 7]),
    )
    check(NODE("Split", ["x"], ["y", "z", "w"], axis=3, num_outputs=3), opset=18, outputs=("y", "z", "w"))
    check(NODE("Split", ["x"], ["y", "z"], axis=2, num_outputs=2), opset=18, outputs=("y", "z"))


@pytest.mark.parametrize(
    ("starts", "ends", "axes", "steps"),
    [
        ([1], [3], [3], [1]),
        ([-3, 0], [2**31 - 1, -1], [2, 3], [1, 2]),
        ([0], [2**63 - 1], [-1], [3]),
        ([-1], [-(2**63)], [2], [-1]),
        ([5], [1], [2], [-2]),
        ([8], [2], [3], [1]),
    ],
)
def test_slice(starts: list[int], ends: list[int], axes: list[int], steps: list[int]) -> None:
    check(
        NODE("Slice", ["x", "s", "e", "a", "t"], ["y"]),
        s=np.array(starts),
        e=np.array(ends),
        a=np.array(axes),
        t=np.array(steps),
    )


def test_slice_by_attributes() -> None:
    check(NODE("Slice", ["x"], ["y"], starts=[1, 0], ends=[2, 1000], axes=[3, 1]), opset=9)
    check(NODE("Slice", ["x"], ["y"], starts=[0, 1], ends=[1, 3]), opset=9)


def test_gather_and_scatter() -> None:
    check(NODE("Gather", ["x", "i"], ["y"], axis=2), i=np.array([[0, -1], [3, 2]]))
    check(NODE("GatherElements", ["x", "i"], ["y"], axis=1), MATRIX, i=np.array([[0, 1], [2, 3], [0, -1]]))
    check(NODE("GatherND", ["x", "i"], ["y"]), i=np.array([[0, 1], [1, 3]]))
    check(NODE("ScatterND", ["x", "i", "u"], ["y"]), MATRIX, i=np.array([[0], [2]]), u=np.ones((2, 4), np.float32))
    check(
        NODE("ScatterElements", ["x", "i", "u"], ["y"], axis=1, reduction="add"),
        MATRIX,
        18,
        i=np.array([[1, 1]]),
        u=np.ones((1, 2), np.float32),
    )


def test_expand_and_tile() -> None:
    check(NODE("Expand", ["x", "s"], ["y"]), {"x": [3, 1]}, s=np.array([2, 1, 6]))
    check(NODE("Expand", ["x", "s"], ["y"]), {"x": [3, 4]}, s=np.array([1]))
    check(NODE("Tile", ["x", "s"], ["y"]), {"x": [3, 1]}, s=np.array([2, 3]))


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
def test_pad(mode: str) -> None:
    check(NODE("Pad", ["x"], ["y"], mode=mode, pads=[0, 0, 1, 2, 0, 0, 3, 0]), opset=9)
    check(NODE("Pad", ["x", "p"], ["y"], mode=mode), opset=13, p=np.array([0, 0, 1, 2, 0, 0, 3, 0]))
    check(NODE("Pad", ["x", "p", "", "a"], ["y"], mode=mode), opset=18, p=np.array([1, 2, 3, 0]), a=np.array([-1, 2]))


def test_pad_value() -> None:
    check(NODE("Pad", ["x"], ["y"], value=1.5, pads=[0, 0, 1, 2, 0, 0, 3, 0]), opset=9)
    check(NODE("Pad", ["x", "p", "v"], ["y"]), opset=13, p=np.array([0, 0, -1, 2, 0, 0, 3, 0]), v=np.float32(-3))


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
def test_depth_to_space(mode: str) -> None:
    check(
        [NODE("DepthToSpace", ["x"], ["d"], blocksize=2, mode=mode), NODE("SpaceToDepth", ["d"], ["y"], blocksize=2)],
        {"x": [1, 8, 3, 5]},
    )


@pytest.mark.parametrize("opset", [7, 9])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_upsample(opset: int, mode: str) -> None:
    scales = np.array([1, 1, 2, 3], np.float32)
    if opset == 7:
        check(NODE("Upsample", ["x"], ["y"], mode=mode, scales=scales.tolist()), opset=opset)
    else:
        check(NODE("Upsample", ["x", "s"], ["y"], mode=mode), opset=opset, s=scales)
        check(NODE("Resize", ["x", "s"], ["y"], mode=mode), opset=10, s=scales)


@pytest.mark.parametrize("transform", ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric"])
@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
@pytest.mark.parametrize("opset", [11, 18])
def test_resize(transform: str, mode: str, opset: int) -> None:
    attrs = {"mode": mode, "coordinate_transformation_mode": transform}
    # the ONNX project's corners are those of the scaled length, ONNX Runtime's those of its whole part
    last = 3 if transform == "align_corners" else 1.5
    check(
        NODE("Resize", ["x", "r", "s"], ["y"], **attrs),
        opset=opset,
        r=np.zeros(0, np.float32),
        s=np.array([1, 1, 2, last], np.float32),
        relative=1e-4,
    )
    none = np.zeros(0, np.float32)
    check(
        NODE("Resize", ["x", "r", "s", "z"], ["y"], **attrs),
        opset=opset,
        r=none,
        s=none,
        z=np.array([2, 4, 14, 12]),
        relative=1e-4,
    )


def test_bounds_in_bfloat16_are_known() -> None:
    """Their constants are read as numbers: a range's length, the fill of a Pad, the bounds of a Clip."""
    bf16 = np.dtype(ml_dtypes.bfloat16)
    constants = {n: np.array(v, bf16) for n, v in (("a", 0.5), ("b", 3.0), ("s", 0.75), ("f", -2.0))}
    pads = numpy_helper.from_array(np.array([0, 1, 1, 0]), "p")
    nodes = [
        NODE("Range", ["a", "b", "s"], ["r"]),
        NODE("Pad", ["x", "p", "f"], ["q"]),
        NODE("Clip", ["x", "a", "b"], ["c"]),
    ]
    outs = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.BFLOAT16, None) for n in "rqc"]
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.BFLOAT16, [2, 3])
    initializers = [*(numpy_helper.from_array(v, n) for n, v in constants.items()), pads]
    graph = onnx.helper.make_graph(nodes, "g", [x], outs, initializers)
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 27)])
    imported = import_onnx(proto)
    data = np.array([[-1, 0, 1], [2, 3, 4]], np.float32).astype(bf16)
    r, q, c = (y.view(bf16).astype(np.float32) for y in evaluate(imported, {"x": data.view(np.uint16)}))
    assert r.tolist() == [0.5, 1.25, 2.0, 2.75]
    assert q.tolist() == [[-2, -1, 0, 1], [-2, 2, 3, 4], [-2, -2, -2, -2]]
    assert c.tolist() == [[0.5, 0.5, 1], [2, 3, 3]]


def test_resize_some_axes() -> None:
    check(NODE("Resize", ["x", "", "s"], ["y"], mode="linear", axes=[3, 2]), opset=18, s=np.array([2, 3], np.float32))


def test_trilu_one_hot_eye() -> None:
    check(NODE("Trilu", ["x", "k"], ["y"], upper=0), {"x": [4, 5]}, k=np.array(1))
    check(
        NODE("OneHot", ["x", "d", "v"], ["y"], axis=1),
        {"x": (np.int64, [3, 2])},
        d=np.array([5]),
        v=np.array([0, 1], np.float32),
    )
    check(NODE("EyeLike", ["x"], ["y"], k=1, dtype=onnx.TensorProto.INT32), {"x": [3, 4]})


# ---- reductions, normalisation ----

_REDUCTIONS = [
    "ReduceSum",
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceL1",
    "ReduceL2",
    "ReduceSumSquare",
    "ReduceLogSumExp",
]


@pytest.mark.parametrize("op", _REDUCTIONS)
def test_reduce(op: str) -> None:
    check(NODE(op, ["x"], ["y"], axes=[1, -1], keepdims=0), opset=11)
    check(NODE(op, ["x"], ["y"]), opset=11)
    check(NODE(op, ["x", "a"], ["y"], keepdims=0), opset=18, a=np.array([2]))
    check(NODE(op, ["x"], ["y"], keepdims=0), opset=18)
    check([NODE("Abs", ["x"], ["p"]), NODE(op, ["p"], ["y"], noop_with_empty_axes=1)], opset=18)


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
def test_arg(op: str) -> None:
    check(NODE(op, ["x"], ["y"], axis=-1, keepdims=0))
    check(NODE(op, ["x"], ["y"], axis=1), opset=11)


@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1])
@pytest.mark.parametrize("opset", [7, 11, 13])
def test_softmax(op: str, axis: int, opset: int) -> None:
    if axis >= 0 or opset > 7:
        check(NODE(op, ["x"], ["y"], axis=axis), opset=opset)


def test_softmax_of_a_global_pool_stays_one_op() -> None:
    assert ops(check(NODE("Softmax", ["x"], ["y"]), {"x": [1, 10, 1, 1]}, 7)) == ["Softmax"]


@pytest.mark.parametrize("opset", [7, 9, 14, 15])
def test_batch_normalization(opset: int) -> None:
    rng = np.random.default_rng(0)
    s, b, m, v = rng.random((4, 4), np.float32) + 0.5
    check(NODE("BatchNormalization", ["x", "s", "b", "m", "v"], ["y"], epsilon=1e-3), opset=opset, s=s, b=b, m=m, v=v)


def test_batch_normalization_in_training_mode() -> None:
    """By onnx.reference: ONNX Runtime refuses it for inference."""
    rng = np.random.default_rng(0)
    constants = {k: rng.uniform(0.5, 2, 4).astype(np.float32) for k in "sbmv"}
    node = NODE("BatchNormalization", ["x", "s", "b", "m", "v"], ["y", "m2", "v2"], training_mode=1, momentum=0.7)
    proto = model([node], IMAGE, ("y", "m2", "v2"), constants)
    feeds = feeds_for(proto)
    want = ReferenceEvaluator(proto).run(None, feeds)
    for got, expected in zip(evaluate(import_onnx(proto), feeds), want, strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-5, atol=1e-6)


def test_other_normalizations() -> None:
    rng = np.random.default_rng(0)
    s, b = rng.random((2, 4), np.float32)
    check(NODE("InstanceNormalization", ["x", "s", "b"], ["y"]), s=s, b=b)
    check(
        NODE("LayerNormalization", ["x", "g", "h"], ["y"], axis=-1),
        g=rng.random(9, np.float32),
        h=rng.random(9, np.float32),
    )
    check(NODE("LayerNormalization", ["x", "g"], ["y"], axis=2), g=rng.random((7, 9), np.float32))
    check(NODE("LRN", ["x"], ["y"], size=3))
    check(NODE("LpNormalization", ["x"], ["y"], axis=1, p=1))
    check(NODE("LpNormalization", ["x"], ["y"]))


# ---- windows ----


@pytest.mark.parametrize("op", ["GlobalAveragePool", "GlobalMaxPool"])
def test_global_pool(op: str) -> None:
    check(NODE(op, ["x"], ["y"]))


_WINDOWS: list[dict[str, Any]] = [
    {},
    {"strides": [2, 1]},
    {"pads": [1, 0, 1, 1]},
    {"pads": [1, 1, 1, 1], "strides": [2, 2], "ceil_mode": 1},
    {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    {"auto_pad": "SAME_LOWER"},
    {"auto_pad": "VALID", "strides": [2, 2]},
]


@pytest.mark.parametrize("attrs", _WINDOWS, ids=str)
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool"])
def test_pool(op: str, attrs: dict[str, Any]) -> None:
    check(NODE(op, ["x"], ["y"], kernel_shape=[3, 2], **attrs), opset=11)


def test_pool_variants() -> None:
    check(NODE("AveragePool", ["x"], ["y"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1))
    check(NODE("MaxPool", ["x"], ["y"], kernel_shape=[2, 2], dilations=[2, 3]))
    check(NODE("MaxPool", ["x"], ["y"], kernel_shape=[2, 2, 2]), {"x": [1, 2, 4, 5, 6]})
    check(NODE("MaxPool", ["x"], ["y", "unread"], kernel_shape=[2, 2]))
    check(NODE("MaxPool", ["x"], ["y", "i"], kernel_shape=[2, 2], pads=[1, 0, 0, 1]), outputs=("y", "i"))


_CONVS: list[dict[str, Any]] = [
    {},
    {"strides": [2, 1], "pads": [1, 2, 0, 1]},
    {"dilations": [2, 3]},
    {"auto_pad": "SAME_UPPER", "strides": [2, 2]},
    {"auto_pad": "SAME_LOWER", "strides": [2, 3]},
    {"auto_pad": "VALID"},
    {"kernel_shape": [3, 2]},
]


@pytest.mark.parametrize("attrs", _CONVS, ids=str)
@pytest.mark.parametrize("group", [1, 2, 4])
def test_conv(attrs: dict[str, Any], group: int) -> None:
    w = np.random.default_rng(1).standard_normal((8, 4 // group, 3, 2), np.float32)
    check(NODE("Conv", ["x", "w", "b"], ["y"], group=group, **attrs), opset=11, w=w, b=np.arange(8, dtype=np.float32))


def test_conv_of_other_ranks() -> None:
    rng = np.random.default_rng(1)
    check(NODE("Conv", ["x", "w"], ["y"], pads=[1, 1]), {"x": [2, 3, 9]}, w=rng.standard_normal((4, 3, 3), np.float32))
    check(NODE("Conv", ["x", "w"], ["y"]), {"x": [1, 2, 4, 5, 6]}, w=rng.standard_normal((3, 2, 2, 2, 2), np.float32))


_TRANSPOSED: list[dict[str, Any]] = [
    {},
    {"strides": [2, 3]},
    {"strides": [2, 2], "pads": [1, 0, 0, 1], "output_padding": [1, 0]},
    {"dilations": [2, 1]},
    {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
    {"strides": [3, 2], "auto_pad": "SAME_LOWER"},
    {"strides": [2, 2], "output_shape": [14, 18]},
]


@pytest.mark.parametrize("attrs", _TRANSPOSED, ids=str)
@pytest.mark.parametrize("group", [1, 2])
def test_conv_transpose(attrs: dict[str, Any], group: int) -> None:
    w = np.random.default_rng(1).standard_normal((4, 3, 3, 3), np.float32)
    check(NODE("ConvTranspose", ["x", "w"], ["y"], group=group, **attrs), opset=11, w=w)


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize(("alpha", "beta"), [(1.0, 1.0), (0.5, 2.0), (1.0, 0.0)])
def test_gemm(transposed: int, alpha: float, beta: float) -> None:
    rng = np.random.default_rng(1)
    b = rng.standard_normal((5, 4) if transposed else (4, 5), np.float32)
    attrs = {"alpha": alpha, "beta": beta, "transB": transposed}
    graph = check(NODE("Gemm", ["x", "b", "c"], ["y"], **attrs), MATRIX, b=b, c=rng.standard_normal(5, np.float32))
    assert ops(graph) == (["MatMul", "Add"] if beta else ["MatMul"])
    assert all(n.attrs.get("transB", 0) == 0 for n in graph.nodes)
    check(NODE("Gemm", ["x", "b", "c"], ["y"], **attrs), {"x": [3, 4], "b": list(b.shape), "c": [3, 1]})
    check(NODE("Gemm", ["x", "b"], ["y"], transA=1, **attrs), {"x": [4, 3], "b": list(b.shape)})


def test_matmul_and_einsum() -> None:
    check(NODE("MatMul", ["x", "z"], ["y"]), {"x": [2, 3, 4], "z": [4, 5]})
    check(NODE("MatMul", ["x", "z"], ["y"]), {"x": [4], "z": [2, 4, 5]})
    check(NODE("Einsum", ["x", "z"], ["y"], equation="bij,bjk->bik"), {"x": [2, 3, 4], "z": [2, 4, 5]})


# ---- values and shape arithmetic ----


def test_constants() -> None:
    nodes = [
        NODE("Constant", [], ["a"], value=onnx.numpy_helper.from_array(np.float32([1, 2, 3]))),
        NODE("Constant", [], ["b"], value_float=2.0),
        NODE("Constant", [], ["c"], value_floats=[3.0, 4.0, 5.0]),
        NODE("Sum", ["x", "a", "b", "c"], ["y"]),
    ]
    check(nodes, {"x": [3]})
    check([NODE("Constant", [], ["s"], value_ints=[3, 2]), NODE("Reshape", ["x", "s"], ["y"])], {"x": [2, 3]})


def test_constant_of_shape_and_range() -> None:
    value = helper.make_tensor("v", onnx.TensorProto.FLOAT, [1], [2.5])
    check(
        [NODE("ConstantOfShape", ["s"], ["c"], value=value), NODE("Add", ["x", "c"], ["y"])], MATRIX, s=np.array([3, 1])
    )
    check([NODE("ConstantOfShape", ["s"], ["c"]), NODE("Add", ["x", "c"], ["y"])], {"x": [1]}, s=np.array([300, 200]))
    check(
        [NODE("Range", ["a", "b", "d"], ["r"]), NODE("Add", ["x", "r"], ["y"])],
        {"x": [1]},
        a=np.float32(1),
        b=np.float32(2),
        d=np.float32(0.3),
    )


def test_a_huge_filled_tensor_takes_no_memory() -> None:
    proto = model(
        [NODE("ConstantOfShape", ["s"], ["c"]), NODE("Add", ["x", "c"], ["y"])],
        {"x": [1]},
        constants={"s": np.array([1 << 40])},
    )
    assert ops(import_onnx(proto)) == ["Expand", "Add"]


def test_huge_range_is_refused() -> None:
    constants = {"a": np.array(0), "b": np.array(1 << 60), "d": np.array(1)}
    proto = model(
        [NODE("Range", ["a", "b", "d"], ["r"]), NODE("Add", ["x", "r"], ["y"])],
        {"x": (np.int64, [1])},
        constants=constants,
    )
    with pytest.raises(UnsupportedError, match="too long"):
        import_onnx(proto)


def _flatten_by_shape() -> list[onnx.NodeProto]:
    """x.view(x.size(0), -1), as PyTorch exports it."""
    return [
        NODE("Shape", ["x"], ["shape"]),
        NODE("Gather", ["shape", "zero"], ["n"], axis=0),
        NODE("Unsqueeze", ["n", "axis"], ["n1"]),
        NODE("Concat", ["n1", "rest"], ["target"], axis=0),
        NODE("Reshape", ["x", "target"], ["y"]),
    ]


@pytest.mark.parametrize("batch", [2, "N"])
def test_shape_arithmetic_becomes_attributes(batch: int | str) -> None:
    graph = check(_flatten_by_shape(), {"x": [batch, 4, 7]}, zero=np.array(0), axis=np.array([0]), rest=np.array([-1]))
    assert ops(graph) == ["Reshape"]
    assert graph.outputs[0].type.shape == (Dim.symbol("N") if batch == "N" else 2, 28)


def test_symbolic_slices_and_windows() -> None:
    """Halving the height with Shape, Gather, Div and Slice."""
    nodes = [
        NODE("Shape", ["x"], ["s"]),
        NODE("Gather", ["s", "two"], ["h"]),
        NODE("Div", ["h", "two1"], ["half"]),
        NODE("Slice", ["x", "zero1", "half", "two1"], ["y"]),
    ]
    one = {"two": np.array([2]), "two1": np.array([2]), "zero1": np.array([0])}
    graph = check(nodes, {"x": [1, 3, "H", 4]}, sizes={"H": 7}, **one)
    assert ops(graph) == ["Slice"]


def test_interpolation_by_float_scale() -> None:
    """floor(float(shape) * 2), as PyTorch exports interpolate(scale_factor=2)."""
    nodes = [
        NODE("Shape", ["x"], ["s"]),
        NODE("Slice", ["s", "two", "four", "zero"], ["hw"]),
        NODE("Cast", ["hw"], ["f"], to=onnx.TensorProto.FLOAT),
        NODE("Mul", ["f", "k"], ["m"]),
        NODE("Floor", ["m"], ["g"]),
        NODE("Cast", ["g"], ["size"], to=onnx.TensorProto.INT64),
        NODE("Slice", ["s", "zero", "two", "zero"], ["nc"]),
        NODE("Concat", ["nc", "size"], ["sizes"], axis=0),
        NODE(
            "Resize", ["x", "", "", "sizes"], ["y"], coordinate_transformation_mode="asymmetric", nearest_mode="floor"
        ),
    ]
    one = {"two": np.array([2]), "four": np.array([4]), "zero": np.array([0])}
    for scale in (2.0, 1.5):
        graph = check(nodes, {"x": ["N", 3, "H", "W"]}, 13, sizes={"H": 6, "W": 5}, k=np.float32(scale), **one)
        assert ops(graph) == ["Resize"]


def test_expand_to_the_size_of_another_tensor() -> None:
    """Where(shape == -1, 1, shape), as PyTorch exports expand()."""
    nodes = [
        NODE("Shape", ["z"], ["s"]),
        NODE("Equal", ["s", "minus"], ["e"]),
        NODE("Where", ["e", "ones", "s"], ["t"]),
        NODE("Expand", ["x", "t"], ["y"]),
    ]
    constants = {"minus": np.array([-1, -1]), "ones": np.array([1, 1])}
    assert ops(check(nodes, {"x": [1, 4], "z": ["N", 4]}, **constants)) == ["Expand"]


def test_symbolic_range() -> None:
    nodes = [
        NODE("Shape", ["x"], ["s"]),
        NODE("Gather", ["s", "zero"], ["n"]),
        NODE("Range", ["zero", "n", "one"], ["r"]),
        NODE("Add", ["x", "r"], ["y"]),
    ]
    check(nodes, {"x": (np.int64, ["T"])}, sizes={"T": 5}, zero=np.array(0), one=np.array(1))


def test_data_dependent_shape_is_refused_by_name() -> None:
    proto = model([NODE("Reshape", ["x", "s"], ["y"], name="view")], {"x": [4], "s": (np.int64, [2])})
    with pytest.raises(UnsupportedError, match=r"data-dependent shape.*'s'.*'view'"):
        import_onnx(proto, dynamic=False)


def test_illegal_constant_operands() -> None:
    nodes = [NODE("Gather", ["c", "i"], ["s"], name="pick"), NODE("Reshape", ["x", "s"], ["y"])]
    with pytest.raises(TemperError, match="'pick'"):
        import_onnx(model(nodes, {"x": [4]}, constants={"c": np.array([4, 1]), "i": np.array([7])}))


def test_illegal_index_into_a_symbolic_shape() -> None:
    nodes = [
        NODE("Shape", ["x"], ["s"]),
        NODE("Gather", ["s", "i"], ["n"], name="pick"),
        NODE("Reshape", ["x", "n"], ["y"]),
    ]
    with pytest.raises(ShapeError, match="'pick'"):
        import_onnx(model(nodes, {"x": ["N", 3]}, constants={"i": np.array([7])}))


def test_empty_tensor_of_symbolic_shape() -> None:
    nodes = [NODE("Shape", ["x"], ["s"]), NODE("ConstantOfShape", ["s"], ["c"]), NODE("Add", ["x", "c"], ["y"])]
    assert import_onnx(model(nodes, {"x": ["N", 0]})).outputs[0].type.shape == (Dim.symbol("N"), 0)


# ---- names, control flow, functions ----


def test_names_of_values_and_dimensions() -> None:
    proto = model(
        [NODE("Relu", ["in 0"], ["out/0:0"], name="relu")], {"in 0": ["batch size", "lambda", None, "3d"]}, ("out/0:0",)
    )
    graph = import_onnx(proto)
    assert [str(d) for d in graph.inputs[0].type.shape] == ["batch_size", "lambda_", "in_0_2", "d3d"]
    assert graph.dim_names == {"batch_size": "batch size", "lambda_": "lambda", "in_0_2": "in 0_2", "d3d": "3d"}
    assert graph.nodes[0].output.name == "out/0:0" and graph.nodes[0].origin == ("relu",)


def test_dimensions_that_look_alike_stay_apart() -> None:
    graph = import_onnx(model([NODE("Relu", ["x"], ["y"])], {"x": ["a b", "a_b", "a b"]}))
    first, second, third = graph.inputs[0].type.shape
    assert first == third and first != second


def test_overrides() -> None:
    proto = model([NODE("Relu", ["x"], ["y"])], {"x": ["batch size", 3]})
    assert import_onnx(proto, dims={"batch size": 4}).outputs[0].type.shape == (4, 3)
    assert import_onnx(proto, shapes={"x": (5, 3)}).outputs[0].type.shape == (5, 3)
    assert import_onnx(proto, shapes={"x": ("n", "m")}).outputs[0].type.symbols == {"n", "m"}


def test_initializers_listed_as_inputs_are_constants() -> None:
    proto = model(
        [NODE("Add", ["x", "c"], ["y"])], {"x": [3], "c": [3]}, constants={"c": np.ones(3, np.float32)}, opset=7
    )
    assert [v.name for v in import_onnx(proto).inputs] == ["x"]


def test_outputs_that_pass_through() -> None:
    proto = model(
        [NODE("Identity", ["x"], ["y"]), NODE("Identity", ["c"], ["z"])],
        {"x": [2]},
        ("y", "z"),
        {"c": np.ones(2, np.float32)},
    )
    graph = import_onnx(proto)
    assert graph.output_names == ["y", "z"] and not graph.nodes
    assert_matches(proto)


def test_sparse_initializer() -> None:
    proto = model([NODE("Add", ["x", "s"], ["y"])], {"x": [2, 3]})
    values = helper.make_tensor("s", onnx.TensorProto.FLOAT, [2], [5.0, 7.0])
    proto.graph.sparse_initializer.append(
        helper.make_sparse_tensor(values, helper.make_tensor("i", onnx.TensorProto.INT64, [2], [1, 5]), [2, 3])
    )
    (y,) = evaluate(import_onnx(proto), {"x": np.zeros((2, 3), np.float32)})
    assert y.tolist() == [[0, 5, 0], [0, 0, 7]]


def _if(condition: str) -> onnx.NodeProto:
    def branch(op: str) -> onnx.GraphProto:
        return helper.make_graph(
            [NODE(op, ["x"], ["t"]), NODE("Add", ["t", "k"], ["r"])],
            op,
            [],
            [onnx.ValueInfoProto(name="r")],
            [onnx.numpy_helper.from_array(np.float32(2), "k")],
        )

    return NODE("If", [condition], ["y"], name="choice", then_branch=branch("Relu"), else_branch=branch("Neg"))


@pytest.mark.parametrize("value", [True, False])
def test_if_with_a_constant_condition(value: bool) -> None:
    proto = model([_if("c")], {"x": [3]}, constants={"c": np.array(value)})
    graph = import_onnx(proto)
    assert ops(graph) == ["Relu" if value else "Neg", "Add"]
    x = feeds_for(proto)["x"]
    np.testing.assert_array_equal(evaluate(graph, {"x": x})[0], (np.maximum(x, 0) if value else -x) + 2)


def test_if_on_a_shape() -> None:
    nodes = [
        NODE("Shape", ["x"], ["s"]),
        NODE("Size", ["s"], ["rank"]),
        NODE("Equal", ["rank", "one"], ["c"]),
        _if("c"),
    ]
    assert ops(import_onnx(model(nodes, {"x": ["N"]}, constants={"one": np.array(1)}))) == ["Relu", "Add"]


def test_if_on_data_computes_both_branches() -> None:
    graph = import_onnx(model([_if("c")], {"x": [3], "c": (np.bool_, [])}))
    assert ops(graph).count("Where") == 1
    x = np.float32([-1, 0, 2])
    for c in (True, False):
        (y,) = evaluate(graph, {"x": x, "c": np.array(c)})
        np.testing.assert_array_equal(y, (np.maximum(x, 0) if c else -x) + 2)


def test_functions_are_inlined() -> None:
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    scale = NODE("LeakyRelu", ["a"], ["h"], name="act")
    scale.attribute.append(onnx.AttributeProto(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT))
    inner = helper.make_function(
        "local", "Inner", ["a", "bias"], ["b"], [scale, NODE("Sum", ["h", "bias"], ["b"])], imports, ["slope"]
    )
    outer_node = NODE("Inner", ["p", "p"], ["q"], name="in", domain="local", slope=0.25)
    outer = helper.make_function("local", "Outer", ["p"], ["q"], [outer_node], imports)
    calls = [
        NODE("Outer", ["x"], ["m"], name="first", domain="local"),
        NODE("Outer", ["m"], ["y"], name="second", domain="local"),
    ]
    proto = model(calls, {"x": [5]}, opset_imports=imports, functions=[inner, outer])
    graph = import_onnx(proto)
    assert [n.name for n in graph.nodes] == ["first/in/act", "first/in/b", "second/in/act", "second/in/b"]
    assert graph.nodes[0].attrs["alpha"] == 0.25
    assert_matches(proto)


def test_operators_that_onnx_defines_by_others() -> None:
    check(NODE("MeanVarianceNormalization", ["x"], ["y"]), opset=13, relative=1e-4)
