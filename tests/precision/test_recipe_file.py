"""Recipes come back from their file as they were; damaged files are none."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from temper.precision.recipe_file import read, write
from temper.precision.trials import recipe_digest
from temper.quantize.recipe import Recipe

RECIPE = Recipe(
    frozenset({"a", "b"}),
    {"x": 1.1, "y": float(np.float32(0.1))},
    {"y": (-0.375, 14.0)},
    {"a": np.arange(3, dtype=np.float32)},
    {("a", 1): np.ones((2, 3), np.float32), ("b", 2): np.zeros(4, np.float32)},
    {"b": np.linspace(0, 1, 5, dtype=np.float32)},
    frozenset({"x"}),
    frozenset({"c"}),
    frozenset({"y"}),
    eights={"d": 2.5},
)


def test_every_field_is_kept() -> None:
    """A field that a recipe gains must be kept as well."""
    assert all(getattr(RECIPE, name) for name in vars(RECIPE))


def test_a_recipe_comes_back(tmp_path: Path) -> None:
    write(tmp_path / "deep" / "r.npz", RECIPE, {"steps": [1, "two"]})
    found = read(tmp_path / "deep" / "r.npz")
    assert found is not None
    recipe, notes = found
    assert recipe_digest(recipe) == recipe_digest(RECIPE)
    assert notes == {"steps": [1, "two"]}
    assert [p.name for p in (tmp_path / "deep").iterdir()] == ["r.npz"]


def test_what_is_damaged_or_missing_is_none(tmp_path: Path) -> None:
    path = tmp_path / "r.npz"
    assert read(path) is None
    write(path, RECIPE, {})
    path.write_bytes(path.read_bytes()[:200])
    assert read(path) is None
    path.write_bytes(b"")
    assert read(path) is None
