"""Layers that are as accurate in INT8 as asked for, and slower: they are in float where whole engines gain by it."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from temper.builder import build_plan
from temper.config import BuildConfig
from temper.plan.format import Plan
from temper.precision import costs
from temper.precision.build import Made, build_int8
from temper.precision.float_for_speed import parts
from temper.precision.request import Request
from temper.precision.subject import Subject
from temper.quantize.placement import Site
from temper.quantize.solver import Edge
from temper.runtime.context import LayerTime
from temper.runtime.engine import Engine
from tests.conftest import small_model
from tests.precision.conftest import pictures
from tests.precision.test_decide import SIZE, kept, planted

#: Seconds of a row of a build report; all: of the engine.
Price = Callable[[Mapping[str, object], list[Mapping[str, object]]], float]


def priced(monkeypatch: pytest.MonkeyPatch, price: Price) -> None:
    """Engines take what their layers cost."""

    def layers(engine: Engine, feeds: object, repeats: int = 1) -> list[LayerTime]:
        rows = engine.report["regions"]
        return [LayerTime(str(r["name"]), price(r, rows), i, False) for i, r in enumerate(rows)]

    def engines(
        plans: Mapping[frozenset[str], Plan], feeds: object, seconds: float = 1.0, device: str = "cpu"
    ) -> dict[frozenset[str], float]:
        return {k: sum(x.seconds for x in layers(Engine(p), feeds)) for k, p in plans.items()}

    monkeypatch.setattr(Engine, "profile_layers", layers)
    monkeypatch.setattr("temper.precision.costs.timed", engines)
    monkeypatch.setattr("temper.precision.build.timed", engines)


def cheap(row: Mapping[str, object], slow: str = "b", by: float = 8.0) -> float:
    """Operations, a quarter of that in integers, and `by` times that for the integers of one layer."""
    work = 1e-9 * (int(row["operations"]) + 1)  # type: ignore[call-overload]
    if "Int8" not in str(row["op"]):
        return work
    return work / 4 * (by if slow in row["origin"] else 1.0)  # type: ignore[operator]


@pytest.fixture
def build(quick: BuildConfig, tmp_path: Path) -> Callable[..., Made]:
    def run(**options: object) -> Made:
        effort = options.pop("effort", 1)
        given = {"calibration": pictures(64, SIZE), "work": tmp_path, "compensate": False, **options}
        config = replace(quick, effort=effort)  # type: ignore[arg-type]
        return build_int8(planted(factor=1.0), config, Request(**given))  # type: ignore[arg-type]

    return run


def test_a_layer_that_int8_makes_slower_is_in_float(
    build: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    priced(monkeypatch, lambda row, rows: cheap(row))
    made = build()
    assert made.outcome.met and kept(made) == {"b"}
    (site,) = [s for s in made.outcome.sites if s.name == "b"]
    assert site.why.startswith("faster in ") and site.why.endswith(" in INT8") and " us against " in site.why
    assert site.int8_ms is not None and site.float_ms is not None and site.float_ms < site.int8_ms
    (step,) = [s for s in made.outcome.steps if "for speed" in s.name]
    assert step.accepted and step.ms_before is not None and step.ms_after is not None
    assert step.ms_after < step.ms_before
    chosen = made.outcome.point("chosen")
    assert chosen is not None and chosen.floats == ("b",) and chosen.ms == pytest.approx(step.ms_after)


def test_nothing_is_built_for_a_gain_of_nothing(build: Callable[..., Made], monkeypatch: pytest.MonkeyPatch) -> None:
    priced(monkeypatch, lambda row, rows: cheap(row, by=4.02))
    made = build()
    assert not kept(made) and made.outcome.work is not None and made.outcome.work.passes == 2
    assert not any("for speed" in s.name for s in made.outcome.steps)


def test_what_is_slower_once_it_is_built_stays_in_int8(
    build: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    def price(row: Mapping[str, object], rows: list[Mapping[str, object]]) -> float:
        mixed = len({"Int8" in str(r["op"]) for r in rows if "Conv" in str(r["op"])}) == 2
        return cheap(row) * (9 if mixed and "Int8" not in str(row["op"]) else 1)

    priced(monkeypatch, price)
    made = build()
    assert not kept(made)
    (step,) = [s for s in made.outcome.steps if "for speed" in s.name]
    assert not step.accepted and "once they are built" in step.why


def test_a_whole_engine_that_gains_nothing_stays_as_it_is(
    build: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    priced(monkeypatch, lambda row, rows: cheap(row))
    monkeypatch.setattr("temper.precision.costs.timed", lambda plans, feeds, **more: dict.fromkeys(plans, 1.0))
    made = build()
    assert not kept(made)
    assert any("hardly faster" in s.why and not s.accepted for s in made.outcome.steps)


@pytest.mark.parametrize("options", [{"pure_int8": True}, {"keep": ("b=int8",)}, {"effort": 0}])
def test_what_is_not_asked(
    options: dict[str, object], build: Callable[..., Made], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where all is to be in INT8, where the layer is pinned to it, and where nothing was tuned."""
    priced(monkeypatch, lambda row, rows: cheap(row))
    assert not kept(build(**options))


def test_sites_that_share_a_neighbour_are_judged_together() -> None:
    links = [Edge(a, b, {}) for a, b in ("ab", "bc", "cd", "de", "ef", "fg", "gh")]
    found = parts("bgh", links)
    assert sorted((sorted(a), sorted(b)) for a, b in found) == [
        (["b"], ["a", "b", "c"]),
        (["g", "h"], ["f", "g", "h"]),
    ]
    assert {a for a, _ in parts("bdg", links)} == {frozenset("bd"), frozenset("g")}


def test_the_time_of_a_kernel_of_two_products_is_of_both() -> None:
    sites = [Site(n, "Conv", n, (0,), (), ()) for n in "abc"] + [Site("sum", "Add", "sum", (0, 1), (), ())]
    rows = [{"origin": ["a"]}, {"origin": ["b", "b relu", "c", "sum"]}]
    groups = costs.together(rows, sites)
    assert groups == [frozenset("bc")]
    quick, slow = costs.Times({"a": 1.0, "b": 6.0, "c": 0.0}, 0.5), costs.Times({"a": 2.0, "b": 4.0, "c": 8.0}, 0.0)
    assert costs.shared(quick, slow, groups) == costs.Times({"a": 1.0, "b": 2.0, "c": 4.0}, 0.5)


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_what_is_foretold_is_what_the_build_would_be(timing_cache: Path) -> None:
    model = small_model().SerializeToString()
    gpu = BuildConfig(device="cuda:sm_90", effort=0, cache=timing_cache, precision="fp16")
    sites = Subject.of(model, gpu).sites
    told = costs.predicted_build_times(model, gpu, None, sites)
    built = build_plan(model, gpu)
    made = costs.predicted_times(built, sites)
    assert told.sites.keys() == made.sites.keys() and sum(told.sites.values()) > 0
    np.testing.assert_allclose(list(told.sites.values()), list(made.sites.values()), rtol=1e-9)
    assert told.rest == pytest.approx(made.rest)
    assert costs.tuned_times(built, sites) is None
