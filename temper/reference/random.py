"""References of random ops, on numpy's legacy generator: its streams are fixed for good, so that a seed means the same
numbers with every version of numpy. With a seed, every run draws the same numbers; without one, every run others."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from temper.reference.formats import float32_to_bfloat16
from temper.reference.numeric import Arrays, Attrs, ReferenceFn, present


def _generator(attrs: Attrs) -> np.random.RandomState:
    """ONNX states the seed as a float: a whole one is taken as it is, of another one its bits."""
    seed = attrs.get("seed")
    if seed is None:
        return np.random.RandomState()
    whole = math.isfinite(seed) and seed == int(seed) and 0 <= seed < 1 << 32
    return np.random.RandomState(int(seed) if whole else int(np.float32(seed).view(np.uint32)))


def _as(values: np.ndarray, dtype: str) -> np.ndarray:
    return float32_to_bfloat16(values.astype(np.float32)) if dtype == "bfloat16" else values.astype(dtype)


def _uniform(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    drawn = _generator(attrs).uniform(attrs["low"], attrs["high"], tuple(attrs["shape"]))
    return [_as(np.asarray(drawn), attrs["to"])]


def _normal(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    drawn = _generator(attrs).normal(attrs["mean"], attrs["scale"], tuple(attrs["shape"]))
    return [_as(np.asarray(drawn), attrs["to"])]


def _multinomial(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    """Classes drawn with replacement from unnormalised log-probabilities [N, C], by inversion."""
    (x,) = present(arrays)
    logits = x.astype(np.float64)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    edges = np.cumsum(weights, axis=1)
    drawn = _generator(attrs).uniform(0.0, 1.0, (len(x), attrs["sample_size"])) * edges[:, -1:]
    found = [np.searchsorted(e, d, side="right") for e, d in zip(edges, drawn, strict=True)]
    out = np.array(found, np.int64).reshape(len(x), attrs["sample_size"])
    return [np.minimum(out, max(x.shape[1] - 1, 0)).astype(attrs["to"])]


REFERENCES: Mapping[str, ReferenceFn] = MappingProxyType(
    {"RandomUniform": _uniform, "RandomNormal": _normal, "Multinomial": _multinomial}
)
