"""`temper inspect`, `bench` and `compare`: their numbers are consistent, and a broken layer is named."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from temper.cli.graph_svg import Box, draw
from temper.cli.latency import median, percentile
from temper.debug.deviation import difference
from temper.plan.file import read, write
from temper.plan.format import Native
from tests.commands import Run
from tests.passes.test_integer_import import Writer
from tests.precision.conftest import pictures


def test_inspect_overview(temper: Run, plan: Path, small_onnx: Path) -> None:
    shown = json.loads(temper("inspect", plan, "--json").out)
    assert shown["outputs"] == [["scores", "float32", [1, 10]]]
    assert sum(shown["regions_by_op"].values()) == shown["regions"] == sum(shown["tactics"].values())
    assert sum(shown["sections"].values()) < plan.stat().st_size
    assert "arena" in temper("inspect", plan).out
    model = json.loads(temper("inspect", small_onnx, "--json").out)
    assert model["ops"]["Conv"] == 4 and model["symbols"] == []
    assert "4 Conv" in temper("inspect", small_onnx).out


def test_inspect_layers(temper: Run, plan: Path) -> None:
    rows = json.loads(temper("inspect", plan, "--layers", "--json").out)["layers"]
    assert sum(r["share"] for r in rows) == pytest.approx(1.0)
    by_name = {r["name"]: r for r in rows}
    assert by_name["conv0a"]["ops"] == ["Conv", "Relu"]
    least = 2 * 12 * 12 * 16 * 27
    assert least <= by_name["conv0a"]["operations"] <= 1.2 * least
    assert by_name["conv0a"]["gflops"] == pytest.approx(
        by_name["conv0a"]["operations"] / by_name["conv0a"]["seconds"] / 1e9
    )
    assert all(name in temper("inspect", plan, "--layers").out for name in by_name)


def test_inspect_quantized_models(temper: Run, tmp_path: Path) -> None:
    """Which products are on codes, and why another is not."""
    n = Writer()
    x = n("Conv", n.fake("x", 0.03), n.weights(6, 4, 3, 3, zero=[0] * 6), name="first")
    x = n("Conv", n("Sigmoid", x), n.weights(5, 6, 1, 1, zero=[0] * 5), name="second")
    model, made = tmp_path / "quantized.onnx", tmp_path / "quantized.plan"
    onnx.save(n.model(x, (1, 4, 8, 8)), model)
    assert "1 of 2 products" in temper("build", model, "-o", made, "--effort", "0").out
    rows = json.loads(temper("inspect", made, "--layers", "--json").out)["layers"]
    found = {r["precision"]: r for r in rows if r["precision"]}
    assert set(found) == {"int8", "float"}
    assert not found["int8"]["why_float"] and "is not quantized" in found["float"]["why_float"]
    assert "not in INT8" in temper("inspect", made, "--layers").out
    codes = json.loads(temper("inspect", made, "--json").out)["codes"]
    assert (codes["int8"], codes["products"]) == (1, 2) and list(codes["float"].values()) == [1]
    assert 0.5 < codes["share"] < 1


def test_inspect_tactics(temper: Run, plan: Path) -> None:
    rows = json.loads(temper("inspect", plan, "--tactics", "--json").out)["tactics"]
    conv = next(r for r in rows if "conv0b" in r["layers"])
    timed = [t for t in conv["trials"] if t["seconds"] is not None]
    assert conv["trials"][0]["tactic"] == conv["chosen"]
    assert conv["trials"][0]["seconds"] == min(t["seconds"] for t in timed)
    assert any(t["note"].startswith("declined: ") for t in conv["trials"])
    full = json.loads(temper("inspect", plan, "--tactics", "--all", "--json").out)["tactics"]
    assert len(next(r for r in full if "conv0b" in r["layers"])["trials"]) == len(conv["trials"]) + conv["other_ops"]
    assert "->" in temper("inspect", plan, "--tactics").out


def test_inspect_memory(temper: Run, plan: Path, batched: Path) -> None:
    for path in (plan, batched):
        (m,) = json.loads(temper("inspect", path, "--memory", "--json").out)["memory"]
        steps = range(max(b["last"] for b in m["buffers"]) + 1)
        live = [sum(b["bytes"] for b in m["buffers"] if b["first"] <= s <= b["last"]) for s in steps]
        assert max(live) == m["lower_bound"] <= m["arena"] <= m["sum"] + 64 * len(m["buffers"])
        assert max(b["offset"] + b["bytes"] for b in m["buffers"]) <= m["arena"]
    assert "lower bound" in temper("inspect", plan, "--memory").out


def test_inspect_reasons(temper: Run, plan: Path) -> None:
    rows = json.loads(temper("inspect", plan, "--reasons", "--json").out)["reasons"]
    report = read(plan).report
    assert sum(len(r["where"]) for r in rows) >= len({(d[0], d[1]) for d in report["declined"]})
    assert all(r["what"] and r["why"] and r["where"] for r in rows)
    assert temper("inspect", plan, "--reasons").code == 0


def test_pictures(temper: Run, plan: Path, tmp_path: Path) -> None:
    assert temper("inspect", plan, "--svg", tmp_path / "g.svg").code == 0
    text = (tmp_path / "g.svg").read_text()
    ET.fromstring(text)
    for r in read(plan).report["regions"]:
        assert f"<title>{r['name']}" in text
    assert ">image<" in text and ">scores<" in text
    assert temper("inspect", plan, "--memory", "--svg", tmp_path / "m.svg").code == 0
    assert len(ET.fromstring((tmp_path / "m.svg").read_text()).findall(".//{*}title")) == len(read(plan).buffers)
    failed = temper("inspect", plan, "--svg", tmp_path / "none" / "g.svg")
    assert failed.code == 1 and "g.svg" in failed.err


@pytest.mark.parametrize("seed", range(6))
def test_boxes_never_overlap(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 70))
    boxes = [
        Box(f"layer <{i}> & more" * int(rng.integers(1, 4)), "Conv", "1 us", float(rng.random())) for i in range(count)
    ]
    edges = [(int(rng.integers(max(0, j - 9), j)), j) for j in range(1, count) for _ in range(int(rng.integers(0, 3)))]
    root = ET.fromstring(draw(boxes, sorted(set(edges)), [("x", [0])], [("y", [count - 1])], "random"))
    placed = [[float(r.get(k, 0)) for k in ("x", "y", "width", "height")] for r in root.findall(".//{*}g/{*}rect")]
    assert len(placed) == count + 2
    width, height = (float(root.get(k, 0)) for k in ("width", "height"))
    for i, (x, y, w, h) in enumerate(placed):
        assert x >= 0 and y >= 0 and x + w <= width and y + h <= height
        for x2, y2, w2, h2 in placed[:i]:
            assert x + w <= x2 or x2 + w2 <= x or y + h <= y2 or y2 + h2 <= y


def test_bench(temper: Run, plan: Path, batched: Path) -> None:
    done = temper("bench", plan, "--duration", 0.05, "--warmup", 1, "--iterations", 20, "--json", "--layers")
    b = json.loads(done.out)
    ms = b["latency_ms"]
    assert b["calls"] >= 20
    assert ms["min"] <= ms["median"] <= ms["p90"] <= ms["p95"] <= ms["p99"] <= ms["max"]
    assert b["throughput_qps"] == pytest.approx(b["calls"] / b["wall_s"])
    assert 0 < b["enqueue_ms"] <= ms["max"]
    assert [x["name"] for x in b["layers"]] == [r["name"] for r in read(plan).report["regions"]]
    two = json.loads(temper("bench", plan, "--duration", 0.02, "--iterations", 5, "--streams", 2, "--json").out)
    assert two["streams"] == 2 and two["calls"] >= 10
    eight = json.loads(temper("bench", batched, "--batch", 8, "--duration", 0.02, "--json").out)
    assert eight["inputs"] == {"image": [8, 3, 12, 12]}
    assert "throughput" in temper("bench", plan, "--duration", 0.02).out


def test_bench_against_a_peer(spawned: Run, plan: Path, small_onnx: Path) -> None:
    done = spawned("bench", plan, "--vs", "onnxruntime", "--model", small_onnx, "--duration", 0.2, "--json")
    assert done.code == 0, done.err
    ours, theirs = json.loads(done.out)["vs"]
    assert (ours["name"], theirs["name"]) == ("temper", "onnxruntime")
    assert theirs["times_temper"] == pytest.approx(theirs["median_ms"] / ours["median_ms"])


def test_percentiles_are_trtexecs() -> None:
    ordered = [float(i) for i in range(1, 101)]
    assert [percentile(ordered, p) for p in (90, 95, 99)] == [90.0, 95.0, 99.0]
    assert percentile([5.0], 99) == 5.0
    assert median([1.0, 2.0, 4.0, 8.0]) == 3.0 and median([1.0, 2.0, 9.0]) == 2.0


def test_compare_agrees(
    temper: Run, plan: Path, batched: Path, small_onnx: Path, dynamic_onnx: Path, image: Path
) -> None:
    for model, built, extra in ((small_onnx, plan, ["--data", image]), (dynamic_onnx, batched, ["--batch", 3])):
        done = temper("compare", model, built, "--per-layer", "--json", *extra)
        assert done.code == 0, done.out
        found = json.loads(done.out)
        assert {(x["of"], x["against"]) for x in found["outputs"]} >= {
            ("temper", "reference"),
            ("temper", "onnxruntime"),
        }
        assert all(x["relative"] <= x["tolerance"] < 1e-3 for x in found["outputs"])
        assert found["first_deviating_layer"] is None
        assert [x["name"] for x in found["layers"]] == [r["name"] for r in read(built).report["regions"]]
        assert all(x["total"] is not None for x in found["layers"])
    assert "no layer deviates" in temper("compare", small_onnx, plan, "--per-layer").out


def test_compare_names_the_broken_layer(temper: Run, plan: Path, small_onnx: Path, tmp_path: Path) -> None:
    good = read(plan)
    launches = [x for s in good.programs[0] if isinstance(s, Native) for x in s.launches]
    broken = next(x for x in launches if x.name == "conv1a")
    constants = bytearray(good.constants)
    for a in broken.args:
        if a.kind == "const":
            assert isinstance(a.offset, int)
            block = np.frombuffer(constants, np.float32, 16, a.offset)
            block *= 1.01
    write(replace(good, constants=bytes(constants)), tmp_path / "broken.plan")
    done = temper("compare", small_onnx, tmp_path / "broken.plan", "--per-layer", "--json")
    found = json.loads(done.out)
    assert done.code == 1
    assert found["first_deviating_layer"] == "conv1a"
    assert [x["name"] for x in found["layers"] if x["deviates"]] == ["conv1a"]
    text = temper("compare", small_onnx, tmp_path / "broken.plan", "--per-layer")
    assert text.code == 1 and "the first layer that deviates is 'conv1a'" in text.out
    assert temper("compare", small_onnx, tmp_path / "broken.plan", "--per-layer", "--tolerance", 0.1).code == 0
    assert temper("compare", small_onnx, plan, "--tolerance", 0).code == 1


def test_compare_of_an_int8_plan(temper: Run, small_onnx: Path, tmp_path: Path) -> None:
    """By the quantized graph in it, or by nothing: how far INT8 may be from FP32 its build has judged."""
    np.save(tmp_path / "data.npy", pictures(8))
    for name, extra in (("bare", []), ("portable", ["--portable"])):
        options = ["--int8", "--calib", tmp_path / "data.npy", "--effort", 0, "--threads", 1, "-q", *extra]
        assert temper("build", small_onnx, "-o", tmp_path / name, *options).code == 0
    shown = temper("compare", small_onnx, tmp_path / "bare")
    assert shown.code == 0 and "judged only by --tolerance" in shown.out and "DEVIATES" not in shown.out
    strict = temper("compare", small_onnx, tmp_path / "bare", "--tolerance", "1e-6")
    assert strict.code == 1 and "DEVIATES" in strict.out
    layers = temper("compare", small_onnx, tmp_path / "bare", "--per-layer")
    assert layers.code == 1 and "--portable" in layers.err
    whole = temper("compare", small_onnx, tmp_path / "portable", "--per-layer", "--json")
    found = json.loads(whole.out)
    assert whole.code == 0 and found["first_deviating_layer"] is None
    assert found["outputs"][0]["against"] == "quantized graph" and found["outputs"][0]["relative"] < 1e-5
    assert not any(x["note"] for x in found["layers"])


def test_compare_with_another_model(temper: Run, plan: Path, dynamic_onnx: Path, tmp_path: Path) -> None:
    import onnx

    other = onnx.load(dynamic_onnx)
    other.graph.output[0].name = other.graph.node[-1].output[0] = "logits"
    onnx.save(other, tmp_path / "other.onnx")
    done = temper("compare", tmp_path / "other.onnx", plan)
    assert done.code == 1 and "was not built from" in done.err


def test_difference() -> None:
    want = np.array([1.0, -4.0, np.nan, np.inf], np.float32)
    assert difference(want.copy(), want, "float32").relative == 0
    assert difference(want + np.float32([0.5, 0, 0, 0]), want, "float32").relative == pytest.approx(0.125)
    assert difference(np.array([1, -4, 0, np.inf], np.float32), want, "float32").relative == np.inf
    assert difference(want[:2], want, "float32").relative == np.inf
    assert difference(np.array([1, 2, 3]), np.array([1, 2, 4]), "int64").relative == pytest.approx(1 / 3)
    assert difference(np.array([0.0]), np.array([0.0]), "float32").relative == 0
    assert difference(np.array([1e-3]), np.array([0.0]), "float32").relative == np.inf
