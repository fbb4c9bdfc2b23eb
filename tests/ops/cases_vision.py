# ruff: noqa: E731 (a case is a name and the function that makes its operands)
"""Cases of transforms, columns to images, deformable convolution and pooling of regions."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from temper.ir.opdef import AttrValue
from tests.ops.case import Arrays, Case, Rng, floats, weights


def _transforms() -> Iterator[Case]:
    for length in (1, 2, 7, 12, 16, 30):
        for name, parts, more in (
            ("real", 1, {}),
            ("half", 1, {"onesided": 1}),
            ("complex", 2, {}),
            ("inverse", 2, {"inverse": 1}),
        ):
            attrs: dict[str, AttrValue] = {"axis": 1, "length": length, **more}
            make = lambda rng, n=length, c=parts: [floats(rng, (2, n, 3, c))]
            yield Case(f"DFT_{name}_{length}", "DFT", attrs, make)
    for name, length in (("cut", 5), ("filled", 11)):
        yield Case(f"DFT_{name}", "DFT", {"axis": -2, "length": length}, lambda rng: [floats(rng, (3, 8, 2))])
    yield Case("DFT_float64", "DFT", {"axis": 0, "length": 9}, lambda rng: [floats(rng, (9, 2, 1), "float64")])
    for length, bins in ((8, 5), (7, 4), (10, 5)):
        attrs = {"axis": 1, "length": length, "inverse": 1, "onesided": 1}
        yield Case(f"DFT_back_to_real_{length}", "DFT", attrs, lambda rng, n=bins: [floats(rng, (2, n, 2))])
    for shape in ((2, 2), (3, 5, 5), (2, 3, 1, 1), (2, 0, 0)):
        yield Case(f"Det_{'x'.join(map(str, shape))}", "Det", {}, lambda rng, s=shape: [floats(rng, s)])
    yield Case("Det_singular", "Det", {}, lambda rng: [np.array([[1, 2], [2, 4]], np.float32)])


_WINDOWS: dict[str, tuple[tuple[int, ...], tuple[int, ...], dict[str, tuple[int, ...]]]] = {
    "1d": ((9,), (3,), {"strides": (2,), "pads": (1, 1)}),
    "plain": ((5, 6), (2, 3), {}),
    "strided": ((7, 8), (3, 2), {"strides": (2, 3), "pads": (1, 0, 1, 1)}),
    "dilated": ((7, 6), (2, 2), {"dilations": (2, 3), "pads": (0, 1, 0, 1)}),
    "3d": ((4, 4, 5), (2, 1, 3), {"strides": (1, 2, 1)}),
}


def _columns() -> Iterator[Case]:
    for name, (image, block, given) in _WINDOWS.items():
        r = len(image)
        window = {"strides": (1,) * r, "pads": (0,) * (2 * r), "dilations": (1,) * r, **given}
        s, p, d = window["strides"], window["pads"], window["dilations"]
        count, each = 1, math.prod(block)
        for a in range(r):
            count *= (image[a] + p[a] + p[r + a] - d[a] * (block[a] - 1) - 1) // s[a] + 1
        make = lambda rng, k=each, n=count: [floats(rng, (2, 3 * k, n))]
        yield Case(f"Col2Im_{name}", "Col2Im", {**window, "image_shape": image, "block_shape": block}, make)


def _deformable() -> Iterator[Case]:
    def case(
        name: str,
        size: tuple[int, int],
        out: tuple[int, int],
        kernel: tuple[int, int] = (3, 3),
        group: int = 1,
        shifted: int = 1,
        extras: str = "",
        **given: tuple[int, ...],
    ) -> Case:
        attrs: dict[str, AttrValue] = {"strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1), **given}
        taps = kernel[0] * kernel[1]

        def make(rng: Rng) -> Arrays:
            x, w = floats(rng, (2, 4, *size)), weights(rng, (6, 4 // group, *kernel), taps * 4 // group)
            arrays: Arrays = [x, w, floats(rng, (2, shifted * taps * 2, *out), low=-1.5, high=1.5)]
            if extras.strip("w"):
                arrays.append(floats(rng, (6,)) if "b" in extras else None)
            if "m" in extras:
                arrays.append(floats(rng, (2, shifted * taps, *out), low=0, high=1))
            return arrays

        attrs |= {"group": group, "offset_group": shifted}
        return Case(f"DeformConv_{name}", "DeformConv", attrs, make, (1,) if "w" in extras else ())

    yield case("plain", (5, 6), (3, 4), extras="w")
    yield case("weights_are_data", (4, 4), (2, 2), group=2, extras="m")
    yield case("padded", (5, 6), (5, 6), pads=(1, 1, 1, 1), extras="b")
    yield case("strided", (7, 6), (3, 3), (3, 2), strides=(2, 2), pads=(0, 0, 0, 1), extras="wbm")
    yield case("dilated", (7, 7), (3, 3), dilations=(2, 2), extras="m")
    yield case("grouped", (5, 5), (4, 4), (2, 2), group=2, shifted=2, extras="wb")


def _regions() -> Iterator[Case]:
    boxes = np.array(
        [[0, 0, 9, 7], [1.5, 2.25, 6.75, 5], [4, 1, 4.5, 1.25], [-3, -2, 4, 3], [8, 6, 14, 12]], np.float32
    )
    batch = np.array([0, 1, 1, 0, 1], np.int64)
    for mode in ("avg", "max"):
        for corners in ("half_pixel", "output_half_pixel"):
            for ratio in (0, 2):
                attrs: dict[str, AttrValue] = {
                    "mode": mode,
                    "coordinate_transformation_mode": corners,
                    "sampling_ratio": ratio,
                    "output_height": 3,
                    "output_width": 2,
                    "spatial_scale": 0.75,
                }
                make = lambda rng: [floats(rng, (2, 3, 8, 10)), boxes.copy(), batch.copy()]
                yield Case(f"RoiAlign_{mode}_{corners}_{ratio}", "RoiAlign", attrs, make)
    rois = np.concatenate([batch[:, None].astype(np.float32), boxes], 1)
    for scale in (1.0, 0.5):
        attrs = {"pooled_shape": (2, 3), "spatial_scale": scale}
        yield Case(f"MaxRoiPool_{scale}", "MaxRoiPool", attrs, lambda rng: [floats(rng, (2, 3, 8, 10)), rois.copy()])


def cases() -> Iterator[Case]:
    yield from _transforms()
    yield from _columns()
    yield from _deformable()
    yield from _regions()
