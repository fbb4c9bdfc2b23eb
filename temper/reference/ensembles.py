"""Reference of tree ensembles.

Operands: the data [N, F]; per node feature int32, mode uint8, threshold, true and false child int32 [n, 2] (a
negative child ~k is leaf k), missing bool (NaN goes to the true child), and the range of its set int32 [n, 2]; the
sets' members; per tree its root, int32 (negative: a leaf); per leaf the start of its entries, int32 [leaves + 1]; per
entry its target, int32, and weight.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from temper.reference.numeric import Arrays, Attrs, ReferenceFn, present

#: Codes of the comparisons a node can make, in the order of ONNX's TreeEnsemble.
MODES = ("LEQ", "LT", "GTE", "GT", "EQ", "NEQ", "MEMBER")


def _decide(value: np.ndarray, mode: np.ndarray, threshold: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        tests = (value <= threshold, value < threshold, value >= threshold, value > threshold, value == threshold,
                 value != threshold, np.zeros_like(value, bool))  # fmt: skip
    return np.choose(mode, tests)


def _ensemble(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    """Sum, mean, least or greatest of the leaves' weights that every row of the data reaches, per target; 0 where none
    has an entry for a target. Sums are float64, rounded once."""
    x, feature, mode, threshold, children, missing, sets, members, roots, starts, targets, weights = present(arrays)
    rows = np.arange(len(x))
    count = attrs["targets"]
    total = np.zeros((len(x), count), np.float64)
    extreme = {"MIN": np.inf, "MAX": -np.inf}.get(attrs["aggregate"])
    best = np.full((len(x), count), extreme if extreme is not None else 0.0)
    reached = np.zeros((len(x), count), bool)
    for root in roots:
        at = np.full(len(x), root, np.int64)
        for _ in range(len(feature) + 1):
            inner = at >= 0
            if not inner.any():
                break
            node = np.where(inner, at, 0)
            value = x[rows, feature[node]]
            yes = _decide(value, mode[node], threshold[node]) | (np.isnan(value) & missing[node])
            for i in np.flatnonzero(inner & (mode[node] == MODES.index("MEMBER"))):
                first, last = sets[node[i]]
                yes[i] = bool((members[first:last] == value[i]).any()) or bool(np.isnan(value[i]) and missing[node[i]])
            at = np.where(inner, np.where(yes, children[node, 0], children[node, 1]), at)
        else:
            raise ValueError("a tree's nodes form a circle")
        leaf = ~at
        for entry in range(int((starts[leaf + 1] - starts[leaf]).max(initial=0))):
            has = starts[leaf] + entry < starts[leaf + 1]
            where, which = rows[has], (starts[leaf] + entry)[has]
            weight = weights[which].astype(np.float64)
            np.add.at(total, (where, targets[which]), weight)
            reached[where, targets[which]] = True
            if extreme is not None:
                (np.minimum if extreme > 0 else np.maximum).at(best, (where, targets[which]), weight)
    if extreme is not None:
        total = np.where(reached, best, 0.0)
    elif attrs["aggregate"] == "AVERAGE":
        total = total / max(len(roots), 1)
    return [total.astype(weights.dtype)]


REFERENCES: Mapping[str, ReferenceFn] = MappingProxyType({"TreeEnsemble": _ensemble})
