"""Small networks for pass tests: a builder, a numeric comparison of a graph before and after, and the text form's
checks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from temper.ir.dims import DimLike, evaluate
from temper.ir.evaluate import evaluate as run_graph
from temper.ir.graph import Graph, Value
from temper.ir.ops import make
from temper.ir.text import parse, to_text
from temper.ir.types import TensorType
from temper.ir.verify import verify
from temper.passes.manager import Log, Pass, run_passes


class Net:
    """Builds a graph; constants are random, from a fixed seed."""

    def __init__(self, seed: int = 0) -> None:
        self.graph = Graph("net")
        self.rng = np.random.default_rng(seed)

    def input(self, *shape: DimLike, name: str = "x", dtype: str = "float32") -> Value:
        return self.graph.add_input(name, TensorType(dtype, shape))

    def weights(self, *shape: int, scale: float = 0.3) -> Value:
        return self.const((self.rng.standard_normal(shape) * scale).astype(np.float32))

    def const(self, array: Any, dtype: str = "float32") -> Value:
        return self.graph.add_constant(array if isinstance(array, np.ndarray) else np.asarray(array, dtype), "w")

    def __call__(self, op: str, *inputs: Value | None, **attrs: Any) -> Value:
        return make(self.graph, op, inputs, attrs).outputs[0]

    def many(self, op: str, *inputs: Value | None, **attrs: Any) -> list[Value]:
        return make(self.graph, op, inputs, attrs).outputs

    def conv(
        self,
        x: Value,
        features: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        pad: int | None = None,
        group: int = 1,
        dilation: int = 1,
        bias: bool = True,
    ) -> Value:
        """A channels-first convolution over every spatial axis, padded to keep the size at stride 1."""
        rank = x.type.rank - 2
        channels = x.type.shape[1]
        assert isinstance(channels, int)
        pads = ((kernel - 1) * dilation // 2 if pad is None else pad,) * (2 * rank)
        w = self.weights(features, channels // group, *(kernel,) * rank)
        inputs = [x, w, self.weights(features)] if bias else [x, w]
        return self("Conv", *inputs, strides=(stride,) * rank, pads=pads, dilations=(dilation,) * rank, group=group)

    def pool(self, x: Value, op: str, kernel: int, stride: int, pad: int = 0, **attrs: Any) -> Value:
        rank = x.type.rank - 2
        return self(
            op,
            x,
            kernel_shape=(kernel,) * rank,
            strides=(stride,) * rank,
            pads=(pad,) * (2 * rank),
            dilations=(1,) * rank,
            **attrs,
        )

    def done(self, *outputs: Value) -> Graph:
        self.graph.set_outputs(outputs, [f"y{i}" for i in range(len(outputs))])
        verify(self.graph)
        return self.graph


def feeds(graph: Graph, env: Mapping[str, int] | None = None, seed: int = 1) -> dict[str, np.ndarray]:
    """Random inputs."""
    rng = np.random.default_rng(seed)
    out = {}
    for v in graph.inputs:
        shape = tuple(evaluate(d, env or {}) for d in v.type.shape)
        if v.type.dtype == "bool":
            out[v.name] = rng.random(shape) < 0.5
        elif v.type.dtype.startswith("float"):
            out[v.name] = rng.standard_normal(shape).astype(v.type.dtype)
        else:
            out[v.name] = rng.integers(0, 3, shape).astype(v.type.dtype)
    return out


def assert_same(want: Sequence[np.ndarray], got: Sequence[np.ndarray], tolerance: float = 2e-5) -> None:
    """Equal types and values; floats within `tolerance` of the largest magnitude in each tensor."""
    assert len(want) == len(got)
    for i, (a, b) in enumerate(zip(want, got, strict=True)):
        assert a.shape == b.shape and a.dtype == b.dtype, f"output {i}: {b.dtype}{b.shape} for {a.dtype}{a.shape}"
        if a.dtype.kind != "f":
            assert np.array_equal(a, b), f"output {i} differs"
            continue
        assert np.array_equal(np.isnan(a), np.isnan(b)), f"output {i}: NaN in other places"
        finite = np.isfinite(a)
        assert np.array_equal(a[~finite], b[~finite], equal_nan=True), f"output {i}: infinities differ"
        if finite.any():
            error = np.abs(a[finite].astype(np.float64) - b[finite]).max()
            scale = max(1e-3, np.abs(a[finite]).max())
            assert error <= tolerance * scale, f"output {i} is off by {error}, values reach {scale}"


def check(
    graph: Graph, passes: Iterable[Pass], env: Mapping[str, int] | None = None, tolerance: float = 2e-5
) -> tuple[Graph, Log]:
    """The graph after `passes` (the verifier runs after each) and the log;
    its numbers must be those of the original.
    """
    data = feeds(graph, env)
    want = run_graph(graph, data)
    after = graph.copy()
    log = run_passes(after, tuple(passes))
    assert [v.type for v in after.outputs] == [v.type for v in graph.outputs]
    assert_same(want, run_graph(after, data), tolerance)
    return after, log


def ops(graph: Graph) -> list[str]:
    """The ops in topological order."""
    return [n.op for n in graph.nodes]


def applied(log: Log) -> set[str]:
    return {rule for rule, _ in log.applied}


def text_graph(body: str) -> Graph:
    """A graph from the lines between the braces of its text form."""
    lines = "\n".join(line.strip() for line in body.strip().splitlines())
    graph = parse(f'graph "net" {{\n{lines}\n}}\n')
    verify(graph)
    return graph


def assert_text(graph: Graph, body: str) -> None:
    """The graph is the one `body` describes, whatever its inner names."""
    assert graph.hash() == text_graph(body).hash(), f"the graph is now\n{to_text(graph)}"
