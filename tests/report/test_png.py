"""Pictures of samples, read back with Pillow."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image

from temper.report.png import SIDE, picture


def decoded(uri: str) -> np.ndarray:
    head, data = uri.split(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))))


@pytest.mark.parametrize("shape", [(12, 16), (1, 12, 16), (12, 16, 1), (1, 1, 12, 16), (3, 12, 16), (12, 16, 3)])
def test_layouts(shape: tuple[int, ...]) -> None:
    sample = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    found = decoded(picture(sample))
    expected = np.squeeze(sample) if 3 not in shape else sample if shape[-1] == 3 else sample.transpose(1, 2, 0)
    scaled = (expected - expected.min()) / (expected.max() - expected.min()) * 255
    assert found.shape == scaled.shape
    np.testing.assert_allclose(found, scaled, atol=0.51)


def test_large_pictures_shrink() -> None:
    ramp = np.linspace(0, 1, 1000)[None].repeat(500, 0)
    found = decoded(picture(ramp))
    assert max(found.shape) <= SIDE and (np.diff(found[0].astype(int)) >= 0).all()


def test_one_grey_is_black() -> None:
    assert not decoded(picture(np.full((8, 8), 7))).any()


@pytest.mark.parametrize("sample", [np.zeros(10), np.zeros((4, 8, 8)), np.zeros((2, 300)), np.full((8, 8), np.nan)])
def test_what_is_no_picture(sample: np.ndarray) -> None:
    assert picture(sample) == ""
