"""Attention: what exporters write becomes one op without moves around it; what only looks like attention stays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from temper.ir.dims import Dim, DimLike
from temper.ir.evaluate import evaluate_values
from temper.ir.graph import Value
from temper.passes.attention import ATTENTION
from temper.passes.cleanup import CLEANUP
from temper.passes.manager import run_passes
from tests.passes.nets import Net, applied, check, ops

H, D = 3, 4
PASSES = (CLEANUP, ATTENTION, CLEANUP)


def dense(n: Net, x: Value, width: int = H * D) -> Value:
    channels = x.type.shape[-1]
    assert isinstance(channels, int)
    return n("Add", n("MatMul", x, n.weights(channels, width)), n.weights(width))


def split(n: Net, x: Value, perm: tuple[int, ...] = (0, 2, 1, 3), heads: int = H) -> Value:
    b, s, _ = x.type.shape
    return n("Transpose", n("Reshape", x, shape=(b, s, heads, D)), perm=perm)


def weights(n: Net, scores: Value) -> Value:
    return n("Softmax", scores, axis=-1)


def merge(n: Net, y: Value) -> Value:
    b, h, s, d = y.type.shape
    return n("Reshape", n("Transpose", y, perm=(0, 2, 1, 3)), shape=(b, s, h * d))


def legacy(n: Net, x: Value, mask: Value | None) -> Value:
    """PyTorch's legacy exporter: scores divided, then masked."""
    q, k, v = (dense(n, x) for _ in range(3))
    s = n("Div", n("MatMul", split(n, q), split(n, k, (0, 2, 3, 1))), n.const(2.0))
    s = s if mask is None else n("Add", s, mask)
    return merge(n, n("MatMul", weights(n, s), split(n, v)))


def dynamo(n: Net, x: Value, mask: Value | None) -> Value:
    """scaled_dot_product_attention: both operands scaled by the fourth root, NaN rows made zero."""
    q, k, v = (split(n, dense(n, x)) for _ in range(3))
    root = n.const(0.5**0.5)
    s = n("MatMul", n("Mul", q, root), n("Mul", n("Transpose", k, perm=(0, 1, 3, 2)), root))
    p = weights(n, s if mask is None else n("Add", mask, s))
    p = n("Where", n("IsNaN", p), n.const(0.0), p)
    return merge(n, n("MatMul", p, v))


def fused(n: Net, x: Value, mask: Value | None) -> Value:
    """One projection, [B, S, 3, H, D] transposed and taken apart by Gather."""
    b, s, _ = x.type.shape
    all_three = n("Transpose", n("Reshape", dense(n, x, 3 * H * D), shape=(b, s, 3, H, D)), perm=(2, 0, 3, 1, 4))
    q, k, v = (n("Gather", all_three, n.const(np.array(i)), axis=0) for i in range(3))
    scores = n("MatMul", n("Mul", q, n.const(0.5)), n("Transpose", k, perm=(0, 1, 3, 2)))
    return merge(n, n("MatMul", weights(n, scores if mask is None else n("Add", scores, mask)), v))


def fused_split(n: Net, x: Value, mask: Value | None) -> Value:
    """One projection split along its columns (GPT-2)."""
    q, k, v = n.many("Split", dense(n, x, 3 * H * D), axis=2, sizes=(H * D,) * 3)
    s = n("Mul", n("MatMul", split(n, q), split(n, k, (0, 2, 3, 1))), n.const(0.5))
    return merge(n, n("MatMul", weights(n, s if mask is None else n("Add", s, mask)), split(n, v)))


EXPORTS: list[Callable[[Net, Value, Value | None], Value]] = [legacy, dynamo, fused, fused_split]


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize(("b", "s"), [(2, 5), (1, 5), (Dim.symbol("N"), 5), (2, Dim.symbol("S")), (1, 1)])
@pytest.mark.parametrize("export", EXPORTS)
def test_exports(export: Callable[[Net, Value, Value | None], Value], b: DimLike, s: DimLike, masked: bool) -> None:
    n = Net()
    x = n.input(b, s, 10)
    mask = n.input(b, 1, 1, s, name="mask") if masked else None
    after, log = check(n.done(export(n, x, mask)), PASSES, {"N": 3, "S": 6})
    assert "attention" in applied(log), log.declined
    assert set(ops(after)) <= {"MatMul", "Add", "Attention", "Split"}, ops(after)
    (node,) = (m for m in after.nodes if m.op == "Attention")
    assert node.attrs["layout"] == "rrrr" and node.attrs["heads"] == H
    assert node.attrs["scale"] == pytest.approx(0.5, rel=1e-6)


def test_causal_constant_is_dropped() -> None:
    n = Net()
    future = np.where(np.tri(5, dtype=bool), 0, -np.inf).astype(np.float32)
    x = n.input(2, 5, 10)
    after, _ = check(n.done(legacy(n, x, n.const(future.reshape(1, 1, 5, 5)))), PASSES)
    (node,) = (m for m in after.nodes if m.op == "Attention")
    assert node.attrs["causal"] == 1 and len(node.inputs) == 3


@pytest.mark.parametrize("seen_first", [False, True])
def test_where_becomes_a_mask(seen_first: bool) -> None:
    n = Net()
    x, c = n.input(2, 5, 10), n.input(2, 1, 5, 5, name="c", dtype="bool")
    q, k, v = (split(n, dense(n, x)) for _ in range(3))
    s = n("MatMul", q, n("Transpose", k, perm=(0, 1, 3, 2)))
    hidden = n.const(-3.4028235e38)
    s = n("Where", c, s, hidden) if seen_first else n("Where", c, hidden, s)
    after, _ = check(n.done(merge(n, n("MatMul", weights(n, s), v))), PASSES)
    assert ops(after).count("Attention") == 1 and ops(after).count("Where") == 1


def test_grouped_heads() -> None:
    n, g = Net(), 2
    x = n.input(2, 5, 10)
    q = split(n, dense(n, x, 4 * D), heads=4)

    def repeated(y: Value) -> Value:
        wide = n("Expand", n("Reshape", split(n, y, heads=g), shape=(2, g, 1, 5, D)), shape=(2, g, 2, 5, D))
        return n("Reshape", wide, shape=(2, 4, 5, D))

    k, v = repeated(dense(n, x, g * D)), repeated(dense(n, x, g * D))
    s = n("Mul", n("MatMul", q, n("Transpose", k, perm=(0, 1, 3, 2))), n.const(0.5))
    after, _ = check(n.done(merge(n, n("MatMul", weights(n, s), v))), PASSES)
    (node,) = (m for m in after.nodes if m.op == "Attention")
    assert node.attrs["kv_heads"] == g and set(ops(after)) == {"MatMul", "Add", "Attention"}


def test_cached_keys_stay_heads_first() -> None:
    n = Net()
    x = n.input(1, 1, 10)
    q, k, v = (split(n, dense(n, x)) for _ in range(3))
    k = n("Concat", n.input(1, H, 7, D, name="past_k"), k, axis=2)
    v = n("Concat", n.input(1, H, 7, D, name="past_v"), v, axis=2)
    s = n("Mul", n("MatMul", q, n("Transpose", k, perm=(0, 1, 3, 2))), n.const(0.5))
    after, _ = check(n.done(merge(n, n("MatMul", weights(n, s), v)), k, v), PASSES)
    (node,) = (m for m in after.nodes if m.op == "Attention")
    assert node.attrs["layout"] == "rhhr"


def test_weights_that_others_read_stay() -> None:
    n = Net()
    x = n.input(2, 5, 10)
    q, k, v = (split(n, dense(n, x)) for _ in range(3))
    p = weights(n, n("MatMul", q, n("Transpose", k, perm=(0, 1, 3, 2))))
    after, log = check(n.done(merge(n, n("MatMul", p, v)), p), PASSES)
    assert "Attention" not in ops(after)
    assert any(rule == "attention" and "output of the model" in reason for rule, _, reason in log.declined)


def test_single_heads_of_three_axes() -> None:
    n = Net()
    q, k, v = (n.input(6, 5, D, name=c) for c in "qkv")
    s = n("Mul", n("MatMul", q, n("Transpose", k, perm=(0, 2, 1))), n.const(0.5))
    after, _ = check(n.done(n("MatMul", weights(n, s), v)), PASSES)
    assert "Attention" in ops(after) and "Transpose" not in ops(after)


S = Dim.symbol("S")


def _lower(n: Net, dtype: str, k: int, upper: int, fill: float = 1) -> Value:
    return n("Trilu", n("Expand", n.const(np.full((1, 1), fill, dtype)), shape=(S, S)), k=k, upper=upper)


def _written_out(n: Net) -> Value:
    return _lower(n, "float32", 1, 1, -3.4e38)


def _equal_to_zero(n: Net) -> Value:
    return n("Where", n("Equal", _lower(n, "float32", 0, 0), n.const(0.0)), n.const(-np.inf), n.const(0.0))


def _boolean(n: Net) -> Value:
    seen = n("Reshape", _lower(n, "bool", 0, 0), shape=(1, 1, S, S))
    return n("Where", seen, n.const(0.0), n.const(-1e9))


def _negated(n: Net) -> Value:
    seen = n("Not", n("Cast", _lower(n, "int64", 1, 1), to="bool"))
    return n("Reshape", n("Where", seen, n.const(0.0), n.const(-np.inf)), shape=(1, S, S))


@pytest.mark.parametrize("mask", [_written_out, _equal_to_zero, _boolean, _negated])
def test_causal_masks_of_run_time_size(mask: Callable[[Net], Value]) -> None:
    n = Net()
    after, log = check(n.done(legacy(n, n.input(2, S, 10), mask(n))), PASSES, {"S": 6})
    (node,) = (m for m in after.nodes if m.op == "Attention")
    assert node.attrs["causal"] == 1 and len(node.inputs) == 3, log.declined
    assert "Trilu" not in ops(after)


@pytest.mark.parametrize("k", [1, 2])
def test_other_diagonals_stay_masks(k: int) -> None:
    n = Net()
    seen = _lower(n, "bool", k, 0)
    mask = n("Where", seen, n.const(0.0), n.const(-1e9))
    after, _ = check(n.done(legacy(n, n.input(2, S, 10), mask)), PASSES, {"S": 6})
    (node,) = (m for m in after.nodes if m.op == "Attention")
    assert node.attrs["causal"] == 0 and len(node.inputs) == 4


def _standard(n: Net, x: Value, mask: Value, hidden: Value) -> Value:
    """The body of ONNX's Attention (opset 23): blind rows are found in the mask."""
    q, k, v = (split(n, dense(n, x)) for _ in range(3))
    root = n.const(np.asarray([0.5**0.5], np.float32))
    s = n("MatMul", n("Mul", q, root), n("Mul", n("Transpose", k, perm=(0, 1, 3, 2)), root))
    p = weights(n, n("Add", s, mask))
    return merge(n, n("MatMul", n("Where", hidden, n.const(0.0), p), v))


def _blind(n: Net, mask: Value, number: float = -np.inf) -> Value:
    return n("Equal", n("ReduceMax", mask, axes=(3,), keepdims=1), n.const(number))


def test_standard_attention_is_safe() -> None:
    n = Net()
    x, mask = n.input(2, 5, 10), n.input(2, 1, 1, 5, name="mask")
    after, _ = check(n.done(_standard(n, x, mask, _blind(n, mask))), PASSES)
    (node,) = (m for m in after.nodes if m.op == "Attention")
    assert node.attrs["safe"] == 1 and node.attrs["layout"] == "rrrr"


def test_standard_attention_with_constant_mask() -> None:
    n = Net()
    rows = np.where(np.tri(5, k=-1, dtype=bool), 0, -np.inf).astype(np.float32)  # the first query sees nothing
    hidden = n.const(np.isneginf(rows).all(-1, keepdims=True), "bool")
    after, _ = check(n.done(_standard(n, n.input(2, 5, 10), n.const(rows), hidden)), PASSES)
    (node,) = (m for m in after.nodes if m.op == "Attention")
    assert node.attrs["safe"] == 1


def test_weights_hidden_for_another_reason_stay() -> None:
    n = Net()
    x, mask = n.input(2, 5, 10), n.input(2, 1, 1, 5, name="mask")
    after, log = check(n.done(_standard(n, x, mask, _blind(n, mask, 0.25))), PASSES)
    assert "Attention" not in ops(after)
    assert any("hides all keys" in reason for _, _, reason in log.declined)


def test_grouped_heads_through_three_axes() -> None:
    """dynamo: keys become [B * H, T, D] to be transposed, and are scaled afterwards."""
    n, g = Net(), 2
    x = n.input(1, 5, 10)
    q = split(n, dense(n, x, 4 * D), heads=4)

    def repeated(y: Value) -> Value:
        return n("Expand", n("Reshape", split(n, y, heads=g), shape=(1, g, 1, 5, D)), shape=(1, g, 2, 5, D))

    k = n("Reshape", repeated(dense(n, x, g * D)), shape=(4, 5, D))
    v = n("Reshape", repeated(dense(n, x, g * D)), shape=(1, 4, 5, D))
    kt = n("Reshape", n("Transpose", k, perm=(0, 2, 1)), shape=(1, 4, D, 5))
    root = n.const(0.5**0.5)
    s = n("MatMul", n("Mul", q, root), n("Mul", kt, root))
    after, _ = check(n.done(merge(n, n("MatMul", weights(n, s), v))), PASSES)
    (node,) = (m for m in after.nodes if m.op == "Attention")
    assert node.attrs["kv_heads"] == g and set(ops(after)) == {"MatMul", "Add", "Attention"}


def test_heads_of_three_axes_are_merged_by_the_stores() -> None:
    """Whisper and BART: [B * H, S, D] operands; the result becomes [B, H, S, D] and is transposed."""
    n = Net()
    x = n.input(1, 5, 10)
    q, k, v = (n("Reshape", split(n, dense(n, x)), shape=(H, 5, D)) for _ in range(3))
    s = n("Mul", n("MatMul", q, n("Transpose", k, perm=(0, 2, 1))), n.const(0.5))
    y = n("Reshape", n("MatMul", weights(n, s), v), shape=(1, H, 5, D))
    after, _ = check(n.done(merge(n, y)), PASSES)
    (node,) = (m for m in after.nodes if m.op == "Attention")
    assert node.attrs["layout"] == "rrrr" and set(ops(after)) == {"MatMul", "Add", "Attention"}


@pytest.mark.parametrize("export", EXPORTS)
def test_operands_keep_the_names_of_what_they_hold(export: Callable[[Net, Value, Value | None], Value]) -> None:
    """Operands found by strides, past moves and scalings, go by the names of tensors with the same elements."""
    n = Net()
    graph = n.done(export(n, n.input(2, 5, 10), None))
    for v in graph.values:
        v.known_as((v.name,))
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 5, 10)).astype(np.float32)}
    computed = {v.name: v for v in graph.values if v.const is None}
    arrays = evaluate_values(graph, feeds, list(computed.values()))
    before = {name: np.sort(arrays[v.id], None) for name, v in computed.items()}
    run_passes(graph, PASSES)
    (node,) = (m for m in graph.nodes if m.op == "Attention")
    operands = [v for v in node.inputs[:3] if v is not None]
    after = evaluate_values(graph, feeds, operands)
    for operand in operands:
        assert operand.sources
        for name in operand.sources:
            np.testing.assert_allclose(before[name], np.sort(after[operand.id], None), rtol=1e-5, atol=1e-6)
