"""Which tensors carry 8-bit codes, and which of them share a scale.

A product (Conv, MatMul with constant weights) in INT8 needs its data as codes and its weights per output channel;
attention multiplies codes of queries, keys and values. Codes are placed as early as possible: above ops that only move
values or take the largest, so that those run on codes too. The inputs of a Concat share one scale. Of an Add whose
result becomes codes, one branch stays unquantized, the one whose product computes the sum in its epilogue; the other is
read as codes.

Products and such Adds are *sites*: each is on (INT8) or off, and one that is off reads the float tensor, so that
turning it off removes all the error it made. Other readers of a tensor get its codes if every site that reads it is on.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from temper.ir.graph import Graph, Node, Value
from temper.passes.integer import HOMOGENEOUS, MOVES

#: Ops whose results are never negative, and ops that keep that.
_NOT_NEGATIVE = frozenset({"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs", "Exp", "Sqrt", "Softplus", "ReduceL2"})
_KEEPS_SIGN = frozenset(
    {"AveragePool", "ReduceMean", "ReduceSum", "ReduceMax", "Add", "Mul", "Max", "Identity", *MOVES}
)

#: Consumers that read the float tensor although codes of it exist: rounding would hurt them, and they stay float.
_FLOAT_ONLY = frozenset({"LayerNormalization", "RMSNormalization", "Softmax", "LogSoftmax", "Histogram"})

#: A part that reaches less far than this share of the whole loses a bit or more with the whole's scale.
_NARROW = 0.5

#: A reader of a tensor: name of the node's first result, and which of its inputs.
Reader = tuple[str, int]


@dataclass(frozen=True)
class Site:
    """A unit of choice. key: name of the node's first result, which is unique. inputs: those read as codes when on.

    tensors: whose codes it reads when everything is on, those before the moves between. origin: source names.
    """

    name: str
    op: str
    key: str
    inputs: tuple[int, ...]
    tensors: tuple[str, ...]
    origin: tuple[str, ...]

    @property
    def product(self) -> bool:
        return self.op != "Add"


@dataclass(frozen=True)
class Group:
    """Tensors that share a scale, by name. signed: False where none of them can be negative. symmetric: a reader takes
    no zero point."""

    tensors: tuple[str, ...]
    signed: bool
    symmetric: bool = False

    @property
    def levels(self) -> int:
        return 127 if self.signed else 255


@dataclass(frozen=True)
class Placement:
    """products: keys of the nodes in INT8.
    moves: keys of the nodes that move codes on the way to a site.
    reads: every other reader of codes -> number of the group whose scale they have.
    """

    products: tuple[str, ...]
    groups: tuple[Group, ...]
    moves: frozenset[str]
    reads: Mapping[Reader, int]


def quantizable(node: Node) -> str | None:
    """Why a node cannot be an integer product; None if it can."""
    if node.op == "Attention":
        return _attends(node)
    if node.op not in ("Conv", "MatMul"):
        return f"{node.op} is not a product"
    x, w = node.inputs[0], node.inputs[1]
    if x is None or w is None or w.const is None:
        return "its weights are not constants"
    if x.const is not None:
        return "its data are constants"
    if x.type.dtype != "float32":
        return f"it computes {x.type.dtype}"
    if node.op == "Conv" and (not node.attrs["channels_last"] or not 3 <= x.type.rank <= 5):
        return "it is not a convolution over lines, planes or volumes"
    if node.op == "Conv" and x.type.rank == 5 and w.const.shape[-2] == 1 and w.const.shape[0] > 1:
        return "it is depthwise over volumes: a convolution for each depth of its window"
    if node.op == "MatMul" and (w.type.rank != 2 or node.attrs["transA"] or node.attrs["transB"]):
        return "an operand is transposed, or its weights are a batch"
    if not np.isfinite(w.const).all():
        return "its weights are not all finite"
    if w.const.size == w.const.shape[-1]:
        return "it sums nothing: a scale per channel in float costs no more"
    return None


def _attends(node: Node) -> str | None:
    """Why attention cannot be of codes."""
    q = node.inputs[0]
    assert q is not None
    data = [v for v in node.inputs[:3] if v is not None]
    if any(v.type.dtype != "float32" for v in node.inputs if v is not None):
        return f"it computes {q.type.dtype}"
    if any(v.const is not None for v in data):
        return "queries, keys or values are constants"
    if q.type.shape[1 if str(node.attrs["layout"])[0] == "r" else 2] == 1:
        return "one query reads its keys once: to make codes of them costs as much"
    return None


def coded_inputs(node: Node) -> tuple[int, ...]:
    """The inputs that a quantizable product reads as codes of activations."""
    return (0, 1, 2) if node.op == "Attention" else (0,)


def _symmetric(node: Node) -> bool:
    """This reader of codes takes int8 without a zero point only: the pieces of one projection have one type, and keys
    and values are the signed operands of products."""
    return node.op == "Attention"


def key_of(node: Node) -> str:
    """What a node is called here: by its first result, whose name is unique."""
    return node.outputs[0].name


class _Codes:
    """Where codes go on the way to their readers. off: readers that are to get the float tensor. apart: tensors that
    get codes of their own, even if they are moved parts of others."""

    def __init__(self, graph: Graph, off: Collection[Reader] = (), apart: Collection[str] = ()) -> None:
        self.graph, self.off, self.apart = graph, frozenset(off), frozenset(apart)
        self.parent: dict[int, int] = {}
        self.roots: dict[int, Value] = {}
        #: nodes that move codes, and every tensor that has codes -> a root of its group
        self.moves: dict[int, Node] = {}
        self.carriers: dict[int, Value] = {}

    def find(self, v: Value) -> int:
        self.parent.setdefault(v.id, v.id)
        at = v.id
        while self.parent[at] != at:
            at = self.parent[at]
        return at

    def place(self, v: Value) -> Value:
        """Asks for codes of `v`; returns a tensor of its group."""
        if v.id in self.carriers:
            return self.carriers[v.id]
        node = v.producer
        data = data_of(node) if node is not None else []
        if (
            node is None
            or node.op not in MOVES
            or not data
            or any(u.const is not None for u in data)
            or not _moves_codes(node)
            or v.name in self.apart
            or self._raw(v, everything=True)
        ):
            self.roots[v.id] = self.carriers[v.id] = v
            self.find(v)
            return v
        first = self.place(data[0])
        for u in data[1:]:
            self.parent[self.find(self.place(u))] = self.find(first)
        self.moves[node.id] = node
        self.carriers[v.id] = first
        return first

    def _raw(self, v: Value, everything: bool) -> bool:
        """A site that is off reads `v`, also after moves; with `everything`, or something else that wants floats."""
        if everything and self.graph.is_output(v):
            return True
        return any(
            (key_of(n), i) in self.off
            or (everything and _wants_floats(n))
            or (everything and n.outputs[0].name in self.apart)
            or (n.op in MOVES and self._raw(n.outputs[0], everything))
            for n, i in v.uses
        )

    def placement(self, products: Iterable[Node], on: Collection[Reader], raw: Collection[Reader]) -> Placement:
        """What was placed, for these readers of codes; raw: readers that compute with floats although they are on."""
        for v in list(self.carriers.values()):  # groups were joined since
            self.find(v)
        members: dict[int, list[Value]] = {}
        for v in self.roots.values():
            members.setdefault(self.find(v), []).append(v)
        number = {root: k for k, root in enumerate(members)}
        values = {v.id: v for v in self.graph.values}
        reads: dict[Reader, int] = {}
        for value_id, root in self.carriers.items():
            v = values[value_id]
            for n, i in v.uses:
                reader = (key_of(n), i)
                if n.id in self.moves or reader in raw or (reader not in on and not self._joins(v, n, reader)):
                    continue
                reads[reader] = number[self.find(root)]
        symmetric = {
            self.find(root) for i, root in self.carriers.items() if any(_symmetric(n) for n, _ in values[i].uses)
        }
        groups = tuple(
            Group(
                tuple(v.name for v in found),
                root in symmetric or not all(not_negative(v) for v in found),
                root in symmetric,
            )
            for root, found in members.items()
        )
        return Placement(
            tuple(key_of(n) for n in products), groups, frozenset(key_of(n) for n in self.moves.values()), reads
        )

    def _joins(self, v: Value, node: Node, reader: Reader) -> bool:
        """A reader that is not a site gets the codes that are there."""
        if reader in self.off or _wants_floats(node) or self._raw(v, everything=False):
            return False
        if node.outputs[0].name in self.apart:
            return False
        if node.op in MOVES:  # codes of several tensors are joined only where a site wants them
            return len(data_of(node)) == 1 and _moves_codes(node) and not self._raw(node.outputs[0], everything=True)
        return True


def _wants_floats(node: Node) -> bool:
    """Codes would hurt what a node computes: normalisation, and sums that only normalisation reads, as where the
    residual stream of a transformer goes through its layer norms."""
    if node.op == "Add":
        users = node.output.users
        return bool(users) and all(u.op in _FLOAT_ONLY for u in users)
    return node.op in _FLOAT_ONLY


def data_of(node: Node) -> list[Value]:
    """Its float32 operands."""
    return [u for u in node.inputs if u is not None and u.type.dtype == "float32"]


def _moves_codes(node: Node) -> bool:
    if node.op == "Pad":
        return node.attrs["mode"] == "constant" and not node.attrs.get("value", 0.0)
    return node.op != "Resize" or node.attrs["mode"] == "nearest"


def _sums(graph: Graph) -> Iterator[tuple[Node, Value, Value]]:
    """Adds of two different tensors of one shape, the last first."""
    for node in reversed(graph.nodes):
        a, b = (*node.inputs, None, None)[:2]
        if node.op != "Add" or a is None or b is None or a is b or a.const is not None or b.const is not None:
            continue
        if a.type == b.type and a.type.dtype == "float32":
            yield node, a, b


def sites_of(graph: Graph, products: Iterable[Node] | None = None) -> tuple[Site, ...]:
    """Every site of a float graph, in topological order. products: the candidates, all quantizable nodes if None.

    A site is named after its node, or after the node's result where two sites would have one name.
    """
    codes = _Codes(graph)
    found: dict[str, tuple[Node, tuple[int, ...]]] = {}
    for node in products if products is not None else [n for n in graph.nodes if quantizable(n) is None]:
        found[key_of(node)] = (node, coded_inputs(node))
        for i in coded_inputs(node):
            x = node.inputs[i]
            assert x is not None
            codes.place(x)
    order = {n.id: i for i, n in enumerate(graph.nodes)}
    names = frozenset(found)
    for node, a, b in _sums(graph):
        if not _becomes_codes(node.output, codes.roots):
            continue
        # the product that ends last adds: the other branch is there by then
        ends = [(order[p.id], k) for k, v in enumerate((a, b)) if (p := _product_of(v, names)) is not None]
        skips = tuple(k for k in (0, 1) if not ends or k != max(ends)[1])
        for k in skips:
            codes.place((a, b)[k])
        found[key_of(node)] = (node, skips)
    for node, a, b in _sums(graph):
        coded = tuple(k for k in (0, 1) if (a, b)[k].id in codes.carriers)
        if coded and key_of(node) not in found and not _wants_floats(node):
            found[key_of(node)] = (node, coded)
    counts: dict[str, int] = {}
    for node, _ in found.values():
        counts[node.name] = counts.get(node.name, 0) + 1
    return tuple(
        Site(
            node.name if counts[node.name] == 1 else key_of(node),
            node.op,
            key_of(node),
            inputs,
            tuple(dict.fromkeys(v.name for i in inputs for v in _sources(node.inputs[i], codes))),
            tuple(o for o in node.origin if not o.startswith("rule:")),
        )
        for node, inputs in sorted(found.values(), key=lambda f: order[f[0].id])
    )


def _sources(v: Value | None, codes: _Codes) -> Iterator[Value]:
    """The tensors that are quantized for a reader of `v`."""
    assert v is not None
    if v.id in codes.roots:
        yield v
    elif v.producer is not None:
        for u in data_of(v.producer):
            yield from _sources(u, codes)


def _becomes_codes(v: Value, roots: Mapping[int, Value]) -> bool:
    """Every step from `v` to where it is quantized commutes with scaling."""
    if v.id in roots:
        return True
    users = v.users
    return len(users) == 1 and users[0].op in HOMOGENEOUS and _becomes_codes(users[0].outputs[0], roots)


def _product_of(v: Value, products: Collection[str]) -> Node | None:
    """The INT8 product whose epilogue can go on to `v`, following single uses."""
    while True:
        node = v.producer
        if node is None:
            return None
        if key_of(node) in products:
            return node
        first = node.inputs[0] if node.inputs else None
        if node.op not in HOMOGENEOUS or first is None:
            return None
        others = [u for u in node.inputs[1:] if u is not None and u.const is None]
        if others or len(first.uses) > 1:
            return None
        v = first


def place_sites(graph: Graph, sites: Iterable[Site], on: Collection[str], apart: Collection[str] = ()) -> Placement:
    """Where codes go if of `sites` those named in `on` are in INT8. apart: see `narrow_parts`."""
    nodes = {key_of(n): n for n in graph.nodes}
    known = tuple(sites)
    off = {(s.key, i) for s in known if s.name not in on for i in s.inputs}
    wanted = {(s.key, i): nodes[s.key] for s in known if s.name in on for i in s.inputs}
    raw = {(s.key, i) for s in known if not s.product for i in (0, 1) if i not in s.inputs}
    codes = _Codes(graph, off, apart)
    for (_, i), node in wanted.items():
        x = node.inputs[i]
        assert x is not None
        codes.place(x)
    products = [nodes[s.key] for s in known if s.product and s.name in on]
    return codes.placement(products, wanted.keys(), raw)


def place(graph: Graph, products: Iterable[Node]) -> Placement:
    """Where codes go if `products` are computed in INT8, and all other quantizable ones in float."""
    keys = {key_of(n) for n in products}
    sites = sites_of(graph)
    return place_sites(graph, sites, {s.name for s in sites if not s.product or s.key in keys})


def narrow_parts(graph: Graph, amax: Mapping[str, float]) -> frozenset[str]:
    """Tensors whose values are far smaller than those they are cut from, as a state stacked with another: with codes of
    the whole they would lose bits. amax: largest |x| by tensor; tensors it lacks are left out."""
    found = set()
    for node in graph.nodes:
        if node.op not in MOVES or len(data_of(node)) != 1:
            continue
        whole, part = data_of(node)[0].name, node.outputs[0].name
        if whole in amax and part in amax and amax[part] < _NARROW * amax[whole]:
            found.add(part)
    return frozenset(found)


def not_negative(v: Value) -> bool:
    """The tensor cannot hold a negative value, whatever the inputs."""
    if v.const is not None:
        return bool((v.const >= 0).all())
    node = v.producer
    if node is None:
        return False
    if node.op == "Clip":
        low = node.attrs.get("min")
        return isinstance(low, (int, float)) and low >= 0
    if node.op in _NOT_NEGATIVE:
        return True
    data = data_of(node)
    return node.op in _KEEPS_SIGN and bool(data) and all(not_negative(u) for u in data)
