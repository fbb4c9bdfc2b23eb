"""The reference of attention: scores and softmax in float64, rounded once."""

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
            seen = np.arange(k.shape[2]) <= np.arange(q.shape[2])[:, None] + (k.shape[2] - q.shape[2])
            scores = np.where(seen, scores, -np.inf)
        top = scores.max(axis=-1, keepdims=True)
        weights = np.exp(scores - np.where(np.isneginf(top), 0.0, top))
        total = weights.sum(axis=-1, keepdims=True)
        weights = weights / total
        if attrs.get("safe", 0):
            weights = np.where(total == 0.0, 0.0, weights)
        y = weights @ v
    if layout[3] == "r":
        y = y.transpose(0, 2, 1, 3).reshape(y.shape[0], y.shape[2], -1)
    return [np.ascontiguousarray(y).astype(q0.dtype)]


REFERENCES: Mapping[str, ReferenceFn] = MappingProxyType({"Attention": _attention})
