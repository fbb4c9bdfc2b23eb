"""The Python entry points behind `temper.build`, `temper.load` and `temper.save`."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from temper.config import BuildConfig, Profile, Shape, ShapeRange, knob, shape_range
from temper.errors import ConfigError
from temper.runtime.engine import Engine

if TYPE_CHECKING:
    from temper.ir.graph import Graph
    from temper.tune.select import Progress

Model = Union[str, Path, bytes, "Graph", Any]


def build(
    model: Model,
    *,
    threads: int | None = None,
    effort: int = 2,
    profiles: Sequence[Profile] = (),
    batch: int | Sequence[int | tuple[int, int, int]] | None = None,
    shapes: Mapping[str, Sequence[int] | Sequence[Sequence[int]]] | None = None,
    output: str | os.PathLike[str] | None = None,
    portable: bool = False,
    isa: str = "",
    loop_limit: int = 1_000_000,
    cache: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> Engine:
    """Builds an engine from an ONNX file (path, bytes or ModelProto).

    threads: threads the engine uses, all usable cores if None. effort: 0 (no timing) to 5 (every candidate timed).
    profiles: ranges of
    symbolic dimensions, e.g. Profile.of(N=(1, 8, 32)); a dimension without a range is fixed at 1. batch: sizes of the
    inputs' first dimension, [1, 8, 32] or with ranges [1, (2, 8, 32)] (min, opt, max): each is a profile tuned at its
    own size. shapes: input name -> its shape, or (min, opt, max) shapes.
    output: also write the plan to this file. portable: keep the graph in the plan for `temper rebuild`.
    loop_limit: a loop whose end depends on data raises an InputError after so many steps.
    Raises TemperError kinds: ModelError, UnsupportedError, ShapeError, ConfigError, BuildError.
    """
    from temper.builder import build_plan
    from temper.plan.format import write
    from temper.runtime.machine import cores

    if output is not None:
        check_writable(Path(output))
    config = BuildConfig(
        threads=threads or cores(),
        effort=effort,
        isa=isa,
        loop_limit=loop_limit,
        profiles=tuple(profiles),
        portable_graph=portable,
        cache=Path(cache) if cache else None,
        shapes={k: _shape(k, v) for k, v in (shapes or {}).items()},
        batches=tuple(
            (b, b, b) if isinstance(b, int) else b for b in ([batch] if isinstance(batch, int) else batch or ())
        ),
    )
    plan = build_plan(model, config, progress=progress).plan
    if output is not None:
        write(plan, output)
    return Engine(plan, spin_us=int(knob("TEMPER_SPIN_US")))


def _shape(name: str, given: Sequence[int] | Sequence[Sequence[int]]) -> Shape | ShapeRange:
    """A shape, or (min, opt, max) shapes, as tuples."""
    nested = [s for s in given if isinstance(s, Sequence) and not isinstance(s, str)]
    return shape_range(name, nested) if nested else tuple(given)  # type: ignore[arg-type]


def check_writable(path: Path) -> None:
    """Fails before a long build rather than after it."""
    folder = path.resolve().parent
    if not folder.is_dir():
        raise ConfigError(f"cannot write {path}: the folder {folder} does not exist")
    if path.exists() and not path.is_file():
        raise ConfigError(f"cannot write {path}: it is not a regular file")
    if not os.access(folder, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise ConfigError(f"cannot write {path}: permission denied")


def load(path: str | os.PathLike[str], *, threads: int | None = None) -> Engine:
    """Loads a plan file. PlanError if it is damaged, of another version, or for another machine."""
    return Engine.load(path, threads=threads, spin_us=int(knob("TEMPER_SPIN_US")))


def save(engine: Engine, path: str | os.PathLike[str]) -> None:
    """Writes an engine's plan."""
    from temper.plan.format import write

    write(engine.plan, path)
