"""A whole GPU plan run without a GPU: every launch by Triton's interpreter, at the addresses the plan gives it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from temper.builder import Build
from temper.dtypes import storage
from temper.ir.types import itemsize
from temper.plan.format import Launch, Native, Ref, value_of
from temper.runtime.shapes import solve
from temper.tactics.cuda.kernel import TritonKernel
from tests.tactics.cuda.interpret import Job, interpret


def run(build: Build, feeds: Mapping[str, np.ndarray], folder: Path) -> list[np.ndarray]:
    """Outputs of the build's first profile. Every step must have a kernel."""
    plan = build.plan
    profile = plan.profiles[0]
    env = solve(plan.inputs, tuple(feeds[b.name].shape for b in plan.inputs))
    shapes = [tuple(value_of(d, env) for d in b.shape) for b in plan.outputs]
    arrays = {
        "arena": np.zeros(max(1, profile.arena_bytes), np.uint8),
        "shared": np.zeros(max(1, profile.shared_bytes), np.uint8),
        "const": np.frombuffer(plan.constants, np.uint8),
        **{f"input{i}": _bytes(feeds[b.name]) for i, b in enumerate(plan.inputs)},
        **{
            f"output{i}": np.zeros(int(np.prod(s)) * itemsize(b.dtype), np.uint8)
            for i, (b, s) in enumerate(zip(plan.outputs, shapes, strict=True))
        },
    }
    kernels = [c.candidate.kernel for c in build.choices if c is not None]
    sources = {s.entry: s for k in kernels if isinstance(k, TritonKernel) for s in k.sources}

    def place(r: Ref) -> tuple[str, int]:
        at = value_of(r.offset, env)
        if r.kind == "arena":
            return "arena", profile.offsets[r.index] + at
        return (r.kind, at) if r.kind in ("const", "shared") else (f"{r.kind}{r.index}", at)

    def job(x: Launch) -> Job:
        source = sources[x.entries[0]]
        types = [kind for _, kind in source.signature]
        pointers = [(*place(r), kind) for r, kind in zip(x.args, types, strict=False)]
        sizes = [value_of(s, env) for s in x.symbols]
        return Job(source.text, source.entry, value_of(x.grid, env), (*pointers, *sizes))

    jobs = []
    for segment in plan.programs[profile.program]:
        assert isinstance(segment, Native), f"{segment} runs on the host"
        jobs += [job(x) for x in segment.launches]
    results = interpret(jobs, arrays, folder)
    for c in plan.copies:
        name, at = place(c.source)
        n = results[f"output{c.output}"].nbytes
        results[f"output{c.output}"][:] = results[name][at : at + n]
    return [
        results[f"output{i}"].view(storage(b.dtype)).reshape(s)
        for i, (b, s) in enumerate(zip(plan.outputs, shapes, strict=True))
    ]


def _bytes(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)
