"""INT8 builds from data to engine: in Python and on the command line."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

import temper as package
from temper.errors import ConfigError, DataError
from temper.ir.portable import from_bytes
from temper.plan.file import read
from temper.runtime.machine import cpu_flags
from tests.commands import Run
from tests.precision.conftest import pictures


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "calib.npz"
    np.savez(path, image=pictures(12))
    return path


def test_command_builds_int8(temper: Run, small_onnx: Path, data: Path, tmp_path: Path) -> None:
    plan, report = tmp_path / "a.plan", tmp_path / "report.json"
    options = ["--threads", 1, "--effort", 0, "--pure-int8", "--report", report]
    done = temper("build", small_onnx, "-o", plan, "--int8", "--calib", data, *options)
    assert done.code == 0, done.err
    assert "INT8" in done.out and "as fast as FP32" in done.out
    regions = [r["op"] for r in read(plan).report["regions"]]
    assert "ConvInt8" in regions and "Conv" not in regions
    assert json.loads(report.read_text())["budget"]["kind"] == "none"
    shown = temper("inspect", plan)
    assert "pure INT8 was asked for" in shown.out


def test_a_rebuilt_plan_stays_int8(temper: Run, small_onnx: Path, data: Path, tmp_path: Path) -> None:
    plan, again = tmp_path / "a.plan", tmp_path / "b.plan"
    options = ["--threads", 1, "--effort", 0, "--keep", "conv1a=fp32", "--portable", "-q"]
    done = temper("build", small_onnx, "-o", plan, "--int8", "--calib", data, *options)
    assert done.code == 0, done.err
    assert temper("rebuild", plan, "-o", again, "-q").code == 0
    graph = from_bytes(read(plan).graph)
    assert all(v.uses or graph.is_output(v) for v in graph.constants), "the float weights are still there"
    x = pictures(3)
    first, second = (package.load(p) for p in (plan, again))
    ops = [[r["op"] for r in e.report["regions"]] for e in (first, second)]
    assert ops[0].count("ConvInt8") == ops[1].count("ConvInt8") > 0 and "Conv" in ops[1]
    for image in x:
        np.testing.assert_array_equal(first(image[None]), second(image[None]))
    assert second.report["int8"]["kept"] == first.report["int8"]["kept"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--calib", "{data}"], "--calib applies only with --int8 or --fp8"),
        (["--skip-bad", "--no-resume"], "--skip-bad, --no-resume applies only with"),
        (["--int8"], "needs calibration data"),
        (["--int8", "--calib", "{data}", "--max-drop", "0.3"], "--eval"),
        (["--int8", "--calib", "{data}", "--keep", "nowhere*=fp32"], "matches no layer"),
        (["--int8", "--calib", "{data}", "--keep", "conv0a=fp17"], "fp17"),
        (["--int8", "--calib", "none.npz"], "none.npz"),
        (["--int8", "--calib", "{data}", "--eval", "{data}.py:score"], "no file"),
        (["--int8", "--calib", "{data}", "--eval", "script.py"], "script.py:function"),
        (["--int8", "--calib", "{data}", "--report", "page.txt"], ".html"),
        (["--fp8", "--device", "cuda:sm_90"], "FP8 needs calibration data"),
    ],
)
def test_command_says_what_is_wrong(
    temper: Run, small_onnx: Path, data: Path, tmp_path: Path, options: list[str], words: str
) -> None:
    given = [o.format(data=data) for o in options]
    done = temper("build", small_onnx, "-o", tmp_path / "a.plan", "--effort", 0, *given)
    assert done.code == 1 and words in done.err, done.err
    assert not (tmp_path / "a.plan").exists()


def test_python_builds_int8(small_onnx: Path, timing_cache: Path, tmp_path: Path) -> None:
    x = pictures(8)
    engine = package.build(
        small_onnx, precision="int8", calibration=(b[None] for b in x), effort=0, cache=timing_cache,
        work=tmp_path, keep=["conv0a=fp32"],
    )  # fmt: skip
    summary = engine.report["int8"]
    assert [k["name"] for k in summary["kept"]] and "pinned" in summary["kept"][0]["why"]
    want = package.build(small_onnx, effort=0, cache=timing_cache)(x[:1])
    np.testing.assert_allclose(engine(x[:1]), want, atol=0.2)


def test_layers_pinned_to_bfloat16(small_onnx: Path, timing_cache: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    engine = package.build(
        small_onnx, precision="int8", calibration=(b[None] for b in pictures(8)), effort=0, cache=timing_cache,
        work=tmp_path, keep=["conv0a=bf16"], pure_int8=True, say=lines.append,
    )  # fmt: skip
    ops = {r["op"] for r in engine.report["regions"]}
    (kept,) = engine.report["int8"]["kept"]
    if "avx512_bf16" in cpu_flags():
        assert "ConvBfloat16" in ops and "ConvInt8" in ops and kept["precision"] == "bfloat16"
    else:
        assert "Conv" in ops and kept["precision"] == "float32"
        assert any("no faster products of bfloat16" in line for line in lines)
    x = pictures(8)[:1]
    np.testing.assert_allclose(engine(x), package.build(small_onnx, effort=0, cache=timing_cache)(x), atol=0.2)


def test_everything_pinned_to_bfloat16(small_onnx: Path, timing_cache: Path, tmp_path: Path) -> None:
    engine = package.build(
        small_onnx, precision="int8", calibration=(b[None] for b in pictures(8)), effort=0, cache=timing_cache,
        work=tmp_path, keep=["*=bf16"],
    )  # fmt: skip
    ops = {r["op"] for r in engine.report["regions"]}
    assert "ConvInt8" not in ops and ("ConvBfloat16" in ops) == ("avx512_bf16" in cpu_flags())


def test_python_says_what_is_wrong(small_onnx: Path) -> None:
    with pytest.raises(ConfigError, match="precision"):
        package.build(small_onnx, precision="int4")
    with pytest.raises(ConfigError, match="calibration applies only to"):
        package.build(small_onnx, calibration=[])
    with pytest.raises(DataError, match="needs calibration data"):
        package.build(small_onnx, precision="int8")
    with pytest.raises(ConfigError, match="a CPU has no float16"):
        package.build(small_onnx, precision="int8", calibration=pictures(4), keep="*=fp16")
    with pytest.raises(ConfigError, match="on a GPU: build"):
        package.build(small_onnx, precision="fp16")
    with pytest.raises(ConfigError, match="there is no device 'tpu'"):
        package.build(small_onnx, device="tpu")
    with pytest.raises(ConfigError, match="there is no device 0"):
        package.build(small_onnx, device=0)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("score", "words"),
    [
        (lambda engine: float("nan"), "nan"),
        (lambda engine: "good", "good"),
        (lambda engine: None, "None"),
        (lambda engine: 1 / 0, "ZeroDivisionError"),
        (lambda engine: [1, 2], "list"),
        (lambda engine: sys.exit(7), "ended the program .*status 7"),
        (lambda: 1.0, r"TypeError: .*takes 0 positional arguments but 1 was given$"),
    ],
)
def test_a_metric_that_is_none(small_onnx: Path, timing_cache: Path, tmp_path: Path, score, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError, match=words):
        package.build(
            small_onnx, precision="int8", calibration=pictures(4), evaluate=score, effort=0, cache=timing_cache,
            work=tmp_path,
        )  # fmt: skip


def test_what_needs_a_look_is_a_warning(small_onnx: Path, timing_cache: Path, tmp_path: Path) -> None:
    """Where nobody takes the lines that a build says."""
    with pytest.warns(package.TemperWarning, match="samples only"):
        package.build(
            small_onnx, precision="int8", calibration=(b[None] for b in pictures(4)), effort=0, cache=timing_cache,
            work=tmp_path, compensate=False,
        )  # fmt: skip


def _truth(x: np.ndarray) -> np.ndarray:
    return (x.mean(axis=(1, 2, 3)) > 0).astype(int)


@pytest.mark.parametrize("told", [False, True])
def test_the_report_has_the_answers(small_onnx: Path, timing_cache: Path, tmp_path: Path, told: bool) -> None:
    """On the user's samples where the evaluation tells them, and on those held back where there is none."""
    x = pictures(24)

    def score(engine: package.Engine) -> package.Score:
        y = np.concatenate([np.asarray(engine(b[None])).reshape(1, -1) for b in x])
        labels = _truth(x)
        return package.Score(float((y.argmax(1) == labels).mean()), y, labels, x, names=[f"n{i}" for i in range(24)])

    report = tmp_path / "r.json"
    package.build(
        small_onnx, precision="int8", calibration=(b[None] for b in x), effort=0, cache=timing_cache,
        work=tmp_path, report=report, evaluate=score if told else None, max_drop=1.0 if told else None,
    )  # fmt: skip
    record = json.loads(report.read_text())
    answers = record["answers"]
    # nothing in the record is left open that a report has a column for
    for site in record["sites"]:
        for name in ("int8_ms", "float_ms", "reformat_ms", "sensitivity", "sqnr", "sqnr_cumulative", "clip_rate"):
            assert site[name] is not None, name
    assert [h["engine"] for h in record["heads"]] == ["all INT8"] * len({h["name"] for h in record["heads"]})
    assert all(h["information_p99"] >= h["information"] >= 0 for h in record["heads"] if h["answers"])
    assert answers["searched"] and len(answers["fp32"]) == len(answers["chosen"]) == (24 if told else 6)
    if told:
        assert answers["labels"] == _truth(x).tolist() and answers["names"][3] == "n3"
    else:
        assert answers["labels"] is None and "held-back" in answers["origin"]
