"""Compensation within a build: chooses data and steps, reports them, and keeps the result for the next build."""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from temper.errors import ConfigError
from temper.precision import outcome as record
from temper.precision import recipe_file
from temper.precision.calibration import Calibration
from temper.precision.compensate import STEPS, Data, Step, compensate
from temper.precision.data import Samples
from temper.precision.outcome_builder import OutcomeBuilder
from temper.precision.request import Request
from temper.precision.simulate import Simulator
from temper.precision.subject import Subject
from temper.precision.trials import recipe_digest
from temper.quantize.auto import choose_ranged, clipping_weight
from temper.quantize.recipe import Recipe

#: Batches that compensation takes statistics from, held-back ones that it is judged by, at most and as a share of them,
#: since the search needs passes over them too, and more of the calibration data to judge by.
_STATISTICS, _JUDGES, _SHARE, _SPARE = 24, 16, 4, 32

#: Rises when compensation does something else, so that what an earlier version made is not taken for it.
_FORMAT = 3


@dataclass(frozen=True, eq=False)
class Compensated:
    """recipe: with what was accepted. passes: over the held-back samples. simulator: of the recipe, if one was made."""

    recipe: Recipe
    passes: float = 0.0
    simulator: Simulator | None = None


def compensated(
    subject: Subject,
    recipe: Recipe,
    request: Request,
    account: OutcomeBuilder,
    part: Samples,
    held: Samples,
    calibration: Calibration,
    alternatives: Mapping[str, Mapping[str, float]],
) -> Compensated:
    """What brings the outputs nearer to the float engine's; the account gets the steps. part, held: samples calibrated
    on, and held back. alternatives: thresholds by tensor and calibrator.

    Thresholds that the user chose stay as they are: those of a cache altogether, those of a calibrator that was named
    are not exchanged for another's.
    """
    steps = tuple(
        s
        for s in STEPS
        if not (s == "thresholds" and (request.cache is not None or request.calibrator != "auto"))
        and not (s == "zero_points" and request.cache is not None)
    )
    path = _path(request, subject, recipe, part, held, steps)
    known = recipe_file.read(path) if path is not None else None
    if known is not None:
        for row in known[1]["steps"]:
            _told(account, Step(**{**row, "changed": tuple(row["changed"])}))
        return Compensated(known[0])
    start = time.perf_counter()
    first = _few(len(part), _STATISTICS)
    rest = sorted(set(range(len(part))) - set(first))
    data = Data(
        [part[i] for i in first],
        [held[i] for i in _few(len(held), min(_JUDGES, max(2, len(held) // _SHARE)))],
        [part[rest[i]] for i in _few(len(rest), _SPARE)],
        {t: (h.low, h.high) for t, h in calibration.histograms.items()},
        alternatives,
        _ranged(subject, calibration) if request.calibrator == "auto" and "zero_points" in steps else {},
    )
    try:
        found = compensate(subject.graph, recipe, subject.plain, data, steps, lambda step: _told(account, step))
    except ConfigError as e:  # weights that a pass rewrites
        account.warn(f"no compensation: {e}")
        return Compensated(recipe)
    account.seconds["compensate"] = time.perf_counter() - start
    if path is not None:
        recipe_file.write(path, found.recipe, {"steps": [dataclasses.asdict(s) for s in found.steps]})
    return Compensated(found.recipe, found.work / max(1, held.count), found.simulator)


def _ranged(subject: Subject, calibration: Calibration) -> dict[str, float]:
    """Thresholds of tensors whose codes get a zero point, chosen for the steps that such codes have."""
    values = {v.name: v for v in subject.graph.values}
    held = calibration.held.histograms
    return {
        t: choose_ranged(h, held.get(t, h), clipping_weight(values[t])).amax
        for t, h in calibration.histograms.items()
        if h.low < 0 < h.high
    }


def _told(account: OutcomeBuilder, step: Step) -> None:
    effect = f"distance from FP32's outputs {step.before:.3g} -> {step.after:.3g}"
    account.say(f"{step.name}: {effect if step.accepted else f'not taken: {step.reason}'}")
    why = effect if step.accepted else step.reason
    account.steps.append(record.Step(step.name, step.accepted, why, step.before, step.after, measure="distance"))


def _path(
    request: Request, subject: Subject, recipe: Recipe, part: Samples, held: Samples, steps: tuple[str, ...]
) -> Path | None:
    if request.work is None:
        return None
    about = (str(_FORMAT), subject.graph.hash(), recipe_digest(recipe), part.digest, held.digest, *steps)
    return request.work / f"compensation-{hashlib.sha256(chr(0).join(about).encode()).hexdigest()[:24]}.npz"


def _few(count: int, most: int) -> list[int]:
    """At most `most` of the numbers below `count`, evenly."""
    return list(range(0, count, max(1, -(-count // most))))
