"""Statistics of a tensor's channels (its last axis): sums over all other axes, which merge exactly by addition."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Channels:
    """Per channel, float64: sum, sum of squares, least and greatest of `count` values each."""

    count: int
    total: np.ndarray
    squares: np.ndarray
    low: np.ndarray
    high: np.ndarray

    @staticmethod
    def of(x: np.ndarray) -> Channels:
        """Of one array, rank at least 1."""
        flat = x.reshape(-1, x.shape[-1]).astype(np.float64)
        nothing = np.zeros(flat.shape[1])
        low, high = (f(axis=0) if len(flat) else nothing for f in (flat.min, flat.max))
        return Channels(len(flat), flat.sum(axis=0), (flat**2).sum(axis=0), low, high)

    def merged(self, other: Channels) -> Channels:
        """Of both."""
        if not self.count or not other.count:
            return other if not self.count else self
        return Channels(
            self.count + other.count,
            self.total + other.total,
            self.squares + other.squares,
            np.minimum(self.low, other.low),
            np.maximum(self.high, other.high),
        )

    @property
    def mean(self) -> np.ndarray:
        return np.asarray(self.total / max(1, self.count))

    @property
    def mean_square(self) -> np.ndarray:
        return np.asarray(self.squares / max(1, self.count))

    @property
    def amax(self) -> np.ndarray:
        return np.maximum(np.abs(self.low), np.abs(self.high))


def by_input(node_op: str, w: np.ndarray, group: int) -> np.ndarray:
    """Weights as [window, group, channels of a group, results of a group], a view: those of a Conv are [spatial..,
    C/group, OC], of a MatMul [C, OC]."""
    window = int(np.prod(w.shape[:-2], dtype=np.int64)) if node_op == "Conv" else 1
    within, out = w.shape[-2:]
    return np.moveaxis(w.reshape(window, within, group, out // group), 2, 1)


def from_input(node_op: str, parts: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `by_input`."""
    return np.ascontiguousarray(np.moveaxis(parts, 1, 2)).reshape(shape)
