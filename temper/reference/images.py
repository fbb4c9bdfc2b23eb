"""Reference of ImageDecoder. The package Pillow is imported when the first image is decoded: an engine without such a
step does not need it."""

from __future__ import annotations

from collections.abc import Mapping
from io import BytesIO
from types import MappingProxyType

import numpy as np

from temper.errors import InputError, UnsupportedError
from temper.reference.numeric import Arrays, Attrs, ReferenceFn, present


def _decode(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    """uint8 [H, W, 3], or [H, W, 1] for Grayscale, from the bytes of an image file."""
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as e:
        raise UnsupportedError("ImageDecoder needs the package Pillow: pip install 'temper-rt[image]'") from e
    (data,) = present(arrays)
    gray = attrs["pixel_format"] == "Grayscale"
    try:
        with Image.open(BytesIO(data.tobytes())) as image:
            pixels = np.array(image.convert("L" if gray else "RGB"))
    except (UnidentifiedImageError, OSError, ValueError) as e:
        raise InputError(f"ImageDecoder: {data.size} bytes are not an image that Pillow reads: {e}") from e
    if gray:
        return [pixels[:, :, None]]
    return [np.ascontiguousarray(pixels[:, :, ::-1]) if attrs["pixel_format"] == "BGR" else pixels]


REFERENCES: Mapping[str, ReferenceFn] = MappingProxyType({"ImageDecoder": _decode})
