"""Idioms: activations written out in primitive ops, in every spelling exporters use, become one op."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from temper.ir.graph import Value
from temper.passes.idioms import IDIOMS
from tests.passes.nets import Net, applied, assert_text, check, ops, text_graph

Build = Callable[[Net, Value], Value]


def shifted(net: Net, x: Value) -> Value:
    return net("Clip", net("Add", x, net.const(3.0)), min=0.0, max=6.0)


def shifted_by_min(net: Net, x: Value) -> Value:
    return net("Min", net("Relu", net("Add", net.const(3.0), x)), net.const(6.0))


def erf(net: Net, x: Value) -> Value:
    return net("Add", net("Erf", net("Div", x, net.const(np.sqrt(2.0)))), net.const(1.0))


def erf_mul(net: Net, x: Value) -> Value:
    return net("Add", net("Erf", net("Mul", x, net.const(0.70710677))), net.const(1.0))


#: (rule, op it becomes, expression)
CASES: list[tuple[str, str, Build]] = [
    ("silu", "Silu", lambda n, x: n("Mul", x, n("Sigmoid", x))),
    ("silu", "Silu", lambda n, x: n("Mul", n("Sigmoid", x), x)),
    ("mish", "Mish", lambda n, x: n("Mul", x, n("Tanh", n("Softplus", x)))),
    ("relu6", "Clip", lambda n, x: n("Min", n("Relu", x), n.const(6.0))),
    ("softsign", "Softsign", lambda n, x: n("Div", x, n("Add", n("Abs", x), n.const(1.0)))),
    ("hard-swish", "HardSwish", lambda n, x: n("Mul", x, n("HardSigmoid", x, alpha=1 / 6, beta=0.5))),
]
for clip in (shifted, shifted_by_min):
    CASES += [
        ("hard-sigmoid", "HardSigmoid", lambda n, x, c=clip: n("Div", c(n, x), n.const(6.0))),
        ("hard-sigmoid", "HardSigmoid", lambda n, x, c=clip: n("Mul", c(n, x), n.const(0.16666667))),
        ("hard-swish", "HardSwish", lambda n, x, c=clip: n("Mul", x, n("Div", c(n, x), n.const(6.0)))),
        ("hard-swish", "HardSwish", lambda n, x, c=clip: n("Mul", n("Mul", n.const(0.16667), c(n, x)), x)),
        ("hard-swish", "HardSwish", lambda n, x, c=clip: n("Div", n("Mul", x, c(n, x)), n.const(6.0))),
        ("hard-swish", "HardSwish", lambda n, x, c=clip: n("Mul", n("Mul", x, c(n, x)), n.const(1 / 6))),
        ("hard-swish", "HardSwish", lambda n, x, c=clip: n("Mul", n("Mul", x, n.const(1 / 6)), c(n, x))),
    ]
for inner in (erf, erf_mul):
    CASES += [
        ("gelu", "Gelu", lambda n, x, e=inner: n("Mul", n("Mul", x, e(n, x)), n.const(0.5))),
        ("gelu", "Gelu", lambda n, x, e=inner: n("Mul", n("Mul", x, n.const(0.5)), e(n, x))),
        ("gelu", "Gelu", lambda n, x, e=inner: n("Mul", x, n("Mul", e(n, x), n.const(0.5)))),
    ]


@pytest.mark.parametrize("case", range(len(CASES)))
def test_spelling(case: int) -> None:
    rule, op, build = CASES[case]
    net = Net()
    x = net.input(3, 50)
    wide = net("Mul", x, net.const(4.0))
    after, log = check(net.done(build(net, wide)), (IDIOMS,), tolerance=2e-4)
    assert rule in applied(log) and ops(after) == ["Mul", op]


@pytest.mark.parametrize(
    "build",
    [
        lambda n, x: n("Mul", x, n("Sigmoid", n("Relu", x))),
        lambda n, x: n("Mul", x, n("Div", n("Clip", n("Add", x, n.const(3.0)), min=0.0, max=5.0), n.const(6.0))),
        lambda n, x: n("Mul", x, n("HardSigmoid", x)),
        lambda n, x: n("Min", n("Relu", x), n.const([6.0, 5.0])),
        lambda n, x: n("Mul", n("Mul", x, erf(n, x)), n.const(0.6)),
        lambda n, x: n("Div", n("Add", n("Abs", x), n.const(1.0)), x),
    ],
)
def test_near_misses_stay(build: Build) -> None:
    net = Net()
    graph = net.done(build(net, net.input(3, 2)))
    after, _ = check(graph, (IDIOMS,))
    assert sorted(ops(after)) == sorted(ops(graph))


def test_a_constant_that_broadcasts_is_not_a_scalar() -> None:
    """relu6 with a vector of sixes gives a wider result than its input: the types differ."""
    net = Net()
    check(net.done(net("Min", net("Relu", net.input(3, 1)), net.const([6.0, 6.0]))), (IDIOMS,))


def test_parts_that_others_read_stay() -> None:
    net = Net()
    x = net.input(2, 3)
    gate = net("Sigmoid", x)
    after, _ = check(net.done(net("Mul", x, gate), gate), (IDIOMS,))
    assert sorted(ops(after)) == ["Sigmoid", "Silu"]


def test_text_before_and_after() -> None:
    graph = text_graph("""
        input %x: float32[2, 3]
        %s: float32[2, 3] = Sigmoid(%x)
        %y: float32[2, 3] = Mul(%s, %x)
        output %y "y"
    """)
    after, _ = check(graph, (IDIOMS,))
    assert_text(
        after,
        """
        input %x: float32[2, 3]
        %y: float32[2, 3] = Silu(%x) {alpha=1.0}
        output %y "y"
    """,
    )
    assert after.nodes[0].origin[-1] == "rule:silu"
