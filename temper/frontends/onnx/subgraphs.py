"""Branches and loop bodies that become graphs of their own: which of them run, or how often, depends on data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from temper.errors import ModelError
from temper.frontends.onnx.context import Builder, Context, Refusal
from temper.ir.dims import Dim, DimLike, from_data
from temper.ir.graph import Graph, Value
from temper.ir.opdef import AttrValue
from temper.ir.types import TensorType

if TYPE_CHECKING:
    from temper.frontends.onnx.control_flow import Held, Site


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
        from temper.frontends.onnx.control_flow import Items

        if isinstance(held, Items):
            return Items(tuple(self.value(v) for v in held.values), held.dtype)
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


def _tensors(held: Sequence[Held], what: str) -> list[Value]:
    out = []
    for h in held:
        if not isinstance(h, Value):
            raise Refusal(f"{what} is a sequence or an optional, and which one depends on data")
        out.append(h)
    return out


def branches(s: Site, condition: Value) -> list[Held]:
    """An If on data: both branches become graphs, of which the run takes one."""
    subs, results = [], []
    for name in ("then_branch", "else_branch"):
        sub, held = s.importer.separate(
            s.attrs[name], lambda sub: [], s.body, f"{s.label}/{name.removesuffix('_branch')}/"
        )
        if any(h is None for h in held):
            return [None] * len(held)
        subs.append(sub)
        results.append(_tensors(held, "a result of a branch"))
    captured = list({v.id: v for sub in subs for v, _ in sub.captured.values()}.values())
    shapes: list[tuple[DimLike, ...]] = []
    count: list[DimLike] = []
    for a, b in zip(*results, strict=True):
        if a.type.dtype != b.type.dtype or a.type.rank != b.type.rank:
            raise Refusal(f"its branches give {a.type} and {b.type}; which one depends on data ('{condition.name}')")
        shape = []
        for d, e in zip(a.type.shape, b.type.shape, strict=True):
            if d != e or local(d, subs[0]) or local(e, subs[1]):
                count.append(s.c.builder.fresh("If"))
                d = count[-1]
            shape.append(d)
        shapes.append(tuple(shape))
    graphs = [sub.finish([], outs, captured) for sub, outs in zip(subs, results, strict=True)]
    flag = s.c.reshape(condition, ())
    attrs: dict[str, AttrValue] = {
        "then": graphs[0],
        "other": graphs[1],
        "shapes": tuple(shapes),
        "count": tuple(count),
    }
    return list(s.c.emit_many("If", [flag, *captured], attrs))


#: What the inputs of a body stand for, given its graph and context, the step's number and the carried values.
Inputs = Callable[["SubGraph", Context, Value, list[Value]], "list[Held]"]


@dataclass
class _Body:
    """A loop's body as a graph. tests: its first result says whether to go on. changing: sizes of carried values that
    differ from step to step."""

    sub: SubGraph
    inputs: list[Value]
    results: list[Value]
    tests: bool
    changing: set[tuple[int, int]]


def _body(s: Site, graph: Any, carried: Sequence[Value], given: Inputs, conditional: bool) -> _Body | None:
    """The body, imported until it is known which sizes of the carried values change. None where it cannot be
    imported. conditional: its first result says whether to go on."""
    changing: set[tuple[int, int]] = set()
    while True:
        types = [
            TensorType(
                v.type.dtype,
                tuple(s.c.builder.fresh("carried") if (k, a) in changing else d for a, d in enumerate(v.type.shape)),
            )
            for k, v in enumerate(carried)
        ]

        def inputs(sub: SubGraph, types: list[TensorType] = types) -> list[Held]:
            index = sub.graph.add_input("step", TensorType("int64", ()))
            values = [
                sub.graph.add_input(f"{v.name}.now{k}", t) for k, (v, t) in enumerate(zip(carried, types, strict=True))
            ]
            return given(sub, replace(s.c, builder=sub.builder, inputs=[]), index, values)

        problems, count = len(s.importer.problems), s.importer.count
        sub, held = s.importer.separate(graph, inputs, s.body, f"{s.label}/body/")
        if any(h is None for h in held):
            return None
        results = _tensors(held, "a result of the body")
        if len(results) < conditional + len(carried):
            raise ModelError(f"{s.c}: the body gives {len(results)} values, but {len(carried)} are carried")
        more = set()
        for k, (t, after) in enumerate(zip(types, results[int(conditional) :], strict=False)):
            if t.dtype != after.type.dtype or t.rank != after.type.rank:
                raise Refusal(f"the carried value '{carried[k].name}' is {t}, and {after.type} after a step")
            more |= {(k, a) for a, (d, e) in enumerate(zip(t.shape, after.type.shape, strict=True)) if d != e}
        if more <= changing:
            tests = conditional and not _always(sub.builder.known.get(results[0].id))
            inner = sub.graph.inputs[: 1 + len(carried)]
            return _Body(sub, inner, results[int(conditional and not tests) :], tests, changing)
        changing |= more
        del s.importer.problems[problems:]
        s.importer.count = count


def _always(known: np.ndarray | None) -> bool:
    return known is not None and known.dtype != object and bool(known.reshape(-1)[0])


def _run(s: Site, body: _Body, carried: Sequence[Value], trips: Value | None, going: Value | None) -> list[Value]:
    """The Loop with this body: final values of what is carried, then the steps' results joined along a first axis."""
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
    return s.c.emit_many("Loop", [*flags, *carried, *captured], attrs)


def loop(s: Site, graph: Any, carried: Sequence[Held], trips: Value | None, going: Value | None) -> list[Held]:
    """A Loop whose number of steps depends on data, or is large: its body becomes a graph, run step by step."""
    values = _tensors(carried, "a carried value")

    def given(sub: SubGraph, c: Context, index: Value, now: list[Value]) -> list[Held]:
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
    values = _tensors(states, "a state")
    x, axis, _ = data[0]
    trips = s.c.reshape(s.c.emit("Shape", x, start=axis, end=axis + 1), ())

    def given(sub: SubGraph, c: Context, index: Value, now: list[Value]) -> list[Held]:
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
