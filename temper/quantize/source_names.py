"""Thresholds under the source model's tensor names, as calibration caches hold them, and under the graph's."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from temper.ir.graph import Graph
from temper.quantize.cache import HEADERS, CalibrationCache


def source_names(graph: Graph, tensors: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """What the source model calls each of these tensors: every name by which it knows the same elements, in whatever
    order of axes. A tensor that only the passes made goes by its own name."""
    values = {v.name: v for v in graph.values}
    return {t: values[t].sources or (t,) for t in tensors}


def to_cache(graph: Graph, amax: Mapping[str, float], algorithm: str = "auto") -> CalibrationCache:
    """amax by graph tensor as a cache: every source name on a line of its own. algorithm: a name of HEADERS, or what
    the header is to say."""
    names = source_names(graph, amax)
    named = {source: amax[t] for t in amax for source in names[t]}
    return CalibrationCache(named, algorithm=HEADERS.get(algorithm.partition(":")[0], algorithm))


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
        shown = [names[0] for names in self.missing.values()]
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
    left = [n for n in cache.amax if n not in taken]
    return Taken(found, missing, tuple(n for n in left if n in known), tuple(n for n in left if n not in known))
