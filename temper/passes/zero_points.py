"""For GPUs, which multiply signed bytes: integer products that are more than that become products and corrections.

    (a - za) @ w = a @ w - za * (sums of w along its depth)      where za is known at run time only
    a @ (w + c) = a @ w + c * (sums of a along its depth)        where weights less their zero point exceed int8

in int32, exactly. A convolution's padding stands for the zero point and adds nothing: where there is one, the sums are
those of the taps inside the image, a constant where the image's size is known.
"""

from __future__ import annotations

import numpy as np

from temper.ir.graph import Graph, Node, Value
from temper.passes.manager import Log, Pass
from temper.passes.parts import Parts, Result, replace_each
from temper.reference import run

_OPS = frozenset({"MatMulInt8", "ConvInt8"})


def _weights_met(p: Parts) -> np.ndarray | str:
    """Sums of the weights that each output multiplies with data, int32, to be broadcast against the outputs."""
    x, w = p.input(0), p.input(1)
    if w.const is None:
        return "its weights are known at run time only"
    if p.node.op == "MatMulInt8":
        return np.asarray(w.const.astype(np.int32).sum(axis=-2, dtype=np.int32))
    pads = p.node.attrs.get("pads") or ()
    assert isinstance(pads, tuple)
    if not any(pads):
        return np.asarray(w.const.astype(np.int32).sum(axis=tuple(range(w.type.rank - 1)), dtype=np.int32))
    image = x.type.shape[1:]
    if not all(isinstance(d, int) for d in image):
        return "it pads images of a size that is known at run time only"
    ones = np.ones((1, *(int(str(d)) for d in image)), np.uint8)
    attrs = {**p.node.attrs, "zero_point": 0}
    none = np.zeros(w.const.shape[-1:], np.int32)
    return run("ConvInt8", [ones, w.const, none], attrs, ["uint8", "int8", "int32"], ["int32"])[0]


def _late_zero(node: Node) -> Value | None:
    return node.inputs[3] if len(node.inputs) > 3 else None


def _zero_apart(p: Parts) -> Result:
    node, zero = p.node, _late_zero(p.node)
    assert zero is not None
    met = _weights_met(p)
    if isinstance(met, str):
        return met
    product = p(node.op, *node.inputs[:3], **{**node.attrs, "zero_point": 0})
    return p("Sub", product, p("Mul", p.constant(met), p.cast(zero, "int32")))


def _weights_centred(p: Parts) -> Result:
    node, x, w, zero = p.node, p.input(0), p.input(1), _late_zero(p.node)
    assert w.const is not None
    low, high = int(w.const.min()), int(w.const.max())
    if node.op != "MatMulInt8":
        return "its weights exceed a byte, and its windows' sums would be a convolution of their own"
    if high - low > 255:
        return f"its weights are between {low} and {high}, more than a byte tells apart"
    centre = low + 128
    narrow = p.constant((w.const - centre).astype(np.int8))
    product = p(node.op, x, narrow, *node.inputs[2:], **node.attrs)
    sums = p("ReduceSum", p.cast(x, "int32"), axes=(x.type.rank - 1,), keepdims=1)
    depth = np.array(w.const.shape[0], np.int32)
    if zero is not None:
        sums = p("Sub", sums, p("Mul", p.cast(zero, "int32"), p.constant(depth)))
    elif p.integer("zero_point"):
        sums = p("Sub", sums, p.constant(np.asarray(depth * np.int32(p.integer("zero_point")), np.int32)))
    return p("Add", product, p("Mul", sums, p.constant(np.array(centre, np.int32))))


def _run(graph: Graph, log: Log) -> None:
    def centred(node: Node) -> Result | None:
        w = node.inputs[1] if node.op in _OPS else None
        return _weights_centred(Parts(graph, node)) if w is not None and w.type.dtype == "int16" else None

    def apart(node: Node) -> Result | None:
        return _zero_apart(Parts(graph, node)) if node.op in _OPS and _late_zero(node) is not None else None

    replace_each(graph, log, "weights", centred)
    replace_each(graph, log, "zero point", apart)


ZERO_POINTS = Pass("zero-points", _run)
