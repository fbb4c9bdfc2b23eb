"""Cheaper steps of GPU programs against the plain ones: which are taken, and that codes are the same to the last."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from temper.tactics.cuda.epilogue_triton import epilogue_helpers, epilogue_statements
from temper.tactics.cuda.shortcuts import with_shortcuts
from temper.tactics.epilogue import Epilogue, Instr, Operand
from temper.tactics.epilogue_reference import epilogue_reference
from tests.tactics.cuda.interpret import Job, interpret

FULL, SCALAR = Operand("float32", (True, True)), Operand("float32", (False, False))
CODES = (Instr("Div", (0, 1), "float32"), Instr("Saturate", (2,), "int8", (("to", "int8"), ("zero_point", 3))))


def forms(e: Epilogue) -> list[tuple[tuple[str, object], ...]]:
    return [i.attrs for i in with_shortcuts(e).instrs]


def test_only_what_nothing_finer_sees_is_approximated() -> None:
    gelu, half = Instr("Gelu", (0,), "float32"), (("approximate", "half"),)
    cast = Instr("Cast", (1,), "float16")
    assert forms(Epilogue((FULL,), (gelu, cast), (2,)))[0] == half
    assert forms(Epilogue((FULL,), (gelu, cast), (1, 2)))[0] == ()
    assert forms(Epilogue((FULL,), (gelu,), (1,)))[0] == ()
    between = (gelu, Instr("Exp", (1,), "float32"), Instr("Cast", (2,), "float16"))
    assert forms(Epilogue((FULL,), between, (3,)))[0] == ()
    codes = (Instr("Gelu", (0,), "float32"), Instr("Div", (2, 1), "float32"), Instr("Saturate", (3,), "int8"))
    assert forms(Epilogue((FULL, SCALAR), codes, (4,)))[:2] == [(("approximate", "codes"),), (("codes", 2),)]
    units = (gelu, Instr("Mul", (2, 1), "float32"), Instr("Div", (3, 1), "float32"), Instr("Saturate", (4,), "int8"))
    assert forms(Epilogue((FULL, SCALAR), units, (5,)))[0] == half
    tanh = Instr("Gelu", (0,), "float32", (("approximate", "tanh"),))
    assert forms(Epilogue((FULL,), (tanh, cast), (2,)))[0] == tanh.attrs


def test_a_quotient_that_anything_else_sees_is_divided() -> None:
    assert forms(Epilogue((FULL, SCALAR), CODES, (3,)))[0] == (("codes", 1),)
    assert forms(Epilogue((FULL, SCALAR), CODES, (2, 3)))[0] == ()
    assert forms(Epilogue((FULL, FULL), CODES, (3,)))[0] == ()


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_codes_of_quotients_are_exact(tmp_path: Path) -> None:
    e = Epilogue((FULL, SCALAR), CODES, (3,))
    rng = np.random.default_rng(5)
    scales = np.concatenate([10 ** rng.uniform(-4, 2, 12), [1.0, 0.1, 2.0**-126, 1e-30, 1e30]]).astype(np.float32)
    body = "\n".join(f"    {line}" for line in epilogue_statements(e, channels=1))
    text = f"import triton\nimport triton.language as tl\n{epilogue_helpers(e)}"
    text += f"""

@triton.jit
def codes(x, q1, o0):
    row = tl.program_id(0) * 256 + tl.arange(0, 256)
    channel = tl.arange(0, 1)
    live = row[:, None] >= 0
    v0 = tl.load(x + row[:, None])
{body}
"""
    arrays, jobs, want = {}, [], []
    for k, s in enumerate(scales):
        # ties between codes and their neighbours, whatever rounds to them, what is not a number, and random values
        with np.errstate(over="ignore"):
            ties = (np.arange(-133, 131) + 0.5).astype(np.float32) * s
        near = [ties, np.nextafter(ties, np.float32(np.inf)), np.nextafter(ties, np.float32(-np.inf))]
        odd = np.array([np.nan, np.inf, -np.inf, 0.0, 3e38, -3e38], np.float32)
        x = np.concatenate([*near, odd, (rng.uniform(-150, 150, 1024 - 792 - 6) * s).astype(np.float32)])
        arrays |= {f"x{k}": x, f"s{k}": np.array([s]), f"o{k}": np.zeros(x.size, np.int8)}
        jobs.append(Job(text, "codes", x.size // 256, tuple((f"{n}{k}", 0) for n in "xso")))
        want.append(epilogue_reference(e, [x.reshape(-1, 1), np.array([[s]])])[0].reshape(-1))
    results = interpret(jobs, arrays, tmp_path)
    for k, s in enumerate(scales):
        assert np.array_equal(results[f"o{k}"], want[k]), s


def test_conversions_of_codes_are_marked() -> None:
    codes, zero = Operand("int8", (True, True)), Operand("int32", (False, False))
    wide, back = Instr("Cast", (1,), "int32", (("to", "int32"),)), (("to", "float32"),)
    less = (wide, Instr("Sub", (3, 2), "int32"), Instr("Cast", (4,), "float32", back))
    made = with_shortcuts(Epilogue((FULL, codes, zero), less, (5,))).instrs[2]
    assert made.args == (1, 2) and made.attr("codes") == 1
    near = with_shortcuts(Epilogue((FULL, codes, replace(zero, limit=65536.0)), less, (5,))).instrs[2]
    assert near.args == (1, 2) and near.attr("codes") == 2
    plain = with_shortcuts(Epilogue((FULL, codes), (Instr("Cast", (1,), "float32", back),), (2,))).instrs[0]
    assert plain.args == (1,) and plain.attr("codes") == 1
    other = with_shortcuts(Epilogue((FULL, zero), (Instr("Cast", (1,), "float32", back),), (2,))).instrs[0]
    assert other.attr("codes", 0) == 0
