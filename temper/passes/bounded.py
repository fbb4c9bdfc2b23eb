"""Ops with a number of results that depends on data but has a bound: a kernel fills a tensor of the largest size.

The number is known when the kernel has run, a Sizes step reads it, and what follows sees the first rows only: a view.
"""

from __future__ import annotations

from temper.ir.graph import Graph, Node
from temper.ir.ops import make
from temper.passes.manager import Log, Pass

#: rows that may be reserved; a bound beyond it says nothing about how many there will be
_MOST = 1 << 20


def _why_not(node: Node) -> str | None:
    boxes, scores = node.inputs[0], node.inputs[1]
    assert boxes is not None and scores is not None
    if len(node.inputs) > 2:
        return "its thresholds are computed"
    if boxes.type.dtype != "float32" or scores.type.dtype != "float32":
        return f"there is no kernel for {boxes.type.dtype}"
    if not (boxes.type.static and scores.type.static):
        return f"the number of boxes ({boxes.type}) is not known at build"
    images, classes, count = (int(str(d)) for d in scores.type.shape)
    rows = images * classes * min(count, max(0, int(str(node.attrs["max_output_boxes_per_class"]))))
    if not node.binds:
        return "the number of its results is known"
    return None if 0 < rows <= _MOST else f"up to {rows} boxes may be kept"


def bounded(graph: Graph, log: Log) -> None:
    """nms(boxes, scores) = kept[:n], of kept and n = boxes_kept(boxes, scores)."""
    for node in graph.nodes:
        if node.op != "NonMaxSuppression" or "bounded" in log.disabled:
            continue
        reason = _why_not(node)
        if reason is not None:
            log.did_not("bounded", node.name, reason)
            continue
        attrs = {k: v for k, v in node.attrs.items() if k != "count"}
        origin = (*(node.origin or (node.name,)), "rule:bounded")
        count = node.attrs["count"]
        kept = make(graph, "BoxesKept", node.inputs, attrs, name=node.name, origin=origin)
        make(graph, "Sizes", [kept.outputs[1]], {"binds": (count,)}, name=f"{node.name}.count", origin=origin)
        attrs = {"shape": (count, 3)}
        rows = make(graph, "Prefix", [kept.outputs[0]], attrs, name=f"{node.name}.rows", origin=origin)
        graph.replace_uses(node.output, rows.output)
        graph.remove_node(node)
        log.did("bounded", node.name)


BOUNDED = Pass("bounded", bounded)
