"""ImageDecoder: a host step whose result is as large as the image."""

from __future__ import annotations

from typing import Any, cast

from temper.errors import ShapeError
from temper.ir.opdef import Attrs, AttrSpec, Kind, OpDef, Tolerance
from temper.ir.ops import rules
from temper.ir.ops.rules import Types, allow, default, need
from temper.ir.types import TensorType
from temper.reference.images import REFERENCES


def _decoder(types: Types, attrs: Attrs) -> list[TensorType]:
    x, sizes = allow(need(types, 0), frozenset({"uint8"})), cast("tuple[Any, ...]", attrs["count"])
    if x.rank != 1 or len(sizes) != 2:
        raise ShapeError(f"{x} must be the bytes of a file, and count {sizes} a height and a width")
    if attrs["pixel_format"] not in ("RGB", "BGR", "Grayscale"):
        raise ShapeError(f"pixel_format must be RGB, BGR or Grayscale, not {attrs['pixel_format']}")
    return [TensorType("uint8", (*sizes, 1 if attrs["pixel_format"] == "Grayscale" else 3))]


OPS: tuple[OpDef, ...] = (
    OpDef(
        "ImageDecoder",
        Kind.OPAQUE,
        (1, 1),
        _decoder,
        REFERENCES["ImageDecoder"],
        rules.per_input(100),
        {"pixel_format": default("RGB"), "count": AttrSpec(tuple, required=True)},
        tolerance=Tolerance(relative=0.0),
        deterministic=False,
    ),
)
