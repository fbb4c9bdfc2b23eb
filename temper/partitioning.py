"""Partitions a graph into regions that some tactic of the target accepts, with workloads and storage."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from temper.assemble import Part
from temper.config import BuildConfig
from temper.ir.dims import DimLike
from temper.ir.graph import Graph
from temper.passes.chains import chains
from temper.passes.host import data_reason
from temper.passes.manager import Log, Pass
from temper.passes.narrow import STORED, constants_widened, narrowing
from temper.passes.partition import order_regions, partition
from temper.passes.pipeline import for_gpus
from temper.passes.region import Region
from temper.plan.storage import Storage, assign_storage
from temper.tactics.base import Tactic, Workload
from temper.tactics.workload import canonical, workload
from temper.target import Target


@dataclass(frozen=True)
class Partition:
    """A graph's regions, each with its workload and storage. chains: further parts, each with the indices of the parts
    that it may replace."""

    storage: Storage
    parts: tuple[Part, ...]
    chains: tuple[tuple[Part, tuple[int, ...]], ...] = ()


@dataclass(frozen=True)
class Partitioner:
    """Partitions graphs into regions that some tactic accepts, or that run on the host."""

    tactics: Sequence[Tactic]
    target: Target
    config: BuildConfig
    #: by workloads' keys: why no tactic takes them
    _reasons: dict[str, str | None] = field(default_factory=dict)

    def passes(self, given: Sequence[Pass]) -> tuple[Pass, ...]:
        """The pass list for the target; last, where kernels take that, what is stored in a narrow float type."""
        if not self.target.widens:
            return tuple(given)

        def cut(graph: Graph) -> list[tuple[Region, bool]]:
            return [(r, self.refuses(r) is not None) for r in self.regions(graph, Log())]

        listed = for_gpus(given, self.target.multiplies("float8e4m3fn"))
        return (*listed, narrowing(STORED[self.config.precision], cut, self.config.wide))

    def parts(self, graph: Graph, log: Log, alignment: int = 1) -> Partition:
        """The regions, and where their values live."""
        regions = constants_widened(graph, self.regions(graph, log))
        storage = assign_storage(graph, regions, lambda r, strides: self.refuses(r, strides) is None, log, alignment)
        parts = []
        for r in storage.regions:
            w, sizes = self.general(r, storage.strides)
            parts.append(Part(r, w, sizes, data_reason(r) or self._declines(w)))
        return Partition(storage, tuple(parts), self._chains(graph, storage, log))

    def _chains(self, graph: Graph, storage: Storage, log: Log) -> tuple[tuple[Part, tuple[int, ...]], ...]:
        """Regions that follow each other and that a tactic computes as one."""
        if not any("Chain" in t.ops for t in self.tactics):
            return ()
        found = []
        for chain, members in chains(graph, storage.regions, log):
            w, sizes = self.general(chain, storage.strides)
            if (reason := self._declines(w)) is not None:
                log.did_not("chain", chain.name, reason)
            else:
                found.append((Part(chain, w, sizes, None), members))
        return tuple(found)

    def regions(self, graph: Graph, log: Log) -> list[Region]:
        return _split_declined(partition(graph, log, self.target.widens), self.refuses, log)

    def general(self, r: Region, strides: Mapping[int, int] | None = None) -> tuple[Workload, Mapping[str, DimLike]]:
        tf32 = self.config.tf32 and self.target.widens
        threads = self.target.threads(self.config.threads)
        return canonical(workload(r, self.target.isa, threads, strides, tf32))

    def refuses(self, region: Region, strides: Mapping[int, int] | None = None) -> str | None:
        """Why no tactic takes a region; None if one does."""
        return data_reason(region) or self._declines(self.general(region, strides)[0])

    def _declines(self, w: Workload) -> str | None:
        if w.key not in self._reasons:
            self._reasons[w.key] = self._asked(w)
        return self._reasons[w.key]

    def _asked(self, w: Workload) -> str | None:
        if (lack := self.target.lacks(w)) is not None:
            return lack
        able = [t for t in self.tactics if w.op in t.ops]
        reasons = [f"{t.name}: {r}" for t in able if (r := t.accepts(w)) is not None]
        if len(reasons) < len(able):
            return None
        return "; ".join(reasons) or f"there is no kernel for {w.op}"


def _split_declined(regions: Sequence[Region], declines: Callable[[Region], str | None], log: Log) -> list[Region]:
    """Regions whose epilogue no tactic takes are split into anchor and rest, and pointwise chains into single nodes."""
    out: list[Region] = []
    for region in regions:
        reason = declines(region)
        ways = region.splits() if reason is not None else ()
        if reason is None or not ways:
            out.append(region)
            continue
        parts = next((w for w in ways if declines(w[0]) is None), ways[-1])
        lost = ["prologue"] * (len(parts[0].prologue) < len(region.prologue))
        lost += ["epilogue"] * (len(parts[0].nodes) < len(region.nodes))
        log.did_not(f"fuse {' and '.join(lost)}", region.name, reason)
        out += _split_declined(parts, declines, log)
    return order_regions(out)
