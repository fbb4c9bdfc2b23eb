"""Runs the float model over calibration data and collects a histogram of every tensor asked for, compiled."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from temper.errors import DataError
from temper.ir.graph import Graph
from temper.ir.ops import make
from temper.quantize.histogram import EMPTY, Accumulator, Histogram
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

    def merged(self, other: Observed) -> Observed:
        """Of the batches of both."""
        found = {k: h.merged(other.histograms[k]) for k, h in self.histograms.items()}
        return Observed(found, self.batches + other.batches)


def nothing(tensors: Iterable[str]) -> Observed:
    """Of no batches."""
    return Observed(dict.fromkeys(tensors, EMPTY), 0)


def instrumented(graph: Graph, tensors: Iterable[str]) -> Graph:
    """A copy whose outputs are histograms of `tensors`, named histogram:<tensor>, and nothing else."""
    copy = graph.copy()
    values = {v.name: v for v in copy.values}
    names = list(tensors)
    outputs = [make(copy, "Histogram", [values[n]], {}, name=f"{_PREFIX}{n}").output for n in names]
    copy.set_outputs(outputs, [f"{_PREFIX}{n}" for n in names])
    copy.prune()
    return copy


def in_order(graph: Graph, tensors: Iterable[str]) -> list[str]:
    """Names of these tensors, producers first, each once."""
    wanted = set(tensors)
    made = [v.name for v in graph.inputs] + [o.name for n in graph.nodes for o in n.outputs]
    return [name for name in made if name in wanted]


def vectors_of(outputs: Mapping[str, np.ndarray], batch: str) -> dict[str, np.ndarray]:
    """What an instrumented graph gave, by tensor. DataError names the first tensor with values that are not finite."""
    found = {name.removeprefix(_PREFIX): vector for name, vector in outputs.items()}
    bad = [(tensor, int(vector[NOT_FINITE])) for tensor, vector in found.items() if vector[NOT_FINITE]]
    if bad:
        tensor, count = bad[0]
        others = f", and {len(bad) - 1} tensors after it" if len(bad) > 1 else ""
        raise DataError(
            f"{batch}: tensor '{tensor}' has {count} values that are NaN or infinite{others}; check the data, or the "
            "model in float"
        )
    return found


def collect(run: Runner, batches: Iterable[Batch], tensors: Sequence[str]) -> Observed:
    """Merges the histograms of all batches. DataError names a tensor with values that are not finite, and the batch;
    or says that there was no data."""
    found = {name: Accumulator() for name in tensors}
    count = 0
    for count, batch in enumerate(batches, 1):
        for tensor, vector in vectors_of(run(batch), f"calibration batch {count}").items():
            found[tensor].add(vector)
    if not count:
        raise DataError("the calibration data is empty: give at least one batch of real inputs")
    return Observed({name: a.histogram() for name, a in found.items()}, count)
