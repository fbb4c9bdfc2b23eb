"""How far an engine's outputs are from the float engine's, without labels, so that it tells how many answers get worse.

A drop of accuracy of 0.3 % cannot be counted on a few dozen held-back samples: counts of changed answers have a
resolution of 1 / n. What is estimated instead is an expectation that is smooth in the size of the errors. Where an
answer is the largest of classes, the error of the difference of two log-probabilities is compared with the margin m by
which the float engine prefers its answer to each other one: with errors of standard deviation s the other answer wins
with probability Phi(-m / s).

- *changed*: expected share of answers that change. Many of those are ties between answers as good as each other.
- *loss*: expected share of right answers lost, by the float engine's own account: a change costs the difference of the
  two probabilities, so that ties cost nothing and confident answers cost all.
- *information*: mean Kullback-Leibler divergence (nats) of the float engine's classes from the other's.
- *noise*: energy of the error relative to the variance of the outputs over samples (NMSE), for all kinds of output.

To second order in the errors information and noise add up over independent sources of error, so these are what a search
sums over the layers of a model; loss and changed are what it bounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from temper.precision.heads import Head, logarithms

#: Classes besides the answer whose chance to win is looked at.
_RIVALS = 4


@dataclass(frozen=True)
class Bounds:
    """What a build without an evaluation function accepts, of the worst of all outputs."""

    loss: float = 0.0015
    changed: float = 0.01
    noise: float = 0.01

    def as_dict(self) -> dict[str, float]:
        return {"loss": self.loss, "changed": self.changed, "noise": self.noise}


@dataclass(frozen=True)
class Divergence:
    """Of one head. flips: answers that did change, of `answers` looked at; these two are counts."""

    head: str
    noise: float
    loss: float = 0.0
    changed: float = 0.0
    information: float = 0.0
    flips: int = 0
    answers: int = 0

    def over(self, bounds: Bounds) -> float:
        """Largest ratio of a measure to its bound: above 1 it is out of bounds."""
        if not self.answers:
            return self.noise / bounds.noise
        return max(self.loss / bounds.loss, self.changed / bounds.changed)

    @property
    def energy(self) -> float:
        """What adds up over independent errors: information where there are answers, else noise."""
        return self.information if self.answers else self.noise

    def as_dict(self) -> dict[str, float | int | str]:
        return {
            "head": self.head,
            "noise": self.noise,
            "loss": self.loss,
            "changed": self.changed,
            "information": self.information,
            "flips": self.flips,
            "answers": self.answers,
        }


def worst(found: Sequence[Divergence], bounds: Bounds) -> float:
    """The largest ratio to a bound over all heads; 0 of a model without outputs of floats."""
    return max((d.over(bounds) for d in found), default=0.0)


@dataclass
class _Answers:
    """Sums over the positions of one head, for classes: arrays over positions (rivals along the last axis)."""

    margins: list[np.ndarray] = field(default_factory=list)
    gaps: list[np.ndarray] = field(default_factory=list)
    errors: list[np.ndarray] = field(default_factory=list)
    information: list[np.ndarray] = field(default_factory=list)
    flipped: list[np.ndarray] = field(default_factory=list)


class Reference:
    """The float engine's outputs on held-back samples, and what others are compared with.

    outputs: of every batch, in order, as the engine gives them. Arrays are kept, so that they must not be reused.
    """

    def __init__(self, heads: Sequence[Head], outputs: Sequence[Sequence[np.ndarray]]) -> None:
        self.heads = tuple(heads)
        self.outputs = tuple(tuple(batch) for batch in outputs)
        self._variance = {h: self._variance_of(h) for h in self.heads}

    def _variance_of(self, head: Head) -> float:
        """Mean variance over samples of an element; where samples differ in shape or there is one, over elements."""
        parts = [head.of(b[head.output]).astype(np.float64) for b in self.outputs]
        parts = [p for p in parts if p.size]
        if not parts:
            return 0.0
        rows = [p.reshape(p.shape[0], -1) if p.ndim else p.reshape(1, 1) for p in parts]
        total = sum(r.size for r in rows)
        mean = sum(float(r.sum()) for r in rows) / total
        over_elements = sum(float(((r - mean) ** 2).sum()) for r in rows) / total
        if len({r.shape[1] for r in rows}) > 1 or sum(len(r) for r in rows) < 2:
            return over_elements
        every = np.concatenate(rows)
        over_samples = float(every.var(axis=0).mean())
        # outputs that hardly depend on the input: an error as large as their own spread is no catastrophe
        return max(over_samples, 1e-2 * over_elements)

    def compare(self, outputs: Sequence[Sequence[np.ndarray] | None]) -> tuple[Divergence, ...]:
        """Divergence of every head. outputs: of every batch; None for a batch that was left out."""
        batches = [(r, q) for r, q in zip(self.outputs, outputs, strict=True) if q is not None]
        return tuple(self._compare(h, batches) for h in self.heads)

    def _compare(
        self, head: Head, batches: Sequence[tuple[Sequence[np.ndarray], Sequence[np.ndarray]]]
    ) -> Divergence:
        energy, count, bad = 0.0, 0, False
        answers = _Answers()
        for r, q in batches:
            want, got = head.of(r[head.output]).astype(np.float64), head.of(q[head.output]).astype(np.float64)
            if got.shape != want.shape or not np.array_equal(np.isfinite(got), np.isfinite(want)):
                bad = True
                continue
            finite = np.isfinite(want)
            energy += float(((got - want)[finite] ** 2).sum())
            count += int(finite.sum())
            if head.kind != "values" and finite.all() and want.size:
                _add(answers, head, want, got)
        name = head.name if head.axis < 0 else f"{head.name}[{head.start}:{head.stop}]"
        if bad:
            return Divergence(name, math.inf, 1.0, 1.0, math.inf, 1, 1)
        variance = self._variance[head]
        mean = energy / count if count else 0.0
        noise = mean / variance if variance else (math.inf if mean else 0.0)
        return _summary(name, noise, answers) if answers.margins else Divergence(name, noise)


def _add(answers: _Answers, head: Head, want: np.ndarray, got: np.ndarray) -> None:
    if head.kind == "yes or no":
        want, got = _both(want), _both(got)
    else:
        want, got = (np.moveaxis(x, head.classes, -1) for x in (want, got))
        want, got = logarithms(want), logarithms(got)
    classes = want.shape[-1]
    want, got = want.reshape(-1, classes), got.reshape(-1, classes)
    rivals = min(_RIVALS, classes - 1)
    order = np.argpartition(-want, rivals, axis=-1)[:, : rivals + 1]
    order = np.take_along_axis(order, np.argsort(-np.take_along_axis(want, order, -1), axis=-1, kind="stable"), -1)
    w, g = np.take_along_axis(want, order, -1), np.take_along_axis(got, order, -1)
    answers.margins.append(w[:, :1] - w[:, 1:])
    answers.gaps.append(np.exp(w[:, :1]) - np.exp(w[:, 1:]))
    answers.errors.append((g[:, 1:] - g[:, :1]) - (w[:, 1:] - w[:, :1]))
    answers.information.append((np.exp(want) * (want - got)).sum(axis=-1))
    answers.flipped.append(got.argmax(axis=-1) != order[:, 0])


def _both(p: np.ndarray) -> np.ndarray:
    """Log-probabilities of yes and no."""
    tiny = float(np.finfo(np.float32).tiny)
    eps = float(np.finfo(np.float32).eps)
    return np.log(np.maximum(np.stack([p, np.maximum(1 - p, eps)], axis=-1), tiny))


def _summary(name: str, noise: float, found: _Answers) -> Divergence:
    margins, gaps, errors = (np.concatenate(x) for x in (found.margins, found.gaps, found.errors))
    chance = _chances(margins, errors)
    # some rival wins: at most the sum of their chances
    changed = np.minimum(chance.sum(axis=-1), 1.0)
    loss = np.minimum((chance * gaps).sum(axis=-1), 1.0)
    flipped = np.concatenate(found.flipped)
    information = float(np.maximum(np.concatenate(found.information), 0.0).mean())
    return Divergence(
        name, noise, float(loss.mean()), float(changed.mean()), information, int(flipped.sum()), len(flipped)
    )


def _chances(margins: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Probability that a rival passes the answer, by the spread of errors where margins are small: confident answers
    often come with larger numbers and so with larger errors, which decide nothing.

    margins, errors: [positions, rivals]; the spread of errors is pooled over positions in the lower half of margins.
    """
    nearest = margins[:, 0]
    near = errors[nearest <= np.median(nearest)]
    spread = math.sqrt(float((near**2).mean()))
    if spread == 0.0:
        return np.zeros_like(margins)
    return _normal_tail(margins / spread)


def _normal_tail(x: np.ndarray) -> np.ndarray:
    """P(X > x) of a standard normal, x >= 0; Abramowitz and Stegun 26.2.17, absolute error below 7.5e-8."""
    t = 1.0 / (1.0 + 0.2316419 * x)
    polynomial = t * (0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))))
    result: np.ndarray = np.exp(-x * x / 2) / math.sqrt(2 * math.pi) * polynomial
    return result


def as_rows(found: Sequence[Divergence]) -> list[Mapping[str, float | int | str]]:
    """For records and reports."""
    return [d.as_dict() for d in found]
