"""Ops with a bound on their number of results: what they become, that it computes the same, and when they stay."""

from __future__ import annotations

import numpy as np
import pytest

from temper.ir.dims import Dim
from temper.ir.evaluate import evaluate
from temper.ir.graph import Graph
from temper.ir.opdef import AttrValue
from temper.ir.ops import make
from temper.ir.types import TensorType
from temper.ir.verify import verify
from temper.passes.bounded import bounded
from temper.passes.manager import Log

N = Dim.symbol("_n")


def graph_of(op: str, types: list[TensorType], **attrs: AttrValue) -> Graph:
    g = Graph(op)
    operands = [g.add_input(f"x{i}", t) for i, t in enumerate(types)]
    node = make(g, op, operands, {**attrs, "count": N}, name="find")
    after = make(g, "Cast", [node.output], {"to": "float32"})
    g.set_outputs([after.output], ["y"])
    return g


CASES: dict[str, tuple[Graph, list[np.ndarray], set[str]]] = {
    "nonzero": (
        graph_of("NonZero", [TensorType("int32", (3, 4))]),
        [np.array([[0, 1, 0, 2], [0, 0, 0, 0], [5, 0, 0, 1]], np.int32)],
        {"Positions", "Sizes", "Prefix", "Transpose", "Cast"},
    ),
    "compress": (
        graph_of("Compress", [TensorType("float32", (3, 4)), TensorType("bool", (3,))], axis=-1),
        [np.arange(12, dtype=np.float32).reshape(3, 4), np.array([True, False, True])],
        {"Positions", "Sizes", "Prefix", "Reshape", "Gather", "Cast"},
    ),
    "compress flat": (
        graph_of("Compress", [TensorType("float32", (2, 4)), TensorType("bool", (7,))]),
        [np.arange(8, dtype=np.float32).reshape(2, 4), np.arange(7) % 3 == 1],
        {"Positions", "Sizes", "Prefix", "Reshape", "Gather", "Cast"},
    ),
    "nms": (
        graph_of(
            "NonMaxSuppression",
            [TensorType("float32", (1, 3, 4)), TensorType("float32", (1, 1, 3))],
            max_output_boxes_per_class=2,
            iou_threshold=0.5,
        ),
        [np.float32([[[0, 0, 1, 1], [0, 0, 1, 1.1], [3, 3, 4, 4]]]), np.float32([[[0.5, 0.9, 0.7]]])],
        {"BoxesKept", "Sizes", "Prefix", "Cast"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_rows_up_to_the_bound(name: str) -> None:
    graph, arrays, ops = CASES[name]
    feeds = {f"x{i}": a for i, a in enumerate(arrays)}
    g, log = graph.copy(), Log()
    bounded(g, log)
    verify(g)
    assert {n.op for n in g.nodes} == ops and log.applied == [("bounded", "find")]
    assert g.binders["_n"].op == "Sizes"
    np.testing.assert_array_equal(evaluate(g, feeds)[0], evaluate(graph, feeds)[0])


@pytest.mark.parametrize(
    ("graph", "why"),
    [
        (graph_of("NonZero", [TensorType("float32", (Dim.symbol("N"), 4))]), "is not known at build"),
        (graph_of("NonZero", [TensorType("float32", (1 << 20,))]), "up to 1048576 results"),
        (graph_of("Compress", [TensorType("float32", (3,)), TensorType("bool", (4,))], axis=0), "4 elements for 3"),
        (
            graph_of(
                "NonMaxSuppression",
                [TensorType("float64", (1, 3, 4)), TensorType("float64", (1, 1, 3))],
                max_output_boxes_per_class=2,
            ),
            "no kernel for float64",
        ),
    ],
)
def test_what_stays_says_why(graph: Graph, why: str) -> None:
    log = Log()
    before = graph.hash()
    bounded(graph, log)
    assert graph.hash() == before
    ((rule, node, reason),) = log.declined
    assert (rule, node) == ("bounded", "find") and why in reason
