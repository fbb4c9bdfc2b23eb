"""Audits a calibration set for problems that show in its data: too few samples, too narrow, the same ones again."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from temper.ir.graph import Graph
from temper.precision.calibration import Calibration
from temper.precision.data import Samples
from temper.precision.outcome import Audit, Finding, TensorAudit
from temper.precision.thresholds import CACHE, Thresholds
from temper.quantize.histogram import Histogram
from temper.quantize.placement import not_negative
from temper.quantize.source_names import source_names
from temper.quantize.thresholds import algorithm

#: Fewer samples than this are too few to say what a model's activations are.
FEW = 32
#: Thresholds found on either half of the data differ by more than this share of the larger one: the set is too small.
DISAGREEMENT = 0.25
#: A share of held-back values beyond the threshold is suspicious from here on, where it is also so many times that of
#: the calibration data: the set is too narrow.
SATURATION, TIMES = 1e-3, 4.0
#: One batch's largest value is so many times every other's: it alone would set a min-max range.
OUTLIER = 2.0
#: A sample's standard deviation below this share of the median one: it shows next to nothing.
CONSTANT = 0.01
#: Share of repeated samples from which on they are more than a note.
REPEATED = 0.05

#: Tensors or samples that a finding names.
_NAMED = 5


def audit(samples: Samples, calibrated: Samples, graph: Graph, calibration: Calibration, found: Thresholds) -> Audit:
    """samples: all of them. calibrated: those not held back. calibration and found: what came of them.

    Tensors go by their source names. A finding of severity "warning" says what to do.
    """
    names = {t: n[0] for t, n in source_names(graph, found.chosen).items()}
    values = {v.name: v for v in graph.values}
    tensors = {}
    apart: dict[str, float] = {}
    saturated: dict[str, tuple[float, float]] = {}
    for t, chosen in found.chosen.items():
        if t not in calibration.histograms:
            continue
        levels = 127 if not not_negative(values[t]) else 255
        how = "minmax" if chosen.calibrator == CACHE else chosen.calibrator
        halves = [algorithm(how)(o.histograms[t], levels) for o in calibration.halves if o.batches]
        split = abs(halves[0] - halves[1]) / max(halves) if len(halves) == 2 and max(halves) > 0 else None
        held = calibration.held.histograms[t]
        beyond = share_beyond(held, chosen.amax) if held.total else None
        tensors[names[t]] = TensorAudit(split, beyond)
        if split is not None and split > DISAGREEMENT:
            apart[names[t]] = split
        if beyond is not None:
            own = share_beyond(calibration.histograms[t], chosen.amax)
            if beyond > SATURATION and beyond > TIMES * own:
                saturated[names[t]] = (beyond, own)
    rows = [r for p in samples.kept for r in p.rows]
    duplicates = len(rows) - len(set(rows))
    constant = _constant(samples)
    findings = [
        *_of_samples(samples, duplicates, constant),
        *_apart(apart, len(tensors)),
        *_saturated(saturated, len(tensors)),
        *_outliers(calibrated, calibration, names),
    ]
    return Audit(samples.count, duplicates, len(constant), samples.skipped, tuple(findings), tensors)


def share_beyond(h: Histogram, amax: float) -> float:
    """Share of values larger than `amax`, values of a bin taken as uniform over it."""
    if not h.total:
        return 0.0
    at = min(max(amax, 0.0), h.amax) / h.width
    whole = int(at)
    inside = float(h.counts[:whole].sum())
    if whole < len(h.counts):
        inside += float(h.counts[whole]) * (at - whole)
    return 0.0 if amax >= h.amax else max(0.0, 1.0 - inside / h.total)


def _constant(samples: Samples) -> list[str]:
    """Samples of which some float input hardly varies, against the others."""
    spread: dict[str, list[tuple[str, float]]] = {}
    for p in samples.kept:
        for name, (_, _, deviation) in p.extent.items():
            spread.setdefault(name, []).append((p.samples[0], deviation))
    found: dict[str, None] = {}
    for rows in spread.values():
        usual = statistics.median(d for _, d in rows)
        found.update(dict.fromkeys(s for s, d in rows if d <= CONSTANT * usual))
    return list(found)


def _of_samples(samples: Samples, duplicates: int, constant: Sequence[str]) -> list[Finding]:
    found = []
    if samples.synthetic:
        found.append(Finding("synthetic", "warning", "the data is made up: thresholds and divergences mean nothing"))
    if samples.count < FEW:
        text = f"there are {samples.count} samples only: give {FEW} at least, some hundreds are usual"
        found.append(Finding("few", "warning", text))
    if duplicates:
        share = duplicates / samples.count
        repeated = Counter(r for p in samples.kept for r in p.rows)
        called = [s for p in samples.kept for s, r in zip(p.samples, p.rows, strict=True) if repeated[r] > 1]
        text = f"{duplicates} of {samples.count} samples repeat another one: {_some(called)}"
        found.append(Finding("duplicates", "warning" if share > REPEATED else "note", text))
    if constant:
        text = f"{len(constant)} samples hardly vary: {_some(constant)}"
        found.append(Finding("constant", "warning" if len(constant) > REPEATED * samples.count else "note", text))
    if samples.skipped:
        text = f"{len(samples.skipped)} samples were unusable and left out: {_some(list(samples.skipped))}"
        found.append(Finding("skipped", "warning", text))
    return found


def _apart(apart: Mapping[str, float], total: int) -> list[Finding]:
    if not apart:
        return []
    worst = sorted(apart, key=lambda t: -apart[t])
    named = ", ".join(f"{t} ({apart[t]:.0%})" for t in worst[:_NAMED])
    text = (
        f"the calibration set is too small for {len(apart)} of {total} tensors: the thresholds of its two halves "
        f"differ by more than {DISAGREEMENT:.0%}: {named}{_more(worst)}; give more samples"
    )
    return [Finding("ranges", "warning", text, tuple(worst))]


def _saturated(saturated: Mapping[str, tuple[float, float]], total: int) -> list[Finding]:
    if not saturated:
        return []
    worst = sorted(saturated, key=lambda t: -saturated[t][0])
    named = ", ".join(f"{t} ({saturated[t][0]:.2%}, {saturated[t][1]:.2%})" for t in worst[:_NAMED])
    text = (
        f"the calibration set is too narrow for {len(saturated)} of {total} tensors: held-back values lie beyond the "
        f"threshold much more often than calibrated ones: {named}{_more(worst)}; give samples of more kinds"
    )
    return [Finding("saturation", "warning", text, tuple(worst))]


def _outliers(samples: Samples, calibration: Calibration, names: Mapping[str, str]) -> list[Finding]:
    """Batches whose peaks stand out in many tensors."""
    peaks = calibration.peaks
    if len(peaks) < 3 or not peaks.size:
        return []
    order = np.sort(peaks, axis=0)
    alone = order[-1] > OUTLIER * order[-2]
    found = []
    for batch in sorted(set(np.argmax(peaks, axis=0)[alone].tolist())):
        tensors = [names[t] for k, t in enumerate(calibration.tensors) if alone[k] and peaks[:, k].argmax() == batch]
        text = (
            f"sample {samples.names[batch]} alone has values more than {OUTLIER:g} times all others' in {len(tensors)} "
            f"tensors: {_some(tensors)}; look whether it belongs there"
        )
        found.append(Finding("outlier", "note", text, tuple(tensors)))
    return found


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + _more(names)


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
