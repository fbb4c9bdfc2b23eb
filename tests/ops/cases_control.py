# ruff: noqa: E731 (a case is a name and the function that makes its operands)
"""Cases of ops that read shapes, make values, sort and select."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from temper.ir.opdef import AttrValue
from tests.ops.case import Arrays, Case, Rng, fixed, floats, numbers


def _control() -> Iterator[Case]:
    for name, attrs in (
        ("all", {}),
        ("part", {"start": 1, "end": 3}),
        ("negative", {"start": -2}),
        ("none", {"start": 3, "end": 1}),
    ):
        yield Case(f"Shape_{name}", "Shape", attrs, lambda rng: [floats(rng, (2, 3, 4, 5))])
    yield Case("Size", "Size", {}, lambda rng: [floats(rng, (2, 3, 4))])
    yield Case("Range_up", "Range", {"start": 2, "limit": 11, "delta": 3}, fixed())
    yield Case("Range_down", "Range", {"start": 9, "limit": 2, "delta": -2, "to": "int32"}, fixed())
    yield Case("Range_empty", "Range", {"start": 5, "limit": 5, "delta": 1}, fixed())
    yield Case("Range_float", "Range", {"start": 0.5, "limit": 2.0, "delta": 0.25, "to": "float32"}, fixed())
    yield Case("ConstantOfShape", "ConstantOfShape", {"shape": (2, 0, 3)}, fixed())
    yield Case("ConstantOfShape_int64", "ConstantOfShape", {"shape": (2, 3), "value": -7, "to": "int64"}, fixed())
    yield Case("NonZero", "NonZero", {"count": 4}, fixed(np.array([[0, 2, 0], [1.5, 0, -1], [0, 0, 3]], np.float32)))
    chosen = np.array([True, False, True])
    yield Case("Compress_axis", "Compress", {"axis": 1, "count": 2}, lambda rng: [floats(rng, (2, 4)), chosen.copy()])
    yield Case("Compress_flat", "Compress", {"count": 2}, lambda rng: [floats(rng, (2, 4)), chosen.copy()])
    for largest in (0, 1):
        for axis in (0, 1, -1):
            attrs2: dict[str, AttrValue] = {"k": 3, "axis": axis, "largest": largest}
            yield Case(f"TopK_{axis}_{largest}", "TopK", attrs2, lambda rng: [floats(rng, (5, 7))])
            if axis == 1:
                odd = np.array([[0.0, -0.0, 5.0, np.inf, -np.inf, 1.0, 1e-40, -1.0, 0.0, 1.0] * 9], np.float32)
                yield Case(f"TopK_special_{largest}", "TopK", {**attrs2, "k": 40}, fixed(odd))
                for dtype in ("uint32", "int8", "float64"):
                    make = lambda rng, d=dtype: [numbers(rng, (2, 90), d)]
                    yield Case(f"TopK_{dtype}_{largest}", "TopK", {**attrs2, "k": 17}, make)
            yield Case(f"TopK_ties_{axis}_{largest}", "TopK", attrs2, lambda rng: [numbers(rng, (5, 7), "int64", 0, 3)])
    boxes = np.array(
        [[[0, 0, 1, 1], [0, 0.1, 1, 1.1], [0, -0.1, 1, 0.9], [0, 10, 1, 11], [1, 11.1, 0, 10.1], [0, 100, 1, 101]]],
        np.float32,
    )
    scores = np.array([[[0.9, 0.75, 0.6, 0.95, 0.5, 0.3], [0.1, 0.8, 0.2, 0.3, 0.9, 0.05]]], np.float32)
    common: dict[str, AttrValue] = {"max_output_boxes_per_class": 3, "iou_threshold": 0.5}
    yield Case("NonMaxSuppression", "NonMaxSuppression", {**common, "count": 6}, fixed(boxes, scores))
    yield Case(
        "NonMaxSuppression_threshold",
        "NonMaxSuppression",
        {**common, "score_threshold": 0.4, "count": 4},
        fixed(boxes, scores),
    )
    centers = np.array(
        [
            [
                [0.5, 0.5, 1, 1],
                [0.5, 0.6, 1, 1],
                [0.5, 0.4, 1, 1],
                [0.5, 10.5, 1, 1],
                [0.5, 10.6, 1, 1],
                [0.5, 100.5, 1, 1],
            ]
        ],
        np.float32,
    )
    yield Case(
        "NonMaxSuppression_centers",
        "NonMaxSuppression",
        {**common, "center_point_box": 1, "count": 6},
        fixed(centers, scores),
    )
    kept: tuple[tuple[str, dict[str, AttrValue], tuple[np.ndarray, np.ndarray]], ...] = (
        ("BoxesKept", {}, (boxes, scores)),
        ("BoxesKept_threshold", {"score_threshold": 0.4}, (boxes, scores)),
        ("BoxesKept_centers", {"center_point_box": 1}, (centers, scores)),
    )
    for name, more, operands in kept:
        yield Case(name, "BoxesKept", {**common, **more}, fixed(*operands))
    sparse = np.array([[0, 2, 0], [1.5, 0, np.nan], [0, -0.0, 3]], np.float32)
    yield Case("Positions", "Positions", {}, fixed(sparse))
    yield Case("Positions_bool", "Positions", {}, lambda rng: [rng.random((4, 3, 5)) < 0.4])
    yield Case("Positions_none", "Positions", {}, fixed(np.zeros(6, np.int32)))
    yield Case("BoxesKept_many", "BoxesKept", {**common, "iou_threshold": 0.3, "score_threshold": 0.0}, _many_boxes)
    rows = np.array([[1, 0], [1, 0], [2, 3], [0, 1]], np.int64)
    yield Case("Unique_flat", "Unique", {"count": 4}, fixed(rows))
    yield Case("Unique_unsorted", "Unique", {"sorted": 0, "count": 4}, fixed(rows))
    yield Case("Unique_axis", "Unique", {"axis": 0, "count": 3}, fixed(rows))


def _many_boxes(rng: Rng) -> Arrays:
    """Two images of 70 boxes and three classes, with equal scores among them."""
    corner, size = rng.uniform(0, 8, (2, 70, 2)), rng.uniform(0.5, 4, (2, 70, 2))
    boxes = np.concatenate([corner, corner + size], -1).astype(np.float32)
    return [boxes, np.round(rng.standard_normal((2, 3, 70)) * 8).astype(np.float32) / 8]


def cases() -> Iterator[Case]:
    yield from _control()
