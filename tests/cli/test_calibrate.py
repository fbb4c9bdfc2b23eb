"""`temper calibrate`: the cache it writes, what it says, and what it makes of bad input and interruption."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import onnx
import pytest

from temper.errors import ConfigError
from temper.precision.images import Preprocess
from temper.quantize.cache import from_text
from tests.commands import Run, start
from tests.conftest import small_model
from tests.precision.conftest import pictures


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "calib.npz"
    np.savez(path, image=pictures(40))
    return path


def test_cache_by_the_models_names(temper: Run, small_onnx: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.cache"
    done = temper("calibrate", small_onnx, "--data", data, "--calibrator", "minmax", "-o", out, "--effort", 0)
    assert done.code == 0, done.err
    assert "40 samples" in done.out and "model.cache" in done.out
    cache = from_text(out.read_text())
    assert cache.algorithm == "MinMaxCalibration"
    assert {"image", "relu0a", "relu0b"} <= set(cache.amax)
    known = {o for n in onnx.load(small_onnx).graph.node for o in n.output} | {"image"}
    assert set(cache.amax) <= known
    assert cache.amax["image"] == pytest.approx(np.abs(pictures(40)).max(), rel=1e-6)  # held-back batches too


def test_auto_and_json(temper: Run, small_onnx: Path, data: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.cache"
    done = temper("calibrate", small_onnx, "--data", data, "-o", out, "--effort", 0, "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert (found["calibrator"], found["samples"], found["held_back"]) == ("auto", 40, 10)
    assert out.read_text().startswith("TRT-8600-AutoCalibration\n")
    cache = from_text(out.read_text()).amax
    for name, tensor in found["tensors"].items():
        assert cache[name] == pytest.approx(tensor["amax"], rel=1e-6)
        assert 0 < tensor["noise"] < 1
    assert not found["synthetic"] and isinstance(found["audit"], list)


def test_the_cache_builds_an_int8_plan(temper: Run, small_onnx: Path, data: Path, tmp_path: Path) -> None:
    out, plan = tmp_path / "model.cache", tmp_path / "model.plan"
    assert temper("calibrate", small_onnx, "--data", data, "-o", out, "--effort", 0, "-q").out == ""
    done = temper("build", small_onnx, "--int8", "--calib-cache", out, "-o", plan, "--effort", 0, "--threads", 1)
    assert done.code == 0, done.err
    other = tmp_path / "other.onnx"
    renamed = small_model()
    inner = {o for node in renamed.graph.node for o in node.output} - {"scores"}
    for node in renamed.graph.node:
        node.output[:] = [f"other/{o}" if o in inner else o for o in node.output]
        node.input[:] = [f"other/{i}" if i in inner else i for i in node.input]
    onnx.save(renamed, other)
    done = temper("build", other, "--int8", "--calib-cache", out, "-o", plan, "--effort", 0, "--threads", 1)
    assert done.code == 1
    assert "model.cache has no entry for" in done.err and "other/relu0a" in done.err


def test_a_calibrator_of_a_script_asks_for_its_algorithm(
    temper: Run, small_onnx: Path, data: Path, tmp_path: Path
) -> None:
    (tmp_path / "own.py").write_text(
        "import numpy as np, temper\n"
        "class Own(temper.MSECalibrator):\n"
        f"    left = list(np.load({str(data)!r})['image'][:4])\n"
        "    def get_batch(self, names):\n"
        "        return {names[0]: self.left.pop()[None]} if self.left else None\n"
    )
    out = tmp_path / "model.cache"
    done = temper("calibrate", small_onnx, "--data", f"{tmp_path / 'own.py'}:Own", "-o", out, "--effort", 0)
    assert done.code == 0, done.err
    assert out.read_text().startswith("TRT-8600-MSECalibration\n")
    assert "warning: there are 4 samples only" in done.err


def test_random_data_is_marked(temper: Run, small_onnx: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.cache"
    done = temper("calibrate", small_onnx, "--data", "random:40", "-o", out, "--effort", 0, "--json")
    assert done.code == 0, done.err
    assert json.loads(done.out)["synthetic"]
    assert "warning: calibrated on random numbers" in done.err


def test_pictures(temper: Run, small_onnx: Path, tmp_path: Path) -> None:
    from PIL import Image

    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(6):
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), np.uint8)).save(folder / f"{i}.png")
    (folder / "bad.jpg").write_bytes(b"")
    out = tmp_path / "model.cache"
    done = temper("calibrate", small_onnx, "--data", folder, "-o", out, "--effort", 0)
    assert done.code == 1 and "bad.jpg: it is empty" in done.err and not out.exists()
    options = ("--calib-mean", "0.5,0.5,0.5", "--calib-std", "0.25", "--skip-bad", "--calib-fit", "stretch")
    done = temper("calibrate", small_onnx, "--data", folder, "-o", out, "--effort", 0, *options)
    assert done.code == 0, done.err
    assert "1 unusable samples were left out: bad.jpg" in done.err and "by the default" not in done.err
    assert from_text(out.read_text()).amax["image"] < 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--data", "nowhere.npz"), "there is no calibration data at nowhere.npz"),
        (("--data", "random:4", "--calibrator", "median"), "there is no calibrator 'median'"),
        (("--data", "random:4", "--calib-std", "0,x"), "--calib-std: 'x' is not a number"),
        (("--data", "random:4", "-o", "no/such/folder/a.cache"), "does not exist"),
    ],
)
def test_wrong_options(temper: Run, small_onnx: Path, tmp_path: Path, options: tuple[str, ...], says: str) -> None:
    done = temper("calibrate", small_onnx, "-o", tmp_path / "a.cache", "--effort", 0, *options)
    assert done.code == 1
    assert says in done.err


def test_preprocessing_options() -> None:
    from temper.cli.pictures import preprocess

    assert preprocess("", "", "", "", "") is None
    assert preprocess("1,2,3", "4", "1/2", "bgr", "pad") == Preprocess((1.0, 2.0, 3.0), (4.0,), 0.5, "BGR", "pad")
    with pytest.raises(ConfigError, match="--calib-scale"):
        preprocess("", "", "1/0", "", "")


def test_interrupted_and_continued(small_onnx: Path, timing_cache: Path, tmp_path: Path) -> None:
    """Ctrl-C while calibrating keeps what was done; the next run goes on from there."""
    (tmp_path / "slow.py").write_text(
        "import numpy as np, os, signal\n"
        "def batches():\n"
        "    for i in range(12):\n"
        "        yield np.full((1, 3, 12, 12), i + 1.0, np.float32)\n"
    )
    (tmp_path / "sitecustomize.py").write_text(
        "import os, signal\n"
        "at = int(os.environ.get('STOP_AT', 0))\n"
        "if at:\n"
        "    import temper.precision.spool as spool\n"
        "    load, count = spool.Spool.load, [0]\n"
        "    def stopping(self, index):\n"
        "        count[0] += 1\n"
        "        if count[0] == at:\n"
        "            os.kill(os.getpid(), signal.SIGINT)\n"
        "        return load(self, index)\n"
        "    spool.Spool.load = stopping\n"
    )
    args = ("calibrate", small_onnx, "--data", f"{tmp_path / 'slow.py'}:batches", "-o", tmp_path / "a.cache")
    work = timing_cache.parent / "int8"
    before = set(work.glob("calibration-*")) if work.is_dir() else set()

    def run(stop: int) -> tuple[int, str]:
        path = os.pathsep.join([str(tmp_path), str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
        env = {"STOP_AT": str(stop), "PYTHONPATH": path}
        process = start(*args, "--effort", 0, "--json", cache=timing_cache, env=env)
        out, err = process.communicate(timeout=120)
        return process.returncode, out + err

    code, text = run(6)
    assert code == 130, text
    assert "the same command goes on" in text and "interrupted" in text and not (tmp_path / "a.cache").exists()
    (state,) = set(work.glob("calibration-*")) - before
    with np.load(state) as z:
        assert z["batches"].sum() == 5
    written = state.stat().st_mtime_ns
    code, text = run(0)
    assert code == 0, text
    with np.load(state) as z:
        assert z["batches"].sum() == 12
    assert state.stat().st_mtime_ns > written
