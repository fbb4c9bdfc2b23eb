"""Parabolas that stand for functions before codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from temper.tactics.cpu.parabolas import BENDS, PARABOLAS, coded, table, table_c
from temper.tactics.epilogue import Attr, Epilogue, Instr, Operand


def _near(name: str, x: np.ndarray) -> np.ndarray:
    """What the kernel computes, without its rounding."""
    step = BENDS[name].step
    z = np.maximum(x, -16 * step)
    at = np.rint(np.minimum(z, 15 * step) / step).astype(int) % PARABOLAS
    c = np.array(table(name))[:, at]
    result: np.ndarray = c[0] + z * (c[1] + z * c[2])
    return result


@pytest.mark.parametrize("name", BENDS)
def test_parabolas_are_near_the_function(name: str) -> None:
    bend = BENDS[name]
    x = np.linspace(-40 * bend.step, 40 * bend.step, 160_001)
    want = np.vectorize(bend.function)(x)
    error = np.abs(_near(name, x) - want)
    #: the smallest code of 255 that hold the function's negative values and as many positive ones
    least = 2 * float(-want.min()) / 255
    assert error[x < 14 * bend.step].max() < 0.7 * least
    assert np.median(error[np.abs(x) < 15 * bend.step]) < 0.1 * least
    assert (error[x > 14 * bend.step] < 1e-3 * x[x > 14 * bend.step]).all()
    small = np.abs(x) < bend.step
    assert (error[small] <= 2e-3 * np.abs(want[small])).all()


def test_table_text_has_all_coefficients() -> None:
    text = table_c("v_silu")
    assert text.count("f,") + text.count("f}") == 3 * PARABOLAS


_SCALAR = Operand("float32", (False, False))


def _program(
    op: str = "Gelu", unit: Operand = _SCALAR, results: tuple[int, ...] = (7,), divide: str = "Div"
) -> Epilogue:
    attrs: dict[str, tuple[tuple[str, Attr], ...]] = {"Gelu": (("approximate", "none"),)}
    to: tuple[tuple[str, Any], ...] = (("to", "uint8"), ("zero_point", 3))
    instrs = (
        Instr("Cast", (0,), "float32", (("to", "float32"),)),
        Instr("Mul", (3, 1), "float32"),
        Instr(op, (4,), "float32", attrs.get(op, ())),
        Instr(divide, (5, 2), "float32"),
        Instr("Saturate", (6,), "uint8", to),
    )
    return Epilogue((Operand("int32", (True, True)), _SCALAR, unit), instrs, results)


def test_parabolas_stand_where_only_codes_are_read() -> None:
    found = coded(_program(), 7)
    assert found is not None and (found.name, found.function, found.quotient, found.unit) == ("v_gelu", 5, 6, 2)
    assert coded(_program("Tanh"), 7) is None
    assert coded(_program(divide="Mul"), 7) is None
    assert coded(_program(unit=Operand("float32", (False, True))), 7) is None  # a unit for each channel
    assert coded(_program(results=(7, 5)), 7) is None  # floats are read too
