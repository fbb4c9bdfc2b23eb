"""`temper report`: renders the record of an INT8 build again, and can fail for continuous integration."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer


def report(
    outcome: Annotated[Path, typer.Argument(help="JSON file of `temper build --int8 --report`.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The page to write (.html, with a .json beside it).", show_default=False),
    ] = None,
    answers: Annotated[
        Path | None,
        typer.Option(
            help="An .npz file of what the engines answered on test samples: arrays fp32, int8 (scores or answers), "
            "and labels, naive, images, classes, names where there are any.",
            show_default=False,
        ),
    ] = None,
    fail_on: Annotated[
        str,
        typer.Option(
            help="Exit with 1 if any of these holds, separated by commas: budget, uncertain, warnings, synthetic; "
            "against --baseline also accuracy, latency.",
            show_default=False,
        ),
    ] = "",
    baseline: Annotated[
        Path | None,
        typer.Option(help="JSON file of an earlier build.", show_default=False),
    ] = None,
    tolerance: Annotated[float, typer.Option(help="By how much the metric may fall short of the baseline's.")] = 0.0,
    slowdown: Annotated[float, typer.Option(help="By which part the latency may exceed the baseline's.")] = 0.05,
) -> None:
    """Render the record of an INT8 build as a page, and check it for continuous integration."""
    from temper.api import check_report
    from temper.report.gate import failures
    from temper.report.judge import with_answers
    from temper.report.page import read, write

    if output is not None:
        check_report(output)
    found = read(outcome)
    if answers is not None:
        found = with_answers(found, answers)
    conditions = [c.strip() for c in fail_on.split(",") if c.strip()]
    earlier = read(baseline) if baseline is not None else None
    faults = failures(found, conditions, earlier, tolerance=tolerance, slowdown=slowdown)
    print(found.verdict)
    if output is not None:
        print("wrote " + " and ".join(str(p) for p in write(found, output)))
    if faults:
        print("\n".join(faults), file=sys.stderr)
        raise typer.Exit(1)
