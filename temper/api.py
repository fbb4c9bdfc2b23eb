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

    threads: threads the engine uses, all usable cores if None. effort: 0 (no timing) to 5 (every candidate timed).
    profiles: ranges of symbolic dimensions, e.g. Profile.of(N=(1, 8, 32)); a dimension without a range is fixed at 1.
    batch: sizes of the inputs' first dimension, [1, 8, 32] or with ranges [1, (2, 8, 32)] (min, opt, max): each is a
    profile tuned at its own size. shapes: input name -> its shape, or (min, opt, max) shapes.
    device: "cpu", or a GPU: "cuda", "cuda:1", or "cuda:sm_90" for one that is not here (with effort=0).
    output: also write the plan to this file. portable: keep the graph in the plan for `temper rebuild`.
    loop_limit: a loop whose end depends on data raises an InputError after so many steps.

    tf32: False for products of float32 that a GPU does not round to 10 bits of mantissa.

    precision: "fp32"; "fp16" or "bf16", in which a GPU then stores tensors and multiplies, but for layers that keep
    names; or "int8", or "fp8" (E4M3, on GPUs that multiply it), to which the rest belongs. What cannot be INT8 a GPU
    computes in E4M3, where it has that, where it is faster and accurate enough, and else in float16, but for layers
    that keep names with fp32. calibration: real inputs, as a folder of pictures, an .npz file, an iterable of arrays or
    {name: array}, or a calibrator; part of it is held back to judge by. preprocess: how pictures become inputs, see
    temper.Preprocess. calibrator: "auto", "entropy", "minmax", "mse" or "percentile:99.99".
    calibration_cache: thresholds from such a file instead. evaluate: score of an engine, higher is better, or a
    temper.Score that also tells the answers, so that the report can show which changed; max_drop: how much of it may be
    lost, in its own unit; without one 0.3 % of the float engine's score. Without evaluate, layers stay in float until
    outputs on held-back samples are close to the float engine's. keep: layers pinned, such as "/head/*=fp32".
    pure_int8: nothing is kept in float.
    compensate: change thresholds, scales and biases where this brings outputs on held-back samples nearer to FP32's.
    skip_bad: leave out samples that cannot be used. report: also write a report, .html or .json. work: folder where
    an interrupted calibration or search finds what it did; beside the timing cache if None. say: takes lines that tell
    what is going on; without it, what needs attention is a TemperWarning.

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
            raise ConfigError(f"only precision='int8' or 'fp8' gives {', '.join(used)} a meaning")
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
