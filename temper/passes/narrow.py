"""Stores tensors that cross regions of a GPU program in a narrow float type (FP16, BF16); arithmetic stays float32.

A value that another region reads gets a conversion where it is made (the end of that region's program) and one at every
reader (its prologue, or a step of its program). Ops that only move values move the narrow ones. Products multiply what
is stored, so that their weights are converted here, at build.

What stays float32, with its reason in the log: inputs and outputs of the model, pinned layers, what the host computes
or reads, values that a constant makes too large (large.py), sums of many values (ReduceSum and the like), integers held
in floats, coordinates, and whatever ArgMax and similar ops decide by.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase

import numpy as np

from temper.errors import ConfigError
from temper.ir.graph import Graph, Node, Value
from temper.ir.opdef import Kind
from temper.ir.ops import TABLE, make
from temper.passes.large import fits, too_large
from temper.passes.manager import Log, Pass
from temper.passes.partition import VIEW_OPS, computes
from temper.passes.region import Region, widens
from temper.reference.formats import number, numbers

_NAME = "narrow"
_PIN = "pin"

#: The IR's type of each precision that tensors can be stored in.
STORED = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}

#: A graph's regions, each with whether the host computes it.
Cut = Callable[[Graph], Sequence[tuple[Region, bool]]]

#: Products, whose two operands are of one type.
PRODUCTS = frozenset({"Conv", "ConvTranspose", "MatMul"})

#: Ops whose results are large where what they read is not.
_GROWING = frozenset(
    {"ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceProd", "ReduceLogSum", "ReduceLogSumExp"}
    | {"CumSum", "CumProd", "Exp", "Pow"}
)
#: Ops whose results are positions or orders, which rounding changes.
_DECIDING = frozenset({"ArgMax", "ArgMin", "Hardmax", "Histogram", "DynamicQuantizeLinear", "CumSum", "CumProd"})
#: Operands that are coordinates or masks: from this one on.
_FROM = {"GridSample": 1, "RoiAlign": 1, "MaxRoiPool": 1, "DeformConv": 2, "Attention": 3}
#: Ops of kind opaque whose first operand may be narrow.
_SIMPLE = frozenset({"DeformConv", "RoiAlign", "MaxRoiPool"})

#: Values of so few elements gain nothing.
_SMALL = 64

_INTEGERS = frozenset({"int64", "int32", "int16", "uint64", "uint32", "uint16"})


@dataclass
class _Plan:
    """dtype: of what is stored. region: by id of a node. narrow: ids of the values to be stored so."""

    graph: Graph
    log: Log
    dtype: str
    regions: Sequence[tuple[Region, bool]]
    pinned: frozenset[int]
    region: dict[int, Region] = field(default_factory=dict)
    hosts: set[int] = field(default_factory=set)
    large: frozenset[int] = frozenset()
    narrow: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        for r, host in self.regions:
            if any(n.id in self.pinned for n in r.nodes):
                self.pinned |= {n.id for n in r.nodes}
            self.region.update((n.id, r) for n in r.all_nodes)
            if host:
                self.hosts |= {n.id for n in r.all_nodes}
        self.large = too_large(self.graph, self.dtype)

    # ---- what is stored narrowly ----

    def decide(self) -> None:
        """Starts from all values that cross regions and drops, to a fixpoint, those that cannot be narrow."""
        self.narrow = {v.id for v in self.graph.values if v.const is None and v.type.dtype == "float32"}
        # a part that nothing reads does not keep the others from being narrow
        self.narrow &= {v.id for v in self.graph.values if self.readers(v) or not v.uses}
        changed = True
        while changed:
            changed = False
            for v in self.graph.values:
                if v.id in self.narrow and (reason := self.stays(v)) is not None:
                    self.narrow.remove(v.id)
                    changed = True
                    self.log.did_not(_NAME, v.name, reason)

    def readers(self, v: Value) -> list[tuple[Node, int]]:
        """Uses of a value outside the region that makes it."""
        own = self.region.get(v.producer.id) if v.producer is not None else None
        return [(n, i) for n, i in v.uses if own is None or self.region.get(n.id) is not own]

    def stays(self, v: Value) -> str | None:
        """Why a value is stored as float32; None if it need not be."""
        node = v.producer
        if node is None:
            return "it is an input of the model"
        if self.graph.is_output(v):
            return "it is an output of the model"
        if isinstance(v.type.count, int) and v.type.count <= _SMALL:
            return "it is small"
        if v.id in self.large:
            return f"a constant makes it too large for {self.dtype}"
        if moves(node):
            if any(o.type.dtype == "float32" and o.id not in self.narrow for o in node.outputs):
                return "another part of what it is a part of is float32"
            data = [u for u in node.inputs if u is not None and u.type.dtype == "float32"]
            if any(u.const is None and u.id not in self.narrow for u in data):
                return "what it is moved from is float32"
        elif (reason := self.made_wide(node)) is not None:
            return reason
        return next((r for n, i in self.readers(v) if (r := self.read_wide(n, i)) is not None), None)

    def made_wide(self, node: Node) -> str | None:
        if node.id in self.pinned:
            return f"'{node.name}' is pinned to float32"
        if node.id in self.hosts:
            return f"the host computes '{node.name}'"
        if node.op in _GROWING or TABLE[node.op].kind is Kind.OPAQUE:
            return f"results of {node.op} may be large"
        if node.op == "Mul" and node.inputs[0] is node.inputs[1]:
            return "squares may be large"
        if len(node.outputs) > 1:
            return f"{node.op} has several results, so that no conversion follows it in its kernel"
        steps = self.region[node.id].nodes if node.id in self.region else (node,)
        inside = {o.id for n in steps for o in n.outputs}
        for n in steps:
            source = n.inputs[0] if n.op == "Cast" else None
            if source is not None and source.type.dtype in _INTEGERS and source.id not in inside:
                return "it is made of integers"
        return None

    def read_wide(self, node: Node, i: int) -> str | None:
        """Why a reader wants float32."""
        if moves(node):
            wide = [o for o in node.outputs if o.id not in self.narrow]
            return f"'{wide[0].name}' is float32, which is moved from it" if wide else None
        if node.id in self.pinned:
            return f"'{node.name}', which is pinned to float32, reads it"
        if node.id in self.hosts:
            return f"'{node.name}' reads it on the host"
        if node.op in _DECIDING:
            return f"{node.op} decides by it"
        if i >= _FROM.get(node.op, 9):
            return f"{node.op} reads coordinates or a mask in it"
        if TABLE[node.op].kind is Kind.OPAQUE and node.op not in _SIMPLE:
            return f"{node.op} reads it"
        if node.op in ("Recurrence", "Einsum"):
            return f"{node.op} reads float32 only"
        if node.op in PRODUCTS and (reason := self.unequal(node)) is not None:
            return reason
        steps = self.region[node.id].program if node.id in self.region else ()
        if any(n.op == "Cast" and n.output.type.dtype in _INTEGERS for n in (*steps, node)):
            return f"integers are made of it in '{node.name}'"
        return None

    def unequal(self, node: Node) -> str | None:
        """Why the operands of a product cannot both be narrow."""
        if any(v is not None and v.id in self.large for v in node.inputs[:2]):
            return f"an operand of '{node.name}' is too large for {self.dtype}"
        return None

    # ---- the rewriting ----

    def apply(self) -> None:
        """Stores what was decided on narrowly, and gives products operands of one type."""
        halves: dict[int, Value] = {}
        read = [(v, self.readers(v)) for v in self.graph.values if v.id in self.narrow]

        def half(v: Value) -> Value:
            if v.id not in halves:
                if v.const is not None:
                    array = self.graph.derived(number, v.const, self.dtype)
                    halves[v.id] = self.graph.add_constant(array, f"{v.name}.{self.dtype}", self.dtype)
                else:
                    halves[v.id] = _cast(self.graph, v, self.dtype)
                    halves[v.id].known_as(v.sources)
            return halves[v.id]

        for node in self.graph.nodes:
            if moves(node) and all(o.id in self.narrow for o in node.outputs):
                inputs: list[Value | None] = [
                    half(v) if v is not None and v.type.dtype == "float32" else v for v in node.inputs
                ]
                made = make(self.graph, node.op, inputs, node.attrs, name=node.name, origin=node.origin)
                for old, new in zip(node.outputs, made.outputs, strict=True):
                    new.known_as(old.sources)
                    halves[old.id] = new
        for v, uses in read:
            for n, k in uses:
                if not (moves(n) and all(o.id in self.narrow for o in n.outputs)):
                    self.graph.set_input(n, k, _cast(self.graph, half(v), "float32"))
            self.log.did(_NAME, v.name)
        for node in self.graph.nodes:
            if node.op not in PRODUCTS or node.id in self.pinned | self.hosts or node.output.type.dtype != "float32":
                continue
            if (reason := self.unequal(node)) is not None:
                self.log.did_not(_NAME, node.name, reason)
                continue
            for i, operand in enumerate(node.inputs[:2]):
                if operand is not None and not (operand.producer is not None and widens(operand.producer)):
                    self.graph.set_input(node, i, _cast(self.graph, half(operand), "float32"))
        self.graph.prune()


def _cast(graph: Graph, v: Value, dtype: str) -> Value:
    return make(graph, "Cast", [v], {"to": dtype}, name=f"{v.name}.{dtype}", origin=(f"rule:{_NAME}",)).output


def moves(node: Node) -> bool:
    """It copies elements of any type."""
    if node.op in VIEW_OPS or (TABLE[node.op].kind is Kind.MOVEMENT and not computes(node)):
        return node.attrs.get("reduction", "none") == "none" and not node.binds
    return False


# ---- models that are narrow themselves ----


def _own_halves(graph: Graph, log: Log) -> None:
    """Conversions to float32 go to their readers, behind what moves, and weights become what they were made from."""
    for node in graph.nodes:
        if moves(node) and len(node.outputs) == 1:
            _sink(graph, node)
    for node in graph.nodes:
        if widens(node) and not graph.is_output(node.output):
            for user, i in list(node.output.uses)[1:]:
                graph.set_input(user, i, make(graph, "Cast", node.inputs, node.attrs, name=node.name).output)
    for node in graph.nodes:
        if node.op not in PRODUCTS:
            continue
        x, w = node.inputs[0], node.inputs[1]
        if x is None or w is None or w.const is None or x.producer is None or not widens(x.producer):
            continue
        (stored,) = x.producer.inputs
        assert stored is not None
        dtype = stored.type.dtype
        if not fits(w.const, dtype) or (numbers(graph.derived(number, w.const, dtype), dtype) != w.const).any():
            log.did_not(_NAME, node.name, f"its weights are not numbers of {dtype}")
            continue
        narrow = graph.add_constant(graph.derived(number, w.const, dtype), f"{w.name}.{dtype}", dtype)
        graph.set_input(node, 1, _cast(graph, narrow, "float32"))
    graph.prune()


def _sink(graph: Graph, node: Node) -> None:
    """move(widen(x)) = widen(move(x)), where all data is widened from one type."""
    data = [v for v in node.inputs if v is not None and v.type.dtype == "float32"]
    producers = [v.producer for v in data]
    sources = [p.inputs[0] for p in producers if p is not None and widens(p)]
    if not data or len(sources) != len(data) or len({s.type.dtype for s in sources if s is not None}) != 1:
        return
    given = iter(sources)
    inputs = [next(given) if v is not None and v.type.dtype == "float32" else v for v in node.inputs]
    moved = make(graph, node.op, inputs, node.attrs, name=node.name, origin=node.origin).output
    graph.replace_uses(node.output, _cast(graph, moved, "float32"))
    graph.remove_node(node)


def _matching(graph: Graph, patterns: Sequence[str], log: Log) -> frozenset[int]:
    """Ids of the nodes that one of the patterns matches by name, or by the name of a source node they stand for."""
    found: set[int] = set()
    for p in patterns:
        nodes = {n.id for n in graph.nodes if any(fnmatchcase(name, p) for name in n.names)}
        if nodes:
            log.did(_PIN, p)
        found |= nodes
    return frozenset(found)


def check_pins(patterns: Sequence[str], log: Log) -> None:
    """ConfigError for a pattern that matched nothing in any graph."""
    missing = [p for p in patterns if (_PIN, p) not in log.applied]
    if missing:
        raise ConfigError(f"'{missing[0]}' matches no layer of the model as it is after all passes")


def narrowing(dtype: str, cut: Cut, pins: Sequence[str] = ()) -> Pass:
    """The pass.

    dtype: what tensors are stored in; "float32" leaves those of models that do not compute in a half type themselves.
    cut: the regions that tactics take.
    pins: patterns of the layers that stay float32.
    """

    def run(graph: Graph, log: Log) -> None:
        _own_halves(graph, log)
        pinned = _matching(graph, pins, log)
        # bfloat16 models may need its range
        stored = graph.half if graph.half and dtype in ("float32", "float16") else dtype
        if stored == "float32":
            return
        plan = _Plan(graph, log, stored, cut(graph), pinned)
        plan.decide()
        plan.apply()

    return Pass(_NAME, run)


def constants_widened(graph: Graph, regions: Sequence[Region]) -> list[Region]:
    """Regions without those that convert a constant to float32, which a product's kernel declined to do."""
    left = []
    for region in regions:
        node, source = region.nodes[0], region.nodes[0].inputs[0] if region.nodes[0].inputs else None
        if len(region.nodes) == 1 and source is not None and source.const is not None and widens(node):
            array = numbers(source.const, source.type.dtype).astype(np.float32)
            graph.replace_uses(node.output, graph.add_constant(array, f"{source.name}.float32"))
            graph.remove_node(node)
        else:
            left.append(region)
    return left if len(left) == len(regions) else [replace(r) for r in left]
