"""A float model calibrated on data, part of which is held back; also calibration without a build."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from temper.config import BuildConfig
from temper.errors import DataError
from temper.ir.graph import Graph
from temper.precision.audit import audit
from temper.precision.calibration import Calibration, calibrate
from temper.precision.calibrators import algorithm_of, opened
from temper.precision.data import Samples, samples_of, split
from temper.precision.images import Preprocess
from temper.precision.outcome import Audit
from temper.precision.subject import Subject
from temper.precision.thresholds import Thresholds, resolve
from temper.profiles import Model
from temper.quantize.thresholds import algorithm as algorithm_named
from temper.tune.select import Progress


@dataclass(frozen=True, eq=False)
class Observed:
    """source: what gave the samples, perhaps a calibrator. part, held: those calibrated on, and those held back."""

    source: Any
    samples: Samples
    part: Samples
    held: Samples
    calibration: Calibration


def observed(
    subject: Subject,
    source: Any,
    *,
    preprocess: Preprocess | None = None,
    skip_bad: bool = False,
    limit: int = 0,
    work: Path | None = None,
    resume: bool = True,
    progress: Progress | None = None,
    told: Callable[[Samples, Samples, Samples], None] = lambda every, part, held: None,
) -> Observed:
    """Runs the float model over the data. source: as `calibrators.opened` gives it. told: gets all samples, those to
    calibrate on and those held back before the model runs. Other arguments as of `samples_of` and
    `calibration.calibrate`. DataError if the data cannot be used."""

    def reading(done: int, total: int) -> None:
        if progress is not None:
            progress("read", done, total or done)

    samples = samples_of(
        source,
        {v.name: v.type for v in subject.graph.inputs},
        subject.ranges,
        preprocess=preprocess,
        skip_bad=skip_bad,
        limit=limit,
        reading=reading,
        note=subject.note,
    )
    part, held = split(samples)
    told(samples, part, held)
    found = calibrate(
        subject.graph,
        part,
        subject.tensors,
        subject.exact,
        progress,
        held=held,
        ranges=subject.ranges,
        work=work,
        resume=resume,
    )
    return Observed(source, samples, part, held, found)


@dataclass(frozen=True, eq=False)
class Calibrated:
    """graph: the float graph whose tensors have thresholds.
    algorithm: how these were chosen.
    held: how many batches judged, and by "auto" chose, but set no range.
    """

    graph: Graph
    samples: Samples
    held: int
    algorithm: str
    thresholds: Thresholds
    audit: Audit


def calibrated(
    model: Model,
    config: BuildConfig,
    data: Any,
    calibrator: str = "",
    *,
    preprocess: Preprocess | None = None,
    skip_bad: bool = False,
    limit: int = 0,
    work: Path | None = None,
    resume: bool = True,
    progress: Progress | None = None,
) -> Calibrated:
    """Thresholds of every tensor of the model that INT8 may code.

    calibrator: "auto" or an algorithm's name; "" for what the data asks for, which is "auto" unless it is a calibrator.
    "auto" chooses by batches it holds back; other algorithms see all batches. Other arguments as of
    `observed`. DataError if nothing in the model can be INT8, or the data cannot be used.
    """
    found = opened(data)
    algorithm = calibrator or algorithm_of(found)
    if algorithm != "auto":
        algorithm_named(algorithm)
    subject = Subject.of(model, config)
    if not subject.tensors:
        reasons = "; ".join(subject.why_not()) or "it has no products"
        raise DataError(f"nothing in this model can be INT8, so there is nothing to calibrate: {reasons}")
    seen = observed(
        subject,
        found,
        preprocess=preprocess,
        skip_bad=skip_bad,
        limit=limit,
        work=work,
        resume=resume,
        progress=progress,
    )
    everything = len(seen.samples) > 1
    chosen = resolve(subject.graph, subject.tensors, algorithm, seen.calibration, everything=everything)
    report = audit(seen.samples, seen.part, subject.graph, seen.calibration, chosen)
    return Calibrated(subject.graph, seen.samples, len(seen.held), algorithm, chosen, report)
