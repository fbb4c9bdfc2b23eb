"""Which tensors carry 8-bit codes, which of them share a scale, and the graph with QuantizeLinear and DequantizeLinear.

A product (Conv, MatMul with constant weights) in INT8 needs its data as codes and its weights per output channel. The
codes are placed as early as ops that only move values, or take the largest, allow, so that those run on codes too; what
a Concat joins shares one scale. Of an Add whose result becomes codes, one branch stays unquantized, the one whose
product computes the sum in its epilogue; the other is read as codes (DESIGN, section 4).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from temper.ir.graph import Graph, Node, Value
from temper.ir.ops import make
from temper.passes.integer import HOMOGENEOUS, MOVES

#: Ops whose results are never negative, and ops that keep that.
_NOT_NEGATIVE = frozenset({"Relu", "Sigmoid", "HardSigmoid", "Softmax", "Abs", "Exp", "Sqrt", "Softplus", "ReduceL2"})
_KEEPS_SIGN = frozenset(
    {"AveragePool", "ReduceMean", "ReduceSum", "ReduceMax", "Add", "Mul", "Max", "Identity", *MOVES}
)

#: Consumers that read the float tensor although codes of it exist: rounding would hurt them, and they stay float.
_FLOAT_ONLY = frozenset({"LayerNormalization", "RMSNormalization", "Softmax", "LogSoftmax", "Histogram"})

_INT32 = 2**31


@dataclass(frozen=True)
class Group:
    """Tensors that share a scale, by name. signed: False where none of them can be negative."""

    tensors: tuple[str, ...]
    signed: bool

    @property
    def levels(self) -> int:
        return 127 if self.signed else 255


@dataclass(frozen=True)
class Placement:
    """products: names of the nodes in INT8. raw: (node, input index) that reads the float tensor although it has
    codes."""

    products: tuple[str, ...]
    groups: tuple[Group, ...]
    raw: frozenset[tuple[str, int]]


def quantizable(node: Node) -> str | None:
    """Why a node cannot be an integer product; None if it can."""
    if node.op not in ("Conv", "MatMul"):
        return f"{node.op} is not a product"
    x, w = node.inputs[0], node.inputs[1]
    if x is None or w is None or w.const is None:
        return "its weights are not constants"
    if x.type.dtype != "float32":
        return f"it computes {x.type.dtype}"
    if node.op == "Conv" and (not node.attrs["channels_last"] or x.type.rank != 4):
        return "it is not a convolution over planes"
    if node.op == "MatMul" and (w.type.rank != 2 or node.attrs["transA"] or node.attrs["transB"]):
        return "an operand is transposed, or its weights are a batch"
    return None


class _Places:
    def __init__(self, graph: Graph, products: Iterable[Node]) -> None:
        self.graph = graph
        self.products = {n.name: n for n in products}
        self.parent: dict[int, int] = {}
        self.roots: dict[int, Value] = {}
        self.raw: set[tuple[str, int]] = set()

    def find(self, v: Value) -> int:
        self.parent.setdefault(v.id, v.id)
        at = v.id
        while self.parent[at] != at:
            at = self.parent[at]
        return at

    def place(self, v: Value) -> Value:
        """Asks for codes of `v`; returns a tensor of its group."""
        node = v.producer
        data = [] if node is None else [u for u in node.inputs if u is not None and u.type.dtype == "float32"]
        moved = node is not None and node.op in MOVES and data and all(u.const is None for u in data)
        if node is None or not moved or not self._moves_codes(node):
            self.roots[v.id] = v
            self.find(v)
            return v
        first = self.place(data[0])
        for u in data[1:]:
            self.parent[self.find(self.place(u))] = self.find(first)
        return first

    @staticmethod
    def _moves_codes(node: Node) -> bool:
        if node.op == "Pad":
            return node.attrs["mode"] == "constant" and not node.attrs.get("value", 0.0)
        return node.op != "Resize" or node.attrs["mode"] == "nearest"

    def becomes_codes(self, v: Value) -> bool:
        """Every step from `v` to where it is quantized commutes with scaling."""
        if v.id in self.roots:
            return True
        users = v.users
        return len(users) == 1 and users[0].op in HOMOGENEOUS and self.becomes_codes(users[0].outputs[0])

    def product_of(self, v: Value) -> Node | None:
        """The INT8 product whose epilogue can go on to `v`, following single uses."""
        while True:
            node = v.producer
            if node is None:
                return None
            if node.name in self.products:
                return node
            first = node.inputs[0] if node.inputs else None
            if node.op not in HOMOGENEOUS or first is None:
                return None
            others = [u for u in node.inputs[1:] if u is not None and u.const is None]
            if others or len(first.uses) > 1:
                return None
            v = first

    def run(self) -> Placement:
        for node in self.products.values():
            x = node.inputs[0]
            assert x is not None
            self.place(x)
        order = {n.id: i for i, n in enumerate(self.graph.nodes)}
        for node in self.graph.nodes:
            if node.op != "Add" or any(v is None or v.const is not None for v in node.inputs):
                continue
            a, b = node.inputs
            assert a is not None and b is not None
            if a is b or a.type.shape != b.type.shape or not self.becomes_codes(node.output):
                continue
            # the product that ends last adds: the other branch is there by then
            found = [(order[p.id], k) for k, v in enumerate((a, b)) if (p := self.product_of(v)) is not None]
            anchor = max(found)[1] if found else None
            for k, v in enumerate((a, b)):
                if k == anchor:
                    self.raw.add((node.name, k))
                else:
                    self.place(v)
        members: dict[int, list[Value]] = {}
        for v in self.roots.values():
            members.setdefault(self.find(v), []).append(v)
        groups = tuple(
            Group(tuple(v.name for v in found), not all(not_negative(v) for v in found)) for found in members.values()
        )
        return Placement(tuple(self.products), groups, frozenset(self.raw))


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
    data = [u for u in node.inputs if u is not None and u.type.dtype == "float32"]
    return node.op in _KEEPS_SIGN and bool(data) and all(not_negative(u) for u in data)


def place(graph: Graph, products: Iterable[Node]) -> Placement:
    """Where codes go if `products` are computed in INT8."""
    return _Places(graph, products).run()


def weight_scales(w: np.ndarray) -> np.ndarray:
    """max |w| / 127 of every output channel (last axis), float32; 1 for a channel of zeros."""
    amax = np.abs(w).reshape(-1, w.shape[-1]).max(axis=0, initial=0).astype(np.float64)
    scale = (amax / 127).astype(np.float32)
    # a subnormal scale would make codes beyond 127
    return np.where(scale >= np.finfo(np.float32).tiny, scale, np.float32(1)).astype(np.float32)


def quantize_weights(w: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """int8 codes in [-127, 127], half to even."""
    return np.clip(np.rint(w.astype(np.float64) / scale.astype(np.float64)), -127, 127).astype(np.int8)


def insert(graph: Graph, placement: Placement, amax: Mapping[str, float]) -> None:
    """Writes the Q/DQ form into `graph`. amax: of every tensor of the groups; a group takes the largest of its own."""
    values = {v.name: v for v in graph.values}
    scales: dict[int, float] = {}
    for group in placement.groups:
        largest = max(amax[name] for name in group.tensors)
        scale = np.float32(largest / group.levels)
        if not scale >= np.finfo(np.float32).tiny:
            scale = np.float32(1)  # constantly zero, or as good as
        for name in group.tensors:
            scales[_quantized(graph, values[name], float(scale), group.signed, placement.raw).id] = float(scale)
    for name in placement.products:
        node = next(n for n in graph.nodes if n.name == name)
        _quantize_product(graph, node, _scale_of(node.inputs[0], scales))


def _quantized(graph: Graph, v: Value, scale: float, signed: bool, raw: frozenset[tuple[str, int]]) -> Value:
    """DQ(Q(v)), which all readers of `v` get but those that stay float."""
    dtype = "int8" if signed else "uint8"
    constants = [
        graph.add_constant(np.array(scale, np.float32), f"{v.name}.scale"),
        graph.add_constant(np.zeros((), dtype), f"{v.name}.zero"),
    ]
    readers = list(v.uses)
    origin = ("rule:quantize",)
    q = make(graph, "QuantizeLinear", [v, *constants], {"axis": 0, "to": dtype}, name=f"{v.name}.codes", origin=origin)
    d = make(graph, "DequantizeLinear", [q.output, *constants], {"axis": 0}, name=f"{v.name}.again", origin=origin)
    for node, i in readers:
        if node.op not in _FLOAT_ONLY and (node.name, i) not in raw:
            graph.set_input(node, i, d.output)
    return d.output


def _scale_of(v: Value | None, scales: Mapping[int, float]) -> float:
    """Scale of a product's data: that of the codes which moves brought here."""
    while v is not None and v.id not in scales:
        assert v.producer is not None
        v = next(u for u in v.producer.inputs if u is not None and u.type.dtype == "float32")
    assert v is not None
    return scales[v.id]


def _quantize_product(graph: Graph, node: Node, x_scale: float) -> None:
    w = node.inputs[1]
    assert w is not None and w.const is not None
    scale = weight_scales(w.const)
    label = f"{node.name}.weights"
    codes = graph.add_constant(quantize_weights(w.const, scale), label)
    graph.set_input(node, 1, _constant_codes(graph, codes, scale))
    if node.op != "Conv" or len(node.inputs) < 3 or node.inputs[2] is None or node.inputs[2].const is None:
        return
    unit = np.float64(x_scale) * scale.astype(np.float64)
    bias = np.rint(node.inputs[2].const.astype(np.float64) / unit)
    if (np.abs(bias) >= _INT32).any():
        return  # it stays float, added after the product
    wide = graph.add_constant(bias.astype(np.int32), f"{node.name}.bias")
    graph.set_input(node, 2, _constant_codes(graph, wide, unit.astype(np.float32)))


def _constant_codes(graph: Graph, codes: Value, scale: np.ndarray) -> Value:
    s = graph.add_constant(scale, f"{codes.name}.scale")
    attrs = {"axis": codes.type.rank - 1}
    return make(graph, "DequantizeLinear", [codes, s], attrs, name=f"{codes.name}.again").output
