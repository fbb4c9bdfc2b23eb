"""The benchmarks' transformers with one narrow layer: import, text form and evaluation, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from benchmarks.costs import model_cost
from benchmarks.transformer_bert import bert, bert_tf
from benchmarks.transformer_nets import gpt2_step, vit, whisper_encoder
from benchmarks.transformer_parts import Transformer
from benchmarks.transformers import sample_inputs
from temper.errors import InputError
from temper.frontends.onnx import import_onnx
from temper.ir.evaluate import evaluate
from temper.ir.text import constants_of, parse, to_text
from tests.frontends.models import compare, run_reference

TINY = Transformer(layers=1, width=32, heads=4, hidden=64, vocabulary=50, positions=24)
SIZES = {"N": 2, "S": 10, "P": 7}

CASES: dict[str, Callable[[], ModelProto]] = {
    "bert": partial(bert, TINY, 10, 2),
    "bert, shape arithmetic": partial(bert, TINY, 10, 2, arithmetic=True),
    "bert, symbolic": partial(bert, TINY, "S", "N"),
    "bert, symbolic sequence, sdpa": partial(bert, TINY, "S", 2, opset=17, sdpa=True),
    "bert, opset 17, sdpa": partial(bert, TINY, 10, 2, opset=17, sdpa=True),
    "tf, matrices": partial(bert_tf, TINY, 10, 2, einsum=False),
    "tf, matrices, symbolic": partial(bert_tf, TINY, "S", "N", einsum=False, gelu="erf", norm="pow"),
    "tf, einsum": partial(bert_tf, TINY, 10, 2, gelu="erf"),
    "tf, einsum, symbolic": partial(bert_tf, TINY, "S", "N", norm="pow"),
    "vit": partial(vit, TINY, 16, 4, 10, 2),
    "vit, symbolic": partial(vit, TINY, 16, 4, 10, "N", opset=13, sdpa=True),
    "gpt2 step": partial(gpt2_step, TINY, 7, 2),
    "gpt2 step, symbolic": partial(gpt2_step, TINY, "P", "N"),
    "whisper": partial(whisper_encoder, TINY, 20, 6, 2),
    "whisper, symbolic": partial(whisper_encoder, TINY, 20, 6, "N", opset=13),
}


@pytest.mark.parametrize("name", CASES)
def test_transformer(name: str) -> None:
    proto = CASES[name]()
    onnx.checker.check_model(proto, full_check=True)
    graph = import_onnx(proto)
    assert parse(to_text(graph), constants_of(graph)).hash() == graph.hash()
    feeds = sample_inputs(proto, SIZES)
    want = run_reference(proto, feeds)
    assert all(np.isfinite(y).all() and y.std() > 0.01 for y in want)
    compare(evaluate(graph, feeds), want, 1e-5)


def test_forms_of_one_network_agree() -> None:
    """The exporters' forms differ in nodes, not in what they compute."""
    plain, other = bert(TINY, 10, 2), bert(TINY, "S", "N", opset=17, sdpa=True)
    feeds = sample_inputs(plain)
    compare(evaluate(import_onnx(other), feeds), evaluate(import_onnx(plain), feeds), 1e-5)


def test_length_of_the_mask_follows_the_cache() -> None:
    """`P + 1` as the name of a dimension is arithmetic where another input's dimension is P."""
    graph = import_onnx(gpt2_step(TINY, "P"))
    shapes = {v.name: v.type.shape for v in graph.inputs}
    assert shapes["attention_mask"][1] == shapes["past_key_values.0.key"][2] + 1
    feeds = sample_inputs(gpt2_step(TINY, 7))
    evaluate(graph, feeds)
    with pytest.raises(InputError, match="attention_mask"):
        evaluate(graph, {**feeds, "attention_mask": np.ones((1, 7), np.int64)})
    fixed = import_onnx(gpt2_step(TINY, "P"), dims={"P": 7})
    assert all(v.type.static for v in (*fixed.inputs, *fixed.outputs))


def test_costs_count_every_contraction() -> None:
    tokens, layer = 10, 4 * TINY.width**2 + 2 * TINY.width * TINY.hidden
    contractions = tokens * layer + 2 * tokens**2 * TINY.width
    assert model_cost(bert(TINY, tokens)).macs == contractions + TINY.width**2
    assert model_cost(bert_tf(TINY, tokens, einsum=True)).macs == contractions
