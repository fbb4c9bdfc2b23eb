"""Functions whose results are rounded to 8-bit codes at once, as 32 parabolas each that registers hold.

The kernel looks three coefficients up by the multiple of `step` nearest to the argument (v_parabola() in vmath.h); its
table is in units of the codes, so that no division is left. A result is off by less than 1/5 of the smallest code that
fits the function's own range, far less where codes are coarser, and by 0.1 % of itself where it is smaller than
`step`; rounding a value to a code is off by 1/2. Below -16 steps all results are one number, from 14.5 steps on the
function is its argument.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache

from temper.tactics.cpu.instructions import instr_c
from temper.tactics.epilogue import Epilogue

PARABOLAS = 32


@dataclass(frozen=True)
class Bend:
    """A function that tends to 0 on the left, to its argument on the right, and is half of that plus an even function.

    step: width of an interval, a power of two. low: the result below -16 steps.
    """

    function: Callable[[float], float]
    step: float
    low: float

    def fit(self, k: int) -> tuple[float, float, float]:
        """Constant, linear and quadratic coefficients around k steps, -16 <= k < 16."""
        low, high = (k - 0.5) * self.step, (k + 0.5) * self.step
        if k == PARABOLAS // 2 - 1:
            return 0.0, 1.0, 0.0
        if k == -PARABOLAS // 2:
            slope = 2 * (self.function(high) - self.low) / self.step
            return (self.low - slope * k * self.step, slope, 0.0) if self.low else (0.0, 0.0, 0.0)
        if k == 0:  # value and slope at 0 are right: small results have small errors
            x = 0.8 * high
            return 0.0, 0.5, (self.function(x) - 0.5 * x) / (x * x)
        # Newton's form of the parabola through the function at Chebyshev's points, which errs least in the interval
        a, b, c = ((low + high) / 2 + (high - low) / 2 * math.cos((i + 0.5) * math.pi / 3) for i in range(3))
        fa, fb, fc = map(self.function, (a, b, c))
        ab, bc = (fb - fa) / (b - a), (fc - fb) / (c - b)
        square = (bc - ab) / (c - a)
        return fa - ab * a + square * a * b, ab - square * (a + b), square


def _gelu(x: float) -> float:
    return 0.5 * x * math.erfc(-x / math.sqrt(2))


def _gelu_tanh(x: float) -> float:
    return 0.5 * x * (1 + math.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def _silu(x: float) -> float:
    return x / (1 + math.exp(-x))


#: By the name of the C function they stand for.
BENDS: Mapping[str, Bend] = {
    "v_gelu": Bend(_gelu, 0.25, 0.0),
    "v_gelu_tanh": Bend(_gelu_tanh, 0.25, 0.0),
    "v_silu": Bend(_silu, 0.5, _silu(-8.0) / 2),
}


@dataclass(frozen=True)
class Coded:
    """Where a program divides a function's result by one number and rounds it to codes, with no other use of it.

    name: of `BENDS`. function, quotient: instructions' values. unit: the operand divided by.
    """

    name: str
    function: int
    quotient: int
    unit: int


def coded(e: Epilogue, code: int) -> Coded | None:
    """code: a value that Saturate makes."""
    first = len(e.operands)
    quotient = e.instrs[code - first].args[0]
    if quotient < first or e.instrs[quotient - first].op != "Div":
        return None
    function, unit = e.instrs[quotient - first].args
    if function < first or unit >= first or e.operands[unit].kind != "scalar":
        return None
    for value in (function, quotient):
        if value in e.results or sum(i.args.count(value) for i in e.instrs) > 1:
            return None
    instr = e.instrs[function - first]
    name = (instr_c(instr, ["x"], ["float32"], True) or "").removesuffix("(x)")
    return Coded(name, function, quotient, unit) if len(instr.args) == 1 and name in BENDS else None


@cache
def table(name: str) -> tuple[tuple[float, ...], ...]:
    """The coefficients of `BENDS[name]` by order; those of the interval around k steps at index k mod 32."""
    fits = [BENDS[name].fit(k if k < PARABOLAS // 2 else k - PARABOLAS) for k in range(PARABOLAS)]
    return tuple(zip(*fits, strict=True))


def table_c(name: str) -> str:
    """C text of `parabolas[3][32]`."""
    rows = ["  {" + ", ".join(f"{c.hex()}f" for c in row) + "}," for row in table(name)]
    return "\n".join([f"static const float parabolas[3][{PARABOLAS}] = {{", *rows, "};"])
