"""Flips, classes and confusion pairs, counted by hand on small cases."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from temper.precision.outcome import Answers
from temper.report import answers as a
from temper.report.edits import edits

LABELS = (6, 6, 6, 8, 8, 1)
FP32 = (6, 6, 8, 8, 6, 1)
NAIVE = (8, 8, 8, 8, 8, 1)
CHOSEN = (6, 8, 6, 8, 1, 1)
CASE = Answers("test", False, FP32, CHOSEN, NAIVE, LABELS, margins=(0.9, 0.2, 0.1, 0.8, 0.3, 1.0))


def test_changes() -> None:
    found = a.changes(CASE, CHOSEN)
    assert (found.right, found.baseline_right, found.churn) == (4 / 6, 4 / 6, 3 / 6)
    assert found.test is not None
    assert (found.test.b, found.test.c) == (1, 1)


def test_without_labels_only_churn_is_known() -> None:
    found = a.changes(dataclasses.replace(CASE, labels=None), NAIVE)
    assert (found.right, found.test, found.churn) == (None, None, 3 / 6)


def test_flips_losses_first() -> None:
    assert [(f.index, f.kind) for f in a.flips(CASE)] == [(1, "lost"), (2, "won"), (4, "other")]


def test_clear_decisions_that_changed_come_first() -> None:
    free = dataclasses.replace(CASE, labels=None)
    assert [(f.index, f.kind) for f in a.flips(free)] == [(4, "changed"), (1, "changed"), (2, "changed")]


def test_classes() -> None:
    rows = {r.label: r for r in a.classes(CASE)}
    assert (rows[6].n, rows[6].baseline_right, rows[6].right, rows[6].lost, rows[6].won) == (3, 2, 2, 1, 1)
    assert (rows[1].lost, rows[1].won, rows[1].p_holm) == (0, 0, 1.0)


def test_holm_spans_the_classes() -> None:
    labels = tuple([0] * 20 + [1] * 20)
    lost = Answers("test", False, labels, tuple([1] * 8 + [0] * 12 + [1] * 20), labels=labels)
    worst = a.classes(lost)[0]
    assert (worst.label, worst.lost) == (0, 8)
    assert worst.p_holm == pytest.approx(2 * worst.p)


def test_pairs() -> None:
    rows = {(r.truth, r.answer): (r.baseline, r.naive, r.chosen) for r in a.pairs(CASE)}
    assert rows == {(6, 8): (1, 3, 1), (8, 6): (1, 0, 0), (8, 1): (0, 0, 1)}


def test_pairs_of_characters() -> None:
    texts = Answers("test", False, ("A6B", "CD"), ("A8B", "C"), labels=("A6B", "CD"))
    assert {(r.truth, r.answer, r.delta) for r in a.pairs(texts)} == {("6", "8", 1), ("D", "", 1)}
    assert a.edit_distance(texts, texts.chosen) == 2
    assert a.classes(texts) == []


def test_names_of_classes() -> None:
    named = dataclasses.replace(CASE, classes=("zero", "one"))
    assert [a.name(named, x) for x in (1, 7, "text", None)] == ["one", "7", "text", "none"]


def _distance(s: str, t: str) -> int:
    """Levenshtein's recursion, for comparison."""
    if not s or not t:
        return len(s) + len(t)
    return min(_distance(s[1:], t[1:]) + (s[0] != t[0]), _distance(s[1:], t) + 1, _distance(s, t[1:]) + 1)


@given(st.text("ab", max_size=5), st.text("ab", max_size=5))
def test_edits_are_as_few_as_possible(truth: str, answer: str) -> None:
    found = edits(truth, answer)
    assert len(found) == _distance(truth, answer)
    assert all(x != y for x, y in found)
    assert len(truth) - sum(y == "" for _, y in found) == len(answer) - sum(x == "" for x, _ in found)
