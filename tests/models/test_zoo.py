"""Trained models of the zoo, scored with its own scorer: the engine must reach ONNX Runtime's figure. Skipped where the
zoo is absent."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

import temper

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


@pytest.mark.parametrize("name", CASES)
def test_score(name: str, tmp_path: Path) -> None:
    case = zoo().CASES[name]
    first = next(iter(case.calibration(1)))
    batch = PROFILES.get(name, {}).get("batch")
    shapes = {k: (batch, *x.shape[1:]) if batch else x.shape for k, x in first.items()}
    engine = temper.build(case.model, threads=2, effort=0, shapes=shapes, cache=tmp_path / "cache.sqlite")
    assert {r["op"] for r in engine.report["regions"] if r["tactic"] == "host"} == set()
    assert round(case.score(engine.run), 4) == CASES[name]
