"""Products of flattened rows (tf2onnx, ONNX Runtime's MatMulAddFusion) get back the shape around them.

Reshape(x [B, S, K] to [B * S, K]) @ w = Reshape(x @ w), and the Reshape moves on behind biases and activations until it
meets the one that restores [B, S, N]; cleanup removes the two, and the product's epilogue is whole again.
"""

from __future__ import annotations

from temper.ir.graph import Graph, Node, Value
from temper.ir.ops import make
from temper.passes.manager import Log, Pass
from temper.passes.rewrite import only_user

_NAME = "rows"

#: Elementwise ops of one tensor that a Reshape moves behind.
_UNARY = frozenset({"Gelu", "Relu", "Tanh", "Sigmoid", "Silu", "Erf", "Elu", "LeakyRelu", "Clip", "HardSwish"})
_BINARY = frozenset({"Add", "Sub", "Mul", "Div"})


def _flattened(v: Value | None) -> Value | None:
    """x where `v` is x [.., K] as rows [R, K], through one Reshape or several: the earliest such x."""
    found: Value | None = None
    x = v
    while x is not None and v is not None and x.producer is not None and x.producer.op == "Reshape":
        x = x.producer.inputs[0]
        if x is not None and x.type.rank > 2 and x.type.shape[-1] == v.type.shape[-1] and v.type.rank == 2:
            found = x
    return found


def _only_reader(v: Value | None, graph: Graph) -> bool:
    return v is not None and only_user(v, graph) is None


def _vector(v: Value | None, columns: object) -> bool:
    """True for a constant that broadcasts along rows: one number, or one for each column."""
    return v is not None and v.const is not None and (v.const.size == 1 or v.const.shape in ((columns,), (1, columns)))


def _lifted(graph: Graph, node: Node) -> Value | None:
    """The node's result computed on the unflattened operand; None where the node is not of that kind."""
    if len(node.outputs) != 1 or graph.is_output(node.output):
        return None
    first = node.inputs[0] if node.inputs else None
    if node.op == "MatMul":
        x, w = _flattened(first), node.inputs[1]
        if x is None or w is None or w.const is None or w.const.ndim != 2 or node.attrs.get("transA"):
            return None
        operands = [x, w]
    elif node.op in _BINARY:
        for i in (0, 1):
            x, c = _flattened(node.inputs[i]), node.inputs[1 - i]
            if x is None or c is None or c.const is None or not _from_product(x):
                continue
            if not _vector(c, node.output.type.shape[-1]) or not _only_reader(node.inputs[i], graph):
                continue
            c = graph.add_constant(c.const.reshape(-1), c.name) if c.const.ndim == 2 else c
            operands = [x, c] if i == 0 else [c, x]
            break
        else:
            return None
    elif node.op in _UNARY:
        x = _flattened(first)
        if x is None or not _from_product(x) or not _only_reader(first, graph):
            return None
        operands = [x]
    else:
        return None
    return make(graph, node.op, operands, node.attrs, name=node.name, origin=node.origin or (node.name,)).output


def _from_product(v: Value) -> bool:
    """True if a product with a constant, and only elementwise ops after it, made the value."""
    node = v.producer
    while node is not None and node.op in _UNARY | _BINARY:
        made = [i.producer for i in node.inputs if i is not None and i.const is None]
        node = made[0] if len(made) == 1 else None
    return node is not None and node.op == "MatMul"


def _run(graph: Graph, log: Log) -> None:
    for node in graph.nodes:
        made = _lifted(graph, node) if graph.alive(node) else None
        if made is not None:
            rows = make(graph, "Reshape", [made], {"shape": node.output.type.shape}, origin=(f"rule:{_NAME}",)).output
            graph.replace_uses(node.output, rows)
            log.did(_NAME, node.name)
    graph.prune()


ROWS = Pass(_NAME, _run)
