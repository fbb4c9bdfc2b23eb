"""How far outputs are from the float engine's, for comparing two ways to quantize on few samples.

Not how many answers change (that is `divergence`), which a few doubtful samples decide, but the energy of the error
where answers are compared: of log-probabilities up to what all classes share, of log-odds, of plain values. Two recipes
whose energies differ by a few percent can be told apart on a dozen samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from temper.ir.graph import Graph
from temper.precision.output_kinds import Head, heads, logarithms

#: Odds beyond which a yes or no is certain.
_CERTAIN = 1e-6


class Distance:
    """Mean over a model's heads of the energy of the error, each as a share of the energy of what the outputs say."""

    def __init__(self, graph: Graph, outputs: Sequence[Sequence[np.ndarray]]) -> None:
        """outputs: the float engine's, of some batches, which give the scale."""
        self._heads = [
            (h, power)
            for h in heads(graph)
            if (power := float(np.mean([_power(h, batch) for batch in outputs] or [0.0]))) > 0
        ]

    def __call__(self, want: Sequence[np.ndarray], got: Sequence[np.ndarray]) -> float:
        """Of one batch; infinite if values are not finite where they should be."""
        total = 0.0
        for h, power in self._heads:
            a, b = _said(h, want), _said(h, got)
            if a.shape != b.shape or not np.array_equal(np.isfinite(a), np.isfinite(b)):
                return math.inf
            error = (b - a)[np.isfinite(a)]
            total += float((error**2).mean()) / power if error.size else 0.0
        return total / max(1, len(self._heads))


def _said(head: Head, outputs: Sequence[np.ndarray]) -> np.ndarray:
    """What an output says, in the units that errors are compared in; float64."""
    x = head.of(outputs[head.output])
    if head.kind == "classes":
        logs = logarithms(np.moveaxis(x, head.classes, -1))
        return np.asarray(logs - logs.mean(axis=-1, keepdims=True))
    x = x.astype(np.float64)
    if head.kind == "yes or no":
        p = np.clip(x, _CERTAIN, 1 - _CERTAIN)
        return np.asarray(np.log(p / (1 - p)))
    return x


def _power(head: Head, outputs: Sequence[np.ndarray]) -> float:
    x = _said(head, outputs)
    x = x[np.isfinite(x)]
    return float((x**2).mean()) if x.size else 0.0
