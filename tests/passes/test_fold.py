"""Folding into weights: every rule fires where it may, declines with its reason where not, and keeps the numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from temper.ir.graph import Value
from temper.passes.fold import FOLD, FOLD_RULES
from tests.passes.nets import Net, applied, assert_text, check, ops, text_graph


def conv(net: Net, kind: str, bias: bool, group: int = 1) -> Value:
    x = net.input(2, 4, 5, 6)
    attrs: dict[str, Any] = {"strides": (2, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "group": group}
    if kind == "Conv":
        w = net.weights(6, 4 // group, 3, 3)
    else:
        w = net.weights(4, 6 // group, 3, 3)
        attrs["output_padding"] = (1, 0)
    return net(kind, x, w, *([net.weights(6)] if bias else []), **attrs)


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("shape", [(6, 1, 1), (1, 6, 1, 1), (), (1,), (1, 1, 1, 1)])
def test_arithmetic_after_a_convolution(kind: str, bias: bool, group: int, shape: tuple[int, ...]) -> None:
    for op in ("Mul", "Add", "Sub", "Div"):
        net = Net()
        c = net.const(np.abs(net.rng.standard_normal(shape)).astype(np.float32) + 0.5)
        after, log = check(net.done(net(op, conv(net, kind, bias, group), c)), (FOLD,))
        assert ops(after) == [kind] and applied(log) == {f"{kind.lower()}-{op.lower()}"}


@pytest.mark.parametrize("kind", ["Conv", "ConvTranspose"])
def test_batch_norm_disappears(kind: str) -> None:
    net = Net()
    y = conv(net, kind, True)
    parameters = [net.weights(6), net.weights(6), net.weights(6), net.const(np.linspace(0.1, 2, 6, dtype=np.float32))]
    after, log = check(net.done(net("BatchNormalization", y, *parameters, epsilon=1e-3)), (FOLD,))
    assert ops(after) == [kind] and "batchnorm-to-affine" in applied(log)


@pytest.mark.parametrize("rank", [2, 3, 4])
def test_batch_norm_alone_is_affine(rank: int) -> None:
    net = Net()
    x = net.input(2, 5, 3, 4) if rank == 4 else net.input(2, 5, 3) if rank == 3 else net.input(2, 5)
    variance = net.const(np.ones(5, np.float32))
    y = net("BatchNormalization", x, net.weights(5), net.weights(5), net.weights(5), variance, epsilon=1e-5)
    after, _ = check(net.done(y), (FOLD,))
    assert ops(after) == ["Mul", "Add"]


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("bias", [True, False])
def test_scale_before_a_convolution(group: int, bias: bool) -> None:
    net = Net()
    x = net("Mul", net.input(2, 4, 5, 6), net.weights(4, 1, 1))
    after, log = check(net.done(net.conv(x, 8, 3, group=group, bias=bias)), (FOLD,))
    assert ops(after) == ["Conv"] and applied(log) == {"scale-conv"}


@pytest.mark.parametrize("bias", [True, False])
def test_zero_padding(bias: bool) -> None:
    net = Net()
    x = net("Pad", net.input(2, 4, 5, 6), pads=(0, 0, 1, 2, 0, 0, 3, 0))
    after, log = check(net.done(net.conv(x, 8, 3, bias=bias)), (FOLD,))
    assert ops(after) == ["Conv"] and applied(log) == {"pad-conv"}
    assert after.nodes[0].attrs["pads"] == (2, 3, 4, 1)


@pytest.mark.parametrize("attrs", [{}, {"pad": 1, "count_include_pad": 1}])
def test_zero_padding_of_an_average(attrs: dict[str, int]) -> None:
    net = Net()
    x = net("Pad", net.input(2, 4, 5, 6), pads=(0, 0, 1, 2, 0, 0, 1, 0))
    after, log = check(net.done(net.pool(x, "AveragePool", 3, 2, **attrs)), (FOLD,))
    assert ops(after) == ["AveragePool"] and applied(log) == {"pad-pool"}


@pytest.mark.parametrize("shape", [(5,), (1, 5), (), (1,)])
def test_scale_after_a_matrix_product(shape: tuple[int, ...]) -> None:
    net = Net()
    y = net("Mul", net("MatMul", net.input(3, 4), net.weights(4, 5)), net.weights(*shape))
    after, log = check(net.done(y), (FOLD,))
    assert ops(after) == ["MatMul"] and applied(log) == {"matmul-mul"}


def _declined(net: Net, y: Value, *others: Value) -> set[str]:
    graph = net.done(y, *others)
    after, log = check(graph, (FOLD,))
    assert sorted(ops(after)) == sorted(ops(graph))
    return {reason for _, _, reason in log.declined}


def test_declines_with_a_reason() -> None:
    net = Net()
    y = conv(net, "Conv", True)
    assert _declined(net, net("Mul", y, net.weights(6, 1, 1)), y) == {f"{y!r} is an output of the model"}
    net = Net()
    y = conv(net, "Conv", True)
    twice = _declined(net, net("Mul", y, net.weights(6, 1, 1)), net("Relu", y))
    assert any("has 2 readers" in r for r in twice)
    net = Net()
    (reason,) = _declined(net, net("Add", conv(net, "Conv", True), net.weights(3, 6)))
    assert reason.endswith("is not one number per output channel")
    net = Net()
    padded = net("Pad", net.input(2, 4, 5, 6), pads=(0, 0, 1, 1, 0, 0, 1, 1), value=1.0)
    assert _declined(net, net.conv(padded, 4, 3)) == {"it does not pad with zeros"}
    net = Net()
    padded = net("Pad", net.input(2, 3, 5, 6), pads=(0, 1, 1, 1, 0, 0, 1, 1))
    assert _declined(net, net.conv(padded, 4, 3)) == {"it pads the batch or the channels"}
    net = Net()
    padded = net("Pad", net.input(2, 4, 5, 6), pads=(0, 0, 1, 1, 0, 0, -1, 1))
    assert _declined(net, net.conv(padded, 4, 3)) == {"it crops, or its widths are not known"}
    net = Net()
    padded = net("Pad", net.input(2, 4, 5, 6), pads=(0, 0, 1, 1, 0, 0, 1, 1))
    assert _declined(net, net.pool(padded, "AveragePool", 3, 2, 1)) == {
        "the pool has pads of its own that do not count"
    }
    net = Net()
    padded = net("Pad", net.input(2, 4, 6, 6), pads=(0, 0, 1, 1, 0, 0, 1, 1))
    assert _declined(net, net.pool(padded, "AveragePool", 3, 2, ceil_mode=1)) == {
        "with ceil_mode the last window would count fewer elements"
    }
    net = Net()
    y = net(
        "Conv", net.input(1, 2, 4, 4), net.input(3, 2, 1, 1, name="w"), strides=(1, 1), pads=(0,) * 4, dilations=(1, 1)
    )
    assert _declined(net, net("Mul", y, net.weights(3, 1, 1))) == {"its weights are not constants"}
    net = Net()
    product = net("MatMul", net.input(3, 4), net.weights(4, 1))
    assert "the scaling also broadcasts the product" in _declined(net, net("Mul", product, net.weights(1, 1, 1)))


def test_a_broadcasting_factor_of_a_one_channel_convolution_stays() -> None:
    net = Net()
    y = net.conv(net.input(2, 4, 5, 6), 1)
    check(net.done(net("Mul", y, net.weights(6, 1, 1))), (FOLD,))


def test_text_before_and_after() -> None:
    attrs = "channels_last=0, dilations=(1, 1), group=1, pads=(0, 0, 0, 0), strides=(1, 1)"
    graph = text_graph(f"""
        input %x: float32[1, 2, 4, 4]
        %w: float32[2, 2, 1, 1] = const [1.0, 2.0, 3.0, 4.0]
        %s: float32[2, 1, 1] = const [2.0, 0.5]
        %t: float32[2, 1, 1] = const [1.0, -1.0]
        %a: float32[1, 2, 4, 4] = Conv(%x, %w) {{{attrs}}}
        %b: float32[1, 2, 4, 4] = Mul(%a, %s)
        %y: float32[1, 2, 4, 4] = Add(%t, %b)
        output %y "y"
    """)
    after, _ = check(graph, (FOLD,))
    assert_text(
        after,
        f"""
        input %x: float32[1, 2, 4, 4]
        %w: float32[2, 2, 1, 1] = const [2.0, 4.0, 1.5, 2.0]
        %b: float32[2] = const [1.0, -1.0]
        %y: float32[1, 2, 4, 4] = Conv(%x, %w, %b) {{{attrs}}}
        output %y "y"
    """,
    )


def test_every_rule_has_its_algebra_written_down() -> None:
    assert all(r.rewrite.__doc__ and "=" in r.rewrite.__doc__ or r.name == "pad-pool" for r in FOLD_RULES)
