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


def test_projections_of_all_rows_at_once() -> None:
    """tf2onnx and ONNX Runtime multiply [B * S, K] and reshape each product; the wide one is reshaped instead."""
    n = Net()
    x = n.input(10, 10)
    parts = [n("Reshape", projection(n, x, w, True), shape=(2, 5, w)) for w in (12, 6, 6)]
    after, _ = check(n.done(attend(n, x, *parts)), (MERGE_PRODUCTS,))
    assert ops(after) == ["MatMul", "Add", "Reshape", "Split", "Attention"]


def test_products_of_other_rows_stay_apart() -> None:
    n = Net()
    x = n.input(10, 10)
    q = n("Reshape", projection(n, x, 12, True), shape=(1, 10, 12))
    k, v = (n("Reshape", projection(n, x, 6, True), shape=(1, 10, 6)) for _ in range(2))
    other = n("Reshape", projection(n, x, 12, True), shape=(2, 5, 12))
    keys = [n.input(2, 7, 6, name=c) for c in "kv"]
    after, _ = check(n.done(attend(n, x, q, k, v), attend(n, x, other, *keys)), (MERGE_PRODUCTS,))
    assert ops(after).count("MatMul") == 2
