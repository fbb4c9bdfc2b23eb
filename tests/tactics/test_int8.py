"""Products of codes whose epilogues are no exact arithmetic."""

from __future__ import annotations

import math

import numpy as np
import pytest

from temper.compile.cc import ISAS
from temper.ir.types import TensorType
from temper.runtime.machine import cpu_flags
from temper.tactics.base import Slot, Workload
from temper.tactics.cpu.int8 import GemmInt8
from temper.tactics.epilogue import Epilogue, Instr, Operand
from tests.tactics.kernels import Runner

_LEVELS = [name for name, isa in ISAS.items() if isa.needs <= cpu_flags()]


@pytest.mark.parametrize("isa", _LEVELS)
def test_gelu_before_codes_is_near_gelu(isa: str) -> None:
    """Accumulators in steps of 1/512 from -10 to 10 through GELU to codes of 0.0005 each, of which a uint8 has 256:
    within a code, and rounded otherwise than the exact function's in few places."""
    rows = 9728
    a = np.stack([np.arange(rows) // 128 - 38, np.arange(rows) % 128], axis=1).astype(np.int8)
    b = np.array([[127, 127], [1, 1]], np.int8)
    unit, step = np.float32(10 / (38 * 127)), np.float32(0.0005)
    scalar = (False, False)
    to = (("to", "uint8"), ("zero_point", 255))
    instrs = (
        Instr("Cast", (0,), "float32", (("to", "float32"),)),
        Instr("Mul", (3, 1), "float32"),
        Instr("Gelu", (4,), "float32", (("approximate", "none"),)),
        Instr("Div", (5, 2), "float32"),
        Instr("Saturate", (6,), "uint8", to),
    )
    operands = (Operand("int32", (True, True)), Operand("float32", scalar), Operand("float32", scalar))
    w = Workload(
        "MatMulInt8",
        (("zero_point", 0),),
        (Slot(TensorType("int8", a.shape)), Slot(TensorType("int8", b.shape))),
        (False, True),
        (Slot(TensorType("uint8", (rows, 2))),),
        Epilogue(operands, instrs, (7,)),
        isa,
    )
    (got,) = Runner(GemmInt8(), w).same_for_all_splits([a, b], [None, np.array([[unit]]), np.array([[step]])])
    x = (a.astype(np.int64) @ b.astype(np.int64)).astype(np.float32) * unit
    exact = x.astype(np.float64) * np.vectorize(lambda v: 0.5 * math.erfc(-v / math.sqrt(2)))(x.astype(np.float64))
    codes = exact / np.float64(step) + 255
    assert ((codes > 0) & (codes < 255)).sum() > 3000
    assert np.abs(got - np.clip(codes, 0, 255)).max() <= 0.5 + 2.6e-6 / 0.0005
    assert (got != np.clip(np.rint(codes), 0, 255)).mean() < 0.005


@pytest.mark.parametrize("isa", _LEVELS)
def test_long_sums_whose_results_come_late(isa: str) -> None:
    """Products long enough that results of a tile are made between those of the next; several blockings, rows and
    columns that fill no last tile; codes, and floats as a second result."""
    rng = np.random.default_rng(3)
    m, k, n = 61, 1032, 150
    a, b = rng.integers(0, 256, (m, k)).astype(np.uint8), rng.integers(-127, 128, (k, n)).astype(np.int8)
    unit, bias = rng.uniform(1e-5, 3e-4, (1, n)).astype(np.float32), rng.standard_normal((1, n)).astype(np.float32)
    channel = (False, True)
    instrs = (
        Instr("Cast", (0,), "float32", (("to", "float32"),)),
        Instr("Mul", (3, 1), "float32"),
        Instr("Add", (4, 2), "float32"),
        Instr("Saturate", (5,), "int8", (("to", "int8"), ("zero_point", 0))),
    )
    operands = (Operand("int32", (True, True)), Operand("float32", channel), Operand("float32", channel))
    floats = (a.astype(np.int64) @ b.astype(np.int64)).astype(np.float32) * unit + bias
    codes = np.clip(np.rint(floats), -128, 127).astype(np.int8)
    for results, want in (((6,), [codes]), ((6, 5), [codes, floats]), ((5,), [floats])):
        w = Workload(
            "MatMulInt8",
            (("zero_point", 0),),
            (Slot(TensorType("uint8", a.shape)), Slot(TensorType("int8", b.shape))),
            (False, True),
            tuple(Slot(TensorType(str(y.dtype), y.shape)) for y in want),
            Epilogue(operands, instrs[: 4 if results[0] == 6 else 3], results),
            isa,
        )
        candidates = GemmInt8().candidates(w)
        for params in candidates[:: max(1, len(candidates) // 2)]:
            got = Runner(GemmInt8(), w, params).same_for_all_splits([a, b], [None, unit, bias])
            for x, y in zip(got, want, strict=True):
                assert x.tobytes() == y.tobytes(), params
