"""Small commands: `temper verify` and `temper knobs`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def verify(
    plan: Annotated[Path, typer.Argument(help="Plan file.", show_default=False)],
    device: Annotated[str, typer.Option(help="Of a GPU plan: cuda:N for the N-th GPU.", show_default=False)] = "",
) -> None:
    """Check every byte of a plan against its SHA-256 sums, its memory layout, and whether this machine can run it."""
    from temper.errors import PlanError, TemperError
    from temper.plan.conflicts import program_faults
    from temper.plan.file import verify as verify_file
    from temper.plan.memory_check import plan_faults
    from temper.runtime.cuda.context import check_gpu, gpu_remarks
    from temper.runtime.cuda.driver import Gpu
    from temper.runtime.engine import check_machine, gpu_number
    from temper.target import graph_order

    found = verify_file(plan)
    order = graph_order if found.device == "cuda" else None
    if faults := plan_faults(found) or program_faults(found, order):
        raise PlanError(f"{plan}: the memory layout is unsound: {'; '.join(faults[:5])}")
    if found.device == "cuda":
        try:
            gpu = Gpu(gpu_number(device))
            check_gpu(found, gpu)
        except TemperError as e:
            raise type(e)(f"{plan}: every byte and the memory layout are sound, but it cannot run here: {e}") from e
        remarks = gpu_remarks(found, gpu)
    else:
        remarks = check_machine(found)
    for remark in remarks:
        print(f"note: {remark}")
    print(f"{plan}: sound, runs here")


def knobs() -> None:
    """List the environment variables Temper reads, their defaults and values."""
    from temper.cli.show import console, table
    from temper.config import KNOBS

    console().print(
        table(
            ("variable", "default", "now", "meaning"),
            [(k.name, k.default or "-", k.read() or "-", k.doc) for k in KNOBS],
            wide=("meaning",),
        )
    )
