"""ViT, a GPT-2 decoding step and Whisper's encoder as ONNX graphs, as PyTorch's legacy exporter writes them."""

from __future__ import annotations

import math

import numpy as np
from onnx import ModelProto

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
    gelu_tanh,
    gemm,
    key_mask,
    layer_norm,
    linear,
    merge_heads,
    split_heads,
)

VIT_B = Transformer(12, 768, 12, 3072)
GPT2_SMALL = Transformer(12, 768, 12, 3072, 50257, 1024)
WHISPER_TINY = Transformer(4, 384, 6, 1536)


def vit(
    size: Transformer = VIT_B,
    image: int = 224,
    patch: int = 16,
    classes: int = 1000,
    batch: Size = 1,
    opset: int = 17,
    arithmetic: bool = False,
    sdpa: bool = False,
    seed: int = 13,
) -> ModelProto:
    """A vision transformer in timm's structure: one Linear makes queries, keys and values, Split takes them apart."""
    g = GraphWriter("vit", opset, arithmetic or any_symbolic(batch), seed)
    width, patches = size.width, (image // patch) ** 2
    pixels = g.input("input", [batch, 3, image, image])
    weight = g.random("patch_embed.proj.weight", (width, 3, patch, patch), (3 * patch * patch) ** -0.5)
    x = g.node(
        "Conv", "patch_embed/proj", pixels, weight, g.bias("patch_embed.proj.bias", width),
        dilations=[1, 1], group=1, kernel_shape=[patch, patch], pads=[0] * 4, strides=[patch, patch],
    )  # fmt: skip
    x = g.transpose("patch_embed", g.reshape("patch_embed", x, [Axis(0, batch), width, patches]), 0, 2, 1)
    rows = batch if isinstance(batch, int) and not g.arithmetic else 1
    token = g.weight("cls_token", np.repeat(g.rng.standard_normal((1, 1, width), np.float32), rows, 0))
    if g.arithmetic:
        token = g.expand("", token, x, [Axis(0, batch), -1, -1])
    x = g.node("Concat", "", token, x, axis=1)
    x = g.node("Add", "", x, g.random("pos_embed", (1, patches + 1, width), 0.5))
    tokens = [Axis(0, batch), Axis(1, patches + 1)]
    for layer in range(size.layers):
        scope = f"blocks.{layer}"
        y = layer_norm(g, f"{scope}/norm1", x, width, 1e-6)
        y = _vit_attention(g, f"{scope}/attn", y, size, tokens, sdpa)
        x = g.node("Add", scope, x, linear(g, f"{scope}/attn/proj", y, width, width))
        y = layer_norm(g, f"{scope}/norm2", x, width, 1e-6)
        y = gelu_erf(g, f"{scope}/mlp/act", linear(g, f"{scope}/mlp/fc1", y, width, size.hidden))
        x = g.node("Add", scope, x, linear(g, f"{scope}/mlp/fc2", y, size.hidden, width))
    x = layer_norm(g, "norm", x, width, 1e-6)
    x = g.node("Gather", "", x, g.constant("", 0, np.int64), axis=1)
    g.output("output", gemm(g, "head", x, width, classes), [batch, classes])
    return g.finish()


def _vit_attention(g: GraphWriter, scope: str, x: str, size: Transformer, tokens: list[Axis], sdpa: bool) -> str:
    y = linear(g, f"{scope}/qkv", x, size.width, 3 * size.width)
    y = g.transpose(scope, g.reshape(scope, y, [*tokens, 3, size.heads, size.depth], x), 2, 0, 3, 1, 4)
    parts = g.nodes("Split", scope, 3, y, g.constant(scope, [1, 1, 1], np.int64), axis=0)
    q, k, v = (g.node("Squeeze", scope, part, g.constant(scope, [0], np.int64)) for part in parts)
    if sdpa:
        y = attend_sdpa(g, scope, q, k, v, size.depth, None)
    else:
        q = g.with_scalar("Mul", scope, q, size.depth**-0.5)
        scores = g.node("MatMul", scope, q, g.transpose(scope, k, 0, 1, 3, 2))
        y = g.node("MatMul", scope, g.node("Softmax", scope, scores, axis=-1), v)
    return merge_heads(g, scope, y, tokens, size.width, x)


def gpt2_step(
    size: Transformer = GPT2_SMALL,
    past: Size = 127,
    batch: Size = 1,
    opset: int = 13,
    arithmetic: bool = False,
    seed: int = 14,
) -> ModelProto:
    """One decoding step of GPT-2 with logits: one new token, ``past`` cached ones, caches in and out by Concat.

    Inputs: input_ids (batch, 1), per layer past_key_values.N.key and .value (batch, heads, past, depth),
    attention_mask (batch, past + 1), position_ids (batch, 1).
    """
    total = past + 1 if isinstance(past, int) else f"{past} + 1"
    g = GraphWriter("gpt2_step", opset, arithmetic or any_symbolic(past, batch), seed)
    width, heads, depth = size.width, size.heads, size.depth
    ids = g.input("input_ids", [batch, 1], np.int64)
    cache = [batch, heads, past, depth]
    caches = [
        [g.input(f"past_key_values.{layer}.{part}", cache) for part in ("key", "value")] for layer in range(size.layers)
    ]
    mask = g.input("attention_mask", [batch, total], np.int64)
    places = g.input("position_ids", [batch, 1], np.int64)
    scope = "transformer"
    table = embedding(g, f"{scope}.wte.weight", size.vocabulary, width, width**-0.5)
    x = g.node("Gather", f"{scope}/wte", table, ids)
    spots = embedding(g, f"{scope}.wpe.weight", size.positions, width, width**-0.5)
    x = g.node("Add", scope, x, g.node("Gather", f"{scope}/wpe", spots, places))
    additive = key_mask(g, scope, mask)
    triangle = g.weight(f"{scope}.attn.bias", np.tril(np.ones((1, 1, size.positions, size.positions), np.bool_)))
    tokens = [Axis(0, batch), Axis(1, 1)]
    for layer, (old_key, old_value) in enumerate(caches):
        scope = f"transformer/h.{layer}"
        attn = f"{scope}/attn"
        y = _conv1d(g, f"{attn}/c_attn", layer_norm(g, f"{scope}/ln_1", x, width, 1e-5), width, 3 * width, tokens)
        parts = g.nodes("Split", attn, 3, y, g.constant(attn, [width] * 3, np.int64), axis=2)
        q, k, v = (g.transpose(attn, split_heads(g, attn, part, tokens, heads, depth), 0, 2, 1, 3) for part in parts)
        keys = g.node("Concat", attn, old_key, k, axis=-2)
        values = g.node("Concat", attn, old_value, v, axis=-2)
        g.output(f"present.{layer}.key", keys, [batch, heads, total, depth])
        g.output(f"present.{layer}.value", values, [batch, heads, total, depth])
        scores = g.node("MatMul", attn, q, g.transpose(attn, keys, 0, 1, 3, 2))
        scores = g.with_scalar("Div", attn, scores, math.sqrt(depth))
        allowed = _causal_rows(g, attn, triangle, keys, Axis(2, total))
        scores = g.node("Where", attn, allowed, scores, g.constant(attn, LOWEST))
        weights = g.node("Softmax", attn, g.node("Add", attn, scores, additive), axis=-1)
        y = merge_heads(g, attn, g.node("MatMul", attn, weights, values), tokens, width, y)
        x = g.node("Add", scope, _conv1d(g, f"{attn}/c_proj", y, width, width, tokens), x)
        y = _conv1d(g, f"{scope}/mlp/c_fc", layer_norm(g, f"{scope}/ln_2", x, width, 1e-5), width, size.hidden, tokens)
        y = gelu_tanh(g, f"{scope}/mlp/act", y)
        x = g.node("Add", scope, x, _conv1d(g, f"{scope}/mlp/c_proj", y, size.hidden, width, tokens))
    x = layer_norm(g, "transformer/ln_f", x, width, 1e-5)
    # The output layer shares the embedding's table.
    logits = g.node("MatMul", "lm_head", x, g.transpose("lm_head", table, 1, 0))
    g.output("logits", logits, [batch, 1, size.vocabulary])
    return g.finish()


def _causal_rows(g: GraphWriter, scope: str, triangle: str, keys: str, total: Axis) -> str:
    """The last row of the causal triangle, cut to the number of keys: (1, 1, 1, total)."""
    end = g.shape(scope, keys, [total])
    one = g.constant(scope, [1], np.int64)
    start = g.node("Sub", scope, end, one) if g.arithmetic else g.constant(scope, [int(total.size) - 1], np.int64)
    rows = g.node("Slice", scope, triangle, start, end, g.constant(scope, [2], np.int64), one)
    return g.node("Slice", scope, rows, g.constant(scope, [0], np.int64), end, g.constant(scope, [3], np.int64), one)


def _conv1d(g: GraphWriter, scope: str, x: str, inner: int, outer: int, tokens: list[Axis]) -> str:
    """GPT-2's Conv1D: a Gemm on (tokens, inner) between two Reshapes."""
    name = scope.replace("/", ".")
    rows = g.reshape(scope, x, [-1, inner])
    weight = g.random(f"{name}.weight", (inner, outer), inner**-0.5)
    y = g.node("Gemm", scope, rows, weight, g.bias(f"{name}.bias", outer), alpha=1.0, beta=1.0)
    return g.reshape(scope, y, [*tokens, outer], x)


def whisper_encoder(
    size: Transformer = WHISPER_TINY,
    frames: int = 3000,
    mels: int = 80,
    batch: Size = 1,
    opset: int = 17,
    arithmetic: bool = False,
    seed: int = 15,
) -> ModelProto:
    """Whisper's encoder: two convolutions over time (the second halves it), then pre-norm layers.

    Attention runs on (batch * heads, sequence, depth), as Hugging Face's eager attention was exported.
    """
    g = GraphWriter("whisper_encoder", opset, arithmetic or any_symbolic(batch), seed)
    width, heads, depth, steps = size.width, size.heads, size.depth, frames // 2
    x = g.input("input_features", [batch, mels, frames])
    for scope, channels, stride in (("conv1", mels, 1), ("conv2", width, 2)):
        weight = g.random(f"{scope}.weight", (width, channels, 3), (3 * channels) ** -0.5)
        x = g.node(
            "Conv", scope, x, weight, g.bias(f"{scope}.bias", width),
            dilations=[1], group=1, kernel_shape=[3], pads=[1, 1], strides=[stride],
        )  # fmt: skip
        x = gelu_erf(g, f"{scope}/act", x)
    x = g.transpose("", x, 0, 2, 1)
    x = g.node("Add", "", x, g.random("embed_positions.weight", (steps, width), 0.5))
    tokens = [Axis(0, batch), Axis(1, steps)]
    merged: list[int | Axis] = [-1, Axis(1, steps), depth]
    for layer in range(size.layers):
        scope = f"layers.{layer}"
        attn = f"{scope}/self_attn"
        y = layer_norm(g, f"{scope}/self_attn_layer_norm", x, width, 1e-5)
        q = g.with_scalar("Mul", attn, linear(g, f"{attn}/q_proj", y, width, width), depth**-0.5)
        k = linear(g, f"{attn}/k_proj", y, width, width, bias=False)
        v = linear(g, f"{attn}/v_proj", y, width, width)
        q, k, v = (
            g.reshape(attn, g.transpose(attn, split_heads(g, attn, part, tokens, heads, depth), 0, 2, 1, 3), merged, y)
            for part in (q, k, v)
        )
        scores = g.node("MatMul", attn, q, g.transpose(attn, k, 0, 2, 1))
        z = g.node("MatMul", attn, g.node("Softmax", attn, scores, axis=-1), v)
        z = g.reshape(attn, z, [Axis(0, batch), heads, Axis(1, steps), depth], y)
        z = merge_heads(g, attn, z, tokens, width, y)
        x = g.node("Add", scope, x, linear(g, f"{attn}/out_proj", z, width, width))
        y = layer_norm(g, f"{scope}/final_layer_norm", x, width, 1e-5)
        y = gelu_erf(g, f"{scope}/activation_fn", linear(g, f"{scope}/fc1", y, width, size.hidden))
        x = g.node("Add", scope, x, linear(g, f"{scope}/fc2", y, size.hidden, width))
    g.output("last_hidden_state", layer_norm(g, "layer_norm", x, width, 1e-5), [batch, steps, width])
    return g.finish()
