"""Sizes known at run time that a model computes with as data: ranges of one number, which have kernels everywhere."""

from __future__ import annotations

import numpy as np
import pytest

from temper.builder import build_plan
from temper.config import BuildConfig, Profile
from temper.ir.dims import Dim
from temper.ir.evaluate import evaluate
from temper.ir.graph import Graph
from temper.ir.ops import make
from temper.ir.types import TensorType
from temper.passes.decompose import DECOMPOSE
from temper.passes.manager import Log
from tests.uncompiled import uncompiled


def graph() -> Graph:
    """Rows of a flat table by number, and their sizes; a mask's exporters write this."""
    g = Graph("g")
    x = g.add_input("x", TensorType("int64", (Dim.symbol("N"), Dim.symbol("S"))))
    sizes = make(g, "Shape", [x], {"start": 0, "end": 2}).output
    second = make(g, "Gather", [sizes, g.add_constant(np.array([1]), "i")], {"axis": 0}).output
    g.set_outputs([make(g, "Mul", [x, second]).output, sizes], ["y", "sizes"])
    return g


def test_sizes_are_ranges_of_one_number() -> None:
    g, feeds = graph(), {"x": np.arange(15).reshape(3, 5)}
    want = evaluate(g, feeds)
    DECOMPOSE.run(g, Log())
    assert {n.op for n in g.nodes} == {"Range", "Concat", "Mul"}
    for a, b in zip(evaluate(g, feeds), want, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("device", ["cpu", "cuda:sm_90"])
def test_no_step_runs_on_the_host(device: str) -> None:
    config = BuildConfig(device=device, effort=0, profiles=(Profile.of(N=(1, 2, 4), S=(1, 8, 16)),))
    with uncompiled():
        rows = build_plan(graph(), config).plan.report["regions"]
    assert not [r["name"] for r in rows if r["tactic"] == "host"]
