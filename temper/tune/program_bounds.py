"""Error bounds of a region's elementwise program: how far rounding inside it may move its results.

A program is evaluated with one inner value moved at a time: by some units in the last place where it is a float, by one
step where it is a code that a function may leave off by one.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from temper.dtypes import NARROW_FLOATS
from temper.ir.ops import TABLE
from temper.reference.formats import numbers
from temper.tactics.base import Workload
from temper.tactics.epilogue import Epilogue
from temper.tactics.epilogue_reference import epilogue_reference

Arrays = Sequence["np.ndarray | None"]

_EPS = float(np.finfo(np.float32).eps)

#: Steps that every device rounds alike, one operation at a time.
_EXACT_STEPS = frozenset(
    {"Cast", "Add", "Sub", "Mul", "Div", "Max", "Min", "Relu", "Clip", "Saturate", "Constant", "Identity", "Neg", "Abs"}
)
#: Distance of a number of these types to the next one: relatively, at most, and of the smallest numbers.
_NEXT = {"bfloat16": (2.0**-7, 2.0**-133), "float8e4m3fn": (2.0**-3, 2.0**-9)}


def program_bounds(w: Workload, operands: Arrays, want: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Bounds of a program's own rounding: every inner value may be off by 4 units in the last place, seen through the
    rest of the program (which matters where later steps cancel), and the result by 8. Results that are codes or
    integers are exact, but where the rounding of a function before them (Sigmoid, Exp; not of arithmetic) moves them to
    the next. A GPU's kernels may approximate functions as well as the narrow float that is stored needs: it may be the
    next one."""
    dtypes = [w.epilogue.dtype_of(r) for r in w.epilogue.results]
    bounds = [_rounding(y, 8.0) for y in want]
    if w.isa.startswith("sm_") and any(_inexact(i.op) for i in w.epilogue.instrs):
        bounds = [
            b + np.maximum(_NEXT[d][0] * np.abs(as_numbers(y, d)), _NEXT[d][1]) if d in _NEXT else b
            for b, y, d in zip(bounds, want, dtypes, strict=True)
        ]
    first = len(w.epilogue.operands)
    for k, instr in enumerate(w.epilogue.instrs):
        used = any(first + k in later.args for later in w.epilogue.instrs[k + 1 :])
        if instr.dtype not in ("float32", "float16", "bfloat16", "float64") or not used:
            continue
        if not _inexact(instr.op) and all(y.dtype.kind not in "fc" for y in want):
            continue
        for delta in (4 * _EPS, -4 * _EPS):
            moved = epilogue_reference(w.epilogue, operands, (first + k, delta))
            bounds = [
                b + difference(as_numbers(m, d), as_numbers(y, d)) if y.dtype.kind in "fc" or _inexact(instr.op) else b
                for b, m, y, d in zip(bounds, moved, want, dtypes, strict=True)
            ]
    return bounds


def integer_bounds(w: Workload, operands: Arrays, want: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Of a program behind an integer accumulator, which is exact, and so is what exact steps make of it; behind others
    a code may be off by 1, and what is made of that code by as much as one step of it moves it."""
    if all(i.op in _EXACT_STEPS for i in w.epilogue.instrs):
        return [np.zeros(()) for _ in want]
    own = program_bounds(w, operands, want)
    dtypes = [w.epilogue.dtype_of(r) for r in w.epilogue.results]
    bounds = [
        np.ones(()) if y.dtype.kind in "iu" and d not in NARROW_FLOATS else b
        for y, b, d in zip(want, own, dtypes, strict=True)
    ]
    for number in _inner_codes(w.epilogue):
        up, down = (epilogue_reference(w.epilogue, operands, (number, step)) for step in (1, -1))
        for k, (y, d) in enumerate(zip(want, dtypes, strict=True)):
            if w.epilogue.results[k] != number:
                far = [difference(as_numbers(moved[k], d), as_numbers(y, d)) for moved in (up, down)]
                bounds[k] = bounds[k] + np.maximum(*far)
    return bounds


def _inner_codes(e: Epilogue) -> list[int]:
    """Values of a program that are codes behind steps that are not exact, and that later steps read."""
    first, late, found = len(e.operands), set[int](), []
    for k, instr in enumerate(e.instrs):
        if instr.op in _EXACT_STEPS and late.isdisjoint(instr.args):
            continue
        late.add(first + k)
        if instr.dtype in ("int8", "uint8") and any(first + k in later.args for later in e.instrs[k + 1 :]):
            found.append(first + k)
    return found


def as_numbers(y: np.ndarray, dtype: str) -> np.ndarray:
    """The numbers a result stands for, in which its error is told."""
    return numbers(y, dtype) if dtype in NARROW_FLOATS else y


def _inexact(op: str) -> bool:
    """True for functions, whose kernels may round otherwise than the reference."""
    return op in TABLE and TABLE[op].tolerance.relative > 0


def difference(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """|a - b| in float64; infinite where it is not a number."""
    with np.errstate(invalid="ignore", over="ignore"):
        return np.nan_to_num(np.abs(a.astype(np.float64) - b.astype(np.float64)), nan=np.inf)


def _rounding(y: np.ndarray, ulps: float) -> np.ndarray:
    if y.dtype.kind != "f":
        return np.zeros(())
    eps = float(np.finfo(y.dtype).eps)
    with np.errstate(invalid="ignore", over="ignore"):
        return ulps * eps * np.abs(np.nan_to_num(y.astype(np.float64), posinf=0, neginf=0)) + ulps * eps * 1e-3
