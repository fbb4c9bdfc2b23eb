"""What is expected of answers from margins and errors is what happens to many of them; heads are found in graphs."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from temper.ir.graph import Graph
from temper.ir.ops import make
from temper.ir.types import TensorType
from temper.precision.divergence import Bounds, Reference, share, worst
from temper.precision.output_kinds import Head, heads

CLASSES = Head(0, "y", "classes", classes=1)
VALUES = Head(0, "y", "values")


def _logits(n: int, seed: int = 0) -> np.ndarray:
    return 2 * np.random.default_rng(seed).standard_normal((n, 10)).astype(np.float32)


def _softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def _noisy(x: np.ndarray, size: float, seed: int = 1) -> np.ndarray:
    return x + (size * np.random.default_rng(seed).standard_normal(x.shape)).astype(np.float32)


@pytest.mark.parametrize("size", [0.05, 0.2])
def test_expected_changes_are_what_many_samples_show(size: float) -> None:
    """From 60 samples, within what their margins vary; of 20 000 samples, within what several rivals at once make."""
    big = _logits(20_000)
    (many,) = Reference([CLASSES], [[big]]).compare([[_noisy(big, size)]])
    assert many.flips / many.answers == pytest.approx(many.changed, rel=0.15)
    # labels drawn from the float engine's own probabilities: what it expects to lose is what is lost
    rng = np.random.default_rng(2)
    p = _softmax(big)
    right = [(p[np.arange(len(p)), x.argmax(axis=1)]).mean() for x in (big, _noisy(big, size))]
    assert right[0] - right[1] == pytest.approx(many.loss, rel=0.25)
    few = [
        Reference([CLASSES], [[x]]).compare([[_noisy(x, size, i)]])[0].changed
        for i in range(20)
        for x in [big[rng.permutation(len(big))[:60]]]
    ]
    assert np.mean(few) == pytest.approx(many.changed, rel=0.25)


def test_logits_probabilities_and_their_logarithms_say_the_same() -> None:
    x, q = _logits(50), _noisy(_logits(50), 0.1)
    forms = [lambda v: v, lambda v: v + 3, _softmax, lambda v: np.log(_softmax(v))]
    found = [Reference([CLASSES], [[f(x)]]).compare([[f(q)]])[0] for f in forms]
    for d in found:
        assert d.loss == pytest.approx(found[0].loss, rel=1e-3)
        assert d.information == pytest.approx(found[0].information, rel=1e-2)


def test_ties_cost_nothing_and_confident_answers_all() -> None:
    tied = np.array([[5, 5, 0], [0, 5, 5]], np.float32)
    sure = np.array([[9, 0, 0], [0, 0, 9]], np.float32)
    (a,) = Reference([CLASSES], [[tied]]).compare([[tied + np.array([[0, 0.01, 0], [0, 0, 0.01]], np.float32)]])
    (b,) = Reference([CLASSES], [[sure]]).compare([[sure[::-1]]])
    assert a.flips == 2 and a.loss < 1e-3
    assert b.flips == 2 and b.loss > 0.1


def test_information_and_noise_add_up() -> None:
    """Of two independent errors together about the sum of each alone: that is what a search relies on."""
    x = _logits(400)
    r = Reference([CLASSES, VALUES], [[x]])
    one, two = _noisy(x, 0.1, 3) - x, _noisy(x, 0.2, 4) - x
    each = [r.compare([[x + e]]) for e in (one, two, one + two)]
    for k, measure in ((0, "information"), (1, "noise")):
        a, b, both = (getattr(e[k], measure) for e in each)
        assert both == pytest.approx(a + b, rel=0.1)


def test_values_are_measured_against_their_variance_over_samples() -> None:
    x = np.random.default_rng(0).normal(100, 2, (200, 7)).astype(np.float32)
    (d,) = Reference([VALUES], [[b] for b in x[:, None]]).compare([[b + np.float32(0.2)] for b in x[:, None]])
    assert d.noise == pytest.approx(0.01, rel=0.1)
    assert not d.answers and d.energy == d.noise
    (same,) = Reference([VALUES], [[b] for b in x[:, None]]).compare([[b] for b in x[:, None]])
    assert same.noise == 0 and worst([same], Bounds()) == 0


def test_equal_outputs_differ_by_nothing() -> None:
    x = _logits(5)
    (d,) = Reference([CLASSES], [[x]]).compare([[x]])
    assert (d.loss, d.changed, d.information, d.noise, d.flips) == (0, 0, 0, 0, 0)


def test_batches_left_out_and_other_shapes() -> None:
    a, b = _logits(4), _logits(6, 1)
    r = Reference([CLASSES], [[a], [b]])
    assert r.compare([[a], None])[0].answers == 4
    assert r.compare([[a], [b]])[0].answers == 10
    assert math.isinf(r.compare([[a], [b[:3]]])[0].noise)
    broken = b.copy()
    broken[0, 0] = np.nan
    assert worst(r.compare([[a], [broken]]), Bounds()) > 1


def test_a_sigmoid_answers_on_either_side_of_a_half() -> None:
    p = np.array([[0.9, 0.49, 0.1]], np.float32)
    head = Head(0, "y", "yes or no")
    (d,) = Reference([head], [[p]]).compare([[np.array([[0.9, 0.51, 0.1]], np.float32)]])
    assert d.flips == 1 and d.answers == 3


def _graph(*shape: int) -> Graph:
    g = Graph("g")
    g.add_input("x", TensorType("float32", shape))
    return g


def test_heads_of_a_detector_are_the_parts_that_were_joined() -> None:
    g = _graph(1, 4, 4, 8)
    x = g.inputs[0]

    def conv(channels: int, name: str):  # type: ignore[no-untyped-def]
        w = g.add_constant(np.ones((1, 1, 8, channels), np.float32), f"{name}.w")
        attrs = {"channels_last": True, "strides": (1, 1), "dilations": (1, 1), "pads": (0, 0, 0, 0), "group": 1}
        return make(g, "Conv", [x, w], attrs, name=name).output

    parts = [make(g, "Sigmoid", [conv(1, "object")]).output, conv(4, "box")]
    parts.append(make(g, "Softmax", [conv(3, "class")], {"axis": 3}).output)
    joined = make(g, "Concat", parts, {"axis": 3}).output
    g.set_outputs([make(g, "Transpose", [joined], {"perm": (0, 3, 1, 2)}).output], ["y"])
    found = heads(g)
    assert [(h.kind, h.axis, h.start, h.stop, h.classes) for h in found] == [
        ("yes or no", 1, 0, 1, -1),
        ("values", 1, 1, 5, -1),
        ("classes", 1, 5, 8, 1),
    ]
    assert found[2].of(np.zeros((1, 8, 4, 4))).shape == (1, 3, 4, 4)


def test_classes_follow_views_and_means() -> None:
    g = _graph(2, 6, 6, 5)
    soft = make(g, "Softmax", [make(g, "ReduceMean", [g.inputs[0]], {"axes": (1, 2), "keepdims": False}).output],
                {"axis": 1}).output  # fmt: skip
    g.set_outputs([make(g, "Reshape", [soft], {"shape": (2, 5, 1, 1)}).output, g.inputs[0]], ["y", "x"])
    assert [(h.kind, h.classes) for h in heads(g)] == [("classes", 1), ("values", -1)]


def test_rows_are_plain_json() -> None:
    """They are kept in the search's file."""
    x = _softmax(_logits(5))
    for head in (CLASSES, VALUES, Head(0, "y", "yes or no")):
        (d,) = Reference([head], [[x]]).compare([[_softmax(_logits(5, 1))]])
        assert json.loads(json.dumps(d.as_dict())) == d.as_dict()


def test_noise_of_probabilities_has_a_bound_of_its_own_and_is_kept_as_json() -> None:
    """A few doubtful samples make most of it; logits tell more."""
    x = 8 * _logits(200)
    y = _noisy(x, 0.5)
    found = {}
    for name, say in (("logits", lambda a: a), ("probabilities", _softmax)):
        reference = Reference([Head(0, name, "classes", 1)], [[say(x)]])
        (found[name],) = reference.compare([[say(y)]])
        assert json.loads(json.dumps(found[name].as_dict()))["probabilities"] == (name == "probabilities")
    bounds = Bounds(loss=1.0)
    assert found["logits"].over(bounds) == pytest.approx(found["logits"].noise / bounds.answers, rel=0.01)
    assert found["probabilities"].over(bounds) == pytest.approx(found["probabilities"].noise / bounds.shares, rel=0.01)


@pytest.mark.parametrize(
    ("ratio", "words"),
    [
        (0.0, "none of"),
        (1e-9, "under 0.001 % of"),
        (0.00512, "0.51 % of"),
        (1.0, "1.0 times"),
        (12345.6, "12,346 times"),
        (math.inf, "infinitely many times"),
    ],
)
def test_shares_in_words(ratio: float, words: str) -> None:
    assert share(ratio) == words


def test_errors_that_are_larger_in_doubt_are_not_missed() -> None:
    """Nine in ten answers are sure and hardly disturbed; the tenth that are not sure change as often as they do."""
    rng = np.random.default_rng(4)
    x = np.zeros((4000, 2), np.float32)
    doubtful = rng.random(len(x)) < 0.1
    x[:, 0] = np.where(doubtful, rng.uniform(0, 1, len(x)), 20)
    error = np.where(doubtful, 0.5, 0.01)[:, None] * rng.standard_normal(x.shape)
    (found,) = Reference([CLASSES], [[x]]).compare([[x + error.astype(np.float32)]])
    assert found.flips > 100
    assert found.changed == pytest.approx(found.flips / found.answers, rel=0.3)


def test_a_sequence_is_spoiled_more_often_than_one_of_its_answers() -> None:
    x = _logits(64).reshape(4, 16, 10)
    sequence = Head(0, "y", "classes", classes=2)
    (found,) = Reference([sequence], [[x]]).compare([[_noisy(x, 0.05)]])
    (one,) = Reference([CLASSES], [[x.reshape(64, 10)]]).compare([[_noisy(x, 0.05).reshape(64, 10)]])
    assert found.form == "sequence" and found.positions == 16 and found.whole == 4
    assert found.loss == pytest.approx(one.loss) and one.whole == 1
    bounds = Bounds()
    assert found.over(bounds) == pytest.approx(4 * max(found.loss / bounds.loss, found.noise / bounds.answers))
    assert one.over(bounds) == pytest.approx(max(one.loss / bounds.loss, one.noise / bounds.answers))
