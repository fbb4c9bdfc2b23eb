"""Index copies: every op and mode against the reference, for every element size, views, symbolic batch, splits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from temper.errors import BuildError
from temper.ir.dims import Dim
from temper.ir.ops import TABLE
from temper.ir.types import TensorType
from temper.tactics.base import Slot, Workload
from temper.tactics.cpu.index_copy import IndexCopy, Layout, copy_layout, segments
from temper.tactics.epilogue import Epilogue
from tests.tactics.kernels import ISAS, N, Runner

rng = np.random.default_rng(0)
Shape = tuple[Any, ...]


def workload(
    op: str,
    shape: Shape,
    attrs: dict[str, Any],
    dtype: str = "float32",
    isa: str = "avx512",
    in_stride: int | None = None,
    out_stride: int | None = None,
    indices: np.ndarray | None = None,
) -> Workload:
    """The workload of one movement node, its output type inferred from the op table."""
    types = [TensorType(dtype, shape)]
    if indices is not None:
        types.append(TensorType(str(indices.dtype), indices.shape))
    full = TABLE[op].complete(attrs)
    (out,) = TABLE[op].infer(types, full)
    slots = (Slot(types[0], in_stride), *(Slot(t) for t in types[1:]))
    e = Epilogue.identity(dtype, out.rank)
    return Workload(
        op, tuple(sorted(full.items())), slots, (False, *(True for _ in types[1:])), (Slot(out, out_stride),), e, isa
    )


def data(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return rng.integers(0, 2 if dtype == "bool" else 100, shape).astype(dtype)


def check(w: Workload, indices: np.ndarray | None = None, env: dict[str, int] | None = None) -> None:
    assert w.inputs[0] is not None
    x = data(w.inputs[0].type.bind(env or {}).shape, w.inputs[0].type.dtype)
    inputs = [x] if indices is None else [x, indices]
    (got,) = Runner(IndexCopy(), w).same_for_all_splits(inputs, env=env)
    (want,) = TABLE[w.op].reference(inputs, dict(w.attrs))
    assert got.dtype == want.dtype and np.array_equal(got, want)


PADS = (0, 1, 2, 0, 0, 3, 1, 0)
NEAREST = {"mode": "nearest"}
CASES: dict[str, tuple[str, Shape, dict[str, Any]]] = {
    "pad constant": ("Pad", (2, 5, 6, 7), {"pads": PADS, "value": 3}),
    "pad constant last axis": ("Pad", (3, 4, 9), {"pads": (0, 0, 2, 0, 0, 5), "value": 1}),
    "pad edge": ("Pad", (2, 5, 6, 7), {"pads": PADS, "mode": "edge"}),
    "pad reflect": ("Pad", (2, 5, 6, 17), {"pads": (0, 3, 2, 9, 0, 3, 1, 2), "mode": "reflect"}),
    "pad wrap": ("Pad", (2, 5, 6, 7), {"pads": PADS, "mode": "wrap"}),
    "pad that crops": ("Pad", (2, 5, 6, 7), {"pads": (0, -1, 2, 0, 0, 3, -2, 0), "value": 2}),
    "pad all axes": ("Pad", (2, 3), {"pads": (1, 1, 1, 1), "value": 5}),
    "tile": ("Tile", (2, 3, 5), {"repeats": (2, 1, 3)}),
    "slice": ("Slice", (4, 9, 11), {"starts": (-1, 1), "ends": (-100, 100), "axes": (1, 2), "steps": (-2, 3)}),
    "slice defaults": ("Slice", (4, 9), {"starts": (1, 2), "ends": (3, 8)}),
    "expand": ("Expand", (3, 1, 5, 1), {"shape": (2, 3, 4, 5, 3)}),
    "resize 2x last": ("Resize", (1, 4, 5, 40), {"scales": (1.0, 2.0, 2.0, 1.0), "channels_last": 1, **NEAREST}),
    "resize 2x first": ("Resize", (1, 7, 4, 5), {"scales": (1.0, 1.0, 2.0, 2.0), **NEAREST}),
    "resize down": ("Resize", (2, 9, 7, 3), {"sizes": (2, 5, 4, 3), "channels_last": 1, **NEAREST}),
    "resize floor": (
        "Resize",
        (1, 2, 5, 7),
        {"sizes": (1, 2, 8, 9), "nearest_mode": "floor", "coordinate_transformation_mode": "asymmetric", **NEAREST},
    ),
    "resize corners": (
        "Resize",
        (1, 2, 5, 7),
        {"sizes": (1, 2, 8, 9), "nearest_mode": "ceil", "coordinate_transformation_mode": "align_corners", **NEAREST},
    ),
    "resize crop": (
        "Resize",
        (1, 6, 5, 3),
        {
            "sizes": (1, 4, 8, 3),
            "coordinate_transformation_mode": "tf_crop_and_resize",
            "extrapolation_value": 9.0,
            "roi": (0.0, -0.3, 0.2, 0.0, 1.0, 0.8, 1.5, 1.0),
            "channels_last": 1,
            **NEAREST,
        },
    ),
}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("case", CASES)
def test_every_op(case: str, isa: str) -> None:
    op, shape, attrs = CASES[case]
    check(workload(op, shape, attrs, isa=isa))


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "float16", "int32", "int64", "float64"])
@pytest.mark.parametrize("case", ["pad constant", "pad edge", "slice", "resize 2x last", "tile"])
def test_every_element_size(case: str, dtype: str) -> None:
    op, shape, attrs = CASES[case]
    if op != "Resize" or dtype != "bool":
        check(workload(op, shape, {**attrs, "value": 1} if "value" in attrs else attrs, dtype))


def test_fill_values_keep_their_bits() -> None:
    for value in (-0.0, float("-inf"), -1.5):
        w = workload("Pad", (2, 3), {"pads": (0, 1, 0, 1), "value": value})
        (got,) = Runner(IndexCopy(), w)([np.zeros((2, 3), np.float32)])
        assert got[0, 0].tobytes() == np.float32(value).tobytes()
    w = workload("Pad", (3,), {"pads": (1, 1), "value": -2}, "int64")
    assert Runner(IndexCopy(), w)([np.arange(3)])[0].tolist() == [-2, 0, 1, 2, -2]


@pytest.mark.parametrize("isa", ISAS)
def test_symbolic_batch_and_views(isa: str) -> None:
    up = {"scales": (1.0, 2.0, 2.0, 1.0), "channels_last": 1, **NEAREST}
    for x_stride, y_stride in ((None, None), (50, None), (None, 61), (50, 61)):
        w = workload("Resize", (N, 3, 4, 37), up, isa=isa, in_stride=x_stride, out_stride=y_stride)
        for n in (1, 3):
            check(w, env={"N": n})
        pad = workload(
            "Pad", (N, 3, 4, 37), {"pads": (0, 1, 0, 0, 0, 0, 0, 0)}, isa=isa, in_stride=x_stride, out_stride=y_stride
        )
        check(pad, env={"N": 2})


def test_large_runs_are_cut_into_shared_blocks() -> None:
    check(workload("Pad", (1, 100, 700), {"pads": (0, 1, 0, 0, 2, 0), "value": 4}))
    check(workload("Pad", (70000,), {"pads": (3, 5), "mode": "edge"}))
    check(workload("Tile", (40000,), {"repeats": (3,)}, "int8"))


@pytest.mark.parametrize("axis", [0, 1, -1])
@pytest.mark.parametrize("indices", [np.array([2, -1, 0, 0, 1]), np.array([[1, -2], [0, 2]], np.int32), np.array(1)])
def test_gather_with_constant_indices(axis: int, indices: np.ndarray) -> None:
    check(workload("Gather", (3, 4, 5), {"axis": axis}, indices=indices), indices)
    if indices.ndim == 1:
        check(workload("Gather", (3, 4, 5), {"axis": axis}, indices=indices, in_stride=8, out_stride=11), indices)


def test_gather_names_a_bad_index() -> None:
    w = workload("Gather", (3, 4), {"axis": 0}, indices=np.array([0, 3]))
    with pytest.raises(BuildError, match="index 3 is outside an axis of 3"):
        IndexCopy().prepack(w, (), {1: np.array([0, 3])})


def test_segments_are_maximal_and_do_not_cross_blocks() -> None:
    assert segments(np.array([-1, -1, 0, 1, 2, 2]), 100).tolist() == [[0, -1, 2], [2, 0, 3], [5, 2, 1]]
    assert segments(np.array([0, 1, 2, 3]), 3).tolist() == [[0, 0, 3], [3, 3, 1]]


def test_channels_last_upsampling_copies_whole_pixels() -> None:
    layout = copy_layout(
        workload("Resize", (N, 20, 20, 256), {"scales": (1.0, 2.0, 2.0, 1.0), "channels_last": 1, **NEAREST})
    )
    assert isinstance(layout, Layout) and layout.run == 256 and layout.inner.size == 40 and len(layout.outer) == 2


def test_declines_with_a_reason() -> None:
    tactic = IndexCopy()
    linear = workload("Resize", (1, 4, 4, 3), {"scales": (1.0, 2.0, 2.0, 1.0), "mode": "linear"})
    assert tactic.accepts(linear) == "mode linear computes weighted means"
    symbolic = workload("Pad", (N, 3), {"pads": (1, 0, 0, 0)})
    assert tactic.accepts(symbolic) == "it changes axis 0, whose size is not known at build"
    same = workload("Tile", (2, 3), {"repeats": (1, 1)})
    assert tactic.accepts(same) == "no axis changes: it is a plain copy"
    assert tactic.accepts(workload("Expand", (1, 3), {"shape": (Dim.symbol("M"), 3)})) == (
        "it broadcasts along axis 0, whose size is not known at build"
    )
