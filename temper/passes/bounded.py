"""Ops whose number of results depends on data but has a bound: a kernel fills a tensor of the largest size.

The number is known when the kernel has run. A Sizes step reads it, and what follows sees only the first rows: a view.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

from temper.ir.graph import Graph, Node, Value
from temper.ir.opdef import Attrs
from temper.ir.ops import make
from temper.passes.manager import Log, Pass
from temper.passes.parts import replace_each

#: rows that may be reserved; a bound beyond it says nothing about how many there will be
_MOST = 1 << 20
#: elements whose positions are written with zeros up to the last; on more, numpy's search of the host is as fast
_MOST_POSITIONS = 1 << 16


class _Parts:
    """Adds the nodes that stand for `node`."""

    def __init__(self, graph: Graph, node: Node) -> None:
        self.graph, self.node = graph, node
        self.origin = (*(node.origin or (node.name,)), "rule:bounded")

    def __call__(self, op: str, inputs: Sequence[Value | None], label: str, attrs: Attrs | None = None) -> list[Value]:
        name = f"{self.node.name}.{label}" if label else self.node.name
        return make(self.graph, op, inputs, attrs, name=name, origin=self.origin).outputs

    def first(self, rows: Value, number: Value) -> Value:
        """As many of the rows as `number` says; from here on the symbol the node bound is bound by a Sizes."""
        count = self.node.attrs["count"]
        self("Sizes", [number], "count", {"binds": (count,)})
        return self("Prefix", [rows], "rows", {"shape": (count, rows.type.shape[1])})[0]


def _static(v: Value, most: int) -> str | None:
    count = v.type.count
    if not isinstance(count, int):
        return f"the size of {v!r} is not known at build"
    return None if 0 < count <= most else f"up to {count} results"


def _non_max_suppression(build: _Parts, node: Node) -> Value | str:
    """nms(boxes, scores) = kept[:n], of kept and n = boxes_kept(boxes, scores)."""
    boxes, scores = node.inputs[:2]
    assert boxes is not None and scores is not None
    if len(node.inputs) > 2:
        return "its thresholds are computed"
    if boxes.type.dtype != "float32" or scores.type.dtype != "float32":
        return f"there is no kernel for {boxes.type.dtype}"
    if not (boxes.type.static and scores.type.static):
        return f"the number of boxes ({boxes.type}) is not known at build"
    images, classes, count = (int(str(d)) for d in scores.type.shape)
    rows = images * classes * min(count, max(0, int(str(node.attrs["max_output_boxes_per_class"]))))
    if not 0 < rows <= _MOST:
        return f"up to {rows} boxes may be kept"
    attrs = {k: v for k, v in node.attrs.items() if k != "count"}
    kept, number = build("BoxesKept", node.inputs, "", attrs)
    return build.first(kept, number)


def _positions(build: _Parts, x: Value) -> Value | str:
    """Rows of indices of what is not zero in `x`."""
    if x.type.rank < 1:
        return "it is of a scalar"
    reason = _static(x, _MOST_POSITIONS)
    if reason is not None:
        return reason
    rows, number = build("Positions", [x], "")
    return build.first(rows, number)


def _non_zero(build: _Parts, node: Node) -> Value | str:
    """nonzero(x) = transpose(rows[:n]), of rows and n = positions(x)."""
    x = node.inputs[0]
    assert x is not None
    rows = _positions(build, x)
    return rows if isinstance(rows, str) else build("Transpose", [rows], "turned", {"perm": (1, 0)})[0]


def _compress(build: _Parts, node: Node) -> Value | str:
    """compress(x, c, axis) = gather(x, positions of c, axis), of x as a vector where there is no axis."""
    x, c = node.inputs
    assert x is not None and c is not None
    axis = node.attrs.get("axis")
    at = 0 if axis is None else int(str(axis)) % x.type.rank
    size = x.type.count if axis is None else x.type.shape[at]
    length = c.type.count
    if isinstance(length, int) and (not isinstance(size, int) or length > size):
        return f"the condition has {length} elements for {size}"
    rows = _positions(build, c)
    if isinstance(rows, str):
        return rows
    index = build("Reshape", [rows], "index", {"shape": (rows.type.shape[0],)})[0]
    if axis is None and x.type.rank != 1:
        x = build("Reshape", [x], "flat", {"shape": (size,)})[0]
    return build("Gather", [x, index], "taken", {"axis": at})[0]


_RULES = MappingProxyType({"NonMaxSuppression": _non_max_suppression, "NonZero": _non_zero, "Compress": _compress})


def bounded(graph: Graph, log: Log) -> None:
    """Replaces every op of `_RULES`, or notes why not."""

    def write(node: Node) -> Value | str | None:
        asked = node.op in _RULES and node.binds and "bounded" not in log.disabled
        return _RULES[node.op](_Parts(graph, node), node) if asked else None

    replace_each(graph, log, "bounded", write)


BOUNDED = Pass("bounded", bounded)
