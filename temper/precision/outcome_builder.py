"""Collects the record of an INT8 build (outcome.py) while it runs, and the part of it that goes into the plan."""

from __future__ import annotations

import datetime
import hashlib
import importlib.metadata
import json
import os
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from temper.precision import outcome as record
from temper.precision.costs import conversions
from temper.precision.data import Samples
from temper.precision.divergence import Divergence, worst
from temper.precision.layer_noise import Noise
from temper.precision.request import Request, name_of
from temper.precision.site_statistics import Figures, figures
from temper.precision.subject import Subject
from temper.precision.trials import Trials
from temper.quantize.histogram import Histogram
from temper.quantize.placement import Site
from temper.quantize.solver import Edge
from temper.quantize.source_names import source_names
from temper.runtime import machine

#: What the divergence of a point measures.
MEANING = (
    "how far the outputs on held-back samples are from FP32's, as a share of what is accepted: expected loss of right "
    "answers, by FP32's own account of them, and noise relative to the outputs' variance; the worst of all outputs"
)

#: Sites that the plan's summary lists.
_LISTED = 50


def layers(quick: int, slow: int, word: str = "INT8", eights: int = 0) -> str:
    """How many are in which precision, for people."""
    return f"{quick:,} layer{'s' * (quick != 1)} in {word}, {f'{eights:,} in FP8, ' * (eights > 0)}{slow:,} in float"


@dataclass
class OutcomeBuilder:
    """say: takes lines for the user.
    why: reason by site in float.
    loss: sensitivity by site.
    seconds: by phase.
    links: data between sites, and what its conversion costs.
    noise: of sites, measured.
    weights_part: as in outcome.Site.
    drop: of a score, at most.
    """

    subject: Subject
    request: Request
    say: Callable[[str], None]
    points: dict[frozenset[str], record.Point] = field(default_factory=dict)
    steps: list[record.Step] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    loss: Mapping[str, float] = field(default_factory=dict)
    int8_seconds: Mapping[str, float] = field(default_factory=dict)
    float_seconds: Mapping[str, float] = field(default_factory=dict)
    links: tuple[Edge, ...] = ()
    noise: Mapping[str, Noise] = field(default_factory=dict)
    weights_part: Mapping[str, float] = field(default_factory=dict)
    heads: tuple[record.Head, ...] = ()
    data: record.Data | None = None
    audit: record.Audit | None = None
    tensors: tuple[record.Tensor, ...] = ()
    histograms: Mapping[str, Histogram] = field(default_factory=dict)
    answers: record.Answers | None = None
    verdict: str = ""
    drop: float | None = None
    met: bool = True

    def warn(self, text: str) -> None:
        self.warnings.append(text)
        self.say(f"warning: {text}")

    def samples(self, every: Samples, calibration: Samples, held: Samples) -> None:
        """The data that was given, and how it was divided."""
        given = self.request.calibration
        name = str(given) if isinstance(given, (str, os.PathLike)) else type(given).__name__
        source = record.Source(name, every.digest, f"{len(every)} batches, {every.count} samples")
        self.data = record.Data(source, calibration.count, held.count, every.synthetic)
        remarks = (*every.remarks, *held.remarks)
        if every.synthetic and self.request.cache is not None:
            remarks = ("ranges are the cache's, but layers are judged on random numbers, not on data",)
        for remark in dict.fromkeys(remarks):
            self.warn(remark)

    # ---- points ----

    def point(
        self,
        trials: Trials,
        floats: frozenset[str],
        kind: str,
        label: str,
        divergence: Sequence[Divergence] | None = None,
        metric: float | None = None,
        predicted: float | None = None,
    ) -> record.Point:
        """Records a choice that was tried; what is known of it already stays."""
        old = self.points.get(floats)
        ratio = worst(divergence, self.request.bounds) if divergence else None
        new = record.Point(
            (label or _label(trials, floats)) if old is None else old.label,
            kind if old is None else old.kind,
            len(trials.everything - floats),
            len(trials.everything),
            ms=None if old is None else old.ms,
            predicted_ms=_ms(predicted) if predicted is not None else (None if old is None else old.predicted_ms),
            divergence=ratio if ratio is not None else (None if old is None else old.divergence),
            metric=metric if metric is not None else (None if old is None else old.metric),
            floats=tuple(s.name for s in self.subject.sites if s.name in floats),
        )
        self.points[floats] = new
        return new

    def timed(self, floats: frozenset[str], seconds: float, size: int | None = None) -> None:
        """The measured time of a whole engine."""
        self.points[floats] = replace(self.points[floats], ms=1e3 * seconds, size=size)

    def choose(self, floats: frozenset[str]) -> None:
        """This point is the result. The float engine's point stays, beside a chosen one of the same."""
        chosen = self.points[floats]
        if chosen.kind == "float":
            self.points[floats | {"\0chosen"}] = replace(chosen, kind="chosen", label="chosen: all in float")
        else:
            self.points[floats] = replace(chosen, kind="chosen")

    # ---- the result ----

    def outcome(self, trials: Trials, floats: frozenset[str]) -> record.Outcome:
        """Everything, as data."""
        config = self._config()
        known = figures(self.subject.graph, self.subject.sites, trials.recipe, self.histograms)
        names = source_names(self.subject.graph, [t for s in self.subject.sites for t in s.tensors])
        converting = conversions(self.links, floats)
        return record.Outcome(
            temper=_version(),
            when=datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            model=_model(self.subject),
            data=self.data or record.Data(record.Source("none", ""), 0, 0),
            machine=_machine(self.subject),
            budget=self._budget(),
            met=self.met,
            verdict=self.verdict,
            points=tuple(self.points.values()),
            config=config,
            config_digest=hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest(),
            steps=(*self.steps, *self._back_in_float(trials, floats)),
            sites=tuple(
                self._site(s, floats, self._kinds(trials, floats), known, names, converting) for s in self.subject.sites
            ),
            tensors=self.tensors,
            heads=self.heads,
            audit=self.audit,
            warnings=tuple(self.warnings),
            answers=self.answers,
            work=record.Work(trials.passes, self.request.passes, dict(self.seconds)),
        )

    def _budget(self) -> record.Budget:
        if self.request.pure_int8 or self.data is None:
            return record.Budget("none", None, meaning=MEANING)
        if self.request.evaluate is not None:
            return record.Budget("metric", self.drop, name_of(self.request.evaluate), MEANING)
        return record.Budget("divergence", 1.0, meaning=MEANING)

    def _config(self) -> dict[str, Any]:
        r, c = self.request, self.subject.config
        return {
            "calibrator": r.calibrator if isinstance(r.calibrator, str) else type(r.calibrator).__name__,
            "cache": None if r.cache is None else r.cache.name,
            "max_drop": r.max_drop,
            "keep": list(r.keep),
            "pure_int8": r.pure_int8,
            "compensate": r.compensate,
            "skip_bad": r.skip_bad,
            "bounds": r.bounds.as_dict(),
            "passes": r.passes,
            "threads": c.threads,
            "effort": c.effort,
            "isa": c.isa,
        }

    def _back_in_float(self, trials: Trials, floats: frozenset[str]) -> list[record.Step]:
        """The last step: from everything in INT8 to the choice."""
        before, after = self.points.get(trials.naive), self.points.get(floats)
        if before is None or after is None or floats <= trials.naive:
            return []
        count = len((floats & trials.everything) - trials.naive)
        return [
            record.Step(
                f"{count} layer{'s' * (count > 1)} back in float",
                True,
                "the fastest choice found that keeps the budget" if self.met else "the best choice found",
                before.divergence,
                after.divergence,
                before.metric,
                after.metric,
                before.ms,
                after.ms,
            )
        ]

    def _kinds(self, trials: Trials, floats: frozenset[str]) -> dict[str, str]:
        """The precision of sites that are not on, float32 apart."""
        return dict.fromkeys(trials.halves(floats), self.subject.half) | dict.fromkeys(trials.eights(floats), "float8")

    def _site(
        self,
        site: Site,
        floats: frozenset[str],
        kinds: Mapping[str, str],
        known: Mapping[str, Figures],
        names: Mapping[str, tuple[str, ...]],
        converting: Mapping[str, float],
    ) -> record.Site:
        pins = self.subject.pins
        is_float, name = site.name in floats, site.name
        if name in pins.every:
            why = "pinned by --keep"
        elif is_float:
            why = self.why.get(name, "the whole model is faster, or safer, in float")
        else:
            why = "within the budget" if self.data is not None and not self.request.pure_int8 else "asked for"
        node = next(n for n in self.subject.graph.nodes if n.outputs[0].name == site.key)
        quick, slow = self.int8_seconds.get(name), self.float_seconds.get(name)
        return record.Site(
            name,
            site.op,
            "x".join(map(str, node.outputs[0].type.shape)),
            self.request.form if not is_float else kinds.get(name, "float32"),
            why,
            pinned=name in pins.every,
            origin=site.origin,
            tensor=names[site.tensors[0]][0] if site.tensors else "",
            int8_ms=_ms(quick),
            float_ms=_ms(slow),
            reformat_ms=_ms(converting.get(name, 0.0)) if self.links else None,
            sensitivity=self.loss.get(name),
            weights_part=self.weights_part.get(name),
            **self._figures(name, known.get(name, Figures())),
        )

    def _figures(self, name: str, known: Figures) -> dict[str, Any]:
        """What histograms and weights tell, and instead of it what was measured."""
        measured = vars(self.noise[name]) if name in self.noise else {}
        return {**vars(known), **{k: v for k, v in measured.items() if v is not None}}

    def summary(self, outcome: record.Outcome) -> dict[str, Any]:
        """What the plan keeps of it."""
        kept = [s for s in outcome.sites if s.precision != self.request.form]
        chosen, baseline = outcome.point("chosen"), outcome.point("float")
        lowest = min((p.ms for p in outcome.points if p.kind == "tried" and p.ms is not None), default=None)
        return {
            "form": self.request.form,
            "sites": len(outcome.sites),
            "int8": len(outcome.sites) - len(kept),
            "eights": sum(s.precision == "float8" for s in kept),
            "kept": [
                {"name": s.name, "op": s.op, "precision": s.precision, "why": s.why, "ms": _difference(s)}
                for s in kept[:_LISTED]
            ],
            "budget": outcome.budget.kind,
            "met": outcome.met,
            "verdict": outcome.verdict,
            "ms": None if chosen is None else chosen.ms,
            "float_ms": None if baseline is None else baseline.ms,
            "all_int8_ms": lowest if chosen is None or kept else chosen.ms,
            "synthetic": outcome.data.synthetic,
            "calibrator": outcome.config["calibrator"],
            "samples": [outcome.data.calibration, outcome.data.held_back],
            "data": outcome.data.source.digest,
            "passes": None if outcome.work is None else outcome.work.passes,
            "warnings": list(outcome.warnings),
        }


def _label(trials: Trials, floats: frozenset[str]) -> str:
    eights, every = len(trials.eights(floats)), len(floats & trials.everything)
    return f"{every - eights} in float" + (f", {eights} in FP8" if eights else "")


def _difference(site: record.Site) -> float | None:
    """Milliseconds that float costs more than INT8."""
    return None if site.int8_ms is None or site.float_ms is None else site.float_ms - site.int8_ms


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds


def _model(subject: Subject) -> record.Source:
    model = subject.model
    if isinstance(model, (str, Path)):
        return record.Source(str(model), _file_digest(Path(model)), "ONNX")
    if isinstance(model, bytes):
        return record.Source(subject.graph.name, hashlib.sha256(model).hexdigest(), "ONNX, in memory")
    return record.Source(subject.graph.name, subject.graph.hash(), "in memory; the digest is its float graph's")


def _file_digest(path: Path) -> str:
    h = hashlib.sha256()
    with path.open("rb") as file:
        while data := file.read(1 << 20):
            h.update(data)
    return h.hexdigest()


def _version() -> str:
    from temper import __version__

    return __version__


def _machine(subject: Subject) -> record.Machine:
    packages = {"temper": _version()}
    for name in ("numpy", "onnx", "ziglang" if subject.target.name == "cpu" else "triton"):
        try:
            packages[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    name = machine.cpu_name() if subject.target.name == "cpu" else str(subject.target.fingerprint.get("gpu", "no GPU"))
    return record.Machine(
        name, subject.target.isa, subject.config.threads, platform.platform(), platform.python_version(), packages
    )
