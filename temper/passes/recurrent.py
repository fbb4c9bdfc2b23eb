"""Cleans up around recurrent layers: batch-first transposes are absorbed, and initial states of zeros are dropped.

Runs after cleanup, which has cancelled the transposes between layers of one model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from temper.ir.graph import Graph, Node, Value
from temper.ir.ops import make
from temper.passes.manager import Log, Pass

_SWAP = (1, 0, 2)
#: ops whose result is zeros where their operands are; only the first operand is data, but for Concat
_MOVES = frozenset({"Expand", "Reshape", "Slice", "Split", "Squeeze", "Tile", "Transpose", "Unsqueeze", "Identity"})


def _zeros(v: Value) -> bool:
    """True if every element is known to be 0."""
    if v.const is not None:
        return v.type.dtype in ("float32", "float64", "float16") and not np.any(v.const)
    node = v.producer
    if node is None:
        return False
    if node.op == "ConstantOfShape":
        return node.attrs.get("value", 0) == 0
    if node.op == "Concat":
        return all(_zeros(u) for u in node.inputs if u is not None)
    return node.op in _MOVES and node.inputs[0] is not None and _zeros(node.inputs[0])


def _drop_zero_states(graph: Graph, node: Node, log: Log) -> Node:
    """h0 = 0 and c0 = 0 are what an absent state means."""
    kept = [None if i in (4, 5) and v is not None and _zeros(v) else v for i, v in enumerate(node.inputs)]
    if kept == list(node.inputs):
        return node
    log.did("zero-state", node.name)
    return _replace(graph, node, kept, "zero-state")


def _replace(graph: Graph, node: Node, inputs: Sequence[Value | None], rule: str) -> Node:
    origin = (*(node.origin or (node.name,)), f"rule:{rule}")
    new = make(graph, node.op, inputs, node.attrs, name=node.name, origin=origin)
    for old, out in zip(node.outputs, new.outputs, strict=True):
        graph.replace_uses(old, out)
    graph.remove_node(node)
    return new


def _swapped(v: Value | None) -> Value | None:
    """x where `v` is x with its first two axes swapped."""
    if v is None or v.producer is None or v.producer.op != "Transpose" or v.producer.attrs["perm"] != _SWAP:
        return None
    return v.producer.inputs[0]


def _keep_batch_first(graph: Graph, node: Node, log: Log) -> None:
    """Recurrence(swap(x) W + b) = swap(Recurrence(x W + b)) with batch_first the other way about."""
    gates = node.inputs[0]
    assert gates is not None
    add = gates.producer if gates.producer is not None and gates.producer.op == "Add" else None
    product: Value | None = gates
    bias = None
    if add is not None:
        bias = next((v for v in add.inputs if v is not None and v.type.rank == 1), None)
        product = next((v for v in add.inputs if v is not bias), None)
        if bias is None:
            return
    mul = product.producer if product is not None else None
    if mul is None or mul.op != "MatMul" or mul.attrs.get("transA", 0):
        return
    x = _swapped(mul.inputs[0])
    weights = mul.inputs[1]
    if x is None or weights is None or weights.type.rank != 2:
        return
    origin = (*(node.origin or (node.name,)), "rule:batch-first")
    y = make(graph, "MatMul", [x, weights], mul.attrs, name=mul.name, origin=mul.origin).output
    if bias is not None and add is not None:
        y = make(graph, "Add", [y, bias], {}, name=add.name, origin=add.origin).output
    attrs = {**node.attrs, "batch_first": 1 - int(str(node.attrs["batch_first"]))}
    new = make(graph, node.op, [y, *node.inputs[1:]], attrs, name=node.name, origin=origin)
    swap = make(graph, "Transpose", [new.outputs[0]], {"perm": _SWAP}, name=f"{node.name}.swap", origin=origin)
    for old, out in zip(node.outputs, (swap.output, *new.outputs[1:]), strict=True):
        graph.replace_uses(old, out)
    graph.remove_node(node)
    log.did("batch-first", new.name)


def _drop_direction_swaps(graph: Graph, node: Node, log: Log) -> None:
    """transpose(Y as [T, 1, B, H]) = Y as [T, B, 1, H]: with one direction the swap of ONNX's layout only renames.

    Done here because layout, which comes later, would sink it past the reshape behind it.
    """
    for reshape in node.outputs[0].users:
        for swap in reshape.output.users if reshape.op == "Reshape" else ():
            shape = reshape.output.type.shape
            if swap.op != "Transpose" or swap.attrs["perm"] != (0, 2, 1, 3) or 1 not in shape[1:3]:
                continue
            attrs, origin = {"shape": swap.output.type.shape}, (*swap.origin, "rule:direction-swap")
            renamed = make(graph, "Reshape", [node.outputs[0]], attrs, name=swap.name, origin=origin).output
            graph.replace_uses(swap.output, renamed)
            log.did("direction-swap", swap.name)


def _recurrent(graph: Graph, log: Log) -> None:
    for node in graph.nodes:
        if graph.alive(node) and node.op == "Recurrence":
            node = _drop_zero_states(graph, node, log)
            _drop_direction_swaps(graph, node, log)
            _keep_batch_first(graph, node, log)
    graph.prune()


RECURRENT = Pass("recurrent", _recurrent)
