"""Storage in narrow floats: which tensors, where the conversions go, what stays float32 and why."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from temper.ir.evaluate import evaluate
from temper.ir.graph import Graph
from temper.passes.large import fits, too_large
from temper.passes.layout import LAYOUT
from temper.passes.manager import Log, run_passes
from temper.passes.narrow import narrowing
from temper.passes.partition import partition
from temper.passes.region import Region
from temper.passes.widen import WIDEN
from tests.passes.nets import Net, assert_same, feeds

#: relative error of one rounding
UNIT = {"float16": 2.0**-11, "bfloat16": 2.0**-8}


def regions_of(graph: Graph) -> list[Region]:
    return partition(graph, Log(), prologues=True)


def narrowed(
    graph: Graph, dtype: str = "float16", pins: Sequence[str] = (), hosts: Sequence[str] = ()
) -> tuple[Graph, list[Region], dict[str, str]]:
    """The graph after the pass, its regions, and reasons by value; numbers are checked. hosts: ops of the host."""
    data = feeds(graph)
    want = evaluate(graph, data)
    after = graph.copy()
    cut = lambda g: [(r, r.op in hosts) for r in regions_of(g)]  # noqa: E731
    log = run_passes(after, (narrowing(dtype, cut, pins),))
    assert [v.type for v in after.outputs] == [v.type for v in graph.outputs]
    assert_same(want, evaluate(after, data), 24 * UNIT.get(dtype, 1e-6))
    return after, regions_of(after), {n: reason for rule, n, reason in log.declined if rule == "narrow"}


def crossing(regions: Sequence[Region]) -> dict[str, str]:
    """What every region stores, by its op; several of one op are numbered."""
    out: dict[str, str] = {}
    for r in regions:
        name = f"{r.op}{sum(k.startswith(r.op) for k in out) or ''}"
        out[name] = "+".join(v.type.dtype for v in r.outputs)
    return out


def residual() -> Graph:
    net = Net()
    x = net("Transpose", net.input(2, 8, 6, 6), perm=(0, 1, 3, 2))
    a = net("Relu", net.conv(x, 8, 3))
    b = net("Relu", net.conv(a, 8))
    c = net("Relu", net("Add", net.conv(b, 8, 3), a))
    pooled = net("ReduceMean", c, axes=(2, 3), keepdims=0)
    graph = net.done(net("MatMul", pooled, net.weights(8, 70)))
    run_passes(graph, (LAYOUT,))
    return graph


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_tensors_between_regions_are_narrow(dtype: str) -> None:
    _, regions, reasons = narrowed(residual(), dtype)
    stored = crossing(regions)
    assert stored["Transpose"] == stored["Conv"] == stored["Conv1"] == stored["Conv2"] == dtype
    assert stored["ReduceMean"] == dtype  # a product reads it, though it is small
    assert stored["MatMul"] == "float32"
    products = [r for r in regions if r.op in ("Conv", "MatMul")]
    assert all(r.widened == (0, 1) for r in products)
    assert all(v is not None and v.type.dtype == dtype for r in products for v in r.anchor_inputs[:2])
    bias = [r.anchor_inputs[2] for r in products if r.op == "Conv"]
    assert all(v is not None and v.type.dtype == "float32" for v in bias)
    last = next(r for r in regions if len(r.operands) > 1)
    assert [o.dtype for o in last.epilogue.operands] == ["float32", dtype]  # the sum is of what was stored
    assert {"it is an input of the model", "it is an output of the model"} <= set(reasons.values())


def test_moves_move_what_is_narrow() -> None:
    net = Net()
    x = net("Sigmoid", net.input(4, 64))
    y = net("Concat", net("Transpose", x, perm=(1, 0)), net.weights(64, 3), axis=1)
    y = net("Reshape", y, shape=(7, 64))
    graph = net.done(net("Tanh", net("Gather", y, net.const(np.array([1, 3]), "int64"), axis=0)))
    _, regions, _ = narrowed(graph)
    assert crossing(regions)["Transpose"] == crossing(regions)["Gather"] == crossing(regions)["Concat"] == "float16"
    assert all(r.prologue == () for r in regions)


@pytest.mark.parametrize("mask", [-1e9, -3.4028234663852886e38, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_masks_stay_finite_or_float32(mask: float, dtype: str) -> None:
    """A row of nothing but masked places is uniform, not NaN."""
    net = Net()
    q, keep = net.input(2, 9, 9, name="q"), net.input(2, 1, 9, name="keep", dtype="bool")
    bias = net("Expand", net("Where", keep, net.const(0.0), net.const(mask)), shape=(2, 9, 9))
    scores = net("Add", net("MatMul", q, net.weights(9, 9)), bias)
    weights = net("Softmax", net("Transpose", net("Transpose", scores, perm=(0, 2, 1)), perm=(0, 2, 1)), axis=-1)
    graph = net.done(net("MatMul", weights, net.weights(9, 4)))
    after, regions, reasons = narrowed(graph, dtype)
    kept = [r for r in reasons.values() if "too large" in r]
    assert kept or (mask == -1e9 and dtype == "bfloat16")
    data = {**feeds(graph), "keep": np.zeros((2, 1, 9), bool)}
    want, got = evaluate(graph, data), evaluate(after, data)
    assert_same(want, got, 24 * UNIT[dtype])
    assert np.isfinite(got[0]).all() or not np.isfinite(mask)
    assert crossing(regions)["Softmax"] == dtype


def test_what_is_too_large() -> None:
    net = Net()
    x = net.input(100)
    huge = net("Mul", x, net.const(1e6))
    clipped = net("Clip", huge, min=-1.0, max=1.0)
    summed = net("Add", huge, clipped)
    graph = net.done(net("Tanh", summed), clipped)
    found = too_large(graph, "float16")
    assert {huge.id, summed.id} <= found and not {x.id, clipped.id, graph.outputs[0].id} & found
    assert huge.id not in too_large(graph, "bfloat16")
    assert fits(np.float32([65504.0]), "float16") and not fits(np.float32([65536.0]), "float16")


def test_weights_beyond_the_type_stay_float32() -> None:
    net = Net()
    w = net.const(np.full((64, 70), 1e5, np.float32))
    graph = net.done(net("MatMul", net("Relu", net.input(4, 64)), w))
    _, regions, reasons = narrowed(graph)
    assert any("too large" in r for r in reasons.values())
    assert all(not r.widened for r in regions)


def test_pinned_layers_and_the_hosts_stay_float32() -> None:
    graph = residual()
    conv = [n for n in graph.nodes if n.op == "Conv"][1]
    _, regions, reasons = narrowed(graph, pins=[conv.name])
    pinned = next(r for r in regions if r.anchor is not None and r.anchor.name == conv.name)
    assert not pinned.widened and all(v.type.dtype == "float32" for v in pinned.inputs)
    assert any(r.endswith("is pinned to float32") for r in reasons.values())
    assert any("pinned to float32, reads it" in r for r in reasons.values())
    others = [r for r in regions if r.op == "Conv" and r is not pinned and r.anchor is not None]
    assert all(r.widened for r in others)
    _, regions, reasons = narrowed(graph, hosts=["Conv"])
    assert all(v.type.dtype == "float32" for r in regions if r.op == "Conv" for v in r.inputs)
    assert any("the host computes" in r for r in reasons.values())
    _, regions, reasons = narrowed(graph, hosts=["ReduceMean"])
    assert all(v.type.dtype == "float32" for r in regions if r.op == "ReduceMean" for v in r.inputs)
    assert any("on the host" in r for r in reasons.values())


def test_decisions_and_integers_are_made_of_float32() -> None:
    net = Net()
    x = net("Sigmoid", net.input(3, 90))
    best = net("ArgMax", x, axis=1, keepdims=0)
    ones = net("Cast", net("Cast", net.input(3, 90, name="n", dtype="int64"), to="float32"), to="float32")
    places = net("Transpose", net("Mul", net("Add", ones, net.const(0.5)), net.const(2.0)), perm=(1, 0))
    total = net("ReduceSum", net("Tanh", net("Transpose", x, perm=(1, 0))), axes=(1,), keepdims=0)
    graph = net.done(best, net("Cast", places, to="int32"), net("Relu", net("Tile", total, repeats=(40,))))
    _, regions, reasons = narrowed(graph)
    stored = crossing(regions)
    assert stored["ReduceSum"] == "float32" and all(not r.widened for r in regions if r.op == "ArgMax")
    wanted = {"ArgMax decides by it", "results of ReduceSum may be large", "it is made of integers"}
    assert wanted <= set(reasons.values())


def test_models_in_halves_keep_their_weights() -> None:
    net = Net()
    x = net.input(2, 6, 6, 4, dtype="float16")
    w = net.const((net.rng.standard_normal((8, 4, 3, 3)) * 0.3).astype(np.float16))
    x = net("Transpose", x, perm=(0, 3, 1, 2))
    y = net("Relu", net("Conv", x, w, strides=(1, 1), pads=(1, 1, 1, 1), dilations=(1, 1), group=1))
    graph = net.done(net("Sigmoid", y), net("Tanh", y))
    run_passes(graph, (WIDEN, LAYOUT))
    _, regions, reasons = narrowed(graph, "float32")
    conv = next(r for r in regions if r.op == "Conv")
    assert conv.widened == (0, 1) and not reasons
    assert {t for kinds in crossing(regions).values() for t in kinds.split("+")} == {"float16"}


def test_parts_that_nothing_reads_keep_no_other_wide() -> None:
    net = Net()
    x = net("Relu", net.conv(net.input(1, 8, 16, 16), 32))
    unused, half = net.many("Split", x, axis=1, sizes=(16, 16))
    y = net("Relu", net.conv(half, 16, 3))
    graph = net.done(net.conv(net("Concat", x, y, axis=1), 8))
    run_passes(graph, (LAYOUT,))
    assert not unused.uses
    _, regions, reasons = narrowed(graph)
    convs = [r for r in regions if r.op == "Conv"]
    assert [r.outputs[0].type.dtype for r in convs] == ["float16", "float16", "float32"]
    assert not any("Split" in name or "Concat" in name for name in reasons)
