"""Decomposed ops mean what they meant: every case of the op library that the pass takes apart, by the references."""

from __future__ import annotations

import numpy as np
import pytest

from temper.ir.evaluate import evaluate
from temper.ir.graph import Graph, Value
from temper.ir.ops import make
from temper.ir.verify import verify
from temper.passes.decompose import DECOMPOSE
from temper.passes.manager import Log
from tests.ops.case import type_of
from tests.ops.cases import Case, cases_of

OPS = (
    "Trilu OneHot Hardmax ReverseSequence QuantizeLinear DequantizeLinear DynamicQuantizeLinear",
    "MatMulInteger ConvInteger",
)


def graph_of(case: Case) -> tuple[Graph, dict[str, np.ndarray]]:
    g, feeds = Graph(case.name), {}
    inputs: list[Value | None] = []
    for i, a in enumerate(case.arrays()):
        if a is None:
            inputs.append(None)
            continue
        inputs.append(g.add_input(f"x{i}", case.type_of(i, a)))
        feeds[f"x{i}"] = a
    g.set_outputs(make(g, case.op, inputs, case.attrs).outputs)
    return g, feeds


@pytest.mark.parametrize("op", " ".join(OPS).split())
def test_cases_keep_their_results(op: str) -> None:
    taken = 0
    for case in cases_of(op):
        g, feeds = graph_of(case)
        with np.errstate(all="ignore"):
            want = evaluate(g, feeds)
        log = Log()
        DECOMPOSE.run(g, log)
        verify(g)
        if not log.applied:
            assert log.declined, case.name
            continue
        taken += 1
        assert op not in {n.op for n in g.nodes}
        with np.errstate(all="ignore"):
            for got, expected in zip(evaluate(g, feeds), want, strict=True):
                np.testing.assert_array_equal(got, expected, case.name)
    assert taken


def test_products_with_vectors() -> None:
    rng = np.random.default_rng(0)
    for a, b in (((3,), (3,)), ((3,), (2, 3, 4)), ((5, 2, 3), (3,))):
        feeds = {"a": rng.standard_normal(a, np.float32), "b": rng.standard_normal(b, np.float32)}
        g = Graph("g")
        x, y = (g.add_input(n, type_of(v)) for n, v in feeds.items())
        g.set_outputs(make(g, "MatMul", [x, y]).outputs)
        DECOMPOSE.run(g, Log())
        verify(g)
        assert all(v is None or v.type.rank > 1 for n in g.nodes if n.op == "MatMul" for v in n.inputs)
        np.testing.assert_allclose(evaluate(g, feeds)[0], feeds["a"] @ feeds["b"], rtol=1e-5, atol=1e-6)
