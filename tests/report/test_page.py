"""The page is well-formed, needs no network, escapes every name, and shows what the outcome holds."""

from __future__ import annotations

import dataclasses
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from temper.errors import DataError
from temper.precision import outcome as o
from temper.report.markup import Markup, join, tag
from temper.report.page import read, render, write
from tests.report.example import HOSTILE, bare, rich

VOID = {"meta", "img", "br", "input", "hr", "path", "line", "rect", "link", "wbr"}


class Page(HTMLParser):
    """Checks that elements nest, and collects attributes, ids and text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({k for k, _ in attrs}) == len(attrs), f"<{tag}> repeats an attribute"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def all(self, name: str) -> list[dict[str, str | None]]:
        return [a for t, a in self.elements if t == name]


@pytest.fixture(scope="module", params=["rich", "bare"])
def text(request: pytest.FixtureRequest) -> str:
    return render({"rich": rich, "bare": bare}[request.param]())


def test_well_formed_and_every_link_has_its_target(text: str) -> None:
    page = Page(text)
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    links = [a["href"] or "" for a in page.all("a")]
    assert links and all(h.startswith("#") and h[1:] in ids for h in links)
    assert text.startswith("<!DOCTYPE html>") and "{{" not in re.sub(re.escape("{{style}}"), "", text)


def test_nothing_is_loaded(text: str) -> None:
    page = Page(text)
    assert not page.all("link") and not page.all("iframe")
    assert all("src" not in a for a in page.all("script"))
    assert all((a["src"] or "").startswith("data:image/png;base64,") for a in page.all("img"))
    assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", text)


def test_names_cannot_break_the_page() -> None:
    text = render(dataclasses.replace(rich(), verdict=HOSTILE, warnings=(HOSTILE,)))
    page = Page(text)
    assert len(page.all("script")) == 1
    assert all("onerror" not in a for _, a in page.elements)
    assert HOSTILE in "".join(page.text)
    assert any(a.get("data-v") == HOSTILE for a in page.all("th"))


def test_every_part_is_there() -> None:
    page = Page(render(rich()))
    sections = [a["id"] for a in page.all("section")]
    parts = ["verdict", "flips", "classes", "points", "steps", "outputs", "layers", "tensors", "audit", "reproduce"]
    assert sections == parts
    words = "".join(page.text)
    for expected in (
        "PASS",
        "6 → 8",
        "right → wrong",
        "these samples certify it",
        "SmoothQuant",
        "ab" * 32,
        "7.3 passes",
    ):
        assert expected in words
    marks = [a for a in page.all("button") if (a.get("class") or "").startswith("mark")]
    assert len(marks) == len(rich().points)


def test_parts_without_data_are_left_out() -> None:
    page = Page(render(bare()))
    assert [a["id"] for a in page.all("section")] == ["verdict", "points", "reproduce"]


def test_random_data_gives_no_verdict() -> None:
    words = "".join(Page(render(bare())).text)
    assert "NO VERDICT" in words and "Random data" in words
    assert "Random data" not in "".join(Page(render(rich())).text)


def test_too_few_samples_are_said_to_be_too_few() -> None:
    words = "".join(Page(render(rich(samples=200))).text)
    assert "N = 200 is too small to certify a loss of at most 0.30 %" in words


def test_samples_that_the_search_saw_are_marked() -> None:
    seen = rich()
    assert seen.answers is not None
    seen = dataclasses.replace(seen, answers=dataclasses.replace(seen.answers, searched=True))
    assert "The search looked at these samples" in "".join(Page(render(seen)).text)


def test_a_builds_own_naive_engine_is_the_one_with_all_in_int8() -> None:
    seen = rich()
    assert seen.answers is not None
    own = dataclasses.replace(
        seen,
        points=tuple(p for p in seen.points if p.kind != "naive"),
        answers=dataclasses.replace(seen.answers, searched=True),
    )
    table = render(own).partition('class="engines"')[2].partition("</table>")[0]
    assert "naive INT8" in table and "12 / 12" in table
    foreign = dataclasses.replace(own, answers=seen.answers)
    assert "12 / 12" not in render(foreign).partition('class="engines"')[2].partition("</table>")[0]


def test_sort_keys_are_numbers_or_text() -> None:
    """A column sorts as numbers only if every key is one."""
    page = Page(render(rich()))
    keys = [a["data-v"] for a in page.all("td") if "data-v" in a and a.get("class") == "num"]
    assert keys
    assert all(k == "" or isinstance(float(k or 0), float) for k in keys)


def test_figures_that_are_not_finite() -> None:
    case = rich()
    sites = (dataclasses.replace(case.sites[0], sqnr=float("inf")), *case.sites[1:])
    point = dataclasses.replace(case.points[1], divergence=float("inf"), metric=None)
    odd = dataclasses.replace(case, sites=sites, points=(case.points[0], point, *case.points[2:]))
    assert "∞" in render(odd)
    divergences = tuple(dataclasses.replace(p, metric=None) for p in odd.points)
    Page(render(dataclasses.replace(odd, points=divergences)))


def test_answers_that_are_texts() -> None:
    texts = o.Answers("lines", False, ("AB16", "C"), ("AB18", "C"), labels=("AB16", "C"))
    words = "".join(Page(render(dataclasses.replace(rich(), answers=texts))).text)
    assert "Characters that are confused" in words and "characters wrong" in words


def test_files(tmp_path: Path) -> None:
    page, twin = write(rich(), tmp_path / "report.html")
    assert (page.name, twin.name) == ("report.html", "report.json")
    assert read(twin) == rich()
    figures = json.loads(twin.read_text())["verdict_figures"]
    assert figures["chosen"]["test"]["n"] == 2000 and figures["certainty"]["kind"] == "certified"
    assert write(rich(), tmp_path / "only.json") == [tmp_path / "only.json"]
    assert read(tmp_path / "only.json") == rich()


def test_files_that_are_no_outcomes(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(DataError, match="cannot read"):
        read(path)
    path.write_text("{")
    with pytest.raises(DataError, match="is not a JSON file .*--report"):
        read(path)
    path.write_text("{}")
    with pytest.raises(DataError, match=r"x.json: .*schema None"):
        read(path)


def test_markup() -> None:
    assert tag("a", "<", Markup("<b>"), [1, None], href='"', data_v=2, hidden=False, open=True) == (
        '<a href="&quot;" data-v="2" open>&lt;<b>1</a>'
    )
    assert join(("&", None)) == "&amp;"
