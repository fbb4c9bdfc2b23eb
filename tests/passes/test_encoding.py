"""Signed codes become unsigned where only products read them."""

from __future__ import annotations

import numpy as np
import pytest

from temper.ir.evaluate import evaluate
from temper.ir.graph import Graph, Value
from temper.ir.ops import make
from temper.ir.types import TensorType
from temper.passes.encoding import ENCODING
from temper.passes.manager import Log


def _codes(graph: Graph, zero_point: int = 0) -> Value:
    x = graph.add_input("x", TensorType("float32", (3, 8)))
    return make(graph, "Saturate", [x], {"to": "int8", "zero_point": zero_point}, name="codes").output


def _product(graph: Graph, x: Value, zero_point: int = 0) -> Value:
    w = graph.add_constant(np.random.default_rng(x.id).integers(-127, 128, (8, 5)).astype(np.int8))
    return make(graph, "MatMulInt8", [x, w], {"zero_point": zero_point}).output


def _run(graph: Graph, *outputs: Value) -> Log:
    graph.set_outputs(outputs)
    feeds = {"x": np.random.default_rng(2).uniform(-200, 200, (3, 8)).astype(np.float32)}
    before = evaluate(graph, feeds)
    log = Log()
    ENCODING.run(graph, log)
    for a, b in zip(before, evaluate(graph, feeds), strict=True):
        assert a.tobytes() == b.tobytes()
    return log


@pytest.mark.parametrize("zero_point", [0, -7])
def test_products_read_unsigned_codes(zero_point: int) -> None:
    graph = Graph()
    x = _codes(graph, zero_point)
    swapped = make(graph, "Reshape", [x], {"shape": (1, 3, 8)}).output
    log = _run(graph, _product(graph, x, zero_point), _product(graph, swapped, zero_point))
    assert log.applied == [("encoding", "codes")]
    assert [v.type.dtype for n in graph.nodes if n.op == "MatMulInt8" for v in n.inputs[:1] if v] == ["uint8"] * 2
    assert "codes" in {v.name for v in graph.values}


def test_other_readers_keep_the_sign() -> None:
    graph = Graph()
    x = _codes(graph)
    log = _run(graph, _product(graph, x), make(graph, "Cast", [x], {"to": "float32"}).output)
    assert not log.applied and "reads it" in log.declined[0][2]


def test_an_output_keeps_the_sign() -> None:
    graph = Graph()
    x = _codes(graph)
    assert _run(graph, _product(graph, x), x).declined[0][2] == "it is an output"
