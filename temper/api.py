"""The Python entry points behind `temper.build`, `temper.load` and `temper.save`."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from temper.config import PRECISIONS, BuildConfig, Profile, Shape, ShapeRange, kept_wide, knob, shape_range
from temper.errors import ConfigError, TemperWarning
from temper.runtime.engine import Engine

if TYPE_CHECKING:
    from temper.ir.graph import Graph
    from temper.precision.answered import Score
    from temper.precision.build import Made
    from temper.precision.images import Preprocess
    from temper.tune.select import Progress

Model = Union[str, Path, bytes, "Graph", Any]


def build(
    model: Model,
    *,
    threads: int | None = None,
    effort: int = 2,
    profiles: Sequence[Profile] = (),
    batch: int | Sequence[int | tuple[int, int, int]] | None = None,
    shapes: Mapping[str, Sequence[int] | Sequence[Sequence[int]]] | None = None,
    output: str | os.PathLike[str] | None = None,
    portable: bool = False,
    isa: str = "",
    device: str = "cpu",
    tf32: bool = True,
    loop_limit: int = 1_000_000,
    cache: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
    precision: str = "fp32",
    calibration: Any = None,
    preprocess: Preprocess | None = None,
    calibrator: str = "auto",
    calibration_cache: str | os.PathLike[str] | None = None,
    evaluate: Callable[[Engine], float | Score] | None = None,
    max_drop: float | None = None,
    keep: Sequence[str] = (),
    pure_int8: bool = False,
    compensate: bool = True,
    skip_bad: bool = False,
    report: str | os.PathLike[str] | None = None,
    work: str | os.PathLike[str] | None = None,
    say: Callable[[str], None] | None = None,
) -> Engine:
    """Builds an engine from an ONNX file (path, bytes or ModelProto).

    Target and tuning:

    device: "cpu"; "cuda" or "cuda:1" for a GPU of this machine; "cuda:sm_90" for one that is not here (with effort=0).
    isa: code level of a CPU ("avx512", "avx2" ...); empty: the best of this machine.
    threads: threads the engine uses; None: all usable cores.
    effort: 0 (nothing is timed, the cost model chooses) to 5 (every candidate kernel is timed).
    cache: file of the timing cache; None: the user's own.

    Sizes:

    profiles: ranges of symbolic dimensions, e.g. Profile.of(N=(1, 8, 32)); a dimension without a range is fixed at 1.
    batch: sizes of the inputs' first dimension, [1, 8, 32] or with ranges [1, (2, 8, 32)] (min, opt, max): each is a
        profile tuned at its own size.
    shapes: input name -> its shape, or (min, opt, max) shapes.
    loop_limit: steps after which a loop whose end depends on data raises an InputError.

    Results:

    output: also write the plan to this file.
    portable: keep the graph in the plan, for `temper rebuild`.
    progress: called as (stage, steps done, steps in all).

    Precision:

    precision: "fp32"; "fp16" or "bf16", in which a GPU stores tensors and multiplies; "int8", or "fp8" (E4M3), for
        which the arguments below choose the layers. On a GPU, layers that are not INT8 are float16, or E4M3 where the
        chip multiplies it and that is faster and accurate enough.
    tf32: whether a GPU may round operands of float32 products to 10 bits of mantissa (TF32).
    keep: patterns of layers with the precision they must have, such as "/head/*=fp32".

    INT8 and FP8 only:

    calibration: real inputs: a folder of pictures, an .npz file, an iterable of arrays or {name: array}, or a
        calibrator. Part of them is held back to judge accuracy by.
    preprocess: how pictures become inputs, see temper.Preprocess.
    calibrator: "auto", "entropy", "minmax", "mse" or "percentile:99.99".
    calibration_cache: file of thresholds, in TensorRT's format, to use instead of calibrating.
    evaluate: score of an engine, higher is better, or a temper.Score that also holds the answers, so that the report
        can show which changed. Without it, outputs on held-back samples must stay close to the float engine's.
    max_drop: how much of the score may be lost, in its own unit; None: 0.3 % of the float engine's score.
    pure_int8: keep nothing in float, whatever accuracy or time that costs.
    compensate: change thresholds, scales and biases where that brings outputs on held-back samples nearer to FP32's.
    skip_bad: leave out samples that cannot be used, instead of raising.
    report: also write a report, .html or .json.
    work: folder in which an interrupted calibration or search finds what it had done; None: beside the timing cache.
    say: called with lines that tell what is going on; None: only what needs attention is told, as a TemperWarning.

    Raises TemperError kinds: ModelError, UnsupportedError, ShapeError, ConfigError, DataError, BuildError.
    """
    from temper.builder import build_plan
    from temper.plan.file import write
    from temper.runtime.machine import cores

    if precision not in (*PRECISIONS, "int8", "fp8"):
        raise ConfigError(f"precision must be {', '.join(map(repr, PRECISIONS))}, 'int8' or 'fp8', not {precision!r}")
    searched = precision in ("int8", "fp8")
    keep = [keep] if isinstance(keep, str) else keep
    if output is not None:
        check_writable(Path(output))
    if report is not None:
        check_report(Path(report))
    config = BuildConfig(
        threads=threads or cores(),
        effort=effort,
        isa=isa,
        device=device,
        loop_limit=loop_limit,
        profiles=tuple(profiles),
        portable_graph=portable,
        cache=Path(cache) if cache else None,
        shapes={k: _shape(k, v) for k, v in (shapes or {}).items()},
        batches=tuple(
            (b, b, b) if isinstance(b, int) else b for b in ([batch] if isinstance(batch, int) else batch or ())
        ),
        precision=precision if not searched else "fp16" if str(device).startswith("cuda") else "fp32",
        wide=kept_wide(keep, precision) if precision in ("fp16", "bf16") else (),
        tf32=tf32,
    )
    if searched:
        from temper.precision.build import build_int8
        from temper.precision.request import Request, work_folder

        request = Request(
            calibration=calibration,
            preprocess=preprocess,
            calibrator=calibrator,
            cache=Path(calibration_cache) if calibration_cache else None,
            evaluate=evaluate,
            max_drop=max_drop,
            keep=tuple(keep),
            pure_int8=pure_int8,
            compensate=compensate,
            skip_bad=skip_bad,
            answers=report is not None,
            work=Path(work) if work else work_folder(),
            form="int8" if precision == "int8" else "float8",
        )
        made = build_int8(model, config, request, progress=progress, say=say)
        plan = made.build.plan
        if report is not None:
            write_report(made, Path(report))
        if say is None:
            missed = () if made.outcome.met else (made.outcome.verdict,)
            for text in (*made.outcome.warnings, *missed):
                warnings.warn(text, TemperWarning, stacklevel=2)
    else:
        given = {"calibration": calibration, "calibration_cache": calibration_cache, "evaluate": evaluate}
        given |= {"max_drop": max_drop, "report": report, "pure_int8": pure_int8 or None}
        given |= {"preprocess": preprocess, "skip_bad": skip_bad or None, "work": work}
        given |= {"calibrator": None if calibrator == "auto" else calibrator}
        given |= {"keep": keep or None} if precision == "fp32" else {}
        if used := [k for k, v in given.items() if v is not None]:
            raise ConfigError(f"{', '.join(used)} applies only to precision='int8' or 'fp8'")
        plan = build_plan(model, config, progress=progress).plan
    if output is not None:
        write(plan, output)
    # what was built for a level of GPUs runs on the first GPU here, if there is one that can
    level = str(device).startswith("cuda:sm_")
    where = "" if level or device == "cpu" else device
    return Engine(plan, spin_us=int(knob("TEMPER_SPIN_US")), device=where, defer=level)


def _shape(name: str, given: Sequence[int] | Sequence[Sequence[int]]) -> Shape | ShapeRange:
    """A shape, or (min, opt, max) shapes, as tuples."""
    nested = [s for s in given if isinstance(s, Sequence) and not isinstance(s, str)]
    return shape_range(name, nested) if nested else tuple(given)  # type: ignore[arg-type]


def check_writable(path: Path) -> None:
    """Fails before a long build rather than after it."""
    folder = path.resolve().parent
    if not folder.is_dir():
        raise ConfigError(f"cannot write {path}: the folder {folder} does not exist")
    if path.exists() and not path.is_file():
        raise ConfigError(f"cannot write {path}: it is not a regular file")
    if not os.access(folder, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise ConfigError(f"cannot write {path}: permission denied")


def check_report(path: Path) -> None:
    """ConfigError if no report can be written there."""
    if path.suffix.lower() not in (".html", ".htm", ".json"):
        raise ConfigError(f"the report {path} is a page (.html, with a .json beside it) or the record alone (.json)")
    check_writable(path)


def write_report(made: Made, path: Path) -> tuple[Path, ...]:
    """Writes the record of an INT8 build: a page for people with its JSON twin beside it, or JSON alone if the name
    ends in .json. Returns the files."""
    from dataclasses import replace

    from temper.report.judge import of_build
    from temper.report.page import write

    answers = None if made.answered is None else of_build(made.answered)
    return tuple(write(replace(made.outcome, answers=answers or made.outcome.answers), path))


def load(path: str | os.PathLike[str], *, threads: int | None = None, device: str = "") -> Engine:
    """Loads a plan file. device: where a GPU plan runs, "cuda:1" for the second GPU; the first if empty.

    PlanError if it is damaged, of another version, or for another machine; DeviceError if the GPU cannot be used.
    """
    return Engine.load(path, threads=threads, spin_us=int(knob("TEMPER_SPIN_US")), device=device)


def save(engine: Engine, path: str | os.PathLike[str]) -> None:
    """Writes an engine's plan."""
    from temper.plan.file import write

    write(engine.plan, path)
