"""Times of a GPU program's layers: device time of every launch between events, in the order of a run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from temper.plan.format import Launch, Native
from temper.runtime.context import LayerTime
from temper.runtime.cuda.bound import CudaBound, DeviceCall, DeviceHostCall
from temper.runtime.cuda.launch import Graph
from temper.runtime.steps import Run

#: Runs of a launch between two events: the events' own time, of a microsecond or two, is spread over them.
_AGAIN = 20


def layer_times(bound: CudaBound, arrays: Sequence[np.ndarray], repeats: int) -> list[LayerTime]:
    """Least seconds of every step over `repeats` runs, on what the steps before it made. A launch is repeated within a
    graph, unless it writes over what it reads; host steps are timed with their transfers.

    bound: with its inputs in place and run once.
    """
    run = Run(arrays, [np.empty(s, d) for s, d in bound.fresh], bound.env)
    graphs: dict[tuple[int, int], tuple[Graph, int]] = {}
    best: list[float] = []
    for _ in range(max(1, repeats)):
        row: list[float] = []
        for n, (segment, step) in enumerate(zip(bound.program, bound.steps, strict=True)):
            if isinstance(segment, Native) and isinstance(step, DeviceCall):
                for i, (planned, call) in enumerate(zip(segment.launches, step.launches, strict=True)):
                    if not call.grid:
                        row.append(0.0)
                        continue
                    if (n, i) not in graphs:
                        again = 1 if _in_place(bound, planned) else _AGAIN
                        graphs[n, i] = Graph(bound.gpu, [call] * again), again
                    graph, again = graphs[n, i]
                    row.append(bound.stream.seconds(graph) / again)
            elif isinstance(step, DeviceHostCall):
                row.append(step.timed(run))
        best = [min(a, b) for a, b in zip(best, row, strict=True)] if best else row
    rows: list[LayerTime] = []
    times = iter(best)
    for segment in bound.program:
        if isinstance(segment, Native):
            rows += [LayerTime(x.name, next(times), x.report, False) for x in segment.launches]
        else:
            rows.append(LayerTime(segment.name or segment.op, next(times), segment.report, True))
    return rows


def _in_place(bound: CudaBound, x: Launch) -> bool:
    """It reads what it writes, so that a second run would not be the same."""
    written = {bound.address(x.args[k]) for k in x.writes}
    read = {bound.address(a) for k, a in enumerate(x.args) if k not in x.writes and a.kind != "null"}
    return bool(written & read)
