"""`temper rebuild`: tunes a plan anew on this machine, from the portable graph inside it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from temper.cli.build import ISA

DEVICE = "cpu, cuda, or cuda:N; if not given the first GPU here for a GPU plan, and the CPU for others."
EFFORT = "0 to 5; as in the old plan if not given, but 2 on a GPU where the old plan was not timed."


def rebuild(
    old: Annotated[Path, typer.Argument(help="Plan built with --portable.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Plan file to write.", show_default=False)],
    device: Annotated[str, typer.Option(help=DEVICE, show_default=False)] = "",
    threads: Annotated[int, typer.Option(help="Threads of the new engine; 0: as in the old plan.", min=0)] = 0,
    effort: Annotated[
        int | None, typer.Option(help=EFFORT, min=0, max=5, show_default=False)
    ] = None,
    profile: Annotated[
        list[str] | None, typer.Option(help="Ranges N=1:8:32; as in the old plan if not given.", show_default=False)
    ] = None,
    isa: Annotated[str, typer.Option(help=ISA, show_default=False)] = "",
    cache: Annotated[Path | None, typer.Option(help="Timing cache file.", show_default=False)] = None,
    jobs: Annotated[int, typer.Option(help="Compilers that run at once; 0: one per core.", min=0)] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Tune a plan anew for this machine, from the graph that `temper build --portable` left in it."""
    from dataclasses import replace

    from temper.api import check_writable
    from temper.builder import build_plan
    from temper.cli.show import console, print_json, progress_bar
    from temper.cli.sizes import parse_profiles
    from temper.cli.summary import summarize, summary_table
    from temper.config import BuildConfig, Profile
    from temper.ir.portable import from_bytes
    from temper.plan.file import read, write

    plan = read(old)
    graph = from_bytes(plan.graph)
    check_writable(output)
    device = device or plan.device
    old_effort = plan.report.get("effort", 2)
    if device != "cpu":
        old_effort = 0 if device.startswith("cuda:sm_") else old_effort or 2
    ranges = parse_profiles(profile) if profile else [dict(p.symbols) for p in plan.profiles]
    config = BuildConfig(
        threads=threads or plan.threads,
        effort=old_effort if effort is None else effort,
        isa=isa,
        device=device,
        profiles=tuple(Profile.of(**r) for r in ranges if r),
        portable_graph=True,
        cache=cache,
        jobs=jobs,
        precision=plan.report.get("precision", "fp32"),
        wide=tuple(plan.report.get("wide", ())),
        tf32=plan.report.get("tf32", True),
    )
    with progress_bar(quiet) as progress:
        made = build_plan(graph, config, progress=progress)
        if "int8" in plan.report:
            # layers, reasons and accuracy hold on; times were another machine's
            int8 = {**plan.report["int8"], "ms": None, "float_ms": None, "all_int8_ms": None}
            made = replace(made, plan=replace(made.plan, report={**made.plan.report, "int8": int8}))
        write(made.plan, output)
    if quiet:
        return
    summary = summarize(made.plan, output.stat().st_size, made.seconds)
    if as_json:
        print_json(summary)
    else:
        console().print(summary_table(summary))
