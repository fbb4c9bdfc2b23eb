"""How far an engine's outputs are from the float engine's, without labels, so that it tells how many answers get worse.

A drop of accuracy of 0.3 % cannot be counted on a few dozen held-back samples: counts of changed answers have a
resolution of 1 / n. What is estimated instead is an expectation that is smooth in the size of the errors. Where an
answer is the largest of classes, the error of the difference of two log-probabilities is compared with the margin m by
which the float engine prefers its answer to each other one: with errors of standard deviation s the other answer wins
with probability Phi(-m / s).

- *changed*: expected share of answers that change. Many of those are ties between answers as good as each other.
- *loss*: expected share of right answers lost, by the float engine's own account: a change costs the difference of the
  two probabilities, so that ties cost nothing and confident answers cost all.
- *turned*: expected share of answers that turn right or wrong, either way: the sum of the two probabilities instead.
  On n samples, right answers change by about loss * n, give or take sqrt(turned * n).
- *information*: mean Kullback-Leibler divergence (nats) of the float engine's classes from the other's; *tail*: its
  99th percentile over answers, which only the record has.
- *noise*: energy of the error relative to the variance of the outputs over samples (NMSE), for all kinds of output.

To second order in the errors information and noise add up over independent sources of error, so these are what a search
sums over the layers of a model; loss, turned and noise are what it bounds.

A detector's outputs joined to one tensor (objectness, box, classes) say nothing where no object is: positions of its
other parts count as much as its yes-or-no part says yes there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from temper.precision.output_kinds import Head, are_probabilities, logarithms

#: Classes besides the answer whose chance to win is looked at.
_RIVALS = 4


#: How much more often a map is spoiled than one of its answers: less, since neighbours say the same.
_MAP = 0.5

#: Positions whose errors are pooled, at least.
_FEW = 16

#: Positions of a sample from which on its answers are a map, which no single one of them spoils.
MAP = 65


@dataclass(frozen=True)
class Bounds:
    """What a build without an evaluation function accepts, of the worst of all outputs.

    Everything in INT8 is accepted as it is if the expected loss of right answers is at most `loss`, and the noise at
    most `answers`, or `shares` of probabilities (of which a few doubtful samples make most), or `values` where outputs
    are no answers, or `maps` where they are maps (dense answers, a detector's parts). If not, layers are kept in float
    until besides that loss + sqrt(turned / tested) is at most `aim`: the drop that a test of `tested` answers sees with
    one standard deviation of bad luck. Of a sequence the whole is what counts, and of a map what many of its answers
    say together: see Divergence.whole.
    """

    loss: float = 0.003
    answers: float = 0.006
    shares: float = 0.03
    values: float = 0.01
    maps: float = 0.05
    aim: float = 0.0035
    tested: int = 1000

    def as_dict(self) -> dict[str, float]:
        return dict(vars(self))


@dataclass(frozen=True)
class Divergence:
    """Of one head.

    flips: answers that did change, of `answers` looked at; these two are counts.
    form: "one" answer a sample, a "sequence" of a few or a "map" of many; values have it too.
    positions: answers a sample.
    """

    head: str
    noise: float
    loss: float = 0.0
    changed: float = 0.0
    turned: float = 0.0
    information: float = 0.0
    flips: int = 0
    answers: int = 0
    form: str = "one"
    probabilities: bool = False
    tail: float = 0.0
    positions: float = 1.0

    @property
    def whole(self) -> float:
        """How much more often the whole is spoiled than one of its answers. Of a sequence as often as it has positions
        if they change independently (counted 5 times on lines of 5 digits, 12 to 27 times on 16 letters), and once if
        they change together (between 1 and 2.5 times on text of 18 positions, where repeated answers are joined):
        what lies between on a scale of factors."""
        return {"one": 1.0, "map": _MAP}.get(self.form, math.sqrt(self.positions))

    def over(self, bounds: Bounds) -> float:
        """Largest ratio of a measure to what is accepted: above 1 it is out of bounds."""
        if self.form == "map":
            noise = bounds.maps
        elif not self.answers:
            noise = bounds.values
        else:
            noise = bounds.shares if self.probabilities else bounds.answers
        return max(self.whole * self.loss / bounds.loss, max(1.0, self.whole) * self.noise / noise)

    def short(self, bounds: Bounds) -> float:
        """The same, of what is aimed at."""
        luck = (self.whole * self.loss + math.sqrt(self.whole * self.turned / bounds.tested)) / bounds.aim
        return max(self.over(bounds), luck)

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
            "turned": self.turned,
            "information": self.information,
            "flips": self.flips,
            "answers": self.answers,
            "form": self.form,
            "probabilities": self.probabilities,
            "tail": self.tail,
            "positions": self.positions,
        }


def share(ratio: float) -> str:
    """For people, to be followed by what it is a share of: "0.51 % of", "1.3 times"."""
    if ratio >= 1:
        return "infinitely many times" if math.isinf(ratio) else f"{ratio:,.{1 if ratio < 100 else 0}f} times"
    return "none of" if ratio <= 0 else "under 0.001 % of" if ratio < 1e-5 else f"{float(f'{100 * ratio:.2g}'):g} % of"


def worst(found: Sequence[Divergence], bounds: Bounds, aim: bool = False) -> float:
    """The largest ratio to a bound over all heads, to what is aimed at if `aim`; 0 without outputs of floats."""
    return max((d.short(bounds) if aim else d.over(bounds) for d in found), default=0.0)


@dataclass
class _Answers:
    """Of the positions of one head, for classes; arrays over positions, rivals along the last axis."""

    margins: list[np.ndarray] = field(default_factory=list)
    likely: list[np.ndarray] = field(default_factory=list)
    errors: list[np.ndarray] = field(default_factory=list)
    information: list[np.ndarray] = field(default_factory=list)
    flipped: list[np.ndarray] = field(default_factory=list)
    weights: list[np.ndarray] = field(default_factory=list)
    samples: int = 0
    probabilities: bool = False


class Reference:
    """The float engine's outputs on held-back samples, and what others are compared with.

    outputs: of every batch, in order, as the engine gives them. Arrays are kept, so that they must not be reused.
    """

    def __init__(self, heads: Sequence[Head], outputs: Sequence[Sequence[np.ndarray]]) -> None:
        self.heads = tuple(heads)
        self.outputs = tuple(tuple(batch) for batch in outputs)
        self._present = {h: _presence(h, self.heads) for h in self.heads}
        self._variance = {h: self._variance_of(h) for h in self.heads}

    def _weights(self, head: Head, batch: Sequence[np.ndarray]) -> np.ndarray | None:
        """How much every position of a head counts, that is every element but along its part's axis; None if alike."""
        judge = self._present[head]
        if judge is None:
            return None
        return np.asarray(np.abs(judge.of(batch[judge.output]).astype(np.float64)).max(axis=head.axis))

    def _variance_of(self, head: Head) -> float:
        """Mean variance over samples of an element; where samples differ in shape or there is one, over elements.

        Of a detector's part the weighted variance over positions.
        """
        parts = [head.of(b[head.output]).astype(np.float64) for b in self.outputs]
        weights = [self._weights(head, b) for b in self.outputs]
        if weights and weights[0] is not None:
            rows = [np.moveaxis(p, head.axis, -1).reshape(-1, p.shape[head.axis]) for p in parts]
            every, w = np.concatenate(rows), np.concatenate([np.ravel(x) for x in weights if x is not None])
            if w.sum() <= 0:
                return 0.0
            mean = (w[:, None] * every).sum(axis=0) / w.sum()
            return float((w[:, None] * (every - mean) ** 2).sum() / w.sum() / every.shape[1])
        parts = [p for p in parts if p.size]
        if not parts:
            return 0.0
        rows = [p.reshape(p.shape[0], -1) if p.ndim else p.reshape(1, 1) for p in parts]
        total = sum(r.size for r in rows)
        middle = sum(float(r.sum()) for r in rows) / total
        over_elements = sum(float(((r - middle) ** 2).sum()) for r in rows) / total
        if len({r.shape[1] for r in rows}) > 1 or sum(len(r) for r in rows) < 2:
            return over_elements
        over_samples = float(np.concatenate(rows).var(axis=0).mean())
        # outputs that hardly depend on the input: an error as large as their own spread is no catastrophe
        return max(over_samples, 1e-2 * over_elements)

    def compare(self, outputs: Sequence[Sequence[np.ndarray] | None]) -> tuple[Divergence, ...]:
        """Divergence of every head. outputs: of every batch; None for a batch that was left out."""
        batches = [(r, q) for r, q in zip(self.outputs, outputs, strict=True) if q is not None]
        return tuple(self._compare(h, batches) for h in self.heads)

    def _compare(
        self, head: Head, batches: Sequence[tuple[Sequence[np.ndarray], Sequence[np.ndarray]]]
    ) -> Divergence:
        name = head.name if head.axis < 0 else f"{head.name}[{head.start}:{head.stop}]"
        energy, count = 0.0, 0.0
        answers = _Answers()
        for r, q in batches:
            want, got = head.of(r[head.output]).astype(np.float64), head.of(q[head.output]).astype(np.float64)
            if got.shape != want.shape or not np.array_equal(np.isfinite(got), np.isfinite(want)):
                return Divergence(name, math.inf, 1.0, 1.0, 1.0, math.inf, 1, 1)
            weights = self._weights(head, r)
            each = np.ones_like(want)
            if weights is not None:
                each = np.broadcast_to(np.expand_dims(weights, head.axis), want.shape)
            finite = np.isfinite(want)
            energy += float((each[finite] * (got - want)[finite] ** 2).sum())
            count += float(each[finite].sum())
            if head.kind != "values" and finite.all() and want.size:
                _add(answers, head, want, got, weights)
        variance = self._variance[head]
        mean = energy / count if count else 0.0
        noise = mean / variance if variance else (math.inf if mean else 0.0)
        if answers.margins:
            return _summary(name, noise, answers)
        return Divergence(name, noise, form="map" if self._present[head] is not None else "one")


def _presence(head: Head, heads: Sequence[Head]) -> Head | None:
    """The yes-or-no part beside a part of one output."""
    if head.axis < 0 or head.kind == "yes or no":
        return None
    beside = [h for h in heads if h.output == head.output and h.axis == head.axis and h.kind == "yes or no"]
    return beside[0] if beside else None


def _add(answers: _Answers, head: Head, want: np.ndarray, got: np.ndarray, weights: np.ndarray | None) -> None:
    samples = 1 if head.classes == 0 or want.ndim < 2 else want.shape[0]
    if head.kind == "yes or no":
        want, got = _both(want), _both(got)
    else:
        want, got = (np.moveaxis(x, head.classes, -1) for x in (want, got))
        answers.probabilities = bool(are_probabilities(want))
        want, got = logarithms(want), logarithms(got)
    classes = want.shape[-1]
    want, got = want.reshape(-1, classes), got.reshape(-1, classes)
    answers.samples += samples
    answers.weights.append(np.ones(len(want)) if weights is None else weights.reshape(-1))
    rivals = min(_RIVALS, classes - 1)
    order = np.argpartition(-want, rivals, axis=-1)[:, : rivals + 1]
    order = np.take_along_axis(order, np.argsort(-np.take_along_axis(want, order, -1), axis=-1, kind="stable"), -1)
    w, g = np.take_along_axis(want, order, -1), np.take_along_axis(got, order, -1)
    answers.margins.append(w[:, :1] - w[:, 1:])
    answers.likely.append(np.exp(w))
    answers.errors.append((g[:, 1:] - g[:, :1]) - (w[:, 1:] - w[:, :1]))
    answers.information.append((np.exp(want) * (want - got)).sum(axis=-1))
    answers.flipped.append(got.argmax(axis=-1) != order[:, 0])


def _both(p: np.ndarray) -> np.ndarray:
    """Log-probabilities of yes and no."""
    tiny = float(np.finfo(np.float32).tiny)
    eps = float(np.finfo(np.float32).eps)
    return np.log(np.maximum(np.stack([p, np.maximum(1 - p, eps)], axis=-1), tiny))


def _summary(name: str, noise: float, found: _Answers) -> Divergence:
    margins, likely, errors = (np.concatenate(x) for x in (found.margins, found.likely, found.errors))
    weights = np.concatenate(found.weights)
    chance = _chances(margins, errors)
    flipped = np.concatenate(found.flipped)

    def mean(x: np.ndarray) -> float:
        return float((weights * x).sum() / weights.sum()) if weights.sum() > 0 else 0.0

    # some rival wins: at most the sum of their chances
    changed = np.minimum(chance.sum(axis=-1), 1.0)
    loss = np.minimum((chance * (likely[:, :1] - likely[:, 1:])).sum(axis=-1), 1.0)
    turned = np.minimum((chance * (likely[:, :1] + likely[:, 1:])).sum(axis=-1), 1.0)
    information = np.maximum(np.concatenate(found.information), 0.0)
    form = "one" if len(flipped) <= found.samples else ("sequence" if len(flipped) < MAP * found.samples else "map")
    return Divergence(
        name,
        noise,
        mean(loss),
        mean(changed),
        mean(turned),
        mean(information),
        int(flipped.sum()),
        len(flipped),
        form,
        found.probabilities,
        float(np.percentile(information, 99)),
        len(flipped) / max(1, found.samples),
    )


def _chances(margins: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """Probability that a rival passes the answer, by the spread of errors where margins are small: confident answers
    often come with larger numbers and so with larger errors, which decide nothing; or with smaller ones, where they
    saturate what comes before.

    margins, errors: [positions, rivals]; the spread of errors is pooled over positions in the lower half of margins, or
    over the least tenth of them where that is more.
    """
    order = np.argsort(margins[:, 0], kind="stable")
    middle = -(-len(order) // 2)
    half, tenth = (errors[order[:n]] for n in (middle, min(middle, max(_FEW, len(order) // 10))))
    spread = math.sqrt(max(float((half**2).mean()), float((tenth**2).mean())))
    if spread == 0.0:
        return np.zeros_like(margins)
    return _normal_tail(margins / spread)


def _normal_tail(x: np.ndarray) -> np.ndarray:
    """P(X > x) of a standard normal, x >= 0; Abramowitz and Stegun 26.2.17, absolute error below 7.5e-8."""
    t = 1.0 / (1.0 + 0.2316419 * x)
    polynomial = t * (0.319381530 + t * (-0.356563782 + t * (1.781477937 + t * (-1.821255978 + t * 1.330274429))))
    result: np.ndarray = np.exp(-x * x / 2) / math.sqrt(2 * math.pi) * polynomial
    return result
