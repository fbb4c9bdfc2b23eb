"""INT8 builds for a GPU that is not here: what the CPU finds out for it, and what the plan is."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from temper.builder import Build, build_plan
from temper.config import BuildConfig
from temper.precision import costs
from temper.precision.build import Made, build_int8
from temper.precision.request import Request
from temper.precision.subject import Subject
from temper.quantize.placement import Site
from temper.runtime.engine import Engine
from tests.conftest import small_model
from tests.precision.conftest import pictures
from tests.precision.test_decide import SIZE, planted
from tests.runtime.cuda.whole import run

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed: no GPU kernel can be compiled", allow_module_level=True)


@pytest.fixture
def gpu(timing_cache: Path) -> BuildConfig:
    return BuildConfig(device="cuda:sm_90", effort=0, cache=timing_cache, precision="fp16")


def built(config: BuildConfig, **options: object) -> Made:
    request = Request(calibration=pictures(40), compensate=False, **options)  # type: ignore[arg-type]
    return build_int8(small_model().SerializeToString(), config, request)


def test_layers_are_int8_or_float16_and_nothing_is_timed(gpu: BuildConfig, tmp_path: Path) -> None:
    made = built(gpu, keep=("conv1a=fp32", "conv0b=fp16"))
    plan = made.build.plan
    assert (plan.device, plan.isa) == ("cuda", "sm_90")
    precision = {s.name: s.precision for s in made.outcome.sites}
    assert precision["conv1a"] == "float32" and precision["conv0b"] == "float16" and precision["conv0a"] == "int8"
    assert any("nothing was timed" in w for w in plan.report["int8"]["warnings"])
    assert all(p.ms is None for p in made.outcome.points)
    ops = {r["name"]: (r["op"], r["outputs"], r["workload"]) for r in plan.report["regions"]}
    wide = [w for op, _, w in ops.values() if op == "Conv" and "|w" not in w]
    assert len(wide) == 1  # what is pinned to float32 reads and multiplies it
    x = pictures(3)
    want = Engine(built(replace(gpu, device="cpu", precision="fp32"), keep=("conv1a=fp32", "conv0b=fp32")).build.plan)
    for i, image in enumerate(x):
        (got,) = run(made.build, {"image": image[None]}, tmp_path)
        (a,) = want.run({"image": image[None]})
        assert np.abs(got - a).max() <= 0.03 * np.abs(a).max(), i


def test_everything_in_integers_is_what_the_cpu_computes(gpu: BuildConfig, tmp_path: Path) -> None:
    made = built(replace(gpu, precision="fp32"), pure_int8=True)
    same = built(replace(gpu, precision="fp32", device="cpu"), pure_int8=True)
    x = pictures(2)[1:]
    (got,), (want,) = run(made.build, {"image": x}, tmp_path), Engine(same.build.plan).run({"image": x})
    np.testing.assert_array_equal(got, want)


def test_configurations_of_a_gpu_that_is_not_here(gpu: BuildConfig) -> None:
    subject = Subject.of(small_model().SerializeToString(), gpu, ["conv0a=fp32"])
    assert subject.absent and subject.half == "float16"
    assert (subject.here.device, subject.here.precision) == ("cpu", "fp32")
    assert subject.chosen.precision == "fp16" and len(subject.chosen.wide) == 1
    assert "conv0a" not in subject.halves and "conv0b" in subject.halves


def _operations(build: Build, sites: Sequence[Site]) -> costs.Times:
    """Times by operations: a quarter of float16's in integers, half of them in 8-bit floats."""
    rows = build.plan.report["regions"]
    owner = costs.owners(rows, sites)
    found = {s.name: 0.0 for s in sites}
    for k, r in enumerate(rows):
        factor = 1 if "Int8" in r["op"] else 2 if "(float8" in r["workload"] else 4
        if k in owner:
            found[owner[k]] += factor * 1e-9 * (r["operations"] + 1)
    return costs.Times(found, 0.0)


def test_a_layer_that_int8_ruins_is_in_8_bit_floats(
    gpu: BuildConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(costs, "predicted_times", _operations)
    model = planted().SerializeToString()
    lines: list[str] = []
    made = build_int8(model, gpu, Request(calibration=pictures(64, SIZE), compensate=False), say=lines.append)
    precision = {s.name: s.precision for s in made.outcome.sites}
    assert precision["b"] == "float8" and "int8" in precision.values(), lines
    assert made.outcome.met and made.build.plan.report["int8"]["eights"] >= 1
    products = [r["workload"] for r in made.build.plan.report["regions"] if "float8e4m3fn" in r["workload"]]
    assert products
    half = build_int8(model, gpu, Request(calibration=pictures(64, SIZE), compensate=False, keep=("b=fp16",)))
    assert next(s.precision for s in half.outcome.sites if s.name == "b") == "float16"
    x = {"image": pictures(1, SIZE)}
    exact = Engine(build_plan(model, replace(gpu, device="cpu", precision="fp32")).plan)
    (got,), (want,) = run(made.build, x, tmp_path), exact.run(x)
    assert np.abs(got - want).max() <= 0.05 * np.abs(want).max()
