"""References of blocks that passes recover from primitive ops: float64 inside and rounded once."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from temper.reference import elementwise
from temper.reference.contraction import from_channels_last, to_channels_last
from temper.reference.numeric import Arrays, Attrs, ReferenceFn, widen


def _apply(op: str, x: np.ndarray, **attrs: float) -> np.ndarray:
    """A unary elementwise op, or the identity."""
    return x if op == "Identity" else elementwise.REFERENCES[op]([x], attrs)[0]


def _squeeze_excite(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    """gate(activation(mean(x) @ w1 + b1) @ w2 + b2), the mean over the spatial axes; times x where they are applied."""
    x, w1, b1, w2, b2 = [*arrays, None][:5]
    assert x is not None and w1 is not None and w2 is not None
    data = widen(to_channels_last(x, attrs))
    gate = attrs["gate"]
    more = {"alpha": attrs["gate_alpha"], "beta": attrs["gate_beta"]} if gate == "HardSigmoid" else {}
    with np.errstate(all="ignore"):
        mean = data.mean(axis=tuple(range(1, data.ndim - 1)))
        hidden = _apply(attrs["activation"], mean @ widen(w1) + (0.0 if b1 is None else widen(b1)))
        y = _apply(gate, hidden @ widen(w2) + (0.0 if b2 is None else widen(b2)), **more)
    full = y.reshape(y.shape[0], *(1,) * (x.ndim - 2), y.shape[1])
    if attrs.get("apply"):
        full = full * data
    return [from_channels_last(full, attrs).astype(x.dtype)]


REFERENCES: Mapping[str, ReferenceFn] = MappingProxyType({"SqueezeExcite": _squeeze_excite})
