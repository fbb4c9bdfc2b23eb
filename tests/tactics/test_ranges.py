"""What is known of a program's values: bounds, exact products, and that kernels which rely on it stay exact."""

from __future__ import annotations

import math

import numpy as np
import pytest

from temper.compile.cc import ISAS
from temper.ir.types import TensorType
from temper.runtime.machine import cpu_flags
from temper.tactics.base import Slot, Workload
from temper.tactics.cpu.int8 import ConvInt8
from temper.tactics.cpu.ranges import bound, exact_product
from temper.tactics.epilogue import Epilogue, Instr, Operand
from temper.tactics.epilogue_reference import epilogue_reference
from tests.tactics.kernels import Runner

LEVELS = [i for i in ("avx512vnni", "avx512", "avx2", "portable") if ISAS[i].needs <= cpu_flags()]
FULL, CHANNEL, SCALAR = (True,) * 4, (False, False, False, True), (False,) * 4


def program(small: bool, short: bool) -> Epilogue:
    """round(acc * m + codes * f)"""
    operands = (
        Operand("int32", FULL), Operand("float32", CHANNEL, limit=0.5 if small else math.inf), Operand("int8", FULL),
        Operand("float32", SCALAR, limit=2.0**16 if small else math.inf, short=short),
    )  # fmt: skip
    cast = (("to", "float32"),)
    instrs = (
        Instr("Cast", (0,), "float32", cast), Instr("Mul", (4, 1), "float32"), Instr("Cast", (2,), "float32", cast),
        Instr("Mul", (6, 3), "float32"), Instr("Add", (7, 5), "float32"),
        Instr("Saturate", (8,), "uint8", (("to", "uint8"), ("zero_point", 7))),
    )  # fmt: skip
    return Epilogue(operands, instrs, (9,))


def test_bounds_follow_from_types_and_small_constants() -> None:
    e = program(True, False)
    assert bound(e, 4) == 2.0**31 and 2.0**30 <= bound(e, 5) < 2.0**30 * 1.001
    assert bound(e, 6) == 128 and 2.0**23 <= bound(e, 7) < 2.0**23 * 1.001
    assert bound(e, 8) < 2.0**31 - 256
    assert bound(program(False, False), 8) == math.inf


def test_products_are_exact_of_codes_and_short_factors_only() -> None:
    assert exact_product(program(False, True), 7) == (6, 3)
    assert exact_product(program(False, True), 5) is None  # an int32 sum has more bits
    assert exact_product(program(True, False), 7) is None
    assert program(True, False).key != program(True, True).key != program(False, True).key


@pytest.mark.parametrize("isa", LEVELS)
def test_sums_of_codes_in_one_instruction_have_the_bits_of_two(isa: str) -> None:
    rng = np.random.default_rng(3)
    e = program(True, True)
    shape, oc = (1, 6, 5, 12), 52
    attrs = (
        ("channels_last", 1), ("dilations", (1, 1)), ("group", 1), ("pads", (0, 0, 0, 0)), ("strides", (1, 1)),
        ("zero_point", 0),
    )  # fmt: skip
    ins = tuple(Slot(TensorType(d, s)) for d, s in (("uint8", shape), ("int8", (1, 1, 12, oc)), ("int32", (oc,))))
    out = Slot(TensorType("uint8", (1, 6, 5, oc)))
    load = Workload("ConvInt8", attrs, ins, (False, True, True), (out,), e, isa)
    x = rng.integers(0, 256, shape).astype(np.uint8)
    w = rng.integers(-128, 128, (1, 1, 12, oc)).astype(np.int8)
    b = rng.integers(-(2**31), 2**31, oc).astype(np.int32)
    b[::2] >>= 14
    m = (0.5 * rng.random((1, 1, 1, oc)) ** 8).astype(np.float32)
    codes = rng.integers(-128, 128, (1, 6, 5, oc)).astype(np.int8)
    acc = (x.astype(np.int64) @ w[0, 0].astype(np.int64) + b).astype(np.int32)
    for f in (0.25, 0.99998474, 3.75, 1.1920928955078125e-07 * 0x8001):
        factor = np.full((1, 1, 1, 1), f, np.float32)
        (got,) = Runner(ConvInt8(), load).same_for_all_splits((x, w, b), (None, m, codes, factor))
        (want,) = epilogue_reference(e, [acc, m, codes, factor])
        assert np.array_equal(got, want)
