"""The answers that changed: samples with their pictures, classes, and pairs that are confused."""

from __future__ import annotations

from temper.precision.outcome import Answer, Answers, Outcome
from temper.report.answers import Changes, Flip, classes, is_text, name, pairs
from temper.report.derived import Verdict
from temper.report.markup import Markup, scroller, section, table, tag
from temper.report.words import UNKNOWN, number, percent, plural, probability

#: Samples that are shown, and rows of the table of confusions.
SHOWN = 20

_WORDS = {"lost": "right → wrong", "won": "wrong → right", "other": "wrong → wrong", "changed": "changed"}


def flips_section(outcome: Outcome, found: Verdict) -> Markup | None:
    """How many answers changed in which direction, and the first of them one by one."""
    answers = outcome.answers
    if answers is None or found.chosen is None:
        return None
    sides = [("Temper INT8", found.chosen), *([("naive INT8", found.naive)] if found.naive else [])]
    parts: list[Markup | None] = [scroller("Changed answers", _counts(sides))]
    if found.flips:
        shown = found.flips[:SHOWN]
        if any(f.image for f in shown):
            parts.append(tag("div", *(_card(f, answers) for f in shown), class_="cards"))
        else:
            parts.append(scroller("Samples whose answer changed", _list(list(shown), answers)))
        if len(found.flips) > len(shown):
            parts.append(tag("p", f"{len(found.flips) - len(shown):,} more are in the JSON file.", class_="small"))
    else:
        parts.append(tag("p", f"Temper INT8 answers all {plural(found.chosen.n, 'sample')} as FP32 does."))
    return section("flips", "Answers that changed", *parts)


def _counts(sides: list[tuple[str, Changes]]) -> Markup:
    head = ("Against FP32", "right → wrong", "wrong → right", "changed in all", "95 % interval", "McNemar p")
    rows = [
        (
            title,
            UNKNOWN if c.test is None else c.test.b,
            UNKNOWN if c.test is None else c.test.c,
            f"{round(c.churn * c.n):,} of {c.n:,} ({percent(c.churn)})",
            f"{percent(c.churn_low)} to {percent(c.churn_high)}",
            UNKNOWN if c.test is None else probability(c.test.p),
        )
        for title, c in sides
    ]
    return table(head, rows, class_="figures")


def _card(flip: Flip, answers: Answers) -> Markup:
    picture = tag("img", src=flip.image, alt="", loading="lazy") if flip.image else tag("div", class_="blank")
    label = "" if answers.labels is None else f" (is {name(answers, flip.label)})"
    margin = "" if flip.margin is None else f"FP32's margin {number(flip.margin, 2)}"
    return tag(
        "figure",
        picture,
        tag(
            "figcaption",
            tag("b", f"{name(answers, flip.before)} → {name(answers, flip.after)}"),
            label,
            tag("br"),
            tag("span", _WORDS[flip.kind], class_=f"chip {flip.kind}"),
            tag("small", f"{flip.name}", tag("br"), margin),
        ),
        class_="card",
    )


def _list(flips: list[Flip], answers: Answers) -> Markup:
    rows = [
        (
            f.name,
            tag("span", _WORDS[f.kind], class_=f"chip {f.kind}"),
            UNKNOWN if answers.labels is None else name(answers, f.label),
            name(answers, f.before),
            name(answers, f.after),
            number(f.margin, 2),
        )
        for f in flips
    ]
    return table(("Sample", "Change", "Label", "FP32", "INT8", "FP32's margin"), rows)


def classes_section(outcome: Outcome) -> Markup | None:
    """Classes that lost or won, and which pairs are confused more often."""
    answers = outcome.answers
    if answers is None:
        return None
    rows = classes(answers)
    every = pairs(answers)
    confusions = [p for p in every if p.delta or p.naive not in (None, p.baseline)][:SHOWN]
    parts: list[Markup | None] = []
    if rows:
        parts.append(tag("h3", "By class"))
        parts.append(
            tag(
                "p",
                "p is the exact McNemar test; with so many classes one will look bad by chance, so the last column is "
                "corrected (Holm).",
                class_="small",
            )
        )
        by_class = [
            (
                name(answers, r.label),
                r.n,
                percent(r.baseline_right / r.n),
                percent(r.right / r.n),
                tag(
                    "td",
                    percent((r.right - r.baseline_right) / r.n, sign=True),
                    class_=_tone(r.right - r.baseline_right),
                ),
                r.lost,
                r.won,
                probability(r.p),
                probability(r.p_holm),
            )
            for r in rows[: 2 * SHOWN]
        ]
        columns = ("Class", "Samples", "FP32", "INT8", "Change", "lost", "won", "p", "p corrected")
        parts.append(scroller("Change by class", table(columns, by_class, class_="figures")))
    texts = is_text(answers)
    parts.append(tag("h3", "Characters that are confused" if texts else "Pairs that are confused"))
    if confusions:
        truth = "Truth" if answers.labels is not None else "FP32 says"
        head = (truth, "Read as" if texts else "Answered", "FP32", "naive INT8", "Temper INT8", "Change")
        body = [
            (
                _side(answers, p.truth),
                tag("td", tag("b", _side(answers, p.answer))),
                p.baseline,
                UNKNOWN if p.naive is None else p.naive,
                p.chosen,
                tag("td", f"{p.delta:+d}".replace("-", "−") if p.delta else "0", class_=_tone(-p.delta)),
            )
            for p in confusions
        ]
        parts.append(scroller("Confusion pairs", table(head, body, class_="figures")))
        if len(every) > len(confusions):
            others = f"Other pairs ({len(every) - len(confusions)}) changed less, or not at all."
            parts.append(tag("p", others, class_="small"))
    else:
        parts.append(tag("p", "No pair is confused more or less often than in FP32."))
    return section("classes", "Classes and confusions", *parts)


def _side(answers: Answers, answer: Answer) -> str:
    return "(nothing)" if answer == "" else name(answers, answer)


def _tone(gain: int) -> str:
    return "num better" if gain > 0 else "num worse" if gain < 0 else "num"
