"""Bounds that candidates are checked against."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from temper.ir.types import TensorType
from temper.reference.formats import decode
from temper.tactics.base import Slot, Workload
from temper.tactics.epilogue import Epilogue, Instr, Operand
from temper.tune.verify import make_problem, mismatch


def _program(function: str, to: str) -> Workload:
    """y = cast(function(x)) of as many numbers as make some of them fall beside a tie."""
    e = Epilogue(
        (Operand("float32", (True,)),),
        (Instr(function, (0,), "float32"), Instr("Cast", (1,), to, (("to", to),))),
        (2,),
    )
    return Workload("Pointwise", (), (), (), (Slot(TensorType(to, (1 << 18,))),), e, "avx512")


@pytest.mark.parametrize("to", ["bfloat16", "float8e4m3fn"])
def test_a_function_may_move_a_code_beside_a_tie(to: str) -> None:
    w = _program("Sigmoid", to)
    p = make_problem(w, {}, {})
    (want,), (bound,) = p.want, p.bounds
    beside = np.flatnonzero(np.broadcast_to(bound, want.shape) > 0)
    assert len(beside) < want.size / 1000
    assert len(beside) or to != "bfloat16"
    for i in beside[:2]:
        assert mismatch(_moved(want, i, 1), want, bound, dtype=to) is None
        assert mismatch(_moved(want, i, 3), want, bound, dtype=to) is not None
    clear = int(np.flatnonzero(np.broadcast_to(bound, want.shape) == 0)[0])
    assert mismatch(_moved(want, clear, 1), want, bound, dtype=to) is not None


def test_a_function_on_a_gpu_may_move_the_smallest_codes_too() -> None:
    w = replace(_program("Gelu", "float8e4m3fn"), isa="sm_90")
    p = make_problem(w, {}, {})
    (want,), (bound,) = p.want, p.bounds
    nothing = int(np.flatnonzero(want == 0)[0])
    assert mismatch(_moved(want, nothing, 1), want, bound, dtype="float8e4m3fn") is None
    assert mismatch(_moved(want, nothing, 3), want, bound, dtype="float8e4m3fn") is not None


def test_narrow_floats_behind_integers_are_compared_as_numbers() -> None:
    """A step of 8-bit floats near 80 is 8, not the step of codes."""
    full, one = (True, True), (False, False)
    to, wide = "float8e4m3fn", (("to", "float32"),)
    steps = (Instr("Cast", (0,), "float32", wide), Instr("Mul", (2, 1), "float32"), Instr("Gelu", (3,), "float32"))
    last = Instr("Cast", (4,), to, (("to", to),))
    e = Epilogue((Operand("int32", full), Operand("float32", one)), (*steps, last), (5,))
    slots = [Slot(TensorType(kind, shape)) for kind, shape in (("int8", (64, 32)), ("int8", (32, 64)), (to, (64, 64)))]
    w = Workload("MatMulInt8", (("zero_point", 0),), tuple(slots[:2]), (False, True), (slots[2],), e, "sm_90")
    p = make_problem(w, {}, {}, operand_constants={1: np.array([[1e-3]], np.float32)})
    (want,), (bound,) = p.want, p.bounds
    large = np.unravel_index(np.argmax(decode(want, to) * (want != want.max())), want.shape)
    for far, right in ((1, True), (3, False)):
        off = want.copy()
        off[large] -= far
        assert (mismatch(off, want, bound, dtype=to) is None) == right


@pytest.mark.parametrize("op", ["ArgMax", "MatMul", "ReduceSum"])
def test_the_program_behind_an_anchor_of_any_type_is_wanted(op: str) -> None:
    """GPUs' kernels have programs behind whole numbers and float64 too."""
    dtype, to = {"ArgMax": ("int64", "int32"), "MatMul": ("float64", "float32"), "ReduceSum": ("int32", "float64")}[op]
    source = {"ArgMax": "float32", "MatMul": "float64", "ReduceSum": "int32"}[op]
    steps = (Instr("Cast", (0,), to, (("to", to),)), Instr("Neg", (1,), to))
    e = Epilogue((Operand(dtype, (True, True)),), steps, (2,))
    inputs = [Slot(TensorType(source, (6, 8)))] + [Slot(TensorType(source, (8, 1)))] * (op == "MatMul")
    attrs: tuple[tuple[str, object], ...] = (("axes", (1,)), ("keepdims", 1))
    if op != "ReduceSum":
        attrs = (("transA", 0), ("transB", 0))
    if op == "ArgMax":
        attrs = (("axis", 1), ("keepdims", 1), ("select_last_index", 0))
    out = (Slot(TensorType(to, (6, 1))),)
    w = Workload(op, attrs, tuple(inputs), (False,) * len(inputs), out, e, "sm_90")  # type: ignore[arg-type]
    p = make_problem(w, {}, {})
    x = p.inputs[0]
    assert x is not None
    made = {"ArgMax": lambda: x.argmax(1, keepdims=True), "ReduceSum": lambda: x.sum(1, keepdims=True)}
    want = -(made[op]() if op in made else x @ p.inputs[1]).astype(to)
    assert mismatch(want, p.want[0], p.bounds[0]) is None
    assert mismatch(want + want.dtype.type(1), p.want[0], p.bounds[0]) is not None


def _moved(codes: np.ndarray, i: int | np.intp, by: int) -> np.ndarray:
    out = codes.copy()
    out[i] += by
    return out


def test_arithmetic_before_a_code_is_exact() -> None:
    p = make_problem(_program("Neg", "float8e4m3fn"), {}, {})
    (x,), (want,), (bound,) = p.operands, p.want, p.bounds
    assert x is not None
    assert not np.any(bound)
    assert np.abs(decode(want, "float8e4m3fn") + x).max() < 0.25
    assert mismatch(_moved(want, 0, 1), want, bound, dtype="float8e4m3fn") is not None


def test_large_integers_are_compared_as_integers() -> None:
    want = np.array([1 << 60])
    assert mismatch(want + 1, want, np.zeros(())) is not None


def test_codes_made_of_a_code_that_may_be_off_by_one_may_be_off_by_what_that_moves() -> None:
    """The second result has steps of 0.1 where the first, behind a function, has 0.2."""
    cast = (("to", "float32"),)
    code = (("to", "int8"), ("zero_point", 0))
    operands = tuple(Operand(t, (True, True) if t == "int32" else (False, False)) for t in ("int32", *["float32"] * 3))
    e = Epilogue(
        operands,
        (
            Instr("Cast", (0,), "float32", cast),
            Instr("Mul", (4, 1), "float32"),
            Instr("Silu", (5,), "float32"),
            Instr("Div", (6, 2), "float32"),
            Instr("Saturate", (7,), "int8", code),
            Instr("Cast", (8,), "float32", cast),
            Instr("Mul", (9, 2), "float32"),
            Instr("Div", (10, 3), "float32"),
            Instr("Saturate", (11,), "int8", code),
        ),
        (8, 12),
    )
    slots = (Slot(TensorType("int8", (5, 8))), Slot(TensorType("int8", (8, 16))))
    out = Slot(TensorType("int8", (5, 16)))
    w = Workload("MatMulInt8", (("zero_point", 0),), slots, (False, False), (out, out), e, "sm_90")
    scales = {i: np.full((1, 1), s, np.float32) for i, s in ((1, 1e-4), (2, 0.2), (3, 0.1))}
    p = make_problem(w, {}, {}, operand_constants=scales)
    first, second = (np.broadcast_to(b, (5, 16)) for b in p.bounds)
    assert (first == 1).all() and (second == 3).all()
    off = p.want[1].copy()
    off[2, 3] += 3
    assert mismatch(off, p.want[1], p.bounds[1]) is None
    off[2, 3] += 1
    assert mismatch(off, p.want[1], p.bounds[1]) is not None
