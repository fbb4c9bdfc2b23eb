"""Half-precision ops become float32 ops between conversions; copies, choices and integers stay as they are."""

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
def test_computation_is_wide_and_rounded_where_the_model_rounds(dtype: str) -> None:
    g = graph_of(dtype)
    x = rng.standard_normal((4, 6), np.float32)
    feeds = {"x": float32_to_bfloat16(x) if dtype == "bfloat16" else x.astype(dtype)}
    want = evaluate(g, feeds)
    log = Log()
    WIDEN.run(g, log)
    verify(g)
    for n in g.nodes:
        halves = [v for v in (*n.inputs, *n.outputs) if v is not None and v.type.dtype == dtype]
        assert not halves or n.op in ("Cast", "Transpose"), n
    assert [n.op for n in g.nodes].count("Cast") == 5 and len(log.applied) == 3
    for got, expected in zip(evaluate(g, feeds), want, strict=True):
        if expected.dtype == np.float16:
            np.testing.assert_allclose(got, expected, rtol=1e-3)
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
