"""Resampling ops: output elements are weighted means of a few input elements, or copies of the nearest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import cast

import numpy as np

from temper.errors import ShapeError
from temper.ir.dims import DimLike
from temper.ir.opdef import Attrs, AttrSpec, OpDef, Tolerance
from temper.ir.ops import rules
from temper.ir.ops.movement import movement_op
from temper.ir.ops.rules import FLOATS, NUMBERS, Types, allow, default, dims, need
from temper.ir.types import TensorType


def scaled(size: DimLike, scale: float) -> DimLike:
    """floor(size * scale), the scale read as the simplest fraction that is the same float32."""
    if isinstance(size, int):
        return math.floor(np.float32(size) * np.float32(scale))
    for most in (1, 16, 256, 4096):
        f = Fraction(float(scale)).limit_denominator(most)
        if np.float32(f.numerator / f.denominator) == np.float32(scale):
            return (size * f.numerator) // f.denominator
    raise ShapeError(
        f"the symbolic size {size} times {scale} is not an expression of integers; give sizes instead of scales"
    )


_RESIZE: dict[str, AttrSpec] = {
    "sizes": AttrSpec(tuple),
    "scales": AttrSpec(tuple),
    "roi": AttrSpec(tuple),
    "mode": default("nearest"),
    "coordinate_transformation_mode": default("half_pixel"),
    "nearest_mode": default("round_prefer_floor"),
    "cubic_coeff_a": default(-0.75),
    "exclude_outside": default(0),
    "extrapolation_value": default(0.0),
    "antialias": default(0),
    "channels_last": default(0),
}
_TRANSFORMS = (
    "half_pixel",
    "half_pixel_symmetric",
    "pytorch_half_pixel",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
    "tf_crop_and_resize",
)


def _resize(types: Types, attrs: Attrs) -> list[TensorType]:
    x = allow(need(types, 0), NUMBERS)
    if "sizes" not in attrs and "scales" not in attrs:
        raise ShapeError("needs sizes or scales, for every axis")
    if attrs["mode"] not in ("nearest", "linear", "cubic"):
        raise ShapeError(f"mode {attrs['mode']!r} does not exist")
    if attrs["nearest_mode"] not in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"):
        raise ShapeError(f"nearest_mode {attrs['nearest_mode']!r} does not exist")
    if attrs["coordinate_transformation_mode"] not in _TRANSFORMS:
        raise ShapeError(f"coordinate_transformation_mode {attrs['coordinate_transformation_mode']!r} does not exist")
    if "sizes" in attrs:
        shape = dims(attrs, "sizes")
    else:
        scales = cast("tuple[float, ...]", attrs["scales"])
        if min(scales, default=1.0) <= 0:
            raise ShapeError(f"scales {scales} must be positive")
        shape = tuple(scaled(d, s) for d, s in zip(x.shape, scales, strict=len(scales) == x.rank))
    if len(shape) != x.rank or ("roi" in attrs and len(cast("tuple[float, ...]", attrs["roi"])) != 2 * x.rank):
        raise ShapeError(f"sizes or scales, and roi, must cover every axis of {x}")
    return [TensorType(x.dtype, shape)]


def _resize_cost(inputs: Types, outputs: Sequence[TensorType], attrs: Attrs) -> DimLike:
    taps = {"nearest": 0, "linear": 2, "cubic": 4}[rules.text(attrs, "mode")]
    resized = sum(a != b for a, b in zip(need(inputs, 0).shape, outputs[0].shape, strict=True))
    return outputs[0].count * (2 * taps * resized)


def _grid_sample(types: Types, attrs: Attrs) -> list[TensorType]:
    x, grid = allow(need(types, 0), FLOATS), allow(need(types, 1), FLOATS, "grid")
    if x.rank not in (4, 5) or grid.rank != x.rank or grid.shape[-1] != x.rank - 2:
        raise ShapeError(f"data {x} needs a grid of the same rank whose last axis is {x.rank - 2}, not {grid}")
    rules.equal_or_raise(x.shape[0], grid.shape[0], "batch of the data and the grid")
    if 0 in x.shape[2:]:
        raise ShapeError(f"{x} has nothing to sample")
    if attrs["mode"] not in ("linear", "nearest", "cubic") or attrs["padding_mode"] not in (
        "zeros",
        "border",
        "reflection",
    ):
        raise ShapeError(f"mode {attrs['mode']!r} with padding_mode {attrs['padding_mode']!r} does not exist")
    return [TensorType(x.dtype, (*x.shape[:2], *grid.shape[1:-1]))]


OPS: tuple[OpDef, ...] = (
    movement_op("Resize", 1, _resize, _RESIZE, cost=_resize_cost, tolerance=Tolerance(relative=8.0)),
    movement_op(
        "GridSample",
        2,
        _grid_sample,
        {"mode": default("linear"), "padding_mode": default("zeros"), "align_corners": default(0)},
        cost=rules.per_element(16),
        tolerance=Tolerance(relative=16.0),
    ),
)
