"""Builds without compilers and without measuring: for tests of all that is decided around the kernels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from random import Random
from typing import Any
from unittest.mock import patch

from temper import builder, target
from temper.config import BuildConfig
from temper.target import CpuTarget, CudaTarget, Target, target_of
from temper.tune.cpu import Cpu
from temper.tune.cuda import Cuda
from temper.tune.timing_cache import Record


@contextmanager
def uncompiled(seed: int | None = None) -> Iterator[None]:
    """Plans made within hold no code. seed: candidates' times are drawn by chance, so that any of them may win; None
    leaves effort 0's first."""
    rng = Random(seed)

    def compiled(self: Any, kernels: Mapping[str, Any], isa: str, jobs: int) -> Iterator[tuple[str, bytes]]:
        return ((key, b"") for key in kernels)

    def judged(
        self: Any, task: Any, codes: Sequence[tuple[Any, bytes]], cold_bytes: int, timed: bool
    ) -> Iterator[tuple[Any, Record]]:
        return ((c, Record(rng.uniform(1e-6, 1e-4) if timed else 0.0)) for c, _ in codes)

    def aimed(config: BuildConfig) -> Target:
        """A level of GPUs that none is here of, whatever the effort."""
        _, _, isa = config.device.partition(":")
        return CudaTarget(None, isa) if isa else target_of(config)

    with ExitStack() as stack:
        for device in (Cpu, Cuda):
            stack.enter_context(patch.object(device, "compile", compiled))
            stack.enter_context(patch.object(device, "compiler", "none"))
            stack.enter_context(patch.object(device, "judge", judged))
        stack.enter_context(patch.object(target, "link", lambda objects: b""))
        stack.enter_context(patch.object(CpuTarget, "host", lambda self: b""))
        if seed is not None:
            stack.enter_context(patch.object(builder, "target_of", aimed))
        yield
