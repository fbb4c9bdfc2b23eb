"""For passes that replace a node by several: a builder of the new nodes, and the loop that substitutes them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from temper.dtypes import storage
from temper.ir.dims import DimLike
from temper.ir.graph import Graph, Node, Value
from temper.ir.opdef import AttrValue
from temper.ir.ops import make
from temper.passes.manager import Log
from temper.reference.formats import UNNAMED

Result = Value | list[Value] | str


class Parts:
    """Adds the nodes that stand for `node`."""

    def __init__(self, graph: Graph, node: Node) -> None:
        self.graph, self.node = graph, node
        self.origin = (*(node.origin or (node.name,)), f"rule:{node.op.lower()}")

    def __call__(self, op: str, *inputs: Value | None, **attrs: AttrValue) -> Value:
        name = f"{self.node.name}.{op.lower()}"
        return make(self.graph, op, inputs, attrs, name=name, origin=self.origin).output

    def input(self, i: int) -> Value:
        v = self.node.inputs[i]
        assert v is not None
        return v

    def optional(self, i: int) -> Value | None:
        return self.node.inputs[i] if i < len(self.node.inputs) else None

    def integer(self, name: str) -> int:
        return int(str(self.node.attrs[name]))

    def constant(self, array: np.ndarray, dtype: str | None = None) -> Value:
        return self.graph.add_constant(array, f"{self.node.name}.const", dtype)

    def scalar(self, number: float, like: Value) -> Value:
        """A scalar of `like`'s type; types numpy lacks have few numbers here, 0 and of bfloat16 1 among them."""
        if like.type.dtype == "bfloat16":
            return self.constant(np.array({0: 0, 1: 0x3F80}[int(number)], np.uint16), "bfloat16")
        if like.type.dtype in UNNAMED:
            return self.constant(np.array({0: 0}[int(number)], storage(like.type.dtype)), like.type.dtype)
        return self.constant(np.array(number, like.type.dtype))

    def reshape(self, x: Value, shape: Sequence[DimLike]) -> Value:
        return x if x.type.shape == tuple(shape) else self("Reshape", x, shape=tuple(shape))

    def cast(self, x: Value, to: str) -> Value:
        return x if x.type.dtype == to else self("Cast", x, to=to)

    def positions(self, axis: int, rank: int, size: int, dtype: str = "int64") -> Value:
        """0 .. size - 1 along `axis`."""
        return self.constant(np.arange(size).astype(dtype).reshape([-1 if a == axis else 1 for a in range(rank)]))


def replace_each(
    graph: Graph, log: Log, rule: str, write: Callable[[Node], Result | None], *, quiet: frozenset[str] = frozenset()
) -> None:
    """Puts what `write` makes in each node's place. It gives None for a node that is none of its business, and the
    reason for one that stays, which is noted unless the op is `quiet`."""
    for node in graph.nodes:
        result = write(node)
        if isinstance(result, str):
            if node.op not in quiet:
                log.did_not(rule, node.name, result)
        elif result is not None:
            for old, new in zip(node.outputs, [result] if isinstance(result, Value) else result, strict=True):
                graph.replace_uses(old, new)
            graph.remove_node(node)
            log.did(rule, node.name)
    graph.prune()
