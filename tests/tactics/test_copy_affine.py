"""Transposes that bring few planes together: registers of bytes and of 32-bit elements are interleaved, others move
one by one."""

from __future__ import annotations

import numpy as np
import pytest

from temper.ir.dims import Dim
from temper.ir.types import TensorType
from temper.tactics.base import Slot, Workload
from temper.tactics.cpu.movement import CopyAffine
from temper.tactics.epilogue import Epilogue
from tests.tactics.kernels import ISAS, N, Runner


def workload(shape: tuple[int | Dim, ...], isa: str, dtype: str) -> Workload:
    n, c, h, w = shape
    ins = (Slot(TensorType(dtype, shape)),)
    outs = (Slot(TensorType(dtype, (n, h, w, c))),)
    return Workload("Transpose", (("perm", (0, 2, 3, 1)),), ins, (False,), outs, Epilogue.identity(dtype, 4), isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", ["float32", "int32", "uint8"])
@pytest.mark.parametrize("planes", [2, 3, 4, 5])
def test_interleave(planes: int, dtype: str, isa: str) -> None:
    for h, w in ((16, 16), (1, 15), (5, 51), (33, 25)):
        x = np.random.default_rng(0).integers(0, 200, (2, planes, h, w)).astype(dtype)
        (got,) = Runner(CopyAffine(), workload(x.shape, isa, dtype)).same_for_all_splits((x,))
        assert np.array_equal(got, x.transpose(0, 2, 3, 1))


def test_symbolic_sizes() -> None:
    run = Runner(CopyAffine(), workload((N, 3, Dim.symbol("H"), Dim.symbol("W")), "avx512", "float32"))
    for n, h, w in ((1, 19, 30), (3, 4, 5), (0, 2, 2)):
        x = np.random.default_rng(0).standard_normal((n, 3, h, w)).astype(np.float32)
        (got,) = run.same_for_all_splits((x,), env={"N": n, "H": h, "W": w})
        assert np.array_equal(got, x.transpose(0, 2, 3, 1))
