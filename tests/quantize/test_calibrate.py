"""Collecting histograms: what the instrumented graph holds, and merging against histograms of all values at once."""

from __future__ import annotations

import numpy as np
import pytest

from temper.errors import DataError
from temper.ir.graph import Graph
from temper.ir.ops import make
from temper.ir.types import TensorType
from temper.ir.verify import verify
from temper.quantize.calibrate import Observed, collect, in_order, instrumented, nothing
from temper.quantize.histogram import Histogram, observe
from temper.reference import run as reference


def graph() -> Graph:
    """y = relu(x - 1), with an exp that only another output needs."""
    g = Graph("calibrated")
    x = g.add_input("x", TensorType("float32", (4, 5)))
    one = g.add_constant(np.float32(1).reshape(1, 1), "one")
    low = make(g, "Sub", [x, one], {}, name="low").output
    y = make(g, "Relu", [low], {}, name="y").output
    g.set_outputs([y, make(g, "Exp", [low], {}, name="e").output])
    return g


def run(g: Graph, feeds: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    values = {v.id: v.const for v in g.constants} | {v.id: feeds[v.name] for v in g.inputs}
    for node in g.nodes:
        results = reference(
            node.op,
            [None if v is None else values[v.id] for v in node.inputs],
            node.attrs,
            [None if v is None else v.type.dtype for v in node.inputs],
            [o.type.dtype for o in node.outputs],
        )
        values |= {o.id: a for o, a in zip(node.outputs, results, strict=True)}
    return {name: values[v.id] for name, v in zip(g.output_names, g.outputs, strict=True)}


def equal(a: Histogram, b: Histogram) -> bool:
    return np.array_equal(a.counts, b.counts) and (a.exponent, a.zeros, a.low, a.high) == (
        b.exponent,
        b.zeros,
        b.low,
        b.high,
    )


def test_instrumented_gives_histograms_only() -> None:
    g = graph()
    before = g.hash()
    copy = instrumented(g, ["x", "y"])
    verify(copy)
    assert g.hash() == before
    assert copy.output_names == ["histogram:x", "histogram:y"]
    assert "Exp" not in [n.op for n in copy.nodes], "what no histogram needs is not computed"


def test_names_in_order_of_the_graph() -> None:
    assert in_order(graph(), ["y", "x", "low", "y"]) == ["x", "low", "y"]


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 1, 0, 2)])
@pytest.mark.parametrize("step", [1, 2, 4])
def test_collected_is_what_all_values_at_once_give(order: tuple[int, ...], step: int) -> None:
    rng = np.random.default_rng(1)
    data = [rng.standard_normal((4, 5)).astype(np.float32) * 10.0**k for k in range(4)]
    copy = instrumented(graph(), ["x", "y"])
    parts = [
        collect(lambda b: run(copy, b), ({"x": data[i]} for i in order[at : at + step]), ["x", "y"])
        for at in range(0, 4, step)
    ]
    found = nothing(["x", "y"])
    for part in parts:
        found = found.merged(part)
    whole = np.stack(data)
    assert found.batches == 4
    assert equal(found.histograms["x"], observe(whole))
    assert equal(found.histograms["y"], observe(np.maximum(whole - 1, 0)))


def test_no_data() -> None:
    with pytest.raises(DataError, match="empty"):
        collect(lambda b: {}, [], ["x"])


def test_not_finite_names_tensor_and_batch() -> None:
    good, bad = np.zeros((4, 5), np.float32), np.zeros((4, 5), np.float32)
    bad[1, :2] = np.nan, np.inf
    copy = instrumented(graph(), ["low", "y"])
    with pytest.raises(DataError, match=r"batch 2: tensor 'low' has 2 values .* and 1 tensors after it"):
        collect(lambda b: run(copy, b), [{"x": good}, {"x": bad}], ["low", "y"])


def test_merging_with_nothing_changes_nothing() -> None:
    h = observe(np.arange(6, dtype=np.float32))
    assert equal(nothing(["x"]).merged(Observed({"x": h}, 1)).histograms["x"], h)
