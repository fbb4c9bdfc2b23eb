"""Which part of a large workload's result the reference computes for verification: some indices of the first axis.

Applies where every index of the result is a function of the same index of the inputs that vary along that axis. A GPU
is tuned at sizes for which numpy would take minutes; a kernel that is right at both ends of the axis and at some
indices between is right, since the same code computes all indices.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from temper.ir.dims import evaluate
from temper.tactics.base import Workload

Arrays = Sequence["np.ndarray | None"]

#: Ops whose result's first axis is that of their first input, with the inputs that have this axis too. Others of their
#: inputs are read by every index.
_ALONG: Mapping[str, frozenset[int]] = {
    **dict.fromkeys(("Conv", "ConvInt8", "ConvBfloat16", "ConvTranspose", "SqueezeExcite", "Resize"), frozenset({0})),
    "Chain": frozenset({0}),
    **dict.fromkeys(("MaxPool", "AveragePool", "LpPool", "LayerNormalization", "RMSNormalization"), frozenset({0})),
    **dict.fromkeys(("Softmax", "LogSoftmax", "ReduceMax", "ReduceMin", "ReduceMean", "ReduceSum"), frozenset({0})),
    **dict.fromkeys(("MatMul", "MatMulInt8", "MatMulBfloat16"), frozenset({0, 1})),
    **dict.fromkeys(("Attention", "AttentionInt8"), frozenset({0, 1, 2, 3})),
    "Transpose": frozenset({0}),
    "Concat": frozenset(range(64)),
    "Pointwise": frozenset(),
}

#: Fewest indices that are looked at.
_LEAST = 3


def picked_rows(w: Workload, inputs: Arrays, env: Mapping[str, int], terms: int, most: float) -> np.ndarray | None:
    """Sorted indices of the first axis for about `most` multiplications; None for all of them. terms: how many one
    element of the result takes."""
    out = tuple(evaluate(d, env) for d in w.outputs[0].type.shape)
    if len(out) < 2 or w.op not in _ALONG:
        return None
    if any(evaluate(s.type.shape[0], env) != out[0] if s.type.rank else True for s in w.outputs):
        return None
    if w.op.startswith("Attention"):
        assert inputs[1] is not None
        terms = 2 * max(inputs[1].shape[1:])
    share = most / max(1.0, float(np.prod(out, dtype=np.float64)) * terms)
    if share >= 1 or (count := max(_LEAST, int(out[0] * share))) >= out[0] or _mixes(w, inputs, out):
        return None
    # both ends, where tiles are cut, and indices between that no power of two divides
    between = np.linspace(0, out[0] - 1, count).astype(np.int64)
    between[1:-1] |= 1
    return np.unique(np.minimum(between, out[0] - 1))


def _mixes(w: Workload, inputs: Arrays, out: tuple[int, ...]) -> bool:
    """The first axis is not that of the data, or the op works along it."""
    if w.op == "Pointwise":
        return False
    x = inputs[0]
    if x is None or x.shape[:1] != out[:1]:
        return True
    if w.op == "Transpose":
        perm = w.attr("perm")
        return not isinstance(perm, tuple) or perm[0] != 0
    if w.op == "Concat":
        return len(inputs) > len(_ALONG["Concat"]) or int(str(w.attr("axis"))) % x.ndim == 0
    if w.op.startswith("Reduce"):
        axes = w.attr("axes")
        return not isinstance(axes, tuple) or any(int(a) % x.ndim == 0 for a in axes)
    if w.op in ("Softmax", "LogSoftmax", "LayerNormalization", "RMSNormalization"):
        return int(str(w.attr("axis", -1))) % x.ndim == 0
    if w.op.startswith("MatMul"):
        y = inputs[1]
        return y is None or (x.ndim == 2 and bool(w.attr("transA", 0))) or x.ndim != len(out)
    return w.op == "Resize" and x.ndim != len(out)


def cut_inputs(w: Workload, inputs: Arrays, rows: np.ndarray, size: int) -> tuple[np.ndarray | None, ...]:
    """What the reference reads for these indices. size: of the first axis."""

    def varies(i: int, x: np.ndarray) -> bool:
        if x.shape[:1] != (size,):
            return False
        if w.op == "Chain" and i and not w.constant[i]:  # a tensor that a program before the last reads everywhere
            return x.ndim == len(w.outputs[0].type.shape) > 2
        if i not in _ALONG[w.op]:
            return False
        # the second factor of a product of matrices is of the terms' axis first, that of a batch of them is not
        return i == 0 or not w.op.startswith("MatMul") or x.ndim == len(w.outputs[0].type.shape) > 2

    return tuple(x[rows] if x is not None and varies(i, x) else x for i, x in enumerate(inputs))


def cut_operands(operands: Arrays, rows: np.ndarray, size: int, rank: int) -> tuple[np.ndarray | None, ...]:
    """Operands of the epilogue, of full rank, for these indices."""
    return tuple(x[rows] if x is not None and x.ndim == rank and x.shape[0] == size > 1 else x for x in operands)
