"""The programs of a plan: a partitioned graph's regions are tuned at a profile's optimum, and the kernels scheduled."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from temper.assemble import Part, Variant
from temper.ir.dims import Dim, evaluate
from temper.ir.graph import Graph
from temper.partitioning import Partition, Partitioner
from temper.passes.chains import Chain
from temper.passes.host import data_sizes
from temper.passes.manager import Log
from temper.passes.partition import order_regions
from temper.passes.region import Region
from temper.plan.schedule import ConstantPool, NativeStep, PlannedStep, ReferenceStep, schedule
from temper.profiles import Ranges
from temper.tactics.base import packed
from temper.tune.candidates import Candidate
from temper.tune.select import Choice, Task, Tuner


class ProgramMaker:
    """Makes the programs of one plan, including those of sub-graphs, and numbers their buffers, slots and rows."""

    def __init__(
        self,
        tuner: Tuner,
        partitioner: Partitioner,
        pool: ConstantPool,
        watch: StageTimes,
        share: bool,
    ) -> None:
        self.tuner, self.partitioner, self.threads = tuner, partitioner, partitioner.config.threads
        self.pool, self.watch, self.share = pool, watch, share
        self.buffers = self.rows = self.slots = 0
        #: programs of sub-graphs, in the order of `Plan.subs`
        self.subs: list[Variant] = []

    def variant(
        self, graph: Graph, parts: Partition, ranges: Ranges, log: Log, imported: int, others: Mapping[int, Variant]
    ) -> Variant:
        """The program of a graph at these sizes. others: programs of the same graph at other sizes."""
        made = self._tuned(graph, parts, ranges, log, others)
        first = self.buffers, made.first_row, self.slots
        program = schedule(
            graph, parts.storage, made.steps, self.threads, self.pool, *first, made.numbers, self.share
        )
        self.buffers += len(program.buffers)
        self.slots += len(program.slots)
        self.watch.lap("plan")
        return Variant(
            ranges, graph, log, imported, parts.storage, program, made.steps, made.parts, made.choices, made.first_row
        )

    def _tuned(
        self, graph: Graph, parts: Partition, ranges: Ranges, log: Log, others: Mapping[int, Variant]
    ) -> _Tuned:
        chosen, choices = _tune(self.tuner, graph, parts, optimum_of(ranges), self.pool, others, log)
        first_row, self.rows = self.rows, self.rows + len(chosen)
        steps = [_step(graph, part, choice, log) for part, choice in zip(chosen, choices, strict=True)]
        self.watch.lap("tune")
        numbers: dict[int, int] = {}
        for value in (a for part in chosen for n in part.region.nodes for a in n.attrs.values()):
            if isinstance(value, Graph):
                inner = self._sub(value, ranges, log)
                numbers[id(value)] = len(self.subs)
                self.subs.append(inner)
        return _Tuned(chosen, choices, steps, numbers, first_row)

    def _sub(self, graph: Graph, ranges: Ranges, log: Log) -> Variant:
        """The program of a graph inside a node, with buffers and slots of its own."""
        parts = self.partitioner.parts(graph, log, self.partitioner.target.alignment)
        made = self._tuned(graph, parts, ranges, log, {})
        program = schedule(
            graph, parts.storage, made.steps, self.threads, self.pool, 0, made.first_row, 0, made.numbers, self.share
        )
        return Variant(
            ranges, graph, log, 0, parts.storage, program, made.steps, made.parts, made.choices, made.first_row
        )


@dataclass(frozen=True)
class _Tuned:
    """Parts with their choices and steps.

    numbers: of the sub-graphs' programs, by the id() of the graph.
    first_row: number of the first row in the build report.
    """

    parts: tuple[Part, ...]
    choices: tuple[Choice | None, ...]
    steps: list[PlannedStep]
    numbers: dict[int, int]
    first_row: int


def _tune(
    tuner: Tuner,
    graph: Graph,
    parts: Partition,
    env: Mapping[str, int],
    pool: ConstantPool,
    others: Mapping[int, Variant],
    log: Log,
) -> tuple[tuple[Part, ...], tuple[Choice | None, ...]]:
    """The parts to run, and a choice for each that does not run on the host, at the sizes `env`. A chain replaces its
    links where it is faster.

    What other profiles chose for a region of the same name competes too, and is preferred where it is nearly as fast.
    """
    taken: dict[str, list[Candidate]] = {}
    for v in others.values():
        for part, choice in zip(v.parts, v.choices, strict=True):
            if choice is not None:
                taken.setdefault(part.region.name, []).append(choice.candidate)
    tasks = tasks_of(graph, parts, env, pool, taken, tuner.effort)
    chosen = tuner.choose(tasks)
    found = iter([chosen.get(t.key) for t in tasks])
    choices = [None if p.reason is not None else next(found) for p in parts.parts]
    together = list(found)
    for (chain, _), choice in zip(parts.chains, together, strict=True):
        if choice is None:
            log.did_not("chain", chain.region.name, "every candidate kernel failed its check")
    return _with_chains(parts, choices, together)


def tasks_of(
    graph: Graph,
    parts: Partition,
    env: Mapping[str, int],
    pool: ConstantPool,
    taken: Mapping[str, Sequence[Candidate]],
    effort: int,
) -> list[Task]:
    """The tasks to tune at the sizes `env`: parts that do not run on the host, then chains. taken: candidates that
    other profiles chose, by the region's name."""
    env = {**data_sizes(p.region for p in parts.parts), **env}

    def task(part: Part, optional: bool = False) -> Task:
        def shares(c: Candidate) -> bool:
            arrays = packed(c.tactic, part.workload, c.params, _constants(part.region), graph.derived)
            return any(a.nbytes for a in arrays) and all(map(pool.holds, arrays))

        operands = {
            i: _full_rank(v.const, len(part.workload.outputs[0].type.shape))
            for i, v in enumerate(part.region.operands)
            if v.const is not None
        }
        also = [c for c in taken.get(part.region.name, []) if part.workload.op in c.tactic.ops] if effort else []
        sizes = {s: evaluate(part.sizes.get(s, Dim.symbol(s)), env) for s in part.workload.symbols}
        return Task(
            part.workload,
            _constants(part.region),
            operands,
            sizes,
            part.region.name,
            tuple((c.tactic, c.params) for c in also),
            shares if also else None,
            optional,
        )

    return [*(task(p) for p in parts.parts if p.reason is None), *(task(p, True) for p, _ in parts.chains)]


def optimum_of(ranges: Ranges) -> dict[str, int]:
    """The sizes that a profile is tuned at."""
    return {symbol: best for symbol, (_, best, _) in ranges.items()}


def _with_chains(
    parts: Partition, choices: Sequence[Choice | None], together: Sequence[Choice | None]
) -> tuple[tuple[Part, ...], tuple[Choice | None, ...]]:
    """Parts and choices, with chains in place of their links where that saves time, those that save most first."""

    def seconds(part: Part, c: Choice) -> float:
        return c.seconds or c.candidate.tactic.predict(part.workload, c.candidate.params)

    saved = []
    for (chain, members), choice in zip(parts.chains, together, strict=True):
        apart = [choices[i] for i in members]
        if choice is not None and all(c is not None for c in apart):
            total = sum(seconds(parts.parts[i], c) for i, c in zip(members, apart, strict=True) if c is not None)
            saved.append((total - seconds(chain, choice), members, chain, choice))
    at: dict[int, tuple[Part, Choice] | None] = {}
    for gain, members, chain, choice in sorted(saved, key=lambda s: (-s[0], s[1])):
        if gain > 0 and not any(i in at for i in members):
            at |= dict.fromkeys(members[:-1]) | {members[-1]: (chain, choice)}
    kept = [at.get(i, (p, c)) for i, (p, c) in enumerate(zip(parts.parts, choices, strict=True))]
    found = [k for k in kept if k is not None]
    if any(isinstance(p.region, Chain) and p.region.keeps for p, _ in found):  # others may have read it earlier
        place = {id(r): i for i, r in enumerate(order_regions([p.region for p, _ in found]))}
        found.sort(key=lambda k: place[id(k[0].region)])
    return tuple(k[0] for k in found), tuple(k[1] for k in found)


def _step(graph: Graph, part: Part, choice: Choice | None, log: Log) -> PlannedStep:
    if choice is None:
        assert part.reason is not None
        if ("compile", part.region.name, part.reason) not in log.declined:
            log.did_not("compile", part.region.name, part.reason)
        return ReferenceStep(part.region, part.reason)
    c = choice.candidate
    arrays = packed(c.tactic, part.workload, c.params, _constants(part.region), graph.derived)
    return NativeStep(part.region, c.kernel, arrays, choice.seconds, part.sizes)


class StageTimes:
    """Wall time of a build's stages. laps: seconds by stage, so far."""

    def __init__(self) -> None:
        self._last = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        """Adds the time since the last call to a stage."""
        now = time.perf_counter()
        self.laps[name], self._last = self.laps.get(name, 0.0) + now - self._last, now


def _constants(region: Region) -> dict[int, Any]:
    return {i: v.const for i, v in enumerate(region.anchor_inputs) if v is not None and v.const is not None}


def _full_rank(array: Any, rank: int) -> Any:
    return array.reshape((1,) * (rank - array.ndim) + array.shape)
