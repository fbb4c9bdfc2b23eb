"""Rarely used elementwise ops and types in typed loops: functions in double, halves, remainders, powers, shifts."""

from __future__ import annotations

import numpy as np
import pytest

from temper.ir.types import TensorType
from temper.reference.numeric import bfloat16_to_float32, float32_to_bfloat16
from temper.tactics.base import Slot, Workload
from temper.tactics.cpu.pointwise import Pointwise
from temper.tactics.epilogue import Attr, Epilogue, Instr, Operand
from tests.tactics.kernels import ISAS, Runner

rng = np.random.default_rng(0)


def run(
    op: str, arrays: list[np.ndarray], dtypes: list[str], to: str, isa: str = "avx512", **attrs: Attr
) -> np.ndarray:
    rank = arrays[0].ndim
    operands = tuple(Operand(d, (True,) * rank) for d in dtypes)
    e = Epilogue(operands, (Instr(op, tuple(range(len(arrays))), to, tuple(sorted(attrs.items()))),), (len(arrays),))
    out = TensorType(to, arrays[0].shape)
    w = Workload("Pointwise", (), (), (), (Slot(out),), e, isa)
    runner = Runner(Pointwise(), w)
    (got,) = runner.same_for_all_splits([], arrays)
    return got


def bits(dtype: str) -> str:
    return "uint16" if dtype == "bfloat16" else dtype


_DOMAIN = {
    "Asin": (-1, 1), "Acos": (-1, 1), "Atanh": (-1, 1), "Acosh": (1, 50), "Tan": (-400, 400),
    "Sinh": (-85, 85), "Cosh": (-85, 85), "Atan": (-50, 50), "Asinh": (-50, 50),
}  # fmt: skip
_NUMPY = {
    "Asin": np.arcsin, "Acos": np.arccos, "Atan": np.arctan, "Sinh": np.sinh, "Cosh": np.cosh, "Asinh": np.arcsinh,
    "Acosh": np.arccosh, "Atanh": np.arctanh, "Tan": np.tan, "Exp": np.exp, "Log": np.log, "Tanh": np.tanh,
    "Floor": np.floor, "Ceil": np.ceil, "Round": np.rint,
}  # fmt: skip


def near(got: np.ndarray, want: np.ndarray, ulps: float) -> None:
    with np.errstate(all="ignore"):
        same = (got == want) | (np.isnan(got) & np.isnan(want))
        off = np.abs(got.astype(np.float64) - want.astype(np.float64)) / np.spacing(np.abs(want)).astype(np.float64)
    assert (same | (off <= ulps)).all(), (got[~same & ~(off <= ulps)][:3], want[~same & ~(off <= ulps)][:3])


@pytest.mark.parametrize("op", _DOMAIN)
def test_functions_are_rounded_once(op: str) -> None:
    low, high = _DOMAIN[op]
    odd = [0.0, -0.0, 1.0, -1.0, np.inf, -np.inf, np.nan, 1e-30, -1e-30, 1e-5, 2.0, -2.0, 1e30]
    x = np.concatenate([rng.uniform(low, high, 3000), odd, rng.uniform(-1e-3, 1e-3, 100)]).astype(np.float32)
    with np.errstate(all="ignore"):
        want = _NUMPY[op](x.astype(np.float64)).astype(np.float32)
        near(run(op, [x], ["float32"], "float32"), want, 0.5001)
        if op != "Tan":
            near(run(op, [x.astype(np.float64)], ["float64"], "float64"), _NUMPY[op](x.astype(np.float64)), 8)


@pytest.mark.parametrize("op", ["Exp", "Log", "Tanh", "Floor", "Ceil", "Round"])
def test_functions_of_doubles(op: str) -> None:
    x = np.concatenate([rng.uniform(-750, 750, 3000), rng.uniform(-2, 2, 3000), np.arange(-5, 5) / 2])
    x = np.concatenate([x, [0.0, -0.0, np.inf, -np.inf, np.nan, 5e-324, 1e-310, 1e300, 4.5e15, 709.7, 710.0]])
    with np.errstate(all="ignore"):
        near(run(op, [x], ["float64"], "float64"), _NUMPY[op](x), 4)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_half_precision_is_exact(half: str, isa: str) -> None:
    every = np.arange(1 << 16).astype(np.uint16)
    wide = every.view(np.float16).astype(np.float32) if half == "float16" else bfloat16_to_float32(every)
    got = run("Cast", [every.view(bits(half))], [half], "float32", isa)
    np.testing.assert_array_equal(got[~np.isnan(wide)].view(np.uint32), wide[~np.isnan(wide)].view(np.uint32))
    assert np.isnan(got[np.isnan(wide)]).all()
    x = rng.integers(0, 1 << 32, 1 << 16, np.uint32).view(np.float32)
    steps = [wide[:-1] + (wide[1:] - wide[:-1]) * np.float32(f) for f in (0.5, 0.4999, 0.5001)]
    x = np.concatenate([x, *steps, np.float32([65519.9, 65520, 6e-8, 2.98e-8, 2.99e-8])])
    with np.errstate(all="ignore"):
        want = x.astype(np.float16).view(np.uint16) if half == "float16" else float32_to_bfloat16(x)
    got = run("Cast", [x], ["float32"], half, isa).view(np.uint16)
    real = ~np.isnan(x)
    np.testing.assert_array_equal(got[real], want[real])
    assert np.isnan(got.view(np.float16) if half == "float16" else bfloat16_to_float32(got))[~real].all()


def test_doubles_become_halves_in_one_rounding() -> None:
    tie = np.float64(np.float16(1.5)) + 2.0**-11
    x = np.array([tie, tie + 2.0**-40, tie - 2.0**-40, -tie - 2.0**-40, 1e300, -1e-300, 0.1])
    with np.errstate(over="ignore"):
        want = x.astype(np.float16)
    np.testing.assert_array_equal(run("Cast", [x], ["float64"], "float16"), want)


@pytest.mark.parametrize("isa", ISAS)
def test_halves_are_chosen_and_compared(isa: str) -> None:
    c = rng.random(50) < 0.5
    a, b = rng.standard_normal((2, 50)).astype(np.float16)
    chosen = run("Where", [c, a, b], ["bool", "float16", "float16"], "float16", isa)
    np.testing.assert_array_equal(chosen, np.where(c, a, b))
    np.testing.assert_array_equal(run("Cast", [a], ["float16"], "bool", isa), a != 0)
    np.testing.assert_array_equal(run("Cast", [a], ["float16"], "int32", isa), a.astype(np.int32))


@pytest.mark.parametrize("dtype", ["float32", "float64", "int8", "int64", "uint16"])
def test_remainders_and_powers(dtype: str) -> None:
    a, b = (rng.integers(-100, 100, 400).astype(dtype) for _ in range(2))
    if dtype.startswith("float"):
        a, b = (rng.standard_normal(400) * s for s in (1e6, 0.1))
        a, b = a.astype(dtype), np.where(rng.random(400) < 0.1, 0, b).astype(dtype)
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(run("Mod", [a, b], [dtype] * 2, dtype, fmod=1), np.fmod(a, b))
    if not dtype.startswith("float"):
        n = rng.integers(0, 7, 400).astype(np.int32)
        np.testing.assert_array_equal(run("Pow", [a, n], [dtype, "int32"], dtype), np.power(a, n.astype(dtype)))


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int32", "uint64", "int64"])
def test_shifts(dtype: str) -> None:
    a = rng.integers(np.iinfo(dtype).min, np.iinfo(dtype).max, 300, dtype, True)
    n = rng.integers(0, np.iinfo(dtype).bits, 300).astype(dtype)
    np.testing.assert_array_equal(run("BitShift", [a, n], [dtype] * 2, dtype, direction="LEFT"), np.left_shift(a, n))
    np.testing.assert_array_equal(run("BitShift", [a, n], [dtype] * 2, dtype, direction="RIGHT"), np.right_shift(a, n))


def test_infinities() -> None:
    x = np.float32([1, np.inf, -np.inf, np.nan])
    assert run("IsInf", [x], ["float32"], "bool").tolist() == [False, True, True, False]
    assert run("IsInf", [x], ["float32"], "bool", detect_positive=0).tolist() == [False, False, True, False]
    assert not run("IsInf", [x], ["float32"], "bool", detect_positive=0, detect_negative=0).any()
