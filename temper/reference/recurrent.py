"""The reference of recurrent layers whose input products are known: states in float64, rounded once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from temper.reference.numeric import Arrays, Attrs, ReferenceFn, widen

Function = Callable[[np.ndarray], np.ndarray]


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.asarray(0.5 + 0.5 * np.tanh(0.5 * x))


def activation(name: str, alpha: float, beta: float) -> Function:
    """An activation of ONNX's recurrent ops by name, with its parameters."""
    table: Mapping[str, Function] = {
        "Sigmoid": _sigmoid,
        "Tanh": np.tanh,
        "Relu": lambda x: np.maximum(x, 0.0),
        "Affine": lambda x: alpha * x + beta,
        "LeakyRelu": lambda x: np.where(x < 0, alpha * x, x),
        "ThresholdedRelu": lambda x: np.where(x > alpha, x, 0.0),
        "ScaledTanh": lambda x: alpha * np.tanh(beta * x),
        "HardSigmoid": lambda x: np.clip(alpha * x + beta, 0.0, 1.0),
        "Elu": lambda x: np.where(x < 0, alpha * np.expm1(np.minimum(x, 0.0)), x),
        "Softsign": lambda x: x / (1.0 + np.abs(x)),
        "Softplus": lambda x: np.logaddexp(x, 0.0),
    }
    return table[name]


class _Cell:
    """One direction: what turns the gates of a step and the states of some rows into their next states."""

    def __init__(self, arrays: Arrays, attrs: Attrs, d: int) -> None:
        def own(i: int) -> np.ndarray | None:
            return None if i >= len(arrays) or (a := arrays[i]) is None else np.asarray(widen(a)[d])

        r = own(1)
        assert r is not None
        self.hidden = r.shape[-1]
        self.r = r.T
        bias, peepholes = own(2), own(6)
        self.bias = np.zeros(self.hidden) if bias is None else bias
        self.p = np.zeros((3, self.hidden)) if peepholes is None else peepholes.reshape(3, self.hidden)
        self.cell, self.clip = attrs["cell"], attrs.get("clip", 0.0)
        self.reset_after, self.coupled = attrs.get("linear_before_reset", 0), attrs.get("input_forget", 0)
        names = attrs["activations"].split()
        count = {"lstm": 3, "gru": 2, "rnn": 1}[self.cell]
        parts = range(d * count, (d + 1) * count)
        self.functions = [activation(names[i], attrs["alpha"][i], attrs["beta"][i]) for i in parts]

    def _act(self, i: int, x: np.ndarray) -> np.ndarray:
        return self.functions[i](np.clip(x, -self.clip, self.clip) if self.clip else x)

    def step(self, x: np.ndarray, h: np.ndarray, c: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Next (h, c) [rows, H] from gates x [rows, G * H]."""
        n = self.hidden
        if self.cell == "rnn":
            return self._act(0, x + h @ self.r), c
        if self.cell == "gru":
            both = x[:, : 2 * n] + h @ self.r[:, : 2 * n]
            z, r = self._act(0, both[:, :n]), self._act(0, both[:, n:])
            inner = self.r[:, 2 * n :]
            more = r * (h @ inner + self.bias) if self.reset_after else (r * h) @ inner
            new = self._act(1, x[:, 2 * n :] + more)
            return (1.0 - z) * new + z * h, c
        i, o, f, g = np.split(x + h @ self.r, 4, axis=1)
        i = self._act(0, i + self.p[0] * c)
        f = 1.0 - i if self.coupled else self._act(0, f + self.p[2] * c)
        c = f * c + i * self._act(1, g)
        o = self._act(0, o + self.p[1] * c)
        return o * self.functions[2](c), c


def _recurrence(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    """Y [T, B, D * H] ([B, T, ..] with batch_first), the last h [D, B, H] and, of an LSTM, the last c [D, B, H]."""
    x0, r0 = arrays[:2]
    assert x0 is not None and r0 is not None
    gates = widen(x0).swapaxes(0, 1) if attrs.get("batch_first", 0) else widen(x0)
    steps, batch = gates.shape[:2]
    directions, hidden = r0.shape[0], r0.shape[-1]
    given = [arrays[i] if i < len(arrays) else None for i in (3, 4, 5)]
    lengths = np.full(batch, steps) if given[0] is None else np.clip(given[0], 0, steps)
    first = [np.zeros((directions, batch, hidden)) if s is None else widen(s) for s in given[1:]]
    y, last = np.zeros((steps, batch, directions, hidden)), [np.zeros_like(first[0]) for _ in range(2)]
    rows, backward = np.arange(batch), {"forward": (0,), "reverse": (1,), "bidirectional": (0, 1)}[attrs["direction"]]
    with np.errstate(all="ignore"):
        for d in range(directions):
            cell, mine = _Cell(arrays, attrs, d), np.split(gates, directions, axis=2)[d]
            h, c = first[0][d].copy(), first[1][d].copy()
            for s in range(steps):
                live = rows[s < lengths]
                at = lengths[live] - 1 - s if backward[d] else np.full(len(live), s)
                h[live], c[live] = cell.step(mine[at, live], h[live], c[live])
                y[at, live, d] = h[live]
            last[0][d], last[1][d] = h, c
    flat = y.reshape(steps, batch, directions * hidden)
    flat = flat.swapaxes(0, 1) if attrs.get("batch_first", 0) else flat
    results = [flat, *last] if attrs["cell"] == "lstm" else [flat, last[0]]
    return [np.ascontiguousarray(a).astype(x0.dtype) for a in results]


REFERENCES: Mapping[str, ReferenceFn] = MappingProxyType({"Recurrence": _recurrence})
