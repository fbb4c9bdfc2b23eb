"""Finds values that a narrow float type cannot hold, because of large constants such as the -1e9 and -3.4e38 of masks.

Stored narrowly they would be infinite, and infinity minus infinity is NaN. A value computed from such a constant may be
as large, up to an op whose results are bounded (Softmax, Sigmoid, a normalization). Products of ordinary activations
are not examined: their ranges are not in the graph.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from temper.ir.graph import Graph, Node, Value
from temper.ir.opdef import Kind
from temper.ir.ops import TABLE

#: Largest finite number of each type.
LARGEST: Mapping[str, float] = {"float16": 65504.0, "bfloat16": float.fromhex("0x1.fep127"), "float8e4m3fn": 448.0}

#: Ops whose results are of moderate size whatever they read.
_BOUNDED = frozenset(
    {"Softmax", "Sigmoid", "HardSigmoid", "Tanh", "Erf", "Softsign", "Sin", "Cos", "Atan", "Sign", "Saturate"}
    | {"LayerNormalization", "RMSNormalization", "InstanceNormalization", "GroupNormalization", "FakeQuantize"}
)


def fits(array: np.ndarray, dtype: str) -> bool:
    """Every element of float32 is finite in this type."""
    return bool((np.abs(array) <= LARGEST[dtype]).all())


def too_large(graph: Graph, dtype: str) -> frozenset[int]:
    """Ids of float32 values that may be beyond the largest number of this type because a constant is."""
    found: set[int] = set()
    for v in graph.constants:
        if v.const is not None and v.type.dtype == "float32" and not graph.derived(fits, v.const, dtype):
            found.add(v.id)
    for node in graph.nodes:
        outputs = [v for v in node.outputs if v.type.dtype == "float32"]
        if outputs and _grows(node, found, dtype):
            found |= {v.id for v in outputs}
    return frozenset(found)


def _grows(node: Node, large: set[int], dtype: str) -> bool:
    if node.op in _BOUNDED:
        return False
    limit = LARGEST[dtype]
    numbers = [a for a in node.attrs.values() if isinstance(a, (int, float)) and not isinstance(a, bool)]
    if node.op == "Clip":
        bounds = [node.attrs.get(k) for k in ("min", "max")]
        if all(isinstance(b, float) and abs(b) <= limit for b in bounds):
            return False
    elif node.op in ("Pad", "ConstantOfShape") and any(not abs(a) <= limit for a in numbers):
        return True
    return any(v is not None and v.id in large for v in _sources(node))


def _sources(node: Node) -> list[Value | None]:
    """The operands whose size a node's results take after."""
    if node.op == "Attention":
        return list(node.inputs[2:3])
    if TABLE[node.op].kind is Kind.ELEMENTWISE and node.op == "Where":
        return list(node.inputs[1:])
    return list(node.inputs)
