"""Sequential bias correction: what quantization adds to the mean of a product's results is taken off its bias.

With x, y the operand and result of a product in float, x', y' in the quantized network, and W the weights,

    E[y'] - E[y] = (what this product's own codes add) + W (E[x'] - E[x]),

where the last term is what earlier layers added, summed over the window, and goes away as those are corrected. So the
shift of every product is known after one pass of each network: minus the first term. Repeating it with the corrected
network is Newton's method for the sequence of equations E[y'] = E[y], each of which depends on earlier ones only. What
nonlinear functions between layers do to the means stays uncorrected: taken off as well, in all layers at once, it would
be taken off once for every layer behind. (Nagel et al., arXiv 1906.04721, section 4.2, measures the layers one after
another instead.)
"""

from __future__ import annotations

import numpy as np

from temper.quantize.compensate.channels import by_input


def passed_on(op: str, w: np.ndarray, group: int, change: np.ndarray) -> np.ndarray:
    """What a change of the operand's channel means does to the result's, padding left aside; float64 [OC]."""
    parts = by_input(op, w, group).sum(axis=0, dtype=np.float64)  # [group, within, results]
    return np.asarray(np.einsum("gi,gio->go", change.reshape(group, -1), parts).reshape(-1))


def correction(
    op: str,
    w: np.ndarray,
    group: int,
    x: tuple[np.ndarray, np.ndarray],
    y: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    """The shift of a product's result, float64 [OC]. x, y: channel means of operand and result, (in float, quantized);
    the operand's as it is before codes are made of it."""
    return np.asarray(passed_on(op, w, group, x[1] - x[0]) - (y[1] - y[0]))
