"""Records the inputs that an evaluation function gives the engines it scores.

Where there is a calibration cache but no calibration data, a search ranks layers by these inputs; what is accepted is
up to the score.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from temper.errors import DataError
from temper.plan.format import Plan
from temper.precision.data import Samples, samples_of
from temper.precision.request import Metric
from temper.precision.subject import Subject
from temper.runtime.engine import Engine

#: Runs that are kept, and bytes of them, at most.
_RUNS, _BYTES = 64, 1 << 28


class RecordingEngine(Engine):
    """An engine that keeps what its first runs are given, by input name."""

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.heard: list[dict[str, np.ndarray]] = []
        self._room = _BYTES

    def _execute(self, arrays: Sequence[Any], targets: Sequence[np.ndarray | None] | None) -> list[np.ndarray]:
        results = super()._execute(arrays, targets)  # refuses what does not fit
        size = sum(a.nbytes for a in arrays if isinstance(a, np.ndarray))
        if len(self.heard) < _RUNS and size <= self._room and all(isinstance(a, np.ndarray) for a in arrays):
            self.heard.append({b.name: np.array(a) for b, a in zip(self.plan.inputs, arrays, strict=True)})
            self._room -= size
        return results


def recorded_inputs(subject: Subject, plan: Plan, metric: Metric) -> Samples | None:
    """What the evaluation function runs first, found out by letting it score the plan; None if it runs nothing, or the
    engine only in contexts of its own, or what does not suit the model as calibrated."""
    engine = RecordingEngine(plan)
    metric.score(engine)
    if not engine.heard:
        return None
    try:
        return samples_of(
            engine.heard, {v.name: v.type for v in subject.graph.inputs}, subject.ranges, note=subject.note
        )
    except DataError:
        return None
