"""HTML as values: everything is escaped unless it is Markup, so that no layer's name can break the page."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from typing import TypeAlias

_VOID = frozenset({"img", "br", "input", "hr", "rect", "path", "line"})


class Markup(str):
    """Text that is HTML already."""


Child: TypeAlias = "str | int | float | None | Iterable[Child]"


def tag(name: str, *children: Child, **attributes: str | int | float | bool | None) -> Markup:
    """An element. Attributes: a trailing underscore goes (class_), others become hyphens (data_v), None and False leave
    the attribute out, True gives it without a value."""
    text = name
    for key, value in attributes.items():
        if value is None or value is False:
            continue
        key = key.rstrip("_").replace("_", "-")
        text += f" {key}" if value is True else f' {key}="{escape(str(value))}"'
    return Markup(f"<{text}>" if name in _VOID else f"<{text}>{join(children)}</{name}>")


def join(children: Child) -> Markup:
    """Children in a row: Markup as it is, other text escaped, None nothing, nested iterables flat."""
    if children is None:
        return Markup("")
    if isinstance(children, Markup):
        return children
    if isinstance(children, (str, int, float)):
        return Markup(escape(str(children)))
    return Markup("".join(join(c) for c in children))


def breakable(path: str) -> Markup:
    """A name that may break after a slash or a dot."""
    return Markup(re.sub(r"([/.])(?=[^/.])", r"\1<wbr>", escape(path)))


def section(anchor: str, title: str, *children: Child) -> Markup:
    """A section with a heading, that the page's menu links to."""
    return tag("section", tag("h2", title), *children, id=anchor)


def scroller(label: str, *children: Child) -> Markup:
    """A part that scrolls sideways by itself where the screen is narrow, by keyboard too."""
    return tag("div", *children, class_="scroll", role="region", tabindex="0", aria_label=label)


def table(
    head: Iterable[Child], rows: Iterable[Iterable[Child]], *, caption: str = "", class_: str | None = None
) -> Markup:
    """A plain table; the first cell of each row is its heading. Cells that are Markup of <td> or <th> stay."""
    body = []
    for row in rows:
        cells = list(row)
        first = tag("th", cells[0], scope="row")
        body.append(tag("tr", first, *(c if _is_cell(c) else tag("td", c) for c in cells[1:])))
    return tag(
        "table",
        tag("caption", caption) if caption else None,
        tag("thead", tag("tr", *(c if _is_cell(c) else tag("th", c, scope="col") for c in head))),
        tag("tbody", *body),
        class_=class_,
    )


def _is_cell(child: Child) -> bool:
    return isinstance(child, Markup) and child.startswith(("<td", "<th"))
