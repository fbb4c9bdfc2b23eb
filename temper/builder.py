"""The build: model file -> graph -> passes -> regions -> tuned kernels -> memory -> plan, one call per step."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from temper.assemble import Part, Variant, assemble
from temper.config import BuildConfig, knob
from temper.errors import ConfigError
from temper.ir.dims import Dim, evaluate
from temper.ir.graph import Graph
from temper.partitioning import Partition, Partitioner
from temper.passes.host import data_sizes
from temper.passes.manager import Log, Pass, run_passes
from temper.passes.narrow import check_pins
from temper.passes.partition import Region, dependencies
from temper.passes.pipeline import FLOAT, PIPELINE, for_gpus, quantizing
from temper.plan import format as plan_format
from temper.plan.schedule import ConstantPool, NativeStep, PlannedStep, ReferenceStep, schedule
from temper.profiles import Model, Ranges, Sizes, check_profiles, resolve_sizes
from temper.quantize.recipe import Recipe
from temper.tactics.base import packed
from temper.target import Target, target_of
from temper.tune.candidates import Candidate, predicted_seconds
from temper.tune.select import Choice, Progress, Task, Tuner, cold_bytes
from temper.tune.timing_cache import TimingCache, digest


@dataclass(frozen=True)
class Build:
    """A finished build. seconds: wall time of every stage; kept out of the plan, which must not depend on time.

    graph, log, parts and choices are the first profile's; parts and choices go together, in order of execution (no
    choice: a host step).
    """

    plan: plan_format.Plan
    graph: Graph
    log: Log
    seconds: Mapping[str, float]
    parts: tuple[Part, ...] = ()
    choices: tuple[Choice | None, ...] = ()


def build_plan(
    model: Model,
    config: BuildConfig | None = None,
    *,
    progress: Progress | None = None,
    quantize: Recipe | None = None,
    share: bool = True,
) -> Build:
    """Builds a plan from an ONNX file (path, bytes or ModelProto) or a graph. Raises TemperError kinds only.

    quantize: what is computed in INT8, for the graph that `float_graph` gives; ConfigError if it is not for this model.
    share: False gives every tensor memory of its own, so that any part of the program can be run again.

    Profiles that fix the same symbols are compiled from one graph in which those are constants; each profile is tuned
    at its own optimum and has a program of its own. Equal kernels and equal packed weights are in the plan once.
    """
    config = config or BuildConfig()
    report_progress: Progress = progress or (lambda stage, done, total: None)
    dump = config.dump or (Path(knob("TEMPER_DUMP")) if knob("TEMPER_DUMP") else None)
    target = target_of(config)
    check_precision(config, target)
    partitioner = Partitioner([t for t in target.tactics() if t.name not in config.disable], target, config)
    passes = partitioner.passes(PIPELINE if quantize is None else quantizing(quantize.apply))
    watch = _Watch()

    report_progress("import", 0, 1)
    sizes = resolve_sizes(model, config)
    portable = _portable(sizes.graph, quantize) if config.portable_graph else b""
    watch.lap("import")

    variants: dict[int, Variant] = {}
    pool = ConstantPool()
    cache, device = TimingCache(config.cache), target.device()
    try:
        tuner = Tuner(
            partitioner.tactics,
            device,
            digest(repr(sorted(target.fingerprint.items(), key=str))),
            cache,
            config.effort,
            config.jobs,
            cold_bytes(
                sum(v.const.nbytes for v in sizes.graph.constants if v.const is not None),
                target.cache_bytes,
            ),
            report_progress,
            dump,
        )
        maker = _Maker(tuner, partitioner, pool, watch, share)
        found: dict[int, tuple[Graph, Partition, Log, int]] = {}
        every = Log()
        for fixed, members in sizes.groups().items():
            own = sizes.graph_with(dict(fixed))
            imported = len(own.nodes)
            watch.lap("import")
            report_progress("passes", 0, 1)
            log = run_passes(
                own, passes, dump=dump, stop_after=config.stop_after, disable=config.disable, always=_verifies()
            )
            every.add(log)
            check_profiles(own, [sizes.ranges[i] for i in members])
            watch.lap("passes")
            parts = partitioner.parts(own, log, target.alignment)
            watch.lap("partition")
            for i in members:
                found[i] = own, parts, log, imported
                # compilers are at work while other profiles' graphs are made, and while others are timed
                if device.overlaps:
                    tuner.ahead(_tasks(own, parts, _optimum(sizes.ranges[i]), pool, {}, tuner.effort))
            watch.lap("tune")
        # what one profile's graph lacks another's may have: at a batch of one some layers are others
        _check_disabled(config.disable, every, target)
        if not config.stop_after:
            check_pins(config.wide, every)
            if quantize is not None:
                quantize.check(every)
        for i, (own, parts, log, imported) in found.items():
            variants[i] = maker.variant(own, parts, sizes.ranges[i], log, imported, variants)
            watch.lap("plan")
        hits = (cache.hits, cache.misses)
    finally:
        cache.close()
        device.close()

    made = [variants[i] for i in range(len(variants))]
    plan = assemble(made, maker.subs, sizes.graph, pool, config, target, portable)
    watch.lap("plan")
    report_progress("plan", 1, 1)
    seconds = {**watch.laps, "cache_hits": hits[0], "cache_misses": hits[1]}
    return Build(plan, variants[0].graph, variants[0].log, seconds, variants[0].parts, variants[0].choices)


def float_graph(model: Model | Sizes, config: BuildConfig | None = None) -> Graph:
    """The graph of the first profile as it is before a recipe makes it integer. Its names are the same in every run and
    profile."""
    config = config or BuildConfig()
    sizes = model if isinstance(model, Sizes) else resolve_sizes(model, config)
    graph = sizes.graph_with(dict(next(iter(sizes.groups()))))
    run_passes(graph, FLOAT, disable=config.disable, always=_verifies())
    return graph


def _verifies() -> bool:
    """Whether graphs are verified even after passes that edited nothing."""
    return knob("TEMPER_VERIFY") == "1"


def predict_build(
    model: Model, config: BuildConfig, *, quantize: Recipe | None = None
) -> list[tuple[Mapping[str, object], float]]:
    """What the cost model predicts of a build's first profile, without compiling anything.

    For every region in order: "name", "origin" and "inputs" as in the build report's row, and the predicted seconds of
    its fastest candidate (0 for a region on the host).
    """
    target = target_of(config)
    partitioner = Partitioner([t for t in target.tactics() if t.name not in config.disable], target, config)
    sizes = resolve_sizes(model, config)
    fixed, members = next(iter(sizes.groups().items()))
    graph = sizes.graph_with(dict(fixed))
    passes = partitioner.passes(PIPELINE if quantize is None else quantizing(quantize.apply))
    run_passes(graph, passes, disable=config.disable, always=_verifies())
    parts = partitioner.parts(graph, Log(), target.alignment).parts
    env = {**data_sizes(p.region for p in parts), **_optimum(sizes.ranges[members[0]])}
    found: list[tuple[Mapping[str, object], float]] = []
    for part, reads in zip(parts, dependencies([p.region for p in parts]), strict=True):
        seconds = None
        if part.reason is None:
            own = {s: evaluate(part.sizes.get(s, Dim.symbol(s)), env) for s in part.workload.symbols}
            seconds = predicted_seconds(partitioner.tactics, part.workload, own)
        row = {"name": part.region.name, "origin": list(part.region.origin), "inputs": sorted(reads)}
        found.append((row, seconds or 0.0))
    return found


class _Maker:
    """Makes the programs of one plan, including those of sub-graphs, and numbers their buffers, slots and rows."""

    def __init__(
        self,
        tuner: Tuner,
        partitioner: Partitioner,
        pool: ConstantPool,
        watch: _Watch,
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
        chosen, choices = _tune(self.tuner, graph, parts, _optimum(ranges), self.pool, others, log)
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
    tasks = _tasks(graph, parts, env, pool, taken, tuner.effort)
    chosen = tuner.choose(tasks)
    found = iter([chosen.get(t.key) for t in tasks])
    choices = [None if p.reason is not None else next(found) for p in parts.parts]
    together = list(found)
    for (chain, _), choice in zip(parts.chains, together, strict=True):
        if choice is None:
            log.did_not("chain", chain.region.name, "every candidate kernel failed its check")
    return _with_chains(parts, choices, together)


def _tasks(
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


def _optimum(ranges: Ranges) -> dict[str, int]:
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
    return tuple(k[0] for k in kept if k is not None), tuple(k[1] for k in kept if k is not None)


def _step(graph: Graph, part: Part, choice: Choice | None, log: Log) -> PlannedStep:
    if choice is None:
        assert part.reason is not None
        if ("compile", part.region.name, part.reason) not in log.declined:
            log.did_not("compile", part.region.name, part.reason)
        return ReferenceStep(part.region, part.reason)
    c = choice.candidate
    arrays = packed(c.tactic, part.workload, c.params, _constants(part.region), graph.derived)
    return NativeStep(part.region, c.kernel, arrays, choice.seconds, part.sizes)


def check_precision(config: BuildConfig, target: Target) -> None:
    """ConfigError for a precision that the target's kernels do not have."""
    if config.precision != "fp32" and not target.widens:
        raise ConfigError(
            f"precision='{config.precision}' (--{config.precision}) stores tensors in half precision on a GPU: build "
            "with device='cuda'; a CPU computes in bfloat16 what precision='int8' (--int8) finds too sensitive for "
            "INT8, where its instructions have it, and what --keep 'PATTERN=bf16' names"
        )


def _check_disabled(names: Sequence[str], log: Log, target: Target) -> None:
    """ConfigError for a name that is no pass, no tactic, and no rule that matched anywhere in this model."""
    known = {*(p.name for p in (*PIPELINE, *for_gpus(PIPELINE))), "narrow", *(t.name for t in target.tactics())}
    known |= {rule for rule, _, _ in log.declined}
    if unknown := sorted(set(names) - known):
        raise ConfigError(
            f"cannot disable {', '.join(unknown)}: it is no pass, no tactic and no rule that matches in this model; "
            f"the passes are {', '.join(p.name for p in PIPELINE)}; "
            f"the tactics are {', '.join(t.name for t in target.tactics())}"
        )


class _Watch:
    def __init__(self) -> None:
        self._last = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._last = self.laps.get(name, 0.0) + now - self._last, now


def _portable(graph: Graph, quantize: Recipe | None) -> bytes:
    """The graph to build again from; of one that is made integer, its Q/DQ form."""
    from temper.ir.portable import to_bytes

    if quantize is None:
        return to_bytes(graph)
    own = graph.copy()
    run_passes(own, (*FLOAT, Pass("quantize", quantize.apply)), always=_verifies())
    own.prune()  # the float weights behind the codes
    return to_bytes(own)


def _constants(region: Region) -> dict[int, Any]:
    return {i: v.const for i, v in enumerate(region.anchor_inputs) if v is not None and v.const is not None}


def _full_rank(array: Any, rank: int) -> Any:
    return array.reshape((1,) * (rank - array.ndim) + array.shape)
