"""Whole networks on a GPU that is not here, in float16 and in INT8, against the CPU's engines."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from temper.builder import Build, build_plan
from temper.config import BuildConfig
from temper.runtime.engine import Engine
from tests.conftest import all_integer, small_model
from tests.precision.conftest import pictures
from tests.runtime.cuda.whole import run

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed: no GPU kernel can be compiled", allow_module_level=True)


@pytest.fixture
def gpu(timing_cache: Path) -> BuildConfig:
    return BuildConfig(device="cuda:sm_90", effort=0, cache=timing_cache, tf32=False)


@pytest.fixture(scope="module")
def model() -> bytes:
    return small_model(2).SerializeToString()


@pytest.fixture(scope="module")
def feeds() -> Mapping[str, np.ndarray]:
    return {"image": pictures(2)}


def engine_outputs(build: Build, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    return Engine(build.plan).run(feeds)


def stored(build: Build) -> set[str]:
    return {o.split(": ")[1].split("[")[0] for r in build.plan.report["regions"] for o in r["outputs"]}


@pytest.mark.parametrize(("precision", "unit"), [("fp16", 2.0**-11), ("bf16", 2.0**-8)])
def test_half_precision(
    precision: str, unit: float, gpu: BuildConfig, model: bytes, feeds: Mapping[str, np.ndarray], tmp_path: Path
) -> None:
    want = engine_outputs(build_plan(model, replace(gpu, device="cpu")), feeds)
    build = build_plan(model, replace(gpu, precision=precision))
    assert {"fp16": "float16", "bf16": "bfloat16"}[precision] in stored(build)
    for a, b in zip(want, run(build, feeds, tmp_path), strict=True):
        assert a.dtype == b.dtype and np.abs(a - b).max() <= 40 * unit * np.abs(a).max()


def test_integer_regions_agree_bit_for_bit(
    gpu: BuildConfig, model: bytes, feeds: Mapping[str, np.ndarray], tmp_path: Path
) -> None:
    recipe = all_integer(model, gpu)
    want = engine_outputs(build_plan(model, replace(gpu, device="cpu"), quantize=recipe), feeds)
    build = build_plan(model, gpu, quantize=recipe)
    assert "int8" in stored(build) and "uint8" not in stored(build)
    for a, b in zip(want, run(build, feeds, tmp_path), strict=True):
        np.testing.assert_array_equal(a, b)


def test_what_is_not_integer_is_half_precision(
    gpu: BuildConfig, model: bytes, feeds: Mapping[str, np.ndarray], tmp_path: Path
) -> None:
    recipe = all_integer(model, gpu)
    some = recipe.only(sorted(recipe.sites)[: len(recipe.sites) // 2])
    want = engine_outputs(build_plan(model, replace(gpu, device="cpu"), quantize=some), feeds)
    build = build_plan(model, replace(gpu, precision="fp16"), quantize=some)
    assert {"int8", "float16"} <= stored(build)
    for a, b in zip(want, run(build, feeds, tmp_path), strict=True):
        assert np.abs(a - b).max() <= 0.05 * np.abs(a).max()


def test_times_of_gpu_kernels_are_found_again_by_hosts_with_other_cores(gpu: BuildConfig, model: bytes) -> None:
    first = build_plan(model, replace(gpu, threads=2))
    again = build_plan(model, replace(gpu, threads=16))
    assert first.seconds["cache_misses"] and not again.seconds["cache_misses"]
    assert [p.workload for p in again.parts] == [p.workload for p in first.parts]
