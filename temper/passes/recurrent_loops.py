"""Loops whose body is one LSTM cell become recurrent layers: what exporters write for Keras layers of many steps.

The body takes step t of a sequence, and carries h and c; nothing may read whatever else it carries, such as counters,
after the loop. Runs on the graph that holds the loop, before its body is optimised.
"""

from __future__ import annotations

from dataclasses import dataclass

from temper.ir.dims import DimLike
from temper.ir.graph import Graph, Node, Value
from temper.passes.manager import Log, Pass
from temper.passes.recurrent_cells import RULE, Cell, Emitter, data, find_cell, layer, weights
from temper.passes.steps import seen


@dataclass(frozen=True)
class _Loop:
    """A loop over the steps of `x` (time along axis `first`), and where among the carried values h and c are."""

    node: Node
    cell: Cell
    product: int
    x: Value
    first: int
    h: int
    c: int


def _integer(node: Node, name: str) -> int:
    return int(str(node.attrs[name]))


def _outer(node: Node, body: Graph, v: Value) -> Value | None:
    """What the captured input `v` of the body is outside."""
    at = next((i for i, u in enumerate(body.inputs) if u is v), 0)
    return node.inputs[1 + at] if at > _integer(node, "carried") else None


def _counts(node: Node, body: Graph, v: Value) -> bool:
    """True if `v` is the number of the step: the loop's own, or a carried one that starts at 0 and grows by 1."""
    v = seen(v)
    if v is body.inputs[0]:
        return True
    at = next((i for i, u in enumerate(body.inputs) if u is v), 0)
    if not 0 < at <= _integer(node, "carried"):
        return False
    start, after = node.inputs[1 + at], seen(body.outputs[at - 1]).producer
    if start is None or start.const is None or start.const.any() or after is None or after.op != "Add":
        return False
    one = [
        u for u in after.inputs if u is not None and u.const is not None and u.const.size == 1 and u.const.item() == 1
    ]
    return len(one) == 1 and any(u is not None and seen(u) is v for u in after.inputs)


def _length(node: Node) -> DimLike | None:
    """How many steps the loop takes, if that is known."""
    shapes, carried = node.attrs["shapes"], _integer(node, "carried")
    assert isinstance(shapes, tuple)
    if len(shapes) > carried:
        first = shapes[carried]
        assert isinstance(first, tuple)
        return first[0]  # type: ignore[return-value]
    trips = node.inputs[0]
    return None if trips is None or trips.const is None else int(trips.const.item())


def _find(node: Node, body: Graph) -> _Loop | str | None:
    """The loop as a layer; None if its body has no cell, a reason if it has."""
    cells = [found for n in body.nodes if n.op == "Mul" and isinstance(found := find_cell(n.output), Cell)]
    if not cells:
        return None
    going = node.inputs[1]
    if (
        len(cells) > 1
        or _integer(node, "tests")
        or not (going is None or (going.const is not None and going.const.all()))
    ):
        return "its body has several cells, or it has a condition"
    cell, carried = cells[0], _integer(node, "carried")
    results = [seen(v) for v in body.outputs]
    states = [next((i for i in range(carried) if results[i] is v), None) for v in (cell.h, cell.c)]
    h, c = states
    if h is None or c is None or seen(cell.last_c) is not body.inputs[1 + c]:
        return "h and c are not what it carries"
    product = next((i for i, p in enumerate(cell.products) if seen(data(p)) is body.inputs[1 + h]), None)
    if product is None or len(cell.products) != 2:
        return "it has no product of the carried h"
    step = seen(data(cell.products[1 - product])).producer
    if step is None or step.op != "Gather" or step.inputs[0] is None or step.inputs[1] is None:
        return "its input is not a step of a sequence"
    x, first = _outer(node, body, seen(step.inputs[0])), _integer(step, "axis") % step.inputs[0].type.rank
    if x is None or x.type.rank != 3 or first > 1 or not _counts(node, body, step.inputs[1]):
        return "its input is not the step of the loop's number"
    if _length(node) != x.type.shape[first]:
        return f"it takes {_length(node)} steps, the sequence has {x.type.shape[first]}"
    if any(results[i] is not cell.h for i in range(carried, len(results))):
        return "it gives more than h of every step"
    return _Loop(node, cell, product, x, first, h, c)


def _replace(graph: Graph, loop: _Loop) -> None:
    node, cell = loop.node, loop.cell
    emit = Emitter(graph, node.name, [node])
    w, r = (weights(cell.products[k]) for k in (1 - loop.product, loop.product))
    h0, c0 = node.inputs[2 + loop.h], node.inputs[2 + loop.c]
    assert w is not None and r is not None and h0 is not None and c0 is not None
    y, h, c = layer(emit, cell, w, r, loop.x, loop.first, False, h0, c0).outputs
    for old, new in ((node.outputs[loop.h], h), (node.outputs[loop.c], c)):
        graph.replace_uses(old, emit.reshape(new, *old.type.shape))
    steps = emit("Transpose", y, perm=(1, 0, 2)).output if loop.first else y
    for old in node.outputs[_integer(node, "carried") :]:
        graph.replace_uses(old, emit.reshape(steps, *old.type.shape))


def _recognise(graph: Graph, log: Log) -> None:
    for node in graph.nodes:
        body = node.attrs.get("body")
        if node.op != "Loop" or not isinstance(body, Graph):
            continue
        found = _find(node, body)
        if isinstance(found, _Loop):
            kept = {found.h, found.c}
            others = [v for i, v in enumerate(node.outputs[: _integer(node, "carried")]) if i not in kept]
            if any(v.uses or graph.is_output(v) for v in others):
                found = "something else that it carries is read afterwards"
        if isinstance(found, str):
            log.did_not(RULE, node.name, found)
        elif found is not None:
            _replace(graph, found)
            log.did(RULE, node.name)
    graph.prune()


RECURRENT_LOOPS = Pass("recurrent-loops", _recognise)
