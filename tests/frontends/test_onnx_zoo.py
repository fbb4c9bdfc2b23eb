"""Trained models and the benchmark's networks: import, text form and evaluation, against ONNX Runtime."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest

from benchmarks.models import MODELS
from temper.frontends.onnx import import_onnx
from temper.ir.evaluate import evaluate
from temper.ir.text import constants_of, parse, to_text
from tests.frontends.models import compare, feeds_for, run_reference, zoo

SIZES = {"N": 2, "T": 7, "B": 2, "p2o.DynamicDimension.1": 48, "p2o.DynamicDimension.2": 192}
ZOO = [
    "squeezenet", "mobilenetv2", "resnet56_cifar10", "lprnet", "ppocr_cls", "fastestdet", "gpt_nano_sort", "magika",
    "dtln_1", "dtln_2", "basic_pitch",
]  # fmt: skip


def zoo_model(name: str) -> Path:
    folder = zoo()
    if folder is None:
        pytest.skip("there is no zoo: set TEMPER_ZOO to its folder")
    return folder / "models" / f"{name}.onnx"


@pytest.mark.parametrize("name", ZOO)
def test_trained_model(name: str) -> None:
    path = zoo_model(name)
    graph = import_onnx(path)
    proto = onnx.load(path)
    feeds = feeds_for(proto, SIZES)
    if name == "gpt_nano_sort":
        feeds = {k: v % 3 for k, v in feeds.items()}
    compare(evaluate(graph, feeds), run_reference(proto, feeds), 1e-4)
    assert parse(to_text(graph), constants_of(graph)).hash() == graph.hash()


@pytest.mark.parametrize("name", MODELS)
def test_benchmark_network(name: str) -> None:
    proto = MODELS[name](batch="N", fold_bn=False)
    graph = import_onnx(proto)
    assert parse(to_text(graph), constants_of(graph)).hash() == graph.hash()
    assert str(graph.outputs[0].type.shape[0]) == "N"
    assert import_onnx(proto, dims={"N": 3}).outputs[0].type.static
    feeds = feeds_for(proto, {"N": 1})
    compare(evaluate(graph, feeds), run_reference(proto, feeds), 1e-4)
