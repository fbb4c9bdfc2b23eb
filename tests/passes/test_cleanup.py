"""Cleanup: each rule before and after in text form, with equal numbers; folding, common subexpressions, dead code."""

from __future__ import annotations

import numpy as np
import pytest

from temper.passes.cleanup import CLEANUP, CLEANUP_RULES, MAX_GROWTH
from temper.passes.rewrite import rules_pass
from tests.passes.nets import Net, applied, assert_text, check, ops, text_graph

X = "input %x: float32[2, 3, 4]\n"
SAME = X + 'output %x "y"'

#: rule -> (before, after)
RULES: dict[str, tuple[str, str]] = {
    "drop-identity": (X + '%y: float32[2, 3, 4] = Identity(%x)\noutput %y "y"', SAME),
    "drop-reshape": (X + '%y: float32[2, 3, 4] = Reshape(%x) {shape=(2, 3, 4)}\noutput %y "y"', SAME),
    "drop-expand": (X + '%y: float32[2, 3, 4] = Expand(%x) {shape=(3, 4)}\noutput %y "y"', SAME),
    "drop-cast": (X + "%y: float32[2, 3, 4] = Cast(%x) {to='float32'}\noutput %y \"y\"", SAME),
    "drop-slice": (
        X + '%y: float32[2, 3, 4] = Slice(%x) {axes=(1,), ends=(9,), starts=(0,), steps=(1,)}\noutput %y "y"',
        SAME,
    ),
    "drop-tile": (X + '%y: float32[2, 3, 4] = Tile(%x) {repeats=(1, 1, 1)}\noutput %y "y"', SAME),
    "drop-pad": (
        X + "%y: float32[2, 3, 4] = Pad(%x) {mode='constant', pads=(0, 0, 0, 0, 0, 0), value=0}\noutput %y \"y\"",
        SAME,
    ),
    "drop-concat": (X + '%y: float32[2, 3, 4] = Concat(%x) {axis=1}\noutput %y "y"', SAME),
    "drop-transpose": (X + '%y: float32[2, 3, 4] = Transpose(%x) {perm=(0, 1, 2)}\noutput %y "y"', SAME),
    "merge-reshapes": (
        X
        + "%a: float32[6, 4] = Reshape(%x) {shape=(6, 4)}\n"
        + '%y: float32[8, 3] = Reshape(%a) {shape=(8, 3)}\noutput %y "y"',
        X + '%y: float32[8, 3] = Reshape(%x) {shape=(8, 3)}\noutput %y "y"',
    ),
    "merge-transposes": (
        X + "%a: float32[3, 2, 4] = Transpose(%x) {perm=(1, 0, 2)}\n"
        '%y: float32[3, 4, 2] = Transpose(%a) {perm=(0, 2, 1)}\noutput %y "y"',
        X + '%y: float32[3, 4, 2] = Transpose(%x) {perm=(1, 2, 0)}\noutput %y "y"',
    ),
    "relu-relu": (
        X + '%a: float32[2, 3, 4] = Relu(%x)\n%y: float32[2, 3, 4] = Relu(%a)\noutput %y "y"',
        X + '%y: float32[2, 3, 4] = Relu(%x)\noutput %y "y"',
    ),
}


def test_every_rule_is_tested() -> None:
    assert {r.name for r in CLEANUP_RULES} == set(RULES)


@pytest.mark.parametrize("name", RULES)
def test_rule(name: str) -> None:
    before, after = RULES[name]
    alone = rules_pass("one", [r for r in CLEANUP_RULES if r.name == name])
    graph, log = check(text_graph(before), (alone,))
    assert_text(graph, after)
    assert applied(log) == {name}
    graph, _ = check(text_graph(before), (CLEANUP,))
    assert_text(graph, after)


@pytest.mark.parametrize(
    "body",
    [
        "%y: float32[2, 3, 4] = Slice(%x) {axes=(1,), ends=(-9,), starts=(-1,), steps=(-1,)}",
        "%y: float32[2, 3, 4] = Transpose(%x) {perm=(0, 1, 2)}\n%z: float64[2, 3, 4] = Cast(%x) {to='float64'}",
        "%y: float32[2, 4, 3] = Transpose(%x) {perm=(0, 2, 1)}",
        "%y: float32[2, 3, 4] = Pad(%x) {mode='constant', pads=(0, 1, 0, 0, -1, 0), value=0}",
    ],
)
def test_what_does_something_stays(body: str) -> None:
    last = body.splitlines()[-1][1]
    graph, _ = check(text_graph(X + body + f'\noutput %{last} "y"'), (CLEANUP,))
    assert len(graph.nodes) == 1


def test_constants_fold_but_do_not_explode() -> None:
    net = Net()
    c = net("Add", net("Mul", net.weights(3, 1), net.weights(3, 1)), net.const(1.0))
    wide = net("Expand", c, shape=(3, MAX_GROWTH))
    x = net.input(3, 1)
    graph = net.done(net("Add", x, c), net("Reshape", wide, shape=(3 * MAX_GROWTH,)))
    after, log = check(graph, (CLEANUP,))
    assert sorted(ops(after)) == ["Add", "Expand", "Reshape"]
    assert any("the constant would grow" in reason for _, _, reason in log.declined)


def test_common_subexpressions() -> None:
    net = Net()
    x = net.input(2, 3)
    a = net("Add", net("Relu", x), net.const([1.0, 2.0, 3.0]))
    b = net("Add", net("Relu", x), net.const([1.0, 2.0, 3.0]))
    c = net("LeakyRelu", x, alpha=0.1)
    d = net("LeakyRelu", x, alpha=0.2)
    after, _ = check(net.done(net("Mul", a, b), net("Sub", c, d)), (CLEANUP,))
    assert sorted(ops(after)) == ["Add", "LeakyRelu", "LeakyRelu", "Mul", "Relu", "Sub"]


def test_equal_bytes_of_other_types_are_different_constants() -> None:
    net = Net()
    x = net.input(4)
    ones = net.const(np.ones(4, np.float32))
    bits = net.const(np.ones(4, np.float32).view(np.int32))
    after, _ = check(net.done(net("Add", x, ones), net("Cast", net("Relu", bits), to="float32")), (CLEANUP,))
    assert len(after.constants) == 2


def test_dead_code_goes() -> None:
    net = Net()
    x = net.input(2, 8)
    net("Exp", net("Add", x, net.weights(8)))
    a, _ = net.many("Split", x, axis=1, sizes=(3, 5))
    after, _ = check(net.done(net("Relu", a)), (CLEANUP,))
    assert ops(after) == ["Split", "Relu"] and after.constants == []


def test_concat_of_split() -> None:
    net = Net()
    x = net.input(2, 8)
    a, b, c = net.many("Split", net("Relu", x), axis=-1, sizes=(2, 3, 3))
    after, log = check(net.done(net("Concat", x, a, b, c, a, axis=1), net("Concat", b, a, c, axis=1)), (CLEANUP,))
    assert applied(log) == {"concat-of-split"}
    assert [len(n.inputs) for n in after.nodes if n.op == "Concat"] == [3, 3]


def test_concat_of_split_along_another_axis_stays() -> None:
    net = Net()
    a, b = net.many("Split", net.input(2, 8), axis=0, sizes=(1, 1))
    after, _ = check(net.done(net("Concat", a, b, axis=1)), (CLEANUP,))
    assert ops(after) == ["Split", "Concat"]


def test_an_input_may_become_the_output() -> None:
    net = Net()
    x = net.input(2, 3)
    after, _ = check(
        net.done(net("Identity", x), net("Reshape", net("Reshape", x, shape=(6,)), shape=(2, 3))), (CLEANUP,)
    )
    assert after.nodes == [] and after.outputs == [after.inputs[0]] * 2
