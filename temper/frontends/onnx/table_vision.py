"""ONNX ops of detection and flow networks, and those that write into a larger tensor."""

from __future__ import annotations

import numpy as np

from temper.errors import ShapeError
from temper.frontends.onnx.context import Context, Refusal, Row, same
from temper.frontends.onnx.table_values import filled
from temper.frontends.onnx.windows import window
from temper.ir.dims import Dim, DimLike, product
from temper.ir.graph import Value


def _col2im(c: Context) -> Value:
    image, block = c.dims(1, "image_shape"), c.ints(2, "block_shape")
    attrs = window(c, image, block)
    return c.emit("Col2Im", c.input(0), image_shape=image, block_shape=block, **attrs)


def _deform_conv(c: Context) -> Value:
    x, w = c.input(0), c.input(1)
    kernel = w.type.shape[2:]
    if any(isinstance(d, Dim) for d in kernel) or x.type.rank != w.type.rank:
        raise ShapeError(f"{c}: data {x.type} and weights {w.type} must have one rank, and the kernel a known size")
    attrs = window(c, x.type.shape[2:], [d for d in kernel if isinstance(d, int)])
    return c.emit("DeformConv", *c.inputs, **attrs, **c.take("group", "offset_group"))


def _roi_align(c: Context) -> Value:
    """Before opset 16 regions were not shifted by half a pixel."""
    names = ("mode", "output_height", "output_width", "sampling_ratio", "spatial_scale")
    corners = c.attr("coordinate_transformation_mode", "half_pixel") if c.opset >= 16 else "output_half_pixel"
    return c.emit("RoiAlign", *c.inputs, coordinate_transformation_mode=corners, **c.take(*names))


def _max_unpool(c: Context) -> Value:
    """Zeros with the elements of X where the indices point; a stated shape crops or extends them at the end."""
    x, index = c.input(0), c.input(1)
    kernel = tuple(c.attr("kernel_shape"))
    attrs = window(c, x.type.shape[2:], kernel)
    rank, strides, pads = len(kernel), attrs["strides"], attrs["pads"]
    spatial = [(d - 1) * strides[a] + (kernel[a] - pads[a] - pads[rank + a]) for a, d in enumerate(x.type.shape[2:])]
    shape: tuple[DimLike, ...] = (*x.type.shape[:2], *spatial)
    zero = np.zeros((), np.dtype(x.type.dtype)) if x.type.dtype != "bfloat16" else np.zeros((), np.uint16)
    zeros = filled(c, zero, x.type.dtype, (product(shape),))
    count = (x.type.count,)
    y = c.reshape(c.emit("ScatterElements", zeros, c.reshape(index, count), c.reshape(x, count), axis=0), shape)
    if not c.has(2):
        return y
    wanted = c.dims(2, "output_shape")
    if len(wanted) != len(shape):
        raise ShapeError(f"{c}: output_shape (input 2) must have {len(shape)} entries, not {len(wanted)}")
    ends = tuple(a - b for a, b in zip(wanted, shape, strict=True))
    return c.emit("Pad", y, pads=(*(0 for _ in shape), *ends)) if any(e != 0 for e in ends) else y


def _tensor_scatter(c: Context) -> Value:
    """past[b, .., start[b] + t, ..] = update[b, .., t, ..]; circular: the position modulo the cache's length."""
    past, update = c.input(0), c.input(1)
    rank = past.type.rank
    axis = c.axis(rank, -2)
    if axis == 0 or update.type.rank != rank:
        raise ShapeError(f"{c}: axis {axis} and update {update.type} do not fit a cache {past.type} of batches")
    length, most = update.type.shape[axis], past.type.shape[axis]
    along = [length if a == axis else 1 for a in range(rank)]
    if isinstance(length, int):
        at = c.constant(np.arange(length).reshape([int(str(d)) for d in along]))
    else:
        at = c.reshape(c.emit("Range", start=0, limit=length, delta=1), along)
    if c.has(2):
        starts = c.input(2)
        at = c.emit("Add", at, c.reshape(starts, [starts.type.shape[0], *(1 for _ in range(rank - 1))]))
    if c.attr("mode", "linear") == "circular":
        if isinstance(most, Dim):
            raise Refusal(f"the position is taken modulo the symbolic size {most}")
        at = c.emit("Mod", at, c.constant(np.array(most, np.int64)))
    at = at if at.type.shape == update.type.shape else c.emit("Expand", at, shape=update.type.shape)
    return c.emit("ScatterElements", past, at, update, axis=axis)


def _scatter(c: Context) -> Value:
    return c.emit("ScatterElements", *c.inputs, axis=c.axis(c.input(0).type.rank, 0))


ROWS: tuple[Row, ...] = (
    Row("Col2Im", _col2im),
    Row("DeformConv", _deform_conv),
    Row("RoiAlign", _roi_align),
    Row("MaxRoiPool", same("MaxRoiPool", "pooled_shape", "spatial_scale")),
    Row("MaxUnpool", _max_unpool),
    Row("TensorScatter", _tensor_scatter),
    Row("Scatter", _scatter),
)
