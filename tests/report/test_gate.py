"""The regression gate: each condition holds in one case and not in another; the command's exit code follows."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from temper.errors import ConfigError, DataError
from temper.precision import outcome as o
from temper.report.gate import CONDITIONS, failures
from temper.report.judge import judged, with_answers
from temper.report.page import write
from tests.commands import Run
from tests.report.example import bare, rich


def change_chosen(case: o.Outcome, **fields: float) -> o.Outcome:
    points = [dataclasses.replace(p, **fields) if p.kind == "chosen" else p for p in case.points]  # type: ignore[arg-type]
    return dataclasses.replace(case, points=tuple(points))


def test_nothing_asked_nothing_fails() -> None:
    assert failures(dataclasses.replace(rich(), met=False), []) == []


@pytest.mark.parametrize(
    ("condition", "case"),
    [
        ("budget", dataclasses.replace(rich(), met=False)),
        ("uncertain", rich(samples=200)),
        ("uncertain", bare()),
        ("warnings", rich()),
        ("synthetic", bare()),
        ("accuracy", change_chosen(rich(), metric=0.97)),
        ("latency", change_chosen(rich(), ms=1.2)),
    ],
)
def test_conditions_that_hold(condition: str, case: o.Outcome) -> None:
    (found,) = failures(case, [condition], rich())
    assert found.startswith(f"{condition}: ")


def test_a_good_build_passes_all() -> None:
    assert failures(dataclasses.replace(rich(), warnings=()), list(CONDITIONS), rich()) == []


def test_tolerances() -> None:
    worse = change_chosen(rich(), metric=0.97, ms=1.2)
    assert failures(worse, ["accuracy", "latency"], rich(), tolerance=0.03, slowdown=0.5) == []


def test_divergence_stands_in_for_a_metric() -> None:
    old = dataclasses.replace(rich(), points=tuple(dataclasses.replace(p, metric=None) for p in rich().points))
    assert failures(change_chosen(old, divergence=0.5), ["accuracy"], old) == ["accuracy: divergence 0.4 became 0.5"]


def test_another_machine_cannot_be_compared() -> None:
    other = dataclasses.replace(rich(), machine=o.Machine("another", "avx2", 2))
    (found,) = failures(rich(), ["latency"], other)
    assert "cannot be compared" in found


def test_wrong_conditions() -> None:
    with pytest.raises(ConfigError, match="nothing known as 'speed'"):
        failures(rich(), ["speed"])
    with pytest.raises(ConfigError, match="--baseline"):
        failures(rich(), ["latency"])


def test_command(temper: Run, tmp_path: Path) -> None:
    old, new, page = tmp_path / "old.json", tmp_path / "new.json", tmp_path / "page.html"
    write(rich(), old)
    write(change_chosen(rich(), metric=0.97), new)
    good = temper("report", old, "-o", page, "--fail-on", "budget,uncertain")
    assert good.code == 0 and page.exists() and "Within the budget" in good.out
    bad = temper("report", new, "--baseline", old, "--fail-on", "accuracy, latency")
    assert bad.code == 1 and bad.err == "accuracy: top1 0.9905 became 0.97\n"


def test_command_takes_answers(temper: Run, tmp_path: Path) -> None:
    old, answers = tmp_path / "old.json", tmp_path / "answers.npz"
    write(bare(), old)
    scores = np.eye(3, dtype=np.float32)[[0, 1, 2, 0]]
    images = np.random.default_rng(0).random((4, 1, 12, 16), np.float32)
    np.savez(answers, fp32=scores, int8=scores[[0, 1, 1, 0]], labels=np.array([0, 1, 2, 1]), images=images)
    assert temper("report", old, "--answers", answers, "-o", tmp_path / "new.html").code == 0
    data = json.loads((tmp_path / "new.json").read_text())
    assert data["verdict_figures"]["chosen"]["test"]["b"] == 1
    assert list(data["answers"]["images"]) == ["2"]
    assert data["answers"]["origin"] == "answers.npz"


def test_answers_that_do_not_fit(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="fp32 3, int8 2"):
        judged(np.zeros(3, int), np.zeros(2, int))
    with pytest.raises(DataError, match=r"int8: expected scores .* float64 \[3\]"):
        judged(np.zeros(3, int), np.zeros(3))
    path = tmp_path / "a.npz"
    np.savez(path, fp32=np.zeros(3, int))
    with pytest.raises(DataError, match="has no array 'int8'"):
        with_answers(bare(), path)
    path.write_bytes(b"no file")
    with pytest.raises(DataError, match="cannot read answers"):
        with_answers(bare(), path)
    single = tmp_path / "single.npy"
    np.save(single, np.zeros(3))
    with pytest.raises(DataError, match="it is one array"):
        with_answers(bare(), single)
    with pytest.raises(DataError, match="No such file or directory$"):
        with_answers(bare(), tmp_path / "none.npz")
