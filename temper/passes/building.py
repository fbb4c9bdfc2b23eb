"""What lowering rules share: a builder for the nodes that replace the matched one, and its attributes as numbers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from temper.ir.dims import DimLike
from temper.ir.graph import Graph, Node, Value
from temper.ir.opdef import Attrs, AttrValue
from temper.ir.ops import make
from temper.passes.rewrite import Match


def node_of(m: Match) -> Node:
    """The node whose output is bound to "y"."""
    node = m["y"].producer
    assert node is not None
    return node


def number_of(node: Node, name: str) -> float:
    value = node.attrs[name]
    assert isinstance(value, (int, float))
    return value


def integers_of(node: Node, name: str) -> tuple[int, ...]:
    value = node.attrs[name]
    assert isinstance(value, tuple)
    return tuple(int(str(i)) for i in value)


class Builder:
    """Adds nodes that stand for `node`."""

    def __init__(self, graph: Graph, node: Node) -> None:
        self.graph, self.node = graph, node
        self.origin = tuple(node.origin or (node.name,))

    def __call__(self, name: str, *inputs: Value | None, label: str = "", **attrs: AttrValue) -> Value:
        return self.add(name, inputs, attrs, label)

    def add(self, name: str, inputs: Sequence[Value | None], attrs: Attrs, label: str = "") -> Value:
        label = label or f"{self.node.name}.{name.lower()}"
        return make(self.graph, name, inputs, attrs, name=label, origin=self.origin).output

    def reshape(self, x: Value, shape: Sequence[DimLike]) -> Value:
        """`x` renamed; `x` itself where nothing changes."""
        if x.type.shape == tuple(shape):
            return x
        if x.const is not None and not any(not isinstance(d, int) for d in shape):
            return self.constant(x.const.reshape(tuple(int(str(d)) for d in shape)))
        return self("Reshape", x, shape=tuple(shape))

    def constant(self, array: np.ndarray) -> Value:
        return self.graph.add_constant(array, f"{self.node.name}.const")

    def scalar(self, number: float, like: Value) -> Value:
        return self.constant(np.asarray(number, like.type.dtype))
