"""Runs a graph with the numpy references: the meaning every other way of running it is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np

from temper.dtypes import storage
from temper.errors import InputError
from temper.ir.dims import Dim, solved
from temper.ir.dims import evaluate as evaluate_dim
from temper.ir.graph import Graph, Node, Value
from temper.ir.opdef import Attrs, AttrValue
from temper.ir.ops.flow import FLOW_OPS
from temper.reference import run


def bind(graph: Graph, feeds: Mapping[str, np.ndarray]) -> dict[str, int]:
    """Values of the graph's symbols for these inputs. InputError names a missing, unknown or ill-shaped input."""
    unknown = sorted(set(feeds) - {v.name for v in graph.inputs})
    if unknown:
        raise InputError(f"there are no inputs {unknown}; the graph has {[v.name for v in graph.inputs]}")
    env: dict[str, int] = {}
    for v in graph.inputs:
        if v.name not in feeds:
            raise InputError(f"input {v!r} is not given")
        if v.type.dtype == "sequence":
            continue
        shape = feeds[v.name].shape
        if len(shape) != v.type.rank:
            raise InputError(f"input {v!r} is given with shape {list(shape)}: the ranks differ")
        for d, n in zip(v.type.shape, shape, strict=True):
            if isinstance(d, Dim) and str(d) in d.atoms and isinstance(d.atoms[str(d)], str):
                env.setdefault(str(d), n)
    for v in graph.inputs:
        for d, n in zip(v.type.shape, feeds[v.name].shape, strict=True):
            if isinstance(d, Dim) and (found := solved(d, n)) is not None:
                env.setdefault(*found)
    for v in graph.inputs:
        if lost := sorted(v.type.symbols - env.keys()):
            raise InputError(f"input {v!r} is given with shape {list(feeds[v.name].shape)}, which leaves {lost} open")
        expected = tuple(evaluate_dim(d, env) for d in v.type.shape)
        if feeds[v.name].shape != expected:
            raise InputError(
                f"input {v!r} is given with shape {list(feeds[v.name].shape)}, which is not {list(expected)}"
            )
    return env


def bind_attr(value: AttrValue, env: Mapping[str, int]) -> AttrValue:
    """The attribute with every symbol replaced by its value."""
    if isinstance(value, tuple):
        return tuple(bind_attr(v, env) for v in value)
    return evaluate_dim(value, env) if isinstance(value, Dim) else value


def bind_attrs(node: Node, env: Mapping[str, int]) -> dict[str, AttrValue]:
    """A node's attributes with symbols replaced by their values; those that state what the node binds are left out."""
    return {name: bind_attr(v, env) for name, v in node.known_attrs.items()}


def bind_results(node: Node, results: Sequence[np.ndarray], env: dict[str, int]) -> None:
    """Adds the values of the symbols that `node` binds to `env`: elements of its first result where they are listed
    in the attribute `binds`, sizes of its results otherwise."""
    listed = node.attrs.get("binds")
    if isinstance(listed, tuple):
        env.update(
            (str(d), int(n)) for d, n in zip(listed, results[0].reshape(-1), strict=False) if str(d) in node.binds
        )
        return
    for s in node.binds:
        for o, r in zip(node.outputs, results, strict=True):
            sizes = r.shape if isinstance(r, np.ndarray) else ()  # a sequence has none
            env.update((s, n) for d, n in zip(o.type.shape, sizes, strict=True) if str(d) == s)


def evaluate(graph: Graph, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The graph's outputs, in order, for inputs by name."""
    values = evaluate_values(graph, feeds, graph.outputs)
    return [values[v.id] for v in graph.outputs]


def evaluate_values(graph: Graph, feeds: Mapping[str, np.ndarray], wanted: list[Value]) -> dict[int, np.ndarray]:
    """Arrays of the wanted values by `Value.id`; others are dropped after their last use."""
    return _evaluate(graph, {v.id: feeds[v.name] for v in graph.inputs}, bind(graph, feeds), wanted)


def _evaluate(graph: Graph, live: dict[int, Any], env: dict[str, int], wanted: list[Value]) -> dict[int, np.ndarray]:
    live.update((v.id, v.const) for v in graph.constants if v.const is not None)
    kept = {v.id for v in wanted}
    nodes = graph.nodes
    last = {v.id: k for k, n in enumerate(nodes) for v in n.inputs if v is not None}
    for k, node in enumerate(nodes):
        results = run_node(node, [None if v is None else live[v.id] for v in node.inputs], env)
        live.update((o.id, r) for o, r in zip(node.outputs, results, strict=True))
        for v in (*node.inputs, *node.outputs):
            if v is not None and v.id not in kept and last.get(v.id, k) <= k:
                live.pop(v.id, None)
    return {i: live[i] for i in kept}


def run_node(node: Node, operands: Sequence[np.ndarray | None], env: dict[str, int]) -> list[np.ndarray]:
    """A node's results; the sizes it finds in the data are added to `env`."""
    if node.op in FLOW_OPS:
        results = run_flow(node.op, operands, node.attrs, env)
    else:
        types = [None if v is None else v.type.dtype for v in node.inputs]
        results = run(node.op, operands, bind_attrs(node, env), types, [o.type.dtype for o in node.outputs])
    bind_results(node, results, env)
    return results


def _run_graph(graph: Graph, arrays: Sequence[Any], outer: Mapping[str, int]) -> list[Any]:
    """A sub-graph's outputs. outer: sizes known where it is run."""
    env = dict(outer)
    for v, a in zip(graph.inputs, arrays, strict=True):
        if isinstance(a, np.ndarray):
            env.update((str(d), n) for d, n in zip(v.type.shape, a.shape, strict=True) if str(d).isidentifier())
    found = _evaluate(graph, {v.id: a for v, a in zip(graph.inputs, arrays, strict=True)}, env, graph.outputs)
    return [found[v.id] for v in graph.outputs]


def run_flow(op: str, arrays: Sequence[Any], attrs: Attrs, env: Mapping[str, int]) -> list[Any]:
    """Results of an If or a Loop (ir/ops/flow.py). InputError for a loop that does not end."""
    if op == "If":
        graph = attrs["then" if bool(np.reshape(arrays[0], ())) else "other"]
        assert isinstance(graph, Graph)
        return _run_graph(graph, arrays[1:], env)
    body, n, tests, limit = (cast(Any, attrs[k]) for k in ("body", "carried", "tests", "limit"))
    trips = None if arrays[0] is None else int(np.reshape(arrays[0], ()))
    going = arrays[1] is None or bool(np.reshape(arrays[1], ()))
    carried, captured = list(arrays[2 : 2 + n]), arrays[2 + n :]
    rows: list[list[Any]] = [[] for _ in body.outputs[tests + n :]]
    step = 0
    while going and (trips is None or step < trips):
        if step >= limit:
            raise InputError(f"the loop is still going after {limit} steps")
        results = _run_graph(body, [np.array(step, np.int64), *carried, *captured], env)
        going = bool(np.reshape(results[0], ())) if tests else True
        carried = results[tests : tests + n]
        for row, r in zip(rows, results[tests + n :], strict=True):
            row.append(r)
        step += 1
    made = body.outputs[tests + n :]
    sizes = [tuple(d if isinstance(d, int) else 0 for d in v.type.shape) for v in made]
    empty = [np.zeros((0, *s), storage(v.type.dtype)) for s, v in zip(sizes, made, strict=True)]
    return [*carried, *(np.stack(row) if row else e for row, e in zip(rows, empty, strict=True))]
