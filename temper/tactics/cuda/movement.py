"""The GPU tactics of ops that move, select, count and make elements, rather than compute with them."""

from __future__ import annotations

from temper.tactics.base import Tactic
from temper.tactics.cuda.axis_maps import AxisMaps
from temper.tactics.cuda.filled import Filled
from temper.tactics.cuda.gather import GatherElements, GatherND, GatherRows, Lookup, OneHot, ReverseSequence
from temper.tactics.cuda.joins import Concat, Split
from temper.tactics.cuda.scatter import ScatterElements, ScatterND


def movement_tactics() -> tuple[Tactic, ...]:
    return (
        AxisMaps(),
        Concat(),
        Split(),
        GatherRows(),
        GatherElements(),
        GatherND(),
        Lookup(),
        OneHot(),
        ReverseSequence(),
        ScatterElements(),
        ScatterND(),
        Filled(),
    )
