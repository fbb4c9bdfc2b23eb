"""The backend interface: sizes and shapes taken from the arrays, devices, single nodes, wrong inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from temper import onnx_backend as backend
from temper.config import BuildConfig
from temper.errors import InputError, UnsupportedError


@pytest.fixture
def config(tmp_path: Path) -> BuildConfig:
    return BuildConfig(threads=1, effort=0, cache=tmp_path / "times.sqlite")


def _model(nodes: list[onnx.NodeProto], inputs: list[tuple[str, int, list[object]]], output: str) -> onnx.ModelProto:
    infos = [helper.make_tensor_value_info(n, t, s) for n, t, s in inputs]
    graph = helper.make_graph(nodes, "g", infos, [helper.make_tensor_value_info(output, TensorProto.FLOAT, None)])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)])
    if not model.graph.output[0].type.tensor_type.HasField("shape"):
        model.graph.output[0].type.tensor_type.shape.dim.add(dim_param="any")
    return model


def test_open_dimensions_take_the_sizes_given(config: BuildConfig) -> None:
    model = _model([helper.make_node("Relu", ["x"], ["y"])], [("x", TensorProto.FLOAT, ["n", 3])], "y")
    rep = backend.prepare(model, config=config)
    for n in (2, 5):
        x = np.linspace(-1, 1, n * 3, dtype=np.float32).reshape(n, 3)
        (y,) = rep.run([x])
        np.testing.assert_array_equal(y, np.maximum(x, 0))


def test_an_input_that_describes_a_shape_is_fixed_by_value(config: BuildConfig) -> None:
    nodes = [helper.make_node("Neg", ["x"], ["n"]), helper.make_node("Reshape", ["n", "s"], ["y"])]
    model = _model(nodes, [("x", TensorProto.FLOAT, [6]), ("s", TensorProto.INT64, [2])], "y")
    rep = backend.prepare(model, config=config)
    x = np.arange(6, dtype=np.float32)
    for shape in ([2, 3], [3, -1]):
        (y,) = rep.run({"x": x, "s": np.array(shape)})
        np.testing.assert_array_equal(y, -x.reshape(shape))
        assert rep.last is not None and list(rep.last.fixed) == ["s"] and not rep.last.host_steps
    first = rep.last
    (y,) = rep.run([x + 1, np.array([2, 3])])
    np.testing.assert_array_equal(y, -(x + 1).reshape(2, 3))
    assert rep.last is not first
    rep.run([x, np.array([3, -1])])
    assert rep.last is first


def test_results_have_names(config: BuildConfig) -> None:
    model = _model([helper.make_node("Abs", ["x"], ["y"])], [("x", TensorProto.FLOAT, [1])], "y")
    result = backend.run_model(model, [np.array([-2], np.float32)], config=config)
    assert result["y"] == 2


def test_one_node(config: BuildConfig) -> None:
    a, b = np.float32([1, 2]), np.float32([3, 5])
    (y,) = backend.run_node(helper.make_node("Sub", ["b", "a"], ["y"]), [b, a], config=config)
    np.testing.assert_array_equal(y, [2, 3])
    with pytest.raises(InputError, match="1 inputs given"):
        backend.run_node(helper.make_node("Sub", ["b", "a"], ["y"]), [b], config=config)


def test_devices() -> None:
    assert backend.supports_device("CPU") and not backend.supports_device("CUDA")
    model = _model([helper.make_node("Abs", ["x"], ["y"])], [("x", TensorProto.FLOAT, [1])], "y")
    with pytest.raises(InputError, match="CUDA"):
        backend.prepare(model, "CUDA")


def test_what_is_not_supported_is_said(config: BuildConfig) -> None:
    node = helper.make_node("Frobnicate", ["x"], ["y"], domain="com.example")
    model = _model([node], [("x", TensorProto.UINT8, [8])], "y")
    model.opset_import.append(helper.make_opsetid("com.example", 1))
    assert not backend.is_compatible(model)
    with pytest.raises(UnsupportedError, match="Frobnicate"):
        backend.prepare(model, config=config).run([np.zeros(8, np.uint8)])
    model = _model([helper.make_node("Abs", ["x"], ["y"])], [("x", TensorProto.FLOAT, [1])], "y")
    assert backend.is_compatible(model)
    with pytest.raises(InputError, match="2 inputs"):
        backend.prepare(model, config=config).run([np.zeros(1, np.float32)] * 2)
