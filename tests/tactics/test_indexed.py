"""Gathers and scatters by element and by tuple: types, symbolic sizes, odd indices, updates that meet."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from temper.ir.ops import TABLE
from temper.ir.types import TensorType
from temper.tactics.base import Slot, Workload
from temper.tactics.cpu.indexed import Indexed
from temper.tactics.epilogue import Epilogue
from tests.tactics.kernels import ISAS, N, Runner

rng = np.random.default_rng(0)


def workload(op: str, types: list[TensorType], isa: str = "avx512", **attrs: Any) -> Workload:
    full = TABLE[op].complete(attrs)
    (out,) = TABLE[op].infer(types, full)
    e = Epilogue.identity(out.dtype, out.rank)
    fixed: Any = tuple(sorted(full.items()))
    return Workload(op, fixed, tuple(Slot(t) for t in types), (False,) * len(types), (Slot(out),), e, isa)


def check(w: Workload, arrays: list[np.ndarray], env: dict[str, int] | None = None) -> None:
    (got,) = Runner(Indexed(), w).same_for_all_splits(arrays, env=env or {})
    np.testing.assert_array_equal(got, TABLE[w.op].reference(arrays, dict(w.attrs))[0])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float32", "int64", "float16", "bool"])
def test_gather_elements(dtype: str, isa: str) -> None:
    for axis, shape in ((0, (6, 3, 4)), (1, (2, 7, 5)), (-1, (2, 3, 9))):
        x = rng.integers(0, 2, (4, 5, 6)).astype(dtype)
        index = rng.integers(-x.shape[axis], x.shape[axis], shape)
        index = index[tuple(slice(None) if a == axis % 3 else slice(x.shape[a]) for a in range(3))]
        types = [TensorType(dtype, x.shape), TensorType("int64", index.shape)]
        check(workload("GatherElements", types, isa, axis=axis), [x, index])


@pytest.mark.parametrize("batch", [0, 1, 2])
def test_gather_tuples(batch: int) -> None:
    x = rng.standard_normal((2, 3, 4, 5), np.float32)
    for depth in range(1, 5 - batch):
        index = np.stack([rng.integers(-d, d, (2, 3, 2)) for d in x.shape[batch : batch + depth]], -1).astype(np.int32)
        types = [TensorType("float32", x.shape), TensorType("int32", index.shape)]
        check(workload("GatherND", types, batch_dims=batch), [x, index])


@pytest.mark.parametrize("reduction", ["none", "add", "mul", "max", "min"])
def test_scatter(reduction: str) -> None:
    for dtype in ("float32", "int8", "float64"):
        x = rng.integers(-5, 5, (4, 6)).astype(dtype)
        for axis in (0, 1):
            index, updates = rng.integers(-4, 4, (3, 5)), rng.integers(-5, 5, (3, 5)).astype(dtype)
            types = [TensorType(dtype, x.shape), TensorType("int64", (3, 5)), TensorType(dtype, (3, 5))]
            check(workload("ScatterElements", types, axis=axis, reduction=reduction), [x, index, updates])
        rows, updates = rng.integers(-4, 4, (7, 1)), rng.integers(-5, 5, (7, 6)).astype(dtype)
        types = [TensorType(dtype, x.shape), TensorType("int64", (7, 1)), TensorType(dtype, (7, 6))]
        check(workload("ScatterND", types, reduction=reduction), [x, rows, updates])


def test_symbolic_sizes() -> None:
    x, index = rng.standard_normal((3, 5), np.float32), rng.integers(0, 5, (3, 2))
    w = workload("GatherElements", [TensorType("float32", (N, 5)), TensorType("int64", (N, 2))], axis=1)
    check(w, [x, index], {"N": 3})
    types = [TensorType("float32", (N, 5)), TensorType("int64", (4, 1)), TensorType("float32", (4, 5))]
    check(
        workload("ScatterND", types),
        [x, rng.integers(0, 3, (4, 1)), rng.standard_normal((4, 5), np.float32)],
        {"N": 3},
    )


def test_illegal_indices_are_loud_or_dropped() -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    index = np.array([[0, 3, -3]])
    w = workload("GatherElements", [TensorType("float32", (2, 3)), TensorType("int64", (1, 3))], axis=1)
    (got,) = Runner(Indexed(), w)([x, index])
    assert got[0, 0] == 0 and np.isnan(got[0, 1]) and got[0, 2] == 0
    types = [TensorType("float32", (2, 3)), TensorType("int64", (2, 1)), TensorType("float32", (2, 3))]
    (got,) = Runner(Indexed(), workload("ScatterND", types))([x, np.array([[5], [1]]), -x])
    np.testing.assert_array_equal(got, [[0, 1, 2], [-3, -4, -5]])
