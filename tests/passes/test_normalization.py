"""Normalisations and the tanh form of GELU: every spelling becomes one op; what only looks like one stays."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from temper.ir.dims import Dim
from temper.ir.graph import Value
from temper.passes.cleanup import CLEANUP
from temper.passes.normalization import NORMALIZATION
from tests.passes.nets import Net, applied, assert_text, check, ops, text_graph

Spelling = Callable[[Net, Value, Value], Value]


def square_pow(n: Net, x: Value) -> Value:
    return n("Pow", x, n.const(2.0))


def square_mul(n: Net, x: Value) -> Value:
    return n("Mul", x, x)


def over_div(n: Net, x: Value, v: Value) -> Value:
    return n("Div", x, n("Sqrt", v))


def over_reciprocal(n: Net, x: Value, v: Value) -> Value:
    return n("Mul", n("Reciprocal", n("Sqrt", v)), x)


def over_one(n: Net, x: Value, v: Value) -> Value:
    return n("Mul", x, n("Div", n.const(1.0), n("Sqrt", v)))


def over_power(n: Net, x: Value, v: Value) -> Value:
    return n("Mul", x, n("Pow", v, n.const(-0.5)))


OVERS: list[Spelling] = [over_div, over_reciprocal, over_one, over_power]


def variance(
    n: Net, d: Value, square: Callable[[Net, Value], Value], axes: tuple[int, ...] = (-1,), eps: float = 1e-5
) -> Value:
    return n("Add", n("ReduceMean", square(n, d), axes=axes, keepdims=1), n.const(eps))


@pytest.mark.parametrize("axes", [(-1,), (2,), (1, 2)])
@pytest.mark.parametrize("square", [square_pow, square_mul])
@pytest.mark.parametrize("over", OVERS)
def test_layer_norm(over: Spelling, square: Callable[[Net, Value], Value], axes: tuple[int, ...]) -> None:
    n = Net()
    x = n.input(Dim.symbol("N"), 5, 24)
    d = n("Sub", x, n("ReduceMean", x, axes=axes, keepdims=1))
    y = n("Add", n("Mul", n.weights(24), over(n, d, variance(n, d, square, axes))), n.weights(24))
    after, log = check(n.done(y), (NORMALIZATION,), {"N": 3})
    assert ops(after) == ["LayerNormalization"]
    assert {"layer-norm", "norm-scale", "norm-bias"} <= applied(log)
    assert after.nodes[0].attrs["epsilon"] == pytest.approx(1e-5)


@pytest.mark.parametrize("square", [square_pow, square_mul])
@pytest.mark.parametrize("over", OVERS)
def test_rms_norm(over: Spelling, square: Callable[[Net, Value], Value]) -> None:
    n = Net()
    x = n.input(2, 5, 24)
    after, log = check(n.done(n("Mul", n.weights(24), over(n, x, variance(n, x, square, eps=1e-6)))), (NORMALIZATION,))
    assert ops(after) == ["RMSNormalization"] and {"rms-norm", "norm-scale"} <= applied(log)


def test_centred_twice_is_merged_first() -> None:
    n = Net()
    x = n.input(2, 24)
    mean = n("ReduceMean", x, axes=(-1,), keepdims=1)
    y = over_div(n, n("Sub", x, mean), variance(n, n("Sub", x, mean), square_pow))
    after, _ = check(n.done(n("Add", n("Mul", y, n.weights(24)), n.weights(24))), (CLEANUP, NORMALIZATION))
    assert ops(after) == ["LayerNormalization"]


@pytest.mark.parametrize("square", [square_pow, square_mul])
def test_layer_norm_multiplied_out(square: Callable[[Net, Value], Value]) -> None:
    n = Net()
    x = n.input(2, 5, 24)
    mean = n("ReduceMean", x, axes=(2,), keepdims=1)
    f = n("Mul", n("Reciprocal", n("Sqrt", variance(n, n("Sub", x, mean), square, (2,), 1e-3))), n.weights(24))
    y = n("Add", n("Mul", x, f), n("Sub", n.weights(24), n("Mul", mean, f)))
    after, _ = check(n.done(y), (NORMALIZATION,))
    assert ops(after) == ["LayerNormalization"]


def test_not_the_last_axis() -> None:
    n = Net()
    x = n.input(2, 5, 24)
    d = n("Sub", x, n("ReduceMean", x, axes=(1,), keepdims=1))
    after, log = check(n.done(over_div(n, d, variance(n, d, square_pow, (1,)))), (NORMALIZATION,))
    assert "LayerNormalization" not in ops(after)
    assert any("last axes" in reason for _, _, reason in log.declined)


def test_a_factor_per_row_stays_outside() -> None:
    n = Net()
    x = n.input(2, 5, 24)
    after, _ = check(n.done(n("Mul", over_div(n, x, variance(n, x, square_mul)), n.weights(5, 1))), (NORMALIZATION,))
    assert ops(after) == ["RMSNormalization", "Mul"]


def test_a_norm_that_others_read_keeps_its_scale() -> None:
    n = Net()
    x = n.input(2, 24)
    y = n("LayerNormalization", x, n.weights(24))
    after, _ = check(n.done(n("Add", y, n.weights(24)), y), (NORMALIZATION,))
    assert ops(after) == ["LayerNormalization", "Add"]


def cube_pow(n: Net, x: Value) -> Value:
    return n("Add", x, n("Mul", n("Pow", x, n.const(3.0)), n.const(0.044715)))


def cube_mul(n: Net, x: Value) -> Value:
    return n("Add", n("Mul", n.const(0.044715), n("Mul", x, n("Mul", x, x))), x)


def cube_spread(n: Net, x: Value) -> Value:
    return n("Mul", x, n("Add", n.const(1.0), n("Mul", n("Mul", x, n.const(0.044715)), x)))


def cube_from_the_left(n: Net, x: Value) -> Value:
    """As JAX writes x + c x^3."""
    return n("Add", x, n("Mul", x, n("Mul", x, n("Mul", n.const(0.044715), x))))


@pytest.mark.parametrize("inner", [cube_pow, cube_mul, cube_spread, cube_from_the_left])
@pytest.mark.parametrize("outer", range(3))
def test_gelu_tanh(inner: Callable[[Net, Value], Value], outer: int) -> None:
    n = Net()
    x = n.input(3, 40)
    t = n("Add", n("Tanh", n("Mul", inner(n, x), n.const(np.sqrt(2 / np.pi)))), n.const(1.0))
    half = n.const(0.5)
    y = (
        n("Mul", n("Mul", x, half), t)
        if outer == 0
        else n("Mul", n("Mul", x, t), half)
        if outer == 1
        else n("Mul", x, n("Mul", t, half))
    )
    after, _ = check(n.done(y), (NORMALIZATION,))
    assert ops(after) == ["Gelu"] and after.nodes[0].attrs["approximate"] == "tanh"


def test_text_before_and_after() -> None:
    graph = text_graph("""
        input %x: float32[2, 3]
        %two: float32[] = const [2.0]
        %eps: float32[] = const [0.5]
        %s: float32[2, 3] = Pow(%x, %two)
        %m: float32[2, 1] = ReduceMean(%s) {axes=(1,), keepdims=1}
        %v: float32[2, 1] = Add(%m, %eps)
        %r: float32[2, 1] = Sqrt(%v)
        %y: float32[2, 3] = Div(%x, %r)
        output %y "y"
    """)
    after, _ = check(graph, (NORMALIZATION,))
    assert_text(
        after,
        """
        input %x: float32[2, 3]
        %w: float32[3] = const [1.0, 1.0, 1.0]
        %y: float32[2, 3] = RMSNormalization(%x, %w) {axis=-1, epsilon=0.5}
        output %y "y"
    """,
    )
