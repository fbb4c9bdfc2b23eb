"""BERT encoders as ONNX graphs, as PyTorch's legacy exporter and tf2onnx write them."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from onnx import ModelProto, TensorProto

from benchmarks.transformer_parts import (
    LOWEST,
    Axis,
    GraphWriter,
    Size,
    Transformer,
    any_symbolic,
    attend_sdpa,
    embedding,
    gelu_erf,
    gelu_erf_tf,
    gelu_tanh,
    gemm,
    key_mask,
    layer_norm,
    layer_norm_tf,
    linear,
    merge_heads,
    split_heads,
)

BERT_BASE = Transformer(12, 768, 12, 3072, 30522, 512)
BERT_LARGE = Transformer(24, 1024, 16, 4096, 30522, 512)


def _positions(g: GraphWriter, scope: str, ids: str, rows: int, sequence: Size) -> str:
    """Position numbers (1, sequence): cut from a buffer by the length of ``ids`` where that is symbolic."""
    if isinstance(sequence, int) and not g.arithmetic:
        return g.constant(scope, np.arange(sequence)[None], np.int64)
    buffer = g.weight(f"{scope.replace('/', '.')}.position_ids", np.arange(rows, dtype=np.int64)[None])
    end = g.size_of(scope, ids, Axis(1, sequence))
    start, axis, step = (g.constant(scope, [n], np.int64) for n in (0, 1, 1))
    return g.node("Slice", scope, buffer, start, end, axis, step)


def bert(
    size: Transformer = BERT_BASE,
    sequence: Size = 128,
    batch: Size = 1,
    opset: int = 13,
    arithmetic: bool = False,
    sdpa: bool = False,
    seed: int = 11,
) -> ModelProto:
    """BERT encoder with pooler, as PyTorch's legacy exporter writes Hugging Face's BertModel.

    ``arithmetic``: shapes by Shape arithmetic though they are numbers (always so where they are symbolic). ``sdpa``:
    scaled_dot_product_attention with an expanded mask, as newer versions trace it.
    """
    g = GraphWriter("bert", opset, arithmetic or any_symbolic(sequence, batch), seed)
    ids, mask, types = (
        g.input(name, [batch, sequence], np.int64) for name in ("input_ids", "attention_mask", "token_type_ids")
    )
    width = size.width
    tokens = [Axis(0, batch), Axis(1, sequence)]
    additive = _expanded_mask(g, mask, batch, sequence) if sdpa else key_mask(g, "", mask)
    scope = "embeddings"
    x = g.node("Gather", f"{scope}/word_embeddings", embedding(g, f"{scope}.word", size.vocabulary, width), ids)
    y = g.node("Gather", f"{scope}/token_type_embeddings", embedding(g, f"{scope}.token_type", 2, width), types)
    x = g.node("Add", scope, x, y)
    table = embedding(g, f"{scope}.position", size.positions, width)
    places = _positions(g, scope, ids, size.positions, sequence)
    x = g.node("Add", scope, x, g.node("Gather", f"{scope}/position_embeddings", table, places))
    x = layer_norm(g, f"{scope}/LayerNorm", x, width, 1e-12)
    for layer in range(size.layers):
        scope = f"encoder/layer.{layer}"
        y = _bert_attention(g, f"{scope}/attention/self", x, size, tokens, additive, sdpa)
        y = linear(g, f"{scope}/attention/output/dense", y, width, width)
        x = layer_norm(
            g, f"{scope}/attention/output/LayerNorm", g.node("Add", f"{scope}/attention", y, x), width, 1e-12
        )
        y = gelu_erf(g, f"{scope}/intermediate/act", linear(g, f"{scope}/intermediate/dense", x, width, size.hidden))
        y = linear(g, f"{scope}/output/dense", y, size.hidden, width)
        x = layer_norm(g, f"{scope}/output/LayerNorm", g.node("Add", f"{scope}/output", y, x), width, 1e-12)
    g.output("last_hidden_state", x, [batch, sequence, width])
    first = g.node("Gather", "pooler", x, g.constant("pooler", 0, np.int64), axis=1)
    pooled = g.node("Tanh", "pooler/activation", gemm(g, "pooler/dense", first, width, width))
    g.output("pooler_output", pooled, [batch, width])
    return g.finish()


def _expanded_mask(g: GraphWriter, mask: str, batch: Size, sequence: Size) -> str:
    """(batch, keys) of 0 and 1 to additive (batch, 1, queries, keys): Expand, 1 - x, and Where its lowest value."""
    x = g.unsqueeze("", g.unsqueeze("", mask, 1), 2)
    x = g.expand("", x, mask, [Axis(0, batch), 1, Axis(1, sequence), Axis(1, sequence)])
    x = g.node("Sub", "", g.constant("", 1.0), g.node("Cast", "", x, to=TensorProto.FLOAT))
    return g.node("Where", "", g.node("Cast", "", x, to=TensorProto.BOOL), g.constant("", LOWEST), x)


def _bert_attention(
    g: GraphWriter, scope: str, x: str, size: Transformer, tokens: list[Axis], mask: str, sdpa: bool
) -> str:
    heads, depth, width = size.heads, size.depth, size.width

    def project(name: str, *perm: int) -> str:
        y = linear(g, f"{scope}/{name}", x, width, width)
        return g.transpose(scope, split_heads(g, scope, y, tokens, heads, depth), *perm)

    if sdpa:
        q, k, v = (project(name, 0, 2, 1, 3) for name in ("query", "key", "value"))
        return merge_heads(g, scope, attend_sdpa(g, scope, q, k, v, depth, mask), tokens, width, x)
    # The exporter merges the key's two transposes.
    q, k, v = project("query", 0, 2, 1, 3), project("key", 0, 2, 3, 1), project("value", 0, 2, 1, 3)
    scores = g.with_scalar("Div", scope, g.node("MatMul", scope, q, k), math.sqrt(depth))
    weights = g.node("Softmax", scope, g.node("Add", scope, scores, mask), axis=-1)
    return merge_heads(g, scope, g.node("MatMul", scope, weights, v), tokens, width, x)


def bert_tf(
    size: Transformer = BERT_BASE,
    sequence: Size = 128,
    batch: Size = 1,
    opset: int = 13,
    einsum: bool = True,
    gelu: str = "tanh",
    norm: str = "batchnorm",
    seed: int = 12,
) -> ModelProto:
    """BERT encoder as tf2onnx writes it.

    ``einsum``: Keras's EinsumDense and einsum attention; otherwise the original BERT's graph, whose activations are
    matrices (batch * sequence, width) and whose token types are a OneHot times a table. ``gelu``: "tanh" or "erf".
    ``norm``: "batchnorm" or "pow", see layer_norm_tf.
    """
    g = GraphWriter("bert_tf", opset, any_symbolic(sequence, batch), seed)
    ids, mask, types = (
        g.input(name, [batch, sequence], np.int32) for name in ("input_ids", "input_mask", "segment_ids")
    )
    width, hidden = size.width, size.hidden
    tokens = [Axis(0, batch), Axis(1, sequence)]
    activation: Callable[[GraphWriter, str, str], str] = {"tanh": gelu_tanh, "erf": gelu_erf_tf}[gelu]
    flat: list[int | Axis] = [-1, width]
    scope = "bert/embeddings"
    x = g.node("Gather", scope, embedding(g, f"{scope}/word_embeddings", size.vocabulary, width), ids)
    table = embedding(g, f"{scope}/token_type_embeddings", 2, width)
    if einsum:
        y = g.node("Gather", scope, table, types)
    else:
        rows = g.node("Reshape", scope, types, g.constant(scope, [-1], np.int64))
        hot = g.node("OneHot", scope, rows, g.constant(scope, [2], np.int32), g.constant(scope, [0.0, 1.0]), axis=-1)
        y = g.reshape(scope, g.node("MatMul", scope, hot, table), [*tokens, width], x)
    x = g.node("Add", scope, x, y)
    table = embedding(g, f"{scope}/position_embeddings", size.positions, width)
    end = g.shape(scope, ids, [Axis(1, sequence)])
    table = g.node("Slice", scope, table, g.constant(scope, [0], np.int64), end, g.constant(scope, [0], np.int64))
    x = g.node("Add", scope, x, g.unsqueeze(scope, table, 0))
    x = layer_norm_tf(g, f"{scope}/LayerNorm", x, width, 1e-12, norm)
    source = x
    if not einsum:
        x = g.reshape(scope, x, flat)
    additive = key_mask(g, "bert/encoder/mask", mask, -10000.0)
    for layer in range(size.layers):
        scope = f"bert/encoder/layer_{layer}"
        attention = f"{scope}/attention"
        if einsum:
            y = _keras_attention(g, attention, x, size, additive)
        else:
            y = _tf_attention(g, attention, x, size, tokens, additive, source)
        x = layer_norm_tf(g, f"{attention}/LayerNorm", g.node("Add", attention, y, x), width, 1e-12, norm)
        y = _tf_dense(g, f"{scope}/intermediate/dense", x, (width,), (hidden,), "abc,cd->abd" if einsum else None)
        y = activation(g, f"{scope}/intermediate", y)
        y = _tf_dense(g, f"{scope}/output/dense", y, (hidden,), (width,), "abc,cd->abd" if einsum else None)
        x = layer_norm_tf(g, f"{scope}/output/LayerNorm", g.node("Add", f"{scope}/output", y, x), width, 1e-12, norm)
    if not einsum:
        x = g.reshape("bert/encoder", x, [*tokens, width], source)
    g.output("sequence_output", x, [batch, sequence, width])
    return g.finish()


def _tf_dense(
    g: GraphWriter, scope: str, x: str, inner: tuple[int, ...], outer: tuple[int, ...], equation: str | None
) -> str:
    """``inner`` to ``outer`` features: an Einsum by ``equation``, or a MatMul; then the bias."""
    kernel = g.random(f"{scope}/kernel", (*inner, *outer), math.prod(inner) ** -0.5)
    if equation is None:
        y = g.node("MatMul", scope, x, kernel)
    else:
        y = g.node("Einsum", scope, x, kernel, equation=equation)
    return g.node("Add", scope, y, g.bias(f"{scope}/bias", *outer))


def _keras_attention(g: GraphWriter, scope: str, x: str, size: Transformer, mask: str) -> str:
    """Keras's MultiHeadAttention: heads stay behind the sequence, every contraction is an Einsum."""
    split = (size.heads, size.depth)
    q, k, v = (
        _tf_dense(g, f"{scope}/{name}", x, (size.width,), split, "abc,cde->abde") for name in ("query", "key", "value")
    )
    q = g.with_scalar("Mul", scope, q, size.depth**-0.5)
    scores = g.node("Einsum", scope, k, q, equation="aecd,abcd->acbe")
    weights = g.node("Softmax", scope, g.node("Add", scope, scores, mask), axis=-1)
    y = g.node("Einsum", scope, weights, v, equation="acbe,aecd->abcd")
    return _tf_dense(g, f"{scope}/attention_output", y, split, (size.width,), "abcd,cde->abe")


def _tf_attention(
    g: GraphWriter, scope: str, x: str, size: Transformer, tokens: list[Axis], mask: str, source: str
) -> str:
    """The original BERT's attention layer on matrices; symbolic sizes are read from ``source``."""
    width = size.width

    def project(name: str, *perm: int) -> str:
        y = _tf_dense(g, f"{scope}/self/{name}", x, (width,), (width,), None)
        return g.transpose(
            f"{scope}/self", g.reshape(f"{scope}/self", y, [*tokens, size.heads, size.depth], source), *perm
        )

    q, k, v = project("query", 0, 2, 1, 3), project("key", 0, 2, 3, 1), project("value", 0, 2, 1, 3)
    scores = g.with_scalar("Mul", scope, g.node("MatMul", scope, q, k), size.depth**-0.5)
    weights = g.node("Softmax", scope, g.node("Add", scope, scores, mask), axis=-1)
    y = g.transpose(scope, g.node("MatMul", scope, weights, v), 0, 2, 1, 3)
    return _tf_dense(g, f"{scope}/output/dense", g.reshape(scope, y, [-1, width]), (width,), (width,), None)
