"""Reductions over any axes against float64, and positions of extremes."""

from __future__ import annotations

import numpy as np
import pytest

from temper.ir.dims import Dim
from temper.ir.types import TensorType
from temper.tactics.base import Slot, Workload
from temper.tactics.cpu.reduce import ArgExtreme, Reduce
from temper.tactics.epilogue import Epilogue, Instr, Operand
from temper.tactics.epilogue_reference import epilogue_reference
from tests.tactics.kernels import ISAS, N, Runner, assert_close, f32

rng = np.random.default_rng(3)

OPS = {
    "ReduceSum": lambda x, a: x.sum(a),
    "ReduceMean": lambda x, a: x.mean(a),
    "ReduceMax": lambda x, a: x.max(a),
    "ReduceMin": lambda x, a: x.min(a),
    "ReduceProd": lambda x, a: x.prod(a),
    "ReduceL1": lambda x, a: np.abs(x).sum(a),
    "ReduceL2": lambda x, a: np.sqrt((x * x).sum(a)),
    "ReduceSumSquare": lambda x, a: (x * x).sum(a),
    "ReduceLogSum": lambda x, a: np.log(x.sum(a)),
    "ReduceLogSumExp": lambda x, a: np.log(np.exp(x).sum(a)),
}


def workload(
    op: str,
    shape: tuple[int | Dim, ...],
    axes: tuple[int, ...],
    keep: int = 1,
    isa: str = "avx512",
    e: Epilogue | None = None,
    xs: int | None = None,
    os: int | None = None,
) -> Workload:
    out = tuple(1 if i in axes else d for i, d in enumerate(shape) if keep or i not in axes)
    e = e or Epilogue.identity("float32", len(out))
    outs = tuple(f32(*out, stride=os if k == 0 else None) for k in range(len(e.results)))
    return Workload(op, (("axes", axes), ("keepdims", keep)), (f32(*shape, stride=xs),), (False,), outs, e, isa)


PATTERNS = [
    ((1, 49, 130), (1,)),
    ((2, 7, 7, 20), (1, 2)),
    ((3, 5, 300), (2,)),
    ((2, 3, 4, 5), (0, 2)),
    ((2, 3, 4, 5), (1, 3)),
    ((4, 6), (0, 1)),
    ((5, 1, 3, 1), (1, 3)),
    ((2, 1000, 3), (1,)),
    ((9,), (0,)),
]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("keep", [0, 1])
@pytest.mark.parametrize("pattern", PATTERNS)
def test_axes(pattern: tuple, keep: int, isa: str) -> None:
    shape, axes = pattern
    x = rng.standard_normal(shape).astype(np.float32)
    (got,) = Runner(Reduce(), workload("ReduceMean", shape, axes, keep, isa)).same_for_all_splits((x,))
    assert_close(got, x.astype(np.float64).mean(axes, keepdims=bool(keep)), 2, 3e-7)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", OPS)
@pytest.mark.parametrize("axes", [(1,), (2,)])
def test_operations(op: str, axes: tuple[int, ...], isa: str) -> None:
    x = rng.uniform(0.5, 1.5, (2, 45, 67)).astype(np.float32)
    if op != "ReduceLogSum":
        x[:, ::2] *= -1
    (got,) = Runner(Reduce(), workload(op, x.shape, axes, 0, isa)).same_for_all_splits((x,))
    assert_close(
        got,
        OPS[op](x.astype(np.float64), axes),
        8 if op != "ReduceProd" else 40,
        1e-5 if op in ("ReduceSum", "ReduceMean", "ReduceLogSumExp") else 0,
    )


def test_long_sums_stay_accurate() -> None:
    x = rng.uniform(0, 1, (1, 300_000)).astype(np.float32)
    for shape, axis in (((1, 300_000), 1), ((300_000, 1), 0)):
        (got,) = Runner(Reduce(), workload("ReduceSum", shape, (axis,)))((x.reshape(shape),))
        assert_close(got, x.astype(np.float64).sum().reshape(1, 1), 8)


def test_special_values() -> None:
    x = np.zeros((3, 40), np.float32)
    x[0, 7], x[1], x[2, 3] = np.nan, -np.inf, np.inf
    for op in ("ReduceMax", "ReduceMin", "ReduceLogSumExp"):
        (got,) = Runner(Reduce(), workload(op, x.shape, (1,), 0))((x,))
        with np.errstate(all="ignore"):
            want = {
                "ReduceMax": x.max(1),
                "ReduceMin": x.min(1),
                "ReduceLogSumExp": np.array([np.nan, -np.inf, np.inf]),
            }[op]
        assert np.array_equal(got, want, equal_nan=True), op


@pytest.mark.parametrize("isa", ISAS)
def test_epilogue_views_and_symbolic_batch(isa: str) -> None:
    full, channel, image = (True,) * 4, (False,) * 3 + (True,), (True, False, False, True)
    e = Epilogue(
        (Operand("float32", full), Operand("float32", channel), Operand("float32", image)),
        (Instr("Add", (0, 1), "float32"), Instr("Sigmoid", (3,), "float32"), Instr("Mul", (4, 2), "float32")),
        (5, 3),
    )
    run = Runner(Reduce(), workload("ReduceMean", (N, Dim.symbol("H"), 3, 21), (1, 2), 1, isa, e, xs=24, os=32))
    for n, h in ((1, 2), (3, 5)):
        x = rng.standard_normal((n, h, 3, 21)).astype(np.float32)
        a, b = (rng.standard_normal((m, 1, 1, 21)).astype(np.float32) for m in (1, n))
        got = run.same_for_all_splits((x,), (None, a, b), {"N": n, "H": h})
        acc = x.astype(np.float64).mean((1, 2), keepdims=True).astype(np.float32)
        for g, want in zip(got, epilogue_reference(e, [acc, a, b]), strict=True):
            assert_close(g, want, 4, 1e-6)


@pytest.mark.parametrize("op", ["ArgMax", "ArgMin"])
@pytest.mark.parametrize("dtype", ["float32", "int8", "uint64"])
def test_arg_extremes(op: str, dtype: str) -> None:
    x = rng.integers(0, 5, (3, 17, 4)).astype(dtype)
    if dtype == "float32":
        x[1, 5, 2] = np.nan
    for axis in (0, 1, 2):
        for last in (0, 1):
            shape = tuple(d for i, d in enumerate(x.shape) if i != axis)
            w = Workload(
                op,
                (("axis", axis), ("keepdims", 0), ("select_last_index", last)),
                (Slot(TensorType(dtype, x.shape)),),
                (False,),
                (Slot(TensorType("int64", shape)),),
                Epilogue.identity("int64", 2),
                "avx2",
            )
            (got,) = Runner(ArgExtreme(), w).same_for_all_splits((x,))
            pick = np.argmax if op == "ArgMax" else np.argmin
            want = x.shape[axis] - 1 - pick(np.flip(x, axis), axis) if last else pick(x, axis)
            assert np.array_equal(got, want)


@pytest.mark.parametrize("axis", [0, 1])
def test_run_time_last_axis_of_the_output(axis: int) -> None:
    shape: tuple[int | Dim, ...] = (N, 37) if axis else (37, N)
    run = Runner(Reduce(), workload("ReduceSum", shape, (axis,), 0))
    for n in (1, 5, 40):
        x = rng.standard_normal((n, 37) if axis else (37, n)).astype(np.float32)
        (got,) = run.same_for_all_splits((x,), env={"N": n})
        assert_close(got, x.astype(np.float64).sum(axis), 8, 1e-5)


def test_a_program_needs_a_known_last_axis() -> None:
    e = Epilogue((Operand("float32", (True,)),), (Instr("Relu", (0,), "float32"),), (1,))
    assert "known at build time" in (Reduce().accepts(workload("ReduceSum", (N, 37), (1,), 0, e=e)) or "")
