"""Gives the values that passes left unnamed names that do not depend on how many nodes were made before.

Each is called after the nearest named tensor that it is computed from, so that the graphs of several profiles give the
same tensor the same name even where their passes differ.
"""

from __future__ import annotations

import re

from temper.ir.graph import Graph, Node
from temper.passes.manager import Log, Pass


def _unnamed(node: Node) -> bool:
    """A rule made it, and its name is what `Graph.add_node` made up."""
    ruled = any(o.startswith("rule:") for o in node.origin)
    return ruled and re.fullmatch(rf"{re.escape(node.op)}_\d+", node.name) is not None


def _run(graph: Graph, log: Log) -> None:
    #: by value: the name it is, or is called after
    base: dict[int, str] = {v.id: v.name for v in (*graph.inputs, *graph.constants)}
    for node in graph.nodes:
        data = [v for v in node.inputs if v is not None and v.const is None]
        known = data or [v for v in node.inputs if v is not None]
        if not _unnamed(node) or not known:
            base |= {v.id: v.name for v in node.outputs}
            continue
        name = base[known[0].id]
        node.name = f"{name}.{node.op.lower()}"
        for i, v in enumerate(node.outputs):
            graph.rename(v, node.name if i == 0 else f"{node.name}:{i}")
            base[v.id] = name


NAMES = Pass("names", _run)
