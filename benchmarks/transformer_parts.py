"""A small ONNX graph writer for transformers, and the blocks that exporters write out in several forms.

Weights are random and scaled by their fan-in; normalisations keep activations near unit variance, so nothing needs
calibration. Names follow PyTorch's legacy exporter: ``/scope/Op``, ``/scope/Op_1``; constants are ``Constant`` nodes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

Size = int | str
AnyArray = npt.NDArray[Any]

IR_VERSION = 8
#: What exporters add to the scores of masked keys: the smallest float32.
LOWEST = float(np.finfo(np.float32).min)
LN_OP_OPSET = 17


@dataclass(frozen=True)
class Axis:
    """Dimension ``index`` of some tensor: its size is a number, or the name of a symbolic dimension."""

    index: int
    size: Size


def any_symbolic(*sizes: Size) -> bool:
    return any(isinstance(size, str) for size in sizes)


class GraphWriter:
    """Appends nodes and weights to one ONNX graph; tensors are names.

    ``arithmetic``: write shapes as Shape, Gather, Unsqueeze and Concat even where they are numbers.
    """

    def __init__(self, name: str, opset: int, arithmetic: bool, seed: int) -> None:
        self.name, self.opset, self.arithmetic = name, opset, arithmetic
        self.rng = np.random.default_rng(seed)
        self._nodes: list[NodeProto] = []
        self._weights: list[TensorProto] = []
        self._inputs: list[ValueInfoProto] = []
        self._outputs: list[ValueInfoProto] = []
        self._counts: dict[str, int] = {}
        self._renamed: dict[str, str] = {}

    # Graph plumbing.

    def input(self, name: str, shape: Sequence[Size], dtype: npt.DTypeLike = np.float32) -> str:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        self._inputs.append(helper.make_tensor_value_info(name, kind, list(shape)))
        return name

    def output(self, name: str, x: str, shape: Sequence[Size]) -> None:
        """Declare ``x`` (float32, rank >= 1) as the graph output ``name``."""
        self._renamed[x] = name
        self._outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape)))

    def node(self, op: str, scope: str, *inputs: str, **attributes: Any) -> str:
        """Append a node with one output and return that output's name."""
        return self.nodes(op, scope, 1, *inputs, **attributes)[0]

    def nodes(self, op: str, scope: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        path = f"/{scope}/{op}" if scope else f"/{op}"
        count = self._counts[path] = self._counts.get(path, -1) + 1
        if count:
            path += f"_{count}"
        names = [f"{path}_output_{i}" for i in range(outputs)]
        self._nodes.append(helper.make_node(op, list(inputs), names, name=path, **attributes))
        return names

    def constant(self, scope: str, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> str:
        return self.node("Constant", scope, value=numpy_helper.from_array(np.asarray(value, dtype)))

    def weight(self, name: str, value: AnyArray) -> str:
        self._weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def random(self, name: str, shape: Sequence[int], scale: float, mean: float = 0.0) -> str:
        """A float32 weight, normal around ``mean`` with standard deviation ``scale``."""
        value = self.rng.standard_normal(tuple(shape), np.float32)
        value *= np.float32(scale)
        value += np.float32(mean)
        return self.weight(name, value)

    def finish(self) -> ModelProto:
        """The model, with its outputs renamed as declared."""
        for node in self._nodes:
            node.input[:] = [self._renamed.get(name, name) for name in node.input]
            node.output[:] = [self._renamed.get(name, name) for name in node.output]
        graph = helper.make_graph(self._nodes, self.name, self._inputs, self._outputs, self._weights)
        opsets = [helper.make_opsetid("", self.opset)]
        return helper.make_model(graph, producer_name="temper-benchmarks", ir_version=IR_VERSION, opset_imports=opsets)

    # Shapes.

    def size_of(self, scope: str, x: str, axis: Axis) -> str:
        """``axis`` of ``x`` as an int64 tensor of shape (1,)."""
        shape = self.node("Shape", scope, x)
        size = self.node("Gather", scope, shape, self.constant(scope, axis.index, np.int64), axis=0)
        return self.node("Unsqueeze", scope, size, self.constant(scope, [0], np.int64))

    def shape(self, scope: str, x: str, sides: Sequence[int | Axis]) -> str:
        """A shape as an int64 vector: a constant where all sizes are numbers, else arithmetic on ``x``'s shape."""
        numbers = [side.size if isinstance(side, Axis) else side for side in sides]
        computed = any(isinstance(side, Axis) for side in sides) and self.arithmetic
        if not computed and all(isinstance(n, int) for n in numbers):
            return self.constant(scope, numbers, np.int64)
        parts = []
        for side, number in zip(sides, numbers, strict=True):
            if isinstance(side, Axis) and (self.arithmetic or isinstance(number, str)):
                parts.append(self.size_of(scope, x, side))
            else:
                parts.append(self.constant(scope, [number], np.int64))
        return self.node("Concat", scope, *parts, axis=0)

    def reshape(self, scope: str, x: str, sides: Sequence[int | Axis], source: str | None = None) -> str:
        """Reshape ``x``; Axis sizes are read from ``source``, which is ``x`` unless given."""
        return self.node("Reshape", scope, x, self.shape(scope, source or x, sides))

    def transpose(self, scope: str, x: str, *perm: int) -> str:
        return self.node("Transpose", scope, x, perm=list(perm))

    def unsqueeze(self, scope: str, x: str, axis: int) -> str:
        return self.node("Unsqueeze", scope, x, self.constant(scope, [axis], np.int64))

    def expand(self, scope: str, x: str, source: str, sides: Sequence[int | Axis]) -> str:
        """torch's ``expand``: -1 keeps the size of ``x``, which the exporter writes with Equal and Where."""
        target = self.shape(scope, source, sides)
        count = self.constant(scope, [len(sides)], np.int64)
        one = numpy_helper.from_array(np.ones(1, np.int64))
        ones = self.node("ConstantOfShape", scope, count, value=one)
        kept = self.node("Mul", scope, ones, self.constant(scope, -1, np.int64))
        sizes = self.node("Where", scope, self.node("Equal", scope, target, kept), ones, target)
        return self.node("Expand", scope, x, sizes)

    # Arithmetic with constants.

    def with_scalar(self, op: str, scope: str, x: str, value: float) -> str:
        return self.node(op, scope, x, self.constant(scope, value))

    def bias(self, name: str, *shape: int) -> str:
        return self.random(name, shape, 0.1)


@dataclass(frozen=True)
class Transformer:
    """Sizes of a stack of layers; ``vocabulary`` and ``positions`` are rows of the embedding tables."""

    layers: int
    width: int
    heads: int
    hidden: int
    vocabulary: int = 0
    positions: int = 0

    @property
    def depth(self) -> int:
        """Width of one head."""
        return self.width // self.heads


def embedding(g: GraphWriter, name: str, rows: int, width: int, scale: float = 1.0) -> str:
    return g.random(name, (rows, width), scale)


def linear(g: GraphWriter, scope: str, x: str, inner: int, outer: int, bias: bool = True) -> str:
    """torch's Linear on (..., inner): MatMul with the transposed weight, and Add with the bias first."""
    name = scope.replace("/", ".")
    y = g.node("MatMul", scope, x, g.random(f"onnx::MatMul_{name}", (inner, outer), inner**-0.5))
    return g.node("Add", scope, g.bias(f"{name}.bias", outer), y) if bias else y


def gemm(g: GraphWriter, scope: str, x: str, inner: int, outer: int) -> str:
    """torch's Linear on a matrix (rows, inner)."""
    name = scope.replace("/", ".")
    weight = g.random(f"{name}.weight", (outer, inner), inner**-0.5)
    return g.node("Gemm", scope, x, weight, g.bias(f"{name}.bias", outer), alpha=1.0, beta=1.0, transB=1)


def layer_norm(g: GraphWriter, scope: str, x: str, width: int, epsilon: float) -> str:
    """Over the last axis: one op from opset 17 on, primitive ops before."""
    name = scope.replace("/", ".")
    scale, shift = g.random(f"{name}.weight", (width,), 0.1, 1.0), g.bias(f"{name}.bias", width)
    if g.opset >= LN_OP_OPSET:
        return g.node("LayerNormalization", scope, x, scale, shift, axis=-1, epsilon=epsilon)
    centred = g.node("Sub", scope, x, g.node("ReduceMean", scope, x, axes=[-1]))
    variance = g.node("ReduceMean", scope, g.with_scalar("Pow", scope, centred, 2.0), axes=[-1])
    deviation = g.node("Sqrt", scope, g.with_scalar("Add", scope, variance, epsilon))
    normal = g.node("Div", scope, centred, deviation)
    return g.node("Add", scope, g.node("Mul", scope, normal, scale), shift)


def layer_norm_tf(g: GraphWriter, scope: str, x: str, width: int, epsilon: float, form: str) -> str:
    """tf2onnx's forms: "batchnorm" is Keras's x * inv + (beta - mean * inv), "pow" divides by Pow(variance, 0.5)."""
    scale, shift = g.random(f"{scope}/gamma", (width,), 0.1, 1.0), g.bias(f"{scope}/beta", width)
    mean = g.node("ReduceMean", scope, x, axes=[-1], keepdims=1)
    centred = g.node("Sub", scope, x, mean)
    if form == "pow":
        variance = g.node("ReduceMean", scope, g.with_scalar("Pow", scope, centred, 2.0), axes=[-1], keepdims=1)
        deviation = g.with_scalar("Pow", scope, g.with_scalar("Add", scope, variance, epsilon), 0.5)
        return g.node("Add", scope, g.node("Mul", scope, scale, g.node("Div", scope, centred, deviation)), shift)
    if form != "batchnorm":
        raise ValueError(f"there is no LayerNorm form {form!r}")
    variance = g.node("ReduceMean", scope, g.node("Mul", scope, centred, centred), axes=[-1], keepdims=1)
    deviation = g.node("Sqrt", scope, g.with_scalar("Add", scope, variance, epsilon))
    inverse = g.node("Mul", scope, g.node("Reciprocal", scope, deviation), scale)
    offset = g.node("Sub", scope, shift, g.node("Mul", scope, mean, inverse))
    return g.node("Add", scope, g.node("Mul", scope, x, inverse), offset)


def gelu_erf(g: GraphWriter, scope: str, x: str) -> str:
    """torch's nn.GELU: x * (1 + erf(x / sqrt 2)) * 0.5."""
    y = g.with_scalar("Add", scope, g.node("Erf", scope, g.with_scalar("Div", scope, x, 2.0**0.5)), 1.0)
    return g.with_scalar("Mul", scope, g.node("Mul", scope, x, y), 0.5)


def gelu_erf_tf(g: GraphWriter, scope: str, x: str) -> str:
    """Keras's exact GELU: (0.5 * x) * (1 + erf(x * (1 / sqrt 2)))."""
    half = g.with_scalar("Mul", scope, x, 0.5)
    y = g.node("Erf", scope, g.with_scalar("Mul", scope, x, 0.5**0.5))
    return g.node("Mul", scope, half, g.with_scalar("Add", scope, y, 1.0))


def gelu_tanh(g: GraphWriter, scope: str, x: str) -> str:
    """The approximation 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))), with Pow as GPT-2 and TensorFlow have it."""
    half = g.with_scalar("Mul", scope, x, 0.5)
    cubic = g.with_scalar("Mul", scope, g.with_scalar("Pow", scope, x, 3.0), 0.044715)
    y = g.with_scalar("Mul", scope, g.node("Add", scope, x, cubic), (2.0 / np.pi) ** 0.5)
    return g.node("Mul", scope, half, g.with_scalar("Add", scope, g.node("Tanh", scope, y), 1.0))


def split_heads(g: GraphWriter, scope: str, x: str, tokens: Sequence[int | Axis], heads: int, depth: int) -> str:
    """(batch, sequence, width) to (batch, sequence, heads, depth); ``tokens`` are the first two sizes."""
    return g.reshape(scope, x, [*tokens, heads, depth])


def merge_heads(g: GraphWriter, scope: str, x: str, tokens: Sequence[int | Axis], width: int, source: str) -> str:
    """(batch, heads, sequence, depth) to (batch, sequence, width); symbolic sizes are read from ``source``."""
    return g.reshape(scope, g.transpose(scope, x, 0, 2, 1, 3), [*tokens, width], source)


def key_mask(g: GraphWriter, scope: str, mask: str, lowest: float = LOWEST) -> str:
    """(batch, keys) of 0 and 1 to an additive float32 mask (batch, 1, 1, keys)."""
    x = g.unsqueeze(scope, g.unsqueeze(scope, mask, 1), 2)
    x = g.node("Cast", scope, x, to=TensorProto.FLOAT)
    return g.with_scalar("Mul", scope, g.node("Sub", scope, g.constant(scope, 1.0), x), lowest)


def attend_sdpa(g: GraphWriter, scope: str, q: str, k: str, v: str, depth: int, mask: str | None) -> str:
    """torch's scaled_dot_product_attention as exported: both factors scaled by depth ** -0.25, all (b, h, s, d)."""
    if g.arithmetic:
        last = [g.constant(scope, [n], np.int64) for n in (-1, np.iinfo(np.int64).max)]
        side = g.node("Slice", scope, g.node("Shape", scope, q), *last)
        root = g.node("Sqrt", scope, g.node("Cast", scope, side, to=TensorProto.FLOAT))
        scale = g.node("Sqrt", scope, g.node("Div", scope, g.constant(scope, [1.0]), root))
    else:
        scale = g.constant(scope, [depth**-0.25])
    q = g.node("Mul", scope, q, scale)
    k = g.node("Mul", scope, g.transpose(scope, k, 0, 1, 3, 2), scale)
    scores = g.node("MatMul", scope, q, k)
    if mask is not None:
        scores = g.node("Add", scope, scores, mask)
    return g.node("MatMul", scope, g.node("Softmax", scope, scores, axis=-1), v)
