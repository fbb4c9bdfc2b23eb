"""Sizes on the command line: --batch, --profile, --shape and trtexec's --minShapes as the values of a BuildConfig."""

from __future__ import annotations

import re
from collections.abc import Sequence

from temper.config import BuildConfig, Profile, Range, Shape, ShapeRange, shape_range
from temper.errors import ConfigError


def parse_range(text: str, option: str) -> tuple[int, int, int]:
    """`8` or `MIN:OPT:MAX`. ConfigError names the option."""
    parts = text.split(":")
    if len(parts) not in (1, 3) or not all(p.strip().isdecimal() for p in parts):
        raise ConfigError(f"{option} {text}: give a number or MIN:OPT:MAX")
    low, best, high = (int(p) for p in (parts if len(parts) == 3 else parts * 3))
    if not 0 < low <= best <= high:
        raise ConfigError(f"{option} {text}: needs 0 < MIN <= OPT <= MAX")
    return low, best, high


_SHAPE = r"\d+([x,]\d+)*"


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(d) for d in re.split("[x,]", text))


def parse_shapes(options: Sequence[str]) -> dict[str, Shape | ShapeRange]:
    """`NAME=1x3x224x224` options (commas work too), or three shapes `NAME=MIN:OPT:MAX`."""
    shapes: dict[str, Shape | ShapeRange] = {}
    for option in options:
        name, equals, text = option.rpartition("=")
        parts = text.split(":")
        if not equals or not name or len(parts) not in (1, 3) or not all(re.fullmatch(_SHAPE, p) for p in parts):
            raise ConfigError(f"--shape {option}: give NAME=1x3x224x224, or NAME=MIN:OPT:MAX with three shapes")
        shapes[name] = _shape(text) if len(parts) == 1 else shape_range(name, [_shape(p) for p in parts])
    return shapes


def parse_static_shapes(options: Sequence[str]) -> dict[str, Shape]:
    """As `parse_shapes`, for commands that run a model at one size."""
    if ranges := [o for o in options if ":" in o.rpartition("=")[2]]:
        raise ConfigError(f"--shape {ranges[0]}: this command takes one shape of an input, not a range")
    return BuildConfig(shapes=parse_shapes(options)).static_shapes


def parse_shape_list(text: str, option: str) -> dict[str, Shape]:
    """trtexec's `NAME:1x3x224x224,OTHER:1x128`; quotes around names are allowed. ConfigError names the option."""
    shapes: dict[str, Shape] = {}
    for part in text.split(","):
        name, colon, dims = part.strip().rpartition(":")
        if not colon or not name or not re.fullmatch(r"\d+(x\d+)*", dims):
            raise ConfigError(f"{option} {text}: give NAME:1x3x224x224, several joined by commas")
        shapes[name.strip("'\"")] = _shape(dims)
    return shapes


def trtexec_profile(least: str, best: str, most: str) -> tuple[Profile, ...]:
    """The profile of --minShapes, --optShapes and --maxShapes: an input missing in one takes it from the next of
    opt, min, max, as trtexec does. No profile if none is given.
    """
    given = {
        option: parse_shape_list(text, option)
        for option, text in (("--minShapes", least), ("--optShapes", best), ("--maxShapes", most))
        if text
    }
    if not given:
        return ()
    low, opt, high = (given.get(option, {}) for option in ("--minShapes", "--optShapes", "--maxShapes"))
    names = {**low, **opt, **high}
    pick = {
        name: (
            low.get(name) or opt.get(name) or high[name],
            opt.get(name) or low.get(name) or high[name],
            high.get(name) or opt.get(name) or low[name],
        )
        for name in names
    }
    return (Profile.of_shapes(pick),)


def parse_batches(text: str) -> tuple[Range, ...]:
    """`8`, a range `1:8:32`, or several of either joined by commas."""
    return tuple(parse_range(part, "--batch") for part in text.split(",")) if text else ()


def parse_profiles(options: Sequence[str]) -> list[dict[str, tuple[int, int, int]]]:
    """`N=1:8:32,S=128` options, a profile each."""
    profiles = []
    for option in options:
        profile = {}
        for part in option.split(","):
            name, equals, text = part.partition("=")
            if not equals or not name:
                raise ConfigError(f"--profile {option}: give NAME=MIN:OPT:MAX, several joined by commas")
            profile[name.strip()] = parse_range(text, "--profile")
        profiles.append(profile)
    return profiles
