"""Signed codes that only products read are stored plus 128, as VNNI wants them on CPUs.

VNNI multiplies unsigned by signed bytes: a product that finds signed data would have to convert every word it reads.
int8 codes with zero point z are uint8 codes with zero point z + 128: the same values, so that no bit of a result
changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from temper.ir.graph import Graph, Node, Value
from temper.ir.ops import make
from temper.passes.manager import Log, Pass

_NAME = "encoding"

#: Ops with one operand of data that only move it.
_MOVES = frozenset({"Reshape", "Transpose", "Slice", "Gather", "Squeeze", "Unsqueeze"})


def _products(graph: Graph, v: Value) -> list[Node] | str:
    """The products that read `v`, also through moves; or the reason that it keeps its sign."""
    if graph.is_output(v):
        return "it is an output"
    found: list[Node] = []
    for node, i in v.uses:
        if node.op in _MOVES and i == 0 and len(node.outputs) == 1:
            behind = _products(graph, node.output)
            if isinstance(behind, str):
                return behind
            found += behind
        elif i == 0 and (node.op == "MatMulInt8" or (node.op == "ConvInt8" and node.attrs["group"] == 1)):
            found.append(node)
        else:
            return f"{node!r} reads it"
    return found or "no product reads it"


def shift(
    graph: Graph,
    old: Value,
    new: Value,
    moves: Callable[[Node], bool],
    suit: Callable[[Node, list[Value | None], dict[str, Any]], None],
    note: tuple[str, ...] = (),
) -> None:
    """Gives the readers of codes others that differ from them by a constant.

    moves: whether a reader only moves codes, so that its own readers get others too.
    suit: adapts the inputs and attributes of any other reader.
    note: added to the origin of what is made.
    """
    for node, i in list(old.uses):
        attrs, inputs = dict(node.attrs), list(node.inputs)
        inputs[i] = new
        if not moves(node):
            suit(node, inputs, attrs)
        y = make(graph, node.op, inputs, attrs, name=node.name, origin=(*node.origin, *note)).output
        if moves(node):
            shift(graph, node.output, y, moves, suit, note)
        else:
            graph.replace_uses(node.output, y)
        supplant(graph, node, y)


def _moves(node: Node) -> bool:
    return node.op in _MOVES


def _unsigned(node: Node, inputs: list[Value | None], attrs: dict[str, Any]) -> None:
    attrs["zero_point"] = int(str(attrs["zero_point"])) + 128


def supplant(graph: Graph, node: Node, y: Value) -> None:
    """Removes a node; `y`, which stands for its result, gets that one's name."""
    name = node.output.name
    graph.remove_node(node)
    graph.rename(y, name)


def _run(graph: Graph, log: Log) -> None:
    for node in graph.nodes:
        if node.op != "Saturate" or not graph.alive(node) or node.output.type.dtype != "int8":
            continue
        products = _products(graph, node.output)
        if isinstance(products, str):
            log.did_not(_NAME, node.name, products)
            continue
        attrs = {**node.attrs, "to": "uint8", "zero_point": int(str(node.attrs["zero_point"])) + 128}
        y = make(graph, "Saturate", node.inputs, attrs, name=node.name, origin=node.origin).output
        shift(graph, node.output, y, _moves, _unsigned, (f"rule:{_NAME}",))
        supplant(graph, node, y)
        log.did(_NAME, node.name)


ENCODING = Pass(_NAME, _run)
