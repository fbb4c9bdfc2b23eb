"""What is known of the values of a program without its data: bounds of their magnitude, and products that are exact."""

from __future__ import annotations

import math

from temper.tactics.epilogue import Epilogue

_LARGEST = {"int8": 128.0, "uint8": 255.0, "bool": 1.0, "int16": 2.0**15, "uint16": 2.0**16, "int32": 2.0**31}
#: Ops whose result is no larger than the largest argument.
_SHRINKING = frozenset({"Cast", "Identity", "Relu", "Max", "Min", "Neg", "Abs"})
_CODES = ("int8", "uint8")


def bound(e: Epilogue, value: int) -> float:
    """A number that |value| never exceeds; infinite where none is known, as where a value could be NaN."""
    n = len(e.operands)
    if value < n:
        o = e.operands[value]
        return min(o.limit, _LARGEST.get(o.dtype, math.inf))
    instr = e.instrs[value - n]
    if instr.dtype != "float32":
        return _LARGEST.get(instr.dtype, math.inf)
    args = [bound(e, a) for a in instr.args]
    if math.inf in args:
        return math.inf
    if instr.op in _SHRINKING:
        return max(args)
    if instr.op in ("Add", "Sub"):
        return sum(args) * (1 + 2.0**-20)  # results are rounded
    if instr.op == "Mul":
        return math.prod(args) * (1 + 2.0**-20)
    return math.inf


def exact_product(e: Epilogue, value: int) -> tuple[int, int] | None:
    """(a, b) if `value` is a * b without rounding: of 8-bit codes and a factor of few bits."""
    n = len(e.operands)
    if value < n or e.instrs[value - n].op != "Mul":
        return None
    a, b = e.instrs[value - n].args
    for codes, factor in ((a, b), (b, a)):
        if factor < n and e.operands[factor].short and _of_codes(e, codes):
            return codes, factor
    return None


def _of_codes(e: Epilogue, value: int) -> bool:
    """`value` is 8-bit codes as floats."""
    n = len(e.operands)
    instr = e.instrs[value - n] if value >= n else None
    return instr is not None and instr.op == "Cast" and instr.dtype == "float32" and e.dtype_of(instr.args[0]) in _CODES
