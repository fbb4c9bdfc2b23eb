"""The options of an INT8 build, and the user's metric."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from temper.errors import ConfigError, DataError
from temper.precision.answered import Score
from temper.precision.divergence import Bounds
from temper.precision.images import Preprocess
from temper.precision.scripts import raising
from temper.quantize.thresholds import algorithm
from temper.runtime.engine import Engine
from temper.tune.timing_cache import default_path

#: Drop of the score that is accepted where none is stated, as a share of the float engine's score.
DROP = 0.003

Evaluate = Callable[[Engine], float | Score]


@dataclass(frozen=True)
class Request:
    """Options of an INT8 build.

    calibration: data, in any form that `data.samples_of` takes.
    preprocess: of pictures.
    calibrator: "auto" (which is what a calibrator given as data asks for) or an algorithm's name.
    cache: a calibration cache file to take thresholds from.
    evaluate: a score of an engine, higher is better.
    max_drop: how much of it may be lost, in its own unit (DROP of the float engine's score if None).
    keep: patterns such as '/head/*=fp32'.
    pure_int8: everything that can be is INT8, whatever is lost.
    skip_bad: leave out samples that cannot be used.
    bounds: what outputs may diverge by where there is no metric.
    compensate: change thresholds, scales and biases where that helps.
    passes: of the model over the held-back samples, at most.
    answers: keep what the engines answered on each sample, for a report.
    work: folder where calibration and search keep what is done, by digests.
    form: "int8", or "float8" for 8-bit floats (E4M3) instead, on GPUs that multiply them.
    """

    calibration: Any = None
    preprocess: Preprocess | None = None
    calibrator: str = "auto"
    cache: Path | None = None
    evaluate: Evaluate | None = None
    max_drop: float | None = None
    keep: tuple[str, ...] = ()
    pure_int8: bool = False
    skip_bad: bool = False
    bounds: Bounds = field(default_factory=Bounds)
    compensate: bool = True
    passes: float = 12.0
    answers: bool = False
    work: Path | None = None
    form: str = "int8"

    @property
    def word(self) -> str:
        """What the low precision is called."""
        return "INT8" if self.form == "int8" else "FP8"

    @property
    def everything(self) -> str:
        """What the choice is called in which nothing is kept in float."""
        return f"all {self.word}"

    def __post_init__(self) -> None:
        if self.calibrator != "auto":
            algorithm(self.calibrator)
        if self.max_drop is not None:
            if self.evaluate is None:
                raise ConfigError("max_drop limits the drop of a score: give the evaluation function too (--eval)")
            if not self.max_drop >= 0 or math.isinf(self.max_drop):
                raise ConfigError(f"max_drop must be a number that is not negative, not {self.max_drop}")
        if self.pure_int8 and self.evaluate is not None:
            raise ConfigError("pure_int8 keeps everything in INT8, so that an evaluation function decides nothing")
        if self.calibration is None and self.cache is None:
            raise DataError(
                f"{self.word} needs calibration data: give real inputs (--calib, calibration=), or a calibration cache "
                "(--calib-cache, calibration_cache=)"
            )


def work_folder() -> Path:
    """Where interrupted builds find what they did, unless told: beside the timing cache."""
    return default_path().parent / "int8"


@dataclass
class Metric:
    """A user's evaluation function, checked. calls: how often it ran. last: what it returned, if that was a `Score`."""

    evaluate: Evaluate
    name: str
    calls: int = 0
    last: Score | None = None

    def score(self, engine: Engine) -> float:
        """DataError if it raises, or returns anything but a finite number."""
        self.calls += 1
        with raising(f"the evaluation function {self.name}"):
            found: Any = self.evaluate(engine)
        if isinstance(found, (bool, str, bytes)) or found is None:
            raise DataError(f"the evaluation function {self.name} returned {found!r}, not a number: a score is needed")
        try:
            score = float(found)
        except (TypeError, ValueError) as e:
            raise DataError(
                f"the evaluation function {self.name} returned {type(found).__name__}, not a number: a score is needed"
            ) from e
        if not math.isfinite(score):
            raise DataError(f"the evaluation function {self.name} returned {score}: a score must be finite")
        self.last = found if isinstance(found, Score) else None
        return score


def name_of(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__qualname__", type(function).__name__))
