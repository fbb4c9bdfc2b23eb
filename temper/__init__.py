"""Temper: a trained network becomes a tuned engine, one `.plan` file that runs without compiler or training framework.

import temper
engine = temper.build("model.onnx", threads=2)   # or temper.load("model.plan")
y = engine(x)                                    # numpy in, numpy out
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from temper.api import build, load, save
    from temper.config import BuildConfig, Profile
    from temper.errors import TemperError, TemperWarning
    from temper.precision.answered import Score
    from temper.precision.calibrators import (
        AutoCalibrator,
        Calibrator,
        EntropyCalibrator,
        MinMaxCalibrator,
        MSECalibrator,
        PercentileCalibrator,
    )
    from temper.precision.images import Preprocess
    from temper.runtime.engine import Engine

__version__ = "0.1.0"

__all__ = [
    "AutoCalibrator",
    "BuildConfig",
    "Calibrator",
    "Engine",
    "EntropyCalibrator",
    "MSECalibrator",
    "MinMaxCalibrator",
    "PercentileCalibrator",
    "Preprocess",
    "Profile",
    "Score",
    "TemperError",
    "TemperWarning",
    "build",
    "load",
    "save",
]

_WHERE = {
    "build": "temper.api",
    "load": "temper.api",
    "save": "temper.api",
    "BuildConfig": "temper.config",
    "Profile": "temper.config",
    "TemperError": "temper.errors",
    "TemperWarning": "temper.errors",
    "Engine": "temper.runtime.engine",
    "AutoCalibrator": "temper.precision.calibrators",
    "Calibrator": "temper.precision.calibrators",
    "EntropyCalibrator": "temper.precision.calibrators",
    "MSECalibrator": "temper.precision.calibrators",
    "MinMaxCalibrator": "temper.precision.calibrators",
    "PercentileCalibrator": "temper.precision.calibrators",
    "Preprocess": "temper.precision.images",
    "Score": "temper.precision.answered",
}


def __getattr__(name: str) -> Any:
    """Public names are imported on first use, so that `import temper` stays cheap and the runtime needs no build
    packages."""
    if name not in _WHERE:
        raise AttributeError(f"module 'temper' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_WHERE[name]), name)
