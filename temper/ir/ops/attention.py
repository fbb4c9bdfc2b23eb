"""Scaled dot-product attention as one op, recovered by passes from what exporters write out.

Attention(q, k, v, mask?): softmax(scale * Q K^T + mask) V for every batch index b and head h. Each of q, k, v and the
result is either rows [B, S, heads * D] (letter "r") or heads first [B, heads, S, D] ("h"); `layout` has their four
letters in this order. k and v have kv_heads heads, each read by heads / kv_heads neighbouring heads of q; k has D, v
may have another width E, and both have T positions. mask is added to the scores and broadcasts to [B, heads, S, T]; its
last axis is T. causal: query i sees only keys j <= i + T - S. safe: a query that sees no key (scores all -inf) gives
zeros, where softmax gives NaN.

AttentionInt8(q, k, v, mask?, scale): the same of codes: q int8 or uint8 with a zero point, k and v int8 without one.
scale is a float32 number: an operand, since every layer has its own and layers share a kernel. The sums of products
are exact, times the scale they are float32 scores, weights are e^(score - largest score) in codes of 1/255
(reference.attention.weight_codes), and the result is the float32 mean of the codes of v under these weights: sums of
products times the reciprocal of the sum of weights. All of it is exact as the reference has it.
"""

from __future__ import annotations

from collections.abc import Sequence

from temper.errors import ShapeError
from temper.ir.dims import DimLike
from temper.ir.opdef import Attrs, AttrSpec, Kind, OpDef, Tolerance
from temper.ir.ops import rules
from temper.ir.ops.rules import FLOATS, INT, Types, allow, default, need
from temper.ir.types import TensorType
from temper.reference.attention import REFERENCES


def by_heads(t: TensorType, heads: int, letter: str) -> tuple[DimLike, DimLike, DimLike, DimLike]:
    """(B, heads, S, D) of an operand. ShapeError where it does not have them."""
    if letter == "h":
        if t.rank != 4:
            raise ShapeError(f"{t} must be [B, heads, S, D]")
        rules.equal_or_raise(t.shape[1], heads, f"heads of {t}")
        return t.shape[0], heads, t.shape[2], t.shape[3]
    if t.rank != 3:
        raise ShapeError(f"{t} must be rows [B, S, heads * D]")
    if t.shape[2] % heads != 0:
        raise ShapeError(f"rows of {t} do not divide into {heads} heads")
    return t.shape[0], heads, t.shape[1], t.shape[2] // heads


def _letters(attrs: Attrs) -> str:
    layout = rules.text(attrs, "layout")
    if len(layout) != 4 or set(layout) - set("rh"):
        raise ShapeError(f"layout must be four letters r or h, not {layout!r}")
    return layout


def _attention(types: Types, attrs: Attrs) -> list[TensorType]:
    for i in range(3):
        allow(need(types, i), FLOATS)
    return _attended(types, attrs, rules.same_dtype(types))


def _attention_int8(types: Types, attrs: Attrs) -> list[TensorType]:
    allow(need(types, 0), frozenset({"int8", "uint8"}), "queries")
    for i in (1, 2):
        allow(need(types, i), frozenset({"int8"}), "keys and values")
    if (mask := rules.optional(types, 3)) is not None:
        allow(mask, frozenset({"float32"}), "mask")
    allow(scale := need(types, 4), frozenset({"float32"}), "scale")
    if scale.shape:
        raise ShapeError(f"the scale of scores is one number, not {scale}")
    return _attended(types, attrs, "float32")


def _attended(types: Types, attrs: Attrs, dtype: str) -> list[TensorType]:
    q, k, v = (need(types, i) for i in range(3))
    heads, groups, layout = rules.integer(attrs, "heads"), rules.integer(attrs, "kv_heads"), _letters(attrs)
    if heads < 1 or groups < 1 or heads % groups:
        raise ShapeError(f"{heads} heads do not share {groups} heads of keys evenly")
    (b, _, s, d), (kb, _, t, kd), (vb, _, vt, e) = (
        by_heads(x, n, letter) for x, n, letter in zip((q, k, v), (heads, groups, groups), layout, strict=False)
    )
    rules.equal_or_raise(d, kd, "width of a head of queries and of keys")
    rules.equal_or_raise(t, vt, "keys and values")
    for other in (kb, vb):
        rules.equal_or_raise(b, other, "batch of queries and of keys")
    mask = rules.optional(types, 3)
    full = (b, heads, s, t)
    if mask is not None and (rules.broadcast(full, mask.shape) != full or mask.shape[-1:] != (t,)):
        raise ShapeError(f"the mask {mask} does not broadcast to {rules.shape_text(full)} with its last axis whole")
    shape = (b, s, e * heads) if layout[3] == "r" else (b, heads, s, e)
    return [TensorType(dtype, shape)]


def _cost(inputs: Types, outputs: Sequence[TensorType], attrs: Attrs) -> DimLike:
    q, k = need(inputs, 0), need(inputs, 1)
    _, _, t, _ = by_heads(k, rules.integer(attrs, "kv_heads"), _letters(attrs)[1])
    return (q.count + outputs[0].count) * t * 2


_ATTRS = {
    "heads": INT,
    "kv_heads": INT,
    "layout": default("rrrr"),
    "causal": default(0),
    "safe": default(0),
}

OPS: tuple[OpDef, ...] = (
    OpDef(
        "Attention",
        Kind.CONTRACTION,
        (3, 4),
        _attention,
        REFERENCES["Attention"],
        _cost,
        {**_ATTRS, "scale": AttrSpec(float, required=True)},
        tolerance=Tolerance(relative=16.0, reduction=True),
    ),
    OpDef(
        "AttentionInt8",
        Kind.CONTRACTION,
        (5, 5),
        _attention_int8,
        REFERENCES["AttentionInt8"],
        _cost,
        {**_ATTRS, "zero_point": default(0)},
        tolerance=Tolerance(relative=0.0),
    ),
)
