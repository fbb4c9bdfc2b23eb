"""For GPUs: products of codes whose zero point is known at run time only, less what that zero point adds.

    (a - za) @ w = a @ w - za * (sums of w along its depth)

in int32, exactly. A convolution's padding stands for the zero point and adds nothing: where there is one, the sums are
those of the taps inside the image, a constant where the image's size is known.
"""

from __future__ import annotations

import numpy as np

from temper.ir.graph import Graph, Node
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
    if not any(pads) and p.node.attrs.get("auto_pad", "NOTSET") in ("NOTSET", "VALID"):
        return np.asarray(w.const.astype(np.int32).sum(axis=tuple(range(w.type.rank - 1)), dtype=np.int32))
    image = x.type.shape[1:]
    if not all(isinstance(d, int) for d in image):
        return "it pads images of a size that is known at run time only"
    ones = np.ones((1, *(int(str(d)) for d in image)), np.uint8)
    attrs = {**p.node.attrs, "zero_point": 0}
    none = np.zeros(w.const.shape[-1:], np.int32)
    return run("ConvInt8", [ones, w.const, none], attrs, ["uint8", "int8", "int32"], ["int32"])[0]


def _write(p: Parts) -> Result | None:
    node = p.node
    if node.op not in _OPS or len(node.inputs) < 4 or node.inputs[3] is None:
        return None
    met = _weights_met(p)
    if isinstance(met, str):
        return met
    product = p(node.op, *node.inputs[:3], **{**node.attrs, "zero_point": 0})
    return p("Sub", product, p("Mul", p.constant(met), p.cast(p.input(3), "int32")))


def _run(graph: Graph, log: Log) -> None:
    def write(node: Node) -> Result | None:
        return _write(Parts(graph, node))

    replace_each(graph, log, "zero point", write)


ZERO_POINTS = Pass("zero-points", _run)
