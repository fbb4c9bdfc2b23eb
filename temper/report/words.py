"""Figures as a reader wants them."""

from __future__ import annotations

import math

#: What stands where nothing was measured.
UNKNOWN = "–"


def number(value: float | None, digits: int = 3) -> str:
    """Significant digits without an exponent where that is readable."""
    if value is None:
        return UNKNOWN
    if not math.isfinite(value):
        return "∞" if value > 0 else "−∞" if value < 0 else "not a number"
    if value == 0:
        return "0"
    if 1e-4 <= abs(value) < 1e6:
        decimals = max(0, digits - 1 - math.floor(math.log10(abs(value))))
        text = f"{value:.{decimals}f}"
        return (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", "−")
    return f"{value:.{digits - 1}e}".replace("-", "−")


def percent(value: float | None, digits: int = 2, sign: bool = False) -> str:
    """A fraction of 1 as per cent."""
    if value is None:
        return UNKNOWN
    text = f"{100 * value:{'+' if sign and value else ''}.{digits}f}"
    return text.replace("-", "−") + " %"


def probability(p: float) -> str:
    """A p-value; what is too small to matter how small is said to be so."""
    return "< 0.0001" if p < 1e-4 else number(p, 2)


def milliseconds(value: float | None) -> str:
    """Three digits, in microseconds where a millisecond is long."""
    if value is None:
        return UNKNOWN
    return f"{number(1e3 * value)} µs" if abs(value) < 1 else f"{number(value)} ms"


def size(value: int | None) -> str:
    """Bytes as kB or MB."""
    if value is None:
        return UNKNOWN
    return f"{value / 1e6:.2f} MB" if value >= 1e6 else f"{value / 1e3:.1f} kB"


def times(value: float | None) -> str:
    return UNKNOWN if value is None else f"{value:.2f}×"


def plural(count: int, noun: str) -> str:
    """ "1 sample", "2 samples"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
