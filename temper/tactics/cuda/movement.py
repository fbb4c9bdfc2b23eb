"""The GPU tactics of ops that move, select, count and make elements, rather than compute with them."""

from __future__ import annotations

from temper.tactics.base import Tactic
from temper.tactics.cuda.axis_maps import AxisMaps
from temper.tactics.cuda.boxes_kept import BoxesKept
from temper.tactics.cuda.filled import Filled
from temper.tactics.cuda.gather import GatherElements, GatherND, GatherRows, Lookup, OneHot, ReverseSequence
from temper.tactics.cuda.histogram import Histogram
from temper.tactics.cuda.joins import Concat, Split
from temper.tactics.cuda.positions import Positions
from temper.tactics.cuda.running import Running
from temper.tactics.cuda.sampling import GridSample, MaxRoiPool, RoiAlign
from temper.tactics.cuda.scatter import ScatterElements, ScatterND
from temper.tactics.cuda.sums import ColumnsToImage, DeformConv, Einsum, FourierSums, Hardmax
from temper.tactics.cuda.top_k import TopK, TopKWide


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
        Running(),
        TopK(),
        TopKWide(),
        Positions(),
        BoxesKept(),
        Histogram(),
        GridSample(),
        RoiAlign(),
        MaxRoiPool(),
        Einsum(),
        FourierSums(),
        ColumnsToImage(),
        DeformConv(),
        Hardmax(),
    )
