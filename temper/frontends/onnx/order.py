"""Which values ONNX nodes can see, and the order in which they can be imported."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from temper.errors import ModelError
from temper.frontends.onnx import gradient
from temper.frontends.onnx.held import Held


@dataclass
class Scope:
    """Values visible to the nodes of one graph or function body. A None value depends on an unsupported node."""

    values: dict[str, Held] = field(default_factory=dict)
    outer: Scope | None = None
    #: what a value of an outer scope is called here, where this is the scope of another graph
    capture: Callable[[Held], Held] | None = None

    def find(self, name: str) -> Held:
        if name in self.values:
            return self.values[name]
        if self.outer is None:
            raise KeyError(name)
        found = self.outer.find(name)
        return self.capture(found) if self.capture is not None else found

    def holds(self, name: str) -> bool:
        scope: Scope | None = self
        while scope is not None:
            if name in scope.values:
                return True
            scope = scope.outer
        return False


def label_of(node: Any, prefix: str = "") -> str:
    """The node's name, or one made from its first output."""
    return prefix + (node.name or next((o for o in node.output if o), node.op_type))


def free_names(node: Any) -> set[str]:
    """Names the node reads, those its subgraphs capture included."""
    names = {i for i in node.input if i}
    if (node.domain, node.op_type) == (gradient.DOMAIN, "Gradient"):
        names |= gradient.named_in(node)
    for a in node.attribute:
        for g in ([a.g] if a.HasField("g") else []) + list(a.graphs):
            inner = (
                {v.name for v in g.input}
                | {t.name for t in g.initializer}
                | {t.values.name for t in g.sparse_initializer}
            )
            reads = {v.name for v in g.output}
            for n in g.node:
                reads |= free_names(n)
                inner |= set(n.output)
            names |= reads - inner
    return names


def ordered(nodes: Sequence[Any], scope: Scope, outputs: Iterable[str], where: str, prefix: str) -> list[Any]:
    """The nodes that the outputs depend on, producers first. ModelError on duplicate names, missing inputs, cycles."""
    producer: dict[str, int] = {}
    for k, n in enumerate(nodes):
        for name in n.output:
            if name and (name in producer or name in scope.values):
                raise ModelError(
                    f"{where}: the value '{name}' is defined twice, the second time by node '{label_of(n, prefix)}'"
                )
            if name:
                producer[name] = k
    reads = [free_names(n) for n in nodes]
    for n, names in zip(nodes, reads, strict=True):
        for name in sorted(names):
            if name not in producer and not scope.holds(name):
                raise ModelError(
                    f"{where}: node '{label_of(n, prefix)}' ({n.op_type}) reads '{name}', which nothing defines"
                )
    waiting = [{producer[name] for name in names if name in producer} for names in reads]
    readers: dict[int, list[int]] = {}
    for k, sources in enumerate(waiting):
        for s in sources:
            readers.setdefault(s, []).append(k)
    counts = [len(w) for w in waiting]
    ready = deque(k for k, c in enumerate(counts) if not c)
    order = []
    while ready:
        k = ready.popleft()
        order.append(k)
        for r in readers.get(k, ()):
            counts[r] -= 1
            if not counts[r]:
                ready.append(r)
    if len(order) != len(nodes):
        stuck = [f"'{label_of(nodes[k], prefix)}'" for k, c in enumerate(counts) if c]
        raise ModelError(f"{where}: the graph has a cycle through nodes {', '.join(stuck[:8])}")
    needed = {producer[name] for name in outputs if name in producer}
    for k in reversed(order):
        if k in needed:
            needed |= waiting[k]
    # In file order wherever the file is sorted already, which ONNX demands and most files keep.
    position = {k: i for i, k in enumerate(order)}
    in_file = sorted(needed)
    is_sorted = all(s < k for k in in_file for s in waiting[k])
    return [nodes[k] for k in (in_file if is_sorted else sorted(needed, key=position.__getitem__))]
