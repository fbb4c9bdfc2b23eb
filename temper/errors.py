"""Every error Temper raises on purpose. A message names the node, field or file and says what to do next.

Nothing is imported here, so that any room, the runtime included, can use it.
"""
from __future__ import annotations


class TemperError(Exception):
    """Base of all of Temper's errors; catch this one."""


class ModelError(TemperError):
    """The model file is damaged, contradicts itself, or breaks its format's rules."""


class UnsupportedError(TemperError):
    """The model is well-formed but uses something Temper does not implement; every such node is listed at once."""


class ShapeError(TemperError):
    """Shapes or dtypes of a node's inputs contradict the op's definition."""


class UnequalSizes(ShapeError):
    """Two sizes must be equal and are not, or are not known to be. left, right: ints or symbolic dimensions."""

    def __init__(self, message: str, left: object, right: object) -> None:
        super().__init__(message)
        self.left, self.right = left, right


class InputError(TemperError):
    """An input given at run time has the wrong name, dtype, rank or size."""


class PlanError(TemperError):
    """A plan file is damaged, from another version, or for another machine."""


class DeviceError(TemperError):
    """A GPU, its driver or its memory is missing or failed."""


class DeviceMemoryError(DeviceError):
    """A GPU has no room for what is needed."""


class BuildError(TemperError):
    """The build could not finish: compiler missing, disk full, no legal tactic, output not writable ..."""


class ConfigError(TemperError):
    """An option has an illegal value, or options contradict each other."""


class DataError(TemperError):
    """Data given for calibration, comparison or evaluation cannot be used."""


class VerificationError(TemperError):
    """The graph verifier found an IR law broken: a bug in Temper, or in a custom pass."""


class TemperWarning(UserWarning):
    """Something about a finished build needs a look: too little calibration data, a budget that could not be met."""
