"""The constants of discrete Fourier transforms, for kernels of every device."""

from __future__ import annotations

import numpy as np


def roots_of_unity(n: int) -> np.ndarray:
    """exp(-2 pi i t / n) for t = 0 .. n - 1 as float64 pairs (real, imaginary), [2 n].

    Angles are reduced to an eighth of a turn before sine and cosine, so that symmetric roots are exactly symmetric.
    """
    t = np.arange(n)
    quarters = (8 * t + n) // (2 * n)  # the nearest multiple of a quarter turn
    rest = np.pi / 2 * (4 * t - quarters * n) / n
    quarter = np.array([1, -1j, -1, 1j])[quarters % 4]
    table = quarter * (np.cos(rest) - 1j * np.sin(rest))
    return np.stack([table.real, table.imag], -1).reshape(-1)
