"""Reads models to debug, whole, and makes inputs for them where none are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from temper.errors import ConfigError, ModelError


def read_model(path: Path) -> Any:
    """The ModelProto with its external data inside. ModelError if it cannot be read."""
    import onnx

    from temper.frontends.onnx.load import load_model

    model, folder, _ = load_model(path)
    try:
        onnx.load_external_data_for_model(model, str(folder))
    except (OSError, ValueError, onnx.checker.ValidationError) as e:
        raise ModelError(f"{path}: its external data cannot be read: {e}") from e
    return model


def _given_at_run_time(model: Any) -> list[Any]:
    stored = {t.name for t in model.graph.initializer} | {t.values.name for t in model.graph.sparse_initializer}
    return [v for v in model.graph.input if v.name not in stored]


def input_names(model: Any) -> list[str]:
    """Inputs without a value of their own, in order."""
    return [v.name for v in _given_at_run_time(model)]


def guessed(model: Any, shapes: Mapping[str, Sequence[int]], given: Mapping[str, np.ndarray]) -> list[str]:
    """Open dimensions, as "NAME[axis]" or their names, that `sampled` takes for 1."""
    inputs = _given_at_run_time(model)
    told = {v.name for v in inputs if v.name in given or v.name in shapes}
    known = {d.dim_param for v in inputs if v.name in told for d in v.type.tensor_type.shape.dim if d.dim_param}
    return list(
        dict.fromkeys(
            d.dim_param or f"{v.name}[{axis}]"
            for v in inputs
            if v.name not in told
            for axis, d in enumerate(v.type.tensor_type.shape.dim)
            if not d.dim_value and d.dim_param not in known
        )
    )


def sampled(
    model: Any, shapes: Mapping[str, Sequence[int]], seed: int, given: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Seeded arrays for the inputs that are not `given`: normal floats, integers 0 and 1; open dimensions are 1, or as
    in a given input. ConfigError for an input that cannot be made up."""
    import onnx

    unknown = set(shapes) - set(input_names(model))
    if unknown:
        raise ConfigError(
            f"there are no inputs {', '.join(sorted(unknown))}; there are {', '.join(input_names(model))}"
        )
    inputs = _given_at_run_time(model)
    open_: dict[str, int] = {}
    for v in inputs:
        known = given[v.name].shape if v.name in given else shapes.get(v.name, ())
        open_ |= {d.dim_param: n for d, n in zip(v.type.tensor_type.shape.dim, known, strict=False) if d.dim_param}
    rng = np.random.default_rng(seed)
    out: dict[str, np.ndarray] = {}
    for v in inputs:
        if v.name in given:
            continue
        if not v.type.HasField("tensor_type"):
            raise ConfigError(f"input '{v.name}' is not a tensor and cannot be made up")
        t = v.type.tensor_type
        shape = tuple(shapes.get(v.name) or (d.dim_value or open_.get(d.dim_param, 1) for d in t.shape.dim))
        dtype = onnx.helper.tensor_dtype_to_np_dtype(t.elem_type)
        if dtype.kind == "f":
            out[v.name] = rng.standard_normal(shape).astype(dtype)
        elif dtype.kind == "b":
            out[v.name] = rng.random(shape) < 0.5
        elif dtype.kind in "iu":
            out[v.name] = rng.integers(0, 2, shape).astype(dtype)
        else:
            raise ConfigError(f"input '{v.name}' of type {dtype} cannot be made up; give it as data")
    return out
