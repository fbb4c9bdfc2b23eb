"""`temper calibrate`: thresholds of a model's tensors from real inputs, as a calibration cache in TensorRT's format."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from temper.cli import pictures
from temper.cli.build import BATCH, CALIB, PROFILE, SHAPE

if TYPE_CHECKING:
    from temper.precision.calibrated import Calibrated


def calibrate(
    model: Annotated[Path, typer.Argument(help="ONNX file.", show_default=False)],
    data: Annotated[str, typer.Option("--data", help=CALIB, show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Cache file to write.", show_default=False)],
    calibrator: Annotated[
        str,
        typer.Option(
            help="How thresholds are chosen: auto, entropy, minmax, mse or percentile:99.99; auto if the data is no "
            "calibrator that asks for another.",
            show_default=False,
        ),
    ] = "",
    mean: Annotated[str, typer.Option("--calib-mean", help=pictures.MEAN, show_default=False)] = "",
    std: Annotated[str, typer.Option("--calib-std", help=pictures.STD, show_default=False)] = "",
    scale: Annotated[str, typer.Option("--calib-scale", help=pictures.SCALE, show_default=False)] = "",
    order: Annotated[str, typer.Option("--calib-order", help=pictures.ORDER, show_default=False)] = "",
    fit: Annotated[str, typer.Option("--calib-fit", help=pictures.FIT, show_default=False)] = "",
    limit: Annotated[int, typer.Option(help="Maximum number of batches; 0: all.", min=0)] = 0,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out samples that cannot be used.")] = False,
    no_resume: Annotated[
        bool, typer.Option("--no-resume", help="Do not resume an interrupted calibration.")
    ] = False,
    device: Annotated[str, typer.Option(help="Where the model runs: cpu, cuda or cuda:N.")] = "cpu",
    threads: Annotated[int, typer.Option(help="Threads; 0: all usable cores.", min=0)] = 0,
    effort: Annotated[int, typer.Option(help="Effort of the float engine's build, 0 to 5.", min=0, max=5)] = 1,
    batch: Annotated[str, typer.Option(help=BATCH, show_default=False)] = "",
    profile: Annotated[list[str] | None, typer.Option(help=PROFILE, show_default=False)] = None,
    shape: Annotated[list[str] | None, typer.Option(help=SHAPE, show_default=False)] = None,
    cache: Annotated[Path | None, typer.Option(help="Timing cache file.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Calibrate: run the float model over real inputs and write the range of every tensor that INT8 would code.

    The cache is TensorRT's text format, by the model's own tensor names; `temper build --int8 --calib-cache` takes it.
    """
    import time

    from temper.api import check_writable
    from temper.cli.files import is_plan, write_whole
    from temper.cli.show import console, print_json, progress_bar, teller
    from temper.cli.sizes import parse_batches, parse_profiles, parse_shapes
    from temper.config import BuildConfig, Profile
    from temper.errors import ConfigError
    from temper.precision.calibrated import calibrated
    from temper.precision.request import work_folder
    from temper.quantize.cache import to_text
    from temper.quantize.source_names import to_cache
    from temper.runtime.machine import cores

    if is_plan(model):
        raise ConfigError(f"{model} is a plan: calibration needs the ONNX file that it was built from")
    if device.startswith("cuda:sm_"):
        raise ConfigError(f"calibration runs the model, which {device} cannot: give cpu, cuda or cuda:N")
    check_writable(output)
    start = time.perf_counter()
    config = BuildConfig(
        threads=threads or cores(),
        effort=effort,
        profiles=tuple(Profile.of(**p) for p in parse_profiles(profile or ())),
        batches=parse_batches(batch),
        shapes=parse_shapes(shape or ()),
        cache=cache,
        device=device,
    )
    say = teller(quiet)
    with progress_bar(quiet) as progress, _told(say):
        found = calibrated(
            model,
            config,
            data,
            calibrator,
            preprocess=pictures.preprocess(mean, std, scale, order, fit),
            skip_bad=skip_bad,
            limit=limit,
            work=work_folder(),
            resume=not no_resume,
            progress=progress,
        )
    write_whole(output, to_text(to_cache(found.graph, found.thresholds.amax, found.algorithm)).encode())
    if quiet:
        return
    warnings = [*found.samples.remarks, *(f.message for f in found.audit.findings if f.severity == "warning")]
    for line in warnings:
        say(f"warning: {line}")
    facts = {"seconds": time.perf_counter() - start, "file": str(output), "model": str(model)}
    if as_json:
        print_json({**facts, **_record(found), "warnings": warnings})
    else:
        console().print(_summary(found, facts))


@contextmanager
def _told(say: Callable[[str], None]) -> Iterator[None]:
    """Tells whoever interrupts a calibration that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        say("what was calibrated is kept: the same command goes on from there")
        raise


def _record(found: Calibrated) -> dict[str, Any]:
    """JSON-able: tensors go by the model's names."""
    from temper.quantize.source_names import source_names

    names = source_names(found.graph, found.thresholds.chosen)
    return {
        "calibrator": found.algorithm,
        "data": found.samples.digest,
        "samples": found.samples.count,
        "batches": len(found.samples),
        "held_back": found.held,
        "synthetic": found.samples.synthetic,
        "skipped": dict(found.samples.skipped),
        "tensors": {
            names[t][0]: {
                "amax": c.amax,
                "scale": c.amax / 127,
                "calibrator": c.calibrator,
                "also": list(names[t][1:]),
                "noise": c.errors.get(c.calibrator),
            }
            for t, c in found.thresholds.chosen.items()
        },
        "audit": [
            {"kind": f.kind, "severity": f.severity, "message": f.message, "tensors": list(f.tensors)}
            for f in found.audit.findings
        ],
    }


def _summary(found: Calibrated, about: Mapping[str, Any]) -> Any:
    """The same as lines for people."""
    from temper.cli.show import facts

    record = _record(found)
    rows: list[tuple[str, object]] = [
        ("calibrator", found.algorithm),
        ("data", f"{record['samples']} samples in {record['batches']} batches, {found.held} held back to judge"),
        ("tensors", len(record["tensors"])),
    ]
    if found.algorithm == "auto":
        counts = Counter(t["calibrator"] for t in record["tensors"].values())
        rows.append(("chosen", ", ".join(f"{n} {name}" for name, n in counts.most_common())))
    loud = sorted(record["tensors"].items(), key=lambda item: -(item[1]["noise"] or 0.0))[:3]
    shown = ", ".join(f"{name} {_decibels(t['noise'])}" for name, t in loud if t["noise"])
    if shown:
        rows.append(("most noise", f"{shown} (signal to noise of the codes on held-back data)"))
    rows += [(f.severity, f.message) for f in found.audit.findings if f.severity != "warning"]
    rows += [("cache", about["file"]), ("time", f"{about['seconds']:.1f} s")]
    return facts(rows)


def _decibels(noise: float) -> str:
    return f"{-10 * math.log10(noise):.1f} dB"
