"""Products of one tensor with several constant matrices (queries, keys, values) become one product and views of it.

[x @ a + p, x @ b + q, ..] = split(x @ [a b ..] + [p q ..]). Done where every product is read by attention only, which
can read pieces of wider rows; x is then read once, and small batches fill more columns. Where rows of all images were
flattened into products of two axes (tf2onnx, ONNX Runtime), the wide product is reshaped instead of each narrow one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from temper.ir.graph import Graph, Node, Value
from temper.ir.ops import make
from temper.passes.manager import Log, Pass
from temper.passes.rewrite import only_user

_NAME = "merge-products"


@dataclass(frozen=True)
class _Product:
    """x @ w + bias (None without one), whose result is `value`, reshaped to other rows or not."""

    node: Node
    w: np.ndarray
    bias: np.ndarray | None
    value: Value


def _product(graph: Graph, node: Node) -> _Product | str:
    w = node.inputs[1]
    if w is None or w.const is None or w.const.ndim != 2 or w.const.dtype != np.float32:
        return "its second operand is not one constant matrix of float32"
    if node.attrs.get("transA") or node.attrs.get("transB"):
        return "an operand is transposed"
    value, bias = node.output, None
    if only_user(value, graph) is None and value.users[0].op == "Add":
        add = value.users[0]
        other = add.inputs[0] if add.inputs[1] is value else add.inputs[1]
        columns = w.const.shape[1]
        if other is not None and other.const is not None and other.const.size == columns == other.const.shape[-1]:
            value, bias = add.output, other.const.reshape(-1)
    if only_user(value, graph) is None and value.users[0].op == "Reshape":
        rows = value.users[0].output
        if rows.type.shape[-1:] == value.type.shape[-1:]:
            value = rows
    if graph.is_output(value) or not value.uses or any(u.op != "Attention" for u in value.users):
        return "not only attention reads it, and others need not read pieces of rows"
    return _Product(node, w.const, bias, value)


def _run(graph: Graph, log: Log) -> None:
    for x in graph.values:
        nodes = [n for n, i in x.uses if n.op == "MatMul" and i == 0] if x.const is None else []
        if len(nodes) < 2:
            continue
        found: list[_Product] = []
        for n in dict.fromkeys(nodes):
            p = _product(graph, n)
            if isinstance(p, str):
                log.did_not(_NAME, n.name, p)
            else:
                found.append(p)
        for rows in dict.fromkeys(p.value.type.shape[:-1] for p in found):
            alike = [p for p in found if p.value.type.shape[:-1] == rows]
            if len(alike) > 1:
                _merge(graph, x, alike)
                log.did(_NAME, alike[0].node.name)
    graph.prune()


def _beside(*matrices: np.ndarray) -> np.ndarray:
    return np.concatenate(matrices, axis=1)


def _merge(graph: Graph, x: Value, found: list[_Product]) -> None:
    first = found[0].node
    origin = (*dict.fromkeys(o for p in found for o in (p.node.origin or (p.node.name,))), f"rule:{_NAME}")
    w = graph.add_constant(graph.derived(_beside, *(p.w for p in found)), f"{first.name}.weights")
    y = make(graph, "MatMul", [x, w], first.attrs, name=first.name, origin=origin).output
    if any(p.bias is not None for p in found):
        bias = [np.zeros(p.w.shape[1], np.float32) if p.bias is None else p.bias for p in found]
        y = make(
            graph, "Add", [y, graph.add_constant(np.concatenate(bias), f"{first.name}.bias")], origin=origin
        ).output
    sizes = tuple(p.w.shape[1] for p in found)
    rows = found[0].value.type.shape[:-1]
    if rows != y.type.shape[:-1]:
        y = make(graph, "Reshape", [y], {"shape": (*rows, sum(sizes))}, origin=origin).output
    pieces = make(graph, "Split", [y], {"axis": y.type.rank - 1, "sizes": sizes}, origin=origin).outputs
    for p, piece in zip(found, pieces, strict=True):
        graph.replace_uses(p.value, piece)


MERGE_PRODUCTS = Pass(_NAME, _run)
