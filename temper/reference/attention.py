"""The references of attention: of floats, scores and softmax in float64, rounded once; of codes, exact as written."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from temper.reference.numeric import Arrays, Attrs, ReferenceFn, widen


def _by_heads(x: np.ndarray, heads: int, letter: str) -> np.ndarray:
    """[B, H, S, D] of rows [B, S, H*D] (letter "r"), or of itself ("h"), in float64."""
    if letter == "h":
        return widen(x)
    return widen(x).reshape(*x.shape[:2], heads, x.shape[2] // heads).transpose(0, 2, 1, 3)


def _seen(queries: int, keys: int) -> np.ndarray:
    """Which keys causality shows each query: bool [S, T]."""
    seen: np.ndarray = np.arange(keys) <= np.arange(queries)[:, None] + (keys - queries)
    return seen


def _laid_out(y: np.ndarray, letter: str) -> np.ndarray:
    """[B, H, S, E] as the result's layout has it."""
    return y if letter == "h" else y.transpose(0, 2, 1, 3).reshape(y.shape[0], y.shape[2], -1)


def _attention(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    q0, k0, v0 = arrays[:3]
    mask = arrays[3] if len(arrays) > 3 else None
    assert q0 is not None and k0 is not None and v0 is not None
    heads, groups, layout = attrs["heads"], attrs["kv_heads"], attrs.get("layout", "rrrr")
    q, k, v = _by_heads(q0, heads, layout[0]), _by_heads(k0, groups, layout[1]), _by_heads(v0, groups, layout[2])
    k, v = np.repeat(k, heads // groups, axis=1), np.repeat(v, heads // groups, axis=1)
    with np.errstate(all="ignore"):
        scores = q @ k.swapaxes(-1, -2) * attrs["scale"]
        if mask is not None:
            scores = scores + widen(mask)
        if attrs.get("causal", 0):
            scores = np.where(_seen(q.shape[2], k.shape[2]), scores, -np.inf)
        top = scores.max(axis=-1, keepdims=True)
        weights = np.exp(scores - np.where(np.isneginf(top), 0.0, top))
        total = weights.sum(axis=-1, keepdims=True)
        weights = weights / total
        if attrs.get("safe", 0):
            weights = np.where(total == 0.0, 0.0, weights)
        y = weights @ v
    return [np.ascontiguousarray(_laid_out(y, layout[3])).astype(q0.dtype)]


#: log2(e); 255 * 2^f for |f| <= 1/2 is 255 + f (P1 + f (P2 + f P3)) within 1.1e-4 of itself.
_NUMBERS = ("0x1.715476p+0", "0x1.619302p+7", "0x1.ee1b8ap+5", "0x1.c0de1cp+3")
LOG2E, P1, P2, P3 = (np.float32(float.fromhex(x)) for x in _NUMBERS)


def weight_codes(x: np.ndarray) -> np.ndarray:
    """255 e^x for x <= 0, rounded to a code: the arithmetic is float32, one rounding an operation."""
    t = np.maximum(np.float32(-16), x * LOG2E)
    n = np.rint(t)
    f = t - n
    p = np.float32(255) + f * (P1 + f * (P2 + f * P3))
    return np.asarray(np.rint(np.ldexp(p, n.astype(np.int32))))


def _attention_int8(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    q0, k0, v0, mask, scale = arrays
    assert q0 is not None and k0 is not None and v0 is not None and scale is not None
    heads, groups, layout = attrs["heads"], attrs["kv_heads"], attrs.get("layout", "rrrr")
    wide = (x.astype(np.float64) for x in (q0, k0, v0))
    q, k, v = (_by_heads(x, n, c) for x, n, c in zip(wide, (heads, groups, groups), layout, strict=False))
    k, v = np.repeat(k, heads // groups, axis=1), np.repeat(v, heads // groups, axis=1)
    sums = (q - attrs.get("zero_point", 0)) @ k.swapaxes(-1, -2)
    with np.errstate(all="ignore"):
        scores = sums.astype(np.float32) * scale
        if mask is not None:
            scores = scores + mask
        if attrs.get("causal", 0):
            scores = np.where(_seen(q.shape[2], k.shape[2]), scores, np.float32(-np.inf))
        top = scores.max(axis=-1, keepdims=True)
        codes = weight_codes(scores - np.where(np.isneginf(top), np.float32(0), top)).astype(np.float64)
        total = codes.sum(axis=-1, keepdims=True)
        inverse = np.float32(1) / total.astype(np.float32)
        if attrs.get("safe", 0):
            inverse = np.where(total == 0, np.float32(0), inverse)
        y = (codes @ v).astype(np.float32) * inverse
    return [np.ascontiguousarray(_laid_out(y, layout[3]))]


REFERENCES: Mapping[str, ReferenceFn] = MappingProxyType(
    {"Attention": _attention, "AttentionInt8": _attention_int8}
)
