"""Selections of rows come before what treats rows apart, where that spares a product; else they stay."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest

from temper.ir.graph import Graph, Value
from temper.passes.manager import run_passes
from temper.passes.pipeline import FLOAT
from temper.passes.select_early import SELECT_EARLY
from tests.passes.nets import Net, applied, check, ops


def dense(n: Net, x: Value, columns: int) -> Value:
    rows = x.type.shape[-1]
    assert isinstance(rows, int)
    return n("Add", n("MatMul", x, n.weights(rows, columns)), n.weights(columns))


def norm(n: Net, x: Value) -> Value:
    columns = x.type.shape[-1]
    assert isinstance(columns, int)
    return n("LayerNormalization", x, n.weights(columns), n.weights(columns), axis=-1, epsilon=1e-5)


def layer(n: Net, x: Value, mask: Value | None = None) -> Value:
    """A pre-norm transformer layer of 8 channels, queries, keys and values apart."""
    h = norm(n, x)
    q, k, v = (dense(n, h, 8) for _ in range(3))
    more = () if mask is None else (mask,)
    attended = n("Attention", q, k, v, *more, heads=2, kv_heads=2, scale=0.5, layout="rrrr")
    x = n("Add", x, dense(n, attended, 8))
    return n("Add", x, dense(n, n("Gelu", dense(n, norm(n, x), 16)), 8))


def token(n: Net, x: Value, index: int = 0, axis: int = 1) -> Value:
    return n("Gather", x, n.const(index, "int64"), axis=axis)


def rows_of(graph: Graph) -> list[object]:
    """Of every product, how many rows an image has."""
    return [x.outputs[0].type.shape[-2] for x in graph.nodes if x.op == "MatMul"]


@pytest.mark.parametrize("index", [0, -1, 3])
def test_a_classifier_of_one_token_computes_the_last_layer_for_it_alone(index: int) -> None:
    n = Net()
    x = layer(n, n.input(2, 7, 8))
    x = norm(n, layer(n, x))
    after, log = check(n.done(dense(n, token(n, x, index), 5)), (SELECT_EARLY,))
    # keys and values of the last layer are those of all tokens; its queries and all behind them of one
    assert sorted(rows_of(after), key=str) == sorted([7] * 6 + [7, 7] + [1] * 4 + [2], key=str)
    assert "select-early" in applied(log)


@pytest.mark.parametrize("shape", [(2, 1, 1, 7), (2, 1, 7, 7), (7, 7)])
def test_a_mask_of_every_query_is_selected_of(shape: tuple[int, ...]) -> None:
    n = Net()
    x = n.input(2, 7, 8)
    after, _ = check(n.done(token(n, layer(n, x, n.input(*shape, name="mask")))), (SELECT_EARLY,))
    assert 1 in rows_of(after)


def test_every_second_row_and_rows_of_constants() -> None:
    n = Net()
    x = n("Add", dense(n, n.input(3, 9, 8), 6), n.weights(9, 6))
    y = n("Slice", x, starts=(1,), ends=(9,), axes=(-2,), steps=(3,))
    after, _ = check(n.done(y), (SELECT_EARLY,))
    assert rows_of(after) == [3] and ops(after)[0] == "Slice"


def _shared(n: Net) -> Value:
    x = dense(n, n.input(2, 7, 8), 6)
    return n("Add", token(n, x), n("ReduceMax", x, axes=(1,), keepdims=0))


def _most(n: Net) -> Value:
    return n("Slice", dense(n, n.input(2, 7, 8), 6), starts=(0,), ends=(4,), axes=(1,), steps=(1,))


def _behind_a_convolution(n: Net) -> Value:
    return token(n, n("Relu", n.conv(n.input(1, 3, 5, 5), 4, 3)), axis=2)


def _along_what_is_summed(n: Net) -> Value:
    return token(n, norm(n, n.input(2, 7, 8)), axis=2)


def _columns(n: Net) -> Value:
    return token(n, n("MatMul", n.input(2, 7, 8), n.weights(8, 6)), axis=2)


def _causal(n: Net) -> Value:
    x = n.input(2, 7, 8)
    return token(n, n("Attention", x, x, x, heads=2, kv_heads=2, scale=0.5, layout="rrrr", causal=1))


def _two_operands(n: Net) -> Value:
    return token(n, n("MatMul", n.input(2, 7, 8), n.input(2, 8, 7, name="w")))


@pytest.mark.parametrize(
    "made", [_shared, _most, _behind_a_convolution, _along_what_is_summed, _columns, _causal, _two_operands]
)
def test_stays_where_nothing_is_spared_or_rows_are_not_apart(made: Callable[[Net], Value]) -> None:
    n = Net()
    graph = n.done(made(n))
    before = ops(graph)
    after, log = check(graph, (SELECT_EARLY,))
    assert ops(after) == before and "select-early" not in applied(log)


def test_says_why_a_product_is_computed_whole() -> None:
    n = Net()
    _, log = check(n.done(_causal(n)), (SELECT_EARLY,))
    assert [reason for _, _, reason in log.declined] == ["Attention does not treat rows of axis 1 apart"]


def test_an_output_of_the_model_is_computed_whole() -> None:
    n = Net()
    x = norm(n, dense(n, n.input(2, 7, 8), 6))
    after, _ = check(n.done(x, dense(n, token(n, x), 3)), (SELECT_EARLY,))
    assert rows_of(after) == [7, 2]


def test_thresholds_are_still_known_by_the_source_models_names() -> None:
    n = Net()
    x = norm(n, dense(n, n.input(2, 7, 8), 6))
    x.known_as(("normal",))
    graph = n.done(dense(n, token(n, x), 3))
    run_passes(graph, (SELECT_EARLY,))
    (found,) = (v for v in graph.values if "normal" in v.sources and v.type.shape == (2, 1, 6))
    assert found.producer is not None and found.producer.op == "LayerNormalization"


def test_names_do_not_depend_on_how_many_nodes_were_made_before() -> None:
    n = Net(3)
    x = norm(n, layer(n, n.input(2, 7, 8)))
    graph = n.done(dense(n, token(n, x), 5))
    run_passes(graph, FLOAT)
    assert "Slice" in ops(graph)
    made = [x.name for x in graph.nodes if x.op in ("Slice", "Reshape")]
    assert made and not any(re.fullmatch(r"(Slice|Reshape)_\d+", name) for name in made)


def test_the_whole_pipeline_keeps_the_numbers() -> None:
    n = Net(3)
    x = layer(n, layer(n, n.input(2, 7, 8)))
    after, log = check(n.done(dense(n, token(n, x), 5)), FLOAT)
    assert "select-early" in applied(log) and np.count_nonzero([r == 1 for r in rows_of(after)]) >= 4
