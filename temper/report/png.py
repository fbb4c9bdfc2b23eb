"""A small picture of a sample, as a PNG data URI that needs no other file."""

from __future__ import annotations

import base64
import struct
import zlib

import numpy as np

#: Longest side of a picture, in pixels.
SIDE = 96


def picture(sample: np.ndarray) -> str:
    """The data URI of a sample [H, W], [C, H, W] or [H, W, C] with 1 or 3 channels, and any axes of size 1 before;
    its own least value becomes black and its greatest white. "" where it is not a picture."""
    pixels = _pixels(np.asarray(sample))
    if pixels is None:
        return ""
    step = -(-max(pixels.shape[:2]) // SIDE)
    pixels = pixels[: len(pixels) // step * step, : pixels.shape[1] // step * step].astype(np.float64)
    h, w, c = pixels.shape
    pixels = pixels.reshape(h // step, step, w // step, step, c).mean(axis=(1, 3))
    low, high = pixels.min(), pixels.max()
    grey = np.rint((pixels - low) * (255 / (high - low) if high > low else 0)).astype(np.uint8)
    return "data:image/png;base64," + base64.b64encode(_png(grey)).decode()


def _pixels(sample: np.ndarray) -> np.ndarray | None:
    """[H, W, C], or None."""
    while sample.ndim > 3 and sample.shape[0] == 1:
        sample = sample[0]
    if sample.ndim == 2:
        sample = sample[:, :, None]
    if sample.ndim != 3 or sample.dtype.kind not in "fiu" or not np.isfinite(sample).all():
        return None
    if sample.shape[2] not in (1, 3) and sample.shape[0] in (1, 3):
        sample = sample.transpose(1, 2, 0)
    h, w, c = sample.shape
    plausible = c in (1, 3) and min(h, w) >= 8 and max(h, w) <= 32 * min(h, w)
    return sample if plausible else None


def _png(pixels: np.ndarray) -> bytes:
    """Portable Network Graphics (ISO/IEC 15948) of uint8 [H, W, 1 or 3], rows unfiltered."""
    h, w, c = pixels.shape
    head = struct.pack(">IIBBBBB", w, h, 8, 2 if c == 3 else 0, 0, 0, 0)
    rows = np.concatenate([np.zeros((h, 1), np.uint8), pixels.reshape(h, w * c)], axis=1)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(rows.tobytes(), 9)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
