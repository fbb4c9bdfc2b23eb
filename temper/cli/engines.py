"""What commands are given, a plan or an ONNX file, as an engine, and input arrays for it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from temper.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from temper.runtime.engine import Engine


DEVICE = "Where it runs (and is built for, an ONNX file): cpu, cuda or cuda:N; the plan's own if not given."


def open_engine(
    path: Path, threads: int, *, effort: int = 2, batch: str = "", quiet: bool = False, device: str = ""
) -> Engine:
    """Loads a plan, or builds an ONNX file in memory. threads 0: the plan's number, or all usable cores. device: as
    `DEVICE` says."""
    from temper.cli.files import is_plan
    from temper.runtime.engine import Engine

    if is_plan(path):
        return Engine.load(path, threads=threads or None, device=device)
    from temper.builder import build_plan
    from temper.cli.show import progress_bar
    from temper.cli.sizes import parse_batches
    from temper.config import BuildConfig
    from temper.runtime.machine import cores

    config = BuildConfig(
        threads=threads or cores(), effort=effort, batches=parse_batches(batch), device=device or "cpu"
    )
    with progress_bar(quiet) as progress:
        plan = build_plan(path, config, progress=progress).plan
    return Engine(plan, device=device)


def random_feeds(engine: Engine, batch: int = 0, seed: int = 0) -> dict[str, np.ndarray]:
    """Seeded inputs: normal floats, integers 0 and 1. Open dimensions take a profile's optimum: the first one's, or
    with `batch`, which the first dimensions are then, that of the first that holds it.
    """
    import numpy as np

    from temper.plan.format import value_of

    env = {name: best for name, (_, best, _) in engine.profiles[0].symbols.items()}
    firsts = {b.shape[0] for b in engine.plan.inputs if b.shape}
    if batch:
        open_ = [d for d in firsts if isinstance(d, str) and d in env]
        if not open_ and firsts != {batch}:
            raise ConfigError(
                f"the engine's batch is fixed at {', '.join(map(str, sorted(firsts, key=str)))}; "
                f"build it with --batch {batch}"
            )
        for p in reversed(engine.profiles):
            if all(p.symbols[d][0] <= batch <= p.symbols[d][2] for d in open_):
                env = {name: best for name, (_, best, _) in p.symbols.items()}
        env.update(dict.fromkeys(open_, batch))
    rng = np.random.default_rng(seed)
    feeds = {}
    for spec in engine.inputs:
        shape = tuple(value_of(d, env) for d in spec.shape)
        if spec.dtype.kind == "f":
            feeds[spec.name] = rng.standard_normal(shape).astype(spec.dtype)
        elif spec.dtype.kind == "b":
            feeds[spec.name] = rng.random(shape) < 0.5
        elif spec.dtype.kind in "iu":
            feeds[spec.name] = rng.integers(0, 2, shape).astype(spec.dtype)
        else:
            raise ConfigError(f"input '{spec.name}' of dtype {spec.dtype} cannot be made up; give it as data")
    return feeds
