"""The build: model file -> graph -> passes -> regions -> tuned kernels -> memory -> plan, one call per step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from temper.assemble import Part, Variant, assemble
from temper.config import BuildConfig, knob
from temper.errors import ConfigError
from temper.ir.dims import Dim, evaluate
from temper.ir.graph import Graph
from temper.partitioning import Partition, Partitioner
from temper.passes.host import data_sizes
from temper.passes.manager import Log, Pass, run_passes
from temper.passes.narrow import check_pins
from temper.passes.partition import dependencies
from temper.passes.pipeline import FLOAT, PIPELINE, for_gpus, quantizing
from temper.plan import format as plan_format
from temper.plan.schedule import ConstantPool
from temper.profiles import Model, Sizes, check_profiles, resolve_sizes
from temper.programs import ProgramMaker, StageTimes, optimum_of, tasks_of
from temper.quantize.recipe import Recipe
from temper.target import Target, target_of
from temper.tune.candidates import predicted_seconds
from temper.tune.select import Choice, Progress, Tuner, cold_bytes
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
    watch = StageTimes()

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
        maker = ProgramMaker(tuner, partitioner, pool, watch, share)
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
                    tuner.ahead(tasks_of(own, parts, optimum_of(sizes.ranges[i]), pool, {}, tuner.effort))
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
    env = {**data_sizes(p.region for p in parts), **optimum_of(sizes.ranges[members[0]])}
    found: list[tuple[Mapping[str, object], float]] = []
    for part, reads in zip(parts, dependencies([p.region for p in parts]), strict=True):
        seconds = None
        if part.reason is None:
            own = {s: evaluate(part.sizes.get(s, Dim.symbol(s)), env) for s in part.workload.symbols}
            seconds = predicted_seconds(partitioner.tactics, part.workload, own)
        row = {"name": part.region.name, "origin": list(part.region.origin), "inputs": sorted(reads)}
        found.append((row, seconds or 0.0))
    return found


def check_precision(config: BuildConfig, target: Target) -> None:
    """ConfigError for a precision that the target's kernels do not have."""
    if config.precision != "fp32" and not target.widens:
        raise ConfigError(
            f"precision='{config.precision}' (--{config.precision}) stores tensors in half precision on a GPU: build "
            "with device='cuda'; a CPU computes in bfloat16 what precision='int8' (--int8) finds too sensitive for "
            "INT8, where its instructions have it, and what --keep 'PATTERN=bf16' names"
        )


def _check_disabled(names: Sequence[str], log: Log, target: Target) -> None:
    """ConfigError for a name that is neither a pass, nor a tactic, nor a rule that matched anywhere in this model."""
    known = {*(p.name for p in (*PIPELINE, *for_gpus(PIPELINE))), "narrow", *(t.name for t in target.tactics())}
    known |= {rule for rule, _, _ in log.declined}
    if unknown := sorted(set(names) - known):
        raise ConfigError(
            f"cannot disable {', '.join(unknown)}: there is no such pass, tactic, or rule that matches in this model; "
            f"the passes are {', '.join(p.name for p in PIPELINE)}; "
            f"the tactics are {', '.join(t.name for t in target.tactics())}"
        )


def _portable(graph: Graph, quantize: Recipe | None) -> bytes:
    """The graph to build again from; of one that is made integer, its Q/DQ form."""
    from temper.ir.portable import to_bytes

    if quantize is None:
        return to_bytes(graph)
    own = graph.copy()
    run_passes(own, (*FLOAT, Pass("quantize", quantize.apply)), always=_verifies())
    own.prune()  # the float weights behind the codes
    return to_bytes(own)
