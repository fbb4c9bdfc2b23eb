"""Lowering: every rule keeps the numbers, for odd geometries too, and declines with a reason what it cannot do."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

from temper.ir.dims import Dim
from temper.ir.graph import Graph
from temper.passes.layout import LAYOUT
from temper.passes.lower import LOWER
from temper.passes.phases import phase_axis
from tests.passes.nets import Net, applied, assert_text, check, ops, text_graph

N, H = Dim.symbol("N"), Dim.symbol("H")


@pytest.mark.parametrize("mode", ["DCR", "CRD"])
@pytest.mark.parametrize("passes", [(LOWER,), (LAYOUT, LOWER)])
def test_depth_to_space(mode: str, passes: Any) -> None:
    net = Net()
    y = net("DepthToSpace", net.input(N, 12, 3, H), blocksize=2, mode=mode)
    after, _ = check(net.done(y), passes, {"N": 2, "H": 5})
    assert "DepthToSpace" not in ops(after)


@pytest.mark.parametrize("passes", [(LOWER,), (LAYOUT, LOWER)])
def test_space_to_depth(passes: Any) -> None:
    net = Net()
    after, _ = check(net.done(net("SpaceToDepth", net.input(2, 3, 6, 4), blocksize=2)), passes)
    assert "SpaceToDepth" not in ops(after)


def test_pixel_shuffle_between_convolutions_is_one_transpose() -> None:
    net = Net()
    x = net.conv(net.input(1, 8, 6, 6), 12)
    y = net.conv(net("DepthToSpace", x, blocksize=2, mode="CRD"), 4, 3)
    after, _ = check(net.done(y), (LAYOUT, LOWER))
    assert ops(after).count("Transpose") == 3  # at the two edges, and the shuffle


@pytest.mark.parametrize("shape", [(7, 5), (2, N, 5)])
def test_transposed_left_operand_is_a_transpose(shape: tuple[Any, ...]) -> None:
    net = Net()
    a, b = net.input(*shape), net.input(*shape[:-1], 9, name="y")
    after, _ = check(net.done(net("MatMul", a, b, transA=1)), (LOWER,), {"N": 3} if len(shape) > 2 else {})
    assert ops(after) == ["Transpose", "MatMul"]
    assert not after.nodes[1].attrs["transA"]


def transposed(
    size: tuple[Any, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    pads: tuple[int, ...],
    *,
    group: int = 1,
    dilations: tuple[int, ...] | None = None,
    extra: tuple[int, ...] | None = None,
    channels: int = 4,
    each: int = 3,
    bias: bool = True,
) -> Graph:
    net = Net()
    x = net.input(2, channels, *size)
    rank = len(kernel)
    inputs = [x, net.weights(channels, each, *kernel), *([net.weights(each * group)] if bias else [])]
    y = net(
        "ConvTranspose",
        *inputs,
        strides=strides,
        pads=pads,
        dilations=dilations or (1,) * rank,
        group=group,
        output_padding=extra or (0,) * rank,
    )
    return net.done(y)


@pytest.mark.parametrize("kernel", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_conv_transpose_geometry(kernel: int, stride: int) -> None:
    for pads, extra in product([(0, 0), (1, 0), (0, 1), (1, 2), (2, 2)], range(stride)):
        reach = (5 - 1) * stride + extra + kernel - sum(pads)
        if reach < 1:
            continue
        graph = transposed((5, 4), (kernel, 2), (stride, 2), (pads[0], 0, pads[1], 0), extra=(extra, 0))
        after, log = check(graph, (LAYOUT, LOWER))
        assert "ConvTranspose" not in ops(after), log.declined


@pytest.mark.parametrize("group", [1, 2])
@pytest.mark.parametrize("bias", [True, False])
def test_conv_transpose_groups_ranks_and_dilations(group: int, bias: bool) -> None:
    for graph in (
        transposed((5,), (3,), (2,), (1, 1), group=group, bias=bias),
        transposed((5, 6), (3, 3), (1, 1), (1, 1, 1, 1), group=group, bias=bias, dilations=(2, 3)),
        transposed((3, 4, 2), (2, 3, 2), (2, 2, 1), (0, 1, 0, 0, 0, 1), group=group, bias=bias),
        transposed((4, 4), (3, 3), (1, 2), (0, 0, 0, 0), group=group, bias=bias, dilations=(2, 1)),
    ):
        after, _ = check(graph, (LAYOUT, LOWER))
        assert "ConvTranspose" not in ops(after)


def test_conv_transpose_symbolic() -> None:
    net = Net()
    y = net(
        "ConvTranspose",
        net.input(N, 3, H, 5),
        net.weights(3, 2, 4, 4),
        strides=(2, 2),
        pads=(1, 1, 1, 1),
        dilations=(1, 1),
        output_padding=(0, 0),
    )
    after, _ = check(net.done(y), (LAYOUT, LOWER), {"N": 2, "H": 7})
    assert "ConvTranspose" not in ops(after)


def test_conv_transpose_without_overlap_is_a_pointwise_convolution_and_one_transpose() -> None:
    after, _ = check(transposed((5, 6), (2, 2), (2, 2), (0, 0, 0, 0)), (LAYOUT, LOWER))
    conv = next(n for n in after.nodes if n.op == "Conv")
    assert conv.inputs[1] is not None and conv.inputs[1].type.shape == (1, 1, 4, 12)
    assert "Slice" not in ops(after)


def test_conv_transpose_declines() -> None:
    _, log = check(transposed((5, 5), (3, 3), (2, 2), (0, 0, 0, 0), dilations=(2, 2)), (LAYOUT, LOWER))
    assert "stride 2 with dilation 2 spreads the taps unevenly over the phases" in {r for _, _, r in log.declined}
    _, log = check(transposed((5, 5), (2, 2), (2, 2), (0, 0, 0, 0), group=4, each=1), (LAYOUT, LOWER))
    assert any(r.startswith("it is depthwise") for _, _, r in log.declined)
    net = Net()
    y = net(
        "ConvTranspose",
        net.input(1, 2, 3, 3),
        net.input(2, 2, 2, 2, name="w"),
        strides=(1, 1),
        pads=(0,) * 4,
        dilations=(1, 1),
        output_padding=(0, 0),
    )
    _, log = check(net.done(y), (LAYOUT, LOWER))
    assert "its weights are not constants" in {r for _, _, r in log.declined}
    assert phase_axis(3, 1, 1, -1, 0, 0) == "its pads are negative"


def test_one_spatial_axis_becomes_an_image() -> None:
    net = Net()
    x = net.input(N, 4, 11)
    y = net.conv(x, 6, 3, stride=2, group=2)
    y = net.pool(net("Relu", y), "MaxPool", 3, 1, 1)
    y = net.pool(y, "AveragePool", 2, 2, 1, ceil_mode=1)
    after, _ = check(net.done(y), (LAYOUT, LOWER), {"N": 3})
    assert {
        n.inputs[0].type.rank for n in after.nodes if n.op in ("Conv", "MaxPool", "AveragePool") and n.inputs[0]
    } == {4}


def _normalisation(op: str, shape: tuple[Any, ...], **attrs: Any) -> Graph:
    net = Net()
    x = net.input(*shape)
    channels = x.type.shape[1]
    assert isinstance(channels, int)
    scale, bias = net.input(channels, name="scale"), net.weights(channels)
    rest = [net.weights(channels), net.const(np.linspace(0.5, 2, channels, dtype=np.float32))]
    return net.done(net(op, x, scale, bias, *(rest if op == "BatchNormalization" else []), epsilon=1e-3, **attrs))


@pytest.mark.parametrize("passes", [(LOWER,), (LAYOUT, LOWER)])
@pytest.mark.parametrize("shape", [(2, 6), (2, 6, 5), (2, 6, 5, 3), (N, 6, H, 3)])
def test_normalisations(shape: tuple[Any, ...], passes: Any) -> None:
    env = {"N": 2, "H": 3}
    for op, attrs in (
        ("BatchNormalization", {}),
        ("InstanceNormalization", {}),
        ("GroupNormalization", {"num_groups": 3}),
    ):
        if op == "InstanceNormalization" and len(shape) < 3:
            continue
        after, _ = check(_normalisation(op, shape, **attrs), passes, env)
        assert op not in ops(after)


@pytest.mark.parametrize("size", [1, 2, 4, 5])
def test_lrn(size: int) -> None:
    net = Net()
    y = net("LRN", net.input(2, 7, 3, 4), size=size, alpha=0.3, beta=0.75, bias=1.5)
    after, _ = check(net.done(y), (LAYOUT, LOWER))
    assert "LRN" not in ops(after)


@pytest.mark.parametrize("p", [1, 2, 3])
def test_lp_pool(p: int) -> None:
    net = Net()
    after, log = check(net.done(net.pool(net.input(2, 3, 7, 6), "LpPool", 3, 2, 1, p=p)), (LAYOUT, LOWER))
    assert "LpPool" not in ops(after) and "lp-pool" in applied(log)


def test_mixed_and_narrow_types_stay_as_they_are() -> None:
    net = Net()
    x = net.input(2, 4, 5, 5, dtype="float16")
    half = net.const(np.ones(4, np.float16), "float16")
    _, log = check(net.done(net("InstanceNormalization", x, half, half)), (LOWER,))
    assert log.declined == [("instance-norm", "InstanceNormalization_2", "float16 would lose accuracy in steps")]


def test_text_before_and_after() -> None:
    graph = text_graph("""
        input %x: float32[1, 2, 3, 8]
        %y: float32[1, 4, 6, 2] = DepthToSpace(%x) {blocksize=2, channels_last=1, mode='DCR'}
        output %y "y"
    """)
    after, _ = check(graph, (LOWER,))
    assert_text(
        after,
        """
        input %x: float32[1, 2, 3, 8]
        %a: float32[1, 2, 3, 2, 2, 2] = Reshape(%x) {shape=(1, 2, 3, 2, 2, 2)}
        %b: float32[1, 2, 2, 3, 2, 2] = Transpose(%a) {perm=(0, 1, 3, 2, 4, 5)}
        %y: float32[1, 4, 6, 2] = Reshape(%b) {shape=(1, 4, 6, 2)}
        output %y "y"
    """,
    )
