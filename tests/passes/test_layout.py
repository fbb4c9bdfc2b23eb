"""Channels-last: transposes end up at the edges and the numbers stay."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from temper.ir.dims import Dim
from temper.ir.graph import Graph, Node, Value
from temper.passes.layout import CLASSIFIER_ROWS, LAYOUT, compose, factor_groups, inverse, to_first, to_last
from temper.passes.manager import Log
from temper.passes.partition import partition
from temper.passes.pipeline import PIPELINE
from tests.passes.nets import Net, applied, assert_text, check, ops, text_graph

N = Dim.symbol("N")


def residual(net: Net, x: Value) -> Value:
    x = net.conv(x, 8, 3)
    y = net.conv(net("Relu", net.conv(x, 8, 3)), 8, 3)
    return net("Relu", net("Add", x, y))


def concat(net: Net, x: Value) -> Value:
    x = net.conv(x, 8, 3)
    return net.conv(net("Concat", x, net.conv(x, 4), net.pool(x, "MaxPool", 3, 1, 1), axis=1), 6)


def squeeze_excite(net: Net, x: Value) -> Value:
    x = net.conv(x, 8, 3)
    s = net("ReduceMean", x, axes=(2, 3), keepdims=1)
    s = net("HardSigmoid", net.conv(net("Relu", net.conv(s, 4)), 8))
    return net.conv(net("Mul", x, s), 8)


def squeeze_excite_flat(net: Net, x: Value) -> Value:
    """With vectors between, as Keras exports it."""
    x = net.conv(x, 8, 3)
    s = net("ReduceMean", x, axes=(2, 3), keepdims=0)
    s = net("Sigmoid", net("MatMul", net("Relu", net("MatMul", s, net.weights(8, 4))), net.weights(4, 8)))
    return net.conv(net("Mul", x, net("Reshape", s, shape=(x.type.shape[0], 8, 1, 1))), 8)


def split(net: Net, x: Value) -> Value:
    a, b = net.many("Split", net.conv(x, 8, 3), axis=1, sizes=(3, 5))
    return net("Concat", net.conv(b, 4), net("Relu", a), axis=-3)


def pad_and_slice(net: Net, x: Value) -> Value:
    x = net("Pad", net.conv(x, 8, 3), pads=(0, 0, 1, 2, 0, 0, 0, 1), mode="reflect")
    x = net("Slice", x, starts=(1, 0), ends=(7, 1000), axes=(1, -1), steps=(2, 1))
    return net.conv(x, 4, 3)


def broadcasts(net: Net, x: Value) -> Value:
    x = net.conv(x, 8, 3)
    x = net("Mul", x, net.weights(8, 1, 1))
    x = net("Add", net.weights(1), net("PRelu", x, net.weights(8, 1, 1)))
    x = net("Add", x, net("ReduceMax", x, axes=(1,), keepdims=1))
    return net.conv(net("Where", net("Greater", x, net.const(0.0)), x, net.weights(1, 8, 1, 1)), 4)


def softmax_over_channels(net: Net, x: Value) -> Value:
    return net.conv(net("Softmax", net.conv(x, 8, 3), axis=1), 4)


def resize(net: Net, x: Value) -> Value:
    x = net("Resize", net.conv(x, 8, 3), scales=(1.0, 1.0, 2.0, 2.0), mode="nearest")
    return net.conv(net("Resize", x, scales=(1.0, 1.0, 0.5, 0.75), mode="linear"), 4)


def resize_crop(net: Net, x: Value) -> Value:
    x = net(
        "Resize",
        net.conv(x, 8, 3),
        scales=(1.0, 1.0, 2.0, 1.5),
        mode="nearest",
        roi=(0.0, 0.0, 0.1, -0.2, 1.0, 1.0, 0.9, 1.3),
        coordinate_transformation_mode="tf_crop_and_resize",
        extrapolation_value=2.0,
    )
    return net.conv(x, 4)


def group_norm(net: Net, x: Value) -> Value:
    return net.conv(net("GroupNormalization", net.conv(x, 8, 3), net.weights(8), net.weights(8), num_groups=2), 4)


NETS: dict[str, Callable[[Net, Value], Value]] = {
    f.__name__: f
    for f in (
        residual,
        concat,
        squeeze_excite,
        squeeze_excite_flat,
        split,
        pad_and_slice,
        broadcasts,
        softmax_over_channels,
        resize,
        resize_crop,
        group_norm,
    )
}


def _inner_transposes(graph: Graph) -> list[Node]:
    """Transposes that neither read an input of the model nor make an output."""
    return [
        n
        for n in graph.nodes
        if n.op == "Transpose"
        and n.inputs[0] is not None
        and n.inputs[0].producer is not None
        and not graph.is_output(n.output)
    ]


@pytest.mark.parametrize("name", NETS)
def test_transposes_stay_at_the_edges(name: str) -> None:
    net = Net()
    graph = net.done(NETS[name](net, net.input(2, 3, 8, 9)))
    after, log = check(graph, (LAYOUT,))
    assert _inner_transposes(after) == [], f"{ops(after)} {log.declined}"
    assert ops(after).count("Transpose") == 2
    check(graph, PIPELINE)


@pytest.mark.parametrize("name", sorted(set(NETS) - {"resize", "resize_crop"}))
def test_symbolic_batch(name: str) -> None:
    net = Net()
    after, _ = check(net.done(NETS[name](net, net.input(N, 3, 8, 9))), PIPELINE, {"N": 3})
    assert _inner_transposes(after) == []


def test_flatten_and_classifier_need_no_transpose() -> None:
    for batch, env in ((2, {}), (N, {"N": 3})):
        net = Net()
        x = net.conv(net.input(batch, 3, 8, 8), 6, 3, stride=2)
        y = net("MatMul", net("Reshape", x, shape=(batch, 96)), net.weights(96, 10))
        after, log = check(net.done(y), (LAYOUT, CLASSIFIER_ROWS), env)
        assert ops(after) == ["Transpose", "Conv", "Reshape", "MatMul"]
        assert "permute classifier weights" in applied(log)


def test_global_pool_and_classifier_is_a_renaming() -> None:
    net = Net()
    x = net("ReduceMean", net.conv(net.input(N, 3, 8, 8), 6, 3), axes=(2, 3), keepdims=1)
    y = net("MatMul", net("Reshape", x, shape=(N, 6)), net.weights(6, 10))
    after, _ = check(net.done(y), PIPELINE, {"N": 2})
    assert ops(after) == ["Transpose", "Conv", "ReduceMean", "Reshape", "MatMul"]


def test_no_view_stands_between_a_convolution_and_its_activation() -> None:
    net = Net()
    graph = net.done(squeeze_excite(net, net.input(2, 3, 8, 9)))
    after, _ = check(graph, (LAYOUT,))
    assert "Reshape" not in ops(after)
    regions = [[n.op for n in r.nodes] for r in partition(after, Log()) if r.op != "Transpose"]
    assert regions == [["Conv"], ["ReduceMean"], ["Conv", "Relu"], ["Conv", "HardSigmoid"], ["Mul"], ["Conv"]]


def test_channel_shuffle_is_one_transpose() -> None:
    net = Net()
    x = net.conv(net.input(2, 3, 6, 7), 8, 3)
    x = net(
        "Reshape", net("Transpose", net("Reshape", x, shape=(2, 2, 4, 6, 7)), perm=(0, 2, 1, 3, 4)), shape=(2, 8, 6, 7)
    )
    after, _ = check(net.done(net.conv(x, 4, 3)), PIPELINE)
    (shuffle,) = _inner_transposes(after)
    assert shuffle.attrs["perm"] == (0, 1, 2, 4, 3) or shuffle.attrs["perm"] == (0, 1, 3, 2)


def test_pixel_shuffle_written_out_is_one_transpose() -> None:
    net = Net()
    x = net("Reshape", net.conv(net.input(2, 3, 6, 7), 8, 3), shape=(2, 2, 2, 2, 6, 7))
    x = net("Reshape", net("Transpose", x, perm=(0, 1, 4, 2, 5, 3)), shape=(2, 2, 12, 14))
    after, _ = check(net.done(net.conv(x, 4, 3)), PIPELINE)
    assert len(_inner_transposes(after)) == 1


def test_yolo_head_reshape() -> None:
    """[N, anchors * (4 + classes), H, W] to [N, anchors, H, W, 4 + classes], as detectors do it."""
    net = Net()
    x = net.conv(net.input(1, 3, 6, 7), 14, 1)
    y = net("Sigmoid", net("Transpose", net("Reshape", x, shape=(1, 2, 7, 6, 7)), perm=(0, 1, 3, 4, 2)))
    check(net.done(y), PIPELINE)


def test_quantize_keeps_its_axis() -> None:
    net = Net()
    x = net.conv(net.input(2, 3, 6, 7), 4, 3)
    scale, zero = net.const(np.array([0.1, 0.2, 0.3, 0.4], np.float32)), net.const(np.array([1, 2, 3, 4], np.uint8))
    q = net("QuantizeLinear", x, scale, zero, axis=1)
    y = net.conv(net("DequantizeLinear", q, scale, zero, axis=1), 4)
    per_tensor = net("DequantizeLinear", net("QuantizeLinear", x, net.const(0.05)), net.const(0.05))
    after, _ = check(net.done(y, per_tensor), (LAYOUT,), tolerance=0.02)
    assert _inner_transposes(after) == []


def test_shared_values_and_several_outputs() -> None:
    net = Net()
    x = net.conv(net.input(1, 3, 6, 7), 8, 3)
    r = net("Relu", x)
    mean = net("ReduceMean", r, axes=(-1, -2), keepdims=0)
    top = net("ArgMax", r, axis=1, keepdims=0)
    check(net.done(x, r, mean, top, net("Reshape", r, shape=(1, 8 * 42))), PIPELINE)


def test_text_before_and_after() -> None:
    window = "ceil_mode=0, dilations=(1, 1), kernel_shape=(2, 2), pads=(0, 0, 0, 0), strides=(2, 2)"
    graph = text_graph(f"""
        input %x: float32[2, 3, 4, 6]
        %p: float32[2, 3, 2, 3] = MaxPool(%x) {{{window}, channels_last=0}}
        %r: float32[2, 3, 2, 3] = Relu(%p)
        %m: float32[2, 3] = ReduceMean(%r) {{axes=(2, 3), keepdims=0}}
        output %m "y"
    """)
    after, _ = check(graph, (LAYOUT,))
    assert_text(
        after,
        f"""
        input %x: float32[2, 3, 4, 6]
        %t: float32[2, 4, 6, 3] = Transpose(%x) {{perm=(0, 2, 3, 1)}}
        %p: float32[2, 2, 3, 3] = MaxPool(%t) {{{window}, channels_last=1}}
        %r: float32[2, 2, 3, 3] = Relu(%p)
        %m: float32[2, 3] = ReduceMean(%r) {{axes=(1, 2), keepdims=0}}
        output %m "y"
    """,
    )


def test_permutations() -> None:
    for rank in (3, 4, 5):
        assert compose(to_last(rank), to_first(rank)) == tuple(range(rank))
        assert inverse(to_last(rank)) == to_first(rank)


def test_factor_groups() -> None:
    assert factor_groups((2, 6, 5), (2, 2, 3, 5)) == [((0,), (0,)), ((1,), (1, 2)), ((2,), (3,))]
    assert factor_groups((2, 3, 4), (2, 12)) == [((0,), (0,)), ((1, 2), (1,))]
    assert factor_groups((N, 6, 5), (N, 30)) == [((0,), (0,)), ((1, 2), (1,))]
    assert factor_groups((4, 6), (3, 8)) == [((0, 1), (0, 1))]
