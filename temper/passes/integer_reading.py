"""Reads Quantize- and DequantizeLinear as (codes, scale, zero point), where integer arithmetic can use them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from temper.ir.graph import Node, Value

CODES = ("int8", "uint8")


@dataclass(frozen=True, eq=False)
class Scaled:
    """s (codes - zero). scale: float64, a scalar or one per index of the last axis."""

    codes: Value
    scale: np.ndarray
    zero: int = 0


def dequantized(v: Value) -> Scaled | str:
    """What a DequantizeLinear's result stands for, or why it is not known as codes."""
    node = v.producer
    if node is None or node.op != "DequantizeLinear":
        return f"'{v.name}' is not quantized"
    codes, scale = node.inputs[0], node.inputs[1]
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if codes is None or scale is None or scale.const is None or scale.type.dtype != "float32":
        return f"the scale of '{v.name}' is not a float32 constant"
    if node.attrs["block_size"]:
        return f"'{v.name}' is quantized in blocks"
    if zero is not None and zero.const is None:
        return f"the zero point of '{v.name}' is not a constant"
    factor = scale.const.astype(np.float64)
    if factor.size > 1:
        axis = node.attrs["axis"]
        assert isinstance(axis, int)
        if axis % codes.type.rank != codes.type.rank - 1:
            return f"'{v.name}' has a scale for each index of axis {axis}, which is not that of features"
    zeros = np.zeros(1, np.int64) if zero is None or zero.const is None else zero.const.astype(np.int64)
    if (zeros != zeros.flat[0]).any():
        return f"'{v.name}' has different zero points"
    if not (factor > 0).all() or not np.isfinite(factor).all():
        return f"a scale of '{v.name}' is not positive"
    return Scaled(codes, factor.reshape(-1) if factor.size > 1 else factor.reshape(()), int(zeros.flat[0]))


def quantized(node: Node) -> tuple[np.ndarray, int, str] | str:
    """Scale (float64: a scalar, or one per index of the last axis), zero point and dtype of a QuantizeLinear; or why it
    is none of integer arithmetic's."""
    scale = node.inputs[1]
    zero = node.inputs[2] if len(node.inputs) > 2 else None
    if node.output.type.dtype not in CODES:
        return f"its codes are {node.output.type.dtype}"
    if scale is None or scale.const is None or scale.type.dtype != "float32" or node.attrs["block_size"]:
        return "its scale is not a float32 constant, or one for each block"
    rank, axis = node.output.type.rank, node.attrs["axis"]
    if scale.const.size > 1 and int(str(axis)) % rank != rank - 1:
        return f"it has a scale for each index of axis {axis}, which is not that of features"
    if zero is not None and (zero.const is None or (zero.const != zero.const.reshape(-1)[0]).any()):
        return "its zero point is not one constant"
    factor = scale.const.astype(np.float64)
    return (
        factor.reshape(-1) if factor.size > 1 else factor.reshape(()),
        0 if zero is None or zero.const is None else int(zero.const.reshape(-1)[0]),
        node.output.type.dtype,
    )
