"""References of transforms: discrete Fourier transforms and determinants, in float64 and rounded once."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from temper.reference.numeric import Arrays, Attrs, ReferenceFn, present


def _dft(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    """ONNX DFT along `axis` of [.., 1] (real) or [.., 2] (real and imaginary parts) data.

    The signal is cut or filled with zeros to `length`. onesided: forward, the first length // 2 + 1 results; inverse,
    the data are those and the result is real.
    """
    (x,) = present(arrays)
    axis, length = attrs["axis"] % x.ndim, attrs["length"]
    wide = x.astype(np.float64)
    signal = wide[..., 0] if x.shape[-1] == 1 else wide[..., 0] + 1j * wide[..., 1]
    if attrs.get("inverse", 0) and attrs.get("onesided", 0):
        return [np.fft.irfft(signal, length, axis)[..., None].astype(x.dtype)]
    y = (np.fft.ifft if attrs.get("inverse", 0) else np.fft.fft)(signal, length, axis)
    if attrs.get("onesided", 0):
        y = np.take(y, np.arange(length // 2 + 1), axis=axis)
    return [np.stack([y.real, y.imag], -1).astype(x.dtype)]


def _det(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    (x,) = present(arrays)
    with np.errstate(all="ignore"):
        return [np.asarray(np.linalg.det(x.astype(np.float64))).astype(x.dtype)]


REFERENCES: Mapping[str, ReferenceFn] = MappingProxyType({"DFT": _dft, "Det": _det})
