"""Products whose operands are exactly bfloat16 become products of bfloat16.

A float32 Conv or MatMul reads Cast(x) from bfloat16 and weights that bfloat16 holds exactly: every product is exact in
float32 either way, so that only the order of the sum may differ. bfloat16 models have this form (WIDEN), and so have
layers for which that precision was chosen (`rounded`).
"""

from __future__ import annotations

from temper.ir.graph import Graph, Node, Value
from temper.ir.ops import make
from temper.passes.manager import Log, Pass
from temper.reference.formats import bfloat16_to_float32, float32_to_bfloat16


def roundable(node: Node) -> str | None:
    """Why a node cannot be a product of bfloat16; None if it can."""
    if node.op not in ("Conv", "MatMul"):
        return f"{node.op} is not a product"
    x, w = node.inputs[0], node.inputs[1]
    if x is None or w is None or w.const is None or x.const is not None:
        return "its weights are not constants, or its data are"
    if {x.type.dtype, w.type.dtype} != {"float32"}:
        return f"it computes {x.type.dtype}"
    if node.op == "Conv":
        if not node.attrs["channels_last"] or x.type.rank != 4:
            return "it is not a convolution over planes"
        if node.attrs["group"] != 1 and w.type.shape[-2] == 1:
            return "a depthwise convolution has no sums to gain from it"
    elif w.type.rank != 2 or x.type.rank < 2 or node.attrs["transA"] or node.attrs["transB"]:
        return "an operand is transposed, or its weights are a batch"
    return None


def rounded(graph: Graph, node: Node) -> None:
    """Rounds data and weights of a `roundable` product to bfloat16, in float32: the form this pass looks for."""
    x, w = node.inputs[0], node.inputs[1]
    assert x is not None and w is not None and w.const is not None
    origin = ("rule:bfloat16",)
    half = make(graph, "Cast", [x], {"to": "bfloat16"}, name=f"{node.name}.bfloat16", origin=origin).output
    wide = make(graph, "Cast", [half], {"to": "float32"}, name=f"{node.name}.float32", origin=origin).output
    graph.set_input(node, 0, wide)
    near = bfloat16_to_float32(float32_to_bfloat16(w.const))
    graph.set_input(node, 1, graph.add_constant(near, f"{node.name}.weights"))


def _halves(x: Value | None) -> Value | None:
    """What a value is widened from, if that is bfloat16."""
    node = None if x is None else x.producer
    if node is None or node.op != "Cast" or node.inputs[0] is None:
        return None
    return node.inputs[0] if node.inputs[0].type.dtype == "bfloat16" else None


#: Ops that only move values: they may as well move the narrower ones.
_MOVES = frozenset({"Reshape", "Transpose", "Squeeze", "Unsqueeze"})


def _sink(graph: Graph, node: Node) -> None:
    """move(widen(x)) = widen(move(x))"""
    x = _halves(node.inputs[0])
    if x is None:
        return
    moved = make(graph, node.op, [x, *node.inputs[1:]], node.attrs, name=node.name, origin=node.origin).output
    wide = make(graph, "Cast", [moved], {"to": "float32"}, name=f"{node.name}.float32", origin=node.origin).output
    graph.replace_uses(node.output, wide)
    graph.remove_node(node)


def _run(graph: Graph, log: Log) -> None:
    for node in graph.nodes:
        if node.op in _MOVES:
            _sink(graph, node)
    for node in graph.nodes:
        if roundable(node) is not None:
            continue
        x, w = _halves(node.inputs[0]), node.inputs[1]
        assert w is not None and w.const is not None
        if x is None:
            continue
        codes = float32_to_bfloat16(w.const)
        if (bfloat16_to_float32(codes) != w.const).any():
            log.did_not("bfloat16 product", node.name, "its weights are not bfloat16 numbers")
            continue
        inputs = [x, graph.add_constant(codes, f"{node.name}.bfloat16", "bfloat16"), *node.inputs[2:]]
        attrs = {k: v for k, v in node.attrs.items() if k not in ("transA", "transB")}
        origin = (*(node.origin or (node.name,)), "rule:bfloat16")
        y = make(graph, f"{node.op}Bfloat16", inputs, attrs, name=node.name, origin=origin).output
        graph.replace_uses(node.output, y)
        graph.remove_node(node)
        log.did("bfloat16 product", node.name)
    graph.prune()


HALVES = Pass("halves", _run)
