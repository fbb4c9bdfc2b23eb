"""Answers of several engines on samples that the search never saw, as a part of an outcome."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from temper.errors import DataError
from temper.precision.answered import Answered
from temper.precision.outcome import Answer, Answers, Outcome
from temper.report.answers import flips
from temper.report.changed import SHOWN
from temper.report.png import picture


def judged(
    fp32: np.ndarray,
    int8: np.ndarray,
    *,
    labels: np.ndarray | None = None,
    naive: np.ndarray | None = None,
    images: np.ndarray | None = None,
    origin: str = "test samples",
    classes: Sequence[str] = (),
    names: Sequence[str] = (),
    searched: bool = False,
) -> Answers:
    """What engines answered.

    fp32, int8, naive: scores [N, classes] (floats; the largest is the answer) or answers [N] (integers or strings).
    labels: [N].
    images: [N, ...]; the first of those that changed are kept as pictures.
    searched: the search looked at these samples.

    DataError where lengths differ.
    """
    given = {"fp32": fp32, "int8": int8, "naive": naive, "labels": labels, "images": images}
    lengths = {k: len(v) for k, v in given.items() if v is not None}
    if names:
        lengths["names"] = len(names)
    if len(set(lengths.values())) != 1:
        raise DataError(f"answers of different lengths: {', '.join(f'{k} {n}' for k, n in lengths.items())}")
    found = Answers(
        origin,
        searched,
        _answers("fp32", fp32),
        _answers("int8", int8),
        None if naive is None else _answers("naive", naive),
        None if labels is None else _answers("labels", labels),
        _margins(fp32),
        tuple(classes),
        tuple(names),
    )
    if images is None:
        return found
    kept = {f.index: picture(images[f.index]) for f in flips(found)[:SHOWN]}
    return dataclasses.replace(found, images={i: p for i, p in kept.items() if p})


def of_build(a: Answered) -> Answers:
    """What engines answered while a build looked for its precisions."""
    return judged(
        a.fp32,
        a.chosen,
        labels=a.labels,
        naive=a.naive,
        images=a.images,
        origin=a.origin,
        classes=a.classes,
        names=a.names,
        searched=True,
    )


def with_answers(outcome: Outcome, path: Path) -> Outcome:
    """The outcome with answers from an .npz file: arrays fp32 and int8, and if there labels, naive, images, classes and
    names, as in `judged`."""
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise DataError(f"cannot read answers from {path}: it is one array, not an .npz file of several")
        with file:
            arrays: Mapping[str, np.ndarray] = dict(file)
    except (OSError, ValueError, EOFError, BadZipFile) as e:
        reason = getattr(e, "strerror", None) or e
        raise DataError(f"cannot read answers from {path}: {reason}") from e
    known = ("fp32", "int8", "labels", "naive", "images", "classes", "names")
    for name in ("fp32", "int8"):
        if name not in arrays:
            raise DataError(f"{path} has no array '{name}'; of {', '.join(known)} it has {', '.join(arrays) or 'none'}")
    found = judged(
        arrays["fp32"],
        arrays["int8"],
        labels=arrays.get("labels"),
        naive=arrays.get("naive"),
        images=arrays.get("images"),
        origin=path.name,
        classes=[str(c) for c in arrays.get("classes", ())],
        names=[str(n) for n in arrays.get("names", ())],
    )
    return dataclasses.replace(outcome, answers=found)


def _answers(name: str, given: np.ndarray) -> tuple[Answer, ...]:
    given = np.asarray(given)
    if given.ndim == 2 and given.dtype.kind == "f":
        given = given.argmax(axis=1)
    if given.ndim != 1 or given.dtype.kind not in "iuU":
        raise DataError(
            f"{name}: expected scores [samples, classes] or answers [samples] as integers or text, not "
            f"{given.dtype} {list(given.shape)}"
        )
    return tuple(v.item() for v in given)


def _margins(scores: np.ndarray) -> tuple[float, ...] | None:
    """Difference between the two greatest scores; None of answers."""
    if scores.ndim != 2 or scores.dtype.kind != "f" or scores.shape[1] < 2:
        return None
    top = np.sort(scores.astype(np.float64), axis=1)[:, -2:]
    return tuple((top[:, 1] - top[:, 0]).tolist())
