"""Small ONNX models for the frontend's tests, and the comparison of an import with ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from temper.frontends.onnx import import_onnx
from temper.ir.evaluate import evaluate

NODE, INPUT = helper.make_node, helper.make_tensor_value_info
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, Any],
    outputs: Sequence[str] = ("y",),
    constants: Mapping[str, np.ndarray] | None = None,
    opset: int = 17,
    **extra: Any,
) -> ModelProto:
    """A model; inputs: name -> shape (float32) or numpy dtype and shape."""
    declared = []
    for name, spec in inputs.items():
        dtype, shape = spec if isinstance(spec, tuple) and isinstance(spec[0], type) else (np.float32, spec)
        declared.append(INPUT(name, helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), shape))
    graph = helper.make_graph(
        list(nodes),
        "test",
        declared,
        [onnx.ValueInfoProto(name=o) for o in outputs],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in (constants or {}).items()],
    )
    opsets = extra.pop("opset_imports", [helper.make_opsetid("", opset)])
    return helper.make_model(graph, opset_imports=opsets, ir_version=8, **extra)


def feeds_for(proto: ModelProto, sizes: Mapping[str, int] | None = None, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs; symbolic dimensions take their size from `sizes`, or 2."""
    rng = np.random.default_rng(seed)
    constants = {t.name for t in proto.graph.initializer}
    out: dict[str, np.ndarray] = {}
    for i in proto.graph.input:
        if i.name in constants:
            continue
        t = i.type.tensor_type
        shape = [d.dim_value if d.HasField("dim_value") else (sizes or {}).get(d.dim_param, 2) for d in t.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(t.elem_type)
        if dtype == np.bool_:
            out[i.name] = rng.random(shape) < 0.5
        elif dtype.kind in "iu":
            out[i.name] = rng.integers(0, 5, shape).astype(dtype)
        else:
            out[i.name] = rng.standard_normal(shape).astype(dtype)
    return out


def run_reference(proto: ModelProto, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """ONNX Runtime without graph optimisation; onnx.reference where its version fails on a legal model."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    try:
        return list(session.run(None, dict(feeds)))
    except onnxruntime.capi.onnxruntime_pybind11_state.RuntimeException:
        return list(ReferenceEvaluator(proto).run(None, dict(feeds)))


def assert_matches(
    proto: ModelProto, sizes: Mapping[str, int] | None = None, relative: float = 1e-5, **options: Any
) -> None:
    """Importing and evaluating gives what ONNX Runtime gives."""
    feeds = feeds_for(proto, sizes)
    graph = import_onnx(proto, **options)
    compare(evaluate(graph, feeds), run_reference(proto, feeds), relative)


def compare(got: Sequence[np.ndarray], want: Sequence[np.ndarray], relative: float) -> None:
    assert len(got) == len(want)
    for g, w in zip(got, want, strict=True):
        assert g.shape == w.shape and g.dtype == w.dtype, f"{g.dtype}{g.shape} is not {w.dtype}{w.shape}"
        scale = float(np.abs(w[np.isfinite(w)]).max(initial=1e-30)) if w.dtype.kind == "f" and w.size else 0.0
        np.testing.assert_allclose(g, w, rtol=relative, atol=relative * scale)


def zoo() -> Path | None:
    """The folder of trained models, or None: TEMPER_ZOO, or shared/zoo beside the checkout."""
    given = os.environ.get("TEMPER_ZOO")
    folder = Path(given) if given else Path(__file__).resolve().parents[3] / "shared" / "zoo"
    return folder if (folder / "models").is_dir() else None
