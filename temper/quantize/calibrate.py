"""Runs the float model over calibration data and collects a histogram of every tensor asked for, compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from temper.errors import DataError
from temper.ir.graph import Graph
from temper.ir.ops import make
from temper.quantize.histogram import EMPTY, Histogram, from_vector
from temper.reference.histogram import NOT_FINITE

Batch = Mapping[str, np.ndarray]
#: Runs a graph on a batch: outputs by name.
Runner = Callable[[Batch], Mapping[str, np.ndarray]]

_PREFIX = "histogram:"


@dataclass(frozen=True)
class Observed:
    """Histograms by tensor name, and how many batches they come from."""

    histograms: Mapping[str, Histogram]
    batches: int


def instrumented(graph: Graph, tensors: Iterable[str]) -> Graph:
    """A copy whose outputs are histograms of `tensors`, named histogram:<tensor>, and nothing else."""
    copy = graph.copy()
    values = {v.name: v for v in copy.values}
    names = list(tensors)
    outputs = [make(copy, "Histogram", [values[n]], {}, name=f"{_PREFIX}{n}").output for n in names]
    copy.set_outputs(outputs, [f"{_PREFIX}{n}" for n in names])
    copy.prune()
    return copy


def collect(run: Runner, batches: Iterable[Batch], tensors: Iterable[str]) -> Observed:
    """Merges the histograms of all batches. DataError names a tensor with values that are not finite, and the batch;
    or says that there was no data."""
    found = dict.fromkeys(tensors, EMPTY)
    count = 0
    for count, batch in enumerate(batches, 1):
        for name, vector in run(batch).items():
            tensor = name.removeprefix(_PREFIX)
            if vector[NOT_FINITE]:
                raise DataError(
                    f"calibration batch {count}: tensor '{tensor}' has {int(vector[NOT_FINITE])} values that are NaN "
                    "or infinite; check the data, or the model in float"
                )
            found[tensor] = found[tensor].merged(from_vector(vector))
    if count == 0:
        raise DataError("the calibration data is empty: give at least one batch of real inputs")
    return Observed(found, count)
