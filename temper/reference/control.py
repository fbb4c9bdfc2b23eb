"""References of ops that read shapes, make values, sort or select: they run on the host when no kernel takes them."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from temper.reference.numeric import Arrays, Attrs, ReferenceFn, present


def _shape(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    (x,) = present(arrays)
    return [np.array(x.shape[slice(attrs.get("start", 0), attrs.get("end"))], np.int64)]


def _size(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    (x,) = present(arrays)
    return [np.array(x.size, np.int64)]


def _range(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    start, limit, delta = attrs["start"], attrs["limit"], attrs["delta"]
    count = max(0, int(np.ceil((limit - start) / delta)))
    return [(np.arange(count) * np.asarray(delta) + np.asarray(start)).astype(np.dtype(attrs.get("to", "int64")))]


def _constant_of_shape(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    return [np.full(tuple(attrs["shape"]), attrs.get("value", 0), np.dtype(attrs.get("to", "float32")))]


def _non_zero(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    (x,) = present(arrays)
    return [
        np.array(np.nonzero(x) if x.ndim else np.zeros((0, int(bool(x)))), np.int64).reshape(
            x.ndim, -1 if x.ndim else int(bool(x))
        )
    ]


def _compress(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    x, condition = present(arrays)
    return [np.compress(condition, x, axis=attrs.get("axis"))]


def _top_k(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    """Equal values keep the order of their indices; results are always sorted. NaN ranks above all."""
    (x,) = present(arrays)
    axis, k = attrs.get("axis", -1) % x.ndim, attrs["k"]
    if attrs.get("largest", 1):
        # a stable descending sort is the stable ascending sort of the reversed axis, reversed
        order = x.shape[axis] - 1 - np.flip(np.argsort(np.flip(x, axis), axis=axis, kind="stable"), axis)
    else:
        order = np.argsort(x, axis=axis, kind="stable")
    order = np.take(order, np.arange(k), axis=axis)
    return [np.take_along_axis(x, order, axis), order.astype(np.int64)]


def _overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of one (y1, x1, y2, x2) box, corners sorted, with many."""
    top, bottom = np.maximum(box[0], others[:, 0]), np.minimum(box[2], others[:, 2])
    left, right = np.maximum(box[1], others[:, 1]), np.minimum(box[3], others[:, 3])
    shared = np.maximum(bottom - top, 0) * np.maximum(right - left, 0)
    area = (box[2] - box[0]) * (box[3] - box[1])
    union = area + (others[:, 2] - others[:, 0]) * (others[:, 3] - others[:, 1]) - shared
    return np.where((area > 0) & (union > 0) & (shared > 0), shared / np.where(union > 0, union, 1), 0)


def _non_max_suppression(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    """boxes [N, B, 4], scores [N, C, B] -> int64 [selected, 3] of (batch, class, box), best score first in each.

    Up to three more operands replace the attributes for the number of boxes and the thresholds.
    """
    boxes, scores = present(arrays[:2])
    names = ("max_output_boxes_per_class", "iou_threshold", "score_threshold")
    given = zip(names, arrays[2:], strict=False)
    attrs = {**attrs, **{k: a.reshape(-1)[0].item() for k, a in given if a is not None}}
    limit, iou = attrs.get("max_output_boxes_per_class", 0), np.float32(attrs.get("iou_threshold", 0.0))
    if attrs.get("center_point_box", 0):
        x, y, w, h = np.moveaxis(boxes, -1, 0)
        boxes = np.stack([y - h / 2, x - w / 2, y + h / 2, x + w / 2], -1)
    low, high = np.minimum(boxes[..., :2], boxes[..., 2:]), np.maximum(boxes[..., :2], boxes[..., 2:])
    corners = np.concatenate([low, high], -1)
    chosen: list[tuple[int, int, int]] = []
    for n in range(scores.shape[0]):
        for c in range(scores.shape[1]):
            row = scores[n, c]
            # few boxes pass the threshold, so it comes before the sort
            passed = np.flatnonzero(row > np.float32(attrs["score_threshold"])) if "score_threshold" in attrs else None
            order = (
                np.argsort(-row, kind="stable") if passed is None else passed[np.argsort(-row[passed], kind="stable")]
            )
            kept: list[int] = []
            while order.size and len(kept) < limit:
                best = int(order[0])
                kept.append(best)
                rest = order[1:]
                order = rest[_overlap(corners[n, best], corners[n, rest]) <= iou]
            chosen += [(n, c, b) for b in kept]
    return [np.array(chosen, np.int64).reshape(-1, 3)]


def _boxes_kept(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    """The rows of NonMaxSuppression, zeros behind them up to the most there can be, and their number."""
    found = _non_max_suppression(arrays, attrs)[0]
    _, scores = present(arrays)
    keep = max(0, min(scores.shape[2], attrs.get("max_output_boxes_per_class", 0)))
    rows = np.zeros((scores.shape[0] * scores.shape[1] * keep, 3), np.int64)
    rows[: len(found)] = found
    return [rows, np.array([len(found)], np.int64)]


def _positions(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    """The columns of NonZero as rows, zeros behind them up to the number of elements, and their number."""
    (x,) = present(arrays)
    found = np.argwhere(x)
    rows = np.zeros((x.size, x.ndim), np.int64)
    rows[: len(found)] = found
    return [rows, np.array([len(found)], np.int64)]


def _unique(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    """(values, first indices, inverse, counts); sorted, or in order of first appearance."""
    (x,) = present(arrays)
    axis = attrs.get("axis")
    work = x.reshape(-1) if axis is None else x
    values, first, inverse, counts = np.unique(
        work, return_index=True, return_inverse=True, return_counts=True, axis=0 if axis is None else axis
    )
    inverse = inverse.reshape(-1)
    if not attrs.get("sorted", 1):
        order = np.argsort(first, kind="stable")
        rank = np.empty_like(order)
        rank[order] = np.arange(order.size)
        values = np.take(values, order, axis=0 if axis is None else axis)
        first, counts, inverse = first[order], counts[order], rank[inverse]
    return [np.ascontiguousarray(values), first.astype(np.int64), inverse.astype(np.int64), counts.astype(np.int64)]


REFERENCES: Mapping[str, ReferenceFn] = MappingProxyType(
    {
        "Shape": _shape,
        "Size": _size,
        "Range": _range,
        "ConstantOfShape": _constant_of_shape,
        "NonZero": _non_zero,
        "Compress": _compress,
        "TopK": _top_k,
        "NonMaxSuppression": _non_max_suppression,
        "BoxesKept": _boxes_kept,
        "Positions": _positions,
        "Unique": _unique,
    }
)
