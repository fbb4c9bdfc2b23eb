"""Compensation as mathematics: what is preserved, what gets smaller, where it does not apply."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from temper.ir.evaluate import evaluate, evaluate_values
from temper.ir.graph import Graph, Value
from temper.passes.manager import Log, run_passes
from temper.passes.pipeline import FLOAT
from temper.quantize.codes import quantize_weights, weight_scales
from temper.quantize.compensate import migrate
from temper.quantize.compensate.bias import correction, passed_on
from temper.quantize.compensate.channels import Channels, by_input, from_input
from temper.quantize.compensate.ranges import lopsided
from temper.quantize.compensate.weights import least_error_scales, weights_share
from temper.quantize.recipe import Recipe
from tests.passes.nets import Net
from tests.quantize.nets import recipe_of

rng = np.random.default_rng(0)


def test_channels_merge_to_those_of_the_whole() -> None:
    x = rng.standard_normal((7, 5, 4)).astype(np.float32)
    parts = Channels.of(x[:3]).merged(Channels.of(x[3:3])).merged(Channels.of(x[3:]))
    whole = Channels.of(x)
    for name in ("count", "total", "squares", "low", "high", "mean", "mean_square", "amax"):
        np.testing.assert_allclose(getattr(parts, name), getattr(whole, name), rtol=1e-12)
    flat = x.reshape(-1, 4).astype(np.float64)
    np.testing.assert_allclose(whole.mean, flat.mean(axis=0))
    np.testing.assert_allclose(whole.amax, np.abs(flat).max(axis=0))


@pytest.mark.parametrize(("op", "shape", "group"), [("Conv", (3, 3, 4, 6), 1), ("Conv", (3, 3, 2, 6), 2),
                                                    ("Conv", (3, 3, 1, 5), 5), ("MatMul", (4, 7), 1)])  # fmt: skip
def test_weights_by_input_channel(op: str, shape: tuple[int, ...], group: int) -> None:
    w = rng.standard_normal(shape).astype(np.float32)
    parts = by_input(op, w, group)
    assert parts.shape[1:] == (group, shape[-2], shape[-1] // group)
    np.testing.assert_array_equal(from_input(op, parts, shape), w)
    change = rng.standard_normal(group * shape[-2])
    x = np.broadcast_to(change.astype(np.float32), (1, 9, 9, group * shape[-2]))
    net = Net()
    v = net.input(*x.shape)
    attrs = {"channels_last": 1, "group": group, "strides": (1, 1), "pads": (0,) * 4, "dilations": (1, 1)}
    net.done(net(op, v, net.const(w), **(attrs if op == "Conv" else {})))
    (y,) = evaluate(net.graph, {"x": np.ascontiguousarray(x)})
    np.testing.assert_allclose(passed_on(op, w, group, change), y[0, 0, 0], atol=1e-5)


def test_correction_takes_off_what_the_product_added_and_nothing_else() -> None:
    w = rng.standard_normal((6, 4)).astype(np.float32)
    x = rng.standard_normal((500, 6))
    moved = x + rng.standard_normal(6)  # as earlier layers left it
    codes = np.clip(moved, -1.0, 1.0)  # clipping moves the mean
    y, quantized = x @ w, codes @ w
    shift = correction("MatMul", w, 1, (x.mean(0), moved.mean(0)), (y.mean(0), quantized.mean(0)))
    np.testing.assert_allclose((quantized + shift).mean(0), (moved @ w).mean(0), atol=1e-6)


def test_least_error_scales_lose_less_than_the_largest_weight() -> None:
    w = rng.standard_normal((3, 3, 16, 8)).astype(np.float32) * 0.1
    w[0, 0, 0, 0] = 4.0  # meets a channel that is nearly always zero
    square = np.ones(16)
    square[0] = 1e-6
    scale = least_error_scales("Conv", w, 1, square)
    full = weight_scales(w)
    assert (scale <= full).all() and scale[0] < 0.6 * full[0]

    def loss(s: np.ndarray) -> np.ndarray:
        error = quantize_weights(w, s).astype(np.float64) * s - w
        return (square[:, None] * (error**2)).sum(axis=(0, 1, 2))

    assert (loss(scale) <= loss(full)).all()
    assert weights_share("Conv", w, 1, square, 1e-6) > 0.99 > 0.01 > weights_share("Conv", w, 1, square, 10.0)


def test_lopsided_ranges() -> None:
    spans = {"silu": (-0.3, 9.0), "even": (-5.0, 6.0), "relu": (0.0, 4.0), "down": (-8.0, 0.5), "clipped": (-0.3, 90.0)}
    amax = {"silu": 9.0, "even": 6.0, "relu": 4.0, "down": 8.0, "clipped": 10.0, "other": 1.0}
    assert lopsided(spans, amax) == {"silu": (-0.3, 9.0), "down": (-8.0, 0.5), "clipped": (-0.3, 10.0)}
    assert lopsided(spans, {}) == {}


def chain(net: Net, x: Value) -> Value:
    x = net("Relu", net.conv(x, 8, 3))
    return net.conv(net.pool(x, "MaxPool", 2, 2), 6, 3)


def triple(net: Net, x: Value) -> Value:
    x = net("LeakyRelu", net.conv(x, 8, 1), alpha=0.1)
    x = net("Relu", net.conv(x, 8, 3, group=8))
    return net.conv(x, 6, 1)


def siblings(net: Net, x: Value) -> Value:
    """One tensor, two readers."""
    x = net("Relu", net.conv(x, 8, 1))
    return net("Concat", net.conv(x, 6, 1), net.conv(x, 6, 3), axis=1)


def tokens(net: Net, x: Value) -> Value:
    """A normalisation before a product, and a product with its bias apart before another."""
    t = net("Transpose", net("Reshape", x, shape=(2, 3, 100)), perm=(0, 2, 1))
    t = net.many("LayerNormalization", t, net.weights(3), net.weights(3), axis=-1, epsilon=1e-5)[0]
    t = net("Relu", net("Add", net("MatMul", t, net.weights(3, 16)), net.weights(16)))
    return net("MatMul", t, net.weights(16, 5))


def smooth(net: Net, x: Value) -> Value:
    return net.conv(net("Silu", net.conv(x, 8, 1)), 6, 1)


def bounded(net: Net, x: Value) -> Value:
    return net.conv(net("Clip", net.conv(x, 8, 1), min=0.0, max=6.0), 6, 1)


def forked(net: Net, x: Value) -> Value:
    x = net("Relu", net.conv(x, 8, 1))
    return net("Add", net.conv(x, 8, 1), x)


NETS: dict[Callable[[Net, Value], Value], int] = {
    chain: 1,
    triple: 2,
    siblings: 1,
    tokens: 2,
    smooth: 0,
    bounded: 0,
    forked: 0,
}


def imbalanced(make: Callable[[Net, Value], Value]) -> tuple[Graph, dict[str, np.ndarray]]:
    """A net whose products give channels of very different size."""
    net = Net(5)
    plain = net.weights
    net.weights = lambda *shape, scale=0.3: plain(  # type: ignore[method-assign]
        *shape, scale=scale
    )
    x = net.input(2, 3, 10, 10)
    net.graph.set_outputs([make(net, x)], ["y"])
    run_passes(net.graph, FLOAT)
    spread = np.random.default_rng(1)
    for node in net.graph.nodes:
        scale = node.inputs[1] if node.op in ("Conv", "MatMul", "LayerNormalization") else None
        if scale is not None and scale.const is not None and len(node.output.uses):
            wide = scale.const * 10.0 ** spread.uniform(-1.5, 1.5, scale.const.shape[-1])
            net.graph.set_input(node, 1, net.graph.add_constant(wide.astype(np.float32), "wide"))
    return net.graph, {"x": net.rng.standard_normal((2, 3, 10, 10)).astype(np.float32)}


@pytest.mark.parametrize("make", NETS, ids=lambda m: m.__name__)
def test_ranges_move_where_functions_allow_and_nothing_else_changes(make: Callable[[Net, Value], Value]) -> None:
    graph, feeds = imbalanced(make)
    found = migrate.places(graph)
    assert len(found) == NETS[make]
    nodes = {n.outputs[0].name: n for n in graph.nodes}
    keys = [k for p in found for k in (*p.divided, *((n.outputs[0].name, 1) for n in p.sinks))]
    operands = {(k, i): nodes[k].inputs[i].const for k, i in keys}  # type: ignore[union-attr]
    recipe = recipe_of(graph, feeds)
    values = [v for v in graph.values if v.name in {p.tensor for p in found}]
    seen = {v.name: Channels.of(evaluate_values(graph, feeds, values)[v.id]) for v in values}
    (plain,) = evaluate(graph, feeds)
    moved = 0
    for p in found:
        x = seen[p.tensor]
        m = migrate.migration(p, x, operands, migrate.levels_of(graph, p.tensor), float(x.amax.max()))
        if m is not None:
            assert m.gain < 0.9
            migrate.apply(m, operands)
            moved += 1
    assert moved >= min(1, len(found))
    rescaled = graph.copy()
    Recipe(frozenset(), {}, operands=operands).apply(rescaled, Log())
    np.testing.assert_allclose(evaluate(rescaled, feeds)[0], plain, atol=1e-4 * np.abs(plain).max())
    if not moved:
        return
    errors = []
    for changed in (graph, rescaled):
        q = changed.copy()
        recipe_of(changed, feeds).only(recipe.sites).apply(q, Log())
        errors.append(float(((evaluate(q, feeds)[0] - plain) ** 2).mean()))
    assert errors[1] < 0.9 * errors[0]


def test_a_balanced_tensor_is_left_alone() -> None:
    net = Net(5)
    net.graph.set_outputs([chain(net, net.input(2, 3, 10, 10))], ["y"])
    run_passes(net.graph, FLOAT)
    (place,) = migrate.places(net.graph)
    w = place.sinks[0].inputs[1]
    assert w is not None and w.const is not None
    even = np.ones_like(w.const) * np.where(rng.random(w.const.shape) < 0.5, -1, 1).astype(np.float32)
    x = Channels.of(rng.uniform(0, 1, (1000, 8)))
    assert migrate.migration(place, x, {(place.sinks[0].outputs[0].name, 1): even}, 255, 1.0) is None


def test_queries_have_no_weights_to_divide() -> None:
    """Those of attention to another sequence come from a product of their own."""
    net = Net(5)
    x, other = net.input(2, 6, 24), net.input(2, 9, 24, name="other")
    q, k, v = (net("Add", net("MatMul", a, net.weights(24, 24)), net.weights(24)) for a in (x, other, other))
    y = net("Attention", q, k, v, heads=3, kv_heads=3, scale=0.3, layout="rrrr")
    net.graph.set_outputs([net("MatMul", y, net.weights(24, 24))], ["y"])
    run_passes(net.graph, FLOAT)
    assert all(n.op == "MatMul" for p in migrate.places(net.graph) for n in p.sinks)
