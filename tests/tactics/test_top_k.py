"""TopK's order where ONNX Runtime has none: NaN above all numbers, equal elements by position."""

from __future__ import annotations

import numpy as np
import pytest

from temper.ir.types import TensorType
from temper.reference import REFERENCES
from temper.tactics.base import Slot, Workload
from temper.tactics.cpu.top_k import TopK
from temper.tactics.epilogue import Epilogue
from tests.tactics.kernels import ISAS, Runner


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("largest", [0, 1])
def test_nan_and_ties(dtype: str, largest: int) -> None:
    rng = np.random.default_rng(largest)
    odd = np.array([0.0, -0.0, np.nan, -np.nan, np.inf, -np.inf, 1.0, -1.0, 1e-40], dtype)
    x = odd[rng.integers(0, len(odd), (3, 130))]
    attrs = (("axis", 1), ("k", 70), ("largest", largest), ("sorted", 1))
    outs = (Slot(TensorType(dtype, (3, 70))), Slot(TensorType("int64", (3, 70))))
    identity = Epilogue.identity(dtype, 2)
    for isa in ISAS:
        w = Workload("TopK", attrs, (Slot(TensorType(dtype, x.shape)),), (False,), outs, identity, isa)
        got = Runner(TopK(), w).same_for_all_splits([x])
        for a, b in zip(got, REFERENCES["TopK"]([x], dict(attrs)), strict=True):
            np.testing.assert_array_equal(a, b)
