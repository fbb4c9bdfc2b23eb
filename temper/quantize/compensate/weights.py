"""Weight scales of least error: a channel's largest weights may be clipped where that serves the others.

Per output channel, of some clip ratios r the one with the least sum_i E[x_i^2] (Q_r(w_i) - w_i)^2, which is the
expected squared error of the result for operands without correlation.
"""

from __future__ import annotations

import numpy as np

from temper.quantize.codes import weight_scales
from temper.quantize.compensate.channels import by_input

#: Share of max |w| that the codes reach.
RATIOS = tuple(r / 50 for r in range(50, 24, -1))


def least_error_scales(op: str, w: np.ndarray, group: int, mean_square: np.ndarray) -> np.ndarray:
    """float32 [OC]. mean_square: of the operand's channels."""
    parts = by_input(op, w, group).astype(np.float64)  # [window, group, within, results]
    importance = mean_square.reshape(1, group, -1, 1)
    full = weight_scales(w)
    best = np.full(w.shape[-1], np.inf)
    out = full.copy()
    for ratio in RATIOS:
        scale = (full * np.float32(ratio)).astype(np.float32)
        step = scale.astype(np.float64).reshape(group, -1)[None, :, None, :]
        error = np.clip(np.rint(parts / step), -127, 127) * step - parts
        loss = (importance * error**2).sum(axis=(0, 2)).reshape(-1)
        better = (loss < best) & (scale >= np.finfo(np.float32).tiny)
        best, out = np.where(better, loss, best), np.where(better, scale, out)
    return out.astype(np.float32)


def weights_share(op: str, w: np.ndarray, group: int, mean_square: np.ndarray, step: float) -> float:
    """Part of a product's expected squared rounding error that its weights make. step: scale of the operand's codes."""
    parts = by_input(op, w, group).astype(np.float64)
    steps = weight_scales(w).astype(np.float64).reshape(group, -1)
    power = mean_square.reshape(group, -1).sum(axis=1) * parts.shape[0]
    own, other = float((steps**2 * power[:, None]).sum()), step**2 * float((parts**2).sum())
    return own / (own + other) if own + other > 0 else 0.0
