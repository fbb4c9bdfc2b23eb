"""What commands are given, a plan or an ONNX file, as an engine, and input arrays for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from temper.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from temper.config import Shape
    from temper.runtime.engine import Engine


DEVICE = "Where it runs (and is built for, an ONNX file): cpu, cuda or cuda:N; the plan's own if not given."


FP16 = "GPU: store tensors in float16, and multiply it."
BF16 = "GPU: store tensors in bfloat16, and multiply it."
TF32 = "GPU: round operands of float32 products to 10 bits of mantissa."


def precision_of(fp16: bool, bf16: bool) -> str:
    """A build's precision by its options. ConfigError if both are given."""
    if fp16 and bf16:
        raise ConfigError("--fp16 and --bf16 exclude each other")
    return "fp16" if fp16 else "bf16" if bf16 else "fp32"


def open_engine(
    path: Path,
    threads: int,
    *,
    effort: int = 2,
    batch: str = "",
    quiet: bool = False,
    device: str = "",
    precision: str = "fp32",
    tf32: bool = True,
    shapes: Mapping[str, Shape] | None = None,
) -> Engine:
    """Loads a plan, or builds an ONNX file in memory. threads 0: the plan's number, or all usable cores. device: as
    `DEVICE` says. ConfigError for a plan with a precision, which only a build has a choice of."""
    from temper.cli.files import is_plan
    from temper.runtime.engine import Engine

    if is_plan(path):
        if precision != "fp32" or not tf32:
            raise ConfigError(f"{path} is a plan, whose precision was chosen when it was built: give the ONNX file")
        return Engine.load(path, threads=threads or None, device=device)
    from temper.builder import build_plan
    from temper.cli.show import progress_bar
    from temper.cli.sizes import parse_batches
    from temper.config import BuildConfig
    from temper.runtime.machine import cores

    config = BuildConfig(
        threads=threads or cores(),
        effort=effort,
        batches=parse_batches(batch),
        device=device or "cpu",
        precision=precision,
        tf32=tf32,
        shapes=dict(shapes or {}),
    )
    with progress_bar(quiet) as progress:
        plan = build_plan(path, config, progress=progress).plan
    return Engine(plan, device=device)


def random_feeds(
    engine: Engine, batch: int = 0, seed: int = 0, shapes: Mapping[str, Shape] | None = None
) -> dict[str, np.ndarray]:
    """Seeded inputs: normal floats, integers 0 and 1. Open dimensions take a profile's optimum: the first one's, or
    with `batch`, which the first dimensions are then, that of the first that holds it. shapes: of some inputs; sizes
    that others share with them follow. ConfigError if an input cannot have such a shape.
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
    asked = dict(shapes or {})
    for spec in engine.inputs:
        sizes = asked.get(spec.name, ())
        if len(sizes) == len(spec.shape):
            env.update((d, n) for d, n in zip(spec.shape, sizes, strict=True) if isinstance(d, str))
    if unknown := asked.keys() - {spec.name for spec in engine.inputs}:
        raise ConfigError(f"--shape: there is no input {', '.join(sorted(unknown))}; the engine takes {engine!r}")
    rng = np.random.default_rng(seed)
    feeds = {}
    for spec in engine.inputs:
        shape = tuple(value_of(d, env) for d in spec.shape)
        if asked.get(spec.name, shape) != shape:
            raise ConfigError(f"--shape: input '{spec.name}' has {list(spec.shape)}, not {list(asked[spec.name])}")
        if spec.dtype.kind == "f":
            feeds[spec.name] = rng.standard_normal(shape).astype(spec.dtype)
        elif spec.dtype.kind == "b":
            feeds[spec.name] = rng.random(shape) < 0.5
        elif spec.dtype.kind in "iu":
            feeds[spec.name] = rng.integers(0, 2, shape).astype(spec.dtype)
        else:
            raise ConfigError(f"input '{spec.name}' of dtype {spec.dtype} cannot be made up; give it as data")
    return feeds
