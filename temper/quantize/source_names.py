"""Translates thresholds between the source model's tensor names, which calibration caches use, and the graph's."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from temper.errors import ConfigError
from temper.ir.graph import REARRANGES, Graph, Value
from temper.quantize.cache import HEADERS, CalibrationCache
from temper.quantize.calibrate import in_order
from temper.quantize.codes import threshold


def source_names(graph: Graph, tensors: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """What the source model calls each of these tensors: every name by which it knows the same elements, in whatever
    order of axes. A tensor that only the passes made goes by its own name."""
    values = {v.name: v for v in graph.values}
    return {t: _sources(values[t]) or (t,) for t in tensors}


def _sources(v: Value) -> tuple[str, ...]:
    """Its own names, or those of what it is another view of."""
    at: Value | None = v
    while at is not None and not at.sources and at.producer is not None and at.producer.op in REARRANGES:
        at = at.producer.inputs[0]
    return at.sources if at is not None else ()


def to_cache(graph: Graph, amax: Mapping[str, float], algorithm: str = "auto") -> CalibrationCache:
    """amax by graph tensor as a cache: every source name on a line of its own. algorithm: a name of HEADERS, or what
    the header is to say."""
    names = source_names(graph, in_order(graph, amax))
    named = {source: amax[t] for t in names for source in names[t]}
    return CalibrationCache(named, algorithm=HEADERS.get(algorithm.partition(":")[0], algorithm))


def _moved(v: Value, amax: Mapping[str, float]) -> float | None:
    """Threshold of what only moves elements of tensors that have one."""
    try:
        return threshold(v, amax)
    except ConfigError:
        return None


@dataclass(frozen=True)
class Taken:
    """Thresholds found in a cache by graph tensor. missing: tensors without, by graph tensor, with their source names.

    unused: entries for tensors of the model that carry no codes here. foreign: entries that the model does not know at
    all.
    """

    amax: Mapping[str, float]
    missing: Mapping[str, tuple[str, ...]]
    unused: tuple[str, ...]
    foreign: tuple[str, ...]

    def complaint(self, source: str) -> str | None:
        """Why the cache alone is not enough, naming what it lacks; None if it is."""
        if not self.missing:
            return None
        shown = list(dict.fromkeys(names[0] for names in self.missing.values()))
        more = f" and {len(shown) - 8} more" if len(shown) > 8 else ""
        other = f"; it has {len(self.foreign)} that this model lacks ({self.foreign[0]} ...)" if self.foreign else ""
        return (
            f"{source} has no entry for {len(shown)} of {len(shown) + len(self.amax)} tensors: "
            f"{', '.join(shown[:8])}{more}{other}"
        )


def from_cache(cache: CalibrationCache, graph: Graph, tensors: Iterable[str], known: Collection[str]) -> Taken:
    """Thresholds of `tensors`. known: the source model's tensor names."""
    found: dict[str, float] = {}
    missing: dict[str, tuple[str, ...]] = {}
    taken: set[str] = set()
    for tensor, names in source_names(graph, tensors).items():
        entries = [n for n in names if n in cache.amax]
        taken.update(entries)
        if entries:
            found[tensor] = cache.amax[entries[0]]
        else:
            missing[tensor] = names
    values = {v.name: v for v in graph.values}
    for tensor in list(missing):
        amax = _moved(values[tensor], found)
        if amax is not None:
            found[tensor] = amax
            del missing[tensor]
    left = [n for n in cache.amax if n not in taken]
    return Taken(found, missing, tuple(n for n in left if n in known), tuple(n for n in left if n not in known))
