"""The thresholds that a build uses: from calibration, from a cache, or from both."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from temper.errors import DataError
from temper.frontends.onnx.inputs import tensor_names
from temper.ir.graph import Graph
from temper.precision.calibration import Calibration
from temper.precision.outcome import Tensor
from temper.profiles import Model
from temper.quantize.auto import Chosen, thresholds
from temper.quantize.cache import CalibrationCache, from_text
from temper.quantize.calibrate import in_order
from temper.quantize.placement import not_negative
from temper.quantize.source_names import from_cache, source_names

#: Bins of the histograms that a record keeps.
_BINS = 256

#: What a threshold's calibrator is called where it comes from a cache.
CACHE = "cache"


@dataclass(frozen=True)
class Thresholds:
    """chosen: by graph tensor. remarks: what a user should know of where they come from."""

    chosen: Mapping[str, Chosen]
    remarks: tuple[str, ...] = ()

    @property
    def amax(self) -> dict[str, float]:
        return {t: c.amax for t, c in self.chosen.items()}


def read_cache_file(path: Path) -> CalibrationCache:
    """DataError if there is none, or it is damaged."""
    try:
        return from_text(path.read_text(encoding="utf-8"), str(path))
    except OSError as e:
        raise DataError(f"cannot read the calibration cache {path}: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise DataError(f"{path} is not a calibration cache: it is not text") from e


def known_names(model: Model, graph: Graph) -> frozenset[str]:
    """Tensor names of the source model; of a model given as a graph, those that its tensors still have."""
    if not isinstance(model, Graph):
        return tensor_names(model)
    return frozenset(n for g in (model, graph) for v in g.values for n in (v.name, *v.sources))


def resolve(
    graph: Graph,
    tensors: Iterable[str],
    calibrator: str,
    calibration: Calibration | None,
    cache: CalibrationCache | None = None,
    source: str = "the calibration cache",
    known: Collection[str] = (),
    *,
    everything: bool = False,
) -> Thresholds:
    """Thresholds of `tensors`: the cache's where it has one, calibrated ones else.

    calibrator: "auto" or an algorithm's name.
    source: what the cache is called.
    known: the source model's names.
    everything: an algorithm other than "auto" sees the held-back batches too.

    DataError names tensors that the cache lacks where there is no calibration.
    """
    names = in_order(graph, tensors)
    found = {}
    if calibration is not None:
        seen = calibration.histograms
        if everything and calibrator != "auto":
            seen = calibration.observed.merged(calibration.held).histograms
        found = thresholds(graph, seen, calibration.held.histograms, calibrator)
    if cache is None:
        return Thresholds({t: found[t] for t in names})
    taken = from_cache(cache, graph, names, known)
    complaint = taken.complaint(source)
    if complaint is not None and (calibration is None or not taken.amax):
        raise DataError(f"{complaint}: it is of another model, or of other layers; calibrate this one (--calib)")
    remarks = []
    if complaint is not None:
        remarks.append(f"{complaint}: these are calibrated")
    if taken.foreign:
        shown = ", ".join(taken.foreign[:5]) + (" ..." if len(taken.foreign) > 5 else "")
        remarks.append(f"{source}: the model has no tensor for {len(taken.foreign)} of its entries: {shown}")
    if nought := [t for t, amax in taken.amax.items() if amax == 0]:
        named = list(dict.fromkeys(known_as[0] for known_as in source_names(graph, nought).values()))
        shown = ", ".join(named[:5]) + (" ..." if len(named) > 5 else "")
        remarks.append(f"{source} says of {shown} that it is always zero: whatever it holds is taken for that")
    chosen = dict(found)
    for t, amax in taken.amax.items():
        old = found.get(t)
        chosen[t] = Chosen(amax, CACHE, old.alternatives if old else {}, old.errors if old else {})
    return Thresholds({t: chosen[t] for t in names}, tuple(remarks))


def rows(graph: Graph, found: Thresholds, calibration: Calibration | None) -> tuple[Tensor, ...]:
    """What a record keeps of every tensor, under its source name."""
    values = {v.name: v for v in graph.values}
    names = source_names(graph, found.chosen)
    out = []
    for t, c in found.chosen.items():
        h = calibration.histograms.get(t) if calibration is not None else None
        out.append(
            Tensor(
                names[t][0],
                c.amax,
                not not_negative(values[t]),
                c.calibrator,
                h.low if h is not None else -c.amax,
                h.high if h is not None else c.amax,
                tuple(float(n) for n in h.resampled(_BINS)) if h is not None else (),
                h.zeros if h is not None else 0,
                c.alternatives,
                c.errors,
            )
        )
    return tuple(out)
