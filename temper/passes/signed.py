"""Unsigned codes become signed ones: a GPU's tensor cores multiply signed bytes only.

uint8 codes with zero point z are int8 codes with zero point z - 128: the same values, so that no bit of a result
changes. The pass works on the Q/DQ form, before arithmetic becomes integer.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from temper.ir.graph import Graph, Node, Value
from temper.ir.ops import make
from temper.passes.encoding import shift, supplant
from temper.passes.integer import MOVES
from temper.passes.manager import Log, Pass

_NAME = "signed"


def _readers(graph: Graph, v: Value) -> str | None:
    """Why codes keep their type; None if nothing but conversions to float read them, also through moves."""
    if graph.is_output(v):
        return "they are an output"
    for node, i in v.uses:
        if node.op == "DequantizeLinear" and i == 0 and (node.inputs[2:] or [None])[0] is not None:
            continue
        if node.op not in MOVES or node.op == "Pad" or len(node.outputs) != 1 or len(_codes(node)) != 1:
            return f"{node!r} reads them"
        if (reason := _readers(graph, node.output)) is not None:
            return reason
    return None


def _codes(node: Node) -> list[Value]:
    """The codes a move moves."""
    return [v for v in node.inputs if v is not None and v.type.dtype == "uint8"]


def _zero(graph: Graph, v: Value) -> Value:
    assert v.const is not None
    return graph.add_constant(np.asarray(v.const.astype(np.int16) - 128, np.int8), f"{v.name}.signed")


def _moves(node: Node) -> bool:
    return node.op in MOVES and node.op != "DequantizeLinear"


def _suit(graph: Graph, node: Node, inputs: list[Value | None], attrs: dict[str, Any]) -> None:
    if node.op == "DequantizeLinear":
        zero = inputs[2]
        assert zero is not None
        inputs[2] = _zero(graph, zero)


def _run(graph: Graph, log: Log) -> None:
    for node in graph.nodes:
        if node.op != "QuantizeLinear" or not graph.alive(node) or node.output.type.dtype != "uint8":
            continue
        zero = (node.inputs[2:] or [None])[0]
        reason = "their zero point is not known" if zero is None or zero.const is None else _readers(graph, node.output)
        if reason is not None:
            log.did_not(_NAME, node.name, reason)
            continue
        assert zero is not None
        inputs = [*node.inputs[:2], _zero(graph, zero)]
        y = make(graph, node.op, inputs, {**node.attrs, "to": "int8"}, name=node.name, origin=node.origin).output
        shift(graph, node.output, y, _moves, partial(_suit, graph))
        supplant(graph, node, y)
        log.did(_NAME, node.name)
    graph.prune()


SIGNED = Pass(_NAME, _run)
