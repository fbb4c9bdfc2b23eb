"""Half-precision models on a CPU: float16 and bfloat16 ops become float32 ops between conversions.

A value is rounded to its half type where the model rounds it, so that results keep the model's meaning. CPUs have no
half arithmetic worth using, and kernels convert at the edges of fused chains.
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


def _wide(graph: Graph, v: Value, done: dict[int, Value]) -> Value:
    """`v` in float32."""
    if v.id not in done:
        if v.const is not None:
            array = bfloat16_to_float32(v.const) if v.type.dtype == "bfloat16" else v.const.astype(np.float32)
            done[v.id] = graph.add_constant(np.asarray(array), f"{v.name}.float32")
        else:
            done[v.id] = make(graph, "Cast", [v], {"to": "float32"}, name=f"{v.name}.float32").output
    return done[v.id]


def _widen(graph: Graph, log: Log) -> None:
    done: dict[int, Value] = {}
    for node in graph.nodes:
        values = [v for v in (*node.inputs, *node.outputs) if v is not None]
        if not any(v.type.dtype in _HALVES for v in values) or not _computes(node):
            continue
        inputs = [_wide(graph, v, done) if v is not None and v.type.dtype in _HALVES else v for v in node.inputs]
        origin = (*(node.origin or (node.name,)), "rule:widen")
        wide = make(graph, node.op, inputs, node.attrs, name=node.name, origin=origin)
        for old, new in zip(node.outputs, wide.outputs, strict=True):
            if old.type.dtype != new.type.dtype:
                name = f"{old.name}.{old.type.dtype}"
                new = make(graph, "Cast", [new], {"to": old.type.dtype}, name=name, origin=origin).output
            graph.replace_uses(old, new)
        graph.remove_node(node)
        log.did("widen", node.name)


WIDEN = Pass("widen", _widen)
