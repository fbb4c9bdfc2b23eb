"""Commands on plans with sub-programs and with sizes that depend on data."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.commands import Run
from tests.frontends.test_onnx_data_sizes import detector
from tests.frontends.test_onnx_flow import greedy, scripted_branch


@pytest.mark.parametrize("make", [greedy, scripted_branch, detector])
def test_commands(make: Callable[[], Any], temper: Run, tmp_path: Path) -> None:
    model, plan = tmp_path / "m.onnx", tmp_path / "m.plan"
    onnx.save(make(), model)
    assert temper("build", model, "-o", plan, "--effort", 0).code == 0
    done = temper("inspect", plan, "--layers")
    text = " ".join(done.out.split())
    assert done.code == 0 and ("depends on data" in text or "finds sizes in data" in text)
    done = temper("compare", model, plan, "--per-layer", "--json")
    assert done.code == 0, done.out
    found = json.loads(done.out)
    assert found["first_deviating_layer"] is None
    assert {x["of"] for x in found["outputs"]} == {"temper", "onnxruntime"}
    done = temper("bench", plan, "--duration", 0, "--warmup", 0, "--layers", "--json")
    assert done.code == 0, done.out + done.err


def test_layers_of_sub_programs_are_listed(temper: Run, tmp_path: Path) -> None:
    onnx.save(greedy(), tmp_path / "m.onnx")
    temper("build", tmp_path / "m.onnx", "-o", tmp_path / "m.plan", "--effort", 0)
    out = temper("inspect", tmp_path / "m.plan", "--layers", "--json").out
    layers = {row["name"]: row for row in json.loads(out)["layers"]}
    assert layers["decode"]["tactic"] == "host" and "how often it runs" in layers["decode"]["reason"]
    assert layers["decode/body/logits"]["tactic"].startswith("cpu.")
