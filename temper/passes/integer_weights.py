"""Constant weights of an integer product: their codes less zero points, as int8 or, where that is too narrow, int16."""

from __future__ import annotations

import numpy as np

from temper.ir.graph import Value
from temper.reference.formats import numbers

#: Types whose differences int16 holds, and whose products with bytes int32 sums of any usual length hold.
_NARROW = frozenset({"int8", "uint8", "int4", "uint4", "int2", "uint2"})


def differences(v: Value, zero: Value | None, axis: int) -> np.ndarray | str:
    """codes - zero as int8, or int16 where int8 cannot hold them; or why there are none.

    axis: along which the zero points lie if there are several.
    """
    if v.const is not None and v.type.dtype == "int16" and zero is None and (np.abs(v.const) <= 255).all():
        return v.const  # differences already
    if v.const is not None and v.type.dtype == "int8" and zero is None:
        return v.const
    if v.const is None or v.type.dtype not in _NARROW:
        return f"its weights are not constants of at most 8 bits ({v.type.dtype})"
    wide = numbers(v.const, v.type.dtype).astype(np.int16)
    if zero is not None:
        if zero.const is None:
            return f"the zero point of '{v.name}' is not a constant"
        z = numbers(zero.const, zero.type.dtype).astype(np.int16).reshape(-1)
        shape = [1] * wide.ndim
        shape[axis] = z.size
        if z.size not in (1, wide.shape[axis]):
            return f"'{v.name}' has {z.size} zero points for {wide.shape[axis]} channels"
        wide = wide - z.reshape(shape if z.size > 1 else [1] * wide.ndim)
    fits = not wide.size or (wide.min() >= -128 and wide.max() <= 127)
    return wide.astype(np.int8) if fits else wide


def dequantized_weights(v: Value | None, features: int) -> tuple[np.ndarray, np.ndarray] | str:
    """(differences, float64 scale: a scalar or one per index of the axis `features`) of a DequantizeLinear of
    constants; or why there are none."""
    node = None if v is None else v.producer
    if v is None or node is None or node.op != "DequantizeLinear":
        return "its weights are not quantized"
    codes, scale = node.inputs[0], node.inputs[1]
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if codes is None or scale is None or scale.const is None or scale.type.dtype != "float32":
        return f"the scale of '{v.name}' is not a float32 constant"
    if node.attrs["block_size"]:
        return f"'{v.name}' is quantized in blocks, each of which would be a product of its own"
    axis = node.attrs["axis"]
    assert isinstance(axis, int)
    factor, rank = scale.const.astype(np.float64), codes.type.rank
    if factor.size > 1 and axis % rank != features % rank:
        return f"'{v.name}' has a scale for each index of axis {axis}, which is not that of features"
    if not (factor >= 0).all() or not np.isfinite(factor).all():
        return f"a scale of '{v.name}' is not positive"
    found = differences(codes, zero, axis)
    return found if isinstance(found, str) else (found, factor.reshape(-1) if factor.size > 1 else factor.reshape(()))
