"""ONNX's integer operators become products of codes whose zero point may be known at run time only.

    (a - za) @ (b - zb), b and zb constant: MatMulInt8(a, b - zb) whose zero point is za

This is what quantizing activations at run time leaves (DynamicQuantizeLinear, the product, a cast, a multiplication by
both scales); the steps after the product are fused with it as usual.
"""

from __future__ import annotations

import numpy as np

from temper.ir.graph import Graph, Node, Value
from temper.passes.integer_weights import differences
from temper.passes.manager import Log, Pass
from temper.passes.parts import Parts, Result, replace_each

_OPS = {"MatMulInteger": "MatMulInt8", "ConvInteger": "ConvInt8"}


def _zero_of_data(p: Parts) -> int | Value | str:
    """The data's zero point: a number, a scalar known at run time, or why it is neither."""
    zero = p.optional(2)
    if zero is None:
        return 0
    if zero.type.count != 1:
        return "its data have a zero point for each row"
    return p.reshape(zero, ()) if zero.const is None else int(zero.const.reshape(-1)[0])


def _product(p: Parts) -> Result:
    node, x, w = p.node, p.input(0), p.input(1)
    conv = node.op == "ConvInteger"
    if conv and not node.attrs["channels_last"]:
        return "it is not channels-last"
    if not conv and (w.type.rank != 2 or x.type.rank < 2):
        return "its weights are a batch, or an operand is a vector"
    codes = differences(w, p.optional(3), -1)
    if isinstance(codes, str):
        return codes
    zero = _zero_of_data(p)
    if isinstance(zero, str):
        return zero
    weights = p.constant(codes)
    attrs = dict(node.attrs)
    if isinstance(zero, int):
        return p(_OPS[node.op], x, weights, **attrs, zero_point=zero)
    pads = attrs.get("pads")
    if conv and x.type.rank > 4 and isinstance(pads, tuple) and (pads[0] or pads[len(pads) // 2]):
        return "it pads the depth with a zero point that is known at run time only"
    return p(_OPS[node.op], x, weights, p.constant(np.zeros(codes.shape[-1], np.int32)), zero, **attrs)


def _run(graph: Graph, log: Log) -> None:
    def write(node: Node) -> Result | None:
        return _product(Parts(graph, node)) if node.op in _OPS else None

    replace_each(graph, log, "integer product", write)


INTEGER_OPERATORS = Pass("integer-operators", _run)
