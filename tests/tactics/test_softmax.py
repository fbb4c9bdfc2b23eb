"""Softmax and log-softmax along every axis, against float64."""

from __future__ import annotations

import numpy as np
import pytest

from temper.ir.dims import Dim
from temper.tactics.base import Workload
from temper.tactics.cpu.softmax import Softmax
from temper.tactics.epilogue import Epilogue
from temper.tactics.epilogue_reference import epilogue_reference
from tests.tactics.kernels import ISAS, N, Runner, assert_close, bias_relu_scale, f32

rng = np.random.default_rng(4)


def softmax(x: np.ndarray, axis: int, log: bool = False) -> np.ndarray:
    a = (x - x.max(axis, keepdims=True)).astype(np.float64)  # the difference is rounded to float32, as in every engine
    s = np.exp(a).sum(axis, keepdims=True)
    return a - np.log(s) if log else np.exp(a) / s


def workload(
    shape: tuple[int | Dim, ...],
    axis: int,
    op: str = "Softmax",
    isa: str = "avx512",
    e: Epilogue | None = None,
    xs: int | None = None,
    os: int | None = None,
) -> Workload:
    e = e or Epilogue.identity("float32", len(shape))
    outs = tuple(f32(*shape, stride=os if k == 0 else None) for k in range(len(e.results)))
    return Workload(op, (("axis", axis),), (f32(*shape, stride=xs),), (False,), outs, e, isa)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", ["Softmax", "LogSoftmax"])
@pytest.mark.parametrize("shape", [(3, 1000), (2, 5, 7), (1, 4, 3, 37), (70,), (2, 3, 1)])
def test_every_axis(shape: tuple[int, ...], op: str, isa: str) -> None:
    x = (8 * rng.standard_normal(shape)).astype(np.float32)
    for axis in range(-1, len(shape) - 1):
        (got,) = Runner(Softmax(), workload(shape, axis, op, isa)).same_for_all_splits((x,))
        assert_close(got, softmax(x, axis, op == "LogSoftmax"), 12, 1e-5 if op == "LogSoftmax" else 0)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("axis", [1, 3])
def test_epilogue_views_and_symbolic_batch(axis: int, isa: str) -> None:
    e = bias_relu_scale()
    run = Runner(Softmax(), workload((N, Dim.symbol("H"), 3, 21), axis, "Softmax", isa, e, xs=24, os=32))
    for n, h in ((1, 2), (3, 5)):
        x = rng.standard_normal((n, h, 3, 21)).astype(np.float32)
        a, b = (rng.standard_normal((m, 1, 1, 21)).astype(np.float32) for m in (1, n))
        got = run.same_for_all_splits((x,), (None, a, b), {"N": n, "H": h})
        acc = softmax(x, axis).astype(np.float32)
        for g, want in zip(got, epilogue_reference(e, [acc, a, b]), strict=True):
            assert_close(g, want, 8, 1e-6)


def test_symbolic_last_axis() -> None:
    x = rng.standard_normal((2, 45)).astype(np.float32)
    (got,) = Runner(Softmax(), workload((2, N), 1))((x,), env={"N": 45})
    assert_close(got, softmax(x, 1), 8)


def test_infinities() -> None:
    x = np.zeros((3, 5), np.float32)
    x[0, 1], x[1], x[2, 0] = -np.inf, -np.inf, np.nan
    (got,) = Runner(Softmax(), workload(x.shape, 1))((x,))
    assert np.array_equal(got[0], [0.25, 0, 0.25, 0.25, 0.25]) and np.isnan(got[1:]).all()
