"""`temper inspect`: what is in a plan or a model, what every layer became, and what did not happen and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from temper.plan.format import Plan


def inspect(
    file: Annotated[Path, typer.Argument(metavar="PLAN|ONNX", show_default=False)],
    layers: Annotated[
        bool, typer.Option("--layers", help="Every layer: ops fused, shapes, work, tactic, time as tuned.")
    ] = False,
    tactics: Annotated[
        bool, typer.Option("--tactics", help="Every candidate's time and every declined tactic's reason.")
    ] = False,
    memory: Annotated[
        bool, typer.Option("--memory", help="Buffers, lifetimes, arena; with --svg as a picture.")
    ] = False,
    reasons: Annotated[bool, typer.Option("--reasons", help="Everything that did not happen, and why.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Nothing left out: with --tactics also tactics for other ops.")
    ] = False,
    profile: Annotated[int, typer.Option(help="Number of the profile that --svg draws, from 0.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
    svg: Annotated[
        Path | None,
        typer.Option(
            help="Write the graph of layers (or, with --memory, of lifetimes) to this file.", show_default=False
        ),
    ] = None,
) -> None:
    """Show what is inside a plan (or an ONNX file): overview, layers, tactics, memory, reasons."""
    from temper.cli.files import is_plan, write_whole
    from temper.cli.rows import layer_rows, memory_rows, reason_rows, tactic_rows
    from temper.cli.show import console, print_json
    from temper.cli.summary import summarize, summary_table
    from temper.errors import ConfigError
    from temper.plan.file import read

    if not is_plan(file):
        if layers or tactics or memory or reasons or svg is not None:
            raise ConfigError(f"{file} is a model, not a plan: build it first, then inspect the plan")
        _model(file, as_json)
        return
    plan = read(file)
    if profile >= len(plan.profiles):
        raise ConfigError(f"--profile {profile}: {file} has {len(plan.profiles)} profiles, numbered from 0")
    if svg is not None:
        write_whole(svg, (_memory_svg(plan, profile) if memory else _graph_svg(plan, profile)).encode())
        if not as_json:
            print(f"wrote {svg}")
        return
    parts: dict[str, Any] = {}
    if layers:
        parts["layers"] = layer_rows(plan)
    if tactics:
        parts["tactics"] = tactic_rows(plan, everything)
    if memory:
        parts["memory"] = memory_rows(plan)
    if reasons:
        parts["reasons"] = reason_rows(plan)
    if as_json:
        print_json(parts or {**summarize(plan, file.stat().st_size), "sections": _sections(file)})
        return
    screen = console()
    if not parts:
        screen.print(summary_table(summarize(plan, file.stat().st_size)))
        screen.print(
            "sections: " + ", ".join(f"{k} {v}" for k, v in _sections(file).items()) + " bytes",
            style="dim",
            markup=False,
        )
    if layers:
        from temper.cli.rows import sizes_text

        for k, p in enumerate(plan.profiles):
            if len(plan.profiles) > 1:
                screen.print(f"profile {k}: {sizes_text(p)}", style="bold", markup=False)
            _show_layers(screen, [r for r in parts["layers"] if r["profile"] == k])
    if tactics:
        _show_tactics(screen, parts["tactics"])
    if memory:
        _show_memory(screen, parts["memory"])
    if reasons:
        _show_reasons(screen, parts["reasons"])


def _model(file: Path, as_json: bool) -> None:
    from collections import Counter

    from temper.cli.show import console, facts, print_json, size
    from temper.cli.summary import binding_text
    from temper.frontends.onnx import import_onnx
    from temper.ir.dims import Dim, evaluate
    from temper.ir.ops import TABLE

    graph = import_onnx(file)
    symbols = sorted({s for v in graph.inputs for s in v.type.symbols})
    once = dict.fromkeys(symbols, 1)
    work = 0
    for n in graph.nodes:
        cost = TABLE[n.op].cost([None if v is None else v.type for v in n.inputs], [o.type for o in n.outputs], n.attrs)
        unbound = isinstance(cost, Dim) and not cost.symbols <= set(symbols)
        work += 0 if unbound else evaluate(cost, once)
    out = {
        "model": graph.name,
        "inputs": [
            [v.name, v.type.dtype, [d if isinstance(d, int) else str(d) for d in v.type.shape]] for v in graph.inputs
        ],
        "outputs": [
            [name, v.type.dtype, [d if isinstance(d, int) else str(d) for d in v.type.shape]]
            for name, v in zip(graph.output_names, graph.outputs, strict=True)
        ],
        "symbols": symbols,
        "nodes": len(graph.nodes),
        "ops": dict(Counter(n.op for n in graph.nodes).most_common()),
        "constants_bytes": sum(v.const.nbytes for v in graph.constants if v.const is not None),
        "operations": work,
    }
    if as_json:
        print_json(out)
        return
    console().print(
        facts(
            [
                ("inputs", "; ".join(binding_text(*b) for b in out["inputs"])),  # type: ignore[attr-defined]
                ("outputs", "; ".join(binding_text(*b) for b in out["outputs"])),  # type: ignore[attr-defined]
                ("open dimensions", ", ".join(symbols) or "none"),
                ("graph", f"{out['nodes']} nodes: " + ", ".join(f"{k} {op}" for op, k in out["ops"].items())),  # type: ignore[attr-defined]
                ("weights", size(sum(v.const.nbytes for v in graph.constants if v.const is not None))),
                (
                    "work",
                    f"{work / 1e9:.3g} GFLOP" + (f" at {', '.join(f'{s} = 1' for s in symbols)}" if symbols else ""),
                ),
            ]
        )
    )


def _sections(file: Path) -> dict[str, int]:
    from temper.plan.container import map_file, sections

    return {name: len(content) for name, content in sections(map_file(file), str(file))[1].items()}


def _memory_svg(plan: Plan, profile: int) -> str:
    from temper.cli.rows import arena_rows
    from temper.plan.memory_svg import lifetimes_svg

    p = plan.profiles[profile]
    names, spans, offsets = zip(*arena_rows(plan, p), strict=True) if any(at >= 0 for at in p.offsets) else ((), (), ())
    return lifetimes_svg(spans, offsets, p.arena_bytes, names)


def _graph_svg(plan: Plan, profile: int) -> str:
    from temper.cli.graph_svg import Box, draw
    from temper.cli.rows import layer_rows, regions_of
    from temper.cli.show import span

    numbers = {i: k for k, (i, _) in enumerate(regions_of(plan, profile))}
    rows = [r for r in layer_rows(plan) if r["profile"] == profile]
    boxes = [
        Box(
            r["name"],
            "+".join(r["ops"]),
            " · ".join(
                x
                for x in (
                    span(r["seconds"]) if r["seconds"] else "",
                    f"{r['gflops']:.0f} GFLOPS" if r["gflops"] and r["operations"] > 1e5 else "",
                )
                if x
            ),
            r["share"] or 0.0,
            r["tactic"] == "host",
            "\n".join([r["name"], *r["outputs"], r["tactic"], r["reason"]]).strip(),
        )
        for r in rows
    ]
    own = [r for _, r in regions_of(plan, profile)]
    edges = [(numbers[i], k) for k, r in enumerate(own) for i in r.get("inputs", []) if i in numbers]
    inputs, outputs = _ends(plan, profile, numbers)
    return draw(boxes, edges, inputs, outputs, plan.report.get("model", ""))


def _ends(
    plan: Plan, profile: int, numbers: Mapping[int, int]
) -> tuple[list[tuple[str, list[int]]], list[tuple[str, list[int]]]]:
    """Which regions of a profile's program read each input and write each output of the model. numbers: places of the
    report's rows in the program."""
    from temper.plan.format import Native

    reads: dict[int, set[int]] = {i: set() for i in range(len(plan.inputs))}
    writes: dict[int, set[int]] = {i: set() for i in range(len(plan.outputs))}
    for segment in plan.programs[plan.profiles[profile].program]:
        if isinstance(segment, Native):
            for launch in segment.launches:
                for k, a in enumerate(launch.args):
                    if a.kind == "input":
                        reads[a.index].add(launch.report)
                    elif a.kind == "output" and k in launch.writes:
                        writes[a.index].add(launch.report)
        else:
            for t in segment.inputs:
                if t is not None and t.ref.kind == "input":
                    reads[t.ref.index].add(segment.report)
            for t in segment.outputs:
                if t.ref.kind == "output":
                    writes[t.ref.index].add(segment.report)
    return (
        [(b.name, sorted(numbers[r] for r in reads[i] if r in numbers)) for i, b in enumerate(plan.inputs)],
        [(b.name, sorted(numbers[r] for r in writes[i] if r in numbers)) for i, b in enumerate(plan.outputs)],
    )


def _number(value: float | None, digits: str = ".1f") -> str:
    return "-" if value is None else format(value, digits)


def _some(names: Sequence[str], most: int = 3) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def _show_layers(screen: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    from temper.cli.show import size, table

    device = any("kernels" in r for r in rows)
    heads = ("us", "GFLOPS", "share %", *(("x floor", "bound", "regs", "shared", "kernel") if device else ()), "tactic")
    screen.print(
        table(
            ("layer", "ops", "output", "in", "MFLOP", "bytes", *heads),
            [
                (
                    r["name"],
                    "+".join(r["ops"]),
                    _some([o.rpartition(": ")[2] for o in r["outputs"]], 1),
                    r["precision"],
                    f"{r['operations'] / 1e6:.2f}",
                    size(r["bytes"]),
                    _number(None if r["seconds"] is None else 1e6 * r["seconds"]),
                    _number(r["gflops"]),
                    _number(None if r["share"] is None else 100 * r["share"]),
                    *(_on_gpu(r) if device else ()),
                    r["reason"] and f"host: {r['reason']}" or r["tactic"],
                )
                for r in rows
            ],
            wide=("tactic",),
        )
    )
    floats = [(r["name"], r["why_float"]) for r in rows if r["why_float"]]
    if floats:
        screen.print(table(("not in INT8", "because"), floats, wide=("because",)))


def _on_gpu(r: Mapping[str, Any]) -> tuple[str, ...]:
    """Times over the roofline's floor, what bounds that, registers per thread, bytes of shared memory, and the kernels'
    names as profilers show them."""
    from temper.cli.show import size

    kernels = r["kernels"]
    registers = max((k["registers"] for k in kernels), default=0)
    spilled = "!" if any(k["local"] for k in kernels) else ""
    shared = max((k["shared"] for k in kernels), default=0)
    return (
        _number(r["of_floor"], ".2f"),
        r["bound"],
        f"{registers}{spilled}" if kernels else "-",
        size(shared) if kernels else "-",
        _some([k["name"] for k in kernels], 1) or "-",
    )


def _show_tactics(screen: Any, rows: Iterable[Mapping[str, Any]]) -> None:
    from temper.cli.show import table

    for r in rows:
        at = f" at {r['sizes']}" if r["sizes"] else ""
        title = f"{_some(r['layers'])}\n  {r['workload']}{at}"
        if not r["trials"]:
            screen.print(f"{title}\n  host: {r['reason']}\n", markup=False)
            continue
        screen.print(title, style="bold", markup=False)
        screen.print(
            table(
                ("  ", "us", "candidate", "note"),
                [
                    (
                        "->" if t["tactic"] == r["chosen"] else "",
                        _number(None if t["seconds"] is None else 1e6 * t["seconds"], ".2f"),
                        t["tactic"],
                        t["note"],
                    )
                    for t in r["trials"]
                ],
                wide=("candidate", "note"),
            )
        )
        screen.print(f"  {r['other_ops']} tactics compute other ops\n" if r["other_ops"] else "", style="dim")


def _show_memory(screen: Any, rows: Iterable[Mapping[str, Any]]) -> None:
    from temper.cli.show import facts, size, table

    for m in rows:
        over = f" ({m['arena'] / m['lower_bound']:.3f}x)" if m["lower_bound"] else ""
        sizes = ", ".join(f"{k} {v[0]} to {v[2]}" for k, v in m["symbols"].items())
        screen.print(
            facts(
                [
                    *([("profile", sizes)] if sizes else []),
                    ("arena", f"{m['arena']} bytes, lower bound {m['lower_bound']}{over}, {m['sum']} without sharing"),
                    ("scratch", f"{size(m['workspace_per_thread'])} per thread, {size(m['shared_workspace'])} shared"),
                ]
            )
        )
        screen.print(
            table(
                ("buffer", "bytes", "offset", "first step", "last step"),
                [(b["name"], b["bytes"], b["offset"], b["first"], b["last"]) for b in m["buffers"]],
            )
        )


def _show_reasons(screen: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    from temper.cli.show import table

    if not rows:
        screen.print("nothing was declined")
        return
    screen.print(
        table(
            ("did not", "times", "because", "where"),
            [(r["what"], len(r["where"]), r["why"], _some(r["where"], 2)) for r in rows],
            wide=("because", "where"),
        )
    )
