"""Half-precision ops become float32 ops that hand float32 to each other, through copies too."""

from __future__ import annotations

import numpy as np
import pytest

from temper.ir.evaluate import evaluate
from temper.ir.graph import Graph
from temper.ir.ops import make
from temper.ir.types import TensorType
from temper.ir.verify import verify
from temper.passes.manager import Log
from temper.passes.widen import WIDEN
from temper.reference.numeric import float32_to_bfloat16

rng = np.random.default_rng(0)


def graph_of(dtype: str) -> Graph:
    g = Graph("g")
    x = g.add_input("x", TensorType(dtype, (4, 6)))
    w = rng.standard_normal((6, 3), np.float32)
    c = g.add_constant(float32_to_bfloat16(w) if dtype == "bfloat16" else w.astype(dtype), "w", dtype)
    y = make(g, "Exp", [make(g, "MatMul", [x, c]).output]).output
    t = make(g, "Transpose", [y], {"perm": (1, 0)}).output
    k = make(g, "ArgMax", [t], {"axis": 0}).output
    g.set_outputs([t, k], ["t", "k"])
    return g


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_computation_is_wide_and_rounded_where_it_is_seen(dtype: str) -> None:
    g = graph_of(dtype)
    x = rng.standard_normal((4, 6), np.float32)
    feeds = {"x": float32_to_bfloat16(x) if dtype == "bfloat16" else x.astype(dtype)}
    want = evaluate(g, feeds)
    log = Log()
    WIDEN.run(g, log)
    verify(g)
    for n in g.nodes:
        halves = [v for v in (*n.inputs, *n.outputs) if v is not None and v.type.dtype == dtype]
        assert not halves or n.op == "Cast", n
    assert [n.op for n in g.nodes].count("Cast") == 2 and len(log.applied) == 4 and g.half == dtype
    for got, expected in zip(evaluate(g, feeds), want, strict=True):
        if expected.dtype == np.float16:
            np.testing.assert_allclose(got, expected, rtol=4e-3)  # Exp of what was rounded
        elif expected.dtype == np.uint16:
            assert np.abs(got.astype(int) - expected.astype(int)).max() <= 1
        else:
            np.testing.assert_array_equal(got, expected)


def test_other_types_are_left_alone() -> None:
    for dtype in ("float32", "float64"):
        g = graph_of(dtype)
        before = g.hash()
        WIDEN.run(g, Log())
        assert g.hash() == before


def test_copies_of_what_is_not_computed_stay_narrow() -> None:
    """Rows of an embedding are gathered as they are stored; a float32 island keeps its conversions to itself."""
    g = Graph("g")
    rows = g.add_constant(rng.standard_normal((8, 6)).astype(np.float16), "rows")
    x = make(g, "Gather", [rows, g.add_input("i", TensorType("int64", (5,)))], {"axis": 0}).output
    y = make(g, "Tanh", [x]).output
    wide = make(g, "Softmax", [make(g, "Cast", [y], {"to": "float32"}).output], {"axis": -1}).output
    back = make(g, "Cast", [wide], {"to": "float16"}).output
    g.set_outputs([make(g, "Neg", [back]).output], ["y"])
    feeds = {"i": np.array([3, 1, 0, 7, 2])}
    want = evaluate(g, feeds)[0]
    WIDEN.run(g, Log())
    verify(g)
    assert [n.op for n in g.nodes] == ["Gather", "Cast", "Tanh", "Softmax", "Neg", "Cast"]
    assert g.nodes[0].output.type.dtype == "float16"
    np.testing.assert_allclose(evaluate(g, feeds)[0], want, rtol=2e-3)
