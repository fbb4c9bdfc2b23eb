"""Ops of detection and flow networks: columns to images, deformable convolution, pooling of regions. Channels-first."""

from __future__ import annotations

from collections.abc import Sequence

from temper.errors import ShapeError
from temper.ir.dims import Dim, DimLike, product
from temper.ir.opdef import Attrs, AttrSpec, Kind, OpDef, Tolerance
from temper.ir.ops import rules
from temper.ir.ops.contraction import window_attrs, windowed
from temper.ir.ops.rules import FLOATS, INTS_ATTR, NUMBERS, Types, allow, default, dims, integer, need
from temper.ir.types import TensorType
from temper.reference.vision import REFERENCES

_WINDOW: dict[str, AttrSpec] = {"strides": INTS_ATTR, "pads": INTS_ATTR, "dilations": INTS_ATTR}
_SUM = Tolerance(4.0, True)


def _col2im(types: Types, attrs: Attrs) -> list[TensorType]:
    x, block, image = allow(need(types, 0), NUMBERS), rules.ints(attrs, "block_shape"), dims(attrs, "image_shape")
    if len(block) != len(image) or min(block, default=0) < 1:
        raise ShapeError(f"block_shape {block} does not fit an image of {rules.shape_text(image)}")
    strides, pads, dilations = window_attrs(attrs, len(image))
    rank, count = len(image), product(block)
    if x.rank != 3 or x.shape[1] % count != 0:
        raise ShapeError(f"{x} must be [N, C, windows] with C a multiple of {count}")
    windows: DimLike = 1
    for a, d in enumerate(image):
        windows = windowed(d, block[a], strides[a], pads[a], pads[rank + a], dilations[a]) * windows
    rules.equal_or_raise(x.shape[2], windows, f"windows of {x} and of an image of {rules.shape_text(image)}")
    return [TensorType(x.dtype, (x.shape[0], x.shape[1] // count, *image))]


def _col2im_cost(inputs: Types, outputs: Sequence[TensorType], attrs: Attrs) -> DimLike:
    return need(inputs, 0).count


def _deform_conv(types: Types, attrs: Attrs) -> list[TensorType]:
    x, w, offset = allow(need(types, 0), FLOATS), need(types, 1), need(types, 2)
    rules.same_dtype(types)
    rank = x.rank - 2
    if rank < 1 or w.rank != x.rank or offset.rank != x.rank:
        raise ShapeError(f"data {x}, weights {w} and offsets {offset} must have one rank of 3 or more")
    if 0 in x.shape[2:]:
        raise ShapeError(f"{x} has nothing to sample")
    kernel = rules.ints({"kernel": w.shape[2:]}, "kernel")
    strides, pads, dilations = window_attrs(attrs, rank)
    group, shifted, taps = integer(attrs, "group"), integer(attrs, "offset_group"), product(kernel)
    rules.equal_or_raise(x.shape[1], w.shape[1] * group, f"channels of {x} against weights {w} in {group} groups")
    if w.shape[0] % group != 0 or x.shape[1] % shifted != 0:
        raise ShapeError(f"{w} and {x} do not divide into {group} groups and {shifted} groups of offsets")
    out = tuple(
        windowed(d, kernel[a], strides[a], pads[a], pads[rank + a], dilations[a]) for a, d in enumerate(x.shape[2:])
    )
    for i, t, each in ((2, offset, taps * rank), (4, rules.optional(types, 4), taps)):
        if t is not None and t.shape != (x.shape[0], each * shifted, *out):
            expected = rules.shape_text((x.shape[0], each * shifted, *out))
            raise ShapeError(f"operand {i} must have shape {expected}, not {rules.shape_text(t.shape)}")
    rules.vector(rules.optional(types, 3), w.shape[0], "bias")
    return [TensorType(x.dtype, (x.shape[0], w.shape[0], *out))]


def _deform_cost(inputs: Types, outputs: Sequence[TensorType], attrs: Attrs) -> DimLike:
    w = need(inputs, 1)
    return outputs[0].count * (product(w.shape[1:]) * 4)


def _regions(x: TensorType, rois: TensorType, columns: int) -> None:
    allow(x, FLOATS)
    if x.rank != 4 or rois.rank != 2 or rois.shape[1] != columns:
        raise ShapeError(f"needs images [N, C, H, W] and regions [R, {columns}], not {x} and {rois}")
    rules.same_dtype([x, rois])


def _roi_align(types: Types, attrs: Attrs) -> list[TensorType]:
    x, rois, batch = need(types, 0), need(types, 1), allow(need(types, 2), frozenset({"int64"}), "batch_indices")
    _regions(x, rois, 4)
    rules.vector(batch, rois.shape[0], "batch_indices")
    if attrs["mode"] not in ("avg", "max"):
        raise ShapeError(f"mode {attrs['mode']!r} does not exist")
    if attrs["coordinate_transformation_mode"] not in ("half_pixel", "output_half_pixel"):
        raise ShapeError(f"coordinate_transformation_mode {attrs['coordinate_transformation_mode']!r} does not exist")
    size = integer(attrs, "output_height"), integer(attrs, "output_width")
    if min(size) < 1 or integer(attrs, "sampling_ratio") < 0:
        raise ShapeError(f"output sizes {size} must be positive, and sampling_ratio not negative")
    return [TensorType(x.dtype, (rois.shape[0], x.shape[1], *size))]


def _max_roi_pool(types: Types, attrs: Attrs) -> list[TensorType]:
    x, rois = need(types, 0), need(types, 1)
    _regions(x, rois, 5)
    pooled = rules.ints(attrs, "pooled_shape")
    if len(pooled) != 2 or min(pooled) < 1:
        raise ShapeError(f"pooled_shape must be two positive numbers, not {pooled}")
    return [TensorType(x.dtype, (rois.shape[0], x.shape[1], *pooled))]


def _region_cost(inputs: Types, outputs: Sequence[TensorType], attrs: Attrs) -> DimLike:
    area = product(need(inputs, 0).shape[2:])
    return outputs[0].count * (16 if isinstance(area, Dim) else min(area, 16))


OPS: tuple[OpDef, ...] = (
    OpDef(
        "Col2Im",
        Kind.OPAQUE,
        (1, 1),
        _col2im,
        REFERENCES["Col2Im"],
        _col2im_cost,
        {**_WINDOW, "image_shape": INTS_ATTR, "block_shape": INTS_ATTR},
        tolerance=_SUM,
    ),
    OpDef(
        "DeformConv",
        Kind.OPAQUE,
        (3, 5),
        _deform_conv,
        REFERENCES["DeformConv"],
        _deform_cost,
        {**_WINDOW, "group": default(1), "offset_group": default(1)},
        tolerance=_SUM,
    ),
    OpDef(
        "RoiAlign",
        Kind.OPAQUE,
        (3, 3),
        _roi_align,
        REFERENCES["RoiAlign"],
        _region_cost,
        {
            "mode": default("avg"),
            "coordinate_transformation_mode": default("half_pixel"),
            "output_height": default(1),
            "output_width": default(1),
            "sampling_ratio": default(0),
            "spatial_scale": default(1.0),
        },
        tolerance=_SUM,
    ),
    OpDef(
        "MaxRoiPool",
        Kind.OPAQUE,
        (2, 2),
        _max_roi_pool,
        REFERENCES["MaxRoiPool"],
        _region_cost,
        {"pooled_shape": INTS_ATTR, "spatial_scale": default(1.0)},
        tolerance=Tolerance(relative=0.0),
    ),
)
