"""The build: model file -> graph -> passes -> regions -> tuned kernels -> memory -> plan. One straight road, a call per
step."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from temper.compile.cc import ISAS, link
from temper.compile.host import host_library
from temper.config import BuildConfig, knob
from temper.errors import ConfigError, ShapeError, VerificationError
from temper.ir.dims import Dim, evaluate
from temper.ir.evaluate import bind_attr
from temper.ir.graph import Graph
from temper.ir.ops import TABLE
from temper.passes.manager import Log, run_passes
from temper.passes.partition import Region, dependencies, order_regions, partition
from temper.passes.pipeline import PIPELINE
from temper.plan import format as plan_format
from temper.plan.memory import lower_bound, plan_memory
from temper.plan.memory_check import check_memory, plan_faults
from temper.plan.schedule import NativeStep, PlannedStep, Program, ReferenceStep, largest, schedule
from temper.plan.storage import Storage, assign_storage
from temper.runtime import machine
from temper.tactics.base import Workload
from temper.tactics.sources import cpu_tactics
from temper.tactics.workload import workload
from temper.tune.select import Choice, Progress, Task, Tuner, cold_bytes
from temper.tune.timing_cache import TimingCache, digest

if TYPE_CHECKING:
    import onnx

Model = Union[str, Path, bytes, "onnx.ModelProto", Graph]
Ranges = Mapping[str, tuple[int, int, int]]


@dataclass(frozen=True)
class Build:
    """A finished build. seconds: wall time of every stage; kept out of the plan, which must not depend on time.

    regions and workloads go together, in order of execution; choices: the kernel of every compiled workload, by key.
    """

    plan: plan_format.Plan
    graph: Graph
    log: Log
    seconds: Mapping[str, float]
    regions: tuple[Region, ...] = ()
    workloads: tuple[Workload, ...] = ()
    choices: Mapping[str, Choice] = field(default_factory=dict)


def best_isa(chosen: str = "") -> str:
    """The highest code level this machine can run, or the one `chosen`, or TEMPER_ISA, asks for. ConfigError if it
    cannot run that one."""
    flags = machine.cpu_flags()
    chosen = chosen or knob("TEMPER_ISA")
    if chosen:
        if chosen not in ISAS:
            raise ConfigError(f"there is no code level {chosen!r}; choose from {', '.join(ISAS)}")
        missing = ISAS[chosen].needs - flags
        if missing:
            raise ConfigError(f"this machine cannot run {chosen} code: it lacks {', '.join(sorted(missing))}")
        return chosen
    return next(name for name, isa in ISAS.items() if isa.needs <= flags)


def build_plan(model: Model, config: BuildConfig | None = None, *, progress: Progress | None = None) -> Build:
    """Builds a plan from an ONNX file (path, bytes or ModelProto) or a graph. Raises TemperError kinds only."""
    config = config or BuildConfig()
    report_progress: Progress = progress or (lambda stage, done, total: None)
    dump = config.dump or (Path(knob("TEMPER_DUMP")) if knob("TEMPER_DUMP") else None)
    isa = best_isa(config.isa)
    watch = _Watch()

    report_progress("import", 0, 1)
    graph, ranges = _import(model, config)
    portable = _portable(graph) if config.portable_graph else b""
    imported = len(graph.nodes)
    watch.lap("import")

    report_progress("passes", 0, 1)
    log = run_passes(graph, PIPELINE, dump=dump, stop_after=config.stop_after, disable=config.disable)
    watch.lap("passes")

    _check_profiles(graph, ranges)
    tactics = [t for t in cpu_tactics() if t.name not in config.disable]
    _check_disabled(config.disable, log)

    def declines(w: Workload) -> str | None:
        able = [t for t in tactics if w.op in t.ops]
        reasons = [f"{t.name}: {r}" for t in able if (r := t.accepts(w)) is not None]
        if len(reasons) < len(able):
            return None
        return "; ".join(reasons) or f"there is no kernel for {w.op}"

    regions = _split_declined(partition(graph, log), lambda r: declines(workload(r, isa, config.threads)), log)
    storage = assign_storage(
        graph, regions, lambda r, strides: declines(workload(r, isa, config.threads, strides)) is None, log
    )
    watch.lap("partition")

    tuned_at = {name: opt for name, (_, opt, _) in ranges[0].items()}
    workloads = [workload(r, isa, config.threads, storage.strides) for r in storage.regions]
    reasons = [declines(w) for w in workloads]
    cache = TimingCache(config.cache)
    try:
        tuner = Tuner(
            tactics,
            digest(repr(sorted(machine.fingerprint().items(), key=str))),
            cache,
            config.effort,
            config.jobs,
            cold_bytes(
                sum(v.const.nbytes for v in graph.constants if v.const is not None),
                max(machine.cache_sizes().values(), default=1 << 25),
            ),
            report_progress,
            dump,
        )
        choices = tuner.choose(
            [
                _task(r, w, tuned_at)
                for r, w, reason in zip(storage.regions, workloads, reasons, strict=True)
                if reason is None
            ]
        )
        hits = (cache.hits, cache.misses)
    finally:
        cache.close()
    watch.lap("tune")

    report_progress("plan", 0, 1)
    steps: list[PlannedStep] = []
    for region, w, reason in zip(storage.regions, workloads, reasons, strict=True):
        if reason is not None:
            log.did_not("compile", region.name, reason)
            steps.append(ReferenceStep(region, reason))
            continue
        choice = choices[w.key]
        c = choice.candidate
        packed = c.tactic.prepack(w, c.params, _constants(region))
        steps.append(NativeStep(region, c.kernel, packed, choice.seconds))
    program = schedule(graph, storage, steps, config.threads)
    plan = _assemble(
        graph, storage, program, steps, workloads, choices, ranges, config, isa, log, portable, tuned_at, imported
    )
    watch.lap("plan")
    report_progress("plan", 1, 1)
    seconds = {**watch.laps, "cache_hits": hits[0], "cache_misses": hits[1]}
    return Build(plan, graph, log, seconds, tuple(storage.regions), tuple(workloads), choices)


def _check_disabled(names: Sequence[str], log: Log) -> None:
    """ConfigError for a name that is no pass, no tactic, and no rule that matched anywhere in this model."""
    known = {p.name for p in PIPELINE} | {t.name for t in cpu_tactics()} | {rule for rule, _, _ in log.declined}
    if unknown := sorted(set(names) - known):
        raise ConfigError(
            f"cannot disable {', '.join(unknown)}: it is no pass, no tactic and no rule that matches in this model; "
            f"the passes are {', '.join(p.name for p in PIPELINE)}; "
            f"the tactics are {', '.join(t.name for t in cpu_tactics())}"
        )


def _check_profiles(graph: Graph, ranges: Sequence[Ranges]) -> None:
    """Shapes inferred with symbols must hold at both ends of every profile: ShapeError names the node where they do
    not."""
    for symbols in ranges:
        for end in (0, 2):
            env = {name: r[end] for name, r in symbols.items()}
            for node in graph.nodes if env else ():
                if not frozenset().union(*(o.type.symbols for o in node.outputs)) <= set(env):
                    continue  # a length that depends on data: the host finds it
                attrs = {k: bind_attr(v, env) for k, v in node.attrs.items()}
                at = ", ".join(f"{k} = {v}" for k, v in sorted(env.items()))
                try:
                    found = TABLE[node.op].infer([None if v is None else v.type.bind(env) for v in node.inputs], attrs)
                except (ShapeError, KeyError) as e:
                    raise ShapeError(f"node '{node.name}' ({node.op}) does not work with {at}: {e}") from e
                want = [o.type.bind(env) for o in node.outputs]
                if list(found) != want:
                    raise ShapeError(
                        f"node '{node.name}' ({node.op}) gives {found[0]} with {at}, not {want[0]} as in the "
                        "rest of the profile: choose a profile in which it keeps its form"
                    )


class _Watch:
    def __init__(self) -> None:
        self._last = time.perf_counter()
        self.laps: dict[str, float] = {}

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.laps[name], self._last = now - self._last, now


def _import(model: Model, config: BuildConfig) -> tuple[Graph, list[dict[str, tuple[int, int, int]]]]:
    """The graph, with symbols that have a single value bound, and every profile's ranges of the symbols left."""
    from temper.frontends.onnx import import_onnx

    graph = model.copy() if isinstance(model, Graph) else import_onnx(model, shapes=config.shapes)
    symbols = sorted(frozenset().union(*(v.type.symbols for v in graph.inputs)))
    profiles = [p.ranges for p in config.profiles] or [{}]
    for p in profiles:
        unknown = set(p) - set(symbols)
        if unknown:
            raise ConfigError(
                f"a profile gives a range for {', '.join(sorted(unknown))}, "
                f"but the model's dimensions are: {', '.join(symbols) or 'all static'}"
            )
    full = [{s: p.get(s, (1, 1, 1)) for s in symbols} for p in profiles]
    fixed = {s: full[0][s][0] for s in symbols if len({v for p in full for v in p[s]}) == 1}
    if fixed and not isinstance(model, Graph):
        graph = import_onnx(model, shapes=config.shapes, dims=fixed)
        full = [{s: r for s, r in p.items() if s not in fixed} for p in full]
    return graph, full


def _portable(graph: Graph) -> bytes:
    from temper.ir.portable import to_bytes

    return to_bytes(graph)


def _constants(region: Region) -> dict[int, Any]:
    return {i: v.const for i, v in enumerate(region.anchor_inputs) if v is not None and v.const is not None}


def _task(region: Region, w: Workload, env: Mapping[str, int]) -> Task:
    operands = {
        i: _full_rank(v.const, len(w.outputs[0].type.shape))
        for i, v in enumerate(region.operands)
        if v.const is not None
    }
    return Task(w, _constants(region), operands, {s: env[s] for s in w.symbols}, region.name)


def _full_rank(array: Any, rank: int) -> Any:
    return array.reshape((1,) * (rank - array.ndim) + array.shape)


def _split_declined(regions: Sequence[Region], declines: Callable[[Region], str | None], log: Log) -> list[Region]:
    """Regions whose epilogue no tactic takes are split into anchor and rest, and pointwise chains into single nodes."""
    out: list[Region] = []
    for region in regions:
        reason = declines(region)
        parts = region.split() if reason is not None else (region,)
        if len(parts) > 1 and reason is not None:
            log.did_not("fuse epilogue", region.name, reason)
            parts = tuple(_split_declined(parts, declines, log))
        out += parts
    return order_regions(out)


def _assemble(
    graph: Graph,
    storage: Storage,
    program: Program,
    steps: Sequence[PlannedStep],
    workloads: Sequence[Workload],
    choices: Mapping[str, Choice],
    ranges: Sequence[Ranges],
    config: BuildConfig,
    isa: str,
    log: Log,
    portable: bytes,
    tuned_at: Mapping[str, int],
    imported: int,
) -> plan_format.Plan:
    profiles, memory = [], []
    for symbols in ranges:
        env = {name: high for name, (_, _, high) in symbols.items()}
        spans = [(evaluate(size, env), b.first, b.last) for size, b in zip(program.sizes, program.buffers, strict=True)]
        offsets, arena = plan_memory(spans)
        check_memory(spans, offsets, arena)
        memory.append({"arena": arena, "lower_bound": lower_bound(spans)})
        profiles.append(
            plan_format.Profile(
                dict(symbols), offsets, arena, largest(program.workspaces, env), largest(program.shared, env)
            )
        )
    chosen = sorted({w.key for w in workloads if w.key in choices})
    kernels = link([choices[k].code for k in chosen]) if chosen else b""
    rows = []
    for step, w, needs in zip(steps, workloads, dependencies([s.region for s in steps]), strict=True):
        region = step.region
        row: dict[str, Any] = {
            "name": region.name,
            "op": region.op,
            "nodes": [n.op for n in region.nodes],
            "origin": list(region.origin),
            "inputs": sorted(needs),
            "outputs": [f"{v.name}: {v.type}" for v in region.outputs],
            "operations": _operations(region, tuned_at),
            "bytes": sum(v.type.nbytes(tuned_at) for v in (*region.inputs, *region.outputs)),
            "workload": w.key,
        }
        if isinstance(step, NativeStep):
            choice = choices[w.key]
            row |= {
                "tactic": choice.candidate.label,
                "seconds": choice.seconds,
                "trials": [[t.label, t.seconds, t.note] for t in choice.trials],
                "results": [
                    [
                        v.name,
                        v.type.dtype,
                        [str(d) if isinstance(d, Dim) else d for d in v.type.shape],
                        storage.places[v.id].row_stride,
                        step.kernel.args.index(("output", i)),
                    ]
                    for i, v in enumerate(region.outputs)
                ],
            }
        else:
            row |= {"tactic": "host", "reason": step.reason}
        rows.append(row)
    report = {
        "regions": rows,
        "applied": [list(a) for a in log.applied],
        "declined": [list(d) for d in log.declined],
        "memory": memory,
        "in_place": program.in_place,
        "views": sum(1 for p in storage.places.values() if p.row_stride is not None),
        "weights": len(program.constants),
        "nodes": [imported, len(graph.nodes)],
        "effort": config.effort,
        "stop_after": config.stop_after,
        "disable": list(config.disable),
        "model": graph.name,
    }
    plan = plan_format.Plan(
        machine.fingerprint(),
        isa,
        tuple(sorted(ISAS[isa].needs)),
        config.threads,
        program.inputs,
        program.outputs,
        tuple(profiles),
        program.buffers,
        (program.segments,),
        program.constants,
        kernels,
        host_library(),
        report=report,
        graph=portable,
    )
    if faults := plan_faults(plan):
        raise VerificationError(
            "the memory plan is unsound (a bug in Temper, please report it): " + "; ".join(faults[:5])
        )
    return plan


def _operations(region: Region, env: Mapping[str, int]) -> int:
    total = 0
    for n in region.nodes:
        cost = TABLE[n.op].cost([None if v is None else v.type for v in n.inputs], [o.type for o in n.outputs], n.attrs)
        total += evaluate(cost, env)
    return total
