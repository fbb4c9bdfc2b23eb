"""Attention over several blocks of keys against float64: masks that hide whole blocks, causality, blind rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from temper.ir.dims import Dim
from temper.tactics.base import Workload
from temper.tactics.cpu.attention import Attention
from temper.tactics.epilogue import Epilogue
from tests.tactics.kernels import ISAS, Runner, f32

T = Dim.symbol("T")
B, H, D, E = 2, 3, 20, 24


@dataclass(frozen=True)
class Sizes:
    queries: int
    keys: int
    scale: float = 0.25


def workload(s: Sizes, isa: str, *, mask: bool, causal: bool, safe: bool, keys: int | Dim | None = None) -> Workload:
    t = s.keys if keys is None else keys
    shapes = [(B, H, s.queries, D), (B, H, t, D), (B, H, t, E)]
    slots = [f32(*x) for x in shapes] + ([f32(B, 1, 1, t)] if mask else [])
    attrs = (("causal", int(causal)), ("heads", H), ("kv_heads", H), ("layout", "hhhh"), ("safe", int(safe)))
    return Workload(
        "Attention",
        tuple(sorted((*attrs, ("scale", s.scale)))),
        tuple(slots),
        (False,) * len(slots),
        (f32(B, H, s.queries, E),),
        Epilogue.identity("float32", 4),
        isa,
    )


def wanted(inputs: list[np.ndarray], s: Sizes, *, causal: bool, safe: bool) -> np.ndarray:
    q, k, v, *mask = (x.astype(np.float64) for x in inputs)
    scores = q @ np.swapaxes(k, -1, -2) * s.scale
    if mask:
        scores = scores + mask[0]
    if causal:
        shift = s.keys - s.queries
        scores = np.where(np.arange(s.keys) <= np.arange(s.queries)[:, None] + shift, scores, -np.inf)
    with np.errstate(invalid="ignore"):
        top = scores.max(-1, keepdims=True)
        e = np.exp(scores - np.where(np.isinf(top), 0, top))
        p = e / e.sum(-1, keepdims=True)
    return (np.nan_to_num(p) if safe else p) @ v


def data(s: Sizes, mask: np.ndarray | None, spread: float = 1.0) -> list[np.ndarray]:
    rng = np.random.default_rng(5)
    shapes = ((B, H, s.queries, D), (B, H, s.keys, D), (B, H, s.keys, E))
    out = [(rng.standard_normal(x) * spread).astype(np.float32) for x in shapes]
    return [*out, *([] if mask is None else [mask])]


def mask_of(kind: str, keys: int) -> np.ndarray | None:
    """Additive masks [B, 1, 1, T]: the second image hides a part of its keys."""
    if kind == "none":
        return None
    out = np.zeros((B, 1, 1, keys), np.float32)
    hide = {"first": slice(0, 70), "last": slice(40, None), "low": slice(0, 90), "all": slice(None)}[kind]
    out[1, ..., hide] = -1e9 if kind == "low" else -np.inf
    return out


@pytest.mark.parametrize("causal", [False, True], ids=["", "causal"])
@pytest.mark.parametrize("kind", ["none", "first", "last", "low", "all"])
@pytest.mark.parametrize("isa", ISAS)
def test_key_blocks(isa: str, kind: str, causal: bool) -> None:
    s = Sizes(19, 117)
    mask = mask_of(kind, s.keys)
    inputs = data(s, mask)
    safe = kind == "all"
    want = wanted(inputs, s, causal=causal, safe=safe)
    w = workload(s, isa, mask=mask is not None, causal=causal, safe=safe)
    for kb, packv in ((32, 0), (64, 1), (128, 0)):
        got = Runner(Attention(), w, (("qb", 16), ("packv", packv), ("kb", kb))).same_for_all_splits(inputs)[0]
        assert np.abs(got - want).max() < 4e-6


def test_rows_without_keys_are_nan_unless_safe() -> None:
    s = Sizes(3, 50)
    inputs = data(s, mask_of("all", s.keys))
    got = Runner(Attention(), workload(s, "avx2", mask=True, causal=False, safe=False))(inputs)[0]
    assert np.isnan(got[1]).all() and np.isfinite(got[0]).all()


def test_large_scores_of_any_sign() -> None:
    """The maximum grows from block to block, and scores of -1000 do not vanish beside the zeros of padding."""
    s = Sizes(5, 100, 1.0)
    inputs = data(s, None, 0.1)
    inputs[0][...] = 1.0
    inputs[1][...] = (np.arange(100, dtype=np.float32)[:, None] - 5000) / D
    want = wanted(inputs, s, causal=False, safe=False)
    got = Runner(
        Attention(), workload(s, "avx512", mask=False, causal=False, safe=False), (("qb", 16), ("packv", 0), ("kb", 32))
    )
    assert np.abs(got(inputs)[0] - want).max() < 2e-4


def test_symbolic_keys() -> None:
    s = Sizes(4, 75)
    inputs = data(s, None)
    want = wanted(inputs, s, causal=True, safe=False)
    w = workload(s, "avx2", mask=False, causal=True, safe=False, keys=T)
    for params in Attention().candidates(w)[:2]:
        assert np.abs(Runner(Attention(), w, params)(inputs, env={"T": 75})[0] - want).max() < 4e-6
    p = (("qb", 32), ("packv", 1), ("kb", 32))
    assert np.abs(Runner(Attention(), w, p)(inputs, env={"T": 75})[0] - want).max() < 4e-6
