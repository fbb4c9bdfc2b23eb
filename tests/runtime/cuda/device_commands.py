"""Checked on a real GPU: the command line from build to bench, and copies of big host arrays. See device.py."""

from __future__ import annotations

import itertools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from typer.testing import CliRunner

from temper.cli.app import app
from temper.plan.format import Plan
from tests.runtime.cuda.checks import check, model, same


def _run(*args: object) -> str:
    done = CliRunner().invoke(app, [str(a) for a in args])
    assert done.exit_code == 0, f"temper {' '.join(map(str, args))}: {done.output}\n{done.exception!r}"
    return done.stdout


@check
def commands(plan: Plan) -> str:
    """build, inspect, bench, run, and a plan made for a GPU that is not there, rebuilt here."""
    with tempfile.TemporaryDirectory() as folder:
        onnx, made, away, here = (Path(folder) / n for n in ("small.onnx", "a.plan", "b.plan", "c.plan"))
        onnx.write_bytes(model())
        _run("build", onnx, "-o", made, "--device", "cuda", "--fp16", "--batch", "1,64", "--effort", 1, "-q")
        rows = json.loads(_run("inspect", made, "--layers", "--json"))["layers"]
        kernels = [k for r in rows for k in r["kernels"]]
        assert kernels and all(k["registers"] > 0 and k["threads"] % 32 == 0 for k in kernels), kernels
        assert all(r["of_floor"] > 0 and r["bound"] in ("memory", "arithmetic") for r in rows), rows
        shown = _run("inspect", made, "--layers")
        assert all(w in shown for w in ("x floor", "regs", "shared", "tactic", "share %", "MFLOP", "bytes")), shown
        text = _run("bench", made, "--batch", "1,64", "--streams", "1,2", "--duration", 0.1, "--json")
        done = json.loads(text)["runs"]
        assert [(r["inputs"]["x"][0], r["streams"]) for r in done] == [(1, 1), (1, 2), (64, 1), (64, 2)], done
        assert all(r["latency_ms"]["median"] > 0 and r["to_device_ms"] > 0 for r in done), done
        _run("build", onnx, "-o", away, "--device", "cuda:sm_90", "--no-timing", "-q", "--batch", 2)
        _run("rebuild", away, "-o", here, "--effort", 1, "-q")
        rebuilt = json.loads(_run("inspect", here, "--layers", "--json"))["layers"]
        assert all(r["of_floor"] is not None for r in rebuilt), rebuilt
        _run("compare", onnx, here)
        x = Path(folder) / "x.npy"
        np.save(x, np.ones((2, 8, 16, 16), np.float32))
        _run("run", here, "--input", f"x={x}", "--save", Path(folder) / "y.npz")
        assert np.load(Path(folder) / "y.npz")["y"].shape == (2, 16)
    one, many = done[0]["latency_ms"]["median"], done[1]["throughput_qps"] / done[0]["throughput_qps"]
    return f"batch 1: {one * 1e3:.1f} us; two streams do {many:.2f} times as many; {len(kernels)} kernels inspected"


@check
def examples(plan: Plan) -> str:
    """The first commands that a user tries: INT8 from a folder of pictures for four batch sizes in one plan with one
    copy of the weights, its speed with several streams, what is in it; and mistakes, each with its status."""
    from PIL import Image

    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        for k in range(12):
            Image.fromarray(rng.integers(0, 256, (20, 24, 3), np.uint8)).save(folder / "images" / f"{k}.png")
        onnx, four = folder / "net.onnx", folder / "four.plan"
        onnx.write_bytes(model(32, 3, width=3))
        start = time.perf_counter()
        calib = ("--int8", "--calib", folder / "images")
        _run("build", onnx, "--device", "cuda", *calib, "--batch", "1,8,32,128", "-o", four, "--effort", 1)
        seconds = time.perf_counter() - start
        weights, parameters = json.loads(_run("inspect", four, "--json"))["weights_bytes"], 9 * 32 * (3 + 32 + 32)
        assert weights < 3 * parameters, (weights, parameters)  # of one or two bytes
        shown = _run("inspect", four, "--layers")
        assert all(f"N {n}" in shown for n in (1, 8, 32, 128)), shown
        assert all(w in shown for w in ("kernel", "tactic", "regs", "shared", "bytes", "share %", "x floor")), shown
        shown = _run("bench", four, "--batch", "1,8,32,128", "--streams", "1,2,4", "--duration", 0.05)
        assert all(w in shown for w in ("to GPU ms", "back ms", "enqueue us", "streams")), shown
        _run("bench", four, "--layers", "--duration", 0.05)
        _run("verify", four)
        np.save(folder / "x.npy", rng.random((8, 3, 16, 16), np.float32))  # as pictures are
        _run("compare", onnx, four, "--tolerance", 0.2, "--data", folder / "x.npy")
        _run("debug", "check", onnx, "--device", "cuda", "--shape", "x=2x3x16x16")
        for fault, *line in (
            ("no GPU 7", "build", onnx, "--device", "cuda:7", "-o", folder / "x.plan"),
            ("no GPU 7", "bench", four, "--device", "cuda:7"),
            ("cannot run on 'cpu'", "run", four, "--device", "cpu"),
        ):
            done = CliRunner().invoke(app, [str(a) for a in line])
            assert done.exit_code == 1 and fault in done.output, (line, done.output, done.exception)
    return f"INT8 for four batch sizes in {seconds:.1f} s, {weights} bytes of weights"


@check
def staging(plan: Plan) -> str:
    """Gigabytes a second of host arrays by the driver alone and through pinned chunks (for a machine that is idle)."""
    from temper.runtime.cuda.driver import Gpu, Stream
    from temper.runtime.cuda.staging import Staging

    gpu = Gpu()
    stream = Stream(gpu)
    lines = []
    for megabytes, kib in itertools.product((4, 8, 16, 32, 64), (512, 1024, 2048)):
        chunks = Staging(gpu, kib << 10)
        n = megabytes << 20
        source, back = np.random.default_rng(0).integers(0, 256, n, np.uint8), np.ones(n, np.uint8)
        block = gpu.allocate(n, "a check")

        def up() -> None:
            gpu.driver("cuMemcpyHtoDAsync", block.address, source.ctypes.data, n, stream.handle)  # noqa: B023
            stream.wait()

        def up_chunks() -> None:
            chunks.upload(block.address, source, stream)  # noqa: B023
            stream.wait()

        def down() -> None:
            gpu.driver("cuMemcpyDtoHAsync", back.ctypes.data, block.address, n, stream.handle)  # noqa: B023
            stream.wait()

        def down_chunks() -> None:
            chunks.download(back, block.address, stream)  # noqa: B023

        rates = [_rate(f, n) for f in (up, up_chunks, down, down_chunks)]
        same(back, source)
        each = [f"{x:.1f}" for x in rates]
        to, back_ = " / ".join(each[:2]), " / ".join(each[2:])
        lines.append(f"{megabytes} MiB in chunks of {kib} KiB: to the GPU {to}, back {back_}")
    return "GB/s, driver / chunks\n  " + "\n  ".join(lines)


def _rate(copy: Any, nbytes: int) -> float:
    """Gigabytes a second, the median of some copies."""
    copy()
    times = []
    for _ in range(9):
        start = time.perf_counter()
        copy()
        times.append(time.perf_counter() - start)
    return nbytes / sorted(times)[4] / 1e9
