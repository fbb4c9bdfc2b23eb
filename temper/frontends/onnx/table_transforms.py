"""Fourier transforms, filter banks and determinants of ONNX."""

from __future__ import annotations

import numpy as np

from temper.errors import ShapeError
from temper.frontends.onnx.context import Context, Refusal, Row, same
from temper.frontends.onnx.tensors import dtype_of
from temper.ir.dims import Dim
from temper.ir.graph import Value

#: elements of a table of frame positions
_MOST_FRAMES = 1 << 24


def _transform(c: Context, axis: int) -> Value:
    x = c.input(0)
    if not -x.type.rank <= axis < x.type.rank:
        raise ShapeError(f"{c}: axis {axis} is out of range for rank {x.type.rank}")
    axis %= x.type.rank
    half, inverse = c.attr("onesided", 0), c.attr("inverse", 0)
    if c.has(1):
        length = int(c.scalar(1, "dft_length"))
    else:
        size = x.type.shape[axis]
        if not isinstance(size, int):
            raise Refusal(f"the length of the transform is the symbolic size {size}; fix it with dims=")
        length = 2 * (size - 1) if half and inverse else size
    return c.emit("DFT", x, axis=axis, length=length, inverse=inverse, onesided=half)


def _dft_17(c: Context) -> Value:
    return _transform(c, c.attr("axis", 1))


def _dft_20(c: Context) -> Value:
    return _transform(c, int(c.scalar(2, "axis")) if c.has(2) else -2)


def _stft(c: Context) -> Value:
    """The transforms of overlapping frames of a signal [N, samples, 1 or 2], each times a window."""
    x, step = c.input(0), int(c.scalar(1, "frame_step"))
    if x.type.rank == 2:
        x = c.reshape(x, (*x.type.shape, 1))
    window = c.optional(2)
    given = int(c.scalar(3, "frame_length")) if c.has(3) else None
    width = given if given is not None else window.type.shape[0] if window is not None else x.type.shape[1]
    samples = x.type.shape[1]
    if isinstance(width, Dim) or isinstance(samples, Dim):
        raise Refusal(f"frames of {width} samples out of {samples} are not known; fix the size with dims=")
    if step < 1 or not 0 < width <= samples:
        raise ShapeError(f"{c}: there are no frames of {width} samples every {step} in {samples}")
    count = 1 + (samples - width) // step
    if count * width > _MOST_FRAMES:
        raise Refusal(f"{count} frames of {width} samples are too many")
    at = np.arange(count)[:, None] * step + np.arange(width)
    frames = c.emit("Gather", x, c.constant(at), axis=1)
    if window is not None:
        frames = c.emit("Mul", frames, c.reshape(window, (width, 1)))
    return c.emit("DFT", frames, axis=2, length=width, onesided=c.attr("onesided", 1))


def _mel_weight_matrix(c: Context) -> Value:
    """Triangular filters, evenly spaced on the mel scale 2595 log10(1 + f / 700), over the bins of a transform."""
    names = ("num_mel_bins", "dft_length", "sample_rate", "lower_edge_hertz", "upper_edge_hertz")
    bins, length, rate, lower, upper = (c.scalar(i, name) for i, name in enumerate(names))
    low, high = (2595 * np.log10(1 + edge / 700) for edge in (lower, upper))
    mel = low + np.arange(bins + 2) * (high - low) / (bins + 2)
    edges = ((length + 1) * (700 * (10 ** (mel / 2595) - 1)) // rate).astype(np.int64)
    out = np.zeros((int(length) // 2 + 1, int(bins)))
    if edges.min() < 0 or edges.max() >= len(out):
        raise ShapeError(f"{c}: filters from {lower} to {upper} Hz leave the {len(out)} bins of a transform")
    for i, (left, centre, right) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        out[centre, i] = 1
        out[left:centre, i] = (np.arange(left, centre) - left) / max(centre - left, 1)
        out[centre:right, i] = (right - np.arange(centre, right)) / max(right - centre, 1)
    return c.constant(out.astype(dtype_of(c.attr("output_datatype", 1), f"{c}: attribute 'output_datatype'")))


ROWS: tuple[Row, ...] = (
    Row("DFT", _dft_17),
    Row("DFT", _dft_20, 20),
    Row("STFT", _stft),
    Row("MelWeightMatrix", _mel_weight_matrix),
    Row("Det", same("Det")),
)
