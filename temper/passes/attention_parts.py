"""Parts of attention as exporters write them: keys repeated for groups of heads, and causal masks."""

from __future__ import annotations

import numpy as np

from temper.ir.dims import DimLike
from temper.ir.graph import Value
from temper.passes.attention_views import scalar, scaled


def grouped(kt: Value, v: Value, transposed: bool) -> tuple[Value, Value, int, float] | None:
    """Keys [B, G, T, D] and values before their heads were repeated, how often they were, and a factor of the keys.

    transposed: kt is [B, H, T, D] already. None where heads are not repeated.
    """
    k, factor = kt, 1.0
    while (node := k.producer) is not None and node.inputs and node.inputs[0] is not None:
        if (step := scaled(node)) is not None:
            k, factor = step[0], factor * step[1]
        elif not transposed and node.op == "Transpose" and node.attrs["perm"] == (0, 1, 3, 2):
            k, transposed = node.inputs[0], True
        elif not transposed and node.op == "Reshape" and (wide := _through_three_axes(k)) is not None:
            found = _narrow(wide, (*k.type.shape[:2], k.type.shape[3], k.type.shape[2]))
            return _same(found, ungrouped(v), factor)
        else:
            break
    return _same(ungrouped(k), ungrouped(v), factor) if transposed else None


def _same(k: tuple[Value, int], v: tuple[Value, int], factor: float) -> tuple[Value, Value, int, float] | None:
    return (k[0], v[0], k[1], factor) if k[1] == v[1] and k[1] > 1 else None


def _through_three_axes(k: Value) -> Value | None:
    """Keys before they became [B * H, T, D], were transposed, and became [B, H, D, T] again."""
    back = k.producer
    transpose = back.inputs[0].producer if back is not None and back.inputs[0] is not None else None
    if k.type.rank != 4 or transpose is None or transpose.op != "Transpose" or transpose.attrs["perm"] != (0, 2, 1):
        return None
    flat = transpose.inputs[0]
    if flat is None or flat.type.shape != (k.type.shape[0] * k.type.shape[1], k.type.shape[3], k.type.shape[2]):
        return None
    first = flat.producer
    return first.inputs[0] if first is not None and first.op == "Reshape" else None


def ungrouped(v: Value) -> tuple[Value, int]:
    """Keys or values before each head was repeated, and how often: [B, G, 1, T, D] expanded to [B, G, R, T, D]."""
    node = v.producer
    if node is None or node.op != "Reshape" or v.type.rank != 4 or node.inputs[0] is None:
        return v, 1
    source, repeats = _narrow(node.inputs[0], v.type.shape)
    return (source, repeats) if repeats > 1 else (v, 1)


def _narrow(wide: Value, shape: tuple[DimLike, ...]) -> tuple[Value, int]:
    """As `ungrouped`, from the expanded tensor of five axes that is reshaped to `shape`."""
    inner = wide.producer
    if wide.type.rank != 5 or inner is None or inner.op not in ("Expand", "Tile") or inner.inputs[0] is None:
        return wide, 1
    narrow = inner.inputs[0]
    b, g, r, t, d = wide.type.shape
    if narrow.type.shape != (b, g, 1, t, d) or shape != (b, g * r, t, d) or not isinstance(r, int):
        return wide, 1
    before = narrow.producer
    source = before.inputs[0] if before is not None and before.op == "Reshape" else None
    return (source, r) if source is not None and source.type.shape == (b, g, t, d) else (wide, 1)


def triangular_mask(mask: Value, hidden: float) -> bool:
    """True if a square mask of run-time size is 0 on and below the diagonal and at most `hidden` above it."""
    node = mask.producer
    if node is None:
        return False
    if node.op == "Reshape" and node.inputs[0] is not None:
        inner = node.inputs[0]
        return inner.type.shape[-2:] == mask.type.shape[-2:] and triangular_mask(inner, hidden)
    if node.op == "Trilu":
        filled = _filled(node.inputs[0])
        return filled is not None and filled <= hidden and _side(mask) == -1
    if node.op == "Where" and node.inputs[0] is not None:
        numbers = scalar(node.inputs[1]), scalar(node.inputs[2])
        seen, rest = numbers if (side := _side(node.inputs[0])) > 0 else numbers[::-1]
        return side != 0 and seen == 0.0 and rest is not None and rest <= hidden
    return False


def _filled(v: Value | None) -> float | None:
    """The one number that fills a tensor."""
    while v is not None and v.const is None and v.producer is not None and v.producer.op in ("Expand", "Reshape"):
        v = v.producer.inputs[0]
    if v is None or v.const is None or v.const.size == 0 or v.const.dtype.kind not in "fbiu":
        return None
    first = v.const.reshape(-1)[0]
    return float(first) if bool(np.all(v.const == first)) else None


def _side(v: Value) -> int:
    """1 where the last two axes are true (or not 0) exactly on and below the diagonal, -1 exactly above it, else 0."""
    node = v.producer
    if node is None or not node.inputs or node.inputs[0] is None:
        return 0
    x = node.inputs[0]
    if node.op == "Trilu":
        if not _filled(x):
            return 0
        return {(0, 0): 1, (1, 1): -1}.get((int(str(node.attrs["upper"])), int(str(node.attrs["k"]))), 0)
    if node.op == "Reshape":
        return _side(x) if x.type.shape[-2:] == v.type.shape[-2:] else 0
    if node.op == "Cast":
        return _side(x)
    if node.op == "Not":
        return -_side(x)
    if node.op == "Equal" and _filled(node.inputs[1]) == 0.0:
        return -_side(x)
    return 0
