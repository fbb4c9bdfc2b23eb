"""Squeeze-excite: every spelling becomes one op, anything else stays and says why."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from temper.ir.dims import Dim
from temper.ir.graph import Value
from temper.passes.layout import LAYOUT
from temper.passes.squeeze_excite import SQUEEZE_EXCITE
from tests.passes.nets import Net, applied, check, ops


def mean(net: Net, x: Value, keep: int = 1) -> Value:
    return net("ReduceMean", x, axes=(2, 3), keepdims=keep)


def convolutions(net: Net, x: Value, bias: bool = True, act: str = "Silu", gate: str = "Sigmoid") -> Value:
    h = net(act, net.conv(mean(net, x), 4, bias=bias))
    return net("Mul", x, net(gate, net.conv(h, 10, bias=bias)))


def products(net: Net, x: Value, bias: bool = True, trans: int = 0, keep: int = 0) -> Value:
    flat = mean(net, x, keep)
    if keep:
        flat = net("Reshape", flat, shape=(flat.type.shape[0], 10))

    def dense(v: Value, a: int, b: int) -> Value:
        w = net.weights(*((b, a) if trans else (a, b)))
        y = net("MatMul", v, w, transA=0, transB=trans)
        return net("Add", net.weights(b), y) if bias else y

    g = net("Sigmoid", dense(net("Relu", dense(flat, 10, 4)), 4, 10))
    return net("Mul", net("Reshape", g, shape=(flat.type.shape[0], 10, 1, 1)), x)


SPELLINGS: list[Callable[[Net, Value], Value]] = [
    convolutions,
    lambda n, x: convolutions(n, x, bias=False),
    lambda n, x: convolutions(n, x, act="HardSwish", gate="HardSigmoid"),
    products,
    lambda n, x: products(n, x, bias=False),
    lambda n, x: products(n, x, trans=1),
    lambda n, x: products(n, x, keep=1),
]


@pytest.mark.parametrize("batch", [2, Dim.symbol("N")])
@pytest.mark.parametrize("case", range(len(SPELLINGS)))
def test_spelling(case: int, batch: int | Dim) -> None:
    net = Net()
    x = net.input(batch, 10, 6, 7)
    graph = net.done(SPELLINGS[case](net, x))
    after, log = check(graph, (SQUEEZE_EXCITE, LAYOUT), {"N": 3}, tolerance=1e-5)
    assert "squeeze-excite" in applied(log)
    left = [o for o in ops(after) if o not in ("Transpose", "Reshape")]
    assert sorted(left) == ["Mul", "SqueezeExcite"]


def wide(net: Net, x: Value) -> Value:
    h = net("Relu", net.conv(mean(net, x), 4))
    return net("Mul", x, net("Sigmoid", net.conv(h, 10, 3)))


def read_twice(net: Net, x: Value) -> Value:
    h = net("Relu", net.conv(mean(net, x), 10))
    return net("Add", net("Mul", x, net("Sigmoid", net.conv(h, 10))), h)


def over_channels(net: Net, x: Value) -> Value:
    h = net("Relu", net.conv(net("ReduceMean", x, axes=(1, 2), keepdims=1), 4, 1))
    return net("Sigmoid", net.conv(h, 10))


def other_activation(net: Net, x: Value) -> Value:
    return convolutions(net, x, act="Tanh")


def no_mean(net: Net, x: Value) -> Value:
    h = net("Relu", net.conv(net("ReduceMax", x, axes=(2, 3), keepdims=1), 4))
    return net("Mul", x, net("Sigmoid", net.conv(h, 10)))


@pytest.mark.parametrize(
    ("build", "reason"),
    [
        (wide, "not a 1x1 convolution"),
        (read_twice, "readers"),
        (other_activation, "not an activation"),
        (no_mean, "not by ReduceMean"),
        (over_channels, "not a 1x1 convolution of one pixel"),
        (lambda n, x: n("Mul", x, n("Sigmoid", x)), "not by a convolution"),
    ],
)
def test_declines(build: Callable[[Net, Value], Value], reason: str) -> None:
    net = Net()
    x = net.input(2, 10, 6, 7)
    after, log = check(net.done(build(net, x)), (SQUEEZE_EXCITE,))
    assert "squeeze-excite" not in applied(log) and "SqueezeExcite" not in ops(after)
    assert any(rule == "squeeze-excite" and reason in why for rule, _, why in log.declined), log.declined
