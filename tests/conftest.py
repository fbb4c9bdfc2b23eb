"""What several folders of tests share: a small trained-looking ONNX model, a timing cache of the tests' own, and the
fixtures of commands."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from temper.builder import float_graph
from temper.config import BuildConfig
from temper.quantize.placement import sites_of
from temper.quantize.recipe import Recipe
from tests.commands import batched, image, plan, spawned, temper

# before anything is imported that starts processes: they verify too
os.environ.setdefault("TEMPER_VERIFY", "1")

__all__ = ["batched", "image", "plan", "spawned", "temper"]


def small_model(batch: int | str = 1, blocks: int = 2, channels: int = 16, size: int = 12) -> onnx.ModelProto:
    """Residual convolution blocks of growing width and a classifier of ten: image [batch, 3, size, size] -> scores."""
    rng = np.random.default_rng(7)
    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def constant(name: str, *shape: int) -> str:
        scale = 1 / np.sqrt(max(1, np.prod(shape[1:])))
        weights.append(numpy_helper.from_array((rng.standard_normal(shape) * scale).astype(np.float32), name))
        return name

    def node(op: str, inputs: list[str], output: str, **attrs: object) -> str:
        nodes.append(helper.make_node(op, inputs, [output], name=output, **attrs))
        return output

    x, width = "image", 3
    for b in range(blocks):
        out = channels * (b + 1)
        first = node(
            "Conv", [x, constant(f"w{b}a", out, width, 3, 3), constant(f"b{b}a", out)], f"conv{b}a", pads=[1] * 4
        )
        first = node("Relu", [first], f"relu{b}a")
        second = node("Conv", [first, constant(f"w{b}b", out, out, 1, 1)], f"conv{b}b")
        x, width = node("Relu", [node("Add", [second, first], f"add{b}")], f"relu{b}b"), out
    x = node("Flatten", [node("GlobalAveragePool", [x], "pool")], "flat")
    node("Gemm", [x, constant("wf", 10, width), constant("bf", 10)], "scores", transB=1)
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, size, size])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, 10])],
        weights,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def all_integer(model: bytes, config: BuildConfig) -> Recipe:
    """Everything in INT8, by thresholds that any data would do for."""
    graph = float_graph(model, config)
    amax = {v.name: 3.0 for v in graph.values if v.const is None and v.type.dtype == "float32"}
    return Recipe(frozenset(s.name for s in sites_of(graph)), amax)


@pytest.fixture(scope="session")
def timing_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A timing cache shared by the tests of this process, and by nothing else."""
    return tmp_path_factory.mktemp("timing") / "timing.sqlite"


@pytest.fixture(scope="session")
def small_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model with batch 1."""
    path = tmp_path_factory.mktemp("models") / "small.onnx"
    onnx.save(small_model(), path)
    return path


@pytest.fixture(scope="session")
def dynamic_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The small model with an open batch N."""
    path = tmp_path_factory.mktemp("models") / "dynamic.onnx"
    onnx.save(small_model("N"), path)
    return path
