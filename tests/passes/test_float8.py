"""Models quantized to 8-bit floats themselves: products multiply the codes on GPUs that can, and nothing changes."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from temper.builder import build_plan, float_graph
from temper.config import BuildConfig
from temper.ir.evaluate import evaluate
from temper.ir.verify import verify
from temper.passes.float8 import FLOAT8, weight_numbers
from temper.passes.manager import Log
from temper.reference.formats import number, numbers
from tests.passes.float8_net import model
from tests.precision.conftest import pictures
from tests.runtime.cuda.whole import run


@pytest.fixture(scope="module")
def feeds() -> Mapping[str, np.ndarray]:
    return {"image": pictures(2)}


@pytest.mark.parametrize("folded", [True, False])
def test_products_multiply_codes(folded: bool, feeds: Mapping[str, np.ndarray]) -> None:
    graph = float_graph(model(folded))
    (want,) = evaluate(graph, feeds)
    log = Log()
    FLOAT8.run(graph, log)
    verify(graph)
    assert [name for _, name in log.applied] == ["conv1", "conv2", "fc"]
    for n in graph.nodes:
        if n.op in ("Conv", "MatMul"):
            w = n.inputs[1]
            assert w is not None and w.const is not None
            assert (numbers(number(w.const, "float8e4m3fn"), "float8e4m3fn") == w.const).all()
    # a sum that is rounded otherwise may become the next code
    np.testing.assert_allclose(evaluate(graph, feeds)[0], want, atol=0.01 * np.abs(want).max())


@pytest.mark.parametrize(
    ("options", "words"), [({"groups": 2}, "groups of few channels"), ({"zero": 0x38}, "has a zero point")]
)
def test_what_stays_float_says_why(options: dict[str, int], words: str) -> None:
    graph = float_graph(model(**options))
    log = Log()
    FLOAT8.run(graph, log)
    assert any(words in reason for _, _, reason in log.declined)
    verify(graph)


def test_scales_of_folded_weights_are_found_again() -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 0x7F, (50, 40)).astype(np.uint8) | (rng.integers(0, 2, (50, 40)) << 7).astype(np.uint8)
    codes[:, 3] = 0
    codes[:, 5] = rng.integers(0, 9, 50)  # subnormals
    w = numbers(codes, "float8e4m3fn").astype(np.float32) * rng.uniform(1e-4, 3, 40).astype(np.float32)
    found = weight_numbers(w)
    assert found is not None
    near, scale = found
    np.testing.assert_allclose(near * scale, w, rtol=2e-7)
    assert (numbers(number(near, "float8e4m3fn"), "float8e4m3fn") == near).all()
    assert weight_numbers(rng.standard_normal((50, 4)).astype(np.float32)) is None


@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")
def test_a_gpu_stores_and_multiplies_them(feeds: Mapping[str, np.ndarray], timing_cache: Path, tmp_path: Path) -> None:
    gpu = BuildConfig(device="cuda:sm_90", effort=0, cache=timing_cache, precision="fp16")
    build = build_plan(model(), gpu)
    products = [r["workload"] for r in build.plan.report["regions"] if r["op"] in ("Conv", "MatMul")]
    assert len(products) == 3 and all("(float8e4m3fn" in w and "=float8e4m3fn" in w for w in products)
    (want,), (got,) = evaluate(float_graph(model()), feeds), run(build, feeds, tmp_path)
    assert np.abs(got - want).max() <= 0.02 * np.abs(want).max()
    older = build_plan(model(), BuildConfig(device="cuda:sm_80", effort=0, cache=timing_cache, precision="fp16"))
    rows = older.plan.report["regions"]
    assert not any("(float8e4m3fn" in r["workload"] for r in rows if r["tactic"] != "host")
    assert any("sm_80 has no float8e4m3fn" in str(r) for r in rows)
