"""Q/DQ graphs become integer arithmetic: products of codes, and requantization as steps that kernels fuse.

A value x that is read as DequantizeLinear(q, s, z) stands for s (q - z). Between such values and a QuantizeLinear with
scale t, everything that commutes with a positive factor (add, relu, clip, max, min) is computed in units of t, so that
the factors s / t are multiplied in once, at the leaves. They are float64 and rounded once, those of 8-bit codes to 16
bits. What does not commute is float arithmetic between a multiplication by s and a division by t.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

import numpy as np

from temper.ir.graph import Graph, Node, Value
from temper.ir.opdef import AttrValue
from temper.ir.ops import make
from temper.passes.integer_means import integer_mean
from temper.passes.integer_weights import dequantized_weights
from temper.passes.manager import Log, Pass

CODES = ("int8", "uint8")

#: A bias is meant in units of the product's scale if its own scale is this near: both were rounded to float32.
_SAME_SCALE = 1e-5


@dataclass(frozen=True, eq=False)
class Scaled:
    """s (codes - zero). scale: float64, a scalar or one per index of the last axis."""

    codes: Value
    scale: np.ndarray
    zero: int = 0


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
                self.product(node)
            elif node.op in ("ReduceMean", "AveragePool"):
                integer_mean(self, node)
            elif node.op == "Attention":
                self.attention(node)
        for node in self.graph.nodes:
            if node.op == "Split":
                self.split(node)
        for node in self.graph.nodes:
            if node.op == "QuantizeLinear" and self.graph.alive(node):
                self.requantize(node)
        self.graph.prune()

    # ---- reading ----

    def read(self, v: Value | None, features: int = -1) -> Scaled | str:
        """What a value stands for, or why it is not known as codes. features: the axis that scales may go along."""
        if v is None:
            return "it is absent"
        if v.id in self.sums:
            return self.sums[v.id]
        node = v.producer
        if node is None or node.op != "DequantizeLinear":
            return f"'{v.name}' is not quantized"
        codes, scale = node.inputs[0], node.inputs[1]
        zero = node.inputs[2] if len(node.inputs) > 2 else None
        if codes is None or scale is None or scale.const is None or scale.type.dtype != "float32":
            return f"the scale of '{v.name}' is not a float32 constant"
        if node.attrs["block_size"]:
            return f"'{v.name}' is quantized in blocks"
        if zero is not None and zero.const is None:
            return f"the zero point of '{v.name}' is not a constant"
        factor = scale.const.astype(np.float64)
        if factor.size > 1:
            axis = node.attrs["axis"]
            assert isinstance(axis, int)
            if axis % codes.type.rank != features % codes.type.rank:
                return f"'{v.name}' has a scale for each index of axis {axis}, which is not that of features"
        zeros = np.zeros(1, np.int64) if zero is None or zero.const is None else zero.const.astype(np.int64)
        if (zeros != zeros.flat[0]).any():
            return f"'{v.name}' has different zero points"
        if not (factor > 0).all() or not np.isfinite(factor).all():
            return f"a scale of '{v.name}' is not positive"
        return Scaled(codes, factor.reshape(-1) if factor.size > 1 else factor.reshape(()), int(zeros.flat[0]))

    def target(self, node: Node) -> tuple[np.ndarray, int, str] | str:
        """Scale (float64: a scalar, or one per feature), zero point and dtype of a QuantizeLinear."""
        scale = node.inputs[1]
        zero = node.inputs[2] if len(node.inputs) > 2 else None
        if node.output.type.dtype not in CODES:
            return f"its codes are {node.output.type.dtype}"
        if scale is None or scale.const is None or scale.type.dtype != "float32" or node.attrs["block_size"]:
            return "its scale is not a float32 constant, or one for each block"
        rank, axis = node.output.type.rank, node.attrs["axis"]
        if scale.const.size > 1 and int(str(axis)) % rank != rank - 1:
            return f"it has a scale for each index of axis {axis}, which is not that of features"
        if zero is not None and (zero.const is None or (zero.const != zero.const.reshape(-1)[0]).any()):
            return "its zero point is not one constant"
        factor = scale.const.astype(np.float64)
        return (
            factor.reshape(-1) if factor.size > 1 else factor.reshape(()),
            0 if zero is None or zero.const is None else int(zero.const.reshape(-1)[0]),
            node.output.type.dtype,
        )

    def scalar(self, node: Node) -> tuple[float, int, str] | str:
        """As `target`, of a QuantizeLinear with one scale."""
        found = self.target(node)
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

    # ---- products ----

    def product(self, node: Node) -> None:
        reason = self._product(node)
        if reason is not None:
            self.log.did_not("integer product", node.name, reason)

    def _product(self, node: Node) -> str | None:
        turned = node.op == "MatMul" and bool(node.attrs["transB"])
        if node.op == "MatMul" and isinstance(b := self.read(node.inputs[1]), Scaled) and b.codes.const is None:
            return self._product_of_two(node, b)
        x, w = self.read(node.inputs[0]), dequantized_weights(node.inputs[1], 0 if turned else -1)
        if isinstance(x, str):
            return x
        if isinstance(w, str):
            return w
        if x.codes.type.dtype not in CODES:
            return f"its data are {x.codes.type.dtype}"
        codes, w_scale = w
        if x.scale.ndim:
            if node.op != "Conv" or codes.shape[-2] != 1 or node.attrs["group"] != x.scale.size:
                return "its data have a scale for each channel, and it sums channels"
            x = replace(x, scale=np.repeat(x.scale, codes.shape[-1] // x.scale.size))
        if node.op == "Conv" and not node.attrs["channels_last"]:
            return "it is not channels-last"
        if node.op == "MatMul" and codes.ndim != 2:
            return "its weights are a batch"
        shifted = np.ascontiguousarray(codes.T) if turned else codes
        scale = np.broadcast_to(x.scale * w_scale, (shifted.shape[-1],))
        weights = self.graph.add_constant(shifted, f"{node.name}.codes")
        data, rank = x.codes, x.codes.type.rank
        if node.attrs.get("transA"):
            data = self.emit(node, "Transpose", data, perm=(*range(rank - 2), rank - 1, rank - 2))
        inputs: list[Value | None] = [data, weights]
        rest: Value | None = None
        if node.op == "Conv" and len(node.inputs) > 2 and node.inputs[2] is not None:
            bias = self._bias(node.inputs[2], scale)
            if bias is None:
                rest = node.inputs[2]
            else:
                inputs.append(self.graph.add_constant(bias, f"{node.name}.bias"))
        attrs = {k: v for k, v in node.attrs.items() if k not in ("transA", "transB")}
        if node.op == "Conv":
            attrs["bits"] = sum_bits(shifted)
        acc = self.emit(node, node.op + "Int8", *inputs, **attrs, zero_point=x.zero)
        y = self.emit(
            node, "DequantizeLinear", acc, self.constant(node, scale.astype(np.float32)), axis=acc.type.rank - 1
        )
        self.sums[y.id] = Scaled(acc, scale)
        self.graph.replace_uses(node.output, y if rest is None else self.emit(node, "Add", y, rest))
        self.graph.remove_node(node)
        self.log.did("integer product", node.name)
        return None

    def _product_of_two(self, node: Node, b: Scaled) -> str | None:
        """Both operands known at run time only. Kernels take the right one signed and without a zero point."""
        a = self.read(node.inputs[0])
        if isinstance(a, str):
            return a
        if any(x.scale.ndim or x.codes.type.dtype not in CODES for x in (a, b)):
            return "an operand has no single scale of 8-bit codes"
        if a.codes.type.rank < 2 or b.codes.type.rank < 2:
            return "an operand is a vector"
        right, zero = b.codes, b.zero
        if right.type.dtype == "uint8":
            less = self.emit(node, "Sub", self.emit(node, "Cast", right, to="int32"), self.constant(node, _int32(128)))
            right, zero = self.emit(node, "Cast", less, to="int8"), zero - 128
        data = [
            self.emit(node, "Transpose", x, perm=(*range(x.type.rank - 2), x.type.rank - 1, x.type.rank - 2))
            if node.attrs[turned]
            else x
            for x, turned in ((a.codes, "transA"), (right, "transB"))
        ]
        acc = self.emit(node, "MatMulInt8", *data, zero_point=a.zero)
        if zero:  # sum (a - z) (b - y) = sum (a - z) b - y sum (a - z)
            wide = self.emit(node, "Cast", data[0], to="int32")
            if a.zero:
                wide = self.emit(node, "Sub", wide, self.constant(node, _int32(a.zero)))
            rows = self.emit(node, "ReduceSum", wide, axes=(wide.type.rank - 1,), keepdims=1)
            acc = self.emit(node, "Sub", acc, self.emit(node, "Mul", rows, self.constant(node, _int32(zero))))
        scale = a.scale * b.scale
        y = self.emit(node, "DequantizeLinear", acc, self.constant(node, scale.astype(np.float32)), axis=0)
        self.sums[y.id] = Scaled(acc, scale)
        self.graph.replace_uses(node.output, y)
        self.graph.remove_node(node)
        self.log.did("integer product", node.name)
        return None

    def _bias(self, v: Value, scale: np.ndarray) -> np.ndarray | None:
        """int32 codes of a bias in units of `scale`, if it is given so."""
        bias = self.read(v)
        if isinstance(bias, str) or bias.codes.const is None or bias.codes.type.dtype != "int32":
            return None
        if (np.abs(bias.scale - scale) > _SAME_SCALE * scale).any():
            return None
        wide = bias.codes.const.astype(np.int64) - bias.zero
        return wide.astype(np.int32) if (np.abs(wide) < 2**31).all() else None

    def attention(self, node: Node) -> None:
        """softmax(s_q s_k scale Q K^T + mask) s_v V = s_v attention(Q, K, V) with the scores' scales in one."""
        q, k, v = (self.read(x) for x in node.inputs[:3])
        found = next((x for x in (q, k, v) if isinstance(x, str)), None)
        if isinstance(q, str) or isinstance(k, str) or isinstance(v, str):
            self.log.did_not("integer attention", node.name, str(found))
            return
        if q.codes.type.dtype not in CODES or any(
            x.codes.type.dtype != "int8" or x.zero or x.scale.ndim for x in (k, v)
        ):
            reason = "keys and values need int8 codes with one scale each and no zero point"
            self.log.did_not("integer attention", node.name, reason)
            return
        if q.scale.ndim:
            self.log.did_not("integer attention", node.name, "its queries have several scales")
            return
        scale = float(np.float32(float(str(node.attrs["scale"])) * float(q.scale) * float(k.scale)))
        attrs = {**node.attrs, "scale": scale, "zero_point": q.zero}
        y = self.emit(node, "AttentionInt8", q.codes, k.codes, v.codes, *node.inputs[3:], **attrs)
        out = self.emit(node, "Mul", y, self.constant(node, v.scale.astype(np.float32)))
        self.sums[out.id] = Scaled(y, v.scale)
        self.graph.replace_uses(node.output, out)
        self.graph.remove_node(node)
        self.log.did("integer attention", node.name)

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
            return "its data are no sums of codes"
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
        target = self.target(node)
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
                y = self.emit(node, "Div", x, self.constant(node, scale.astype(np.float32)))
            y = _unclipped(y, *(n - zero for n in RANGES[dtype]))
            self.graph.replace_uses(node.output, self.emit(node, "Saturate", y, to=dtype, zero_point=zero))
            self.log.did("requantize", node.name)
        self.graph.remove_node(node)

    def _has_codes(self, v: Value) -> bool:
        """Some leaf of the steps that lead to `v` is known as codes."""
        if isinstance(self.read(v), Scaled):
            return True
        node = v.producer
        if node is None or node.op not in HOMOGENEOUS or len(v.uses) > 1 or self.graph.is_output(v):
            return False
        return any(self._has_codes(u) for u in node.inputs if u is not None)

    def units(self, v: Value, unit: float | np.ndarray, at: Node) -> Value:
        """v / unit; an array of units goes along the last axis."""
        if v.const is not None:
            return self.constant(at, (v.const.astype(np.float64) / unit).astype(np.float32))
        source = self.read(v)
        if isinstance(source, Scaled):
            x = source.codes
            if source.zero:
                wide = x if x.type.dtype == "int32" else self.emit(at, "Cast", x, to="int32")
                x = self.emit(at, "Sub", wide, self.constant(at, np.array(source.zero, np.int32)))
            factor = np.asarray(source.scale / unit, np.float32)
            if x.type.dtype in CODES:
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


def sum_bits(weights: np.ndarray) -> int:
    """ConvInt8's `bits`: every sum of products of these weights (output channels last) with 8-bit codes less their zero
    point is below 2^bits in magnitude. 25 or 31, as kernels ask for no other."""
    largest = 255 * np.abs(weights.astype(np.int64)).reshape(-1, weights.shape[-1]).sum(axis=0).max(initial=0)
    return 25 if largest < 2**25 else 31


def _int32(x: int) -> np.ndarray:
    return np.array(x, np.int32)


def _short(factor: np.ndarray) -> np.ndarray:
    """`factor` (normal float32) rounded to 16 significant bits: its products with 8-bit codes are exact then, and one
    instruction adds them. Relative change: at most 2^-16, 0.004 of a code.
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
