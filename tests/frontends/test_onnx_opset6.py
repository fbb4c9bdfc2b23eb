"""Operator set 6, whose binary ops broadcast by attributes and whose normalisations have a training switch."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from temper.errors import ShapeError, UnsupportedError
from temper.frontends.onnx import import_onnx
from temper.ir.evaluate import evaluate

rng = np.random.default_rng(0)


def run(op: str, arrays: list[np.ndarray], **attrs: Any) -> np.ndarray:
    names = [f"i{k}" for k in range(len(arrays))]
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape) for n, a in zip(names, arrays, strict=True)]
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, arrays[0].shape)
    graph = helper.make_graph([helper.make_node(op, names, ["y"], **attrs)], "g", infos, [result])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 6)])
    assert isinstance(model, onnx.ModelProto)
    return evaluate(import_onnx(model), dict(zip(names, arrays, strict=True)))[0]


def test_axis_says_where_the_second_operand_stands() -> None:
    x, b = rng.standard_normal((2, 3, 4, 5), np.float32), rng.standard_normal((3, 4), np.float32)
    np.testing.assert_array_equal(run("Add", [x, b], broadcast=1, axis=1), x + b[:, :, None])
    np.testing.assert_array_equal(run("Mul", [x, b[0]], broadcast=1, axis=-2), x * b[0][:, None])
    np.testing.assert_array_equal(run("Sub", [x, b[:1, :1]], broadcast=1), x - b[0, 0])
    with pytest.raises(ShapeError, match="beyond"):
        run("Div", [x, b], broadcast=1, axis=3)


def test_slopes_by_channel() -> None:
    x, slope = rng.standard_normal((2, 3, 4), np.float32), np.float32([0.1, 0.2, 0.3])
    np.testing.assert_array_equal(run("PRelu", [x, slope]), np.where(x < 0, x * slope[:, None], x))


def test_training_forms_are_refused() -> None:
    x, v = rng.standard_normal((2, 3, 4, 4), np.float32), np.ones(3, np.float32)
    assert run("BatchNormalization", [x, v, v, v, v], is_test=1).shape == x.shape
    assert np.array_equal(run("Dropout", [x], is_test=1), x)
    for op, arrays in (("BatchNormalization", [x, v, v, v, v]), ("Dropout", [x])):
        with pytest.raises(UnsupportedError, match="training"):
            run(op, arrays)
