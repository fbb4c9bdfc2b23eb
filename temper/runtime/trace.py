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
    stepper = Engine(single_steps(plan), threads=engine.threads)
    context = stepper.context()
    bound, arrays, outputs = context.prepare(feeds)
    run = Run(arrays, outputs, bound.env)
    for step, segment in zip(bound.steps, bound.program, strict=True):
        step.run(run)
        if isinstance(segment, Native):
            launch = segment.launches[0]
            yield StepResult(launch.name, launch.report, _native_results(stepper, bound, launch, run))
        else:
            assert isinstance(segment, HostStep)
            yield StepResult(segment.name, segment.report, {})


def _native_results(engine: Engine, bound: Bound, launch: Launch, run: Run) -> dict[str, np.ndarray]:
    out = {}
    for name, dtype, shape, row_stride, arg in engine.plan.report["regions"][launch.report]["results"]:
        sizes = tuple(bound.value(d, run.env) for d in shape)
        out[name] = _read(bound.address(launch.args[arg], run.env), storage(dtype), sizes, row_stride)
    return out


def _read(address: int, dtype: np.dtype, shape: tuple[int, ...], row_stride: int | None) -> np.ndarray:
    row = shape[-1] if shape else 1
    stride = row_stride or row
    rows = int(np.prod(shape[:-1], dtype=np.int64))
    if not rows or not row:
        return np.empty(shape, dtype)
    nbytes = ((rows - 1) * stride + row) * dtype.itemsize
    flat = np.frombuffer(memoryview((ctypes.c_char * nbytes).from_address(address)), dtype)
    return (
        np.lib.stride_tricks.as_strided(flat, (rows, row), (stride * dtype.itemsize, dtype.itemsize))
        .copy()
        .reshape(shape)
    )
