"""The table of outputs: how far each is from FP32's on the held-back samples."""

from __future__ import annotations

from temper.precision.outcome import Head, Outcome
from temper.report.markup import Markup, scroller, section, table, tag
from temper.report.words import number, percent

_HEAD = (
    "Output", "Engine", "Noise", "Right answers lost", "Answers changed", "of them counted", "Mean KL, nats", "p99 KL",
)  # fmt: skip


def outputs_section(outcome: Outcome) -> Markup | None:
    """One row an output and engine."""
    if not outcome.heads:
        return None
    return section(
        "outputs",
        "Outputs",
        tag(
            "p",
            "Noise is the energy of the error relative to the outputs' variance. Lost and changed are expected shares, "
            "by FP32's own account of its answers; KL is the divergence of FP32's classes from the engine's.",
        ),
        scroller("Outputs", table(_HEAD, [_row(h) for h in outcome.heads])),
    )


def _row(h: Head) -> tuple[str, ...]:
    counted = "" if h.flips is None else f"{h.flips:,} of {h.answers:,}"
    return (
        h.name, h.engine, number(h.noise), percent(h.loss, 3), percent(h.changed, 3), counted, number(h.information),
        number(h.information_p99),
    )  # fmt: skip
