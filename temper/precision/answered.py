"""What engines answered, sample by sample, for the report: on the user's evaluation or on the held-back samples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from temper.precision.data import Samples
from temper.precision.output_kinds import Head

#: Answers of one sample that are told as one text, at most: a map of classes is not an answer.
_POSITIONS = 64


@dataclass(frozen=True, eq=False)
class Score:
    """What an evaluation function may return instead of a number, so that the report can tell which answers changed.

    value: the score, higher is better.
    answers: scores [samples, classes] (the largest is the answer), or answers [samples] as integers or text.
    labels: [samples], of the answers' kind.
    images: [samples, ...], shown where an answer changed.
    classes: names by index.
    names: of the samples.
    """

    value: float
    answers: Any
    labels: Any = None
    images: Any = None
    classes: Sequence[str] = ()
    names: Sequence[str] = ()

    def __float__(self) -> float:
        return float(self.value)


@dataclass(frozen=True, eq=False)
class Answered:
    """Answers of three engines on the same samples, as in `Score`. origin: which samples."""

    origin: str
    fp32: np.ndarray
    chosen: np.ndarray
    naive: np.ndarray | None = None
    labels: np.ndarray | None = None
    images: np.ndarray | None = None
    classes: Sequence[str] = ()
    names: Sequence[str] = field(default=())


def of_scores(fp32: Score, chosen: Score, naive: Score | None, origin: str) -> Answered:
    """From what the evaluation function returned for each engine; labels and pictures are those of the float one."""

    def array(x: Any) -> np.ndarray | None:
        return None if x is None else np.asarray(x)

    return Answered(
        origin,
        np.asarray(fp32.answers),
        np.asarray(chosen.answers),
        None if naive is None else np.asarray(naive.answers),
        array(fp32.labels),
        array(fp32.images),
        fp32.classes,
        fp32.names,
    )


Outputs = Sequence[Sequence[np.ndarray]]


def of_samples(
    held: Samples, heads: Sequence[Head], fp32: Outputs, chosen: Outputs, naive: Outputs | None
) -> Answered | None:
    """From outputs on the held-back batches; None where no output is an answer. The truth is not known."""
    head = next((h for h in heads if h.kind == "classes"), None)
    if head is None:
        return None
    want, got = _scores(head, fp32), _scores(head, chosen)
    before = None if naive is None else _scores(head, naive)
    if want is None or got is None:
        return None
    if want.shape[1] > 1:
        want, got, before = _texts(want), _texts(got), None if before is None else _texts(before)
    else:
        want, got, before = want[:, 0], got[:, 0], None if before is None else before[:, 0]
    names = [n for n, b in zip(held.names, held, strict=True) for _ in range(_count(b))]
    if len(names) != len(want):
        return None
    return Answered("held-back calibration samples", want, got, before, None, _pictures(held), (), names)


def _scores(head: Head, outputs: Outputs) -> np.ndarray | None:
    """[samples, positions, classes]; None where samples have different numbers of positions, or too many."""
    parts = []
    for batch in outputs:
        y = np.moveaxis(head.of(np.asarray(batch[head.output])), head.classes, -1)
        parts.append(y.reshape(len(y) if y.ndim > 1 else 1, -1, y.shape[-1]).astype(np.float32))
    if not parts or len({p.shape[1:] for p in parts}) != 1 or parts[0].shape[1] > _POSITIONS:
        return None
    return np.concatenate(parts)


def _texts(scores: np.ndarray) -> np.ndarray:
    """[samples]: the answers of all positions as one text."""
    return np.array([" ".join(map(str, row)) for row in scores.argmax(axis=2).tolist()])


def _count(batch: Mapping[str, np.ndarray]) -> int:
    first = next(iter(batch.values()))
    return len(first) if first.ndim else 1


def _pictures(held: Samples) -> np.ndarray | None:
    """The samples' first input that looks like pictures, [samples, ...]."""
    for name, array in held[0].items():
        if array.ndim == 4 and array.dtype.kind in "fu" and (array.shape[1] in (1, 3) or array.shape[3] in (1, 3)):
            every = [batch[name] for batch in held]
            return np.concatenate(every) if len({a.shape[1:] for a in every}) == 1 else None
    return None
