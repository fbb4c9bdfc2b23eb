"""Moves views that lowering leaves between an op and its elementwise program behind it, so that both fuse."""

from __future__ import annotations

from temper.ir.dims import DimLike
from temper.ir.graph import Graph, Node, Value
from temper.ir.opdef import Kind
from temper.ir.ops import TABLE, make
from temper.passes.manager import Log, Pass

_ANCHORS = frozenset({Kind.CONTRACTION, Kind.REDUCTION})


def _sink(graph: Graph, log: Log) -> None:
    """f(reshape(x), y ..) = reshape(f(x, reshape(y) ..)) where x is what a spatial op made and nothing else reads it.

    The last axis, the channels, stays; a node is looked at once, after what it reads, so that sinking ends.
    """
    made: set[int] = set()
    for node in graph.nodes:
        kind = TABLE[node.op].kind
        if kind in _ANCHORS and node.attrs.get("channels_last"):
            made.update(o.id for o in node.outputs)
        if kind is not Kind.ELEMENTWISE or len(node.outputs) != 1:
            continue
        view = next((v for v in node.inputs if v is not None and _viewed(v, made, graph)), None)
        if view is None:
            continue
        x = _source(view)
        assert x is not None
        inputs = _operands(graph, node, view, x)
        if isinstance(inputs, str):
            log.did_not("sink view", node.name, inputs)
            continue
        new = make(graph, node.op, inputs, node.attrs, name=node.name, origin=node.origin or (node.name,))
        made.add(new.output.id)
        back = make(graph, "Reshape", [new.output], {"shape": view.type.shape}, origin=node.origin)
        graph.replace_uses(node.output, back.output)
        graph.remove_node(node)
        log.did("sink view", node.name)
    graph.prune()


def _source(v: Value) -> Value | None:
    """What `v` is another name of."""
    return v.producer.inputs[0] if v.producer is not None and v.producer.op == "Reshape" else None


def _viewed(v: Value, made: set[int], graph: Graph) -> bool:
    x = _source(v)
    return x is not None and x.id in made and len(x.uses) == 1 and not graph.is_output(x)


def _operands(graph: Graph, node: Node, view: Value, x: Value) -> list[Value | None] | str:
    """The node's operands in the shape of `x`, or why there are none."""
    full, shape = view.type.shape, x.type.shape
    channels = shape[-1]
    if node.output.type.shape != full or channels != full[-1]:
        return f"{node.output.type} is not {view.type} with the channels of {x.type}"
    out: list[Value | None] = []
    for v in node.inputs:
        if v is None or v is view:
            out.append(None if v is None else x)
            continue
        source = _source(v)
        if source is not None and source.type.shape == shape and v.type.shape == full:
            out.append(source)
            continue
        if v.type.shape == full:
            target = shape
        elif v.type.count == 1:
            target = ()
        elif v.type.shape[-1] == channels and v.type.count == channels:
            target = (channels,)
        else:
            return f"its operand {v.type} is broadcast"
        out.append(_renamed(graph, v, target))
    return out


def _renamed(graph: Graph, v: Value, shape: tuple[DimLike, ...]) -> Value:
    if v.type.shape == shape:
        return v
    if v.const is not None:
        return graph.add_constant(v.const.reshape([int(str(d)) for d in shape]), v.name, v.type.dtype)
    return make(graph, "Reshape", [v], {"shape": shape}).output


SINK_VIEWS = Pass("sink-views", _sink)
