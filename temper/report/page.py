"""Puts the page together: one HTML file that needs no network, and its JSON twin."""

from __future__ import annotations

import json
import re
from importlib import resources
from pathlib import Path

from temper.errors import DataError
from temper.precision.outcome import Outcome
from temper.report.appendix import audit_section, reproduce_section
from temper.report.changed import classes_section, flips_section
from temper.report.derived import as_json, verdict
from temper.report.front import points_section, steps_section
from temper.report.headline import banner, verdict_box
from temper.report.layers import layers_section
from temper.report.markup import Markup, join, tag
from temper.report.outputs import outputs_section
from temper.report.tensors import tensors_section
from temper.report.words import plural


def render(outcome: Outcome) -> str:
    """The whole page as text."""
    found = verdict(outcome)
    tensors, numbers = tensors_section(outcome)
    sections = [
        flips_section(outcome, found),
        classes_section(outcome),
        points_section(outcome),
        steps_section(outcome),
        outputs_section(outcome),
        layers_section(outcome, numbers),
        tensors,
        audit_section(outcome),
        reproduce_section(outcome),
    ]
    kept = [s for s in sections if s is not None]
    name = re.split(r"[\\/]", outcome.model.name)[-1] or "model"
    parts = {
        "title": join(f"{name} in INT8"),
        "made": join(f"{outcome.when} · {outcome.machine.cpu}, {plural(outcome.machine.threads, 'thread')}"),
        "menu": tag("ul", *(tag("li", tag("a", t, href=f"#{a}")) for a, t in (_heading(s) for s in kept))),
        "banner": banner(outcome) or "",
        "verdict": verdict_box(outcome, found),
        "sections": join(kept),
        "style": _file("page.css"),
        "script": _file("page.js"),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _file("page.html"))


def write(outcome: Outcome, path: Path) -> list[Path]:
    """Writes a page and its JSON twin beside it, or JSON alone where `path` ends in .json; the files."""
    page = path.suffix.lower() != ".json"
    twin = path.with_suffix(".json")
    twin.write_text(json.dumps(as_json(outcome), indent=1, allow_nan=False), encoding="utf-8")
    if page:
        path.write_text(render(outcome), encoding="utf-8")
    return [path, twin] if page else [twin]


def read(path: Path) -> Outcome:
    """The outcome in a JSON file. DataError if it cannot be read."""
    try:
        return Outcome.from_json(json.loads(path.read_text(encoding="utf-8")))
    except OSError as e:
        raise DataError(f"cannot read {path}: {e.strerror}") from e
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise DataError(
            f"{path} is not a JSON file ({e}); give the one that `temper build --int8 --report` writes beside its page"
        ) from e
    except DataError as e:
        raise DataError(f"{path}: {e}") from e


def _heading(part: Markup) -> tuple[str, Markup]:
    """Anchor and title of a section; the title is markup already."""
    found = re.match(r'<section id="([\w-]+)"><h2>(.*?)</h2>', part)
    assert found is not None
    return found[1], Markup(found[2])


def _file(name: str) -> str:
    return resources.files("temper.report").joinpath(name).read_text(encoding="utf-8")
