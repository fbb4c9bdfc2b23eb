"""Scaled dot-product attention as one op, recovered by passes from what exporters write out.

Attention(q, k, v, mask?): softmax(scale * Q K^T + mask) V for every batch index b and head h. Each of q, k, v and the
result is either rows [B, S, heads * D] (letter "r") or heads first [B, heads, S, D] ("h"); `layout` has their four
letters in this order. k and v have kv_heads heads, each read by heads / kv_heads neighbouring heads of q; k has D, v
may have another width E, and both have T positions. mask is added to the scores and broadcasts to [B, heads, S, T]; its
last axis is T. causal: query i sees only keys j <= i + T - S. safe: a query that sees no key (scores all -inf) gives
zeros, where softmax gives NaN.
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
    q, k, v = (allow(need(types, i), FLOATS) for i in range(3))
    rules.same_dtype(types)
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
    return [TensorType(q.dtype, shape)]


def _cost(inputs: Types, outputs: Sequence[TensorType], attrs: Attrs) -> DimLike:
    q, k = need(inputs, 0), need(inputs, 1)
    _, _, t, _ = by_heads(k, rules.integer(attrs, "kv_heads"), _letters(attrs)[1])
    return (q.count + outputs[0].count) * t * 2


OPS: tuple[OpDef, ...] = (
    OpDef(
        "Attention",
        Kind.CONTRACTION,
        (3, 4),
        _attention,
        REFERENCES["Attention"],
        _cost,
        {
            "heads": INT,
            "kv_heads": INT,
            "scale": AttrSpec(float, required=True),
            "layout": default("rrrr"),
            "causal": default(0),
            "safe": default(0),
        },
        tolerance=Tolerance(relative=16.0, reduction=True),
    ),
)
