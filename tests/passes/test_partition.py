"""Partition: a partition, acyclic, and every region's program means what its nodes mean."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from temper.ir.dims import Dim
from temper.ir.evaluate import evaluate_values
from temper.ir.graph import Graph, Value
from temper.ir.opdef import Kind
from temper.ir.ops import TABLE
from temper.passes.manager import Log, run_passes
from temper.passes.partition import MAX_INSTRS, VIEW_OPS, partition
from temper.passes.pipeline import PIPELINE
from temper.passes.region import Region
from temper.tactics.epilogue_reference import epilogue_reference
from temper.tactics.workload import workload
from tests.passes.nets import Net, assert_same, feeds
from tests.passes.test_layout import NETS


def regions_of(graph: Graph) -> tuple[list[Region], Log]:
    log = Log()
    return partition(graph, log), log


def check_partition(graph: Graph, env: dict[str, int] | None = None) -> list[Region]:
    """Coverage, order, and each epilogue's numbers against its nodes'."""
    regions, _ = regions_of(graph)
    members = [n.id for r in regions for n in r.nodes]
    assert len(members) == len(set(members)), "a node is in two regions"
    assert set(members) == {n.id for n in graph.nodes if n.op not in VIEW_OPS}
    values = evaluate_values(graph, feeds(graph, env), graph.values)
    made = {v.id for v in graph.values if v.producer is None}

    def root(v: Value) -> Value:
        while v.producer is not None and v.producer.op in VIEW_OPS:
            assert v.producer.inputs[0] is not None
            v = v.producer.inputs[0]
        return v

    for r in regions:
        inside = {n.id for n in r.nodes}
        for v in r.inputs:
            assert root(v).id in made, f"'{r.name}' runs before its input {v!r} exists"
        made |= {o.id for n in r.nodes for o in n.outputs}
        outside = {
            o.id for n in r.nodes for o in n.outputs if graph.is_output(o) or any(u.id not in inside for u, _ in o.uses)
        }
        assert outside <= {v.id for v in r.outputs}, f"'{r.name}' hides a value that is read outside"
        if r.program:
            rank = r.outputs[0].type.rank
            arrays = [values[v.id].reshape((1,) * (rank - v.type.rank) + values[v.id].shape) for v in r.operands]
            assert_same([values[v.id] for v in r.outputs], epilogue_reference(r.epilogue, arrays), 1e-6)
    return regions


@pytest.mark.parametrize("name", NETS)
def test_networks(name: str) -> None:
    net = Net()
    graph = net.done(NETS[name](net, net.input(2, 3, 8, 9)))
    check_partition(graph)
    run_passes(graph, PIPELINE)
    check_partition(graph)


def test_residual_and_activation_join_the_last_convolution() -> None:
    net = Net()
    x = net.conv(net.input(1, 4, 6, 6), 4)
    y = net.conv(x, 4)
    graph = net.done(net("Relu", net("Add", x, y)))
    regions = check_partition(graph)
    assert [[n.op for n in r.nodes] for r in regions] == [["Conv"], ["Conv", "Add", "Relu"]]


def test_a_diamond_that_would_make_a_cycle_is_not_fused() -> None:
    """y = conv(x); z = pool(y) + y: the addition needs the pool, which needs the convolution."""
    net = Net()
    y = net.conv(net.input(1, 4, 6, 6), 4)
    p = net.pool(net("Relu", y), "MaxPool", 3, 1, 1)
    graph = net.done(net("Add", net("Sigmoid", p), y))
    regions = check_partition(graph)
    conv = next(r for r in regions if r.op == "Conv")
    assert [n.op for n in conv.nodes] == ["Conv", "Relu"]


def test_a_cycle_through_a_view_is_seen() -> None:
    net = Net()
    y = net.conv(net.input(1, 4, 4, 4), 4)
    graph = net.done(net("Add", y, net("Reshape", net("Relu", y), shape=(1, 4, 4, 4))))
    check_partition(graph)


def test_inner_results_that_others_read_are_results() -> None:
    net = Net()
    y = net.conv(net.input(1, 4, 6, 6), 4)
    a = net("Relu", y)
    b = net("Exp", a)
    graph = net.done(b, y, net.pool(a, "MaxPool", 2, 2))
    region = next(r for r in check_partition(graph) if r.op == "Conv")
    assert [v.id for v in region.outputs] == [b.id, y.id, a.id]


def test_broadcast_operands_have_masks() -> None:
    net = Net()
    x = net.input(Dim.symbol("N"), 5, 6, 4)
    y = net("Add", net("Mul", x, net.weights(4)), net.input(Dim.symbol("N"), 1, 1, 4, name="s"))
    graph = net.done(net("Sub", y, net.weights(1, 1)))
    (region,) = check_partition(graph, {"N": 3})
    assert [o.mask for o in region.epilogue.operands] == [
        (True,) * 4,
        (False, False, False, True),
        (True, False, False, True),
        (False,) * 4,
    ]


def test_other_shapes_are_logged_not_fused() -> None:
    net = Net()
    x = net.conv(net.input(1, 1, 6, 6), 1)
    graph = net.done(net("Add", x, net.input(1, 3, 6, 6, name="y")))
    regions, log = regions_of(graph)
    assert len(regions) == 2 and any("its shape" in reason for _, _, reason in log.declined)


def test_long_chains_are_cut() -> None:
    net = Net()
    x = net.input(2, 8)
    y = x
    for _ in range(3 * MAX_INSTRS):
        y = net("Add", net("Abs", y), x)
    graph = net.done(y)
    regions = check_partition(graph)
    assert max(len(r.nodes) for r in regions) <= MAX_INSTRS + 1


def test_split_gives_back_the_parts() -> None:
    net = Net()
    y = net("Sigmoid", net("Relu", net.conv(net.input(1, 4, 6, 6), 4)))
    graph = net.done(y)
    (region,) = check_partition(graph)
    ((anchor, rest),) = region.splits()
    assert anchor.op == "Conv" and anchor.outputs == (region.nodes[0].output,) and not anchor.program
    assert rest.anchor is None and rest.outputs == (y,) and rest.inputs == anchor.outputs
    assert [r.outputs[0] for r in rest.splits()[0]] == [n.output for n in rest.nodes]
    assert anchor.splits() == ()


def _halves(net: Net) -> Graph:
    """relu(conv(x) + gate), where x, the weights and the gate are stored as halves, and so is the result."""
    x = net("Cast", net.input(1, 6, 6, 4), to="float16")
    gate = net("Cast", net.input(1, 1, 1, 4, name="gate"), to="bfloat16")
    w = net.graph.add_constant(np.ones((3, 3, 4, 4), np.float16), "w")
    wide = [net("Cast", v, to="float32") for v in (x, w, gate)]
    y = net("Conv", *wide[:2], channels_last=1, pads=(1, 1, 1, 1), strides=(1, 1), dilations=(1, 1))
    return net.done(net("Cast", net("Relu", net("Add", y, wide[2])), to="float16"))


def test_kernels_convert_what_they_load() -> None:
    graph = _halves(Net())
    regions = partition(graph, Log(), prologues=True)
    region = next(r for r in regions if r.op == "Conv")
    assert [n.op for n in region.nodes] == ["Conv", "Cast", "Add", "Relu", "Cast"]
    assert [v.type.dtype for v in region.anchor_inputs if v is not None] == ["float16", "float16"]
    assert region.widened == (0, 1) and region.outputs[0].type.dtype == "float16"
    assert [o.dtype for o in region.epilogue.operands][:2] == ["float32", "bfloat16"]
    assert sorted(r.op for r in regions) == ["Conv", "Pointwise", "Pointwise"]
    w = workload(region, "sm_90", 1)
    assert w.widened == (0, 1) and w.constant == (False, True) and w.key.endswith("|w0,1")
    ways = region.splits()
    assert [len(w[0].prologue) for w in ways] == [0, 2, 0] and [len(w) for w in ways] == [3, 2, 4]
    assert all(r.prologue == () for r in partition(graph, Log()))


def test_what_is_widened_belongs_to_its_reader() -> None:
    """A half that two read is converted by both, not by the kernel that stores it."""
    net = Net()
    half = net("Cast", net("Relu", net.input(2, 8)), to="float16")
    left = net("Sigmoid", net("Cast", half, to="float32"))
    right = net("Transpose", net("Tanh", net("Cast", half, to="float32")), perm=(1, 0))
    graph = net.done(left, right)
    regions = partition(graph, Log(), prologues=True)
    assert [[n.op for n in r.nodes] for r in regions] == [
        ["Relu", "Cast"], ["Cast", "Sigmoid"], ["Cast", "Tanh"], ["Transpose"]
    ]  # fmt: skip


def test_split_keeps_an_anchor_result_that_others_read() -> None:
    net = Net()
    y = net.conv(net.input(1, 4, 6, 6), 4)
    graph = net.done(net("Relu", y), y)
    (region,) = check_partition(graph)
    ((anchor, rest),) = region.splits()
    assert anchor.outputs == (y,) and [v.id for v in rest.outputs] == [graph.outputs[0].id]


@pytest.mark.parametrize("seed", range(30))
def test_random_elementwise_webs(seed: int) -> None:
    """Webs of elementwise ops, pools and reshapes with many diamonds: the hardest food for cycle checks."""
    rng = np.random.default_rng(seed)
    net = Net(seed)
    values: list[Value] = [net.input(1, 4, 4, 4)]
    kinds: list[Callable[[], Value]] = [
        lambda: net("Relu", pick()),
        lambda: net("Add", pick(), pick()),
        lambda: net("Mul", pick(), pick()),
        lambda: net.pool(pick(), "MaxPool", 3, 1, 1),
        lambda: net("Transpose", pick(), perm=(0, 1, 3, 2)),
        lambda: net("Reshape", net("Reshape", pick(), shape=(4, 16)), shape=(1, 4, 4, 4)),
        lambda: net.conv(pick(), 4),
    ]

    def pick() -> Value:
        return values[int(rng.integers(max(0, len(values) - 6), len(values)))]

    for _ in range(25):
        values.append(kinds[int(rng.integers(len(kinds)))]())
    graph = net.done(*values[-2:])
    graph.prune()
    check_partition(graph)
    assert all(TABLE[n.op].kind is Kind.ELEMENTWISE for r in regions_of(graph)[0] for n in r.program)
