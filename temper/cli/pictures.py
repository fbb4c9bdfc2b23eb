"""The preprocessing of pictures (--calib-mean ...), as options of the commands that take calibration data."""

from __future__ import annotations

from typing import TYPE_CHECKING

from temper.errors import ConfigError

if TYPE_CHECKING:
    from temper.precision.images import Preprocess

MEAN = "Pictures: mean to subtract after --calib-scale; one number, or one per channel: 0.485,0.456,0.406."
STD = "Pictures: standard deviation to divide by after the mean; one number, or one per channel."
SCALE = "Pictures: factor for pixels of 0..255, before anything else; 1/255 if not given."
ORDER = "Pictures: order of channels, RGB or BGR; RGB if not given."
FIT = "Pictures of another shape: crop (the middle), stretch, or pad (with grey)."


def preprocess(mean: str, std: str, scale: str, order: str, fit: str) -> Preprocess | None:
    """The options as one value, None where none was given. ConfigError names the option that is wrong."""
    if not any((mean, std, scale, order, fit)):
        return None
    from temper.precision.images import Preprocess

    plain = Preprocess()
    return Preprocess(
        _numbers("--calib-mean", mean) or plain.mean,
        _numbers("--calib-std", std) or plain.std,
        _number("--calib-scale", scale) if scale else plain.scale,
        order.upper() or plain.order,
        fit or plain.fit,
    )


def _numbers(option: str, text: str) -> tuple[float, ...]:
    return tuple(_number(option, part) for part in text.split(",")) if text else ()


def _number(option: str, text: str) -> float:
    """A decimal number, or a fraction such as 1/255."""
    above, slash, below = text.partition("/")
    try:
        return float(above) / float(below) if slash else float(above)
    except (ValueError, ZeroDivisionError):
        example = "0.5, 1/255, or one a channel: 0.5,0.4,0.3"
        raise ConfigError(f"{option}: {text!r} is not a number; give {example}") from None
