"""Checked on a real GPU: streams, contexts side by side, captures, graphs, and what a call costs. See device.py."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from temper.builder import build_plan
from temper.config import BuildConfig, Profile
from temper.errors import TemperError
from temper.plan.file import write
from temper.plan.format import Native, Plan
from temper.runtime.cuda.context import CudaContext
from temper.runtime.engine import Engine
from tests.runtime.cuda.checks import check, inputs, same


@check
def callers_streams(plan: Plan) -> str:
    """Results must be right although nothing waits: the input is made on the stream just before, slowly."""
    import torch

    engine = Engine(plan)
    stream = torch.cuda.Stream()
    context = engine.context(stream=stream)
    want = [engine(inputs(4, seed)) for seed in range(8)]
    with torch.cuda.stream(stream):
        got = []
        for seed in range(8):
            x = torch.from_numpy(inputs(4, seed)).cuda(non_blocking=True)
            torch.cuda._sleep(2_000_000)
            x = x + 0
            got.append(torch.from_dlpack(context(x)))
            del x
            torch.empty(4, 8, 16, 16, device="cuda").fill_(7)  # takes the memory of x if nothing holds it
    stream.synchronize()
    for a, b in zip(got, want, strict=True):
        same(a.cpu(), b)
    other = torch.cuda.Stream()
    with torch.cuda.stream(other):
        x = torch.from_numpy(inputs(4, 1)).cuda()
        torch.cuda._sleep(2_000_000)
        x = x + 0
        y = torch.from_dlpack(context(x))  # made on one stream, run on another, read on the first
        same((y + 0).cpu(), want[1])
    return "8 runs in flight, 2 streams"


@check
def several_contexts(plan: Plan) -> str:
    import torch

    engine = Engine(plan)
    want = [engine(inputs(4, seed)) for seed in range(4)]
    wrong: list[str] = []

    def work(seed: int) -> None:
        stream = torch.cuda.Stream()
        context = engine.context(stream=stream)
        with torch.cuda.stream(stream):
            x = torch.from_numpy(inputs(4, seed)).cuda()
            for _ in range(300):
                y = context(x)
            stream.synchronize()
            if not np.array_equal(y.numpy(), want[seed]):
                wrong.append(f"thread {seed}")

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong, wrong
    return "4 threads, 300 runs each"


@check
def capture(plan: Plan) -> str:
    import torch

    engine = Engine(plan)
    want = engine(inputs(4, 3))
    x = torch.zeros(4, 8, 16, 16, device="cuda")
    stream = torch.cuda.Stream()
    context = engine.context(stream=stream)
    with torch.cuda.stream(stream):
        context(x)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            y = torch.from_dlpack(context(x * 2)) + 1
    x.copy_(torch.from_numpy(inputs(4, 3)) / 2)
    context(torch.ones(1, 8, 16, 16, device="cuda"))  # what was captured stays as it is
    del context  # and outlives its context
    torch.cuda.synchronize()
    graph.replay()
    torch.cuda.synchronize()
    same(y.cpu(), want + 1)
    try:
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            engine(x)
    except (TemperError, RuntimeError) as e:
        return f"within a graph of PyTorch; without a context on the stream: {type(e).__name__}"
    raise AssertionError("a capture of the engine's own stream went unnoticed")


@check
def enqueue_cost(plan: Plan) -> str:
    import torch

    engine = Engine(plan)
    words = []
    for label, stream in (("own", None), ("torch's", torch.cuda.Stream()), ("the default", 0)):
        context = engine.context(stream=stream)
        assert isinstance(context, CudaContext)
        x, z = (torch.from_numpy(inputs(1, seed)).cuda() for seed in (0, 1))
        torch.cuda.synchronize()
        context.set_input("x", x)
        context.set_output("y", torch.empty(1, 16, device="cuda"))
        words.append(f"{label} stream {_each(context.enqueue, context.synchronize):.1f} us")
        if label == "torch's":
            y = torch.empty(1, 16, device="cuda")
            with torch.cuda.stream(stream):
                words.append(f"context(x, out=y) {_each(lambda: context(x, out=y), context.synchronize):.1f} us")  # noqa: B023

            def moved() -> None:
                context.set_input("x", z)  # noqa: B023
                context.enqueue()  # noqa: B023
                context.set_input("x", x)  # noqa: B023
                context.enqueue()  # noqa: B023

            words.append(f"set_input + enqueue {_each(moved, context.synchronize) / 2:.1f} us")
    x = inputs(1)
    words.append(f"engine(numpy) {_each(lambda: engine(x), lambda: None):.1f} us")
    return ", ".join(words)


def _each(call: Callable[[], object], wait: Callable[[], object], count: int = 20) -> float:
    """Median microseconds of a call within short bursts that the GPU's queue takes without waiting."""
    for _ in range(20):
        call()
    wait()
    times = []
    for _ in range(50):
        start = time.perf_counter()
        for _ in range(count):
            call()
        times.append((time.perf_counter() - start) / count)
        wait()
    return sorted(times)[25] * 1e6


class Counted:
    """The driver's module, counting calls."""

    def __init__(self, module: Any) -> None:
        self._module = module
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("cu"):
            self.calls[name] += 1
        return getattr(self._module, name)


@check
def no_allocation(plan: Plan) -> str:
    """After the first runs nothing is allocated on the device, whatever the arrays are."""
    import torch

    from temper.runtime.cuda.driver import Gpu, bindings

    driver = Counted(bindings())
    engine = Engine(plan, gpu=Gpu(0, driver))
    context = engine.context(stream=torch.cuda.Stream())
    x = torch.from_numpy(inputs(2)).cuda()
    for _ in range(30):
        torch.from_dlpack(context(x))
        engine(inputs(2))
    driver.calls.clear()
    for _ in range(500):
        torch.from_dlpack(context(x))
        engine(inputs(2))
    assert not driver.calls["cuMemAlloc"] and not driver.calls["cuGraphInstantiate"], driver.calls
    return f"1000 runs: {dict(driver.calls)}"


@check
def big_inputs(plan: Plan) -> str:
    """Host arrays of many megabytes come over right, and how fast."""
    engine = Engine(plan)
    x = np.random.default_rng(1).standard_normal((8192, 8, 16, 16), np.float32)
    want = np.concatenate([engine(x[i : i + 1024]) for i in range(0, 8192, 1024)])
    same(engine(x), want)
    start = time.perf_counter()
    for _ in range(5):
        engine(x)
    each = (time.perf_counter() - start) / 5
    context = engine.context()
    import torch

    y, out = torch.from_numpy(x).cuda(), torch.empty(8192, 16, device="cuda")
    context(y, out=out)
    start = time.perf_counter()
    for _ in range(5):
        context(y, out=out)
    gpu = (time.perf_counter() - start) / 5
    return f"{x.nbytes >> 20} MiB: {each * 1e3:.2f} ms a call, {gpu * 1e3:.2f} ms of them on the GPU"


@check
def graphs_kept(plan: Plan) -> str:
    """More shapes than a context keeps graphs for: those used last stay, results are right either way."""
    from temper.runtime.context import _KEPT_SHAPES
    from temper.runtime.cuda.driver import Gpu, bindings

    driver = Counted(bindings())
    engine = Engine(plan, gpu=Gpu(0, driver))
    context, count = engine.context(), _KEPT_SHAPES + 6
    x = inputs(count)
    want = engine(x)
    for n in range(1, count + 1):
        np.testing.assert_allclose(context(x[:n]), want[:n], atol=2**-9)  # blocked otherwise: sums in another order
    driver.calls.clear()
    for n in range(count - 8, count + 1):
        context(x[:n])
    assert not driver.calls["cuGraphInstantiate"], driver.calls
    context(x[:1])
    assert driver.calls["cuGraphInstantiate"] == 1 and driver.calls["cuGraphExecDestroy"] == 1, driver.calls
    return f"{count} shapes, {_KEPT_SHAPES} kept"


RANGES = """
import sys
import numpy as np
import temper

engine = temper.load(sys.argv[1])
x = np.ones((2, 8, 16, 16), np.float32)
plain, marked = engine(x), engine.context(ranges=True)(x)
assert np.array_equal(plain, marked)
"""


@check
def nvtx_ranges(plan: Plan) -> str:
    """Nsight Compute, where it is, names kernels by the layers' ranges."""
    try:
        Engine(plan).context(ranges=True)
    except TemperError as e:
        assert "pip install nvtx" in str(e), e
        raise AssertionError(f"not checked: {e}") from e
    layers = [x.name for s in plan.programs[0] if isinstance(s, Native) for x in s.launches]
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "small.plan")
        write(plan, path)
        script = Path(folder) / "ranges.py"
        script.write_text(RANGES)
        command = [sys.executable, str(script), path]
        ncu = shutil.which("ncu")
        if ncu:
            kept = ["--nvtx", "--print-nvtx-rename", "kernel", "--metrics", "gpu__time_duration.sum"]
            command = [ncu, *kept, "--nvtx-include", f"temper {plan.report['model']}@{layers[0]}/", *command]
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path)}
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60, env=env)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    if not ncu:
        return f"{len(layers)} layers marked; there is no ncu to read them"
    assert layers[0] in done.stdout, done.stdout[-2000:]
    return f"ncu finds layer '{layers[0]}': {done.stdout.count('gpu__time_duration')} kernel(s)"


@check
def late_sizes(plan: Plan) -> str:
    """Nets whose sizes or steps depend on data, and host steps between kernels, against ONNX Runtime."""
    import onnxruntime
    import torch

    from tests.runtime.cuda import nets

    for name, (graph, feeds) in nets.NETS.items():
        data = nets.model(graph)
        profiles = (Profile.of(N=(1, 2, 4)),) if name == "mixed" else ()
        engine = Engine(build_plan(data, BuildConfig(device="cuda", effort=0, profiles=profiles, tf32=False)).plan)
        peer = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        for x in (*feeds, *feeds):
            want = peer.run(None, x)
            there = engine.run({k: torch.from_numpy(np.array(v)).cuda() for k, v in x.items()})
            for a, b, c in zip(engine.run(x), want, there, strict=True):
                assert a.dtype == b.dtype and a.shape == b.shape, name
                np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
                np.testing.assert_allclose(torch.from_dlpack(c).cpu(), b, rtol=2e-5, atol=1e-6)
    return f"{len(nets.NETS)} nets equal to ONNX Runtime, arrays on the host and on the GPU"


@check
def call_cost(plan: Plan) -> str:
    """Where the microseconds of a call with PyTorch's tensors go."""
    import torch

    from temper.runtime.cuda.inputs import on_device

    engine = Engine(plan)
    stream = torch.cuda.Stream()
    context = engine.context(stream=stream)
    assert isinstance(context, CudaContext)
    x, y, b = torch.from_numpy(inputs(1)).cuda(), torch.empty(1, 16, device="cuda"), plan.inputs[0]
    torch.cuda.synchronize()
    with torch.cuda.stream(stream):
        given = on_device(x, b, context.gpu, context.stream, "input")
        steps: dict[str, Callable[[], object]] = {
            "context(x, out=y)": lambda: context(x, out=y),
            "context(x)": lambda: context(x),
            "from_dlpack(context(x))": lambda: torch.from_dlpack(context(x)),
            "enqueue-like launch": lambda: context._bound_for((given.shape,)).steps[0].run(),  # type: ignore[call-arg]
            "read x": lambda: on_device(x, b, context.gpu, context.stream, "input"),
            "x.__dlpack__": lambda: x.__dlpack__(stream=context.stream.public),
            "current_stream": lambda: torch.cuda.current_stream(x.device).cuda_stream,
            "data_ptr": lambda: x.data_ptr(),
            "hold": lambda: context._moves.hold([given]),
            "capturing": lambda: context.stream.capturing,
            "enter": context.gpu.enter,
        }
        return ", ".join(f"{name} {_each(f, context.synchronize):.2f} us" for name, f in steps.items())
