"""Tree ensembles: operands as in reference/ensembles.py, all but the data constant. The frontend adds base values and
the transform of the scores as ops of their own."""

from __future__ import annotations

from collections.abc import Sequence

from temper.errors import ShapeError
from temper.ir.dims import DimLike
from temper.ir.opdef import Attrs, AttrSpec, Kind, OpDef, Tolerance
from temper.ir.ops import rules
from temper.ir.ops.rules import INT, Types, allow, integer, need
from temper.ir.types import TensorType
from temper.reference.ensembles import MODES as MODES
from temper.reference.ensembles import REFERENCES

AGGREGATES = ("SUM", "AVERAGE", "MIN", "MAX")

_OPERANDS = tuple("feature mode threshold children missing sets members roots starts targets weights".split())


def _ensemble(types: Types, attrs: Attrs) -> list[TensorType]:
    x = allow(need(types, 0), frozenset({"float32", "float64"}))
    if x.rank != 2:
        raise ShapeError(f"{x} must have rank 2")
    if attrs["aggregate"] not in AGGREGATES:
        raise ShapeError(f"aggregate must be one of {', '.join(AGGREGATES)}, not {attrs['aggregate']}")
    feature, *_, targets, weights = (need(types, i) for i in range(1, len(_OPERANDS) + 1))
    for i, name in enumerate(_OPERANDS, 1):
        shape = need(types, i).shape
        if name in ("children", "sets"):
            rules.equal_or_raise(shape[1], 2, f"columns of {name}")
        if name in ("mode", "threshold", "children", "missing", "sets"):
            rules.equal_or_raise(shape[0], feature.shape[0], f"rows of {name}")
    rules.equal_or_raise(targets.shape[0], weights.shape[0], "targets and weights")
    return [TensorType(weights.dtype, (x.shape[0], integer(attrs, "targets")))]


def _cost(inputs: Types, outputs: Sequence[TensorType], attrs: Attrs) -> DimLike:
    """A row visits a path of every tree: about log2 of its nodes, five operations each."""
    nodes, trees = need(inputs, 1).count, need(inputs, 8).count
    depth = 1
    if isinstance(nodes, int) and isinstance(trees, int) and trees:
        depth = max(1, (nodes // trees).bit_length())
    return need(inputs, 0).shape[0] * (trees * 5 * depth)


OPS: tuple[OpDef, ...] = (
    OpDef(
        "TreeEnsemble",
        Kind.OPAQUE,
        (12, 12),
        _ensemble,
        REFERENCES["TreeEnsemble"],
        _cost,
        {"targets": INT, "aggregate": AttrSpec(str, "SUM")},
        tolerance=Tolerance(relative=4.0),
    ),
)
