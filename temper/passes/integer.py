"""Q/DQ graphs become integer arithmetic: products of codes, and requantization as steps that kernels fuse.

A value x that is read as DequantizeLinear(q, s, z) stands for s (q - z). Between such values and a QuantizeLinear with
scale t, everything that commutes with a positive factor (add, relu, clip, max, min) is computed in units of t, so that
the factors s / t are multiplied in once, at the leaves. They are divided in float64 and rounded to float32; those of
8-bit codes, less their zero point, then to 16 significant bits, so that the products are exact. What does not commute
is computed in float, between a multiplication by s and a division by t.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from temper.ir.graph import Graph, Node, Value
from temper.ir.opdef import AttrValue
from temper.ir.ops import make
from temper.passes.integer_means import integer_mean
from temper.passes.integer_products import integer_attention, integer_product
from temper.passes.integer_reading import CODES, Scaled, dequantized, quantized
from temper.passes.manager import Log, Pass
from temper.tactics.epilogue import GELU_UNIT


class Integer:
    """The rewriting of one graph."""

    def __init__(self, graph: Graph, log: Log) -> None:
        self.graph, self.log = graph, log
        #: accumulators that stand for values: scales in float64, which the graph's float32 constants would round
        self.sums: dict[int, Scaled] = {}

    def emit(self, node: Node, op: str, *inputs: Value | None, **attrs: AttrValue) -> Value:
        origin = (*(node.origin or (node.name,)), "rule:integer")
        return make(self.graph, op, inputs, attrs, name=f"{node.name}.{op.lower()}", origin=origin).output

    def constant(self, node: Node, array: np.ndarray) -> Value:
        return self.graph.add_constant(np.asarray(array), f"{node.name}.const")

    def stands_for(self, v: Value, codes: Value, scale: np.ndarray) -> None:
        """`v` is scale * codes, where the scale is known better than the graph's constants hold it."""
        self.sums[v.id] = Scaled(codes, scale)

    def run(self) -> None:
        for node in self.graph.nodes:
            if self.graph.alive(node) and node.op in MOVES:
                self.sink(node)
        for node in self.graph.nodes:
            if node.op in ("Conv", "MatMul"):
                integer_product(self, node)
            elif node.op in ("ReduceMean", "AveragePool"):
                integer_mean(self, node)
            elif node.op == "Attention":
                integer_attention(self, node)
        for node in self.graph.nodes:
            if node.op == "Split":
                self.split(node)
        for node in self.graph.nodes:
            if node.op == "QuantizeLinear" and self.graph.alive(node):
                self.requantize(node)
        self.graph.prune()

    # ---- reading ----

    def read(self, v: Value | None) -> Scaled | str:
        """What a value stands for, or why it is not known as codes."""
        if v is None:
            return "it is absent"
        if v.id in self.sums:
            return self.sums[v.id]
        return dequantized(v)

    def scalar(self, node: Node) -> tuple[float, int, str] | str:
        """As `quantized`, of a QuantizeLinear with one scale."""
        found = quantized(node)
        if isinstance(found, str):
            return found
        return "it has several scales" if found[0].ndim else (float(found[0]), *found[1:])

    # ---- moves ----

    def sink(self, node: Node) -> None:
        """move(dq(x)) = dq(move(x)): what only moves values, or takes the largest, may do so with codes."""
        found = [self.read(v) for v in node.inputs if v is not None and v.type.dtype == "float32"]
        if len(node.outputs) != 1:
            return
        first = found[0] if found else "it has no inputs"
        if isinstance(first, str) or first.scale.ndim or first.codes.type.dtype not in CODES:
            return
        for other in found[1:]:
            if (
                isinstance(other, str)
                or other.scale.ndim
                or (other.scale, other.zero, other.codes.type.dtype)
                != (first.scale, first.zero, first.codes.type.dtype)
            ):
                self.log.did_not("move codes", node.name, "its inputs have different scales")
                return
        inputs: list[Value | None] = []
        data = iter(found)
        for v in node.inputs:
            scaled = next(data) if v is not None and v.type.dtype == "float32" else None
            inputs.append(scaled.codes if isinstance(scaled, Scaled) else v)
        attrs = dict(node.attrs)
        if node.op == "Pad":
            if attrs["mode"] != "constant" or attrs.get("value", 0.0) != 0.0:
                return
            attrs["value"] = first.zero
        if node.op == "Resize" and attrs["mode"] != "nearest":
            return
        source = node.inputs[0].producer if node.inputs[0] is not None else None
        assert source is not None
        y = self.emit(node, node.op, *inputs, **attrs)
        self.graph.rename(y, node.name)
        out = self.emit(source, "DequantizeLinear", y, *source.inputs[1:], **source.attrs)
        self.graph.replace_uses(node.output, out)
        self.graph.remove_node(node)
        self.log.did("move codes", node.name)

    # ---- requantization ----

    def split(self, node: Node) -> None:
        """Pieces that are quantized at once are pieces of codes: each column in units of its piece's scale."""
        reason = self._split(node)
        if reason is not None:
            self.log.did_not("split codes", node.name, reason)

    def _split(self, node: Node) -> str | None:
        x, sizes = node.inputs[0], node.attrs["sizes"]
        assert x is not None and isinstance(sizes, tuple)
        if x.type.dtype != "float32" or not self._has_codes(x):
            return "its data are not sums of codes"
        if int(str(node.attrs["axis"])) % x.type.rank != x.type.rank - 1 or not all(isinstance(n, int) for n in sizes):
            return "it does not split features"
        readers = [[n for n, _ in y.uses] for y in node.outputs]
        lone = all(len(r) == 1 and r[0].op == "QuantizeLinear" for r in readers)
        if not lone or any(map(self.graph.is_output, node.outputs)):
            return "a piece has other readers than one quantization"
        targets = [self.scalar(r[0]) for r in readers]
        kinds = {t if isinstance(t, str) else t[1:] for t in targets}
        (kind,) = kinds if len(kinds) == 1 else ("the pieces' codes are of different kinds",)
        if isinstance(kind, str):
            return kind
        zero, dtype = kind
        units = np.concatenate([np.full(int(str(n)), t[0]) for n, t in zip(sizes, targets, strict=True)])
        y = self.emit(node, "Saturate", self.units(x, units, node), to=dtype, zero_point=zero)
        pieces = make(self.graph, "Split", [y], node.attrs, name=node.name, origin=node.origin).outputs
        for r, piece in zip(readers, pieces, strict=True):
            self.graph.replace_uses(r[0].output, piece)
            self.graph.remove_node(r[0])
        self.graph.remove_node(node)
        self.log.did("split codes", node.name)
        return None

    def requantize(self, node: Node) -> None:
        target = quantized(node)
        if isinstance(target, str):
            self.log.did_not("requantize", node.name, target)
            return
        scale, zero, dtype = target
        unit = scale if scale.ndim else float(scale)
        x = node.inputs[0]
        assert x is not None
        source = self.read(x)
        if (
            isinstance(source, Scaled)
            and np.array_equal(source.scale, scale)
            and (source.zero, source.codes.type.dtype) == (zero, dtype)
        ):
            self.graph.replace_uses(node.output, source.codes)
            self.log.did("cancel", node.name)
        else:
            y = self.units(x, unit, node) if self._has_codes(x) else None
            if y is None:
                y = self.emit(node, "Div", *self._dividend(x, scale, node))
            y = _unclipped(y, *(n - zero for n in RANGES[dtype]))
            self.graph.replace_uses(node.output, self.emit(node, "Saturate", y, to=dtype, zero_point=zero))
            self.log.did("requantize", node.name)
        self.graph.remove_node(node)

    def _dividend(self, x: Value, scale: np.ndarray, node: Node) -> tuple[Value, Value]:
        """What is divided by what. Kernels approximate a GELU that is divided by a unit and rounded, as finely as units
        of activations need; before smaller ones, of a layer that is all but dead, it is multiplied by a power of two,
        and the unit too, which changes no quotient and lets them see a GELU of floats."""
        if x.producer is not None and x.producer.op == "Gelu" and scale.ndim == 0 and 0 < float(scale) < GELU_UNIT:
            power = np.array(2.0 ** min(126.0, -np.floor(np.log2(float(scale)))), np.float32)
            unit = np.multiply(scale, power, dtype=np.float32)
            return self.emit(node, "Mul", x, self.constant(node, power)), self.constant(node, unit)
        return x, self.constant(node, scale.astype(np.float32))

    def _has_codes(self, v: Value) -> bool:
        """Some leaf of the steps that lead to `v` is known as codes."""
        if isinstance(self.read(v), Scaled):
            return True
        node = v.producer
        if node is None or node.op not in HOMOGENEOUS or len(v.uses) > 1 or self.graph.is_output(v):
            return False
        return any(self._has_codes(u) for u in node.inputs if u is not None)

    def units(self, v: Value, unit: float | np.ndarray, at: Node) -> Value:
        """v / unit; an array of units goes along the last axis. Factors of 8-bit codes have 16 significant bits
        (`_short`), all others are rounded to float32 once."""
        if v.const is not None:
            return self.constant(at, (v.const.astype(np.float64) / unit).astype(np.float32))
        source = self.read(v)
        if isinstance(source, Scaled):
            x = source.codes
            if source.zero:
                wide = x if x.type.dtype == "int32" else self.emit(at, "Cast", x, to="int32")
                x = self.emit(at, "Sub", wide, self.constant(at, np.array(source.zero, np.int32)))
            factor = np.asarray(source.scale / unit, np.float32)
            if source.codes.type.dtype in CODES:  # whatever the zero point: a GPU's signed codes have another
                factor = _short(factor)
            wide = x if x.type.dtype == "float32" else self.emit(at, "Cast", x, to="float32")
            return self.emit(at, "Mul", wide, self.constant(at, factor))
        node = v.producer
        if node is None or node.op not in HOMOGENEOUS or not self._has_codes(v):
            return self.emit(at, "Div", v, self.constant(at, np.array(unit, np.float32)))
        attrs: dict[str, AttrValue] = dict(node.attrs)
        for bound in ("min", "max"):
            value = attrs.get(bound)
            if node.op == "Clip" and isinstance(value, (int, float)):
                if isinstance(unit, np.ndarray):
                    return self._clipped(node, unit, at)
                attrs[bound] = float(np.float32(float(value) / unit))
        return self.emit(node, node.op, *(None if u is None else self.units(u, unit, at) for u in node.inputs), **attrs)

    def _clipped(self, node: Node, unit: np.ndarray, at: Node) -> Value:
        """clip(v) / unit with bounds for each column."""
        assert node.inputs[0] is not None
        y = self.units(node.inputs[0], unit, at)
        for bound, op in (("min", "Max"), ("max", "Min")):
            value = node.attrs.get(bound)
            if isinstance(value, (int, float)):
                y = self.emit(node, op, y, self.constant(at, (float(value) / unit).astype(np.float32)))
        return y


#: Least and greatest code.
RANGES: Mapping[str, tuple[int, int]] = MappingProxyType({"int8": (-128, 127), "uint8": (0, 255)})


def _short(factor: np.ndarray) -> np.ndarray:
    """`factor` (normal float32) rounded to 16 significant bits: its products with 8-bit codes, which less their zero
    point are at most 255, are exact then, and one instruction adds them. Relative change: at most 2^-16, 0.004 of a
    code.
    """
    bits = np.ascontiguousarray(factor).view(np.uint32)
    rounded: np.ndarray = ((bits + 127 + ((bits >> 8) & 1)) & np.uint32(0xFFFFFF00)).view(np.float32)
    return rounded.reshape(factor.shape)


def _unclipped(v: Value, low: int, high: int) -> Value:
    """`v` without the clipping that rounding to a code in [low, high] does anyway."""
    while (node := v.producer) is not None and node.inputs:
        if node.op == "Relu":
            least, most = 0.0, np.inf
        elif node.op == "Clip":
            least, most = (float(str(node.attrs.get(k, d))) for k, d in (("min", -np.inf), ("max", np.inf)))
        else:
            return v
        x = node.inputs[0]
        if least > low or most < high or x is None:
            return v
        v = x
    return v


#: f(c x) = c f(x) for c > 0
HOMOGENEOUS = frozenset({"Add", "Sub", "Relu", "Clip", "Max", "Min", "Identity", "LeakyRelu"})

#: Ops that move values or take the largest. Order of codes is order of values.
MOVES: Mapping[str, None] = MappingProxyType(
    dict.fromkeys(
        (
            "Reshape",
            "Transpose",
            "Slice",
            "Concat",
            "Pad",
            "Expand",
            "Gather",
            "MaxPool",
            "Resize",
            "Squeeze",
            "Unsqueeze",
            "DepthToSpace",
            "SpaceToDepth",
        )
    )
)


def _integer(graph: Graph, log: Log) -> None:
    Integer(graph, log).run()


INTEGER = Pass("integer", _integer)
