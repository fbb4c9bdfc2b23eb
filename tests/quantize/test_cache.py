"""TensorRT's calibration cache: what NVIDIA's sample shows, round trips, damage."""

from __future__ import annotations

import numpy as np
import pytest

from temper.errors import DataError
from temper.quantize.cache import CalibrationCache, from_text, to_text


def test_sample_of_tensorrt() -> None:
    cache = from_text("TRT-7000-EntropyCalibration2\ndata: 3c008912\nconv1: 3c88edfc\n")
    assert (cache.version, cache.algorithm) == ("7000", "EntropyCalibration2")
    assert cache.amax["data"] == pytest.approx(127 * np.frombuffer(bytes.fromhex("3c008912"), ">f4")[0])
    assert to_text(cache) == "TRT-7000-EntropyCalibration2\ndata: 3c008912\nconv1: 3c88edfc\n"


def test_names_with_colons_and_spaces() -> None:
    cache = CalibrationCache({"(Unnamed Layer* 4) [Fully Connected]_output": 1.5, "a: b": 2.0, "x/y:0": 0.0})
    again = from_text(to_text(cache))
    assert list(again.amax) == list(cache.amax)
    for name, amax in cache.amax.items():
        assert again.amax[name] == pytest.approx(amax, rel=1e-6)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "first line"),
        ("data: 3c008912\n", "first line"),
        ("TRT-8600-X\ndata 3c008912\n", "line 2"),
        ("TRT-8600-X\ndata: 3c0089\n", "line 2"),
        ("TRT-8600-X\na: 3c008912\ndata: zz008912\n", "line 3"),
        ("TRT-8600-X\ndata: 7fc00000\n", "'data' has a scale of nan"),
        ("TRT-8600-X\ndata: 00000001\n", "'data' has a scale of 1.4013e-45: too small"),
        ("TRT-8600-X\ndata: 3c008912\ndata: 3c008912\n", "twice"),
    ],
)
def test_damage(text: str, says: str) -> None:
    with pytest.raises(DataError, match=says):
        from_text(text)


def test_unwritable_scale() -> None:
    with pytest.raises(DataError, match="'x'"):
        to_text(CalibrationCache({"x": float("inf")}))
