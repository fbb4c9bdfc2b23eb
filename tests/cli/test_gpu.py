"""Commands for GPU plans on a machine without a GPU: builds that time nothing, what is in them, and what needs one."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from temper.cli.bench_gpu import measure_gpu, warnings
from temper.cli.engines import random_feeds
from temper.cli.roofline import roof_of
from temper.debug.deviation import bounds, coarseness
from temper.plan.file import read, write
from temper.runtime.cuda.driver import Gpu
from temper.runtime.engine import Engine
from tests.commands import Run
from tests.runtime.cuda.fake import FakeDriver

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed: no GPU kernel can be compiled", allow_module_level=True)

#: what the driver of an H100 says
H100 = {"gpu": "NVIDIA H100 80GB HBM3", "processors": 132, "clock": 1_980_000, "bandwidth": 3_352_320_000_000}


@pytest.fixture(scope="module")
def gpu_plan(temper: Run, small_onnx: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("gpu") / "small.plan"
    done = temper("build", small_onnx, "-o", made, "--device", "cuda:sm_90", "--no-timing")
    assert done.code == 0, done.err
    assert "a GPU that was not here, sm_90, tf32, effort 0" in done.out
    return made


def test_layers_show_their_kernels(temper: Run, gpu_plan: Path) -> None:
    rows = json.loads(temper("inspect", gpu_plan, "--layers", "--json").out)["layers"]
    native = [r for r in rows if r["tactic"] != "host"]
    assert {r["precision"] for r in native} <= {"", "tf32"} and any(r["precision"] for r in native)
    assert native and all(r["kernels"] for r in native)
    assert all(k["registers"] > 0 and k["threads"] % 32 == 0 for r in native for k in r["kernels"])
    assert all(r["floor"] is None and r["of_floor"] is None for r in rows)  # timed nowhere
    shown = temper("inspect", gpu_plan, "--layers").out
    assert "x floor" in shown and "regs" in shown
    assert all(native[0]["kernels"][0][k] for k in ("name", "threads")) and native[0]["kernels"][0]["name"] in shown


def test_layers_are_held_against_the_roofline(temper: Run, gpu_plan: Path, tmp_path: Path) -> None:
    plan = read(gpu_plan)
    rows = [{**r, "seconds": 1e-6} for r in plan.report["regions"]]
    timed = tmp_path / "timed.plan"
    write(replace(plan, fingerprint={**plan.fingerprint, **H100}, report={**plan.report, "regions": rows}), timed)
    roof = roof_of(read(timed))
    assert roof is not None
    # the data sheet: 3.35 TB/s, and without sparsity 989 TFLOPS in half, 1979 TOPS in INT8 at 1830 MHz
    assert roof.bandwidth == pytest.approx(3.35e12, rel=0.01)
    assert roof.peaks["float16"] == pytest.approx(989e12 * 1980 / 1830, rel=0.01)
    assert roof.floor(3.35e6, 1e3, "int8") == (pytest.approx(1e-6, rel=0.01), "memory")
    assert roof.floor(1, 2 * 1979e6, "int8")[1] == "arithmetic"
    for r in json.loads(temper("inspect", timed, "--layers", "--json").out)["layers"]:
        if r["tactic"] != "host":
            assert r["of_floor"] == pytest.approx(1e-6 / r["floor"]) and r["bound"] in ("memory", "arithmetic")


def test_a_plan_is_rebuilt_for_another_level(temper: Run, gpu_plan: Path, tmp_path: Path) -> None:
    made = tmp_path / "other.plan"
    done = temper("rebuild", gpu_plan, "-o", made, "--device", "cuda:sm_89")
    assert done.code == 0, done.err
    assert read(made).isa == "sm_89" and read(made).device == "cuda"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (["build", "{onnx}", "-o", "{out}", "--device", "cuda:sm_90"], ["cannot be timed", "--no-timing"]),
        (["build", "{onnx}", "-o", "{out}", "--device", "cuda:sm_42", "--no-timing"], ["no device", "cuda:sm_90"]),
        (["build", "{onnx}", "-o", "{out}", "--device", "tpu"], ["no device 'tpu'"]),
        (["run", "{plan}", "--device", "cpu"], ["cannot run on 'cpu'"]),
        (["bench", "{plan}", "--device", "cuda:x"], ["cannot run on 'cuda:x'"]),
        (["bench", "{plan}", "--fp16"], ["is a plan, whose precision was chosen when it was built"]),
        (["bench", "{onnx}", "--fp16"], ["stores tensors in half precision on a GPU"]),
        (["bench", "{onnx}", "--batch", "2", "--shape", "image=2x3x8x8"], ["--batch and --shape exclude each other"]),
        (["calibrate", "{onnx}", "--data", "random:4", "-o", "{out}", "--device", "cuda:sm_90"], ["runs the model"]),
    ],
)
def test_mistakes_are_named(
    temper: Run, gpu_plan: Path, small_onnx: Path, tmp_path: Path, command: list[str], words: list[str]
) -> None:
    done = temper(*(c.format(onnx=small_onnx, plan=gpu_plan, out=tmp_path / "x.plan") for c in command))
    assert done.code == 1 and all(w in done.err for w in words), done.err


def test_running_needs_the_gpu(temper: Run, gpu_plan: Path) -> None:
    done = temper("bench", gpu_plan)
    if done.code == 0:
        pytest.skip("this machine has a GPU")
    assert "driver" in done.err or "cuda-bindings" in done.err or "built for sm_90" in done.err
    checked = temper("verify", gpu_plan)
    assert checked.code == 1 and "are sound, but it cannot run here" in checked.err


def test_building_for_a_gpu_that_is_missing_tells_how(temper: Run, small_onnx: Path, tmp_path: Path) -> None:
    done = temper("build", small_onnx, "-o", tmp_path / "x.plan", "--device", "cuda", "--effort", 0)
    if done.code == 0:
        pytest.skip("this machine has a GPU")
    assert "--device cuda:sm_90 --no-timing" in done.err


def test_bench_takes_several_sizes_and_streams(temper: Run, batched: Path, plan: Path) -> None:
    done = temper("bench", batched, "--batch", "1,8", "--streams", "1,2", "--duration", 0.02, "--json")
    assert done.code == 0, done.err
    runs = json.loads(done.out)["runs"]
    assert [(r["inputs"]["image"][0], r["streams"]) for r in runs] == [(1, 1), (1, 2), (8, 1), (8, 2)]
    shown = temper("bench", batched, "--batch", "1,8", "--duration", 0.02).out
    assert "items/s" in shown and "to GPU" not in shown
    assert temper("bench", plan, "--streams", "1,x").code == 2


def test_bench_measures_what_the_driver_says(gpu_plan: Path) -> None:
    """The fake driver's events are 0.25 ms apart."""
    engine = Engine(read(gpu_plan), gpu=Gpu(0, FakeDriver()))
    feeds = random_feeds(engine)
    found = measure_gpu(engine, feeds, streams=3, duration=0.02, warmup=0.001, iterations=11)
    assert found["latency_ms"]["median"] == found["to_device_ms"] == found["to_host_ms"] == pytest.approx(0.25)
    assert found["calls"] >= 33 and found["throughput_qps"] == pytest.approx(found["calls"] / found["wall_s"])
    assert 0 < found["enqueue_ms"] < 1 and found["call_ms"] > 0


def test_figures_come_with_warnings() -> None:
    fine = {"latency_ms": {"median": 1.0, "mean": 1.0}, "enqueue_ms": 0.01, "to_device_ms": 0.5, "to_host_ms": 0.1}
    assert not warnings(fine, 1, 1e-5)
    assert "0.90 of the GPU's time" in warnings({**fine, "enqueue_ms": 0.9}, 1, 0.0)[0]
    assert "copying inputs to the GPU takes longer" in warnings({**fine, "to_device_ms": 1.0}, 1, 0.0)[0]
    assert "copying results back" in warnings({**fine, "to_host_ms": 3.0}, 1, 0.0)[0]
    assert "vary by 5.0 %" in warnings(fine, 1, 5e-5)[0]
    assert "the throughput is what counts" in warnings(fine, 2, 5e-5)[0] and len(warnings(fine, 2, 5e-5)) == 1


def test_a_build_needs_no_name(
    temper: Run, small_onnx: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The line as the manual has it: `temper build model.onnx --device cuda:sm_90 --no-timing`."""
    monkeypatch.chdir(tmp_path)
    assert temper("build", small_onnx, "--device", "cuda:sm_90", "--no-timing", "-q").code == 0
    assert read(tmp_path / f"{small_onnx.stem}.plan").isa == "sm_90"


def test_bench_runs_at_shapes_and_on_arrays(temper: Run, batched: Path, tmp_path: Path) -> None:
    quick = ("--duration", 0.01, "--warmup", 0, "--json")
    image = next(b for b in read(batched).inputs if b.name == "image")
    text = "x".join(str(d if isinstance(d, int) else 5) for d in image.shape)
    done = json.loads(temper("bench", batched, "--shape", f"image={text}", *quick).out)
    assert done["inputs"]["image"] == [int(n) for n in text.split("x")]
    x = tmp_path / "x.npy"
    np.save(x, np.zeros((3, *done["inputs"]["image"][1:]), np.float32))
    assert json.loads(temper("bench", batched, "--data", x, *quick).out)["inputs"]["image"][0] == 3
    assert "there is no input other" in temper("bench", batched, "--shape", "other=1x2").err
    assert "has ['N'" in temper("bench", batched, "--shape", "image=1x2").err


def test_narrow_products_may_differ_more(gpu_plan: Path) -> None:
    """By default products round their operands to TF32, 13 bits coarser than float32."""
    plan = read(gpu_plan)
    assert coarseness(plan) == 2.0**13
    exact = [{**r, "workload": r["workload"].replace("|tf32", "")} for r in plan.report["regions"]]
    strict = replace(plan, report={**plan.report, "regions": exact})
    assert coarseness(strict) == 1.0
    wide, narrow = bounds(plan, {}), bounds(strict, {})
    products = [i for i, r in enumerate(plan.report["regions"]) if r["op"] in ("Conv", "MatMul")]
    assert products and all(wide.rows[i] - narrow.rows[i] == pytest.approx(4 * 2.0**-10) for i in products)
