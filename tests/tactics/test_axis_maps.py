"""Movement of axes with run-time sizes: every op and mode of the index-copy cases, with every axis symbolic."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from temper.errors import ShapeError
from temper.ir.dims import Dim
from temper.ir.evaluate import bind_attr
from temper.ir.ops import TABLE
from temper.tactics.base import Workload
from temper.tactics.cpu.axis_maps import AxisMaps
from tests.tactics.kernels import ISAS, Runner
from tests.tactics.test_index_copy import CASES, NEAREST, data, workload

A, B, C = (Dim.symbol(s) for s in "ABC")


def check(w: Workload, *sizes: dict[str, int]) -> None:
    """The kernel against the reference at each of several sizes."""
    runner = Runner(AxisMaps(), w)
    assert w.inputs[0] is not None
    for env in sizes or ({},):
        x = data(w.inputs[0].type.bind(env).shape, w.inputs[0].type.dtype)
        (got,) = runner.same_for_all_splits([x], env=env)
        (want,) = TABLE[w.op].reference([x], {k: bind_attr(v, env) for k, v in w.attrs})
        assert got.shape == want.shape and got.dtype == want.dtype and np.array_equal(got, want), env


@pytest.mark.parametrize("case", CASES)
def test_every_op_with_known_sizes(case: str) -> None:
    op, shape, attrs = CASES[case]
    check(workload(op, shape, attrs, isa=ISAS[len(case) % 3]))


@pytest.mark.parametrize("case", [c for c in CASES if CASES[c][0] != "Expand"])
def test_every_op_with_symbolic_sizes(case: str) -> None:
    op, shape, attrs = CASES[case]
    names = [f"S{i}" for i in range(len(shape))]
    keep = {a for a, size in enumerate(attrs.get("sizes", ())) if size == shape[a]}
    kept = tuple(shape[a] if a in keep else Dim.symbol(s) for a, s in enumerate(names))
    if op == "Slice":  # the output's length follows from known sizes only: the copy is what is tested
        kept = (kept[0], *shape[1:]) if "axes" in attrs else shape
    w = workload(op, kept, attrs, isa=ISAS[len(case) % 3])
    check(w, dict(zip(names, shape, strict=True)), {s: d + 3 for s, d in zip(names, shape, strict=True)})


MODES = (
    "half_pixel",
    "pytorch_half_pixel",
    "half_pixel_symmetric",
    "align_corners",
    "asymmetric",
    "tf_half_pixel_for_nn",
)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("rounding", ["round_prefer_floor", "round_prefer_ceil", "floor", "ceil"])
def test_resize_to_sizes_only_known_when_run(mode: str, rounding: str) -> None:
    attrs: dict[str, Any] = {
        "sizes": (2, B, C, 5),
        "coordinate_transformation_mode": mode,
        "nearest_mode": rounding,
        "channels_last": 1,
        **NEAREST,
    }
    w = workload("Resize", (2, A, 9, 5), attrs, isa=ISAS[len(mode + rounding) % 3])
    check(w, {"A": 7, "B": 14, "C": 18}, {"A": 7, "B": 3, "C": 9}, {"A": 1, "B": 1, "C": 1}, {"A": 11, "B": 25, "C": 4})


@pytest.mark.parametrize("mode", ["constant", "reflect", "edge", "wrap"])
def test_pads_only_known_when_run(mode: str) -> None:
    w = workload("Pad", (2, A, 4, C), {"pads": (0, B, 0, 1, 0, 2, 0, B), "mode": mode})
    check(w, {"A": 5, "B": 3, "C": 8}, {"A": 4, "B": 0, "C": 5}, {"A": 9, "B": 4, "C": 6})


def test_slices_between_bounds_only_known_when_run() -> None:
    attrs = {"starts": (A, -3), "ends": (B, 100), "axes": (1, 2), "steps": (1, 2)}
    try:
        w = workload("Slice", (3, Dim.symbol("H"), 7, 4), attrs)
    except ShapeError as e:
        pytest.fail(f"inference knows the length of a slice between symbols: {e}")
    check(w, {"H": 12, "A": 2, "B": 9}, {"H": 5, "A": 0, "B": 5}, {"H": 6, "A": 5, "B": 6})


def test_expand_to_sizes_only_known_when_run() -> None:
    w = workload("Expand", (3, 1, A, 1), {"shape": (2, 3, B, A, 4)})
    check(w, {"A": 2, "B": 5}, {"A": 1, "B": 1})


def test_views_and_element_sizes() -> None:
    up = {"scales": (1.0, 2.0, 2.0, 1.0), "channels_last": 1, **NEAREST}
    for dtype, x_stride, y_stride in (("uint8", 50, None), ("float64", None, 61), ("int8", 50, 61)):
        w = workload("Resize", (2, A, B, 37), up, dtype, in_stride=x_stride, out_stride=y_stride)
        check(w, {"A": 3, "B": 5}, {"A": 1, "B": 8})


def test_declines_with_a_reason() -> None:
    w = workload("Resize", (1, A, 4, 3), {"scales": (1.0, 2.0, 1.0, 1.0), "mode": "linear"})
    assert "weighted means" in (AxisMaps().accepts(w) or "")
    same = workload("Tile", (A, 3), {"repeats": (1, 1)})
    assert "plain copy" in (AxisMaps().accepts(same) or "")
