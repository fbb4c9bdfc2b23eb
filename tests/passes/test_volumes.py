"""Windows over volumes keep their numbers as windows over planes, and leave programs fused behind them."""

from __future__ import annotations

import pytest

from temper.ir.dims import Dim
from temper.passes.cleanup import CLEANUP
from temper.passes.layout import LAYOUT
from temper.passes.lower import LOWER
from temper.passes.manager import Log
from temper.passes.partition import partition
from temper.passes.views import SINK_VIEWS
from temper.passes.volumes import PLANES
from tests.passes.nets import Net, applied, check, ops

N = Dim.symbol("N")


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("stride, dilation, pad", [(1, 1, 1), (2, 1, 0), (1, 2, 2)])
def test_convolution(group: int, stride: int, dilation: int, pad: int) -> None:
    net = Net()
    y = net.conv(net.input(N, 4, 6, 5, 7), 8, 3, stride=stride, dilation=dilation, pad=pad, group=group)
    after, _ = check(net.done(y), (LAYOUT, LOWER), {"N": 2})
    convolutions = [n for n in after.nodes if n.op == "Conv"]
    assert {n.output.type.rank for n in convolutions} == {4}
    assert len(convolutions) == (3 if group == 4 else 1)


def test_window_that_lies_in_the_padding() -> None:
    net = Net()
    y = net.conv(net.input(1, 2, 2, 4, 4), 3, 3, dilation=5, pad=5)
    check(net.done(y), (LAYOUT, LOWER))


def test_planes_at_stride_1_are_copied_once() -> None:
    net = Net()
    after, _ = check(net.done(net.conv(net.input(1, 4, 5, 6, 6), 8, 3)), (LAYOUT, LOWER))
    assert ops(after).count("Pad") == 2 and "Slice" not in ops(after)


def test_four_spatial_axes() -> None:
    net = Net()
    after, _ = check(net.done(net.conv(net.input(1, 2, 3, 4, 3, 5), 3, 3)), (LAYOUT, LOWER))
    assert {n.output.type.rank for n in after.nodes if n.op == "Conv"} == {4}


def test_weights_that_are_data() -> None:
    net = Net()
    x, w = net.input(2, 4, 3, 4, 5), net.input(6, 2, 2, 3, 3, name="w")
    y = net("Conv", x, w, strides=(1, 1, 2), pads=(0, 1, 1, 1, 1, 1), dilations=(1, 1, 1), group=2)
    check(net.done(y), (LAYOUT, LOWER))


@pytest.mark.parametrize("ceil_mode", [0, 1])
@pytest.mark.parametrize("include", [0, 1])
def test_pools(ceil_mode: int, include: int) -> None:
    net = Net()
    x = net.input(N, 3, 6, 5, 7)
    y = net.pool(x, "AveragePool", 3, 2, 1, ceil_mode=ceil_mode, count_include_pad=include)
    z = net.pool(x, "MaxPool", 3, 2, 1, ceil_mode=ceil_mode)
    after, _ = check(net.done(y, z), (LAYOUT, LOWER), {"N": 2})
    assert {n.output.type.rank for n in after.nodes if n.op.endswith("Pool")} == {4}


@pytest.mark.parametrize("stride, dilation, pad", [(1, 1, 1), (2, 1, 0), (1, 2, 2)])
def test_depth_known_at_run_time_only(stride: int, dilation: int, pad: int) -> None:
    net = Net()
    x = net.input(1, 2, Dim.symbol("D"), Dim.symbol("H"), 6)
    y = net.conv(x, 3, 3, stride=stride, dilation=dilation, pad=pad)
    after, _ = check(net.done(y), (LAYOUT, LOWER), {"D": 7, "H": 6})
    assert {n.output.type.rank for n in after.nodes if n.op == "Conv"} == {4}


def test_pool_of_an_image_by_another_name_is_a_pool_of_the_image() -> None:
    net = Net()
    x = net.conv(net.input(N, 3, 9, 11), 8)
    volume = net("Reshape", x, shape=(1, N, 8, 9, 11))
    attrs = {"kernel_shape": (1, 3, 3), "strides": (2, 1, 2), "pads": (0,) * 6, "dilations": (1, 1, 1)}
    pooled = net("MaxPool", volume, **attrs)
    y = net.conv(net("Reshape", pooled, shape=(N, 4, 7, 5)), 2)
    after, log = check(net.done(y), (PLANES, CLEANUP, LAYOUT, LOWER), {"N": 2})
    assert "pool of planes" in applied(log)
    assert ops(after).count("MaxPool") == 1 and ops(after).count("Transpose") == 2  # at the edges


def test_program_runs_behind_the_convolution() -> None:
    net = Net()
    x = net.input(N, 4, 3, 5, 6)
    y = net("Relu", net.conv(x, 4, 3))
    z = net("Relu", net("Add", net.conv(y, 4, 3), x))
    scaled = net("Mul", z, net.weights(4, 1, 1, 1))
    after, log = check(net.done(scaled), (LAYOUT, LOWER, SINK_VIEWS), {"N": 2})
    assert "sink view" in applied(log)
    assert all(r.anchor is not None for r in partition(after, Log()))


def test_operand_broadcast_over_planes_keeps_the_view() -> None:
    net = Net()
    y = net("Add", net.conv(net.input(2, 4, 3, 5, 6), 4, 3), net.input(1, 1, 3, 1, 1, name="y"))
    _, log = check(net.done(y), (LAYOUT, LOWER, SINK_VIEWS))
    assert any("is broadcast" in reason for rule, _, reason in log.declined if rule == "sink view")
