"""Operators of ONNX Runtime's domain that its transformer optimizer writes: attention, fused norms, GELU forms.

The `onnx` package has no schemas of them; their operands, attributes and defaults are those of ONNX Runtime's
ContribOperators.md. Masks are added to scores as it does: (1 - mask) * mask_filter_value.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from temper.errors import ShapeError
from temper.frontends.onnx.context import Context, Refusal, Row
from temper.frontends.onnx.table_contraction import convolution, gemm
from temper.ir.dims import DimLike, product
from temper.ir.graph import Value

DOMAIN = "com.microsoft"


def _gelu(c: Context) -> Value:
    return c.emit("Gelu", c.input(0), approximate="none")


def _biased(c: Context) -> Value:
    return c.emit("Add", c.input(0), c.input(1)) if c.has(1) else c.input(0)


def _bias_gelu(c: Context) -> Value:
    return c.emit("Gelu", _biased(c), approximate="none")


def _fast_gelu(c: Context) -> Value:
    return c.emit("Gelu", _biased(c), approximate="tanh")


def _quick_gelu(c: Context) -> Value:
    """x * sigmoid(alpha * x)."""
    x, alpha = c.input(0), c.attr("alpha", 1.702)
    return c.emit("Mul", x, c.emit("Sigmoid", x if alpha == 1.0 else c.emit("Mul", x, c.like(alpha, x))))


def _fused_matmul(c: Context) -> Value:
    if c.attr("transBatchA", 0) or c.attr("transBatchB", 0):
        raise Refusal("transposed batches are not supported")
    y = c.emit("MatMul", c.input(0), c.input(1), transA=c.attr("transA", 0), transB=c.attr("transB", 0))
    alpha = c.attr("alpha", 1.0)
    return y if alpha == 1.0 else c.emit("Mul", y, c.like(alpha, y))


#: Activations of fused products, and the attributes that take their parameters.
_ACTIVATIONS: Mapping[str, tuple[str, ...]] = {
    "": (), "Relu": (), "Tanh": (), "Sigmoid": (), "LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"),
    "Clip": ("min", "max"),
}  # fmt: skip


def _activated(c: Context, y: Value, parameters: Sequence[float]) -> Value:
    kind = c.attr("activation", "")
    if kind not in _ACTIVATIONS:
        raise Refusal(f"the activation {kind} is not supported")
    return c.emit(kind, y, **dict(zip(_ACTIVATIONS[kind], parameters, strict=False))) if kind else y


def _fused_gemm(c: Context) -> Value:
    given = [c.attr(f"activation_{n}") for n in ("alpha", "beta", "gamma")]
    return _activated(c, gemm(c), [v for v in given if v is not None])


def _fused_conv(c: Context) -> Value:
    """Convolution plus a tensor (operand 3), activated."""
    y = convolution(c, "Conv", c.inputs[:3])
    if c.has(3):
        y = c.emit("Add", y, c.input(3))
    return _activated(c, y, tuple(c.attr("activation_params") or ()))


# ---- normalisations ----


def _no_statistics(c: Context, *outputs: int) -> None:
    if any(c.wants(i) for i in outputs):
        raise Refusal("the mean and inverse deviation are results of training, which are not supported")


def _skipped(c: Context, norm: str, bias: int) -> list[Value | None]:
    """Norm of input + skip (+ bias), and that sum as output 3. Operands from 2 on: scale, shift for layers, bias."""
    _no_statistics(c, 1, 2)
    total = c.emit("Add", c.input(0), c.input(1))
    if c.has(bias):
        total = c.emit("Add", total, c.input(bias))
    parameters = [v for v in c.inputs[2:bias] if v is not None]
    return [c.emit(norm, total, *parameters, axis=-1, epsilon=c.attr("epsilon", 1e-12)), None, None, total]


def _skip_layer(c: Context) -> list[Value | None]:
    return _skipped(c, "LayerNormalization", 4)


def _skip_simplified(c: Context) -> list[Value | None]:
    return _skipped(c, "RMSNormalization", 3)


def _simplified(c: Context) -> Value:
    if c.attr("stash_type", 1) != 1:
        raise Refusal(f"stash_type {c.attr('stash_type')} is not supported")
    axis = c.axis(c.input(0).type.rank, -1)
    return c.emit("RMSNormalization", c.input(0), c.input(1), axis=axis, epsilon=c.attr("epsilon", 1e-5))


def embed_layer(c: Context) -> list[Value | None]:
    """Norm of the sum of word, position and segment embeddings; the number of seen tokens; the sum."""
    ids = c.input(0)
    b, s = ids.type.shape
    words = c.emit("Gather", c.input(2), ids, axis=0)
    if c.has(8):
        places = c.emit("Gather", c.input(3), c.input(8), axis=0)
    else:
        places = c.emit("Slice", c.input(3), starts=(0,), ends=(s,), axes=(0,), steps=(1,))
    total = c.emit("Add", words, places)
    if c.has(1):
        total = c.emit("Add", total, c.emit("Gather", c.input(4), c.input(1), axis=0))
    y = c.emit("LayerNormalization", total, c.input(5), c.input(6), axis=-1, epsilon=c.attr("epsilon", 1e-12))
    count: Value | None = None
    if c.wants(1):
        if c.has(7):
            count = c.emit("ReduceSum", c.emit("Cast", c.input(7), to="int32"), axes=(1,), keepdims=0)
        else:
            count = c.emit("Expand", c.constant(np.zeros(1, np.int32)), shape=(b,))
    return [y, count, total]


# ---- weights quantized in blocks ----


def _unpacked(packed: np.ndarray, bits: int) -> np.ndarray:
    """Codes of `bits` bits from bytes along the last axis, the lowest bits first."""
    parts = [(packed >> shift) & ((1 << bits) - 1) for shift in range(0, 8, bits)]
    return np.stack(parts, axis=-1).reshape(*packed.shape[:-1], -1)


def _matmul_bits(c: Context) -> Value:
    """a @ w with w[k, n] = (code[n, k] - zero[n, block of k]) * scale[n, block of k], in float."""
    depth, features, block, bits = c.attr("K"), c.attr("N"), c.attr("block_size"), c.attr("bits", 4)
    if bits not in (2, 4, 8) or c.has(4):
        raise Refusal(f"codes of {bits} bits, or rows in another order, are not supported")
    codes, scale = (c.input(i).const for i in (1, 2))
    zero = c.input(3).const if c.has(3) else np.array(1 << (bits - 1), np.float32)
    if codes is None or scale is None or zero is None:
        raise Refusal("weights that are known at run time only are not supported")
    blocks = -(-depth // block)
    if c.has(3):
        whole = zero if zero.dtype != np.uint8 else _unpacked(zero.reshape(features, -1), bits)[:, :blocks]
        zero = whole.reshape(features, blocks, 1).astype(np.float32)
    wide = _unpacked(codes.reshape(features, blocks, -1), bits).astype(np.float32) - zero
    w = (wide * scale.reshape(features, blocks, 1).astype(np.float32)).reshape(features, -1)[:, :depth]
    kind = c.input(0).type.dtype
    y = c.emit("MatMul", c.input(0), c.constant(np.ascontiguousarray(w.T).astype(kind)))
    return c.emit("Add", y, c.input(5)) if c.has(5) else y


# ---- attention ----


def _added_mask(c: Context, mask: Value, batch: DimLike, keys: DimLike) -> Value:
    """float32[B, 1, 1 or S, T] to be added to scores, from 0 and 1 for each key, or the number of keys of each row."""
    filter_value = c.attr("mask_filter_value", -10000.0)
    rank = mask.type.rank
    if rank == 1 and mask.type.shape[0] == batch:
        places = (
            c.constant(np.arange(keys, dtype=np.int32).reshape(1, keys))
            if isinstance(keys, int)
            else c.reshape(c.emit("Range", start=0, limit=keys, delta=1, to="int32"), (1, keys))
        )
        seen = c.emit("Less", places, c.reshape(c.emit("Cast", mask, to="int32"), (batch, 1)))
        shape: tuple[DimLike, ...] = (batch, 1, 1, keys)
    elif rank == 2:
        seen, shape = mask, (mask.type.shape[0], 1, 1, mask.type.shape[1])
    elif rank == 3:
        seen, shape = mask, (mask.type.shape[0], 1, *mask.type.shape[1:])
    else:
        raise Refusal(f"a mask of type {mask.type} is not supported")
    number = c.emit("Cast", c.reshape(seen, shape), to="float32")
    return c.emit("Mul", c.emit("Sub", c.like(1.0, number), number), c.like(filter_value, number))


def _heads_first(c: Context, x: Value, heads: int) -> Value:
    """[B, S, heads * D] as [B, heads, S, D]; of rank 4 it is so already."""
    if x.type.rank == 4:
        return x
    b, s, width = x.type.shape
    return c.emit("Transpose", c.reshape(x, (b, s, heads, width // heads)), perm=(0, 2, 1, 3))


def _attend(c: Context, q: Value, k: Value, v: Value, mask: Value | None, bias: Value | None) -> Value:
    """Rows [B, S, heads * E] of attention; each operand is rows or heads first."""
    heads = c.attr("num_heads")
    b, keys = q.type.shape[0], k.type.shape[2 if k.type.rank == 4 else 1]
    width = q.type.shape[-1] if q.type.rank == 4 else q.type.shape[-1] // heads
    if not isinstance(width, int):
        raise Refusal("the width of a head must be known")
    added = bias
    if mask is not None:
        made = _added_mask(c, mask, b, keys)
        added = made if bias is None else c.emit("Add", bias, made)
    layout = "".join("h" if x.type.rank == 4 else "r" for x in (q, k, v)) + "r"
    operands = [q, k, v] if added is None else [q, k, v, added]
    scale = c.attr("scale", 0.0) or width**-0.5
    causal = int(c.attr("unidirectional", 0))
    return c.emit(
        "Attention", *operands, heads=heads, kv_heads=heads, scale=scale, layout=layout, causal=causal, safe=0
    )


def attention(c: Context) -> list[Value | None]:
    """Projections and attention in one; past and present are [2, B, heads, T, D]."""
    if c.attr("do_rotary", 0) or c.attr("past_present_share_buffer", 0) or c.has(6):
        raise Refusal("rotary embedding and shared buffers of past and present are not supported")
    x, w = c.input(0), c.input(1)
    heads, total = c.attr("num_heads"), w.type.shape[1]
    sizes = tuple(c.attr("qkv_hidden_sizes", ())) or (total // 3,) * 3
    if len(sizes) != 3 or sum(sizes) != total:
        raise ShapeError(f"{c}: hidden sizes {sizes} do not add up to the {total} columns of the weights")
    y = c.emit("MatMul", x, w)
    if c.has(2):
        y = c.emit("Add", y, c.input(2))
    q, k, v = c.emit_many("Split", [y], {"axis": 2, "sizes": sizes})
    present: Value | None = None
    if c.has(4) or c.wants(1):
        k, v = (_heads_first(c, t, heads) for t in (k, v))
        if c.has(4):
            two = c.emit_many("Split", [c.input(4)], {"axis": 0, "sizes": (1, 1)})
            past = [c.reshape(t, t.type.shape[1:]) for t in two]
            k, v = (c.emit("Concat", p, t, axis=2) for p, t in zip(past, (k, v), strict=True))
        present = c.emit("Concat", *(c.reshape(t, (1, *t.type.shape)) for t in (k, v)), axis=0)
    return [_attend(c, q, k, v, c.optional(3), c.optional(5)), present]


def _multi_head(c: Context) -> list[Value | None]:
    heads, q = c.attr("num_heads"), c.input(0)
    if q.type.rank != 3 or not c.has(1) or c.input(1).type.rank == 5:
        raise Refusal("packed queries, keys and values are not supported")
    if not c.has(2) or any(c.has(i) for i in (8, 9)):
        raise Refusal("it needs values of their own, and no cache indirection")
    parts = [q, c.input(1), c.input(2)]
    if c.has(3):
        widths = tuple(x.type.shape[-1] if x.type.rank == 3 else product(x.type.shape[1::2]) for x in parts)
        biases = c.emit_many("Split", [c.input(3)], {"axis": 0, "sizes": widths})
        parts = [
            c.emit("Add", x, b if x.type.rank == 3 else c.reshape(b, (heads, 1, x.type.shape[3])))
            for x, b in zip(parts, biases, strict=True)
        ]
    kept: list[Value] = parts[1:]
    if c.has(6) or c.has(7) or c.wants(1) or c.wants(2):
        kept = [_heads_first(c, t, heads) for t in kept]
        kept = [c.emit("Concat", c.input(6 + i), t, axis=2) if c.has(6 + i) else t for i, t in enumerate(kept)]
    return [_attend(c, parts[0], kept[0], kept[1], c.optional(4), c.optional(5)), *kept]


ROWS: tuple[Row, ...] = (
    Row("Gelu", _gelu, domain=DOMAIN),
    Row("BiasGelu", _bias_gelu, domain=DOMAIN),
    Row("FastGelu", _fast_gelu, domain=DOMAIN),
    Row("QuickGelu", _quick_gelu, domain=DOMAIN),
    Row("FusedMatMul", _fused_matmul, domain=DOMAIN),
    Row("FusedGemm", _fused_gemm, domain=DOMAIN),
    Row("FusedConv", _fused_conv, domain=DOMAIN),
    Row("MatMulNBits", _matmul_bits, domain=DOMAIN),
    Row("SkipLayerNormalization", _skip_layer, domain=DOMAIN),
    Row("SkipSimplifiedLayerNormalization", _skip_simplified, domain=DOMAIN),
    Row("EmbedLayerNormalization", embed_layer, domain=DOMAIN),
    Row("Attention", attention, domain=DOMAIN),
    Row("MultiHeadAttention", _multi_head, domain=DOMAIN),
    Row("SimplifiedLayerNormalization", _simplified),  # ONNX Runtime has it in ONNX's own domain
)
