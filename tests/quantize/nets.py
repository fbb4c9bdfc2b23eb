"""Small float graphs to quantize, with the thresholds of one batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from temper.ir.evaluate import evaluate_values
from temper.ir.graph import Graph, Value
from temper.passes.manager import run_passes
from temper.passes.pipeline import FLOAT
from temper.quantize.placement import sites_of
from temper.quantize.recipe import Recipe
from tests.passes.nets import Net

Make = Callable[[Net, Value], Value]


def residual(net: Net, x: Value) -> Value:
    """Two blocks: their sums become codes; a pool reads the last sum beside a convolution."""
    x = net("Relu", net.conv(x, 8, 3))
    y = net.conv(net("Relu", net.conv(x, 16, 3, stride=2)), 16, 3)
    x = net("Relu", net("Add", y, net.conv(x, 16, 1, stride=2)))
    y = net.conv(net("Relu", net.conv(x, 16, 1)), 16, 3)
    x = net("Relu", net("Add", x, y))
    return net("Concat", net.conv(x, 5, 1), net("Sigmoid", x), axis=1)


def joined(net: Net, x: Value) -> Value:
    """Codes move through a pool and a Concat, whose branches have different ranges, to two products."""
    x = net("Relu", net.conv(x, 8, 3))
    x = net.pool(x, "MaxPool", 2, 2)
    a, b = net("Relu", net.conv(x, 6, 1)), net("Mul", net.conv(x, 5, 3), net.const(3.0))
    c = net("Concat", a, b, x, axis=1)
    return net("Concat", net.conv(c, 7, 3), net.conv(c, 4, 1), net("Sigmoid", c), axis=1)


def mobile(net: Net, x: Value) -> Value:
    """Depthwise, ReLU6, a sum without activation."""
    x = net.conv(x, 8, 3)
    y = net("Clip", net.conv(x, 24, 1), min=0.0, max=6.0)
    y = net("Clip", net.conv(y, 24, 3, group=24), min=0.0, max=6.0)
    return net.conv(net("Add", net.conv(y, 8, 1), x), 4, 1)


def transformer(net: Net, x: Value) -> Value:
    """Normalizations and two residual branches over tokens, the sums of which stay float."""
    t = net("Transpose", net("Reshape", x, shape=(2, 3, 143)), perm=(0, 2, 1))
    t = net("Add", net("MatMul", t, net.weights(3, 16)), net.weights(16))
    for _ in range(2):
        h = net.many("LayerNormalization", t, net.weights(16), net.weights(16), axis=-1, epsilon=1e-5)[0]
        h = net("Gelu", net("Add", net("MatMul", h, net.weights(16, 32)), net.weights(32)))
        t = net("Add", t, net("Add", net("MatMul", h, net.weights(32, 16)), net.weights(16)))
    return net("Transpose", t, perm=(0, 2, 1))


def line(net: Net, image: Value) -> Value:
    """Dilated convolutions over a line."""
    x = net("Reshape", image, shape=(2, 39, 11))
    x = net("Relu", net.conv(x, 16, 3, dilation=2, pad=2))
    return net("Add", x, net("Relu", net.conv(x, 16, 3, dilation=4, pad=4)))


def volume(net: Net, image: Value) -> Value:
    """Convolutions over space and time."""
    x = net("Reshape", image, shape=(2, 3, 1, 13, 11))
    x = net("Relu", net.conv(net("Concat", x, x, x, axis=2), 8, 3))
    x = net("Relu", net.conv(net.pool(x, "MaxPool", 2, 2, 1), 8, 3, group=2))
    return net("Relu", net.conv(x, 8, 3, stride=2))


NETS: tuple[Make, ...] = (residual, joined, mobile, transformer, line, volume)


def float_net(make: Make, seed: int = 3) -> tuple[Graph, dict[str, np.ndarray]]:
    """The graph as it is before it is quantized, and a batch for it."""
    net = Net(seed)
    net.graph.set_outputs([make(net, net.input(2, 3, 13, 11))], ["y"])
    run_passes(net.graph, FLOAT)
    return net.graph, {"x": net.rng.standard_normal((2, 3, 13, 11)).astype(np.float32)}


def thresholds(graph: Graph, feeds: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Largest magnitude of every tensor that may get codes."""
    names = {t for s in sites_of(graph) for t in s.tensors}
    values = [v for v in graph.values if v.name in names]
    seen = evaluate_values(graph, feeds, values)
    return {v.name: float(np.abs(seen[v.id]).max()) for v in values}


def recipe_of(graph: Graph, feeds: Mapping[str, np.ndarray]) -> Recipe:
    """Everything on."""
    return Recipe(frozenset(s.name for s in sites_of(graph)), thresholds(graph, feeds))
