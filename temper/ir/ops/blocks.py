"""Blocks that passes recover from primitive ops because one kernel for the whole beats its parts.

SqueezeExcite(x, w1 [C, R], b1? [R], w2 [R, F], b2? [F]): gate(activation(mean(x) @ w1 + b1) @ w2 + b2), the mean over
all spatial axes, which stay as 1. activation, gate: unary elementwise ops; gate_alpha and gate_beta are HardSigmoid's.
apply: the result is x times these gates, F = C.
"""

from __future__ import annotations

from collections.abc import Sequence

from temper.errors import ShapeError
from temper.ir.dims import DimLike
from temper.ir.opdef import Attrs, AttrSpec, Kind, OpDef, Tolerance
from temper.ir.ops import rules
from temper.ir.ops.contraction import activation, channels_of, spatial_of
from temper.ir.ops.rules import FLOATS, Types, allow, default, need
from temper.ir.types import TensorType
from temper.reference.blocks import REFERENCES


def _squeeze_excite(types: Types, attrs: Attrs) -> list[TensorType]:
    x, w1, w2 = allow(need(types, 0), FLOATS), need(types, 1), need(types, 3)
    rules.same_dtype(types)
    if w1.rank != 2 or w2.rank != 2:
        raise ShapeError(f"the weights must be matrices, not {w1} and {w2}")
    rules.equal_or_raise(w1.shape[0], channels_of(x, attrs), f"rows of {w1} and channels of {x}")
    rules.equal_or_raise(w2.shape[0], w1.shape[1], f"rows of {w2} and columns of {w1}")
    rules.vector(rules.optional(types, 2), w1.shape[1], "the first bias")
    rules.vector(rules.optional(types, 4), w2.shape[1], "the second bias")
    if attrs["apply"]:
        rules.equal_or_raise(w2.shape[1], w1.shape[0], f"columns of {w2} and channels of {x}, which they are for")
        return [x]
    return [activation(x.dtype, x.shape[0], (1,) * len(spatial_of(x, attrs)), w2.shape[1], attrs)]


def _cost(inputs: Types, outputs: Sequence[TensorType], attrs: Attrs) -> DimLike:
    x, w1, w2 = need(inputs, 0), need(inputs, 1), need(inputs, 3)
    return x.count * (2 if attrs["apply"] else 1) + x.shape[0] * (w1.count + w2.count) * 2


OPS: tuple[OpDef, ...] = (
    OpDef(
        "SqueezeExcite",
        Kind.REDUCTION,
        (4, 5),
        _squeeze_excite,
        REFERENCES["SqueezeExcite"],
        _cost,
        {
            "activation": AttrSpec(str, required=True),
            "gate": AttrSpec(str, required=True),
            "gate_alpha": default(1 / 6),
            "gate_beta": default(0.5),
            "channels_last": default(0),
            "apply": default(0),
        },
        tolerance=Tolerance(relative=8.0, reduction=True),
    ),
)
