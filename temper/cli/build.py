"""`temper build`: an ONNX file becomes a plan file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from temper.cli import pictures
from temper.cli.engines import BF16, FP16, TF32, precision_of

BATCH = "Size of the batch dimension: 8, a range 1:8:32 (min:opt:max), or sizes 1,8,32 tuned one by one."
SHAPE = "Shape of an input, NAME=1x3x224x224, or its range NAME=1x3x64x64:1x3x224x224:8x3x512x512 (min:opt:max)."
PROFILE = "Ranges of symbolic dimensions, N=1:8:32 or N=1:8:32,S=128; each option adds a profile."

CALIB = (
    "Real inputs to calibrate on: a folder of pictures or .npz files, an .npz (arrays by input name), "
    "script.py:function that returns batches, or random:32 for noise."
)
DEVICE = "cpu, cuda, cuda:N for the N-th GPU, or with --no-timing cuda:sm_90 and the like for a GPU that is not here."
NO_TIMING = "Time nothing: the cost model chooses, and the graph stays in the plan for `temper rebuild`."
ISA = "Code level: avx512bf16, avx512vnni, avx512, avx2 or portable; the best of this machine if not given."
OUTPUT = "Plan file to write; MODEL.plan in this folder if not given."
EVAL = "Function that scores an engine (higher is better): def top1(engine) -> float."


def build(
    model: Annotated[Path, typer.Argument(help="ONNX file.", show_default=False)],
    output: Annotated[Path | None, typer.Option("--output", "-o", help=OUTPUT, show_default=False)] = None,
    device: Annotated[str, typer.Option(help=DEVICE)] = "cpu",
    threads: Annotated[int, typer.Option(help="Threads the engine will use; 0: all usable cores.", min=0)] = 0,
    effort: Annotated[
        int, typer.Option(help="0: no timing, the cost model chooses; 5: every candidate is timed.", min=0, max=5)
    ] = 2,
    no_timing: Annotated[bool, typer.Option("--no-timing", help=NO_TIMING)] = False,
    batch: Annotated[str, typer.Option(help=BATCH, show_default=False)] = "",
    profile: Annotated[list[str] | None, typer.Option(help=PROFILE, show_default=False)] = None,
    shape: Annotated[list[str] | None, typer.Option(help=SHAPE, show_default=False)] = None,
    least: Annotated[
        str, typer.Option("--minShapes", help="As trtexec: NAME:1x3x224x224,OTHER:1x128.", show_default=False)
    ] = "",
    best: Annotated[
        str, typer.Option("--optShapes", help="As trtexec: the shapes to tune at.", show_default=False)
    ] = "",
    most: Annotated[str, typer.Option("--maxShapes", help="As trtexec: the largest shapes.", show_default=False)] = "",
    isa: Annotated[str, typer.Option(help=ISA, show_default=False)] = "",
    portable: Annotated[
        bool, typer.Option(help="Keep the graph in the plan, so that `temper rebuild` can tune it for another machine.")
    ] = False,
    cache: Annotated[Path | None, typer.Option(help="Timing cache file.", show_default=False)] = None,
    jobs: Annotated[int, typer.Option(help="Compilers that run at once; 0: one per core.", min=0)] = 0,
    stop_after: Annotated[
        str,
        typer.Option(help="Stop rewriting after this pass (to find the one that breaks a model).", show_default=False),
    ] = "",
    disable: Annotated[
        list[str] | None,
        typer.Option(
            help="Build without this pass, rewrite rule or tactic (see `temper debug bisect`); repeatable.",
            show_default=False,
        ),
    ] = None,
    dump: Annotated[
        Path | None,
        typer.Option(help="Folder for the graph after every pass and all generated sources.", show_default=False),
    ] = None,
    fp16: Annotated[bool, typer.Option("--fp16", help=FP16)] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help=BF16)] = False,
    tf32: Annotated[bool, typer.Option(help=TF32)] = True,
    fp8: Annotated[bool, typer.Option("--fp8", help="GPU: as --int8, but in 8-bit floats (E4M3).")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="Compute in INT8 what the accuracy budget allows.")] = False,
    calib: Annotated[str, typer.Option("--calib", help=CALIB, show_default=False)] = "",
    calibrator: Annotated[
        str, typer.Option(help="How thresholds are chosen: auto, entropy, minmax, mse or percentile:99.99.")
    ] = "auto",
    calib_cache: Annotated[
        Path | None,
        typer.Option(help="Take thresholds from this calibration cache, as TensorRT writes it.", show_default=False),
    ] = None,
    mean: Annotated[str, typer.Option("--calib-mean", help=pictures.MEAN, show_default=False)] = "",
    std: Annotated[str, typer.Option("--calib-std", help=pictures.STD, show_default=False)] = "",
    scale: Annotated[str, typer.Option("--calib-scale", help=pictures.SCALE, show_default=False)] = "",
    order: Annotated[str, typer.Option("--calib-order", help=pictures.ORDER, show_default=False)] = "",
    fit: Annotated[str, typer.Option("--calib-fit", help=pictures.FIT, show_default=False)] = "",
    evaluate: Annotated[str, typer.Option("--eval", metavar="SCRIPT.py:FUNCTION", help=EVAL, show_default=False)] = "",
    max_drop: Annotated[
        float | None,
        typer.Option(
            help="Largest drop of a score that is a fraction, in points: 0.3 lets 0.900 become 0.897.",
            min=0,
            show_default=False,
        ),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option(help="Precision of layers by name: '/head/*=fp32' (bf16, fp16, fp8, int8).", show_default=False),
    ] = None,
    pure_int8: Annotated[bool, typer.Option("--pure-int8", help="Keep nothing in float, whatever that costs.")] = False,
    compensate: Annotated[
        bool,
        typer.Option(help="Change thresholds, scales and biases where that brings outputs nearer to FP32's."),
    ] = True,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave out samples that cannot be used.")] = False,
    no_resume: Annotated[
        bool, typer.Option("--no-resume", help="Do not resume an interrupted calibration or search, nor save progress.")
    ] = False,
    report: Annotated[
        Path | None, typer.Option(help="Also write a report of the INT8 build, .html or .json.", show_default=False)
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Build an engine: read the model, fuse and lay out, compile and time kernels, write one plan file.

    With --int8, layers that would lose too much stay in float: as a score of your own says (--eval, --max-drop), or
    until outputs on held-back samples stay close to the float engine's. So do layers that are measured to be faster
    there. Exit code 3: written, but over the budget.
    """
    from temper.api import check_report, check_writable
    from temper.builder import build_plan
    from temper.cli.files import is_plan
    from temper.cli.show import console, print_json, progress_bar, teller
    from temper.cli.sizes import parse_batches, parse_profiles, parse_shapes, trtexec_profile
    from temper.cli.summary import summarize, summary_table
    from temper.config import BuildConfig, Profile, kept_wide
    from temper.errors import ConfigError
    from temper.plan.file import write
    from temper.runtime.machine import cores

    if is_plan(model):
        raise ConfigError(f"{model} is a plan already; `temper rebuild` tunes it anew")
    output = output or Path(f"{model.stem}.plan")
    check_writable(output)
    half = precision_of(fp16, bf16)
    if int8 and fp8:
        raise ConfigError("--int8 and --fp8 exclude each other")
    form = "float8" if fp8 else "int8"
    int8 = int8 or fp8
    # on a GPU what is not INT8 is in a half type
    precision = "fp16" if half == "fp32" and int8 and device.startswith("cuda") else half
    shapes = parse_shapes(shape or ())
    config = BuildConfig(
        threads=threads or cores(),
        effort=0 if no_timing else effort,
        isa=isa,
        device=device,
        profiles=(*(Profile.of(**p) for p in parse_profiles(profile or ())), *trtexec_profile(least, best, most)),
        batches=parse_batches(batch),
        portable_graph=portable or no_timing,
        cache=cache,
        jobs=jobs,
        stop_after=stop_after,
        disable=tuple(disable or ()),
        dump=dump,
        shapes=shapes,
        precision=precision,
        wide=() if int8 or precision == "fp32" else kept_wide(keep or (), precision),
        tf32=tf32,
    )
    met = True
    written: tuple[Path, ...] = ()
    if int8:
        from temper.api import write_report
        from temper.precision.build import build_int8
        from temper.precision.request import Request, work_folder
        from temper.precision.scripts import load_function

        request = Request(
            calibration=calib or None,
            preprocess=pictures.preprocess(mean, std, scale, order, fit),
            calibrator=calibrator,
            cache=calib_cache,
            evaluate=load_function(evaluate) if evaluate else None,
            max_drop=None if max_drop is None else max_drop / 100,
            keep=tuple(keep or ()),
            pure_int8=pure_int8,
            compensate=compensate,
            skip_bad=skip_bad,
            answers=report is not None,
            work=None if no_resume else work_folder(),
            form=form,
        )
        if report is not None:
            check_report(report)
        with progress_bar(quiet) as progress:
            chosen = build_int8(model, config, request, progress=progress, say=teller(quiet))
            made, met = chosen.build, chosen.outcome.met
            write(made.plan, output)
            written = write_report(chosen, report) if report is not None else ()
    else:
        asked: dict[str, object] = {"--calib": calib, "--calib-cache": calib_cache, "--eval": evaluate}
        asked |= {"--keep": keep} if precision == "fp32" else {}
        asked |= {"--calib-mean": mean, "--calib-std": std, "--calib-scale": scale, "--calib-order": order}
        asked |= {"--calib-fit": fit, "--max-drop": max_drop is not None, "--pure-int8": pure_int8, "--report": report}
        asked |= {"--calibrator": calibrator != "auto", "--no-compensate": not compensate, "--skip-bad": skip_bad}
        asked |= {"--no-resume": no_resume}
        if used := [option for option, value in asked.items() if value]:
            raise ConfigError(f"{', '.join(used)} applies only with --int8 or --fp8")
        with progress_bar(quiet) as progress:
            made = build_plan(model, config, progress=progress)
            write(made.plan, output)
    if not quiet:
        summary = summarize(made.plan, output.stat().st_size, made.seconds)
        if as_json:
            print_json(summary)
        else:
            console().print(summary_table(summary))
            if written:
                print("wrote " + " and ".join(map(str, written)))
    if not met:
        raise typer.Exit(3)
