"""Trained models of the zoo, scored with its own scorer: the engine must reach ONNX Runtime's figure. Skipped where the
zoo is absent."""

from __future__ import annotations

import importlib.util
import os
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import temper
from temper.peers import OnnxRuntime

ZOO = Path(os.environ.get("TEMPER_ZOO", Path(__file__).parents[3] / "shared" / "zoo"))

#: Case -> (score of the model in float32, allowed difference: samples whose two best classes are within rounding, as a
#: fraction).
CASES = {
    "squeezenet": 0.5925,
    "mobilenetv2": 0.8975,
    "resnet56_cifar10": 0.8312,
    "lprnet": 0.8888,
    "ppocr_cls": 0.9010,
    "fastestdet": 0.4657,
    "magika": 0.9609,
}
PROFILES = {"resnet56_cifar10": {"batch": 100}}


def zoo() -> ModuleType:
    if not (ZOO / "zoo.py").is_file():
        pytest.skip(f"the model zoo is not at {ZOO}; set TEMPER_ZOO")
    spec = importlib.util.spec_from_file_location("zoo", ZOO / "zoo.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["zoo"] = module
    spec.loader.exec_module(module)
    return module


def on_host(engine: temper.Engine) -> list[str]:
    """Ops that a plan leaves to the host."""
    return sorted({r["op"] for r in engine.report["regions"] if r["tactic"] == "host"})


@pytest.mark.parametrize("name", CASES)
def test_score(name: str, tmp_path: Path) -> None:
    case = zoo().CASES[name]
    first = next(iter(case.calibration(1)))
    batch = PROFILES.get(name, {}).get("batch")
    shapes = {k: (batch, *x.shape[1:]) if batch else x.shape for k, x in first.items()}
    engine = temper.build(case.model, threads=2, effort=0, shapes=shapes, cache=tmp_path / "cache.sqlite")
    assert on_host(engine) == []
    assert round(case.score(engine.run), 4) == CASES[name]


def test_gpt_grows_within_a_profile(tmp_path: Path) -> None:
    case = zoo().CASES["gpt_nano_sort"]
    profile = temper.Profile.of(B=(1, 1, 4), T=(1, 9, 11))
    engine = temper.build(case.model, threads=2, effort=0, profiles=[profile], cache=tmp_path / "cache.sqlite")
    assert on_host(engine) == []
    assert case.score(engine.run) == 1.0


@pytest.mark.parametrize("name", ["magika", "gpt_nano_sort"])
def test_batches_within_a_profile_and_fixed(name: str, tmp_path: Path) -> None:
    case = zoo().CASES[name]
    peer = OnnxRuntime().prepare(case.model, 1)
    samples = list(case.calibration(12))
    (key,) = samples[0]
    alike = [f[key] for f in samples if f[key].shape == samples[0][key].shape][:3]
    graph_dims = {"magika": {"unk__214": (1, 2, 8)}, "gpt_nano_sort": {"B": (1, 2, 8), "T": (1, 9, 11)}}[name]
    build = partial(temper.build, case.model, threads=2, effort=0, cache=tmp_path / "cache.sqlite")
    ranged = build(profiles=[temper.Profile.of(**graph_dims)])
    for count in (1, len(alike)):
        feeds = {key: np.concatenate(alike[:count])}
        want = peer(feeds)
        fixed = build(shapes={key: feeds[key].shape})
        for engine in (ranged, fixed):
            assert on_host(engine) == []
            for a, b in zip(engine.run(feeds), want, strict=True):
                np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def test_dtln_denoises(tmp_path: Path) -> None:
    z = zoo()
    engines = [
        temper.build(z.MODELS / f"dtln_{i}.onnx", threads=2, effort=0, cache=tmp_path / "cache.sqlite") for i in (1, 2)
    ]
    assert [on_host(e) for e in engines] == [[], []]
    assert round(z.dtln_score(engines[0].run, engines[1].run), 2) == 15.32


def test_basic_pitch_agrees_with_onnx_runtime(tmp_path: Path) -> None:
    path = zoo().MODELS / "basic_pitch.onnx"
    x = (0.3 * np.sin(0.03 * np.arange(43844)) + 0.05 * np.random.default_rng(0).standard_normal(43844)).astype("f4")
    feeds = {"serving_default_input_2:0": x.reshape(1, -1, 1)}
    engine = temper.build(path, threads=2, effort=0, cache=tmp_path / "cache.sqlite")
    assert on_host(engine) == []
    for a, b in zip(engine.run(feeds), OnnxRuntime().prepare(path, 1)(feeds), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
