"""Ops that read sizes from data: their references against numpy and ONNX's rules, and the types they infer."""

from __future__ import annotations

import numpy as np
import pytest

from temper.errors import ShapeError
from temper.ir.dims import Dim
from temper.ir.ops import TABLE
from temper.ir.types import TensorType
from temper.reference import REFERENCES, run

N, M = Dim.symbol("_n"), Dim.symbol("_m")


def test_sizes() -> None:
    (y,) = REFERENCES["Sizes"]([np.array([[3], [-1]], np.int32)], {})
    assert y.tolist() == [3, -1] and y.dtype == np.int64
    assert TABLE["Sizes"].infer([TensorType("int32", (2, 1))], {"binds": (N, M)}) == [TensorType("int64", (2,))]
    with pytest.raises(ShapeError, match="lists 1 sizes"):
        TABLE["Sizes"].infer([TensorType("int64", (2,))], {"binds": (N,)})


@pytest.mark.parametrize(
    ("wanted", "allowzero", "found"),
    [([2, 6], 0, [2, 6]), ([0, -1], 0, [3, 4]), ([-1, 2], 0, [6, 2]), ([12], 0, [12]), ([2, -1, 3], 1, [2, 2, 3])],
)
def test_reshape_sizes(wanted: list[int], allowzero: int, found: list[int]) -> None:
    (y,) = REFERENCES["ReshapeSizes"]([np.array(wanted)], {"of": (3, 4), "allowzero": allowzero})
    assert y.tolist() == found


@pytest.mark.parametrize("wanted", [[5, -1], [0, 0, 0], [-1, -1], [2, 5]])
def test_shapes_that_contradict_the_data(wanted: list[int]) -> None:
    with pytest.raises(ValueError, match="reshape|copies"):
        REFERENCES["ReshapeSizes"]([np.array(wanted)], {"of": (3, 4)})


@pytest.mark.parametrize("step", [1, 3, -2])
def test_slice_bounds_are_numpys(step: int) -> None:
    for start in (-9, -2, 0, 3, 8):
        for end in (-9, -1, 0, 5, 99):
            (y,) = REFERENCES["SliceBounds"]([np.array([start]), np.array([end])], {"sizes": (6,), "steps": (step,)})
            expected = np.arange(6)[start:end:step]
            assert y[1] == expected.size and (not expected.size or y[0] == expected[0])


@pytest.mark.parametrize(
    ("start", "limit", "delta", "dtype"), [(0, 5, 1, "int64"), (9, -2, -4, "int32"), (0, 1, 0.25, "float32")]
)
def test_range_of(start: float, limit: float, delta: float, dtype: str) -> None:
    operands = [np.array(v, dtype) for v in (start, limit, delta)]
    (y,) = run("RangeOf", operands, {}, [dtype] * 3, [dtype])
    np.testing.assert_array_equal(y, np.arange(start, limit, delta, dtype))
    assert y.dtype == dtype


def test_a_range_without_end() -> None:
    with pytest.raises(ValueError, match="no range"):
        REFERENCES["RangeOf"]([np.array(0), np.array(1), np.array(0)], {})


def test_any_op_by_data() -> None:
    a, b = np.ones((3, 1), np.float32), np.ones((2,), np.float32)
    (y,) = REFERENCES["ByData"]([a, b], {"of": "Add", "given": (), "dtypes": ("float32",), "shapes": ()})
    assert y.shape == (3, 2) and (y == 2).all()
    attrs = {"of": "Add", "given": (), "dtypes": ("float32",), "shapes": ((N, 2),), "count": (N,)}
    assert TABLE["ByData"].infer([], attrs) == [TensorType("float32", (N, 2))]
