"""Base classes for users' calibrators, with the methods of TensorRT's.

A calibrator provides batches and keeps the cache; its base class says how thresholds are chosen.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from temper.precision.scripts import is_function, load_function, raising
from temper.quantize.cache import CalibrationCache, from_text, to_text

#: What get_batch returns: an array a name, in the order of the names; or arrays by name; None after the last batch.
Batch = Sequence[np.ndarray] | Mapping[str, np.ndarray] | np.ndarray


class Calibrator:
    """Base of calibrators: override `get_batch`, and the cache's methods to keep thresholds between builds.

    Give an object of the class as calibration= of `temper.build`, or a function that returns one as
    --calib script.py:function.
    """

    #: How thresholds are chosen, by the name of the command line.
    algorithm = "auto"

    def get_batch_size(self) -> int:
        """Samples in a batch that `get_batch` gives; they are cut or joined to what the model takes."""
        return 1

    def get_batch(self, names: Sequence[str]) -> Batch | None:
        """The next batch for the inputs called `names`; None when there are no more."""
        raise NotImplementedError(f"{type(self).__name__}.get_batch(names) must return arrays, or None after the last")

    def read_calibration_cache(self) -> bytes | str | None:
        """What `write_calibration_cache` kept, to be used instead of the data's thresholds; None for nothing."""
        return None

    def write_calibration_cache(self, cache: bytes) -> None:
        """Keeps the thresholds that were found, a text in TensorRT's format; by default they are not kept."""


class AutoCalibrator(Calibrator):
    """Of each tensor, what quantizes held-back data best."""


class EntropyCalibrator(Calibrator):
    """Least Kullback-Leibler divergence, as TensorRT's IInt8EntropyCalibrator2."""

    algorithm = "entropy"


class MinMaxCalibrator(Calibrator):
    """The largest value seen, as TensorRT's IInt8MinMaxCalibrator."""

    algorithm = "minmax"


class MSECalibrator(Calibrator):
    """Least mean squared error."""

    algorithm = "mse"


class PercentileCalibrator(Calibrator):
    """Holds `quantile` of the values, as TensorRT's IInt8LegacyCalibrator; override `get_quantile`, or set it."""

    quantile = 0.9999

    def get_quantile(self) -> float:
        return self.quantile

    @property
    def algorithm(self) -> str:  # type: ignore[override]
        return f"percentile:{100 * self.get_quantile():.12g}"


def is_calibrator(data: Any) -> bool:
    """An object that gives batches as a Calibrator does, whatever its class."""
    return hasattr(data, "get_batch") and not isinstance(data, type)


def algorithm_of(data: Any) -> str:
    """The algorithm that a calibrator asks for; "auto" of one that does not say, and of other data."""
    return str(getattr(data, "algorithm", "auto")) if is_calibrator(data) else "auto"


def read_cache(calibrator: Any) -> CalibrationCache | None:
    """What a calibrator kept; None where it has nothing. DataError if it is damaged, or the method raises."""
    if not hasattr(calibrator, "read_calibration_cache"):
        return None
    what = f"{type(calibrator).__name__}.read_calibration_cache"
    with raising(what):
        found = calibrator.read_calibration_cache()
    if not found:
        return None
    with raising(what):
        text = found if isinstance(found, str) else bytes(found).decode("utf-8")
    return from_text(text, what)


def write_cache(calibrator: Any, cache: CalibrationCache) -> None:
    """Gives a calibrator the cache to keep. DataError if it raises."""
    if hasattr(calibrator, "write_calibration_cache"):
        with raising(f"{type(calibrator).__name__}.write_calibration_cache"):
            calibrator.write_calibration_cache(to_text(cache).encode())


def opened(data: Any) -> Any:
    """What "script.py:function" names, called: a calibrator, or data; anything else as it is. A class of calibrators
    becomes one. DataError if the script raises."""
    if isinstance(data, (str, os.PathLike)) and is_function(os.fspath(data)):
        found = load_function(os.fspath(data))
        with raising(os.fspath(data)):
            return found()
    return data
