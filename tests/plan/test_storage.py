"""Storage: running the regions on the buffers it lays out, views and strides included, gives the graph's numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import pytest

from temper.ir.dims import Dim, evaluate
from temper.ir.evaluate import bind_attr
from temper.ir.evaluate import evaluate as run_graph
from temper.ir.graph import Graph, Value
from temper.ir.ops import TABLE
from temper.ir.types import itemsize
from temper.passes.layout import LAYOUT
from temper.passes.manager import Log
from temper.passes.partition import partition
from temper.passes.region import Region
from temper.plan.storage import Accepts, Storage, assign_storage
from tests.passes.nets import Net, assert_same, feeds
from tests.passes.test_layout import NETS

N = Dim.symbol("N")


def anything(region: Region, strides: Mapping[int, int]) -> bool:
    return True


def no_strided_pools(region: Region, strides: Mapping[int, int]) -> bool:
    touched = (*region.inputs, *region.outputs)
    return not region.op.endswith("Pool") or not any(v.id in strides for v in touched)


def nothing_strided(region: Region, strides: Mapping[int, int]) -> bool:
    """Only copies know strides."""
    return [n.op for n in region.nodes] == ["Identity"] or not any(
        v.id in strides for v in (*region.inputs, *region.outputs)
    )


def simulate(
    graph: Graph, storage: Storage, data: Mapping[str, np.ndarray], env: Mapping[str, int]
) -> list[np.ndarray]:
    """Runs the regions in order; every value lives where `storage` says, in one buffer per root, which starts as
    garbage.
    """
    by_id = {v.id: v for v in graph.values}
    buffers: dict[int, np.ndarray] = {}
    for root in {p.root for p in storage.places.values()}:
        v = by_id[root]
        stride = storage.places[root].row_stride
        assert stride is None, f"{v!r} owns its buffer and must be dense"
        buffers[root] = np.full(v.type.nbytes(env), 0x7F, np.uint8)

    def view(v: Value) -> np.ndarray:
        if v.const is not None:
            return v.const
        place = storage.places[v.id]
        shape = tuple(evaluate(d, env) for d in v.type.shape)
        size = itemsize(v.type.dtype)
        row = shape[-1] if shape else 1
        step = (place.row_stride or row) * size
        strides = [size] if shape else []
        for d in [1, *reversed(shape[1:-1])][: len(shape) - 1]:
            strides.insert(0, step if len(strides) == 1 else strides[0] * d)
        raw = buffers[place.root]
        first = evaluate(place.offset, env)
        last = first + sum((d - 1) * s for d, s in zip(shape, strides, strict=True)) + size
        assert 0 in shape or (first >= 0 and last <= raw.size), f"{v!r} reaches outside its buffer"
        return np.ndarray(shape, v.type.dtype, raw.data, first, tuple(strides))

    for v in graph.inputs:
        if v.id in storage.places:
            view(v)[...] = data[v.name]
    for region in storage.regions:
        known = {v.id: view(v).copy() for v in region.inputs}
        known |= {v.id: v.const for n in region.nodes for v in n.inputs if v is not None and v.const is not None}
        for node in region.nodes:
            attrs = {k: bind_attr(a, env) for k, a in node.attrs.items()}
            results = TABLE[node.op].reference([None if v is None else known[v.id] for v in node.inputs], attrs)
            known |= {o.id: r for o, r in zip(node.outputs, results, strict=True)}
        for v in region.outputs:
            view(v)[...] = known[v.id]
    return [view(v).copy() for v in graph.outputs]


def check_storage(
    graph: Graph, accepts: Accepts = anything, env: Mapping[str, int] | None = None
) -> tuple[Storage, Log]:
    env = env or {}
    data = feeds(graph, env)
    want = run_graph(graph, data)
    log = Log()
    storage = assign_storage(graph, partition(graph, log), accepts, log)
    assert_same(want, simulate(graph, storage, data, env), 1e-6)
    for v in graph.outputs:
        assert storage.places[v.id].offset == 0 and storage.places[v.id].row_stride is None
    assert len({storage.places[v.id].root for v in graph.outputs}) == len({v.id for v in graph.outputs})
    return storage, log


def copies(storage: Storage) -> int:
    return sum(1 for r in storage.regions for n in r.nodes if n.op == "Identity")


def last(net: Net, x: Value, features: int, kernel: int = 1, stride: int = 1) -> Value:
    """A channels-last convolution."""
    channels = x.type.shape[-1]
    assert isinstance(channels, int)
    return net(
        "Conv",
        x,
        net.weights(kernel, kernel, channels, features),
        strides=(stride, stride),
        pads=(kernel // 2,) * 4,
        dilations=(1, 1),
        channels_last=1,
    )


def branches(net: Net, x: Value) -> Value:
    a, b = last(net, x, 3), net("Relu", last(net, x, 5, 3))
    return last(net, net("Concat", a, b, axis=3), 4)


def cross_stage(net: Net, x: Value) -> Value:
    """YOLO's C2f: the split's parts are concatenated again, and one of them is read on the way."""
    y = last(net, x, 8)
    a, b = net.many("Split", y, axis=3, sizes=(4, 4))
    c = net("Add", last(net, b, 4, 3), b)
    return last(net, net("Concat", y, c, last(net, c, 4, 3), axis=3), 6)


def split_then_concat(net: Net, x: Value) -> Value:
    a, b = net.many("Split", last(net, x, 8), axis=-1, sizes=(3, 5))
    return last(net, net("Concat", b, a, axis=-1), 4)


def dense_blocks(net: Net, x: Value) -> Value:
    y = last(net, x, 4)
    for _ in range(3):
        y = net("Concat", y, last(net, net("Relu", y), 2, 3), axis=3)
    return last(net, y, 4)


def nested_splits(net: Net, x: Value) -> Value:
    a, b = net.many("Split", last(net, x, 8), axis=3, sizes=(6, 2))
    c, d = net.many("Split", a, axis=3, sizes=(2, 4))
    return last(net, net("Concat", net("Relu", d), net("Add", b, c), axis=3), 4)


def inputs_and_repeats(net: Net, x: Value) -> Value:
    y = last(net, x, 3)
    return net("Concat", x, y, y, net("Concat", y, x, axis=3), axis=3)


def pooled(net: Net, x: Value) -> Value:
    y = last(net, x, 4)
    p = net("MaxPool", y, kernel_shape=(3, 3), strides=(1, 1), pads=(1,) * 4, dilations=(1, 1), channels_last=1)
    return last(net, net("Concat", y, p, axis=3), 4)


def renamed(net: Net, x: Value) -> Value:
    y = last(net, x, 4)
    n, h, w, _ = x.type.shape
    r = net("Reshape", net("Reshape", y, shape=(n, h * w, 4)), shape=(n, h, w, 4))
    return net("Concat", r, net("Relu", y), axis=3)


BLOCKS: dict[str, Callable[[Net, Value], Value]] = {
    f.__name__: f
    for f in (
        branches,
        cross_stage,
        split_then_concat,
        dense_blocks,
        nested_splits,
        inputs_and_repeats,
        pooled,
        renamed,
    )
}


@pytest.mark.parametrize("accepts", [anything, no_strided_pools, nothing_strided])
@pytest.mark.parametrize("batch", [2, 1, N])
@pytest.mark.parametrize("name", BLOCKS)
def test_blocks(name: str, batch: int | Dim, accepts: Accepts) -> None:
    net = Net()
    check_storage(net.done(BLOCKS[name](net, net.input(batch, 4, 5, 6))), accepts, {"N": 3})


@pytest.mark.parametrize("accepts", [anything, nothing_strided])
@pytest.mark.parametrize("axis", [0, 1, 2, 3])
@pytest.mark.parametrize("shape", [(1, 1, 6, 8), (1, 4, 6, 8), (2, 4, 6, 8), (1, 1, 1, 8)])
def test_every_axis_of_views_of_views(shape: tuple[int, ...], axis: int, accepts: Accepts) -> None:
    """Rows, images and channels of a tensor that is itself a slice of a wider one."""
    net = Net()
    x = net.input(*shape)
    y = net("Relu", x)
    wide = net("Concat", y, net("Abs", x), axis=3)
    d = shape[axis]
    if d > 1:
        a, b = net.many("Split", y, axis=axis, sizes=(d // 2, d - d // 2))
        joined = net("Concat", net("Neg", b), net("Exp", a), axis=axis)
    else:
        joined = net("Neg", y)
    outer = net("Concat", joined, wide, axis=3)
    check_storage(net.done(net("Relu", outer), net("Sigmoid", y)), accepts)


@pytest.mark.parametrize("name", NETS)
def test_networks(name: str) -> None:
    for batch in (1, 2):
        net = Net()
        graph = net.done(NETS[name](net, net.input(batch, 3, 8, 9)))
        LAYOUT.run(graph, Log())
        check_storage(graph)


def test_concat_and_split_cost_no_copy() -> None:
    for name in ("branches", "cross_stage", "dense_blocks", "nested_splits", "pooled"):
        net = Net()
        storage, log = check_storage(net.done(BLOCKS[name](net, net.input(2, 4, 5, 6))))
        assert copies(storage) == 0, f"{name}: {log.declined}"
        assert not any(r.op in ("Concat", "Split") for r in storage.regions)


def test_renamed_pieces_of_one_row_are_placed() -> None:
    """A detector's heads: [1, H, W, C] maps, flattened to [1, H W, C] and joined."""
    net = Net()
    x = net.input(1, 4, 6, 4)
    heads = [net("Reshape", last(net, x, 8, 3, s), shape=(1, 24 // s // s, 8)) for s in (1, 2)]
    again = net("Reshape", heads[0], shape=(1, 12, 16))
    storage, _ = check_storage(net.done(net("Relu", net("Concat", *heads, axis=1)), net("Exp", again)))
    assert copies(storage) == 0
    net = Net()
    y = last(net, net.input(1, 4, 6, 4), 8)
    twice = [
        net("Reshape", y, shape=(1, 24, 8)),
        net("Reshape", y, shape=(1, 24, 8)),
        net("Reshape", y, shape=(1, 192, 1)),
    ]
    parts = [*twice[:2], net("Reshape", twice[2], shape=(1, 24, 8))]
    storage, _ = check_storage(net.done(net("Concat", *parts, axis=1)))
    assert copies(storage) == 2


def test_copies_have_reasons() -> None:
    net = Net()
    storage, log = check_storage(net.done(inputs_and_repeats(net, net.input(2, 4, 5, 6))))
    reasons = " ".join(r for _, _, r in log.declined)
    assert copies(storage) > 0
    assert "it is an input or a constant of the model" in reasons and "it occurs more than once" in reasons


def test_a_split_of_a_copied_piece_moves_no_data() -> None:
    """The reshape needs the second piece dense; its copy is what the second split divides."""
    net = Net()
    y = net("Relu", net.input(2, 3, 4))
    a, b = net.many("Split", y, axis=2, sizes=(1, 3))
    c, d = net.many("Split", b, axis=2, sizes=(1, 2))
    outputs = net("Exp", net("Reshape", b, shape=(9, 2))), net("Mul", c, d), net("Add", c, a)
    storage, _ = check_storage(net.done(*outputs))
    assert copies(storage) == 1 and not any(r.op == "Split" for r in storage.regions)


def test_outputs_own_their_buffers() -> None:
    net = Net()
    x = net.input(2, 4, 5, 6)
    y = last(net, x, 4)
    a, b = net.many("Split", y, axis=3, sizes=(2, 2))
    c = net("Concat", b, net("Relu", a), axis=3)
    check_storage(net.done(x, a, c, net("Reshape", y, shape=(2, 80)), y, net("Reshape", x, shape=(240,))))


def test_output_twice() -> None:
    net = Net()
    y = net("Relu", net.input(3, 4))
    graph = net.graph
    graph.set_outputs([y, y], ["a", "b"])
    log = Log()
    storage = assign_storage(graph, partition(graph, log), anything, log)
    data = feeds(graph)
    got = simulate(graph, storage, data, {})
    assert np.array_equal(got[0], got[1]) and np.array_equal(got[0], np.maximum(data["x"], 0))
    assert len({storage.places[v.id].root for v in graph.outputs}) == 2


def test_pieces_that_a_kernel_cannot_read_at_once_are_no_views() -> None:
    """Of three rows of five floats joined along the first axis the second starts at 60 bytes; of four by four at 64."""

    def joined(rows: int, width: int, alignment: int, axis: int = 0) -> tuple[list[str], Log]:
        net = Net()
        x = net.input(rows, width)
        net.graph.set_outputs([net("Softmax", net("Concat", net("Relu", x), net("Neg", x), axis=axis), axis=1)])
        graph = net.graph
        log = Log()
        storage = assign_storage(graph, partition(graph, log), anything, log, alignment)
        return [r.op for r in storage.regions], log

    ops, log = joined(3, 5, 16)
    assert "Concat" in ops
    assert any(rule == "concat without a copy" and "multiple of 16 bytes" in why for rule, _, why in log.declined)
    assert "Concat" not in joined(4, 4, 16)[0] and "Concat" not in joined(3, 5, 1)[0]
    assert "Concat" in joined(3, 5, 16, 1)[0] and "Concat" not in joined(3, 4, 16, 1)[0]
