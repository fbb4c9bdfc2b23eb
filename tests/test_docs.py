"""README.md and docs/: links lead somewhere, and the commands, options and modules they name exist."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), ROOT / "benchmarks" / "NOTES.md")
#: Where files that pages name may be; a name may begin with the folder's own or within it.
FOLDERS = tuple(ROOT / name for name in ("temper", "tests", "benchmarks", "examples"))
BY_NAME = pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@BY_NAME
def test_links_lead_to_a_file_and_a_heading(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if link.startswith("http"):
            continue
        name, _, anchor = link.partition("#")
        target = page.parent / name if name else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}, which has no such heading"


@BY_NAME
def test_modules_exist(page: Path) -> None:
    for module in re.findall(r"python -m ((?:benchmarks|examples|tests|temper)[\w.]*)", page.read_text()):
        assert find_spec(module), f"{page.name} runs {module}"


@BY_NAME
def test_files_exist(page: Path) -> None:
    if page.name == "NOTES.md":
        return  # which also tells of files that were tried and removed
    for name in re.findall(r"`((?:[\w-]+/)*[\w*-]+\.(?:py|c|h))`", page.read_text()):
        found = [p for root in FOLDERS for p in root.rglob(name.removeprefix(f"{root.name}/"))]
        assert found, f"{page.name} names {name}"


@BY_NAME
def test_commands_and_their_options_exist(page: Path) -> None:
    from typer.main import get_command

    from temper.cli.app import app

    shown = re.findall(r"(?:^|[`$] ?)temper ((?:debug )?[a-z]+)(?: ([^`\n#]*))?", page.read_text(), re.MULTILINE)
    for name, rest in shown:
        command = get_command(app)
        for part in name.split():
            assert part in command.commands, f"{page.name} shows temper {name}"  # type: ignore[attr-defined]
            command = command.commands[part]  # type: ignore[attr-defined]
        known = {flag for option in command.params for flag in (*option.opts, *option.secondary_opts)}
        for flag in re.findall(r"(?<!\S)(-{1,2}[A-Za-z][\w-]*)", rest):
            assert flag in known, f"{page.name} shows temper {name} {flag}"
