"""A recipe as a file, so that compensation is not repeated by the next build."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from temper.errors import BuildError
from temper.quantize.recipe import Recipe

#: Mappings of arrays in a recipe, by site or by (node, input).
_ARRAYS = ("weight_scales", "operands", "biases")

#: Sets of names besides the sites.
_NAMES = ("signed", "halves", "apart")


def write(path: Path, recipe: Recipe, notes: Mapping[str, Any]) -> None:
    """An .npz that is replaced as a whole; notes: JSON values to keep beside it. BuildError says why it cannot be
    written."""
    arrays: dict[str, np.ndarray] = {}
    keys: dict[str, list[Any]] = {}
    for field in _ARRAYS:
        found: Mapping[Any, np.ndarray] = getattr(recipe, field)
        keys[field] = list(found)
        arrays |= {f"{field} {k}": a for k, a in enumerate(found.values())}
    plain = {
        "sites": sorted(recipe.sites),
        "amax": dict(recipe.amax),
        "eights": dict(recipe.eights),
        "ranges": {t: list(r) for t, r in recipe.ranges.items()},
        **{field: sorted(getattr(recipe, field)) for field in _NAMES},
        "keys": keys,
        "notes": dict(notes),
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, "wb") as f:
            np.savez(f, plain=np.array(json.dumps(plain)), **arrays)  # type: ignore[arg-type]
        os.replace(temporary, path)
    except OSError as e:
        raise BuildError(f"the state of the search cannot be kept in {path.parent}: {e.strerror}") from e
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path) -> tuple[Recipe, dict[str, Any]] | None:
    """None if there is none, or it is damaged."""
    try:
        with np.load(path, allow_pickle=False) as z:
            plain = json.loads(str(z["plain"]))
            found: dict[str, Any] = {
                field: {
                    tuple(k) if isinstance(k, list) else k: z[f"{field} {i}"]
                    for i, k in enumerate(plain["keys"][field])
                }
                for field in _ARRAYS
            }
        ranges = {t: (float(low), float(high)) for t, (low, high) in plain["ranges"].items()}
        recipe = Recipe(
            frozenset(plain["sites"]),
            plain["amax"],
            ranges,
            weight_scales=found["weight_scales"],
            operands=found["operands"],
            biases=found["biases"],
            signed=frozenset(plain["signed"]),
            halves=frozenset(plain["halves"]),
            eights=plain["eights"],
            apart=frozenset(plain["apart"]),
        )
        return recipe, plain["notes"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
