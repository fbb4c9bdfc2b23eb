"""Image data of the digits example: training, calibration and held-out test images.

The source is scikit-learn's copy of the UCI handwritten digits (1797 images of 8x8, 17 grey levels). Every
base digit belongs to exactly one of three splits, so no digit that is scored was ever trained or calibrated on.
All images handed out are float32 [N, 1, 32, 32] in [0, 1]; labels are int64 [N], 0 to 9. They are what a sensor counts
before anything sets the exposure: a bright image reaches 1, a dark one of the same digit 1 / 2048.
"""

# scikit-learn and scipy.ndimage carry no type information.
# mypy: disable-error-code="import-untyped,import-not-found"

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

Images = NDArray[np.float32]
Labels = NDArray[np.int64]

SIDE = 32
CLASSES = 10
TEST_BASE = 540
CALIBRATION_BASE = 157
TEST_VARIANTS = 10
VALIDATION_VARIANTS = 10

_SPLIT_SEED = 20
_TEST_SEED = 101
_CALIBRATION_SEED = 202
_VALIDATION_SEED = 303


@dataclass(frozen=True)
class Perturbation:
    """Largest strength of each random change made to an image; every change is drawn independently.

    shift: pixels of the 32x32 image, uniform in [-shift, shift] on each axis.
    rotation: degrees, uniform in [-rotation, rotation].
    scale: relative size, uniform in [1 - scale, 1 + scale] on each axis.
    contrast: the ink is multiplied by a factor uniform in [1 - contrast, 1].
    noise: standard deviation of the additive Gaussian noise, itself uniform in [0, noise], in units of full ink.
    exposure: stops; everything is multiplied by 2**-u in the end, u uniform in [0, exposure].
    """

    shift: float
    rotation: float
    scale: float
    contrast: float
    noise: float
    exposure: float


# What the classifier meets in use: strong enough, judged on validation images, that a little under one in a hundred
# is misread, so that a loss of precision shows. Light varies as between shade and sun, within what a 12-bit raw image
# holds. Calibration and validation images are drawn the way test images are.
IN_USE = Perturbation(shift=3.0, rotation=15.0, scale=0.0, contrast=0.0, noise=0.50, exposure=11.0)


def perturb(images: Images, strength: Perturbation, rng: np.random.Generator) -> Images:
    """Return a changed copy of every image; float32 [N, 1, 32, 32] in [0, 1] in and out.

    Draws are made image by image, so the first k results depend on the first k images only.
    """
    out = np.empty_like(images)
    centre = np.full(2, (SIDE - 1) / 2)
    for index, image in enumerate(images[:, 0]):
        angle = np.deg2rad(rng.uniform(-strength.rotation, strength.rotation))
        size = rng.uniform(1 - strength.scale, 1 + strength.scale, size=2)
        shift = rng.uniform(-strength.shift, strength.shift, size=2)
        contrast = rng.uniform(1 - strength.contrast, 1)
        noise = rng.uniform(0, strength.noise)
        light = 2 ** -rng.uniform(0, strength.exposure)
        cos, sin = np.cos(angle), np.sin(angle)
        # affine_transform wants the map from output pixels back to input pixels, hence the division by size.
        back = np.array([[cos, -sin], [sin, cos]]) / size[:, None]
        moved = ndimage.affine_transform(image, back, offset=centre - back @ (centre + shift), order=1)
        out[index, 0] = light * np.clip(contrast * moved + noise * rng.standard_normal(image.shape), 0, 1)
    return out


@cache
def _base() -> tuple[Images, Labels]:
    """All 1797 digits upscaled to 32x32, unperturbed, in scikit-learn's order."""
    raw, labels = load_digits(return_X_y=True)
    small = raw.reshape(-1, 8, 8) / 16.0
    # grid_mode treats pixels as areas, so the picture is neither shifted nor cropped by the upscaling.
    large = ndimage.zoom(small, (1, SIDE / 8, SIDE / 8), order=3, mode="grid-constant", grid_mode=True)
    # Cubic interpolation overshoots at strokes; ink below 0 or above 1 means nothing.
    images = np.clip(large, 0, 1).astype(np.float32)[:, None]
    return images, labels.astype(np.int64)


@cache
def split() -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Indices of the base digits in (train, calibration, test); disjoint, stratified by class, fixed."""
    _, labels = _base()
    rest, test = train_test_split(
        np.arange(len(labels)), test_size=TEST_BASE, stratify=labels, random_state=_SPLIT_SEED
    )
    train, calibration = train_test_split(
        rest, test_size=CALIBRATION_BASE, stratify=labels[rest], random_state=_SPLIT_SEED
    )
    return train, calibration, test


def _variants(indices: NDArray[np.intp], count: int, seed: int) -> tuple[Images, Labels]:
    """The first `count` images of an endless cycle through `indices`, each time newly perturbed as in use."""
    images, labels = _base()
    chosen = np.resize(indices, count)
    return perturb(images[chosen], IN_USE, np.random.default_rng(seed)), labels[chosen]


def train_images() -> tuple[Images, Labels]:
    """The 1100 training digits, unperturbed: float32 [1100, 1, 32, 32] and int64 [1100]."""
    images, labels = _base()
    train, _, _ = split()
    return images[train], labels[train]


def calibration_images(n: int) -> Images:
    """`n` images for choosing quantization ranges, float32 [n, 1, 32, 32], perturbed as in use.

    The 157 calibration digits repeat, with other perturbations, when `n` is larger. A smaller `n` gives a prefix.
    """
    _, calibration, _ = split()
    return _variants(calibration, n, _CALIBRATION_SEED)[0]


def validation_images() -> tuple[Images, Labels]:
    """Labelled images for decisions about training and the data; float32 [1570, 1, 32, 32], int64 [1570].

    They show the calibration digits, so that nothing is ever decided by looking at test digits.
    """
    _, calibration, _ = split()
    return _variants(calibration, VALIDATION_VARIANTS * CALIBRATION_BASE, _VALIDATION_SEED)


def test_images() -> tuple[Images, Labels]:
    """The test set: 540 held-out digits in 10 perturbations each; float32 [5400, 1, 32, 32], int64 [5400]."""
    _, _, test = split()
    return _variants(test, TEST_VARIANTS * TEST_BASE, _TEST_SEED)
