"""Tensors keep the source model's names through the passes, and caches are written and read by these names."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from temper.frontends.onnx import import_onnx
from temper.frontends.onnx.inputs import tensor_names
from temper.ir.graph import Graph
from temper.ir.ops import make
from temper.ir.types import TensorType
from temper.passes.manager import run_passes
from temper.passes.pipeline import PIPELINE
from temper.quantize.cache import CalibrationCache, from_text, to_text
from temper.quantize.calibrate import instrumented
from temper.quantize.histogram import from_vector
from temper.quantize.placement import place, quantizable
from temper.quantize.source_names import from_cache, source_names, to_cache
from temper.reference import run as reference


def test_names_go_over_to_what_replaces_a_tensor() -> None:
    g = Graph("names")
    x = g.add_input("x", TensorType("float32", (1, 3, 4, 5)))
    old = make(g, "Relu", [x], {}, name="old").output
    old.known_as(("relu_out",))
    g.set_outputs([make(g, "Sigmoid", [old], {}, name="y").output])
    inner = make(g, "Relu", [make(g, "Transpose", [x], {"perm": (0, 2, 3, 1)}).output], {}, name="inner").output
    g.replace_uses(old, make(g, "Transpose", [inner], {"perm": (0, 3, 1, 2)}).output)
    assert inner.sources == ("relu_out",), "a view's names are those of what it is a view of"
    assert x.sources == ()
    copied = next(v for v in g.copy().values if v.name == inner.name)
    assert copied.sources == ("relu_out",)


def model() -> onnx.ModelProto:
    """Conv, BatchNormalization, HardSwish written out, two heads over a Reshape and a Transpose; and an Identity."""
    rng = np.random.default_rng(3)

    def weights(name: str, *shape: int) -> onnx.TensorProto:
        return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32) + (name == "var") * 4, name)

    nodes = [
        helper.make_node("Conv", ["image", "w"], ["conv"], pads=[1] * 4),
        helper.make_node("BatchNormalization", ["conv", "gamma", "beta", "mean", "var"], ["bn"]),
        helper.make_node("HardSigmoid", ["bn"], ["gate"], alpha=1 / 6, beta=0.5),
        helper.make_node("Mul", ["bn", "gate"], ["swish"]),
        helper.make_node("Identity", ["swish"], ["same"]),
        helper.make_node("Conv", ["same", "w2"], ["second"]),
        helper.make_node("Relu", ["second"], ["relu"]),
        helper.make_node("Transpose", ["relu"], ["last"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["last", "shape"], ["rows"]),
        helper.make_node("MatMul", ["rows", "w3"], ["scores"]),
    ]
    tensors = [
        weights("w", 8, 3, 3, 3),
        *(weights(n, 8) for n in ("gamma", "beta", "mean")),
        numpy_helper.from_array(np.abs(rng.standard_normal(8)).astype(np.float32) + 1, "var"),
        weights("w2", 6, 8, 1, 1),
        numpy_helper.from_array(np.array([1, 25, 6], np.int64), "shape"),
        weights("w3", 6, 4),
    ]
    graph = helper.make_graph(
        nodes,
        "named",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [1, 3, 5, 5])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [1, 25, 4])],
        tensors,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def prepared() -> tuple[Graph, list[str]]:
    graph = import_onnx(model())
    run_passes(graph, PIPELINE[: [p.name for p in PIPELINE].index("integer")])
    placement = place(graph, [n for n in graph.nodes if quantizable(n) is None])
    return graph, [t for g in placement.groups for t in g.tensors]


def values_of(graph: Graph, x: np.ndarray) -> list[np.ndarray]:
    values = {v.id: v.const for v in graph.constants} | {v.id: x for v in graph.inputs}
    for node in graph.nodes:
        arrays = [None if v is None else values[v.id] for v in node.inputs]
        kinds = [None if v is None else v.type.dtype for v in node.inputs]
        made = reference(node.op, arrays, node.attrs, kinds, [o.type.dtype for o in node.outputs])
        values |= {o.id: a for o, a in zip(node.outputs, made, strict=True)}
    return [np.asarray(values[v.id]) for v in graph.outputs]


def test_every_calibrated_tensor_is_what_the_model_calls_so() -> None:
    """The histogram of a tensor is that of the source model's tensor of each of its names."""
    graph, tensors = prepared()
    names = source_names(graph, tensors)
    assert {frozenset(n) for n in names.values()} == {
        frozenset({"image"}),
        frozenset({"swish", "same"}),
        frozenset({"relu", "last", "rows"}),
    }
    x = np.random.default_rng(0).standard_normal((1, 3, 5, 5)).astype(np.float32)
    plain = import_onnx(model())
    for tensor, vector in zip(tensors, values_of(instrumented(graph, tensors), x), strict=True):
        found = from_vector(vector)
        for name in names[tensor]:
            told = plain.copy()
            told.set_outputs([next(v for v in told.values if name in v.sources)])
            (want,) = values_of(told, x)
            assert found.total == want.size
            assert found.low == pytest.approx(want.min(), rel=1e-4, abs=1e-5)
            assert found.high == pytest.approx(want.max(), rel=1e-4, abs=1e-5)


def test_a_cache_lists_the_models_names() -> None:
    graph, tensors = prepared()
    text = to_text(to_cache(graph, {t: 2.0 + i for i, t in enumerate(tensors)}, "percentile:99.99"))
    assert text.startswith("TRT-8600-LegacyCalibration\nimage: ")
    cache = from_text(text)
    assert set(cache.amax) <= tensor_names(model())
    taken = from_cache(cache, graph, tensors, tensor_names(model()))
    assert taken.amax == {t: pytest.approx(2.0 + i) for i, t in enumerate(tensors)}
    assert (taken.missing, taken.unused, taken.foreign) == ({}, (), ())
    assert taken.complaint("a.cache") is None


def test_a_cache_as_tensorrt_writes_it() -> None:
    """One entry a tensor of the network, whether it carries codes here or not; one name of an alias is enough."""
    graph, tensors = prepared()
    every = dict.fromkeys(tensor_names(model()) - {"swish", "relu", "rows"}, 1.0)
    taken = from_cache(CalibrationCache(every), graph, tensors, tensor_names(model()))
    assert set(taken.amax) == set(tensors)
    assert {"conv", "bn", "gate", "second", "scores"} <= set(taken.unused) and not taken.foreign


def test_a_cache_of_another_model() -> None:
    graph, tensors = prepared()
    taken = from_cache(CalibrationCache({"image": 1.0, "elsewhere": 2.0}), graph, tensors, tensor_names(model()))
    assert set(taken.amax) == {"image"} and taken.foreign == ("elsewhere",)
    complaint = taken.complaint("old.cache")
    assert complaint is not None
    assert "old.cache has no entry for 2 of 3 tensors: " in complaint and "elsewhere" in complaint
