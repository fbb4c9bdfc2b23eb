"""Substitutes sizes for some of a graph's symbols."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from temper.ir.dims import Dim, DimLike, substitute
from temper.ir.graph import Graph
from temper.ir.types import TensorType


def substituted(graph: Graph, values: Mapping[str, DimLike]) -> Graph:
    """A copy of `graph` in which the symbols named in `values` are these sizes, in types and attributes alike."""
    out = graph.copy()
    for v in out.values:
        v.type = TensorType(v.type.dtype, tuple(substitute(d, values) for d in v.type.shape))
    for node in out.nodes:
        node.attrs = {name: _attr(a, values) for name, a in node.attrs.items()}
    out.dim_names = {s: name for s, name in out.dim_names.items() if s not in values}
    return out


def _attr(value: Any, values: Mapping[str, DimLike]) -> Any:
    if isinstance(value, Dim):
        return substitute(value, values)
    if isinstance(value, tuple):
        return tuple(_attr(v, values) for v in value)
    return substituted(value, values) if isinstance(value, Graph) else value
