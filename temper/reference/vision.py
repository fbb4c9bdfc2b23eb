"""References of ops of detection and flow networks: columns to images, deformable convolution, pooling of regions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from types import MappingProxyType
from typing import Any

import numpy as np

from temper.reference.numeric import Arrays, Attrs, ReferenceFn, present


def _behind(*index: int | slice) -> Any:
    """An index of the axes after the first two."""
    return (slice(None), slice(None), *index)


def _col2im(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    """[N, C block.., windows] -> [N, C, image..]: every element is added where its window covers the image."""
    (x,) = present(arrays)
    image, block = tuple(attrs["image_shape"]), tuple(attrs["block_shape"])
    rank, strides, dilations, pads = len(image), attrs["strides"], attrs["dilations"], attrs["pads"]
    n, channels = x.shape[0], x.shape[1] // math.prod(block)
    counts = [
        (image[a] + pads[a] + pads[rank + a] - dilations[a] * (block[a] - 1) - 1) // strides[a] + 1 for a in range(rank)
    ]
    data = x.astype(np.float64).reshape(n, channels, *block, *counts)
    reach = [
        max(image[a] + pads[a], (counts[a] - 1) * strides[a] + dilations[a] * (block[a] - 1) + 1) for a in range(rank)
    ]
    out = np.zeros((n, channels, *reach))
    for at in product(*map(range, block)):
        where = tuple(
            slice(at[a] * dilations[a], at[a] * dilations[a] + (counts[a] - 1) * strides[a] + 1, strides[a])
            for a in range(rank)
        )
        out[_behind(*where)] += data[_behind(*at)]
    inside = tuple(slice(pads[a], pads[a] + image[a]) for a in range(rank))
    return [np.ascontiguousarray(out[_behind(*inside)]).astype(x.dtype)]


def _between(x: np.ndarray, at: Sequence[np.ndarray]) -> np.ndarray:
    """Linear interpolation of [N, G, C, spatial..] at positions [N, G, out..] an axis; 0 outside: [N, G, C, out..]."""
    rank, spatial = len(at), x.shape[3:]
    total = np.zeros((*x.shape[:3], *at[0].shape[2:]))
    lead = np.ogrid[: x.shape[0], : x.shape[1]]
    n, g = (v.reshape(v.shape + (1,) * rank) for v in lead)
    for corner in product((0, 1), repeat=rank):
        weight = np.ones(at[0].shape)
        index = []
        for a in range(rank):
            low = np.floor(at[a])
            fraction = at[a] - low
            i = low + corner[a]
            inside = (i >= 0) & (i < spatial[a])
            weight = weight * np.where(inside, fraction if corner[a] else 1 - fraction, 0.0)
            index.append(np.where(inside, i, 0).astype(np.int64))
        taken = x.transpose(0, 1, *range(3, 3 + rank), 2)[(n, g, *index)]
        total += np.moveaxis(np.where(weight[..., None] != 0, taken * weight[..., None], 0.0), -1, 2)
    return total


def _deform_conv(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    """Convolution whose taps are moved by `offset` and scaled by `mask` (arXiv 1703.06211 and 1811.11168)."""
    x, w, offset = present(arrays[:3])
    bias = arrays[3] if len(arrays) > 3 else None
    mask = arrays[4] if len(arrays) > 4 else None
    rank, kernel, shifted = x.ndim - 2, w.shape[2:], attrs["offset_group"]
    n, channels, out = x.shape[0], x.shape[1], offset.shape[2:]
    moves = offset.astype(np.float64).reshape(n, shifted, *kernel, rank, *out)
    scales = None if mask is None else mask.astype(np.float64).reshape(n, shifted, *kernel, *out)
    data = x.astype(np.float64).reshape(n, shifted, channels // shifted, *x.shape[2:])
    group, taps = attrs["group"], w.astype(np.float64)
    y = np.zeros((n, group, w.shape[0] // group, *out))
    for at in product(*map(range, kernel)):
        places = []
        for a in range(rank):
            base = np.arange(out[a]) * attrs["strides"][a] - attrs["pads"][a] + at[a] * attrs["dilations"][a]
            places.append(moves[_behind(*at, a)] + base.reshape([-1 if b == a else 1 for b in range(rank)]))
        seen = _between(data, places)
        if scales is not None:
            seen = seen * scales[_behind(*at)][:, :, None]
        columns = seen.reshape(n, group, channels // group, -1)
        tap = taps[_behind(*at)].reshape(group, -1, channels // group)
        y += np.matmul(tap, columns).reshape(y.shape)
    y = y.reshape(n, w.shape[0], *out)
    if bias is not None:
        y = y + bias.astype(np.float64).reshape(-1, *(1,) * rank)
    return [y.astype(x.dtype)]


def _samples(
    start: float, bin_size: float, grid: int, size: int, pooled: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(low index, high index, weight of the high one) of pooled * grid positions along an axis; NaN weight outside."""
    at = start + np.arange(pooled)[:, None] * bin_size + (np.arange(grid) + 0.5) * bin_size / max(grid, 1)
    at = at.reshape(-1)
    outside = (at < -1.0) | (at > size)
    at = np.clip(np.where(outside, 0.0, at), 0.0, size - 1)
    low = np.floor(at).astype(np.int64)
    return low, np.minimum(low + 1, size - 1), np.where(outside, np.nan, at - low)


def _roi_align(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    """X [N, C, H, W], rois [R, 4] of (x1, y1, x2, y2), batch indices [R] -> [R, C, output_height, output_width].

    mode "max" takes the largest of the four weighted neighbours of every sample, as ONNX does.
    """
    x, rois, batch = present(arrays)
    height, width = attrs["output_height"], attrs["output_width"]
    out = np.zeros((rois.shape[0], x.shape[1], height, width))
    shift = 0.5 if attrs["coordinate_transformation_mode"] == "half_pixel" else 0.0
    for r, roi in enumerate(rois.astype(np.float64) * np.float32(attrs["spatial_scale"]) - shift):
        extent = [roi[3] - roi[1], roi[2] - roi[0]]
        if not shift:
            extent = [max(e, 1.0) for e in extent]
        bins = [extent[0] / height, extent[1] / width]
        grids = [attrs["sampling_ratio"] or max(0, math.ceil(b)) for b in bins]
        if not all(grids):
            continue
        y0, y1, fy = _samples(roi[1], bins[0], grids[0], x.shape[2], height)
        x0, x1, fx = _samples(roi[0], bins[1], grids[1], x.shape[3], width)
        data = x[batch[r]].astype(np.float64)
        parts = []
        for ys, wy in ((y0, 1 - fy), (y1, fy)):
            for xs, wx in ((x0, 1 - fx), (x1, fx)):
                weight = np.nan_to_num(wy[:, None] * wx[None, :])
                parts.append(data[:, ys[:, None], xs[None, :]] * weight)
        value = sum(parts) if attrs["mode"] == "avg" else np.max(parts, axis=0)
        cells = np.asarray(value).reshape(x.shape[1], height, grids[0], width, grids[1])
        out[r] = cells.mean((2, 4)) if attrs["mode"] == "avg" else cells.max((2, 4))
    return [out.astype(x.dtype)]


def _edges(start: int, size: int, pooled: int, limit: int) -> list[tuple[int, int]]:
    """[low, high) of every bin, cut to the data; float32 as ONNX Runtime computes them."""
    step = np.float32(size) / np.float32(pooled)
    low = [math.floor(np.float32(i) * step) + start for i in range(pooled)]
    high = [math.ceil(np.float32(i + 1) * step) + start for i in range(pooled)]
    return [(min(max(a, 0), limit), min(max(b, 0), limit)) for a, b in zip(low, high, strict=True)]


def _max_roi_pool(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    """X [N, C, H, W], rois [R, 5] of (batch index, x1, y1, x2, y2) -> maxima [R, C, pooled..]; 0 for an empty bin."""
    x, rois = present(arrays)
    pooled, scale = attrs["pooled_shape"], np.float32(attrs["spatial_scale"])
    out = np.zeros((rois.shape[0], x.shape[1], *pooled), x.dtype)
    for r, roi in enumerate(rois):
        # halves are rounded away from zero
        x1, y1, x2, y2 = (int(math.copysign(math.floor(abs(v) + 0.5), v)) for v in map(float, roi[1:] * scale))
        rows = _edges(y1, max(y2 - y1 + 1, 1), pooled[0], x.shape[2])
        columns = _edges(x1, max(x2 - x1 + 1, 1), pooled[1], x.shape[3])
        for i, (a, b) in enumerate(rows):
            for j, (c, d) in enumerate(columns):
                if a < b and c < d:
                    out[r, :, i, j] = x[int(roi[0]), :, a:b, c:d].max((1, 2))
    return [out]


REFERENCES: Mapping[str, ReferenceFn] = MappingProxyType(
    {"Col2Im": _col2im, "DeformConv": _deform_conv, "RoiAlign": _roi_align, "MaxRoiPool": _max_roi_pool}
)
