"""The epilogue: a short straight-line program applied to each element an anchor produces, before it is stored.

The same program serves a region without an anchor (a pointwise chain). It is data, which numpy computes
(epilogue_reference.py) and which is rendered as C (cpu/render.py) and as Triton (cuda/epilogue_triton.py).

Values are numbered: operand 0 is the anchor's result (or the first input of a pointwise chain), operands 1.. are
further tensors broadcast against the output, then come the instructions in order. Every instruction is rounded
separately: the C compiler runs with -ffp-contract=off, and C fuses a multiplication and an addition only where the
product is exact (`Operand.short`), which gives the same bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

Attr = int | float | str | tuple[int, ...] | tuple[float, ...]


#: Bounds of constants that make a difference: int32 sums times such are far from int32's ends, and so are codes. Few,
#: as programs that differ in them are tuned and compiled apart.
LIMITS = (0.5, 65536.0)

#: Kernels may approximate a GELU that is divided by a unit and rounded to 8-bit codes as finely as units of this size
#: and above need; who makes such a program keeps smaller ones apart.
GELU_UNIT = 2.0**-11


@dataclass(frozen=True)
class Operand:
    """A tensor read by the program.

    mask: one bool per axis of the output: True where the operand has that axis, False where it is broadcast (size 1).
        (False, .., False, True) is a channel vector, (True, False, .., True) one vector per image, all True a full
        tensor.
    row_stride: elements between consecutive rows (last axis) of a full operand that is a view; None when dense.
    limit: of a float32 or int32 constant, a number of `LIMITS` that its magnitudes do not exceed.
    short: its values have at most 16 significant bits, so that their products with 8-bit codes are exact.
    """

    dtype: str
    mask: tuple[bool, ...]
    row_stride: int | None = None
    limit: float = math.inf
    short: bool = False

    @property
    def kind(self) -> str:
        """`full`, `channel`, `image_channel`, `pixel` (one value a row), `image`, `scalar`, or `general` for the
        rest."""
        if all(self.mask):
            return "full"
        if not any(self.mask):
            return "scalar"
        if self.mask[-1] and not any(self.mask[:-1]):
            return "channel"
        if len(self.mask) > 2 and self.mask[0] and self.mask[-1] and not any(self.mask[1:-1]):
            return "image_channel"
        if not self.mask[-1] and all(self.mask[:-1]):
            return "pixel"
        if self.mask[0] and not any(self.mask[1:]):
            return "image"
        return "general"


@dataclass(frozen=True)
class Instr:
    """One operation: `op` is the IR's op name, `args` are value numbers, `attrs` are sorted (name, value) pairs."""

    op: str
    args: tuple[int, ...]
    dtype: str
    attrs: tuple[tuple[str, Attr], ...] = ()

    def attr(self, name: str, default: Attr = 0.0) -> Attr:
        return dict(self.attrs).get(name, default)


@dataclass(frozen=True)
class Epilogue:
    """operands[0] is the accumulator; `results` are the value numbers stored, the first of them by the anchor's
    template."""

    operands: tuple[Operand, ...]
    instrs: tuple[Instr, ...]
    results: tuple[int, ...]

    def dtype_of(self, value: int) -> str:
        n = len(self.operands)
        return self.operands[value].dtype if value < n else self.instrs[value - n].dtype

    @property
    def key(self) -> str:
        """Canonical text: part of the timing-cache key and of the artifact's identity."""
        ops = ",".join(
            f"{o.dtype}:{''.join('01'[m] for m in o.mask)}{'/' + str(o.row_stride) if o.row_stride else ''}"
            f"{f'<{o.limit:g}' if o.limit < math.inf else ''}{'~' * o.short}"
            for o in self.operands
        )
        body = ";".join(
            f"{i.op}({','.join(map(str, i.args))}){dict(i.attrs) if i.attrs else ''}:{i.dtype}" for i in self.instrs
        )
        return f"{ops}|{body}|{','.join(map(str, self.results))}"

    @staticmethod
    def identity(dtype: str, rank: int) -> Epilogue:
        """The empty program: stores the accumulator as it is."""
        return Epilogue((Operand(dtype, (True,) * rank),), (), (0,))
