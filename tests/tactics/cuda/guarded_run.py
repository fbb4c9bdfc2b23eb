"""A kernel of several launches run by Triton's interpreter, every buffer between guard bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from temper.ir.dims import evaluate
from temper.tactics.cuda.kernel import TritonKernel
from temper.tune.measure import Guarded, blank
from temper.tune.verify import Problem
from tests.tactics.cuda.interpret import Job, interpret


def guarded_run(
    kernel: TritonKernel, problem: Problem, packed: Sequence[np.ndarray], folder: Path
) -> dict[str, np.ndarray]:
    """Buffers after the run, by kind and number ("output0"); scratch is filled with odd bytes before. AssertionError
    if bytes beside one were written. folder: made."""
    arrays: dict[str, np.ndarray] = {}
    guards: dict[str, Guarded] = {}
    arguments: list[tuple[str, int, str]] = []
    scratch = np.full(evaluate(kernel.shared_workspace, {}), 85, np.uint8)
    given = {"input": problem.inputs, "operand": problem.operands, "packed": packed}
    for (kind, i), (_, pointer) in zip(kernel.args, kernel.triton.signature, strict=True):
        array = scratch if kind == "shared" else blank(problem.want[i]) if kind == "output" else given[kind][i]
        assert array is not None
        g = guards.setdefault(f"{kind}{i}", Guarded(np.asarray(array), None))
        arrays[f"{kind}{i}"] = g.block.view(g.dtype)
        arguments.append((f"{kind}{i}", g.start // g.dtype.itemsize, pointer))
    jobs = [
        Job(s.text, s.entry, evaluate(grid, {}), tuple(arguments))
        for s, grid in zip(kernel.sources, kernel.grids, strict=True)
    ]
    folder.mkdir()
    results = interpret(jobs, arrays, folder)
    for name, g in guards.items():
        g.block[:] = results[name].view(np.uint8)
        assert g.intact, name
    return {name: g.array for name, g in guards.items()}
