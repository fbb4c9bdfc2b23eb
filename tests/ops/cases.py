"""The one case library: small, awkward instances of every op, run on the references, every backend and every tactic.

A case makes its operands from its own name's seed, so that it is the same everywhere. Shapes are odd on purpose:
channels that fill no vector, 1x1 spatial sizes, empty axes, broadcasting on either side, negative axes, special floats.
"""

from __future__ import annotations

from tests.ops import (
    cases_attention,
    cases_blocks,
    cases_contraction,
    cases_control,
    cases_elementwise,
    cases_formats,
    cases_host,
    cases_movement,
    cases_recurrent,
    cases_reduction,
    cases_vision,
)
from tests.ops.case import Arrays, Case, type_of

__all__ = ["CASES", "Arrays", "Case", "cases_of", "type_of"]

_FAMILIES = (
    cases_elementwise,
    cases_formats,
    cases_contraction,
    cases_reduction,
    cases_movement,
    cases_blocks,
    cases_attention,
    cases_recurrent,
    cases_control,
    cases_vision,
    cases_host,
)

CASES: tuple[Case, ...] = tuple(case for family in _FAMILIES for case in family.cases())


def cases_of(*ops: str) -> list[Case]:
    """The cases of these ops, in order."""
    return [c for c in CASES if c.op in ops]
