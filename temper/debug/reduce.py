"""Shrinks a failing model to the smallest one found that still fails.

First the end of the graph and then its beginning are cut by bisection, which is exact where a fault sits in one place;
then delta debugging (Zeller and Hildebrandt 2002, "Simplifying and Isolating Failure-Inducing Input", ddmin by
complements) removes what is left in between until no single node can go; then sizes are halved.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from temper.debug.check import Check, Outcome, Same
from temper.debug.extract import Case, Subject
from temper.debug.repro import save_case
from temper.debug.sizes import sizes_of, with_size

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Reduction:
    """The smallest failing model found. steps: what became smaller, in order. checks: how often the check ran.

    complete: False if the search stopped because `most` checks were made.
    """

    case: Case
    nodes: tuple[int, int]
    steps: tuple[str, ...]
    checks: int
    outcome: Outcome
    complete: bool


class _Spent(Exception):
    """The number of checks allowed is used up."""


class _Tester:
    """Runs the check on candidates, each once, and remembers the last that failed."""

    def __init__(self, subject: Subject, check: Check, same: Same, most: int, folder: Path) -> None:
        self._subject, self._check, self._most = subject, check, most
        self._model, self._inputs = folder / "model.onnx", folder / "inputs.npz"
        self._known: dict[frozenset[int], bool] = {}
        self.checks = 0
        self.outcome = self.run(subject.case)
        self._same = same.pinned(self.outcome)
        self.best = subject.case

    def run(self, case: Case) -> Outcome:
        save_case(case, self._model, self._inputs)
        self.checks += 1
        return self._check(self._model, self._inputs)

    def fails(self, kept: Iterable[int]) -> bool:
        """Does the model of these nodes fail in the same way?"""
        key = frozenset(kept)
        if key not in self._known:
            case = self._subject.cut(key) if key else None
            self._known[key] = case is not None and self.case_fails(case)
        return self._known[key]

    def case_fails(self, case: Case) -> bool:
        if self.checks >= self._most:
            raise _Spent
        outcome = self.run(case)
        if not self._same.fails(outcome):
            return False
        self.best, self.outcome = case, outcome
        return True


def reduce_model(
    case: Case, check: Check, same: Same | None = None, *, most: int = 500, progress: Progress = lambda text: None
) -> Reduction:
    """The smallest failing part of a model. ConfigError if the whole does not fail."""
    subject = Subject(case)
    total = len(subject.nodes)
    steps: list[str] = []

    def tell(text: str) -> None:
        steps.append(text)
        progress(text)

    with tempfile.TemporaryDirectory(prefix="temper-reduce-") as folder:
        tester = _Tester(subject, check, same or Same(), most, Path(folder))
        tell(f"the whole model, {total} nodes: {tester.outcome}")
        kept = list(range(total))
        complete = True
        try:
            if total > 1 and not tester.fails(kept):
                tell("it no longer fails once unused values are gone: nodes cannot be removed")
            else:
                kept = _bisect_end(kept, tester.fails)
                tell(f"without what comes after: {len(kept)} nodes")
                kept = _bisect_start(kept, tester.fails)
                tell(f"without what comes before: {len(kept)} nodes")
                kept = ddmin(kept, tester.fails)
                tell(f"without what lies between: {len(kept)} nodes")
            if subject.note:
                tell(subject.note)
            for text in _shrink(tester):
                tell(text)
        except _Spent:
            complete = False
            tell(f"stopped after {tester.checks} checks")
        final = Subject(tester.best)
        return Reduction(tester.best, (total, len(final.nodes)), tuple(steps), tester.checks, tester.outcome, complete)


def _bisect_end(kept: list[int], fails: Callable[[Iterable[int]], bool]) -> list[int]:
    """The shortest prefix found that fails: its last node is needed."""
    low, high = 0, len(kept)
    while high - low > 1:
        middle = (low + high) // 2
        if fails(kept[:middle]):
            high = middle
        else:
            low = middle
    return kept[:high]


def _bisect_start(kept: list[int], fails: Callable[[Iterable[int]], bool]) -> list[int]:
    """The shortest suffix found that fails."""
    low, high = 0, len(kept)
    while high - low > 1:
        middle = (low + high) // 2
        if fails(kept[middle:]):
            low = middle
        else:
            high = middle
    return kept[low:]


def ddmin(kept: list[int], fails: Callable[[Iterable[int]], bool]) -> list[int]:
    """A 1-minimal failing subset of `kept`, which fails: no single element of it can go."""
    parts = 2
    while len(kept) > 1:
        size = -(-len(kept) // parts)
        for start in range(0, len(kept), size):
            rest = kept[:start] + kept[start + size :]
            if rest and fails(rest):
                kept, parts = rest, max(parts - 1, 2)
                break
        else:
            if size == 1:
                break
            parts = min(len(kept), 2 * parts)
    return kept


def _shrink(tester: _Tester) -> Iterable[str]:
    """Smaller sizes of inputs and weights, as long as the model fails with them."""
    for size in sizes_of(tester.best):
        smaller = 1
        while smaller < size:
            case = with_size(tester.best, size, smaller)
            if case is not None and tester.case_fails(case):
                yield f"size {size} becomes {smaller}"
                break
            smaller *= 2
