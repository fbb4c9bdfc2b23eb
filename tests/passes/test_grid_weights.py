"""Folded weights: those on a grid get codes and stay the same numbers, others stay; such products run as integers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from temper.builder import build_plan
from temper.config import BuildConfig
from temper.ir.evaluate import evaluate
from temper.ir.graph import Value
from temper.passes.grid_weights import GRID_WEIGHTS, NAME, grid
from temper.passes.manager import run_passes
from temper.runtime.engine import Engine
from tests.passes.nets import Net, check, ops


def codes(n: Net, x: Value, scale: float = 0.04) -> Value:
    s, z = n.const(scale), n.const(np.asarray(120, np.uint8))
    return n("DequantizeLinear", n("QuantizeLinear", x, s, z, axis=0, to="uint8"), s, z, axis=0)


def on_grid(n: Net, *shape: int, most: int = 127, axis: int = 0) -> np.ndarray:
    """float32 products of whole numbers and scales."""
    k = n.rng.integers(-most, most + 1, shape)
    s = n.rng.uniform(0.001, 0.01, shape[axis]).astype(np.float32)
    return (k.astype(np.float32) * s.reshape([-1 if i == axis else 1 for i in range(len(shape))])).astype(np.float32)


def conv(n: Net, x: Value, w: np.ndarray) -> Value:
    return n("Conv", x, n.const(w), strides=(1, 1), pads=(1,) * 4, dilations=(1, 1), group=1)


@pytest.mark.parametrize("most", [1, 7, 63, 127])
def test_grids_are_found(most: int) -> None:
    w = on_grid(Net(most), 5, 40, most=most)
    w[3] = 0
    scales = grid(w)
    assert scales is not None and scales[3] == 1
    k = w / scales[:, None]
    assert np.abs(k - np.rint(k)).max() < 1e-3 and np.abs(k).max() < 127.5


def test_other_weights_are_on_none() -> None:
    n = Net()
    assert grid(n.rng.standard_normal((4, 27)).astype(np.float32)) is None
    finer = (n.rng.integers(-2000, 2001, (4, 200)) * 0.001).astype(np.float32)  # of 12 bits
    assert grid(finer) is None


def test_convolutions_and_products() -> None:
    n = Net()
    x = codes(n, n.input(1, 4, 6, 6))
    y = n("MaxPool", conv(n, x, on_grid(n, 8, 4, 3, 3)), kernel_shape=(2, 2), strides=(2, 2), pads=(0,) * 4,
          dilations=(1, 1))  # fmt: skip
    flat = n("Reshape", codes(n, y, 0.1), shape=(1, 72))
    product = n("MatMul", flat, n.const(on_grid(n, 72, 5, axis=1)))
    turned = n("MatMul", flat, n("Transpose", n.const(on_grid(n, 5, 72)), perm=(1, 0)))
    after, log = check(n.done(product, turned), [GRID_WEIGHTS])
    assert [rule for rule, _ in log.applied].count(NAME) == 3
    assert ops(after).count("DequantizeLinear") == 5


def test_what_stays() -> None:
    n = Net()
    y = conv(n, codes(n, n.input(1, 4, 6, 6)), n.rng.standard_normal((8, 4, 3, 3)).astype(np.float32))
    z = conv(n, y, on_grid(n, 4, 8, 3, 3))  # of data that is not quantized
    graph = n.done(z)
    log = run_passes(graph, [GRID_WEIGHTS])
    assert not [rule for rule, _ in log.applied if rule == NAME]
    assert [why for rule, _, why in log.declined if rule == NAME] == [
        "its data is quantized, its weights are not: they lie on no grid of 8 bits"
    ]


def test_integers_are_multiplied(timing_cache: Path) -> None:
    n = Net(2)
    graph = n.done(conv(n, codes(n, n.input(1, 4, 8, 8)), on_grid(n, 16, 4, 3, 3)))
    data = {"x": np.random.default_rng(1).standard_normal((1, 4, 8, 8)).astype(np.float32)}
    exact = evaluate(graph, data)[0]
    plan = build_plan(graph.copy(), BuildConfig(threads=1, effort=0, cache=timing_cache)).plan
    assert [r["op"] for r in plan.report["regions"]].count("ConvInt8") == 1
    np.testing.assert_allclose(Engine(plan).run(data)[0], exact, atol=1e-5 * float(np.abs(exact).max()))
