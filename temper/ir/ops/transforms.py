"""Transforms: discrete Fourier transforms and determinants."""

from __future__ import annotations

import math
from collections.abc import Sequence

from temper.errors import ShapeError
from temper.ir.dims import DimLike
from temper.ir.opdef import Attrs, Kind, OpDef, Tolerance
from temper.ir.ops import rules
from temper.ir.ops.rules import FLOATS, INT, Types, allow, axis_of, default, integer, need
from temper.ir.types import TensorType
from temper.reference.transforms import REFERENCES


def _dft(types: Types, attrs: Attrs) -> list[TensorType]:
    x, length = allow(need(types, 0), FLOATS), integer(attrs, "length")
    if x.rank < 2 or x.shape[-1] not in (1, 2):
        raise ShapeError(f"{x} must end in an axis of 1 (real) or 2 (complex numbers)")
    axis = axis_of(integer(attrs, "axis"), x.rank)
    if axis == x.rank - 1:
        raise ShapeError(f"axis {axis} of {x} is that of real and imaginary parts")
    if length < 1:
        raise ShapeError(f"length must be positive, not {length}")
    half, inverse = integer(attrs, "onesided"), integer(attrs, "inverse")
    if half and not inverse and x.shape[-1] != 1:
        raise ShapeError(f"onesided transforms are of real data, not of {x}")
    count = length // 2 + 1 if half and not inverse else length
    return [TensorType(x.dtype, (*x.shape[:axis], count, *x.shape[axis + 1 : -1], 1 if half and inverse else 2))]


def _dft_cost(inputs: Types, outputs: Sequence[TensorType], attrs: Attrs) -> DimLike:
    return outputs[0].count * (5 * max(1, math.ceil(math.log2(integer(attrs, "length")))))


def _det(types: Types, attrs: Attrs) -> list[TensorType]:
    x = allow(need(types, 0), FLOATS)
    if x.rank < 2:
        raise ShapeError(f"{x} is not a matrix")
    rules.equal_or_raise(x.shape[-2], x.shape[-1], f"rows and columns of {x}")
    return [TensorType(x.dtype, x.shape[:-2])]


def _det_cost(inputs: Types, outputs: Sequence[TensorType], attrs: Attrs) -> DimLike:
    x = need(inputs, 0)
    return x.count * x.shape[-1]


OPS: tuple[OpDef, ...] = (
    OpDef(
        "DFT",
        Kind.OPAQUE,
        (1, 1),
        _dft,
        REFERENCES["DFT"],
        _dft_cost,
        {"axis": INT, "length": INT, "inverse": default(0), "onesided": default(0)},
        tolerance=Tolerance(8.0, True),
    ),
    OpDef("Det", Kind.OPAQUE, (1, 1), _det, REFERENCES["Det"], _det_cost, tolerance=Tolerance(8.0, True)),
)
