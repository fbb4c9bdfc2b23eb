"""`temper run`: an engine's outputs for given inputs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from temper.cli.engines import BF16, DEVICE, FP16, precision_of

if TYPE_CHECKING:
    import numpy as np

DATA = "All inputs: an .npz with arrays by name, or an .npy for a model of one input."
INPUT = "One input, NAME=FILE.npy; may be repeated."


def run(
    engine_file: Annotated[
        Path, typer.Argument(metavar="PLAN|ONNX", help="Plan, or ONNX file to build in memory.", show_default=False)
    ],
    inputs: Annotated[list[str] | None, typer.Option("--input", "-i", help=INPUT, show_default=False)] = None,
    data: Annotated[Path | None, typer.Option(help=DATA, show_default=False)] = None,
    save: Annotated[Path | None, typer.Option(help="Write the outputs to this .npz file.", show_default=False)] = None,
    threads: Annotated[int, typer.Option(help="Maximum number of threads; 0: as built.", min=0)] = 0,
    device: Annotated[str, typer.Option(help=DEVICE, show_default=False)] = "",
    effort: Annotated[int, typer.Option(help="Effort of the build, for an ONNX file.", min=0, max=5)] = 2,
    fp16: Annotated[bool, typer.Option("--fp16", help=FP16)] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help=BF16)] = False,
    batch: Annotated[
        str, typer.Option(help="Batch size or range of the build, for an ONNX file.", show_default=False)
    ] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the statistics as JSON.")] = False,
) -> None:
    """Run an engine once: print every output's statistics, and save the arrays on request."""
    from temper.api import check_writable
    from temper.cli.engines import open_engine
    from temper.cli.files import npz_bytes, read_feeds, write_whole
    from temper.cli.show import console, print_json, table

    if save is not None:
        check_writable(save)
    half = precision_of(fp16, bf16)
    engine = open_engine(engine_file, threads, effort=effort, batch=batch, device=device, precision=half)
    feeds = read_feeds([s.name for s in engine.inputs], inputs or (), data)
    results = {spec.name: y for spec, y in zip(engine.outputs, engine.run(feeds), strict=True)}
    if save is not None:
        write_whole(save, npz_bytes(results))
    rows = [statistics(name, y) for name, y in results.items()]
    if as_json:
        print_json(rows)
        return
    screen = console()
    keys = ("min", "max", "mean")
    screen.print(
        table(
            ("output", "dtype", "shape", *keys),
            [(r["name"], r["dtype"], str(r["shape"]), *(f"{r[k]:.6g}" if k in r else "-" for k in keys)) for r in rows],
        )
    )
    for r in rows:
        for i, best in enumerate(r.get("top", ())):
            screen.print(f"{r['name']}[{i}] top: " + ", ".join(f"{k} ({v:.4g})" for k, v in best), markup=False)


def statistics(name: str, y: np.ndarray) -> dict[str, Any]:
    """JSON-able; for an array [N, K] of scores also the five best classes of the first eight rows."""
    import numpy as np

    out: dict[str, Any] = {"name": name, "dtype": str(y.dtype), "shape": list(y.shape)}
    if y.dtype.kind in "fiub" and y.size:
        out |= {"min": float(y.min()), "max": float(y.max()), "mean": float(np.mean(y, dtype=np.float64))}
    if y.dtype.kind == "f" and y.ndim == 2 and y.shape[1] >= 5:
        order = np.argsort(-y[:8], axis=1, kind="stable")[:, :5]
        out["top"] = [[[int(k), float(row[k])] for k in best] for row, best in zip(y, order, strict=False)]
    return out
