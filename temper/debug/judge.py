"""Judges whether an engine is right on given inputs: against the reference or ONNX Runtime, within derived bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from temper.config import BuildConfig
from temper.debug.deviation import as_float, condition_bound, difference
from temper.errors import ConfigError, DataError
from temper.ir.evaluate import evaluate
from temper.ir.graph import Graph
from temper.ir.ops import TABLE

if TYPE_CHECKING:
    from temper.builder import Build

AGAINST = ("reference", "onnxruntime")

#: How many roundings' worth of change the inputs and weights are moved by to see what a model makes of rounding.
_JITTER = 1.0

_FLOATS = {"float64": 2.0**-52, "float32": 2.0**-23, "float16": 2.0**-10}


@dataclass(frozen=True)
class Row:
    """One output. relative: largest error over the largest magnitude. worst: where, what was got and what wanted."""

    output: str
    relative: float
    tolerance: float
    worst: str
    note: str = ""

    @property
    def deviates(self) -> bool:
        return self.relative > self.tolerance

    def __str__(self) -> str:
        state = "deviates" if self.deviates else "agrees"
        return (
            f"output '{self.output}' {state}: {self.relative:.3g} of its largest value, tolerance {self.tolerance:.3g}"
            + (f"; {self.note or self.worst}" if self.deviates else "")
        )


def build_for(
    model: Any,
    feeds: Mapping[str, np.ndarray],
    *,
    isa: str = "",
    device: str = "cpu",
    config: BuildConfig | None = None,
) -> Build:
    """A build of the model (path, bytes, ModelProto) for inputs of exactly these shapes, on one thread, untimed and
    with products of float32 as they are unless `config` says otherwise."""
    from temper.builder import build_plan

    config = config or BuildConfig(threads=1, effort=0, isa=isa, device=device, tf32=False)
    return build_plan(model, replace(config, shapes={k: tuple(v.shape) for k, v in feeds.items()}))


def judge(
    model: Any,
    feeds: Mapping[str, np.ndarray],
    *,
    against: str = "reference",
    tolerance: float | None = None,
    isa: str = "",
    device: str = "cpu",
) -> list[Row]:
    """A row for every output of an engine built from `model`. TemperError kinds from the build; DataError where ONNX
    Runtime is asked for and cannot run the model."""
    from temper.runtime.engine import Engine

    graph = imported(model, feeds)
    feeds = {v.name: feeds[v.name] for v in graph.inputs}
    if against == "onnxruntime":
        want: Sequence[np.ndarray] = onnxruntime_outputs(model, feeds, graph.output_names)
    elif against == "reference":
        want = evaluate(graph, feeds)
    else:
        raise ConfigError(f"nothing is called {against!r} to compare with; choose from {', '.join(AGAINST)}")
    limits = tolerances(graph, feeds, tolerance)
    engine = Engine(build_for(model, feeds, isa=isa, device=device).plan, device=device)
    return rows(graph, engine.run(feeds), want, limits)


def imported(model: Any, feeds: Mapping[str, np.ndarray]) -> Graph:
    """The model's graph for inputs of these shapes. DataError names an input that is missing, or a node whose results
    cannot be compared because every run draws others."""
    from temper.frontends.onnx import import_onnx

    graph = import_onnx(model, shapes={k: tuple(v.shape) for k, v in feeds.items()})
    if missing := [v.name for v in graph.inputs if v.name not in feeds]:
        raise DataError(f"no data is given for the inputs {', '.join(missing)}")
    if drawn := [n.name for n in graph.nodes if "seed" in TABLE[n.op].attrs and "seed" not in n.attrs]:
        raise DataError(f"every run draws other random numbers at {', '.join(drawn)}: give these nodes a seed")
    return graph


def rows(graph: Graph, got: Sequence[np.ndarray], want: Sequence[np.ndarray], limits: Mapping[str, float]) -> list[Row]:
    """Outputs of `graph` in order, compared."""
    found = []
    for name, v, a, b in zip(graph.output_names, graph.outputs, got, want, strict=True):
        d = difference(a, b, v.type.dtype)
        found.append(Row(name, d.relative, limits[name], worst_of(a, b, v.type.dtype), d.note))
    return found


def worst_of(got: np.ndarray, want: np.ndarray, dtype: str) -> str:
    """Where two arrays are furthest apart, and both values there."""
    if got.shape != want.shape or not got.size:
        return f"shape {list(got.shape)} instead of {list(want.shape)}"
    if dtype == "string":
        error = (got != want).astype(np.float64)
    else:
        a, b = as_float(got, dtype), as_float(want, dtype)
        with np.errstate(invalid="ignore"):
            error = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, np.nan_to_num(np.abs(a - b), nan=np.inf))
    at = tuple(int(i) for i in np.unravel_index(int(np.argmax(error)), error.shape))
    return f"worst at {list(at)}: {got[at]}, wanted {want[at]}"


def tolerances(graph: Graph, feeds: Mapping[str, np.ndarray], tolerance: float | None) -> dict[str, float]:
    """How far each output of `graph` may be off, relative to its largest value.

    Every float input and constant is moved up or down by one rounding at random; what that does to an output is how
    much this model, on this data, magnifies rounding, and the bound follows from it (see `condition_bound`). Outputs
    of whole numbers may differ in ten times the share that the change alone makes differ.
    """
    if tolerance is not None:
        return dict.fromkeys(graph.output_names, tolerance)
    rng = np.random.default_rng(0)

    def moved(array: np.ndarray, dtype: str) -> np.ndarray:
        if dtype not in _FLOATS:
            return array
        with np.errstate(all="ignore"):
            sign = rng.integers(0, 2, array.shape) * 2.0 - 1.0
            out: np.ndarray = (array * (1 + sign * _JITTER * _FLOATS[dtype])).astype(array.dtype)
        return out

    other = graph.copy()
    for v in other.constants:
        assert v.const is not None
        v.const = moved(v.const, v.type.dtype)
    want = evaluate(graph, feeds)
    near = evaluate(other, {v.name: moved(feeds[v.name], v.type.dtype) for v in graph.inputs})
    limits = {}
    for name, v, a, b in zip(graph.output_names, graph.outputs, near, want, strict=True):
        d = difference(a, b, v.type.dtype)
        limits[name] = condition_bound(d, v.type.dtype) or 10 * d.relative
    return limits


def onnxruntime_outputs(model: Any, feeds: Mapping[str, np.ndarray], names: Sequence[str]) -> list[np.ndarray]:
    """ONNX Runtime's outputs. DataError says why there are none."""
    from temper.frontends.onnx.load import load_model
    from temper.peers import MissingPeer, OnnxRuntime

    data = model.read_bytes() if isinstance(model, Path) else load_model(model)[0].SerializeToString()
    try:
        found = OnnxRuntime().outputs(data, dict(feeds))
    except MissingPeer as e:
        raise DataError(f"ONNX Runtime cannot be compared with: {e}") from e
    except (RuntimeError, ValueError, OSError) as e:
        raise DataError(f"ONNX Runtime cannot run this model: {str(e).splitlines()[0]}") from e
    return [found[n] for n in names]
