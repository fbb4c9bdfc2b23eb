"""Finds epilogue programs that are monotonic (never fall where the anchor's result rises).

A maximum may be taken before such a program instead of after it, bit for bit: max pooling can be fused.
"""

from __future__ import annotations

from temper.passes.region import Region
from temper.tactics.epilogue import Instr

#: Steps that do not fall, whatever else they read; rounding to a narrower float does not either.
_RISE = frozenset({"Cast", "Relu", "Clip", "Saturate", "Identity", "Add", "Max", "Min"})
_FLOATS = frozenset({"float32", "float16", "bfloat16"})


def falls(r: Region) -> str | None:
    """Why the result of a region's program might fall where its anchor's rises; None if it never does."""
    e, rising = r.epilogue, {0}
    first = len(e.operands)
    for k, instr in enumerate(e.instrs, first):
        found = [i for i, a in enumerate(instr.args) if a in rising]
        others = [a for a in instr.args if a not in rising]
        if len(found) != 1 or any(not 0 < a < first or not _alike(r, a) for a in others):
            return f"{instr.op} reads more than the step before it and constants of a channel"
        if (reason := _step_falls(r, instr, found[0], others)) is not None:
            return reason
        rising = {k}
    if len(e.results) != 1 or e.results[0] not in rising:
        return "its program has other results than the last step's"
    return None


def _alike(r: Region, operand: int) -> bool:
    """It is a constant, the same for all pixels."""
    mask = r.epilogue.operands[operand].mask
    channels = len(mask) - 1 if r.anchor is None or r.anchor.attrs.get("channels_last", 0) else 1
    return r.operands[operand].const is not None and not any(m for i, m in enumerate(mask) if i != channels)


def _step_falls(r: Region, instr: Instr, at: int, others: list[int]) -> str | None:
    """As `falls`, of one step whose argument number `at` rises."""
    if instr.op == "Cast" and instr.dtype not in _FLOATS:
        return f"conversion to {instr.dtype} may wrap"
    if instr.op in _RISE:
        return None
    if instr.op == "Sub" and at == 0:
        return None
    if instr.op == "Mul" or (instr.op == "Div" and at == 0):
        known = [r.operands[a].const for a in others]
        if all(c is not None and c.dtype.kind == "f" and bool((c > 0).all()) for c in known):
            return None
        return f"{instr.op} is not by positive constants"
    return f"{instr.op} may fall"
