"""Projections that attention alone reads become one product; others stay apart."""

from __future__ import annotations

from temper.ir.graph import Value
from temper.passes.merge_products import MERGE_PRODUCTS
from tests.passes.nets import Net, applied, check, ops


def projection(n: Net, x: Value, width: int, bias: bool) -> Value:
    y = n("MatMul", x, n.weights(10, width))
    return n("Add", n.weights(width), y) if bias else y


def attend(n: Net, x: Value, q: Value, k: Value, v: Value) -> Value:
    return n("Attention", q, k, v, heads=4, kv_heads=2, scale=0.5, layout="rrrr")


def test_three_projections_become_one() -> None:
    n = Net()
    x = n.input(2, 5, 10)
    y = attend(n, x, projection(n, x, 12, True), projection(n, x, 6, False), projection(n, x, 6, True))
    after, log = check(n.done(y), (MERGE_PRODUCTS,))
    assert ops(after) == ["MatMul", "Add", "Split", "Attention"] and "merge-products" in applied(log)


def test_without_biases() -> None:
    n = Net()
    x = n.input(2, 5, 10)
    after, _ = check(n.done(attend(n, x, *(projection(n, x, w, False) for w in (12, 6, 6)))), (MERGE_PRODUCTS,))
    assert ops(after) == ["MatMul", "Split", "Attention"]


def test_a_product_that_others_read_stays() -> None:
    n = Net()
    x = n.input(2, 5, 10)
    q, k, v = projection(n, x, 12, True), projection(n, x, 6, True), projection(n, x, 6, True)
    after, log = check(n.done(attend(n, x, q, k, v), n("Relu", k)), (MERGE_PRODUCTS,))
    assert ops(after).count("MatMul") == 2
    assert any("attention" in reason for _, _, reason in log.declined)
