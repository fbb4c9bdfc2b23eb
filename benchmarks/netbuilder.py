"""A small eager ONNX graph writer for benchmark networks.

Every operator is appended to the graph and evaluated at once in numpy on a pair of calibration images.  Batch
normalisation can then take its running statistics from the activations that actually reach it, as training would
leave them: with statistics guessed analytically, small per-layer errors multiply and a fifty-layer network with
random weights explodes or dies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

Array = npt.NDArray[np.float32]
Batch = int | str

OPSET = 17
IR_VERSION = 8


@dataclass(frozen=True)
class Tensor:
    """A graph value: its name, and its value for the calibration images (batch 2)."""

    name: str
    value: Array

    @property
    def channels(self) -> int:
        return int(self.value.shape[1])


@dataclass(frozen=True)
class _Norm:
    """Batch normalisation parameters, one value per channel."""

    scale: Array
    shift: Array
    mean: Array
    var: Array


def calibration_images(rng: np.random.Generator, size: int) -> Array:
    """Two images of shape (2, 3, size, size), each with mean 0 and variance 1: smooth noise and white noise.

    The first resembles a photograph, whose neighbouring pixels are alike; the second is what tests and benchmarks
    usually feed.  Statistics taken from only one of them let activations grow on the other.
    """
    smooth = np.zeros((3, size, size), np.float32)
    for step in (1, 4, 16, 64):
        side = -(-size // step)
        coarse = rng.standard_normal((3, side, side), np.float32)
        smooth += np.repeat(np.repeat(coarse, step, 1), step, 2)[:, :size, :size]
    images = np.stack([smooth, rng.standard_normal((3, size, size), np.float32)])
    images -= images.mean((1, 2, 3), keepdims=True)
    images /= images.std((1, 2, 3), keepdims=True)
    return images


def _sigmoid(x: Array) -> Array:
    return np.asarray(1.0 / (1.0 + np.exp(-x)), np.float32)


def _conv(x: Array, w: Array, stride: int, pad: int, groups: int) -> Array:
    """NCHW convolution, either dense or depthwise."""
    kernel = w.shape[2]
    xp = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    if groups == 1:
        windows = sliding_window_view(xp, (kernel, kernel), axis=(2, 3))[:, :, ::stride, ::stride]
        product = np.tensordot(w, windows, axes=((1, 2, 3), (1, 4, 5)))
        return np.ascontiguousarray(product.transpose(1, 0, 2, 3), np.float32)
    height, width = ((side - kernel) // stride + 1 for side in xp.shape[2:])
    out = np.zeros((x.shape[0], w.shape[0], height, width), np.float32)
    for i in range(kernel):
        for j in range(kernel):
            tap = xp[..., i : i + (height - 1) * stride + 1 : stride, j : j + (width - 1) * stride + 1 : stride]
            out += w[:, 0, i, j, None, None] * tap
    return out


def _affine(x: Array, factor: Array | None, offset: Array) -> Array:
    scaled = x if factor is None else x * factor[:, None, None]
    return np.asarray(scaled + offset[:, None, None], np.float32)


class NetBuilder:
    """Appends operators to one ONNX graph with a single image input.

    ``size`` is the input's height and width in pixels.  ``batch`` is a number, or a name for a symbolic dimension.
    """

    def __init__(self, name: str, size: int, batch: Batch, fold_bn: bool, seed: int, bn_epsilon: float = 1e-5) -> None:
        self.name = name
        self.batch = batch
        self.fold_bn = fold_bn
        self.bn_epsilon = bn_epsilon
        self.rng = np.random.default_rng(seed)
        self._nodes: list[NodeProto] = []
        self._weights: list[TensorProto] = []
        self._input = helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, size, size])
        self.input = Tensor("input", calibration_images(self.rng, size))

    # Graph plumbing.

    def _weight(self, name: str, value: npt.NDArray[np.float32] | npt.NDArray[np.int64]) -> str:
        self._weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def node(self, op: str, scope: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> list[str]:
        """Append one node named as torch's exporter names it (``/scope/Op``) and return its output names."""
        path = f"/{scope.replace('.', '/')}/{op}"
        names = [f"{path}_output_{i}" for i in range(outputs)]
        self._nodes.append(helper.make_node(op, list(inputs), names, name=path, **attributes))
        return names

    def _unary(self, op: str, scope: str, x: Tensor, value: Array, **attributes: Any) -> Tensor:
        return Tensor(self.node(op, scope, [x.name], **attributes)[0], value)

    def constant(self, scope: str, value: npt.ArrayLike, dtype: npt.DTypeLike = np.float32) -> Tensor:
        """A ``Constant`` node, which is how the exporter writes scalars, shapes and anchor grids."""
        array = np.asarray(value, dtype)
        (name,) = self.node("Constant", scope, [], value=numpy_helper.from_array(array))
        return Tensor(name, array)

    # Layers with weights.

    def conv(
        self,
        scope: str,
        x: Tensor,
        channels: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
        bn: str | None = None,
    ) -> Tensor:
        """Convolution with "same"-style padding; ``bn`` names the batch normalisation after it, None means a bias."""
        fan_in = x.channels // groups * kernel * kernel
        weight = self.rng.standard_normal((channels, x.channels // groups, kernel, kernel), np.float32)
        weight *= np.float32(np.sqrt(2.0 / fan_in))
        value = _conv(x.value, weight, stride, kernel // 2, groups)
        if bn is None:
            bias = (0.1 * self.rng.standard_normal(channels)).astype(np.float32)
            return Tensor(self._conv_node(scope, x, weight, bias, stride, groups), _affine(value, None, bias))
        norm = self._norm_for(value)
        factor = norm.scale / np.sqrt(norm.var + np.float32(self.bn_epsilon))
        offset = norm.shift - norm.mean * factor
        normalized = _affine(value, factor, offset)
        if self.fold_bn:
            folded = weight * factor[:, None, None, None]
            return Tensor(self._conv_node(scope, x, folded, offset, stride, groups), normalized)
        name = self._conv_node(scope, x, weight, None, stride, groups)
        parts = {"weight": norm.scale, "bias": norm.shift, "running_mean": norm.mean, "running_var": norm.var}
        (name,) = self.node(
            "BatchNormalization",
            bn,
            [name, *(self._weight(f"{bn}.{part}", array) for part, array in parts.items())],
            epsilon=self.bn_epsilon,
            momentum=0.9,
            training_mode=0,
        )
        return Tensor(name, normalized)

    def _conv_node(self, scope: str, x: Tensor, weight: Array, bias: Array | None, stride: int, groups: int) -> str:
        kernel = weight.shape[2]
        inputs = [x.name, self._weight(f"{scope}.weight", weight)]
        if bias is not None:
            inputs.append(self._weight(f"{scope}.bias", bias))
        (name,) = self.node(
            "Conv",
            scope,
            inputs,
            dilations=[1, 1],
            group=groups,
            kernel_shape=[kernel, kernel],
            pads=[kernel // 2] * 4,
            strides=[stride, stride],
        )
        return name

    def _norm_for(self, value: Array) -> _Norm:
        """A batch normalisation whose running statistics are those of a convolution's output."""
        channels = value.shape[1]
        scale = self.rng.uniform(0.7, 1.3, channels)
        shift = 0.2 * self.rng.standard_normal(channels)
        mean = value.mean(axis=(0, 2, 3))
        spread = value.var(axis=(0, 2, 3))
        # On a 7x7 map two images give few samples; a floor stops a flat channel from being amplified without bound.
        var = np.maximum(spread, 0.25 * spread.mean())
        return _Norm(*(np.asarray(part, np.float32) for part in (scale, shift, mean, var)))

    def linear(self, scope: str, x: Tensor, features: int) -> Tensor:
        """Fully connected layer, written as ``Gemm`` with a transposed weight."""
        weight = self.rng.standard_normal((features, x.channels), np.float32) / np.float32(np.sqrt(x.channels))
        bias = (0.1 * self.rng.standard_normal(features)).astype(np.float32)
        names = [x.name, self._weight(f"{scope}.weight", weight), self._weight(f"{scope}.bias", bias)]
        return Tensor(self.node("Gemm", scope, names, alpha=1.0, beta=1.0, transB=1)[0], x.value @ weight.T + bias)

    def fixed_conv1x1(self, scope: str, x: Tensor, weight: Array) -> Tensor:
        """A 1x1 convolution with given weights of shape (channels, in channels, 1, 1) and no bias."""
        return Tensor(self._conv_node(scope, x, weight, None, 1, 1), _conv(x.value, weight, 1, 0, 1))

    # Activations and arithmetic.

    def relu(self, scope: str, x: Tensor) -> Tensor:
        return self._unary("Relu", scope, x, np.maximum(x.value, 0))

    def relu6(self, scope: str, x: Tensor) -> Tensor:
        low, high = self.constant(f"{scope}.min", 0.0), self.constant(f"{scope}.max", 6.0)
        (name,) = self.node("Clip", scope, [x.name, low.name, high.name])
        return Tensor(name, np.clip(x.value, 0, 6))

    def sigmoid(self, scope: str, x: Tensor) -> Tensor:
        return self._unary("Sigmoid", scope, x, _sigmoid(x.value))

    def silu(self, scope: str, x: Tensor) -> Tensor:
        return self.mul(scope, x, self.sigmoid(scope, x))

    def softmax(self, scope: str, x: Tensor, axis: int) -> Tensor:
        exponent = np.exp(x.value - x.value.max(axis, keepdims=True))
        return self._unary("Softmax", scope, x, exponent / exponent.sum(axis, keepdims=True), axis=axis)

    def _binary(self, op: str, scope: str, a: Tensor, b: Tensor, value: Array) -> Tensor:
        return Tensor(self.node(op, scope, [a.name, b.name])[0], value)

    def add(self, scope: str, a: Tensor, b: Tensor) -> Tensor:
        return self._binary("Add", scope, a, b, a.value + b.value)

    def sub(self, scope: str, a: Tensor, b: Tensor) -> Tensor:
        return self._binary("Sub", scope, a, b, a.value - b.value)

    def mul(self, scope: str, a: Tensor, b: Tensor) -> Tensor:
        return self._binary("Mul", scope, a, b, a.value * b.value)

    def div(self, scope: str, a: Tensor, b: Tensor) -> Tensor:
        return self._binary("Div", scope, a, b, a.value / b.value)

    # Pooling and layout.

    def maxpool(self, scope: str, x: Tensor, kernel: int, stride: int) -> Tensor:
        pad = kernel // 2
        padded = np.pad(x.value, ((0, 0), (0, 0), (pad, pad), (pad, pad)), constant_values=-np.inf)
        value = sliding_window_view(padded, (kernel, kernel), axis=(2, 3))[:, :, ::stride, ::stride].max((-1, -2))
        return self._unary(
            "MaxPool",
            scope,
            x,
            value,
            ceil_mode=0,
            dilations=[1, 1],
            kernel_shape=[kernel, kernel],
            pads=[pad] * 4,
            strides=[stride, stride],
        )

    def global_average_pool(self, scope: str, x: Tensor) -> Tensor:
        return self._unary("GlobalAveragePool", scope, x, x.value.mean((2, 3), keepdims=True))

    def flatten(self, scope: str, x: Tensor) -> Tensor:
        return self._unary("Flatten", scope, x, x.value.reshape(x.value.shape[0], -1), axis=1)

    def upsample2x(self, scope: str, x: Tensor) -> Tensor:
        scales = self.constant(scope, [1.0, 1.0, 2.0, 2.0])
        (name,) = self.node(
            "Resize",
            scope,
            [x.name, "", scales.name],
            coordinate_transformation_mode="asymmetric",
            cubic_coeff_a=-0.75,
            mode="nearest",
            nearest_mode="floor",
        )
        return Tensor(name, x.value.repeat(2, 2).repeat(2, 3))

    def concat(self, scope: str, parts: Sequence[Tensor], axis: int = 1) -> Tensor:
        (name,) = self.node("Concat", scope, [part.name for part in parts], axis=axis)
        return Tensor(name, np.concatenate([part.value for part in parts], axis))

    def split(self, scope: str, x: Tensor, sizes: Sequence[int], axis: int = 1) -> list[Tensor]:
        lengths = self.constant(scope, list(sizes), np.int64)
        names = self.node("Split", scope, [x.name, lengths.name], outputs=len(sizes), axis=axis)
        values = np.split(x.value, np.cumsum(sizes)[:-1], axis)
        return [Tensor(name, value) for name, value in zip(names, values, strict=True)]

    def reshape(self, scope: str, x: Tensor, shape: Sequence[int]) -> Tensor:
        """Reshape to (batch, *shape); a symbolic batch is copied from the input with a 0."""
        leading = self.batch if isinstance(self.batch, int) else 0
        target = self.constant(scope, [leading, *shape], np.int64)
        return Tensor(self.node("Reshape", scope, [x.name, target.name])[0], x.value.reshape(len(x.value), *shape))

    def transpose(self, scope: str, x: Tensor, perm: Sequence[int]) -> Tensor:
        return self._unary("Transpose", scope, x, x.value.transpose(perm), perm=list(perm))

    def finish(self, output: Tensor) -> ModelProto:
        """The finished model, with its single output renamed ``output``."""
        for node in self._nodes:
            node.output[:] = ["output" if name == output.name else name for name in node.output]
        shape: list[int | str] = [self.batch, *(int(side) for side in output.value.shape[1:])]
        result = helper.make_tensor_value_info("output", TensorProto.FLOAT, shape)
        graph = helper.make_graph(self._nodes, self.name, [self._input], [result], self._weights)
        return helper.make_model(
            graph,
            producer_name="temper-benchmarks",
            ir_version=IR_VERSION,
            opset_imports=[helper.make_opsetid("", OPSET)],
        )
