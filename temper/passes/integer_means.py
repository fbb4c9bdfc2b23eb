"""Means of codes: an exact integer sum, then one multiplication."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from temper.ir.graph import Node, Value
from temper.passes.integer_reading import CODES, Scaled

if TYPE_CHECKING:
    from temper.passes.integer import Integer


def integer_mean(to: Integer, node: Node) -> None:
    """mean(dq(x)) = s / n (sum(x) - n z), the sum exact: of a window in int32, of axes in float32 below 2^24."""
    x = to.read(node.inputs[0])
    if isinstance(x, str) or x.scale.ndim or x.codes.type.dtype not in CODES:
        return
    made = _window_sum(to, node, x) if node.op == "AveragePool" else _axes_sum(to, node, x)
    if isinstance(made, str):
        to.log.did_not("integer mean", node.name, made)
        return
    total, count = made
    scale = x.scale / count
    wide = total if total.type.dtype == "float32" else to.emit(node, "Cast", total, to="float32")
    y = to.emit(node, "Mul", wide, to.constant(node, scale.astype(np.float32)))
    to.stands_for(y, total, scale)
    to.graph.replace_uses(node.output, y)
    to.graph.remove_node(node)
    to.log.did("integer mean", node.name)


def _axes_sum(to: Integer, node: Node, x: Scaled) -> tuple[Value, int] | str:
    axes, count = node.attrs["axes"], 1
    assert isinstance(axes, tuple)
    for a in axes:
        d = x.codes.type.shape[int(str(a))]
        if not isinstance(d, int):
            return f"it takes the mean of {d} elements"
        count *= d
    if not count or count * 255 >= 1 << 24:
        return f"the sum of {count} codes is not exact in float32"
    wide = to.emit(node, "Cast", x.codes, to="float32")
    total = to.emit(node, "ReduceSum", wide, axes=axes, keepdims=node.attrs["keepdims"])
    if x.zero:
        total = to.emit(node, "Sub", total, to.constant(node, np.array(count * x.zero, np.float32)))
    return total, count


def _window_sum(to: Integer, node: Node, x: Scaled) -> tuple[Value, int] | str:
    """A depthwise product with ones, whose padding counts as zeros."""
    kernel, pads, channels = node.attrs["kernel_shape"], node.attrs["pads"], x.codes.type.shape[-1]
    assert isinstance(kernel, tuple) and isinstance(pads, tuple)
    if not node.attrs["channels_last"] or node.attrs["ceil_mode"] or not isinstance(channels, int):
        return "it is not channels-last, or its last window may be shorter than others"
    if any(pads) and not node.attrs["count_include_pad"]:
        return "windows at the border have fewer elements than others"
    sizes = [int(str(k)) for k in kernel]
    if len(sizes) != 2:
        return f"its windows have {len(sizes)} axes"
    attrs = {k: node.attrs[k] for k in ("strides", "pads", "dilations", "channels_last")}
    ones = to.constant(node, np.ones((*sizes, 1, channels), np.int8))
    total = to.emit(node, "ConvInt8", x.codes, ones, **attrs, group=channels, zero_point=x.zero)
    return total, sizes[0] * sizes[1]
