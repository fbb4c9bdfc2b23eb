"""Profiles on the command line: batches, trtexec's shape flags, and plans of several profiles in every command."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from temper.cli.sizes import parse_batches, parse_shape_list, parse_shapes, parse_static_shapes, trtexec_profile
from temper.config import Profile
from temper.errors import ConfigError
from tests.commands import Run


def test_batches_and_shape_ranges() -> None:
    assert parse_batches("1,8,2:4:6") == ((1, 1, 1), (8, 8, 8), (2, 4, 6))
    assert parse_shapes(["a=1x3:2x3:4x3"]) == {"a": ((1, 3), (2, 3), (4, 3))}
    with pytest.raises(ConfigError, match="axis 0: needs 0 < min <= opt <= max"):
        parse_shapes(["a=4x3:2x3:4x3"])
    with pytest.raises(ConfigError, match="one shape of an input"):
        parse_static_shapes(["a=1x3:2x3:4x3"])


def test_trtexec_shapes() -> None:
    assert parse_shape_list("x:1x3x8x8,'m:0':4", "--minShapes") == {"x": (1, 3, 8, 8), "m:0": (4,)}
    assert trtexec_profile("", "", "") == ()
    full = trtexec_profile("x:1x3", "x:2x3", "x:8x3")
    assert full == (Profile.of_shapes({"x": ((1, 3), (2, 3), (8, 3))}),)
    assert trtexec_profile("", "x:2x3", "") == (Profile.of_shapes({"x": ((2, 3),) * 3}),)
    for text in ("x=1x3", "x:", ":1x3", "x:1xN"):
        with pytest.raises(ConfigError, match="--minShapes"):
            parse_shape_list(text, "--minShapes")


def test_a_plan_of_several_profiles_in_every_command(temper: Run, dynamic_onnx: Path, tmp_path: Path) -> None:
    plan = tmp_path / "several.plan"
    done = temper(
        "build", dynamic_onnx, "-o", plan, "--effort", 0, "--threads", 1, "--batch", "1,2:3:4", "--portable"
    )  # fmt: skip
    assert done.code == 0, done.err
    assert "profile 0" in done.out and "1:1:1" in done.out and "2:3:4" in done.out
    layers = json.loads(temper("inspect", plan, "--layers", "--tactics", "--memory", "--json").out)
    assert {r["profile"] for r in layers["layers"]} == {0, 1}
    assert {r["profile"] for r in layers["tactics"]} == {0, 1} and any(r["sizes"] for r in layers["tactics"])
    assert len(layers["memory"]) == 2 and all(b["offset"] >= 0 for m in layers["memory"] for b in m["buffers"])
    shown = temper("inspect", plan, "--layers").out
    assert "profile 0:" in shown and "profile 1:" in shown
    for profile in (0, 1):
        assert temper("inspect", plan, "--svg", tmp_path / "a.svg", "--profile", profile).code == 0
        assert temper("inspect", plan, "--memory", "--svg", tmp_path / "m.svg", "--profile", profile).code == 0
    assert temper("inspect", plan, "--svg", tmp_path / "a.svg", "--profile", 2).code != 0
    for batch in (1, 2, 4):
        compared = temper("compare", dynamic_onnx, plan, "--batch", batch, "--per-layer")
        assert compared.code == 0, compared.out + compared.err
    bench = temper("bench", plan, "--batch", 4, "--duration", 0, "--warmup", 0, "--iterations", 1, "--layers", "--json")
    assert bench.code == 0, bench.err
    again = temper("rebuild", plan, "-o", tmp_path / "again.plan", "--json")
    assert again.code == 0, again.err
    assert [list(p.values()) for p in json.loads(again.out)["profiles"]] == [[[1, 1, 1]], [[2, 3, 4]]]
    assert temper("verify", plan).code == 0


def test_build_takes_trtexecs_flags(temper: Run, dynamic_onnx: Path, tmp_path: Path) -> None:
    done = temper(
        "build", dynamic_onnx, "-o", tmp_path / "a.plan", "--effort", 0, "--json",
        "--minShapes=image:1x3x12x12", "--optShapes=image:2x3x12x12", "--maxShapes=image:4x3x12x12",
    )  # fmt: skip
    assert done.code == 0, done.err
    assert [list(p.values()) for p in json.loads(done.out)["profiles"]] == [[[1, 2, 4]]]
    wrong = temper("build", dynamic_onnx, "-o", tmp_path / "b.plan", "--optShapes=picture:2x3x12x12")
    assert wrong.code != 0 and "shapes are given for 'picture'" in wrong.err
