"""Gather with run-time indices: axes, index types and shapes, negative and illegal indices, symbolic sizes, views."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from temper.ir.dims import Dim
from temper.ir.ops import TABLE
from temper.ir.types import TensorType
from temper.tactics.base import Slot, Workload
from temper.tactics.cpu.gather import GatherRows
from temper.tactics.epilogue import Epilogue
from tests.tactics.kernels import ISAS, N, Runner

rng = np.random.default_rng(0)
S = Dim.symbol("S")


def workload(
    shape: tuple[Any, ...],
    indices: tuple[Any, ...],
    axis: int,
    dtype: str = "float32",
    index: str = "int64",
    isa: str = "avx512",
    x_stride: int | None = None,
    y_stride: int | None = None,
) -> Workload:
    types = [TensorType(dtype, shape), TensorType(index, indices)]
    (out,) = TABLE["Gather"].infer(types, {"axis": axis})
    e = Epilogue.identity(dtype, out.rank)
    slots = (Slot(types[0], x_stride), Slot(types[1]))
    return Workload("Gather", (("axis", axis),), slots, (False, False), (Slot(out, y_stride),), e, isa)


def check(w: Workload, env: dict[str, int] | None = None) -> None:
    env = env or {}
    assert w.inputs[0] is not None and w.inputs[1] is not None
    xt, it = w.inputs[0].type.bind(env), w.inputs[1].type.bind(env)
    x = rng.integers(0, 100, xt.shape).astype(xt.dtype)
    size = xt.shape[int(str(w.attr("axis")))]
    index = rng.integers(-size, size, it.shape).astype(it.dtype)
    (got,) = Runner(GatherRows(), w).same_for_all_splits([x, index], env=env)
    assert np.array_equal(got, TABLE["Gather"].reference([x, index], dict(w.attrs))[0])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("axis", [0, 1, 2, -1])
def test_axes_and_types(axis: int, isa: str) -> None:
    for shape in ((5,), (2, 3), ()):
        check(workload((4, 5, 6), shape, axis, isa=isa))
    for dtype, index in (("int8", "int32"), ("float16", "int64"), ("float64", "int32"), ("bool", "int64")):
        check(workload((4, 5, 6), (7,), axis, dtype, index, isa))


def test_embedding_with_symbolic_sizes() -> None:
    check(workload((30, 17), (N, S), 0), {"N": 2, "S": 5})
    check(workload((N, 6, 5), (3,), 1), {"N": 3})
    check(workload((S, 5), (4,), 0), {"S": 9})


def test_views() -> None:
    check(workload((9, 5), (4,), 0, x_stride=8, y_stride=11))
    check(workload((2, 9, 5), (2, 3), 1, x_stride=8, y_stride=11))
    assert GatherRows().accepts(workload((9, 5), (4,), 1, x_stride=8)) == "in a view it gathers whole rows only"


def test_an_illegal_index_is_loud_and_reads_nothing() -> None:
    w = workload((3, 4), (3,), 0)
    x = np.ones((3, 4), np.float32)
    (got,) = Runner(GatherRows(), w).same_for_all_splits([x, np.array([3, 1, -4])])
    assert np.isnan(got[[0, 2]]).all() and (got[1] == 1).all()
    (got,) = Runner(GatherRows(), workload((3, 4), (1,), 0, "int32"))([x.astype(np.int32), np.array([1 << 40])])
    assert (got == -1).all()
