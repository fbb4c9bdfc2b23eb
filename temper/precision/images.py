"""Pictures in a folder as a model's input: found, decoded, resized and scaled as declared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from temper.errors import ConfigError, DataError
from temper.ir.types import TensorType

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff", ".gif", ".ppm", ".pgm", ".jp2"})

#: How a picture of another shape than the input's is made to fit: the middle of it, all of it distorted, or all of it
#: with grey beside it.
FITS = ("crop", "stretch", "pad")

#: Grey of the borders that "pad" adds, as YOLO's letterbox has it.
_GREY = 114


@dataclass(frozen=True)
class Preprocess:
    """What is done to a picture: resized (bilinear) to the input's size, then (pixel * scale - mean) / std.

    scale: 1/255 by default, so that mean and std are of values in [0, 1]; 1 for mean and std of pixels 0..255.
    mean, std: one number, or one a channel in the order of the channels.
    order: "RGB" or "BGR" of three channels.
    fit: see FITS. An input of dtype uint8 gets the pixels as they are.
    """

    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scale: float = 1 / 255
    order: str = "RGB"
    fit: str = "crop"

    def __post_init__(self) -> None:
        if self.order not in ("RGB", "BGR"):
            raise ConfigError(f"the order of channels is RGB or BGR, not {self.order!r}")
        if self.fit not in FITS:
            raise ConfigError(f"pictures are made to fit by {', '.join(FITS)}, not {self.fit!r}")
        if not all(np.isfinite(self.mean)) or not all(np.isfinite(self.std)) or not all(self.std):
            raise ConfigError(f"mean {self.mean} and std {self.std} must be finite, std not 0")
        if not np.isfinite(self.scale) or not self.scale:
            raise ConfigError(f"a scale of {self.scale} would make every picture the same")

    def __str__(self) -> str:
        scale = "1/255" if self.scale == 1 / 255 else f"{self.scale:g}"
        mean, std = (",".join(f"{v:g}" for v in values) for values in (self.mean, self.std))
        return f"{self.fit}, {self.order}, (pixel * {scale} - {mean}) / {std}"


@dataclass(frozen=True)
class ImageInput:
    """Where an input has its batch, channels and size. planes: channels come first."""

    name: str
    dtype: str
    channels: int
    height: int
    width: int
    planes: bool
    rank: int


def image_input(inputs: dict[str, TensorType], shape: tuple[int, ...]) -> ImageInput:
    """How pictures become the model's input; `shape` has numbers for its symbols. ConfigError if they cannot."""
    named = "; ".join(f"'{k}' {t}" for k, t in inputs.items())
    advice = "give .npz files or a function that yields arrays"
    if len(inputs) != 1:
        raise ConfigError(f"a folder of pictures is data for one input, the model has {named}: {advice}")
    ((name, t),) = inputs.items()
    if t.dtype not in ("float32", "float16", "float64", "uint8"):
        raise ConfigError(f"pictures cannot be the input {named}: {advice}")
    size = shape[1:] if len(shape) == 4 else shape
    if len(size) == 2:
        size = (1, *size)
    if len(shape) not in (2, 3, 4) or not {size[0], size[-1]} & {1, 3}:
        raise ConfigError(f"pictures cannot be the input {named}: it has no axis of 1 or 3 channels; {advice}")
    planes = size[0] in (1, 3)
    channels, height, width = size if planes else (size[2], size[0], size[1])
    if min(height, width) < 2:
        raise ConfigError(
            f"the size of pictures for {named} is open: state it, as in --shape {name}=1x3x224x224 or shapes="
        )
    return ImageInput(name, t.dtype, channels, height, width, planes, len(shape))


def find_images(folder: Path) -> tuple[list[Path], list[Path]]:
    """Pictures under a folder and its subfolders by their suffix, in order of their paths; and all other files."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and not p.name.startswith("."))
    images = [p for p in files if p.suffix.lower() in SUFFIXES]
    return images, [p for p in files if p.suffix.lower() not in SUFFIXES]


def decode(path: Path, where: ImageInput, how: Preprocess) -> np.ndarray:
    """One picture as the model takes it, without the axis of the batch. DataError says why it cannot be read."""
    pixels = _pixels(path, where, how)
    if where.channels == 3 and how.order == "BGR":
        pixels = pixels[..., ::-1]
    if where.dtype == "uint8":
        out = pixels
    else:
        mean, std = (_per_channel(v, where, what) for v, what in ((how.mean, "mean"), (how.std, "std")))
        out = ((pixels.astype(np.float32) * np.float32(how.scale) - mean) / std).astype(where.dtype)
    if where.planes:
        out = out.transpose(2, 0, 1)
    return np.ascontiguousarray(out.reshape(where.height, where.width) if where.rank == 2 else out)


def _per_channel(values: Sequence[float], where: ImageInput, what: str) -> np.ndarray:
    if len(values) not in (1, where.channels):
        raise ConfigError(f"{what} has {len(values)} values, input '{where.name}' {where.channels} channels")
    return np.asarray(values, np.float32)


def _pixels(path: Path, where: ImageInput, how: Preprocess) -> np.ndarray:
    """uint8 [height, width, channels]."""
    from PIL import Image, UnidentifiedImageError

    mode = "RGB" if where.channels == 3 else "L"
    size = (where.width, where.height)
    try:
        with Image.open(path) as image:
            if image.size != size:
                # a JPEG may be decoded at half size and less where that is still at least twice what is needed
                image.draft(mode, (2 * size[0], 2 * size[1]))
            found: Any = _eight_bits(image, path).convert(mode)
    except UnidentifiedImageError:
        reason = "it is empty" if not path.stat().st_size else "it is not a picture, or damaged"
        raise DataError(f"{path}: {reason}") from None
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as e:
        raise DataError(f"{path}: {getattr(e, 'strerror', None) or e}") from e
    if found.size != size:
        found = _resized(found, size, how.fit)
    return np.asarray(found).reshape(where.height, where.width, where.channels)


def _eight_bits(image: Any, path: Path) -> Any:
    """The picture with pixels of 8 bits, where conversion would cut wider ones off at 255. DataError where their range
    is not known."""
    from PIL import Image

    wide = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")  # 16 bits to old Pillows
    if image.mode in ("I", "F") and not wide:
        kind = "32-bit integers" if image.mode == "I" else "floats"
        raise DataError(f"{path}: its pixels are {kind}, of a range that it does not tell; give .npz files instead")
    return Image.fromarray(((np.asarray(image, np.uint32) + 128) // 257).astype(np.uint8)) if wide else image


def _resized(image: Any, size: tuple[int, int], fit: str) -> Any:
    from PIL import Image

    width, height = image.size
    if fit == "stretch":
        return image.resize(size, Image.Resampling.BILINEAR)
    factor = (max if fit == "crop" else min)(size[0] / width, size[1] / height)
    scaled = image.resize((max(1, round(width * factor)), max(1, round(height * factor))), Image.Resampling.BILINEAR)
    left, top = (scaled.width - size[0]) // 2, (scaled.height - size[1]) // 2
    if fit == "crop":
        return scaled.crop((left, top, left + size[0], top + size[1]))
    out = Image.new(image.mode, size, _GREY if image.mode == "L" else (_GREY,) * 3)
    out.paste(scaled, (-left, -top))
    return out
