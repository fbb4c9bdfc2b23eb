"""Cheaper forms of an epilogue program's instructions where what consumes their results cannot tell the difference.

A product's epilogue runs on every element it computes: GELU to float32's precision took as long as the product itself.
"""

from __future__ import annotations

from dataclasses import replace

from temper.tactics.cuda.loads import FLOATS8, HALVES
from temper.tactics.epilogue import Epilogue, Instr

#: Types with at most 11 significant bits.
_COARSE = frozenset({*HALVES, *FLOATS8, "float8e5m2"})


def with_shortcuts(e: Epilogue) -> Epilogue:
    """The program with attributes that let instructions.py choose cheaper texts:

    - `Gelu`: approximate="half" where its result is only ever rounded to half precision or less, "codes" where it is
      only divided by a scale and rounded to codes.
    - `Div` by a scalar before rounding to codes: codes=1; a quotient beyond 2^10 may become any other beyond. codes=2
      if a GELU is divided: its approximation errs by more than a reciprocal does, which may then replace the division.
    - `Cast` of 8-bit codes to float32, perhaps less a zero point: codes=1, or 2 if that zero point is small.
    - `Saturate` of a value that cannot be NaN: finite=1.
    """
    first = len(e.operands)
    users: list[list[int]] = [[] for _ in range(first + len(e.instrs))]
    for k, instr in enumerate(e.instrs):
        for a in instr.args:
            users[a].append(k)
    coarse: set[int] = set()
    coded: set[int] = set()
    instrs = list(e.instrs)
    for k in reversed(range(len(instrs))):
        instr, value = instrs[k], first + k
        seen = [] if value in e.results or instr.dtype != "float32" else users[value]
        if seen and all(e.instrs[u].op == "Saturate" for u in seen):
            coded.add(value)
        if seen and all(_coarsens(e.instrs[u], first + u, coarse) for u in seen):
            coarse.add(value)
        if instr.op == "Gelu" and instr.attr("approximate", "none") == "none":
            if seen and all(instrs[u].op == "Div" and instrs[u].attr("codes", 0) == 2 for u in seen):
                instrs[k] = replace(instr, attrs=(("approximate", "codes"),))
            elif value in coarse or instr.dtype in _COARSE:
                instrs[k] = replace(instr, attrs=(("approximate", "half"),))
        elif instr.op == "Cast" and instr.dtype == "float32" and not instr.attr("codes", 0):
            instrs[k] = _from_codes(e, k)
        elif instr.op == "Div" and value in coded and _is_scalar(e, instr.args[1]) and not instr.attr("codes", 0):
            dividend = instr.args[0] - first
            rough = dividend >= 0 and e.instrs[dividend].op == "Gelu"
            instrs[k] = replace(instr, attrs=(("codes", 2 if rough else 1),))
        elif instr.op == "Saturate" and _finite(e, instr.args[0]):
            instrs[k] = replace(instr, attrs=(*instr.attrs, ("finite", 1)))
    return replace(e, instrs=tuple(instrs))


#: Steps that make no NaN of numbers, scales and codes.
_PLAIN = frozenset({"Add", "Mul", "Div", "Relu", "Clip", "Max", "Min", "Gelu", "Silu", "Sigmoid", "Tanh", "HardSwish"})


def _finite(e: Epilogue, value: int) -> bool:
    """No NaN: made by plain steps of integers and of what all elements, or all of a channel, share."""
    first = len(e.operands)
    if value < first:
        o = e.operands[value]
        return "int" in o.dtype or (value > 0 and o.kind in ("scalar", "channel"))
    instr = e.instrs[value - first]
    return "int" in instr.dtype or (
        (instr.op in _PLAIN or instr.op == "Cast") and all(_finite(e, a) for a in instr.args)
    )


def with_reciprocal(e: Epilogue) -> Epilogue:
    """The program with the division of the anchor's result before rounding to codes, if there is one, marked to be a
    multiplication by the reciprocal: for anchors whose results are quotients of float sums, which err by more."""
    marked = with_shortcuts(e).instrs
    return replace(
        e,
        instrs=tuple(
            replace(m, attrs=(("codes", 2),)) if m.op == "Div" and m.attr("codes", 0) and m.args[0] == 0 else i
            for i, m in zip(e.instrs, marked, strict=True)
        ),
    )


def _from_codes(e: Epilogue, k: int) -> Instr:
    """A conversion to float32, marked (`codes`) where it is of 8-bit codes, or of codes less a scalar: then of both."""
    cast, first = e.instrs[k], len(e.operands)
    marked = replace(cast, attrs=(*cast.attrs, ("codes", 1)))
    (value,) = cast.args
    if e.dtype_of(value) in ("int8", "uint8"):
        return marked
    less = e.instrs[value - first] if value >= first else cast
    if less.op != "Sub" or less.dtype != "int32" or less.args[0] < first or not _is_scalar(e, less.args[1]):
        return cast
    wide = e.instrs[less.args[0] - first]
    if wide.op != "Cast" or e.dtype_of(wide.args[0]) not in ("int8", "uint8"):
        return cast
    small = e.operands[less.args[1]].limit < 1 << 20
    return replace(cast, attrs=(*cast.attrs, ("codes", 2 if small else 1)), args=(wide.args[0], less.args[1]))


def _is_scalar(e: Epilogue, value: int) -> bool:
    return value < len(e.operands) and e.operands[value].kind == "scalar"


def _coarsens(user: Instr, value: int, coarse: set[int]) -> bool:
    """What `user` makes of its argument has no more than half precision."""
    if user.op in ("Cast", "Saturate"):
        return user.op == "Saturate" or user.dtype in _COARSE
    return user.op in ("Mul", "Div") and value in coarse
