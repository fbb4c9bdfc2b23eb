"""The digits example: its pictures are what they are said to be, and safe INT8 keeps what naive INT8 loses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import temper
from examples.digits import data
from examples.digits.score import MODEL_PATH, accuracy


def test_pictures_vary_in_light_and_splits_are_disjoint() -> None:
    train, calibration, test = data.split()
    assert len({*train, *calibration, *test}) == len(train) + len(calibration) + len(test)
    brightest = data.calibration_images(200).max(axis=(1, 2, 3))
    assert brightest.max() <= 1 and brightest.min() > 0
    assert brightest.max() / brightest.min() > 2**8


def test_a_prefix_of_the_calibration_pictures_is_the_same_pictures() -> None:
    np.testing.assert_array_equal(data.calibration_images(5), data.calibration_images(9)[:5])


@pytest.fixture(scope="module")
def scored() -> tuple[np.ndarray, np.ndarray]:
    x, y = data.validation_images()
    return x[:400], y[:400]


def test_int8_without_the_cliff(scored: tuple[np.ndarray, np.ndarray], timing_cache: Path, tmp_path: Path) -> None:
    """By outputs on held-back pictures alone, without any label."""
    calibration = [image[None] for image in data.calibration_images(80)]
    common = {"threads": 1, "effort": 0, "cache": timing_cache, "work": tmp_path}
    int8 = {**common, "precision": "int8", "calibration": calibration}
    fp32 = accuracy(temper.build(MODEL_PATH, threads=1, effort=0, cache=timing_cache), *scored, batch=1)
    naive = accuracy(temper.build(MODEL_PATH, **int8, calibrator="minmax", pure_int8=True), *scored, batch=1)
    safe = temper.build(MODEL_PATH, **int8)
    assert fp32 > 0.98
    assert naive < 0.85
    assert accuracy(safe, *scored, batch=1) >= fp32 - 0.005
    kept = safe.report["int8"]
    assert {"/features/features.0/Conv", "/features/features.2/body/body.0/Conv"} <= {k["name"] for k in kept["kept"]}
    assert kept["int8"] > 0  # how many more are faster in float is for the machine to say
