"""What an INT8 build did, as data: the record that the build fills in, a report renders and a regression gate compares.

Nothing here computes anything. A figure that was not measured is None, never 0. Times are milliseconds, medians of the
whole engine unless said otherwise; rates are fractions of 1; SQNR is in dB; divergences have the unit that
`Budget.meaning` gives. Thresholds (`amax`) are the largest value an 8-bit code stands for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from temper.precision import records

#: Rises with every change that an older reader would misunderstand.
SCHEMA = 1

#: A class index, a text (OCR), or None where a sample has no answer.
Answer = int | str | None


@dataclass(frozen=True)
class Source:
    """A file or object that the build read.

    name: as the user gave it.
    digest: SHA-256 of what was read, hexadecimal.
    about: one line for a reader ("ONNX, opset 17", "directory of 500 images").
    """

    name: str
    digest: str
    about: str = ""


@dataclass(frozen=True)
class Data:
    """The samples. calibration chose the thresholds, held_back measured divergence; one batch may have served as both.

    synthetic: random data, asked for as such: then no figure in the outcome says anything about accuracy.
    """

    source: Source
    calibration: int
    held_back: int
    synthetic: bool = False


@dataclass(frozen=True)
class Machine:
    """Where times were taken. packages: distribution -> version, Temper's own included."""

    cpu: str
    isa: str
    threads: int
    system: str = ""
    python: str = ""
    packages: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Budget:
    """What the build had to keep to. kind: "metric" (the user's own score, higher is better: `bound` is the largest
    drop), "divergence" (label-free, `bound` is the largest divergence) or "none" (`--pure-int8`).

    metric: the metric's name; meaning: what a divergence measures, in one sentence.
    """

    kind: str
    bound: float | None
    metric: str = ""
    meaning: str = ""


@dataclass(frozen=True)
class Point:
    """One configuration that was tried.

    label: "FP32", "all INT8, min-max" ...
    kind: "float" (the baseline), "naive" (min-max, no compensation), "tried", or "chosen".
    floats: names of the sites left in float.

    ms: measured; predicted_ms: what the solver expected; metric: the user's score; compensation: what was applied.
    """

    label: str
    kind: str
    sites_on: int
    sites: int
    ms: float | None = None
    predicted_ms: float | None = None
    divergence: float | None = None
    metric: float | None = None
    size: int | None = None
    floats: tuple[str, ...] = ()
    compensation: tuple[str, ...] = ()


@dataclass(frozen=True)
class Step:
    """One step on the way: choice of thresholds, a compensation, the search, give-back. `why` says why it was taken or
    not; figures after it are those of the step even where it was not accepted. measure: what its divergence is, where
    that is not the budget's."""

    name: str
    accepted: bool
    why: str
    divergence_before: float | None = None
    divergence_after: float | None = None
    metric_before: float | None = None
    metric_after: float | None = None
    ms_before: float | None = None
    ms_after: float | None = None
    measure: str = ""


@dataclass(frozen=True)
class Site:
    """One unit of choice and what was found out about it.

    shape: of its output, e.g. "1x64x56x56".
    precision: "int8" or "float8", or "bfloat16", "float16" or "float32".
    why: the reason, for a float site always.
    int8_ms, float_ms: its region's time in each.
    reformat_ms: converting what it reads, where that comes from sites of the other kind.
    sensitivity: divergence of the outputs with this site alone in INT8.
    weights_part: how much of that comes of its weights, the rest of its data.
    sqnr: of its data as codes, which is what this site adds.
    sqnr_cumulative: of its output in the chosen engine, simulated.
    clip_rate: fraction of its data beyond the threshold.
    rmse_over_scale: error of its data in steps of the scale (rounding alone gives 0.289).
    headroom_bits: how many times the int32 accumulator could double before it might overflow.
    channel_range_ratio: largest over median weight range of the output channels.
    tensor: name of its data in `Outcome.tensors`.
    pinned: the user fixed its precision.
    """

    name: str
    op: str
    shape: str
    precision: str
    why: str
    pinned: bool = False
    origin: tuple[str, ...] = ()
    tensor: str = ""
    compensation: tuple[str, ...] = ()
    int8_ms: float | None = None
    float_ms: float | None = None
    reformat_ms: float | None = None
    sensitivity: float | None = None
    weights_part: float | None = None
    sqnr: float | None = None
    sqnr_cumulative: float | None = None
    clip_rate: float | None = None
    rmse_over_scale: float | None = None
    headroom_bits: float | None = None
    channel_range_ratio: float | None = None


@dataclass(frozen=True)
class Head:
    """How far one output, or part of one, is from the float engine's on held-back samples.

    engine: the label of the point.
    noise: energy of the error relative to the outputs' variance. Of answers, None where there are none: loss, changed:
        expected shares of right answers lost, and of answers changed.
    information, information_p99: Kullback-Leibler divergence in nats, mean and 99th percentile.
    flips: answers that did change, of `answers`.
    """

    name: str
    engine: str
    noise: float
    loss: float | None = None
    changed: float | None = None
    information: float | None = None
    information_p99: float | None = None
    flips: int | None = None
    answers: int = 0


@dataclass(frozen=True)
class Tensor:
    """A calibrated tensor.

    low, high: least and greatest value seen.
    counts: values by |x| in equal bins of [0, max(|low|, |high|)], resampled to a few hundred.
    zeros: how many were exactly 0.

    amax: the chosen threshold and the calibrator that chose it.
    alternatives: calibrator -> the threshold it would have chosen.
    errors: calibrator -> what its threshold scored where they were compared (lower is better).
    """

    name: str
    amax: float
    signed: bool
    calibrator: str
    low: float
    high: float
    counts: tuple[float, ...] = ()
    zeros: int = 0
    alternatives: Mapping[str, float] = field(default_factory=dict)
    errors: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """Something the audit of the calibration data found. severity: "note" or "warning"; tensors: those it names."""

    kind: str
    severity: str
    message: str
    tensors: tuple[str, ...] = ()


@dataclass(frozen=True)
class TensorAudit:
    """Per tensor: disagreement of the thresholds that two halves of the data give, |a - b| / max(a, b), and the
    fraction of held-back values beyond the chosen threshold."""

    split_half: float | None = None
    saturation: float | None = None


@dataclass(frozen=True)
class Audit:
    """The calibration set. duplicates, constant: samples equal to an earlier one, and nearly constant ones (counts);
    skipped: files left out with `--skip-bad`, and why."""

    samples: int
    duplicates: int = 0
    constant: int = 0
    skipped: Mapping[str, str] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    tensors: Mapping[str, TensorAudit] = field(default_factory=dict)


@dataclass(frozen=True)
class Answers:
    """What each engine answered, sample by sample; all tuples are equally long.

    origin: which samples ("held-back calibration samples", "test set").
    searched: the search looked at these samples, so that they flatter the result.
    labels: the truth, or None where nobody knows it: then FP32's answers stand in.
    fp32, naive, chosen: answers.
    margins: FP32's margin between its first and second choice.
    classes: names by index.
    names: of the samples.
    images: index of a sample -> PNG data URI, of a few that changed.
    """

    origin: str
    searched: bool
    fp32: tuple[Answer, ...]
    chosen: tuple[Answer, ...]
    naive: tuple[Answer, ...] | None = None
    labels: tuple[Answer, ...] | None = None
    margins: tuple[float, ...] | None = None
    classes: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    images: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Work:
    """What it took. passes: times the model's work over the held-back samples (region-samples / those of one pass);
    seconds: phase -> wall time."""

    passes: float
    limit: float | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Outcome:
    """Everything an INT8 build did.

    met: the budget was kept.
    verdict: one sentence that says so, or which sites are to blame.
    points: every configuration tried, exactly one of kind "float" and one of kind "chosen".
    config: the options that shaped the result, JSON values only.
    when: ISO 8601, UTC.
    """

    temper: str
    when: str
    model: Source
    data: Data
    machine: Machine
    budget: Budget
    met: bool
    verdict: str
    points: tuple[Point, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    config_digest: str = ""
    steps: tuple[Step, ...] = ()
    sites: tuple[Site, ...] = ()
    tensors: tuple[Tensor, ...] = ()
    heads: tuple[Head, ...] = ()
    audit: Audit | None = None
    warnings: tuple[str, ...] = ()
    answers: Answers | None = None
    work: Work | None = None
    schema: int = SCHEMA

    def point(self, kind: str) -> Point | None:
        """The first point of a kind, None where none was tried."""
        return next((p for p in self.points if p.kind == kind), None)

    def to_json(self) -> dict[str, Any]:
        """JSON values; floats that JSON lacks become the strings "inf", "-inf" and "nan"."""
        return records.to_json(self)

    @staticmethod
    def from_json(data: Mapping[str, Any]) -> Outcome:
        """The inverse of to_json. Unknown fields are ignored; DataError for another schema or a field that is missing
        or of the wrong type, which it names."""
        return records.from_json(Outcome, data, schema=SCHEMA)
