"""Plans for the tests of the GPU's launch layer, compiled once a session."""

from __future__ import annotations

import importlib.util

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from temper.builder import build_plan
from temper.config import BuildConfig, Profile
from temper.plan.format import Plan

#: one block's worth of two kernels between input and outputs
NODES = (
    helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1], name="first"),
    helper.make_node("Relu", ["a"], ["b"], name="relu"),
    helper.make_node("GlobalAveragePool", ["b"], ["y"], name="mean"),
)


@pytest.fixture(scope="session")
def native_plan() -> Plan:
    """x [N, 4, 5, 5] -> y [N, 8, 1, 1], for a batch of at most 4, of kernels only."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("triton is not installed: no GPU kernel can be compiled")
    w = np.random.default_rng(5).standard_normal((8, 4, 3, 3), np.float32)
    graph = helper.make_graph(
        list(NODES),
        "native",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 4, 5, 5))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", 8, 1, 1))],
        [numpy_helper.from_array(w, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    config = BuildConfig(device="cuda:sm_90", effort=0, profiles=(Profile.of(N=(1, 2, 4)),))
    return build_plan(model.SerializeToString(), config).plan
