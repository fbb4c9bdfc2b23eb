"""Resize and GridSample: where an output sample lies in the input, and the weights of its neighbours.

Coordinates are float32, as ONNX Runtime computes them, so that ties of nearest-neighbour fall the same way;
`nearest_index` and `axis_weights` are the tables that compiled kernels bake in.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from temper.reference.numeric import Arrays, Attrs, present

_ONE, _HALF = np.float32(1.0), np.float32(0.5)
#: a scaled length this little above a whole number is that number
_WHOLE = np.float32(1e-3)


def source_coordinates(
    size: int, out: int, scale: float, mode: str, roi: tuple[float, float] = (0.0, 1.0)
) -> np.ndarray:
    """Position in the input axis of every output sample: float32 [out]. mode: ONNX's coordinate_transformation_mode."""
    x, s = np.arange(out, dtype=np.float32), np.float32(scale)
    if mode == "half_pixel" or (mode == "pytorch_half_pixel" and out > 1):
        return (x + _HALF) / s - _HALF
    if mode == "pytorch_half_pixel":
        return np.zeros(out, np.float32)
    if mode == "half_pixel_symmetric":
        adjustment = np.float32(out) / (s * np.float32(size))
        offset = np.float32(size) / np.float32(2) * (_ONE - adjustment)
        return offset + ((x + _HALF) / s - _HALF)
    if mode == "align_corners":
        # the corners are those of the length that the scale asks for, of which `out` is the whole part
        asked = s * np.float32(size)
        length = asked if asked - np.float32(out) > _WHOLE else np.float32(out)
        return x * np.float32(size - 1) / (length - _ONE) if out > 1 else np.zeros(out, np.float32)
    if mode == "asymmetric":
        return x / s
    if mode == "tf_half_pixel_for_nn":
        return (x + _HALF) / s
    if mode == "tf_crop_and_resize":
        start, end = np.float32(roi[0]), np.float32(roi[1])
        if out > 1:
            return start * np.float32(size - 1) + x * (end - start) * np.float32(size - 1) / np.float32(out - 1)
        return np.full(out, _HALF * (start + end) * np.float32(size - 1), np.float32)
    raise ValueError(f"coordinate_transformation_mode {mode!r} does not exist")


def nearest_index(x: np.ndarray, size: int, mode: str) -> np.ndarray:
    """Index of the input element that each coordinate takes: int64, inside [0, size). mode: ONNX's nearest_mode."""
    at = x.astype(np.float64)
    if mode.startswith("round"):
        # ONNX Runtime takes what lies within 1e-6 of a tie as the tie
        tie = np.floor(at) + 0.5
        at = np.where(np.abs(at - tie) < 1e-6, tie, at)
    if mode == "round_prefer_floor":
        index = np.ceil(at - 0.5)
    elif mode == "round_prefer_ceil":
        index = np.floor(at + 0.5)
    elif mode in ("floor", "ceil"):
        index = np.floor(at) if mode == "floor" else np.ceil(at)
    else:
        raise ValueError(f"nearest_mode {mode!r} does not exist")
    return np.clip(index, 0, size - 1).astype(np.int64)


def _triangle(d: np.ndarray) -> np.ndarray:
    return np.maximum(0.0, 1.0 - np.abs(d))


def cubic_kernel(d: np.ndarray, a: float) -> np.ndarray:
    """Keys' cubic convolution kernel at distance d."""
    d = np.abs(d)
    near = ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0
    far = ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a
    return np.where(d <= 1.0, near, np.where(d < 2.0, far, 0.0))


def axis_weights(
    x: np.ndarray,
    size: int,
    scale: float,
    mode: str,
    cubic_coeff_a: float = -0.75,
    antialias: int = 0,
    exclude_outside: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """(index int64 [out, taps], weight float64 [out, taps]) of linear or cubic interpolation along one axis.

    Indices outside the input are clamped; with exclude_outside their weight is 0 and the rest is rescaled.
    """
    position = x.astype(np.float64)
    stretch = max(1.0, 1.0 / scale) if antialias else 1.0
    reach = (1.0 if mode == "linear" else 2.0) * stretch
    taps = 2 * math.ceil(reach)
    index = np.floor(position).astype(np.int64)[:, None] + np.arange(taps) - (taps // 2 - 1)
    distance = (index - position[:, None]) / stretch
    weight = _triangle(distance) if mode == "linear" else cubic_kernel(distance, cubic_coeff_a)
    if exclude_outside:
        weight = np.where((index >= 0) & (index < size), weight, 0.0)
    if exclude_outside or antialias:
        weight = weight / weight.sum(axis=1, keepdims=True)
    return np.clip(index, 0, size - 1), weight


def output_sizes(shape: Sequence[int], attrs: Attrs) -> tuple[list[int], list[float]]:
    """(sizes, scales) of every axis: as given, or one derived from the other."""
    if attrs.get("sizes") is not None and attrs.get("scales") is not None:
        return list(attrs["sizes"]), [float(s) for s in attrs["scales"]]
    if attrs.get("sizes") is not None:
        return list(attrs["sizes"]), [o / d if d else 1.0 for o, d in zip(attrs["sizes"], shape, strict=True)]
    scales = [float(s) for s in attrs["scales"]]
    return [math.floor(np.float32(d) * np.float32(s)) for d, s in zip(shape, scales, strict=True)], scales


def resize(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    """Every axis whose size or scale changes is interpolated on its own, in float64; the result is rounded once."""
    (x,) = present(arrays)
    sizes, scales = output_sizes(x.shape, attrs)
    mode, transform = attrs.get("mode", "nearest"), attrs.get("coordinate_transformation_mode", "half_pixel")
    roi = attrs.get("roi") or (0.0,) * x.ndim + (1.0,) * x.ndim
    out = x if mode == "nearest" else x.astype(np.float64)
    outside = np.zeros(sizes, bool)
    for axis in range(x.ndim):
        crop = (float(roi[axis]), float(roi[x.ndim + axis]))
        size = x.shape[axis]
        if sizes[axis] == size and scales[axis] == 1.0 and (transform != "tf_crop_and_resize" or crop == (0.0, 1.0)):
            continue
        at = source_coordinates(size, sizes[axis], scales[axis], transform, crop)
        if transform == "tf_crop_and_resize":
            beyond = (at < 0) | (at > size - 1)
            outside |= beyond.reshape([-1 if a == axis else 1 for a in range(x.ndim)])
        if mode == "nearest":
            out = np.take(out, nearest_index(at, size, attrs.get("nearest_mode", "round_prefer_floor")), axis=axis)
            continue
        index, weight = axis_weights(
            at,
            size,
            scales[axis],
            mode,
            attrs.get("cubic_coeff_a", -0.75),
            attrs.get("antialias", 0),
            attrs.get("exclude_outside", 0),
        )
        shape = [-1 if a == axis else 1 for a in range(x.ndim)]
        total = np.zeros([*out.shape[:axis], sizes[axis], *out.shape[axis + 1 :]])
        for tap in range(index.shape[1]):
            total += np.take(out, index[:, tap], axis=axis) * weight[:, tap].reshape(shape)
        out = total
    if transform == "tf_crop_and_resize":
        out = np.where(outside, attrs.get("extrapolation_value", 0.0), out)
    if x.dtype.kind in "iu" and out.dtype.kind == "f":
        info = np.iinfo(x.dtype)
        out = np.clip(np.trunc(out), info.min, info.max)
    return [np.ascontiguousarray(out.astype(x.dtype, copy=False))]


def _reflect(x: np.ndarray, low: float, high: float) -> np.ndarray:
    span = high - low
    if span == 0:
        return np.full_like(x, low)
    folded = np.mod(np.abs(x - low), 2 * span)
    return np.where(folded > span, 2 * span - folded, folded) + low


def _place(grid: np.ndarray, size: int, align_corners: int) -> np.ndarray:
    """Normalised [-1, 1] coordinates to pixel positions."""
    return (grid + 1) / 2 * (size - 1) if align_corners else ((grid + 1) * size - 1) / 2


def grid_sample(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    """ONNX GridSample on [N, C, spatial..] data with a [N, out.., rank] grid whose last axis is (x, y[, z])."""
    x, grid = present(arrays)
    mode, padding, align = (
        attrs.get("mode", "linear"),
        attrs.get("padding_mode", "zeros"),
        attrs.get("align_corners", 0),
    )
    rank, spatial = x.ndim - 2, x.shape[2:]
    data = x.astype(np.float64)
    index: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    for axis in range(rank):
        size = spatial[axis]
        low, high = (0.0, size - 1.0) if align else (-0.5, size - 0.5)
        at = _place(grid[..., rank - 1 - axis].astype(np.float64), size, align)
        if mode != "cubic":
            at = (
                np.clip(at, 0, size - 1)
                if padding == "border"
                else _reflect(at, low, high)
                if padding == "reflection"
                else at
            )
        if mode == "nearest":
            index.append(np.rint(at)[..., None].astype(np.int64))
            weights.append(np.ones((*at.shape, 1)))
        else:
            taps = 2 if mode == "linear" else 4
            base = np.floor(at)
            near = base[..., None] + np.arange(taps) - (taps // 2 - 1)
            distance = near - at[..., None]
            weights.append(_triangle(distance) if mode == "linear" else cubic_kernel(distance, -0.75))
            if mode == "cubic" and padding == "reflection":
                near = _reflect(near, low, high)
            index.append(np.rint(near).astype(np.int64))
    out = np.zeros((x.shape[0], x.shape[1], *grid.shape[1:-1]))
    batch = np.arange(x.shape[0]).reshape(-1, *(1,) * rank)
    for tap in np.ndindex(*(i.shape[-1] for i in index)):
        at_tap = [index[a][..., tap[a]] for a in range(rank)]
        weight = math.prod((weights[a][..., tap[a]] for a in range(rank)), start=np.ones(()))
        if padding == "zeros":
            inside = np.ones(grid.shape[:-1], bool)
            for a in range(rank):
                inside &= (at_tap[a] >= 0) & (at_tap[a] < spatial[a])
            weight = np.where(inside, weight, 0.0)
        clipped = [np.clip(at_tap[a], 0, spatial[a] - 1) for a in range(rank)]
        taken = np.moveaxis(data[(batch, slice(None), *clipped)], -1, 1)
        out += np.where(weight[:, None] != 0, taken * weight[:, None], 0.0)
    return [out.astype(x.dtype)]
