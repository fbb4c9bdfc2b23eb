"""`temper build`, `run`, `rebuild`, `verify`: what they write and print, and what users may do wrong."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

import temper as package
from temper.cli.sizes import parse_profiles, parse_range, parse_shapes
from temper.errors import ConfigError
from temper.plan.file import read
from tests.commands import Run


def test_build_says_what_it_did(temper: Run, small_onnx: Path, tmp_path: Path) -> None:
    done = temper("build", small_onnx, "-o", tmp_path / "a.plan", "--threads", 1, "--effort", 0)
    assert done.code == 0, done.err
    for word in ("regions", "fused", "tactics", "arena", "weights", "timing cache", "Conv+Relu", "1 thread"):
        assert word in done.out
    again = temper("build", small_onnx, "-o", tmp_path / "b.plan", "--threads", 1, "--effort", 0, "--json")
    summary = json.loads(again.out)
    assert summary["cache"]["cache_misses"] == 0
    assert summary["plan_bytes"] == (tmp_path / "b.plan").stat().st_size
    assert (tmp_path / "a.plan").read_bytes() == (tmp_path / "b.plan").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.plan", "b.plan"]


def test_run_gives_the_models_outputs(temper: Run, small_onnx: Path, plan: Path, image: Path, tmp_path: Path) -> None:
    done = temper("run", plan, "--input", f"image={image}", "--save", tmp_path / "out.npz")
    assert done.code == 0, done.err
    assert "scores" in done.out and "top:" in done.out
    want = onnxruntime.InferenceSession(str(small_onnx)).run(None, {"image": np.load(image)})[0]
    got = np.load(tmp_path / "out.npz")["scores"]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    np.savez(tmp_path / "in.npz", image=np.load(image))
    rows = json.loads(temper("run", plan, "--data", tmp_path / "in.npz", "--json").out)
    assert rows[0]["shape"] == [1, 10]
    assert rows[0]["top"][0][0][0] == int(np.argmax(want))
    assert temper("run", small_onnx, "--data", image, "--effort", 0, "--threads", 1).code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["missing input", "'image'", "(1, 3, 12, 12)"]),
        (["--input", "picture={image}"], ["picture", "the model's inputs are image"]),
        (["--input", "image={folder}/none.npy"], ["none.npy", "No such file"]),
        (["--input", "image={folder}/double.npy"], ["float64", "astype"]),
        (["--data", "{folder}/wide.npy"], ["axis 3 must be 12, not 13"]),
        (["--data", "{folder}/text.npy"], ["text.npy", "neither an .npy nor an .npz"]),
        (["--input", "image={folder}/other.npz"], ["other.npz holds 2 arrays", "--data"]),
        (["--data", "{folder}/other.npz"], ["other.npz", "holds a, b", "image"]),
        (["--data", "{image}", "--save", "{folder}/none/out.npz"], ["does not exist"]),
        (["--data", "{image}", "--save", "/dev/full"], ["not a regular file"]),
    ],
)
def test_run_with_wrong_inputs(
    temper: Run, plan: Path, image: Path, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    x = np.load(image)
    np.save(tmp_path / "double.npy", x.astype(np.float64))
    np.save(tmp_path / "wide.npy", np.zeros((1, 3, 12, 13), np.float32))
    np.savez(tmp_path / "other.npz", a=x, b=x)
    (tmp_path / "text.npy").write_text("not an array")
    done = temper("run", plan, *(a.format(image=image, folder=tmp_path) for a in arguments))
    assert done.code == 1 and done.out == ""
    assert done.err.startswith("error: ") and done.err.count("\n") == 1
    assert all(w in done.err for w in words), done.err


def test_batches(temper: Run, dynamic_onnx: Path, batched: Path, tmp_path: Path) -> None:
    assert read(batched).profiles[0].symbols == {"N": (1, 4, 8)}
    engine = package.load(batched)
    for n in (1, 3, 8):
        assert engine(np.zeros((n, 3, 12, 12), np.float32)).shape == (n, 10)  # type: ignore[union-attr]
    fixed = temper(
        "build", dynamic_onnx, "-o", tmp_path / "two.plan", "--effort", 0, "--threads", 1, "--batch", 2, "--json"
    )
    assert json.loads(fixed.out)["inputs"] == [["image", "float32", [2, 3, 12, 12]]]
    shaped = temper(
        "build",
        dynamic_onnx,
        "-o",
        tmp_path / "c.plan",
        "--effort",
        0,
        "--threads",
        1,
        "--shape",
        "image=3x3x12x12",
        "--json",
    )
    assert json.loads(shaped.out)["inputs"] == [["image", "float32", [3, 3, 12, 12]]]


def test_sizes() -> None:
    assert parse_range("8", "--batch") == (8, 8, 8)
    assert parse_range("1:4:8", "--batch") == (1, 4, 8)
    assert parse_profiles(["N=1:2:4,S=16", "N=8"]) == [{"N": (1, 2, 4), "S": (16, 16, 16)}, {"N": (8, 8, 8)}]
    assert parse_shapes(["a=1x3", "b=c=4,5"]) == {"a": (1, 3), "b=c": (4, 5)}
    for text in ("", "0", "1:2", "3:2:4", "1:2:x"):
        with pytest.raises(ConfigError, match="--batch"):
            parse_range(text, "--batch")
    for text in ("1x3", "a=", "a=1xN", "=1x2"):
        with pytest.raises(ConfigError, match="--shape"):
            parse_shapes([text])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["build", "{folder}/none.onnx", "-o", "{folder}/a.plan"], ["none.onnx", "No such file"]),
        (["build", "{folder}/noise.onnx", "-o", "{folder}/a.plan"], ["noise.onnx", "not an ONNX file"]),
        (["build", "{model}", "-o", "{folder}/none/a.plan"], ["does not exist"]),
        (["build", "{model}", "-o", "{folder}"], ["not a regular file"]),
        (["build", "{model}", "-o", "/dev/full"], ["not a regular file"]),
        (["build", "{model}", "-o", "{folder}/a.plan", "--batch", "4"], ["--batch", "fixed first dimension"]),
        (["build", "{model}", "-o", "{folder}/a.plan", "--profile", "N=1:2:4"], ["N", "all static"]),
        (["build", "{model}", "-o", "{folder}/a.plan", "--stop-after", "nothing"], ["nothing", "the passes are"]),
        (["build", "{model}", "-o", "{folder}/a.plan", "--isa", "sse9"], ["sse9", "avx2"]),
        (
            ["build", "{model}", "-o", "{folder}/a.plan", "--cache", "{folder}/noise.onnx"],
            ["timing cache", "noise.onnx"],
        ),
        (["build", "{plan}", "-o", "{folder}/a.plan"], ["is a plan already"]),
        (["rebuild", "{model}", "-o", "{folder}/a.plan"], ["not a Temper plan"]),
        (["run", "{folder}/none.plan"], ["none.plan", "No such file"]),
        (["inspect", "{model}", "--layers"], ["build it first"]),
        (["bench", "{plan}", "--vs", "onnxruntime"], ["--model"]),
        (["bench", "{plan}", "--vs", "tensorrt"], ["tensorrt", "choose from"]),
        (["bench", "{plan}", "--batch", "2"], ["fixed at 1"]),
        (["compare", "{plan}", "{model}"], ["first"]),
    ],
)
def test_wrong_usage_ends_in_one_line(
    temper: Run, small_onnx: Path, plan: Path, tmp_path: Path, arguments: list[str], words: list[str]
) -> None:
    (tmp_path / "noise.onnx").write_bytes(b"\xff\xfe this is not a model" * 40)
    done = temper(*(a.format(model=small_onnx, plan=plan, folder=tmp_path) for a in arguments))
    assert done.code == 1, done.out
    assert done.err.startswith("error: ") and "Traceback" not in done.err
    assert all(w in done.err for w in words), done.err
    assert [p.name for p in tmp_path.iterdir()] == ["noise.onnx"]


def test_usage_errors_are_two(temper: Run, plan: Path) -> None:
    assert temper("build").code == 2
    assert temper("anneal").code == 2
    assert temper("run", plan, "--speed", "9").code == 2
    assert temper("bench", plan, "--streams", "0").code == 2


def test_stop_after_and_dump(temper: Run, small_onnx: Path, plan: Path, image: Path, tmp_path: Path) -> None:
    done = temper(
        "build",
        small_onnx,
        "-o",
        tmp_path / "s.plan",
        "--threads",
        1,
        "--effort",
        0,
        "--stop-after",
        "fold",
        "--dump",
        tmp_path / "d",
    )
    assert done.code == 0, done.err
    dumped = sorted(p.name for p in (tmp_path / "d").glob("*.txt"))
    assert dumped[0] == "00-import.txt" and dumped[-1].endswith("-fold.txt")
    a, b = (json.loads(temper("run", p, "--data", image, "--json").out)[0] for p in (plan, tmp_path / "s.plan"))
    assert a["top"][0][0][0] == b["top"][0][0][0] and a["mean"] == pytest.approx(b["mean"], rel=1e-4)


def test_rebuild(temper: Run, batched: Path, plan: Path, tmp_path: Path) -> None:
    done = temper("rebuild", batched, "-o", tmp_path / "new.plan")
    assert done.code == 0, done.err
    old, new = read(batched), read(tmp_path / "new.plan")
    assert (new.threads, new.profiles[0].symbols, bytes(new.graph)) == (
        old.threads,
        old.profiles[0].symbols,
        bytes(old.graph),
    )
    x = np.random.default_rng(0).standard_normal((3, 3, 12, 12)).astype(np.float32)
    np.testing.assert_allclose(package.load(batched)(x), package.load(tmp_path / "new.plan")(x), rtol=1e-5, atol=1e-6)
    assert (
        json.loads(temper("rebuild", plan, "-o", tmp_path / "avx2.plan", "--isa", "avx2", "--effort", 0, "--json").out)[
            "isa"
        ]
        == "avx2"
    )


def test_rebuild_needs_the_graph(temper: Run, small_onnx: Path, tmp_path: Path) -> None:
    assert temper("build", small_onnx, "-o", tmp_path / "a.plan", "--threads", 1, "--effort", 0, "-q").code == 0
    done = temper("rebuild", tmp_path / "a.plan", "-o", tmp_path / "b.plan")
    assert done.code == 1 and "--portable" in done.err


def test_altered_plans(temper: Run, plan: Path, image: Path, tmp_path: Path) -> None:
    whole = plan.read_bytes()
    assert temper("verify", plan).code == 0
    bad = tmp_path / "bad.plan"
    for at in (3, 9, 60, 500, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        bad.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        for command in (["run", bad, "--data", image], ["inspect", bad], ["verify", bad]):
            done = temper(*command)
            assert done.code == 1 and done.err.startswith("error: "), (at, command, done)
    for size in (0, 7, 100, len(whole) - 1):
        bad.write_bytes(whole[:size])
        done = temper("run", bad, "--data", image)
        assert done.code == 1 and str(bad) in done.err


def test_knobs(temper: Run) -> None:
    done = temper("knobs")
    assert done.code == 0 and "TEMPER_CACHE" in done.out
