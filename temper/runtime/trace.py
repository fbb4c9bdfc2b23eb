"""Runs a plan one step at a time and hands out what each step wrote: for comparing layers, not for speed."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from temper.dtypes import storage
from temper.errors import PlanError
from temper.plan.format import HostStep, Launch, Native, Plan, Segment
from temper.runtime.binding import Bound
from temper.runtime.engine import Engine
from temper.runtime.steps import Run


@dataclass(frozen=True)
class StepResult:
    """name: the region's. row: its row of the build report's "regions". tensors: value name -> array, copies."""

    name: str
    row: int
    tensors: Mapping[str, np.ndarray]


def single_steps(plan: Plan) -> Plan:
    """The same plan with every launch a segment of its own."""

    def parts(s: Segment) -> Sequence[Segment]:
        return [Native((x,)) for x in s.launches] if isinstance(s, Native) else [s]

    return replace(plan, programs=tuple(tuple(x for s in program for x in parts(s)) for program in plan.programs))


def trace(engine: Engine, feeds: Mapping[str, np.ndarray] | Sequence[np.ndarray]) -> Iterator[StepResult]:
    """Every step's results in order of execution. PlanError for a plan without a build report."""
    plan = engine.plan
    if "regions" not in plan.report:
        raise PlanError("this plan carries no build report, so its steps cannot be named; build it anew")
    single = single_steps(plan)
    on_gpu = plan.device != "cpu"
    stepper = Engine(single, gpu=engine._shared.gpu) if engine._shared else Engine(single, threads=engine.threads)
    context = stepper.context()
    bound, arrays, outputs = context.prepare(feeds)
    run = Run(arrays, outputs, bound.env)
    for i, (step, segment) in enumerate(zip(bound.steps, bound.program, strict=True)):
        step.run(run)
        if isinstance(segment, Native):
            launch = segment.launches[0]
            later = bound.program[i + 1 : i + 2]
            if on_gpu and later and isinstance(later[0], Native) and later[0].launches[0].report == launch.report:
                continue  # the region's kernel has another launch
            yield StepResult(launch.name, launch.report, _native_results(stepper, bound, launch, run))
        else:
            assert isinstance(segment, HostStep)
            yield StepResult(segment.name, segment.report, {})


def _native_results(engine: Engine, bound: Bound, launch: Launch, run: Run) -> dict[str, np.ndarray]:
    out = {}
    for name, dtype, shape, row_stride, arg in engine.plan.report["regions"][launch.report]["results"]:
        sizes, kind = tuple(bound.value(d, run.env) for d in shape), storage(dtype)
        nbytes = _span(sizes, row_stride) * kind.itemsize
        if engine.plan.device == "cpu":
            at = bound.address(launch.args[arg], run.env)
            data = np.frombuffer(memoryview((ctypes.c_char * nbytes).from_address(at)), np.uint8)
        else:
            data = bound.fetch(launch.args[arg], nbytes)  # type: ignore[attr-defined]
        out[name] = _rows(data.view(kind), sizes, row_stride)
    return out


def _span(shape: tuple[int, ...], row_stride: int | None) -> int:
    """Elements from the first to the last of an array whose rows may lie apart."""
    row = shape[-1] if shape else 1
    rows = int(np.prod(shape[:-1], dtype=np.int64))
    return (rows - 1) * (row_stride or row) + row if rows and row else 0


def _rows(flat: np.ndarray, shape: tuple[int, ...], row_stride: int | None) -> np.ndarray:
    """A copy of the array without what lies between its rows."""
    row = shape[-1] if shape else 1
    rows = int(np.prod(shape[:-1], dtype=np.int64))
    if not rows or not row:
        return np.empty(shape, flat.dtype)
    size = flat.dtype.itemsize
    steps = ((row_stride or row) * size, size)
    return np.lib.stride_tricks.as_strided(flat, (rows, row), steps).copy().reshape(shape)
