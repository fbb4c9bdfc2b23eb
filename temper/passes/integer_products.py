"""Products of codes: by constant weights, of two tensors known at run time only, and attention."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from temper.ir.graph import Node, Value
from temper.passes.integer_reading import CODES, Scaled
from temper.passes.integer_weights import dequantized_weights
from temper.passes.layout import transposed

if TYPE_CHECKING:
    from temper.passes.integer import Integer

#: A bias is meant in units of the product's scale if its own scale is this near: both were rounded to float32.
_SAME_SCALE = 1e-5


def integer_product(to: Integer, node: Node) -> None:
    """(s (q - z)) @ (r w) = s r ((q - z) @ w): the product of codes, and one scale."""
    reason = _product(to, node)
    if reason is not None:
        to.log.did_not("integer product", node.name, reason)


def _product(to: Integer, node: Node) -> str | None:
    swapped = node.op == "MatMul" and bool(node.attrs["transB"])
    if node.op == "MatMul" and isinstance(b := to.read(node.inputs[1]), Scaled) and b.codes.const is None:
        return _product_of_two(to, node, b)
    x, w = to.read(node.inputs[0]), dequantized_weights(node.inputs[1], 0 if swapped else -1)
    if isinstance(x, str):
        return x
    if isinstance(w, str):
        return w
    if x.codes.type.dtype not in CODES:
        return f"its data are {x.codes.type.dtype}"
    codes, w_scale = w
    if x.scale.ndim:
        if node.op != "Conv" or codes.shape[-2] != 1 or node.attrs["group"] != x.scale.size:
            return "its data have a scale for each channel, and it sums channels"
        x = replace(x, scale=np.repeat(x.scale, codes.shape[-1] // x.scale.size))
    if node.op == "Conv" and not node.attrs["channels_last"]:
        return "it is not channels-last"
    if node.op == "MatMul" and codes.ndim != 2:
        return "its weights are a batch"
    derived = to.graph.derived
    shifted = derived(transposed, codes, (1, 0)) if swapped else codes
    scale = np.broadcast_to(x.scale * w_scale, (shifted.shape[-1],))
    weights = to.graph.add_constant(shifted, f"{node.name}.codes")
    data, rank = x.codes, x.codes.type.rank
    if node.attrs.get("transA"):
        data = to.emit(node, "Transpose", data, perm=(*range(rank - 2), rank - 1, rank - 2))
    inputs: list[Value | None] = [data, weights]
    rest: Value | None = None
    if node.op == "Conv" and len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = _bias(to, node.inputs[2], scale)
        if bias is None:
            rest = node.inputs[2]
        else:
            inputs.append(to.graph.add_constant(bias, f"{node.name}.bias"))
    attrs = {k: v for k, v in node.attrs.items() if k not in ("transA", "transB")}
    if node.op == "Conv":
        attrs["bits"] = derived(sum_bits, shifted)
    acc = to.emit(node, node.op + "Int8", *inputs, **attrs, zero_point=x.zero)
    y = to.emit(node, "DequantizeLinear", acc, to.constant(node, scale.astype(np.float32)), axis=acc.type.rank - 1)
    to.stands_for(y, acc, scale)
    to.graph.replace_uses(node.output, y if rest is None else to.emit(node, "Add", y, rest))
    to.graph.remove_node(node)
    to.log.did("integer product", node.name)
    return None


def _product_of_two(to: Integer, node: Node, b: Scaled) -> str | None:
    """Both operands known at run time only. Kernels take the right one signed and without a zero point."""
    a = to.read(node.inputs[0])
    if isinstance(a, str):
        return a
    if any(x.scale.ndim or x.codes.type.dtype not in CODES for x in (a, b)):
        return "an operand has no single scale of 8-bit codes"
    if a.codes.type.rank < 2 or b.codes.type.rank < 2:
        return "an operand is a vector"
    right, zero = b.codes, b.zero
    if right.type.dtype == "uint8":
        less = to.emit(node, "Sub", to.emit(node, "Cast", right, to="int32"), to.constant(node, _int32(128)))
        right, zero = to.emit(node, "Cast", less, to="int8"), zero - 128
    data = [
        to.emit(node, "Transpose", x, perm=(*range(x.type.rank - 2), x.type.rank - 1, x.type.rank - 2))
        if node.attrs[swapped]
        else x
        for x, swapped in ((a.codes, "transA"), (right, "transB"))
    ]
    acc = to.emit(node, "MatMulInt8", *data, zero_point=a.zero)
    if zero:  # sum (a - z) (b - y) = sum (a - z) b - y sum (a - z)
        wide = to.emit(node, "Cast", data[0], to="int32")
        if a.zero:
            wide = to.emit(node, "Sub", wide, to.constant(node, _int32(a.zero)))
        rows = to.emit(node, "ReduceSum", wide, axes=(wide.type.rank - 1,), keepdims=1)
        acc = to.emit(node, "Sub", acc, to.emit(node, "Mul", rows, to.constant(node, _int32(zero))))
    scale = a.scale * b.scale
    y = to.emit(node, "DequantizeLinear", acc, to.constant(node, scale.astype(np.float32)), axis=0)
    to.stands_for(y, acc, scale)
    to.graph.replace_uses(node.output, y)
    to.graph.remove_node(node)
    to.log.did("integer product", node.name)
    return None


def _bias(to: Integer, v: Value, scale: np.ndarray) -> np.ndarray | None:
    """int32 codes of a bias in units of `scale`, if it is given so."""
    bias = to.read(v)
    if isinstance(bias, str) or bias.codes.const is None or bias.codes.type.dtype != "int32":
        return None
    if (np.abs(bias.scale - scale) > _SAME_SCALE * scale).any():
        return None
    wide = bias.codes.const.astype(np.int64) - bias.zero
    return wide.astype(np.int32) if (np.abs(wide) < 2**31).all() else None


def integer_attention(to: Integer, node: Node) -> None:
    """softmax(s_q s_k scale Q K^T + mask) s_v V = s_v attention(Q, K, V) with the scores' scales in one."""
    q, k, v = (to.read(x) for x in node.inputs[:3])
    found = next((x for x in (q, k, v) if isinstance(x, str)), None)
    if isinstance(q, str) or isinstance(k, str) or isinstance(v, str):
        to.log.did_not("integer attention", node.name, str(found))
        return
    if q.codes.type.dtype not in CODES or any(x.codes.type.dtype != "int8" or x.zero or x.scale.ndim for x in (k, v)):
        reason = "keys and values need int8 codes with one scale each and no zero point"
        to.log.did_not("integer attention", node.name, reason)
        return
    if q.scale.ndim:
        to.log.did_not("integer attention", node.name, "its queries have several scales")
        return
    attrs = {**node.attrs, "zero_point": q.zero}
    factor = np.array(float(str(attrs.pop("scale"))) * float(q.scale) * float(k.scale), np.float32)
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    y = to.emit(node, "AttentionInt8", q.codes, k.codes, v.codes, mask, to.constant(node, factor), **attrs)
    out = to.emit(node, "Mul", y, to.constant(node, v.scale.astype(np.float32)))
    to.stands_for(out, y, v.scale)
    to.graph.replace_uses(node.output, out)
    to.graph.remove_node(node)
    to.log.did("integer attention", node.name)


def largest_sum(weights: np.ndarray) -> int:
    """The largest sum of magnitudes of an output channel (last axis) of codes of at most 16 bits."""
    sizes = np.abs(weights.astype(np.int16 if weights.itemsize == 1 else np.int32)).reshape(-1, weights.shape[-1])
    return int(sizes.sum(axis=0, dtype=np.int64).max(initial=0))


def sum_bits(weights: np.ndarray) -> int:
    """ConvInt8's `bits`: every sum of products of these weights (output channels last) with 8-bit codes less their zero
    point is below 2^bits in magnitude. 25 or 31, as kernels ask for no other."""
    return 25 if 255 * largest_sum(weights) < 2**25 else 31


def _int32(x: int) -> np.ndarray:
    return np.array(x, np.int32)
