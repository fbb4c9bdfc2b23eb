"""The end of the page: the audit of the calibration data, and what it takes to get the same result again."""

from __future__ import annotations

import json
from collections.abc import Mapping

from temper.precision.outcome import Outcome, TensorAudit
from temper.report.markup import Child, Markup, scroller, section, table, tag
from temper.report.words import UNKNOWN, number, percent, plural

#: Rows of the tensors that stand out.
_SHOWN = 12


def audit_section(outcome: Outcome) -> Markup | None:
    """What was wrong or thin with the calibration data."""
    audit = outcome.audit
    if audit is None:
        return None
    facts: list[tuple[str, Child]] = [
        ("samples", f"{audit.samples:,}"),
        ("equal to an earlier one", f"{audit.duplicates:,}"),
        ("nearly constant", f"{audit.constant:,}"),
        ("left out", f"{len(audit.skipped):,}"),
    ]
    findings = [
        tag(
            "li",
            tag("span", f.severity, class_=f"chip {'no' if f.severity == 'warning' else ''}"),
            " ",
            f.message,
            tag("small", f" {', '.join(f.tensors[:8])}{' ...' if len(f.tensors) > 8 else ''}") if f.tensors else None,
        )
        for f in audit.findings
    ]
    return section(
        "audit",
        "Calibration data",
        _facts(facts),
        tag("ul", *findings, class_="findings") if findings else tag("p", "The audit found nothing to complain about."),
        _unsteady(audit.tensors),
        _left_out(audit.skipped) if audit.skipped else None,
    )


def _left_out(skipped: Mapping[str, str]) -> Markup:
    items = [tag("li", f"{name}: {why}") for name, why in skipped.items()]
    return tag("details", tag("summary", "Files left out"), tag("ul", *items))


def _unsteady(tensors: Mapping[str, TensorAudit]) -> Markup | None:
    """Tensors whose ranges the data settles least."""
    if not tensors:
        return None
    order = sorted(tensors.items(), key=lambda item: (-(item[1].split_half or 0), -(item[1].saturation or 0)))
    rows = [(n, percent(t.split_half), percent(t.saturation, 4)) for n, t in order[:_SHOWN]]
    head = ("Tensor", "Ranges of two halves differ by", "Held-back values beyond the range")
    return tag(
        "details",
        tag("summary", f"The {len(rows)} of {plural(len(order), 'tensor')} whose ranges agree least"),
        scroller("Agreement of ranges", table(head, rows)),
    )


def reproduce_section(outcome: Outcome) -> Markup:
    """Digests, machine, versions, options, work."""
    m, d = outcome.machine, outcome.data
    facts: list[tuple[str, Child]] = [
        ("made", f"{outcome.when} by Temper {outcome.temper}"),
        ("model", [f"{outcome.model.name} ({outcome.model.about})", tag("br"), _digest(outcome.model.digest)]),
        ("data", [f"{d.source.name} ({d.source.about})", tag("br"), _digest(d.source.digest)]),
        ("samples", f"{d.calibration:,} for calibration, {d.held_back:,} held back"),
        ("options", [_digest(outcome.config_digest)]),
        ("machine", f"{m.cpu} ({m.isa}), {plural(m.threads, 'thread')}, {m.system}"),
        ("versions", ", ".join([f"Python {m.python}", *(f"{k} {v}" for k, v in m.packages.items())])),
    ]
    if outcome.work is not None:
        w = outcome.work
        limit = "" if w.limit is None else f" of {number(w.limit)} allowed"
        facts.append(("work", f"{number(w.passes)} passes over the held-back samples{limit}"))
        facts.append(("time", ", ".join(f"{k} {number(v, 3)} s" for k, v in w.seconds.items()) or UNKNOWN))
    options = json.dumps(outcome.to_json()["config"], indent=1, sort_keys=True)
    return section(
        "reproduce",
        "To get this again",
        _facts(facts),
        tag("details", tag("summary", "Options"), tag("pre", options, tabindex="0")),
    )


def _digest(text: str) -> Markup:
    return tag("code", f"SHA-256 {text}" if text else UNKNOWN, class_="digest")


def _facts(pairs: list[tuple[str, Child]]) -> Markup:
    return tag("dl", *((tag("dt", k), tag("dd", v)) for k, v in pairs), class_="facts")
