"""Unsigned codes become signed, with the same values."""

from __future__ import annotations

import numpy as np
import pytest

from temper.ir.evaluate import evaluate
from temper.ir.graph import Graph, Value
from temper.passes.codes import CODES_EARLY
from temper.passes.integer import INTEGER
from temper.passes.manager import Log, run_passes
from temper.passes.signed import SIGNED
from tests.passes.nets import Net, feeds


def _coded(net: Net, x: Value, zero: int, scale: float = 0.02) -> tuple[Value, list[Value]]:
    constants = [net.const(scale), net.const(np.array(zero, np.uint8))]
    return net("QuantizeLinear", x, *constants, axis=0, to="uint8"), constants


def _decoded(net: Net, codes: Value, constants: list[Value]) -> Value:
    return net("DequantizeLinear", codes, *constants, axis=0)


def _product(net: Net, x: Value) -> Value:
    w = net.const(net.rng.integers(-127, 128, (8, 8)).astype(np.int8))
    return net("MatMul", x, net("DequantizeLinear", w, net.const(0.01), net.const(np.array(0, np.int8)), axis=0))


def _same(graph: Graph) -> tuple[Graph, Log]:
    data = feeds(graph)
    want, after = evaluate(graph, data), graph.copy()
    log = run_passes(after, (SIGNED,))
    for a, b in zip(want, evaluate(after, data), strict=True):
        assert a.tobytes() == b.tobytes()
    return after, log


@pytest.mark.parametrize("zero", [0, 77, 255])
def test_codes_become_signed(zero: int) -> None:
    net = Net()
    codes, constants = _coded(net, net.input(3, 8), zero)
    swapped = net("Reshape", codes, shape=(1, 3, 8))
    left, right = _decoded(net, codes, constants), _decoded(net, swapped, constants)
    after, log = _same(net.done(_product(net, left), net("Relu", right)))
    assert [rule for rule, _ in log.applied] == ["signed"]
    assert "uint8" not in {v.type.dtype for v in after.values}


def test_integer_regions_compute_the_same() -> None:
    """Integer products, a residual and a table, of codes with and without sign."""
    net = Net()
    codes, constants = _coded(net, net("Relu", net.input(3, 8)), 0)
    x = _decoded(net, codes, constants)
    y = net("Add", _product(net, x), x)
    second, scale = _coded(net, y, 100, 0.05)
    third, of = _coded(net, net("Sigmoid", _decoded(net, second, scale)), 0, 1 / 255)
    graph = net.done(_product(net, _decoded(net, third, of)))
    after, _ = _same(graph)
    plain = graph.copy()
    for g in (after, plain):
        run_passes(g, (CODES_EARLY, INTEGER))
    data = feeds(graph)
    for a, b in zip(evaluate(plain, data), evaluate(after, data), strict=True):
        assert a.tobytes() == b.tobytes()
    products = [n for n in after.nodes if n.op == "MatMulInt8"]
    assert [n.inputs[0].type.dtype for n in products if n.inputs[0]] == ["int8", "int8"]
    assert [n.attrs["zero_point"] for n in products] == [-128, -128]


def test_others_keep_unsigned_codes() -> None:
    net = Net()
    codes, constants = _coded(net, net.input(3, 8), 0)
    _, log = _same(net.done(_product(net, _decoded(net, codes, constants)), codes))
    assert [reason for _, _, reason in log.declined] == ["they are an output"]
    net = Net()
    codes, constants = _coded(net, net.input(3, 8), 0)
    joined = net("Concat", codes, codes, axis=0)
    _, log = _same(net.done(_decoded(net, joined, constants)))
    assert "reads them" in log.declined[0][2]


@pytest.mark.parametrize("zero", [0, 77])
def test_sums_of_codes_are_the_same_whatever_their_zero_points(zero: int) -> None:
    """A residual sum, many of them halfway between codes: factors are rounded on a GPU (signed codes) as on a CPU."""
    net = Net()
    inputs = (net.input(400, 64, name=name) for name in "xy")
    parts = [_decoded(net, *_coded(net, x, zero, s)) for x, s in zip(inputs, (0.01, 0.015), strict=True)]
    graph = net.done(_coded(net, net("Relu", net("Add", *parts)), 0, 0.03)[0])
    data = feeds(graph)
    cpu, gpu = graph.copy(), graph.copy()
    run_passes(cpu, (INTEGER,))
    run_passes(gpu, (SIGNED, INTEGER))
    (want,), (got,) = evaluate(cpu, data), evaluate(gpu, data)
    assert want.tobytes() == got.tobytes() and len(np.unique(want)) > 50
