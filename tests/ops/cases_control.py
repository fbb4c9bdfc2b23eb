"""Cases of ops that read shapes, make values, sort and select."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from temper.ir.opdef import AttrValue
from tests.ops.case import Case, fixed, floats, numbers


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
    rows = np.array([[1, 0], [1, 0], [2, 3], [0, 1]], np.int64)
    yield Case("Unique_flat", "Unique", {"count": 4}, fixed(rows))
    yield Case("Unique_unsorted", "Unique", {"sorted": 0, "count": 4}, fixed(rows))
    yield Case("Unique_axis", "Unique", {"axis": 0, "count": 3}, fixed(rows))


def cases() -> Iterator[Case]:
    yield from _control()
