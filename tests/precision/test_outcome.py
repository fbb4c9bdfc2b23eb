"""An outcome survives JSON, and JSON that is not an outcome is refused with the field's name."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest

from temper.errors import DataError
from temper.precision import outcome as o


def full() -> o.Outcome:
    """Every field that can hold something holds something."""
    return o.Outcome(
        temper="0.1.0",
        when="2026-11-21T08:00:00Z",
        model=o.Source("a<b>.onnx", "00ff", "ONNX"),
        data=o.Data(o.Source("images/", "11aa"), 384, 128),
        machine=o.Machine("cpu", "avx512vnni", 2, "Linux", "3.11.7", {"numpy": "2.3.0"}),
        budget=o.Budget("metric", 0.003, "top1", "expected changes"),
        met=True,
        verdict="within the budget",
        points=(
            o.Point("FP32", "float", 0, 2, ms=3.0, metric=0.9, divergence=0.0),
            o.Point("naive", "naive", 2, 2, ms=1.0, metric=0.8, divergence=math.inf),
            o.Point("chosen", "chosen", 1, 2, 1.5, 1.4, 0.01, 0.9, 100, ("conv2",), ("bias correction",)),
        ),
        config={"max_drop": 0.003, "keep": ["/head/*"], "nested": {"a": [1, None]}},
        config_digest="22bb",
        steps=(o.Step("bias correction", True, "lower divergence", 0.2, 0.1, 0.8, 0.85, 1.0, 1.1, "noise"),),
        sites=(o.Site("conv1", "Conv", "1x8x4x4", "int8", "cheap", sqnr=math.inf, clip_rate=0.0, origin=("n0", "n1")),),
        tensors=(o.Tensor("x", 1.5, False, "auto", 0.0, 2.0, (10.0, 0.5), 3, {"minmax": 2.0}, {"minmax": 0.1}),),
        heads=(o.Head("scores", "all INT8", 0.01, 0.002, 0.01, 1e-4, 3e-3, 1, 96), o.Head("boxes", "chosen", 0.02)),
        audit=o.Audit(384, 1, 0, {"bad.png": "truncated"}, (o.Finding("split half", "warning", "narrow", ("x",)),),
                      {"x": o.TensorAudit(0.1, None)}),
        warnings=("few samples",),
        answers=o.Answers("held back", True, (1, 2), (1, 3), (0, 2), (1, 2), (0.5, 0.1), ("zero", "one"), ("a", "b"),
                          {1: "data:image/png;base64,AA=="}),
        work=o.Work(7.5, 12.0, {"calibrate": 1.25}),
    )


def test_round_trip_through_text() -> None:
    text = json.dumps(full().to_json(), allow_nan=False)
    assert o.Outcome.from_json(json.loads(text)) == full()


def test_every_field_is_in_the_full_example() -> None:
    """Otherwise the round trip would not cover it."""

    def empty(value: Any, path: str) -> list[str]:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return [e for f in dataclasses.fields(value) for e in empty(getattr(value, f.name), f"{path}.{f.name}")]
        if isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
            return [] if path.endswith(("points", "sites")) else empty(value[0], path)
        return [path] if value in ((), {}, "", None) else []

    assert set(empty(full(), "")) <= {".data.source.about"}


def test_numpy_scalars_become_numbers() -> None:
    point = o.Point("p", "tried", np.int64(3), np.int32(4), ms=np.float32(0.5))  # type: ignore[arg-type]
    data = dataclasses.replace(full(), points=(point,)).to_json()
    assert json.loads(json.dumps(data))["points"][0]["ms"] == 0.5


def test_nan_survives() -> None:
    data = dataclasses.replace(full(), budget=o.Budget("divergence", math.nan)).to_json()
    assert math.isnan(o.Outcome.from_json(data).budget.bound or 0.0)


def test_unknown_fields_are_ignored() -> None:
    assert o.Outcome.from_json({**full().to_json(), "later": 1}) == full()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 99}, "schema 99"),
        ({"met": "yes"}, "met: expected bool"),
        ({"points": [{"label": "x"}]}, r"points\[0\].kind is missing"),
        ({"points": {}}, "points: expected an array"),
        ({"tensors": [{"name": "t", "amax": "big"}]}, r"tensors\[0\].amax: expected float"),
        ({"answers": {**full().to_json()["answers"], "images": {"one": ""}}}, "'one' is not a whole number"),
    ],
)
def test_what_is_wrong_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        o.Outcome.from_json({**full().to_json(), **change})


def test_not_an_object() -> None:
    with pytest.raises(DataError, match="expected an object"):
        o.Outcome.from_json([])  # type: ignore[arg-type]
