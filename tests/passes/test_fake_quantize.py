"""Quantization written in float arithmetic: every way of writing it becomes Q/DQ with the same numbers, what is none
stays, and products of it run as integers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from temper.builder import build_plan
from temper.config import BuildConfig
from temper.ir.evaluate import evaluate
from temper.ir.graph import Value
from temper.passes.fake_quantize import FAKE_QUANTIZE, NAME
from temper.passes.manager import run_passes
from temper.runtime.engine import Engine
from tests.passes.nets import Net, check, ops

S = 0.047  # scale of the data


def div_round_clip_mul(n: Net, x: Value, low: int = -128, high: int = 127) -> Value:
    """As quantizers with a learned step write it (LSQ)."""
    return n("Mul", n("Clip", n("Round", n("Div", x, n.const(S))), min=float(low), max=float(high)), n.const(S))


def clip_first(n: Net, x: Value) -> Value:
    u = n("Clip", n("Mul", x, n.const(1 / S)), min=-128.0, max=127.0)
    return n("Mul", n("Round", u), n.const(S))


def zero_point(n: Net, x: Value) -> Value:
    """PyTorch's fake_quantize in parts."""
    q = n("Clip", n("Add", n("Round", n("Div", x, n.const(S))), n.const(37.0)), min=0.0, max=255.0)
    return n("Mul", n("Sub", q, n.const(37.0)), n.const(S))


def tensorflow(n: Net, x: Value) -> Value:
    """Clipped to a range that holds zero, counted from its lower end, rounded by floor(u + 1/2)."""
    low = np.float32(-37 * S)
    u = n("Sub", n("Clip", x, min=float(low), max=float(low + 255 * S)), n.const(low))
    codes = n("Floor", n("Add", n("Div", u, n.const(S)), n.const(0.5)))
    return n("Add", n("Mul", codes, n.const(S)), n.const(low))


def min_and_max(n: Net, x: Value) -> Value:
    u = n("Max", n("Min", n("Div", x, n.const(S)), n.const(127.0)), n.const(-128.0))
    return n("Mul", n("Round", u), n.const(S))


def rectified(n: Net, x: Value) -> Value:
    u = n("Min", n("Div", n("Relu", x), n.const(S)), n.const(255.0))
    return n("Mul", n("Round", u), n.const(S))


def straight_through(n: Net, x: Value) -> Value:
    """u + (round(u) - u)"""
    u = n("Clip", n("Div", x, n.const(S)), min=-128.0, max=127.0)
    return n("Mul", n("Add", u, n("Sub", n("Round", u), u)), n.const(S))


def computed_scale(n: Net, x: Value) -> Value:
    """The scale from learned ends of the range."""
    s = n("Div", n("Sub", n.const(128 * S), n.const(-127 * S)), n.const(255.0))
    return n("Mul", n("Round", n("Clip", n("Div", x, s), min=-128.0, max=127.0)), s)


@pytest.mark.parametrize(
    "write",
    [
        div_round_clip_mul, clip_first, zero_point, tensorflow, min_and_max, rectified, straight_through,
        computed_scale,
    ],
)  # fmt: skip
def test_ways_to_write_it(write: Callable[[Net, Value], Value]) -> None:
    n = Net()
    # beyond the range on both sides
    x = n("Mul", n.input(4, 500), n.const(5.0))
    after, _ = check(n.done(write(n, x)), [FAKE_QUANTIZE])
    assert ops(after) == ["Mul", "QuantizeLinear", "DequantizeLinear"]


def test_fewer_codes_are_clipped_to() -> None:
    """4 bits, and the symmetric range without -128."""
    for low, high in ((-8, 7), (-127, 127), (0, 15)):
        n = Net()
        x = n("Mul", n.input(4, 500), n.const(5.0))
        after, _ = check(n.done(div_round_clip_mul(n, x, low, high)), [FAKE_QUANTIZE])
        assert ops(after) == ["Mul", "Clip", "QuantizeLinear", "DequantizeLinear"]


def test_weights_get_codes() -> None:
    """A scale for each channel, and codes without -128."""
    n = Net()
    scales = n.const(n.rng.uniform(0.004, 0.01, (8, 1, 1, 1)).astype(np.float32))
    q = n("Clip", n("Round", n("Div", n.weights(8, 3, 3, 3), scales)), min=-127.0, max=127.0)
    x = div_round_clip_mul(n, n.input(1, 3, 6, 6))
    y = n("Conv", x, n("Mul", q, scales), strides=(1, 1), pads=(1,) * 4, dilations=(1, 1), group=1)
    after, log = check(n.done(y), [FAKE_QUANTIZE])
    assert sorted(ops(after)) == ["Conv", "DequantizeLinear", "DequantizeLinear", "QuantizeLinear"]
    assert [rule for rule, _ in log.applied].count(NAME) == 2
    w = next(m for m in after.nodes if m.op == "Conv").inputs[1]
    assert w is not None and w.producer is not None
    codes = w.producer.inputs[0]
    assert codes is not None and codes.const is not None and codes.const.dtype == np.int8
    assert w.producer.attrs["axis"] == 0 and codes.const.min() == -127


def _told(write: Callable[[Net, Value], Value]) -> list[str]:
    n = Net()
    graph = n.done(write(n, n.input(4, 50)))
    before = ops(graph)
    log = run_passes(graph, [FAKE_QUANTIZE])
    assert ops(graph) == before
    return [reason for rule, _, reason in log.declined if rule == NAME]


def test_what_is_none_stays() -> None:
    def unbounded(n: Net, x: Value) -> Value:
        return n("Mul", n("Round", n("Div", x, n.const(S))), n.const(S))

    def other_scale(n: Net, x: Value) -> Value:
        return n("Mul", n("Clip", n("Round", n("Div", x, n.const(S))), min=-128.0, max=127.0), n.const(2 * S))

    def plain(n: Net, x: Value) -> Value:
        return n("Floor", n("Mul", x, n.const(3.0)))

    def pixels(n: Net, x: Value) -> Value:
        return n("Clip", n("Round", x), min=0.0, max=255.0)

    for write in (unbounded, other_scale, plain, pixels):
        assert _told(write) == []


def test_reasons() -> None:
    assert _told(lambda n, x: div_round_clip_mul(n, x, -512, 511)) == [
        "codes of -512 to 511 do not fit 8 bits with a code for zero"
    ]

    def between(n: Net, x: Value) -> Value:
        u = n("Sub", n("Clip", x, min=-1.01, max=-1.01 + 255 * S), n.const(-1.01))
        return n("Add", n("Mul", n("Round", n("Div", u, n.const(S))), n.const(S)), n.const(-1.01))

    assert _told(between) == ["zero lies between two codes"]

    def channels(n: Net, x: Value) -> Value:
        s = n.const(n.rng.uniform(0.01, 0.02, 50).astype(np.float32))
        return n("Mul", n("Clip", n("Round", n("Div", x, s)), min=-128.0, max=127.0), s)

    assert _told(channels) == ["a tensor that is computed has a scale for each of several indices"]


def test_products_run_as_integers(timing_cache: Path) -> None:
    """Two layers as training with quantization exports them: both convolutions compute with codes."""
    n = Net(3)
    x = n.input(1, 3, 10, 10)
    want = 0
    for features in (16, 8):
        scales = n.const(n.rng.uniform(0.004, 0.01, (features, 1, 1, 1)).astype(np.float32))
        channels = x.type.shape[1]
        assert isinstance(channels, int)
        raw = n("Clip", n("Round", n("Div", n.weights(features, channels, 3, 3), scales)), min=-127.0, max=127.0)
        x = n("Conv", zero_point(n, x), n("Mul", raw, scales), strides=(1, 1), pads=(1,) * 4, dilations=(1, 1), group=1)
        want += 1
    graph = n.done(x)
    data = {"x": np.random.default_rng(1).standard_normal((1, 3, 10, 10)).astype(np.float32)}
    exact = evaluate(graph, data)[0]
    plan = build_plan(graph.copy(), BuildConfig(threads=1, effort=0, cache=timing_cache)).plan
    assert [r["op"] for r in plan.report["regions"]].count("ConvInt8") == want
    got = Engine(plan).run(data)[0]
    # the second layer's data may differ by codes where the first layer's sums end in the middle of two
    assert np.abs(got - exact).max() <= 0.05 * np.abs(exact).max()
    assert np.abs(got - exact).mean() <= 1e-3 * np.abs(exact).max()

