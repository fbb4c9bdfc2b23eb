"""Error bounds of a recurrent layer in float32: rounding moves gates, and gates move states."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from temper.reference import REFERENCES

_EPS = float(np.finfo(np.float32).eps)


def recurrent_bounds(
    inputs: Sequence[np.ndarray | None], attrs: Mapping[str, Any], want: Sequence[np.ndarray]
) -> tuple[np.ndarray, ...]:
    """Bounds of the results' elements, the same along their last axis.

    A gate sums H products: it is off by gamma = eps (2 sqrt(H) + 16) of its sum of magnitudes. The reference runs with
    its gates moved by as much in random directions; what moves in a row of results, four times over, is the bound.
    """
    gates, r = inputs[0], inputs[1]
    assert gates is not None and r is not None
    wide = [None if a is None else a if a.dtype.kind == "i" else a.astype(np.float64) for a in inputs]
    state = max(1.0, *(float(np.abs(a).max(initial=0.0)) for a in (*want, *wide[4:]) if a is not None))
    size = float(np.abs(gates).max(initial=1.0)) + float(np.abs(r).sum(axis=-1).max(initial=0.0)) * min(state, 1e6)
    delta = _EPS * (2 * np.sqrt(r.shape[-1]) + 16) * size
    middle = REFERENCES["Recurrence"](wide, attrs)
    rng, spread = np.random.default_rng(0), [np.zeros(y.shape) for y in middle]
    for _ in range(3):
        moved = [gates + delta * rng.choice((-1.0, 1.0), gates.shape), *wide[1:]]
        for s, a, b in zip(spread, REFERENCES["Recurrence"](moved, attrs), middle, strict=True):
            np.maximum(s, np.abs(np.nan_to_num(a - b)), out=s)
    rows = (s.max(axis=-1, keepdims=True, initial=0.0) for s in spread)
    return tuple(4 * s + 16 * _EPS * (np.abs(y) + 1e-3) for s, y in zip(rows, middle, strict=True))
