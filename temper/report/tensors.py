"""Histograms of calibrated tensors with the thresholds that were chosen and those that might have been."""

from __future__ import annotations

import math

from temper.precision.outcome import Outcome, Site, Tensor
from temper.report.markup import Markup, scroller, section, table, tag
from temper.report.words import UNKNOWN, number, percent

#: Part of the width within which two thresholds look like one.
_CLOSE = 0.02


def tensors_section(outcome: Outcome) -> tuple[Markup | None, dict[str, int]]:
    """The drill-down, and the number of each tensor's panel by name. Panels are templates: the page shows one."""
    shown = list({t.name: t for t in reversed(outcome.tensors) if t.counts}.values())[::-1]
    if not shown:
        return None, {}
    numbers = {t.name: i for i, t in enumerate(shown)}
    readers: dict[str, list[Site]] = {}
    for site in outcome.sites:
        readers.setdefault(site.tensor, []).append(site)
    options = [tag("option", t.name, value=i) for i, t in enumerate(shown)]
    return (
        section(
            "tensors",
            "Tensors",
            tag(
                "p",
                "How often each magnitude occurred in the calibration data, on a logarithmic scale. An 8-bit code "
                "reaches as far as the chosen threshold; what lies beyond is clipped to it.",
            ),
            tag(
                "div",
                tag("label", "Tensor ", tag("select", options, id="tensor-choice")),
                tag("button", "Previous", type="button", id="tensor-previous"),
                tag("button", "Next", type="button", id="tensor-next"),
                class_="controls",
            ),
            tag("div", _panel(shown[0], readers), id="tensor-panel", aria_live="polite"),
            *(tag("template", _panel(t, readers), id=f"tensor-{i}") for i, t in enumerate(shown)),
            tag("noscript", tag("p", "Choosing a tensor needs JavaScript.")),
        ),
        numbers,
    )


def top(tensor: Tensor) -> float:
    """The end of the histogram."""
    return max(abs(tensor.low), abs(tensor.high))


def clipped(tensor: Tensor, threshold: float) -> float | None:
    """Part of the values beyond a threshold, bins shared out by length; None without values."""
    total, end = sum(tensor.counts), top(tensor)
    if not total or not end:
        return None
    position = len(tensor.counts) * threshold / end
    whole = math.floor(position)
    if whole >= len(tensor.counts):
        return 0.0
    return (sum(tensor.counts[whole + 1 :]) + tensor.counts[whole] * (1 - (position - whole))) / total


def _panel(tensor: Tensor, readers: dict[str, list[Site]]) -> Markup:
    end = top(tensor)
    axis = max([end, tensor.amax, *(a for a in tensor.alternatives.values() if a <= 2 * end)]) or 1.0
    total = sum(tensor.counts)
    zeros = percent(tensor.zeros / total) if total else UNKNOWN
    read = ", ".join(s.name for s in readers.get(tensor.name, ())) or UNKNOWN
    lines = [
        tag("i", tag("span", ", ".join(names)), class_="threshold", style=f"left:{100 * a / axis:.2f}%")
        for a, names in _lines(tensor, axis)
    ]
    chosen = 100 * tensor.amax / axis
    side = "flip" if chosen > 60 else ""
    lines.append(
        tag("i", tag("span", f"{tensor.calibrator} {number(tensor.amax, 4)}"), class_=f"threshold chosen {side}",
            style=f"left:{chosen:.2f}%")
    )  # fmt: skip
    return tag(
        "figure",
        tag("h3", tensor.name),
        tag("div", _bars(tensor, 100 * end / axis), *lines, class_="histogram"),
        tag("div", *(tag("span", number(axis * i / 4)) for i in range(5)), class_="histogram-ticks"),
        tag(
            "p",
            f"{'signed' if tensor.signed else 'not negative'}; values from {number(tensor.low, 4)} to "
            f"{number(tensor.high, 4)}; {zeros} exactly zero; read by {read}",
            class_="small",
        ),
        scroller("Thresholds", _thresholds(tensor)),
    )


def _lines(tensor: Tensor, axis: float) -> list[tuple[float, list[str]]]:
    """Thresholds that were not chosen, with their names; those too close to tell apart share a line."""
    found: list[tuple[float, list[str]]] = []
    for name, a in sorted(tensor.alternatives.items(), key=lambda item: item[1]):
        if a > axis or abs(a - tensor.amax) < _CLOSE * axis:
            continue
        if found and a - found[-1][0] < _CLOSE * axis:
            found[-1][1].append(name)
        else:
            found.append((a, [name]))
    return found


def _bars(tensor: Tensor, width: float) -> Markup:
    """One path: bin i is a bar of height log10(1 + count)."""
    peak = math.log10(1 + max(tensor.counts)) or 1.0
    n = len(tensor.counts)
    path = f"M0 {100:d}" + "".join(f"V{100 - 100 * math.log10(1 + c) / peak:.1f}h1" for c in tensor.counts) + "V100Z"
    return tag(
        "svg",
        tag("path", d=path),
        viewBox=f"0 0 {n} 100",
        preserveAspectRatio="none",
        style=f"width:{width:.2f}%",
        role="img",
        aria_label=f"Histogram of {tensor.name}",
    )


def _thresholds(tensor: Tensor) -> Markup:
    every = dict(tensor.alternatives)
    every.setdefault(tensor.calibrator, tensor.amax)
    end = top(tensor)
    rows = [
        (
            tag("b", name) if name == tensor.calibrator else name,
            number(a, 4),
            percent(a / end, 1) if end else UNKNOWN,
            percent(clipped(tensor, a), 4),
            number(tensor.errors.get(name)),
            "chosen" if name == tensor.calibrator else "",
        )
        for name, a in sorted(every.items(), key=lambda item: -item[1])
    ]
    return table(("Calibrator", "Threshold", "of the range", "Clips", "Held-out error", ""), rows, class_="figures")
