"""Transforms, ops of detection networks and those written out of parts, against ONNX Runtime and onnx.reference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from temper.errors import ShapeError, UnsupportedError
from temper.frontends.onnx import import_onnx
from temper.ir.evaluate import evaluate
from temper.ir.graph import Graph
from tests.frontends.models import NODE, feeds_for, model


def check(
    node: onnx.NodeProto,
    inputs: Mapping[str, Any],
    opset: int = 20,
    outputs: Sequence[str] = ("y",),
    tolerance: float = 2e-5,
    **constants: Any,
) -> Graph:
    """The import of the node gives what onnx.reference gives; returns the imported graph."""
    proto = model([node], inputs, outputs, {k: np.asarray(v) for k, v in constants.items()}, opset)
    graph, feeds = import_onnx(proto), feeds_for(proto, {})
    for got, want in zip(evaluate(graph, feeds), ReferenceEvaluator(proto).run(None, feeds), strict=True):
        assert got.dtype == want.dtype and got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * max(1.0, np.abs(want).max(initial=0)))
    return graph


@pytest.mark.parametrize("onesided", [0, 1])
def test_dft(onesided: int) -> None:
    signal = {"x": [2, 10, 1]}
    check(NODE("DFT", ["x"], ["y"], onesided=onesided), signal, 17)
    check(NODE("DFT", ["x", "n"], ["y"], onesided=onesided, axis=1), signal, 19, n=np.int64(7))
    check(NODE("DFT", ["x", "n", "a"], ["y"], onesided=onesided), {"x": [10, 2, 1]}, n=np.int64(12), a=np.int64(0))
    check(NODE("DFT", ["x"], ["y"], inverse=1), {"x": [2, 9, 2]})


def test_dft_along_the_parts_is_refused() -> None:
    with pytest.raises(ShapeError, match="real and imaginary"):
        check(NODE("DFT", ["x", "", "a"], ["y"]), {"x": [4, 2]}, a=np.int64(-1))
    with pytest.raises(UnsupportedError, match="symbolic size"):
        import_onnx(model([NODE("DFT", ["x"], ["y"])], {"x": [1, "n", 1]}, ("y",), {}, 20))


@pytest.mark.parametrize("onesided", [0, 1])
def test_stft(onesided: int) -> None:
    signal, window = {"x": [2, 40, 1]}, np.hanning(16).astype(np.float32)
    check(NODE("STFT", ["x", "s", "w"], ["y"], onesided=onesided), signal, s=np.int64(6), w=window)
    node = NODE("STFT", ["x", "s", "", "n"], ["y"], onesided=onesided)
    check(node, signal, s=np.int64(8), n=np.int64(10))
    with pytest.raises(ShapeError, match="no frames"):
        check(node, signal, s=np.int64(8), n=np.int64(41))


def test_mel_weight_matrix_is_a_constant() -> None:
    values = {"n": np.int64(8), "d": np.int64(64), "r": np.int64(8192), "lo": np.float32(0), "hi": np.float32(4096)}
    graph = check(NODE("MelWeightMatrix", list(values), ["y"]), {}, 17, **values)
    assert not graph.nodes
    with pytest.raises(ShapeError, match="leave the"):
        check(NODE("MelWeightMatrix", list(values), ["y"]), {}, 17, **{**values, "hi": np.float32(9e4)})


def test_max_unpool() -> None:
    index = np.array([[[[5, 7], [13, 15]]], [[[16, 19], [26, 31]]]], np.int64)
    attrs = {"kernel_shape": [2, 2], "strides": [2, 2]}
    check(NODE("MaxUnpool", ["x", "i"], ["y"], **attrs), {"x": [2, 1, 2, 2]}, 11, i=index)
    check(NODE("MaxUnpool", ["x", "i", "s"], ["y"], **attrs), {"x": [2, 1, 2, 2]}, 11, i=index, s=[2, 1, 5, 6])


@pytest.mark.parametrize("mode", ["linear", "circular"])
def test_tensor_scatter(mode: str) -> None:
    shapes = {"x": [2, 3, 6, 4], "u": [2, 3, 2, 4]}
    check(NODE("TensorScatter", ["x", "u"], ["y"], mode=mode), shapes, 24)
    starts = np.array([1, 5 if mode == "circular" else 4], np.int64)
    check(NODE("TensorScatter", ["x", "u", "s"], ["y"], mode=mode), shapes, 24, s=starts)
    check(
        NODE("TensorScatter", ["x", "u", "s"], ["y"], mode=mode, axis=1), {"x": [2, 4, 5], "u": [2, 1, 5]}, 24, s=[3, 0]
    )


def test_scatter_is_scatter_elements() -> None:
    index = np.array([[1, 0, 2], [0, 2, 1]], np.int64)
    graph = import_onnx(
        model([NODE("Scatter", ["x", "i", "u"], ["y"])], {"x": [3, 3], "u": [2, 3]}, ("y",), {"i": index}, 10)
    )
    assert [n.op for n in graph.nodes] == ["ScatterElements"]


def test_batch_normalization_in_training() -> None:
    rng = np.random.default_rng(0)
    vectors = {n: rng.uniform(0.5, 2, 3).astype(np.float32) for n in ("s", "b", "m", "v")}
    node = NODE("BatchNormalization", ["x", *vectors], ["y", "mean", "var"], training_mode=1, momentum=0.7)
    check(node, {"x": [4, 3, 5, 6]}, 15, ("y", "mean", "var"), **vectors)


@pytest.mark.parametrize("policy", ["not_larger", "not_smaller"])
@pytest.mark.parametrize("sizes", [(7, 8), (3, 4), (11, 3)])
def test_resize_that_keeps_the_aspect_ratio(policy: str, sizes: tuple[int, int]) -> None:
    node = NODE("Resize", ["x", "", "", "s"], ["y"], keep_aspect_ratio_policy=policy, axes=[2, 3], mode="linear")
    check(node, {"x": [1, 2, 4, 6]}, 19, s=np.array(sizes, np.int64))


def test_regions_before_half_pixels() -> None:
    rois = np.array([[1.5, 1, 6, 7]], np.float32)
    node = NODE("RoiAlign", ["x", "r", "b"], ["y"], output_height=2, output_width=3, sampling_ratio=2)
    old, new = (
        import_onnx(model([node], {"x": [1, 2, 8, 8]}, ("y",), {"r": rois, "b": np.array([0])}, v)) for v in (10, 16)
    )
    assert old.nodes[0].attrs["coordinate_transformation_mode"] == "output_half_pixel"
    assert new.nodes[0].attrs["coordinate_transformation_mode"] == "half_pixel"


def test_columns_of_a_symbolic_batch() -> None:
    node = NODE("Col2Im", ["x", "i", "k"], ["y"], pads=[0, 1, 0, 1])
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 12, 20])
    graph = helper.make_graph(
        [node],
        "g",
        [info],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.array(a, np.int64), n) for n, a in (("i", [5, 5]), ("k", [2, 3]))],
    )
    found = import_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)]))
    assert [str(d) for d in found.outputs[0].type.shape] == ["N", "2", "5", "5"]
