"""Sizes on the command line: --batch, --profile and --shape as the values of a BuildConfig."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from temper.config import Profile
from temper.errors import ConfigError

if TYPE_CHECKING:
    from temper.ir.graph import Graph


def parse_range(text: str, option: str) -> tuple[int, int, int]:
    """`8` or `MIN:OPT:MAX`. ConfigError names the option."""
    parts = text.split(":")
    if len(parts) not in (1, 3) or not all(p.strip().isdecimal() for p in parts):
        raise ConfigError(f"{option} {text}: give a number or MIN:OPT:MAX")
    low, best, high = (int(p) for p in (parts if len(parts) == 3 else parts * 3))
    if not 0 < low <= best <= high:
        raise ConfigError(f"{option} {text}: needs 0 < MIN <= OPT <= MAX")
    return low, best, high


def parse_shapes(options: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """`NAME=1x3x224x224` options; commas work too."""
    shapes = {}
    for option in options:
        name, equals, text = option.rpartition("=")
        if not equals or not name or not re.fullmatch(r"\d+([x,]\d+)*", text):
            raise ConfigError(f"--shape {option}: give NAME=1x3x224x224")
        shapes[name] = tuple(int(d) for d in re.split("[x,]", text))
    return shapes


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


def profiles_for(
    model: Path, profiles: Sequence[str], batch: str, shapes: Mapping[str, tuple[int, ...]]
) -> tuple[Profile, ...]:
    """Profiles from --profile and --batch; `--batch 1,8,32` gives three, each tuned at its own size."""
    found = parse_profiles(profiles)
    if batch:
        from temper.frontends.onnx import import_onnx

        ranges = [parse_range(part, "--batch") for part in batch.split(",")]
        symbols = batch_symbols(import_onnx(model, shapes=dict(shapes)))
        found = [{**p, **dict.fromkeys(symbols, r)} for p in (found or [{}]) for r in ranges]
    return tuple(Profile.of(**p) for p in found)


def batch_symbols(graph: Graph) -> list[str]:
    """Symbols that are the first dimension of an input. ConfigError if the model has none."""
    from temper.ir.dims import Dim

    firsts = [v.type.shape[0] for v in graph.inputs if v.type.rank]
    symbols = sorted({str(d) for d in firsts if isinstance(d, Dim)})
    if not symbols:
        shapes = ", ".join(f"{v.name}: {v.type}" for v in graph.inputs)
        raise ConfigError(
            f"--batch: the model's inputs have a fixed first dimension ({shapes}); export it with a dynamic batch, "
            "or give whole shapes with --shape"
        )
    return symbols
