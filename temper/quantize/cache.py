"""TensorRT's calibration cache, read and written: a header line, then `name: hex` of every tensor.

The hex digits are a big-endian IEEE-754 float32, the scale amax / 127 (NVIDIA's sampleINT8 README, TensorRT 8.0).
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from temper.errors import DataError

#: What TensorRT's own calibrators write in the header; the version is free text to us.
HEADERS: Mapping[str, str] = MappingProxyType(
    {
        "entropy": "EntropyCalibration2",
        "minmax": "MinMaxCalibration",
        "percentile": "LegacyCalibration",
        "mse": "MSECalibration",
        "auto": "AutoCalibration",
    }
)

#: The least normal float32: what is divided by less overflows.
_LEAST = 2.0**-126


@dataclass(frozen=True)
class CalibrationCache:
    """amax of tensors by their source names, and the header's version and algorithm."""

    amax: Mapping[str, float]
    version: str = "8600"
    algorithm: str = "EntropyCalibration2"


def to_text(cache: CalibrationCache) -> str:
    """The file's text. DataError names a tensor whose scale float32 cannot hold, or a name that would break a line."""
    lines = [f"TRT-{cache.version}-{cache.algorithm}"]
    for name, amax in cache.amax.items():
        scale = amax / 127.0
        if not math.isfinite(scale) or scale < 0 or scale > 3.4028234e38:
            raise DataError(f"tensor '{name}': a scale of {scale} cannot be written to a calibration cache")
        if "\n" in name or "\r" in name:
            raise DataError(f"tensor {name!r}: a name with a line break cannot be written to a calibration cache")
        lines.append(f"{name}: {struct.pack('>f', scale).hex()}")
    return "\n".join(lines) + "\n"


def from_text(text: str, source: str = "calibration cache") -> CalibrationCache:
    """Reads a cache. DataError names the line that is damaged, and what it should be."""
    lines = text.splitlines()
    if not lines or not lines[0].startswith("TRT-"):
        found = lines[0][:40] if lines else ""
        raise DataError(f"{source}: the first line is {found!r}, not TRT-<version>-<algorithm> as TensorRT writes it")
    _, version, algorithm = (lines[0].split("-", 2) + ["", ""])[:3]
    amax: dict[str, float] = {}
    for number, line in enumerate(lines[1:], 2):
        if not line.strip():
            continue
        name, colon, digits = line.rpartition(": ")
        try:
            raw = bytes.fromhex(digits.strip())
        except ValueError:
            raw = b""
        if not colon or len(raw) != 4:
            raise DataError(f"{source}, line {number}: {line[:60]!r} is not 'tensor name: 8 hex digits'")
        (scale,) = struct.unpack(">f", raw)
        if not math.isfinite(scale) or scale < 0:
            raise DataError(f"{source}, line {number}: tensor '{name}' has a scale of {scale}")
        if 0 < scale < _LEAST:
            raise DataError(f"{source}, line {number}: tensor '{name}' has a scale of {scale:g}: too small to use")
        if name in amax:
            raise DataError(f"{source}, line {number}: tensor '{name}' appears twice")
        amax[name] = scale * 127.0
    return CalibrationCache(MappingProxyType(amax), version, algorithm)
