"""Half-precision models: ops that compute in float16 or bfloat16 become float32 ops, which hand float32 to each other.

A value is rounded to its half type where something else reads it: an output of the model, what converts it to integers,
a copy of what was never computed. Between ops that compute, and behind copies of what they computed, there is no
rounding (but of bfloat16 data for products with weights): layers are recognised and fused as those of a float32 model,
and lose less. A GPU stores such a model's tensors in its half type all the same (narrow.py).
"""

from __future__ import annotations

import numpy as np

from temper.ir.graph import Graph, Node, Value
from temper.ir.opdef import Kind
from temper.ir.ops import TABLE, make
from temper.passes.manager import Log, Pass
from temper.reference.numeric import bfloat16_to_float32

_HALVES = frozenset({"float16", "bfloat16"})

#: ops that copy elements, or convert them, whatever their type
_ANY_TYPE = frozenset({"Cast", "Identity", "Where", "Shape", "Size"})
#: movements that compute
_COMPUTING = frozenset({"GridSample"})


def _computes(node: Node) -> bool:
    if node.op in _ANY_TYPE:
        return False
    if TABLE[node.op].kind is not Kind.MOVEMENT or node.op in _COMPUTING:
        return True
    return (node.op == "Resize" and node.attrs["mode"] != "nearest") or node.attrs.get("reduction", "none") != "none"


def _copies(node: Node, done: dict[int, Value]) -> bool:
    """It copies elements, some of which are known in float32, and takes no others but constants."""
    if node.op not in ("Where", "Identity") and (TABLE[node.op].kind is not Kind.MOVEMENT or node.binds):
        return False
    data = [v for v in node.inputs if v is not None and v.type.dtype in _HALVES]
    return any(v.id in done and v.const is None for v in data) and all(
        v.id in done or v.const is not None for v in data
    )


def _wide(graph: Graph, v: Value, done: dict[int, Value]) -> Value:
    """`v` in float32."""
    if v.id not in done:
        if v.const is not None:
            array = bfloat16_to_float32(v.const) if v.type.dtype == "bfloat16" else v.const.astype(np.float32)
            done[v.id] = graph.add_constant(np.asarray(array), f"{v.name}.float32")
        else:
            done[v.id] = make(graph, "Cast", [v], {"to": "float32"}, name=f"{v.name}.float32").output
    return done[v.id]


def _own_half(graph: Graph) -> str:
    """The half type that most of the graph computes in; "" if it does not."""
    counts = dict.fromkeys(("float32", *sorted(_HALVES)), 0)
    for node in graph.nodes:
        kinds = {v.type.dtype for v in node.outputs} & counts.keys()
        if kinds and _computes(node):
            counts[min(kinds)] += 1
    half = max(sorted(_HALVES), key=lambda k: counts[k])
    return half if counts[half] > counts["float32"] else ""


def _widen(graph: Graph, log: Log) -> None:
    graph.half = _own_half(graph)
    done: dict[int, Value] = {}
    rounded: dict[int, Value] = {}
    for node in graph.nodes:
        if node.op == "Cast":
            if graph.half:
                _through(graph, node, done)
            continue
        halves = [v for v in (*node.inputs, *node.outputs) if v is not None and v.type.dtype in _HALVES]
        if not halves or not (_computes(node) or _copies(node, done)):
            continue
        inputs = [_wide(graph, v, done) if v is not None and v.type.dtype in _HALVES else v for v in node.inputs]
        if _multiplies_rounded(node) and (x := node.inputs[0]) is not None:
            if x.id not in rounded:
                rounded[x.id] = make(graph, "Cast", [x], {"to": "float32"}, name=f"{x.name}.float32").output
            inputs[0] = rounded[x.id]
        origin = (*(node.origin or (node.name,)), "rule:widen")
        wide = make(graph, node.op, inputs, node.attrs, name=node.name, origin=origin)
        for old, new in zip(node.outputs, wide.outputs, strict=True):
            if old.type.dtype != new.type.dtype:
                name = f"{old.name}.{old.type.dtype}"
                narrow = make(graph, "Cast", [new], {"to": old.type.dtype}, name=name, origin=origin).output
                done[narrow.id] = new
                new = narrow
            graph.replace_uses(old, new)
        graph.remove_node(node)
        log.did("widen", node.name)
    if done or graph.half:
        graph.prune()


def _multiplies_rounded(node: Node) -> bool:
    """A product of which CPUs multiply bfloat16 (halves.py)."""
    x, w = (*node.inputs, None, None)[:2]
    return (
        node.op in ("Conv", "MatMul")
        and x is not None
        and x.type.dtype == "bfloat16"
        and x.const is None
        and w is not None
        and w.const is not None
    )


def _through(graph: Graph, node: Node, done: dict[int, Value]) -> None:
    """Conversions between float32 and half types around what is known in float32."""
    x, y = node.inputs[0], node.output
    assert x is not None
    if y.type.dtype in _HALVES and x.type.dtype == "float32":
        done[y.id] = x
    elif x.id in done and x.const is None and y.type.dtype == "float32":
        graph.replace_uses(y, done[x.id])
        graph.remove_node(node)
    elif x.id in done and x.const is None and y.type.dtype in _HALVES:
        done[y.id] = done[x.id]


WIDEN = Pass("widen", _widen)
