"""Checks a graph against the IR's laws; run after every pass."""

from __future__ import annotations

from temper.dtypes import storage
from temper.errors import ShapeError, VerificationError
from temper.ir.graph import Graph, Node, Value
from temper.ir.ops import TABLE


def _fail(subject: object, law: str) -> VerificationError:
    return VerificationError(f"{subject}: {law}")


def verify(graph: Graph, inside: bool = False) -> None:
    """VerificationError naming the node or value and the law it breaks. Subgraphs in attributes are verified too.

    inside: the graph is such a subgraph, which may mention sizes that the graph around it binds.
    """
    values = {v.id: v for v in graph.values}
    try:
        nodes = graph.nodes
    except ValueError as e:
        raise _fail(f"graph '{graph.name}'", str(e)) from e
    _interface(graph, values)
    names: dict[str, Value] = {}
    for v in values.values():
        if names.setdefault(v.name, v) is not v:
            raise _fail(repr(v), "value names are unique; another value has this one")
    _uses(nodes, values)
    for v in values.values():
        _definition(graph, v, nodes)
    for node in nodes:
        _node(node)
    _symbols(graph, nodes, inside)


def _interface(graph: Graph, values: dict[int, Value]) -> None:
    for v in graph.inputs:
        if values.get(v.id) is not v or v.producer is not None or v.const is not None:
            raise _fail(repr(v), "a graph input is a value of the graph that no node or constant defines")
    if len(graph.outputs) != len(graph.output_names):
        raise _fail(f"graph '{graph.name}'", f"{len(graph.outputs)} outputs have {len(graph.output_names)} names")
    if len(set(graph.output_names)) != len(graph.output_names):
        raise _fail(f"graph '{graph.name}'", f"output names are unique, these are not: {graph.output_names}")
    for name, v in zip(graph.output_names, graph.outputs, strict=True):
        if values.get(v.id) is not v:
            raise _fail(f"output '{name}'", f"{v!r} is not in the graph")


def _uses(nodes: list[Node], values: dict[int, Value]) -> None:
    """The use lists hold exactly the operands that nodes read, each once."""
    expected: dict[int, set[tuple[int, int]]] = {i: set() for i in values}
    for node in nodes:
        for i, v in enumerate(node.inputs):
            if v is None:
                continue
            if values.get(v.id) is not v:
                raise _fail(repr(node), f"operand {i} is {v!r}, which is not in the graph")
            expected[v.id].add((node.id, i))
    for v in values.values():
        found = [(node.id, i) for node, i in v.uses]
        if len(found) != len(set(found)) or set(found) != expected[v.id]:
            raise _fail(repr(v), f"its use list {[f'{n.name}[{i}]' for n, i in v.uses]} is not what the nodes read")


def _definition(graph: Graph, v: Value, nodes: list[Node]) -> None:
    if v.const is not None:
        if v.producer is not None:
            raise _fail(repr(v), f"a constant has no producer, but {v.producer!r} claims it")
        if v.const.dtype != storage(v.type.dtype) or v.const.shape != v.type.shape:
            raise _fail(repr(v), f"a constant's array has its type, not {v.const.dtype}{list(v.const.shape)}")
        if v.const.flags.writeable:
            raise _fail(repr(v), "a constant's array is read-only")
    elif v.producer is None:
        if not any(i is v for i in graph.inputs):
            raise _fail(repr(v), "a value is a graph input, a constant or a node's output")
    elif v.index >= len(v.producer.outputs) or v.producer.outputs[v.index] is not v:
        raise _fail(repr(v), f"{v.producer!r} does not have it as output {v.index}")
    if any(isinstance(d, int) and d < 0 for d in v.type.shape):
        raise _fail(repr(v), "dimensions are not negative")


def _symbols(graph: Graph, nodes: list[Node], inside: bool) -> None:
    """A size that depends on data is bound by one node, and none is mentioned that nothing binds."""
    binder: dict[str, Node] = {}
    for node in nodes:
        for s in node.binds:
            if binder.setdefault(s, node) is not node:
                raise _fail(repr(node), f"the size {s} is bound once, but {binder[s]!r} binds it too")
    if not inside and (free := graph.free_symbols):
        raise _fail(f"graph '{graph.name}'", f"sizes are bound by a node, but {', '.join(sorted(free))} is not")


def _node(node: Node) -> None:
    definition = TABLE.get(node.op)
    if definition is None:
        raise _fail(repr(node), f"the op table has no {node.op!r}")
    least, most = definition.inputs
    if len(node.inputs) < least or (most is not None and len(node.inputs) > most):
        raise _fail(
            repr(node),
            f"{node.op} takes {least} to {'any number of' if most is None else most} inputs, not {len(node.inputs)}",
        )
    try:
        complete = definition.complete(node.attrs)
    except ValueError as e:
        raise _fail(repr(node), f"attributes are complete and well-typed: {e}") from e
    missing = sorted(set(complete) - set(node.attrs))
    if missing:
        raise _fail(repr(node), f"attributes are complete; missing {missing}")
    try:
        types = definition.infer([None if v is None else v.type for v in node.inputs], node.attrs)
    except (ShapeError, ValueError) as e:
        raise _fail(repr(node), f"the op's operands are legal: {e}") from e
    found = [o.type for o in node.outputs]
    if types != found:
        raise _fail(
            repr(node),
            f"output types are what the op infers, [{', '.join(map(str, types))}], not [{', '.join(map(str, found))}]",
        )
    for i, o in enumerate(node.outputs):
        if o.producer is not node or o.index != i:
            raise _fail(repr(node), f"output {i} names {o.producer!r} as its producer")
    for name, value in node.attrs.items():
        if isinstance(value, Graph):
            try:
                verify(value, inside=True)
            except VerificationError as e:
                raise _fail(f"{node!r}.{name}", str(e)) from e
