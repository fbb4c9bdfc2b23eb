"""The table of layers, which the reader can sort and search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from temper.precision.outcome import Outcome, Site
from temper.report.markup import Markup, breakable, scroller, section, tag
from temper.report.words import UNKNOWN, number, percent, plural

#: RMSE of a tensor's codes in steps of the scale above which its threshold clips too much; rounding alone gives 0.289.
_COARSE = 0.7


@dataclass(frozen=True)
class Column:
    """key: what it sorts by, None for unknown or none. show: text of a cell. about: help for its heading."""

    title: str
    about: str
    key: Callable[[Site], float | str | None]
    show: Callable[[Site], str] | None = None


def _times(unit: str, factor: float) -> tuple[Column, ...]:
    """Columns of times: factor makes milliseconds the unit."""

    def of(value: float | None) -> float | None:
        return None if value is None else factor * value

    def saved(s: Site) -> float | None:
        if s.float_ms is None or s.int8_ms is None:
            return None
        return factor * (s.float_ms - s.int8_ms - (s.reformat_ms or 0.0))

    return (
        Column(f"INT8 {unit}", "time of its region in INT8", lambda s: of(s.int8_ms)),
        Column(f"float {unit}", "time of its region in float32", lambda s: of(s.float_ms)),
        Column(f"saves {unit}", "time that INT8 saves against float, conversions included", saved),
        Column(f"convert {unit}", "converting what it reads of the other kind", lambda s: of(s.reformat_ms)),
    )


_WORDS = (
    Column("Op", "operation", lambda s: s.op),
    Column("Output", "shape of the output", lambda s: s.shape),
    Column("Precision", "what it computes in", lambda s: s.precision),
    Column("Why", "reason for the precision", lambda s: s.why),
    Column("Treatment", "pins and compensation", lambda s: ", ".join(("pinned",) * s.pinned + s.compensation) or None),
)

_FIGURES = (
    Column("Sensitivity", "divergence of the outputs with this layer alone in INT8", lambda s: s.sensitivity),
    Column("of weights", "part of it of its weights", lambda s: s.weights_part, lambda s: percent(s.weights_part)),
    Column("SQNR dB", "signal to noise of its data as codes: what this layer adds", lambda s: s.sqnr),
    Column("cumulative dB", "signal to noise of its output in the chosen engine", lambda s: s.sqnr_cumulative),
    Column("Clipped", "part of its data beyond the threshold", lambda s: s.clip_rate, lambda s: percent(s.clip_rate)),
    Column("RMSE/scale", "error of its data in steps; rounding alone gives 0.289", lambda s: s.rmse_over_scale),
    Column("Headroom bits", "how often the int32 sum could double", lambda s: s.headroom_bits),
    Column("Channel ratio", "largest over median weight range of its channels", lambda s: s.channel_range_ratio),
)


#: What layers are in that stay in no higher precision.
_LOW = ("int8", "float8")


def layers_section(outcome: Outcome, tensors: dict[str, int]) -> Markup | None:
    """One row a layer, those in float first. tensors: number of each tensor's histogram by name."""
    sites = sorted(outcome.sites, key=lambda s: s.precision in _LOW)
    if not sites:
        return None
    short = max((s.float_ms or s.int8_ms or 0.0 for s in sites), default=0.0) < 1
    measured = (*(_times("µs", 1e3) if short else _times("ms", 1.0)), *_FIGURES)
    columns = [c for c in (*_WORDS, *measured) if any(c.key(s) is not None for s in sites)]
    missing = [c.title for c in measured if c not in columns]
    kept = [s for s in sites if s.precision not in _LOW]
    counts = [(w, sum(s.precision == p for s in sites)) for w, p in (("INT8", "int8"), ("FP8", "float8"))]
    words = [f"{plural(n, 'layer')} in {w}" for w, n in counts if n] or ["no layer in INT8"]
    return section(
        "layers",
        "Layers",
        tag(
            "p",
            f"{', '.join(words)}, {len(kept)} in higher precision. ",
            "A heading sorts the table.",
        ),
        tag(
            "div",
            tag("label", "Find ", tag("input", type="search", id="layer-filter", autocomplete="off")),
            tag("label", tag("input", type="checkbox", id="only-kept"), " only layers in higher precision"),
            tag("output", id="layer-count", for_="layer-filter only-kept"),
            class_="controls",
        ),
        scroller(
            "Layers",
            tag(
                "table",
                tag("thead", tag("tr", _heading("Layer", "name in the graph", first=True), *map(_head, columns))),
                tag("tbody", *(_row(s, columns, tensors) for s in sites)),
                class_="sortable",
                id="layer-table",
            ),
        ),
        tag("p", f"Not measured in this build: {', '.join(missing)}.", class_="small") if missing else None,
    )


def _head(column: Column) -> Markup:
    return _heading(column.title, column.about)


def _heading(title: str, about: str, first: bool = False) -> Markup:
    button = tag("button", title, type="button", title=about)
    return tag("th", button, scope="col", aria_sort="none", class_="first" if first else None)


def _row(site: Site, columns: list[Column], tensors: dict[str, int]) -> Markup:
    title = site.name if not site.origin else f"{site.name} · from {', '.join(site.origin)}"
    words = breakable(site.name)
    name: Markup = tag("span", words, title=title)
    if site.tensor in tensors:
        name = tag("a", words, href=f"#tensor-{tensors[site.tensor]}", title=f"{title} · histogram of its data")
    return tag(
        "tr",
        tag("th", name, scope="row", data_v=site.name),
        *(_cell(c, site) for c in columns),
        class_="kept" if site.precision not in _LOW else None,
    )


def _cell(column: Column, site: Site) -> Markup:
    key = column.key(site)
    if isinstance(key, str):
        return tag("td", key or UNKNOWN, data_v=key, class_="why" if column.title == "Why" else None)
    text = column.show(site) if column.show else number(key)
    flag = column.title == "RMSE/scale" and key is not None and key > _COARSE
    return tag(
        "td",
        text,
        " " if flag else None,
        tag("span", "coarse", class_="chip no") if flag else None,
        data_v="" if key is None else repr(float(key)),
        class_="num",
    )
