"""From answers sample by sample to what changed: flips, classes that lost, and pairs that are confused more often."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from temper.precision.outcome import Answer, Answers
from temper.report.edits import edits
from temper.report.statistics import Paired, holm, paired, wilson

#: What a text was read with and without: the empty side of an inserted or deleted character.
NOTHING = ""


@dataclass(frozen=True)
class Flip:
    """A sample whose answer changed. kind: "lost" (right -> wrong), "won" (wrong -> right), "other" (wrong before and
    after), or "changed" where no labels are known. margin: FP32's between its first and second choice."""

    index: int
    kind: str
    name: str
    label: Answer
    before: Answer
    after: Answer
    margin: float | None
    image: str


@dataclass(frozen=True)
class Changes:
    """One engine against FP32.

    right, baseline_right: fractions that answer as the label says, None without labels.
    churn: fraction of samples whose answer changed, with its 95 % interval.
    test: of the accuracy; without labels None.
    """

    n: int
    right: float | None
    baseline_right: float | None
    churn: float
    churn_low: float
    churn_high: float
    test: Paired | None


@dataclass(frozen=True)
class ClassChange:
    """A class (by label): how many samples, how many each engine has right, b and c as in statistics.Paired, the exact
    p-value and the one corrected for the number of classes (Holm)."""

    label: Answer
    n: int
    baseline_right: int
    right: int
    lost: int
    won: int
    p: float
    p_holm: float


@dataclass(frozen=True)
class PairChange:
    """How often `truth` was answered as `answer`: by FP32, by the naive INT8 engine (None: not there), by the chosen.
    For texts, characters; an empty string is a character left out or added."""

    truth: Answer
    answer: Answer
    baseline: int
    naive: int | None
    chosen: int

    @property
    def delta(self) -> int:
        return self.chosen - self.baseline


def changes(answers: Answers, of: Sequence[Answer]) -> Changes:
    """What changed between FP32's answers and `of`."""
    n, labels = len(answers.fp32), answers.labels
    moved = sum(a != b for a, b in zip(answers.fp32, of, strict=True))
    low, high = wilson(n, moved)
    if labels is None:
        return Changes(n, None, None, moved / n, low, high, None)
    before = [a == t for a, t in zip(answers.fp32, labels, strict=True)]
    after = [a == t for a, t in zip(of, labels, strict=True)]
    lost = sum(x and not y for x, y in zip(before, after, strict=True))
    won = sum(y and not x for x, y in zip(before, after, strict=True))
    return Changes(n, sum(after) / n, sum(before) / n, moved / n, low, high, paired(n, lost, won))


def flips(answers: Answers) -> list[Flip]:
    """Every sample that the chosen engine answers otherwise than FP32: losses first, then by falling margin, since a
    change against a clear decision is the more alarming."""
    out = []
    for i, (before, after) in enumerate(zip(answers.fp32, answers.chosen, strict=True)):
        if before == after:
            continue
        label = answers.labels[i] if answers.labels is not None else None
        kind = "changed"
        if answers.labels is not None:
            kind = "lost" if before == label else "won" if after == label else "other"
        out.append(
            Flip(
                i,
                kind,
                answers.names[i] if answers.names else f"sample {i}",
                label,
                before,
                after,
                answers.margins[i] if answers.margins is not None else None,
                answers.images.get(i, ""),
            )
        )
    order = {"lost": 0, "changed": 0, "won": 1, "other": 2}
    return sorted(out, key=lambda f: (order[f.kind], -(f.margin or 0.0), f.index))


def classes(answers: Answers) -> list[ClassChange]:
    """Per-class change, greatest net loss first; empty without labels or where answers are texts."""
    if answers.labels is None or is_text(answers):
        return []
    rows: dict[Answer, list[int]] = {}
    for truth, before, after in zip(answers.labels, answers.fp32, answers.chosen, strict=True):
        row = rows.setdefault(truth, [0, 0, 0, 0, 0])
        was, is_ = before == truth, after == truth
        row[0] += 1
        row[1] += was
        row[2] += is_
        row[3] += was and not is_
        row[4] += is_ and not was
    p = [paired(n, b, c).p for n, _, _, b, c in rows.values()]
    out = [
        ClassChange(label, n, before, after, b, c, single, corrected)
        for (label, (n, before, after, b, c)), single, corrected in zip(rows.items(), p, holm(p), strict=True)
    ]
    return sorted(out, key=lambda r: (r.won - r.lost, str(r.label)))


def pairs(answers: Answers) -> list[PairChange]:
    """Confusions (truth, answer) of any engine, greatest change first. Without labels FP32's answers are the truth, so
    its own column is 0. Texts are compared character by character."""
    truth = answers.labels if answers.labels is not None else answers.fp32
    count = _character_confusions if is_text(answers) else _confusions
    before, after = count(truth, answers.fp32), count(truth, answers.chosen)
    naive = count(truth, answers.naive) if answers.naive is not None else None
    out = [
        PairChange(t, a, before[t, a], None if naive is None else naive[t, a], after[t, a])
        for t, a in {**before, **after, **(naive or {})}
    ]
    return sorted(out, key=lambda r: (-abs(r.delta), -(r.naive or 0), -r.chosen, str(r.truth), str(r.answer)))


def edit_distance(answers: Answers, of: Sequence[Answer]) -> int | None:
    """Characters that must change to make the answers the labels (FP32's answers without labels); None if no texts."""
    if not is_text(answers):
        return None
    truth = answers.labels if answers.labels is not None else answers.fp32
    return sum(len(edits(str(t), str(a))) for t, a in zip(truth, of, strict=True))


def is_text(answers: Answers) -> bool:
    """Are the answers strings of more than one character? (A name of a class is an index into `classes`.)"""
    return any(isinstance(a, str) and len(a) > 1 for a in (*(answers.labels or ()), *answers.fp32))


def name(answers: Answers, answer: Answer) -> str:
    """How a reader knows an answer."""
    if isinstance(answer, int) and 0 <= answer < len(answers.classes):
        return answers.classes[answer]
    return "none" if answer is None else str(answer)


def _confusions(truth: Sequence[Answer], of: Sequence[Answer]) -> Counter[tuple[Answer, Answer]]:
    return Counter((t, a) for t, a in zip(truth, of, strict=True) if t != a)


def _character_confusions(truth: Sequence[Answer], of: Sequence[Answer]) -> Counter[tuple[Answer, Answer]]:
    return Counter(e for t, a in zip(truth, of, strict=True) for e in edits(str(t), str(a)))
