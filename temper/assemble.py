"""Assembles a plan from programs: every profile's memory, the machine code of all of them, and the build report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from temper.config import BuildConfig
from temper.errors import VerificationError
from temper.ir.dims import Dim, DimLike, evaluate
from temper.ir.graph import Graph
from temper.ir.ops import TABLE
from temper.passes.host import data_sizes
from temper.passes.manager import Log
from temper.passes.partition import dependencies
from temper.passes.region import Region
from temper.plan.conflicts import program_faults
from temper.plan.format import Plan, Profile, SubProgram
from temper.plan.memory import lower_bound, plan_memory
from temper.plan.memory_check import check_memory, plan_faults
from temper.plan.schedule import ConstantPool, NativeStep, PlannedStep, Program, binding, largest
from temper.plan.storage import Storage
from temper.profiles import Ranges
from temper.tactics.base import Workload
from temper.target import Target
from temper.tune.select import Choice


@dataclass(frozen=True)
class Part:
    """A region and its workload. sizes: what the workload's variables stand for in the graph's symbols. reason: why no
    tactic computes it; None where one does."""

    region: Region
    workload: Workload
    sizes: Mapping[str, DimLike]
    reason: str | None


@dataclass(frozen=True)
class Variant:
    """One profile's program, and what it was made from. parts, choices and steps go together, in order of execution.

    imported: nodes of its graph before the passes. first_row: its first row of the build report.
    """

    ranges: Ranges
    graph: Graph
    log: Log
    imported: int
    storage: Storage
    program: Program
    steps: Sequence[PlannedStep]
    parts: tuple[Part, ...]
    choices: tuple[Choice | None, ...]
    first_row: int = 0

    @property
    def tuned_at(self) -> dict[str, int]:
        found = data_sizes(p.region for p in self.parts)
        return {**found, **{name: opt for name, (_, opt, _) in self.ranges.items()}}


def assemble(
    variants: Sequence[Variant],
    subs: Sequence[Variant],
    graph: Graph,
    pool: ConstantPool,
    config: BuildConfig,
    target: Target,
    portable: bytes,
) -> Plan:
    """The plan of these profiles, in order. subs: programs of sub-graphs. graph: over the symbols of all profiles; it
    states inputs and outputs.

    VerificationError if memory is laid out wrongly, which is a bug.
    """
    profiles: list[Profile] = []
    rows: list[dict[str, Any]] = []
    memory: list[dict[str, int]] = []
    chosen: dict[str, Choice] = {}
    total = sum(len(v.program.buffers) for v in variants)
    first = 0
    for number, v in enumerate(variants):
        env = {name: high for name, (_, _, high) in v.ranges.items()}
        sizes = zip(v.program.sizes, v.program.buffers, strict=True)
        spans = [(evaluate(size, env), b.first, b.last) for size, b in sizes]
        offsets, arena = plan_memory(spans)
        check_memory(spans, offsets, arena)
        memory.append({"arena": arena, "lower_bound": lower_bound(spans)})
        padded = (*(-1,) * first, *offsets, *(-1,) * (total - first - len(offsets)))
        scratch, shared = largest(v.program.workspaces, env), largest(v.program.shared, env)
        profiles.append(Profile(dict(v.ranges), padded, arena, scratch, shared, number))
        first += len(offsets)
    for v in sorted((*variants, *subs), key=lambda v: v.first_row):
        rows += _rows(v, next(i for i, of in enumerate(variants) if of.ranges is v.ranges), v.first_row)
        for choice in v.choices:
            if choice is not None:
                chosen[choice.candidate.code_key] = choice
    one = variants[0]
    report = {
        "regions": rows,
        "applied": [list(a) for a in dict.fromkeys(a for v in variants for a in v.log.applied)],
        "declined": [list(d) for d in dict.fromkeys(d for v in variants for d in v.log.declined)],
        "memory": memory,
        "in_place": one.program.in_place,
        "views": sum(1 for p in one.storage.places.values() if p.row_stride is not None),
        "weights": len(pool.bytes),
        "nodes": [one.imported, len(one.graph.nodes)],
        "effort": config.effort,
        "precision": config.precision,
        "wide": list(config.wide),
        "tf32": config.tf32,
        "stop_after": config.stop_after,
        "disable": list(config.disable),
        "model": graph.name,
    }
    plan = Plan(
        dict(target.fingerprint),
        target.isa,
        target.needs,
        config.threads,
        tuple(binding(v, v.name) for v in graph.inputs),
        tuple(binding(v, n) for v, n in zip(graph.outputs, graph.output_names, strict=True)),
        tuple(profiles),
        tuple(b for v in variants for b in v.program.buffers),
        tuple(v.program.segments for v in variants),
        pool.bytes,
        target.kernels(chosen),
        target.host(),
        slots=tuple(s for v in variants for s in v.program.slots),
        subs=tuple(_sub(v) for v in subs),
        report=report,
        graph=portable,
        device=target.name,
    )
    if faults := plan_faults(plan) or program_faults(plan, target.order):
        raise VerificationError(
            "the memory plan is unsound (a bug in Temper, please report it): " + "; ".join(faults[:5])
        )
    return plan


def _sub(v: Variant) -> SubProgram:
    """A sub-graph's program; memory whose size is not known at build is allocated when it runs."""
    env = {name: high for name, (_, _, high) in v.ranges.items()}
    sizes = zip(v.program.sizes, v.program.buffers, strict=True)
    spans = [(evaluate(size, env), b.first, b.last) for size, b in sizes]
    offsets, arena = plan_memory(spans)
    check_memory(spans, offsets, arena)
    scratch, shared = largest(v.program.workspaces, env), largest(v.program.shared, env)
    own = {str(d) for x in v.graph.inputs for d in x.type.shape if isinstance(d, Dim)} - set(v.ranges)
    used = v.graph.free_symbols | set(v.ranges)
    return SubProgram(
        v.graph.name,
        tuple(sorted(used - own)),
        tuple(binding(x, x.name) for x in v.graph.inputs),
        tuple(binding(x, n) for x, n in zip(v.graph.outputs, v.graph.output_names, strict=True)),
        Profile(dict(v.ranges), offsets, arena, scratch, shared),
        v.program.buffers,
        v.program.segments,
        v.program.slots,
    )


def _rows(v: Variant, number: int, before: int) -> list[dict[str, Any]]:
    """Rows of the build report: one a region. profile: number of the profile whose program it is part of."""
    rows = []
    tuned_at = v.tuned_at
    needs = dependencies([s.region for s in v.steps])
    for step, part, choice, reads in zip(v.steps, v.parts, v.choices, needs, strict=True):
        region = step.region
        row: dict[str, Any] = {
            "name": region.name,
            "op": region.op,
            "profile": number,
            "nodes": [n.op for n in region.all_nodes],
            "origin": list(region.origin),
            "inputs": [before + i for i in sorted(reads)],
            "outputs": [f"{o.name}: {o.type}" for o in region.outputs],
            "operations": _operations(region, tuned_at),
            "bytes": sum(x.type.nbytes(tuned_at) for x in (*region.inputs, *region.outputs)),
            "workload": part.workload.key,
            "sizes": {x: evaluate(part.sizes.get(x, Dim.symbol(x)), tuned_at) for x in part.workload.symbols},
        }
        if isinstance(step, NativeStep):
            assert choice is not None
            row |= {
                "tactic": choice.candidate.label,
                "seconds": choice.seconds,
                "trials": [[t.label, t.seconds, t.note] for t in choice.trials],
                "results": [
                    [
                        o.name,
                        o.type.dtype,
                        [str(d) if isinstance(d, Dim) else d for d in o.type.shape],
                        v.storage.places[o.id].row_stride,
                        step.kernel.args.index(("output", i)),
                    ]
                    for i, o in enumerate(region.outputs)
                ],
            }
        else:
            row |= {"tactic": "host", "reason": step.reason}
        rows.append(row)
    return rows


def _operations(region: Region, env: Mapping[str, int]) -> int:
    total = 0
    for n in region.all_nodes:
        cost = TABLE[n.op].cost([None if v is None else v.type for v in n.inputs], [o.type for o in n.outputs], n.attrs)
        total += evaluate(cost, env)
    return total
