"""Branches and loop bodies that become graphs of their own: which of them run, or how often, depends on data."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from temper.errors import ModelError
from temper.frontends.onnx.context import Builder, Context, Refusal
from temper.frontends.onnx.held import Held, Items, Listed, Site
from temper.frontends.onnx.lists import Shape, as_listed, common
from temper.ir.dims import Dim, DimLike, from_data
from temper.ir.graph import Graph, Value
from temper.ir.opdef import AttrValue
from temper.ir.types import TensorType


@dataclass
class SubGraph:
    """A graph under construction inside another. Values it reads from the other become inputs, constants copies."""

    outer: Builder
    name: str
    builder: Builder = field(init=False)
    #: values of the outer graph that are read here, by id, and the inputs that stand for them
    captured: dict[int, tuple[Value, Value]] = field(default_factory=dict)
    constants: dict[int, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.builder = Builder(Graph(self.name), dynamic=True, numbers=self.outer.numbers)

    @property
    def graph(self) -> Graph:
        return self.builder.graph

    def capture(self, held: Held) -> Held:
        """What a value of the outer graph is called here."""
        if isinstance(held, Items):
            return Items(tuple(self.value(v) for v in held.values), held.dtype)
        if isinstance(held, Listed):
            return Listed(self.value(held.value), held.dtype, held.shape)
        return self.value(held) if isinstance(held, Value) else held

    def value(self, v: Value) -> Value:
        if v.const is not None:
            if v.id not in self.constants:
                self.constants[v.id] = self.builder.constant(v.const, v.name, v.type.dtype)
            return self.constants[v.id]
        if v.id not in self.captured:
            name, k = v.name, 0
            taken = {x.name for x in self.graph.values}
            while name in taken:
                k += 1
                name = f"{v.name}.outer{k}"
            inner = self.graph.add_input(name, v.type)
            if (known := self.outer.known.get(v.id)) is not None:
                self.builder.known[inner.id] = known
            self.captured[v.id] = v, inner
        return self.captured[v.id][1]

    def finish(self, inputs: Sequence[Value], outputs: Sequence[Value], captured: Sequence[Value]) -> Graph:
        """The graph with these inputs, then those of the captured values, and these outputs."""
        self.graph.order_inputs([*inputs, *(self.value(v) for v in captured)])
        self.graph.set_outputs(outputs, [f"{i}:{v.name}" for i, v in enumerate(outputs)])
        self.graph.prune()
        return self.graph


def local(d: DimLike, sub: SubGraph) -> bool:
    """The size is one that only the sub-graph knows."""
    if not isinstance(d, Dim):
        return False
    own = {str(x) for v in sub.graph.inputs for x in v.type.shape} - {
        str(x) for _, v in sub.captured.values() for x in v.type.shape
    }
    return any(from_data(s) and (s in own or s in sub.graph.binders) for s in d.symbols)


def _outside(shape: Shape | None, sub: SubGraph) -> Shape | None:
    """The shape of a sequence's elements as it is known outside the graph."""
    return None if shape is None else tuple(None if d is None or local(d, sub) else d for d in shape)


def _results(c: Context, held: Sequence[Held], sub: SubGraph, lists: Collection[int]) -> list[Value | Listed]:
    """Results of a sub-graph, sequences as one value each. lists: numbers of those that must be sequences."""
    inner = replace(c, builder=sub.builder, inputs=[])
    out: list[Value | Listed] = []
    for i, h in enumerate(held):
        if isinstance(h, (Items, Listed)):
            out.append(as_listed(inner, h))
        elif isinstance(h, Value) and i not in lists:
            out.append(h)
        else:
            raise Refusal("a result of a branch or body is an optional, or no sequence where one is expected")
    return out


def _value(h: Value | Listed) -> Value:
    return h if isinstance(h, Value) else h.value


def branches(s: Site, condition: Value) -> list[Held]:
    """An If on data: both branches become graphs, of which the run takes one."""
    made = []
    for name in ("then_branch", "else_branch"):
        label = f"{s.label}/{name.removesuffix('_branch')}/"
        made.append(s.importer.separate(s.attrs[name], lambda sub: [], s.body, label))
    if any(h is None for _, held in made for h in held):
        return [None] * len(s.node.output)
    subs = [sub for sub, _ in made]
    results = [_results(s.c, held, sub, ()) for sub, held in made]
    if not len(results[0]) == len(results[1]) == len(s.node.output):
        raise ModelError(f"{s.c}: the branches have {len(results[0])} and {len(results[1])} outputs")
    captured = list({v.id: v for sub in subs for v, _ in sub.captured.values()}.values())
    shapes: list[tuple[DimLike, ...]] = []
    count: list[DimLike] = []
    lists: dict[int, tuple[str, Shape | None]] = {}
    for i, (g, h) in enumerate(zip(*results, strict=True)):
        if isinstance(g, Listed) and isinstance(h, Listed):
            lists[i] = g.dtype or h.dtype, common(_outside(g.shape, subs[0]), _outside(h.shape, subs[1]))
        a, b = _value(g).type, _value(h).type
        if a.dtype != b.dtype or a.rank != b.rank:
            raise Refusal(f"its branches give {a} and {b}; which one depends on data ('{condition.name}')")
        shape = []
        for d, e in zip(a.shape, b.shape, strict=True):
            if d != e or local(d, subs[0]) or local(e, subs[1]):
                count.append(s.c.builder.fresh("If"))
                d = count[-1]
            shape.append(d)
        shapes.append(tuple(shape))
    graphs = [sub.finish([], [_value(h) for h in outs], captured) for sub, outs in zip(subs, results, strict=True)]
    flag = s.c.reshape(condition, ())
    attrs: dict[str, AttrValue] = {
        "then": graphs[0], "other": graphs[1], "shapes": tuple(shapes), "count": tuple(count),
    }  # fmt: skip
    values = s.c.emit_many("If", [flag, *captured], attrs)
    return [Listed(v, *lists[i]) if i in lists else v for i, v in enumerate(values)]


#: What the inputs of a body stand for, given its graph and context, the step's number and the carried values.
Inputs = Callable[["SubGraph", Context, Value, "list[Held]"], "list[Held]"]


@dataclass
class _Body:
    """A loop's body as a graph.

    tests: its first result says whether to go on.
    changing: sizes of carried values that differ from step to step.
    lists: the carried sequences by number, as they are in every step.
    """

    sub: SubGraph
    inputs: list[Value]
    results: list[Value]
    tests: bool
    changing: set[tuple[int, int]]
    lists: dict[int, Listed]


def _carried(s: Site, held: Sequence[Held]) -> list[Value | Listed]:
    """Initial values of what is carried; sequences as one value each."""
    out: list[Value | Listed] = []
    for h in held:
        if isinstance(h, Items):
            out.append(as_listed(s.c, h))
        elif isinstance(h, (Value, Listed)):
            out.append(h)
        else:
            raise Refusal("a carried value is an optional, and which one depends on data")
    return out


def _body(s: Site, graph: Any, carried: Sequence[Value | Listed], given: Inputs, conditional: bool) -> _Body | None:
    """The body, imported until it is known which sizes of the carried values change. None where it cannot be
    imported. conditional: its first result says whether to go on."""
    changing: set[tuple[int, int]] = set()
    lists = {k: h for k, h in enumerate(carried) if isinstance(h, Listed)}
    while True:
        types = [
            TensorType(
                v.type.dtype,
                tuple(s.c.builder.fresh("carried") if (k, a) in changing else d for a, d in enumerate(v.type.shape)),
            )
            for k, v in enumerate(map(_value, carried))
        ]

        def inputs(sub: SubGraph, types: list[TensorType] = types, lists: Mapping[int, Listed] = lists) -> list[Held]:
            index = sub.graph.add_input("step", TensorType("int64", ()))
            now: list[Held] = []
            for k, (h, t) in enumerate(zip(carried, types, strict=True)):
                v = sub.graph.add_input(f"{_value(h).name}.now{k}", t)
                now.append(Listed(v, lists[k].dtype, lists[k].shape) if k in lists else v)
            return given(sub, replace(s.c, builder=sub.builder, inputs=[]), index, now)

        problems, count = len(s.importer.problems), s.importer.count
        sub, held = s.importer.separate(graph, inputs, s.body, f"{s.label}/body/")
        if any(h is None for h in held):
            return None
        first = int(conditional)
        results = _results(s.c, held, sub, [k + first for k in lists])
        if len(results) < first + len(carried):
            raise ModelError(f"{s.c}: the body gives {len(results)} values, but {len(carried)} are carried")
        if any(isinstance(h, Listed) for h in results[first + len(carried) :]):
            raise Refusal("a result of every step is a sequence")
        more = set()
        grown = dict(lists)
        for k, (t, after) in enumerate(zip(types, results[first:], strict=False)):
            if isinstance(after, Listed) and k in lists:
                shape = common(lists[k].shape, _outside(after.shape, sub))
                grown[k] = Listed(lists[k].value, lists[k].dtype or after.dtype, shape)
                continue
            found = _value(after).type
            if t.dtype != found.dtype or t.rank != found.rank:
                raise Refusal(f"the carried value '{_value(carried[k]).name}' is {t}, and {found} after a step")
            more |= {(k, a) for a, (d, e) in enumerate(zip(t.shape, found.shape, strict=True)) if d != e}
        if more <= changing and grown == lists:
            tests = conditional and not _always(sub.builder.known.get(_value(results[0]).id))
            inner = sub.graph.inputs[: 1 + len(carried)]
            plain = [_value(h) for h in results[int(conditional and not tests) :]]
            return _Body(sub, inner, plain, tests, changing, lists)
        changing, lists = changing | more, grown
        del s.importer.problems[problems:]
        s.importer.count = count


def _always(known: np.ndarray | None) -> bool:
    return known is not None and known.dtype != object and bool(known.reshape(-1)[0])


def _run(
    s: Site, body: _Body, initial: Sequence[Value | Listed], trips: Value | None, going: Value | None
) -> list[Held]:
    """The Loop with this body: final values of what is carried, then the steps' results joined along a first axis."""
    carried = [_value(h) for h in initial]
    count: list[DimLike] = []

    def fresh(what: str) -> DimLike:
        count.append(s.c.builder.fresh(what))
        return count[-1]

    n, after = len(carried), body.results[int(body.tests) :]
    shapes = [
        tuple(fresh("carried") if (k, a) in body.changing else d for a, d in enumerate(v.type.shape))
        for k, v in enumerate(carried)
    ]
    length: DimLike | None = None
    known = None if trips is None else s.c.known(trips)
    if known is not None and not body.tests and (going is None or _always(s.c.known(going))):
        steps = known.reshape(-1)[0]
        length = steps if isinstance(steps, Dim) else max(0, int(steps))
    if len(after) > n and length is None:
        length = fresh("steps")
    for v in after[n:]:
        assert length is not None
        shapes.append((length, *(fresh("Loop") if local(d, body.sub) else d for d in v.type.shape)))
    captured = [v for v, _ in body.sub.captured.values()]
    made = body.sub.finish(body.inputs, body.results, captured)
    flags = [None if v is None else s.c.reshape(v, ()) for v in (trips, going)]
    attrs: dict[str, AttrValue] = {
        "body": made,
        "carried": n,
        "tests": int(body.tests),
        "shapes": tuple(shapes),
        "count": tuple(count),
    }
    attrs["limit"] = s.importer.loop_limit
    made_values = s.c.emit_many("Loop", [*flags, *carried, *captured], attrs)
    lists = body.lists
    return [Listed(v, lists[k].dtype, lists[k].shape) if k in lists else v for k, v in enumerate(made_values)]


def loop(s: Site, graph: Any, carried: Sequence[Held], trips: Value | None, going: Value | None) -> list[Held]:
    """A Loop whose number of steps depends on data, or is large: its body becomes a graph, run step by step."""
    values = _carried(s, carried)

    def given(sub: SubGraph, c: Context, index: Value, now: list[Held]) -> list[Held]:
        return [index, c.constant(np.array(True)), *now]

    body = _body(s, graph, values, given, True)
    if body is None:
        return [None] * len(s.node.output)
    if trips is None and not body.tests and (going is None or _always(s.c.known(going))):
        raise Refusal("the loop has no trip count, and its condition always holds: it would never end")
    return list(_run(s, body, values, trips, going))


def scan(s: Site, graph: Any, states: Sequence[Held], data: Sequence[tuple[Value, int, bool]]) -> list[Held]:
    """A Scan of many or of an unknown number of steps, as a Loop that takes the elements by the step's number.

    data: what is scanned, along which axis, and whether from its end. Results are joined along a first axis.
    """
    values = _carried(s, states)
    x, axis, _ = data[0]
    trips = s.c.reshape(s.c.emit("Shape", x, start=axis, end=axis + 1), ())

    def given(sub: SubGraph, c: Context, index: Value, now: list[Held]) -> list[Held]:
        elements = []
        for v, at, backward in data:
            source = sub.value(v)
            step = index
            if backward:
                last = c.emit(
                    "Sub", c.reshape(c.emit("Shape", source, start=at, end=at + 1), ()), c.constant(np.array(1))
                )
                step = c.emit("Sub", last, index)
            elements.append(c.emit("Gather", source, step, axis=at))
        return [*now, *elements]

    body = _body(s, graph, values, given, False)
    return [None] * len(s.node.output) if body is None else list(_run(s, body, values, trips, None))
