"""The GPU runtime on a real GPU: arrays of PyTorch, CuPy and JAX, streams, captures, faults, and what a call costs.

    python -m tests.runtime.cuda.device

builds a small model on this machine's GPU, runs every check and prints a line each; status 1 if one fails.
"""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from temper.builder import build_plan
from temper.config import BuildConfig, Profile
from temper.errors import TemperError
from temper.plan.format import Plan
from temper.runtime.cuda.context import CudaContext
from temper.runtime.engine import Engine

CHECKS: dict[str, Callable[[Plan], str]] = {}


def check(f: Callable[[Plan], str]) -> Callable[[Plan], str]:
    CHECKS[f.__name__] = f
    return f


def model(channels: int = 16, layers: int = 6) -> bytes:
    """x [N, 8, 16, 16] -> y [N, channels] through convolutions."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes, weights, name, width = [], [], "x", 8
    for k in range(layers):
        w = rng.standard_normal((channels, width, 3, 3), np.float32) / (3 * width**0.5)
        weights.append(numpy_helper.from_array(w, f"w{k}"))
        nodes.append(helper.make_node("Conv", [name, f"w{k}"], [f"c{k}"], pads=[1, 1, 1, 1], name=f"conv{k}"))
        nodes.append(helper.make_node("Relu", [f"c{k}"], [f"r{k}"], name=f"relu{k}"))
        name, width = f"r{k}", channels
    nodes.append(helper.make_node("GlobalAveragePool", [name], ["p"], name="mean"))
    nodes.append(helper.make_node("Flatten", ["p"], ["y"], name="flat"))
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ("N", 8, 16, 16))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, ("N", channels))
    graph = helper.make_graph(nodes, "small", [x], [y], weights)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(made.SerializeToString())


def inputs(batch: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((batch, 8, 16, 16), np.float32)


def same(a: Any, b: Any) -> None:
    np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@check
def numpy_arrays(plan: Plan) -> str:
    from temper.runtime.cuda.driver import Gpu

    engine, cpu = Engine(plan), build_plan(model(), BuildConfig(device="cuda:" + Gpu().isa, effort=0)).plan
    want = Engine(cpu)(inputs(1))
    np.testing.assert_allclose(engine(inputs(1)), want, rtol=1e-4, atol=1e-5)
    return "equal to an untuned build"


@check
def torch_arrays(plan: Plan) -> str:
    import torch

    engine = Engine(plan)
    want = engine(inputs(3))
    x = torch.from_numpy(inputs(3)).cuda()
    y = engine(x)
    same(torch.from_dlpack(y).cpu(), want)
    out = torch.empty(3, 16, device="cuda")
    assert engine(x, out=out) is out
    same(out.cpu(), want)
    same(engine(x[:, :, :, :].clone()[1:], out=out[1:]).cpu(), want[1:])  # parts of arrays
    odd = torch.empty(3 * 8 * 256 + 1, device="cuda")[1:].view(3, 8, 16, 16)
    odd.copy_(x)
    same(engine(odd).numpy(), want)  # misaligned: copied
    for bad, words in ((x.half(), "dtype"), (x.permute(0, 1, 3, 2), "contiguous"), (x.cpu(), "not on a GPU")):
        try:
            engine(bad)
        except TemperError as e:
            assert "'x'" in str(e) and words in str(e), e
        else:
            raise AssertionError(words)
    return "in, out, parts, misaligned, wrong ones named"


@check
def cupy_arrays(plan: Plan) -> str:
    import cupy

    engine = Engine(plan)
    want = engine(inputs(2))
    x = cupy.asarray(inputs(2))
    same(cupy.asarray(engine(x)).get(), want)
    same(cupy.from_dlpack(engine(x)).get(), want)

    class Old:  # the older of the two protocols alone
        __cuda_array_interface__ = x.__cuda_array_interface__

    same(engine(Old()).numpy(), want)
    stream = cupy.cuda.Stream(non_blocking=True)
    with stream:
        y = engine.context(stream=stream)(x)
        same(cupy.asarray(y).get(), want)
    return "DLPack, CUDA array interface, its streams"


@check
def jax_arrays(plan: Plan) -> str:
    import jax

    engine = Engine(plan)
    x = jax.device_put(inputs(2))
    same(jax.dlpack.from_dlpack(engine(x)), engine(inputs(2)))
    return "in and out"


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


FAULT = """
import numpy as np
from temper.runtime.cuda.driver import Gpu, Stream
from temper.runtime.cuda.launch import Functions, LaunchCall, Graph
from temper.compile.triton import TritonSource, compile_cubin
from temper.plan.cubins import DeviceFunction
from temper.errors import DeviceError
text = '''import triton
import triton.language as tl

@triton.jit
def wild(y):
    tl.store(y + tl.arange(0, 128), 1.0)
'''
gpu = Gpu()
stream = Stream(gpu)
made = compile_cubin(TritonSource(text, "wild", (("y", "*fp32"),)), gpu.isa)
code = DeviceFunction("wild", made.data, made.threads, scratch=made.scratch)
Graph(gpu, [LaunchCall(Functions(gpu, {"wild": code}), "wild", [1 << 20], [], 4, "wild layer")]).launch(stream)
for again in (False, True):
    try:
        stream.wait("running 'a model'")
    except DeviceError as e:
        print("caught:", e)
"""


@check
def faults(plan: Plan) -> str:
    done = subprocess.run([sys.executable, "-c", FAULT], capture_output=True, text=True, check=False)
    lines = [x for x in done.stdout.splitlines() if x.startswith("caught:")]
    assert done.returncode == 0 and len(lines) == 2, done.stdout + done.stderr
    assert "running 'a model': CUDA_ERROR" in lines[0] and "since a kernel faulted before" in lines[1], lines
    return lines[0][8:80]


@check
def tuning(plan: Plan) -> str:
    """Of three candidates for a layer one faults and one never ends: they are out, with reasons; the third is timed."""
    from temper.compile.triton import TritonSource, compile_cubin, triton_version
    from temper.runtime.cuda.driver import Gpu
    from temper.tactics.cuda.kernel import TritonKernel
    from temper.target import target_of
    from temper.tune import select
    from temper.tune.cuda import from_bytes, to_bytes
    from temper.tune.cuda_bench import Entrant
    from temper.tune.cuda_judge import Judge

    tasks: list[select.Task] = []

    class Done(Exception):
        pass

    class Listening(select.Tuner):
        def choose(self, given: Any) -> Any:
            tasks.extend(given)
            raise Done

    import temper.builder as builder

    builder.Tuner, kept = Listening, builder.Tuner  # type: ignore[misc]
    try:
        builder.build_plan(model(layers=1), BuildConfig(device="cuda", effort=1))
    except Done:
        pass
    finally:
        builder.Tuner = kept  # type: ignore[misc]
    task = next(t for t in tasks if t.workload.op == "Conv")
    tactics = target_of(BuildConfig(device="cuda", effort=1)).tactics()
    (chosen, *_), _ = select.candidates_for(tactics, task.workload, 1, triton_version(), task.env)
    kernel = chosen.kernel
    assert isinstance(kernel, TritonKernel)
    first = kernel.triton.signature[0][0]
    bad = {
        "sound": "",
        "faults": f"    tl.store({first} + (1 << 44), tl.load({first}))\n",
        "hangs": f"    n = 0\n    while tl.load({first}, volatile=True) < 3.0e38:\n        n += 1\n",
    }
    entrants = []
    for line in bad.values():
        text = kernel.triton.text
        at = text.index(":\n", text.index(")", text.index(f"def {kernel.entries[0]}("))) + 2
        source = TritonSource(**{**vars(kernel.triton), "text": text[:at] + line + text[at:]})
        cubins = [compile_cubin(x, Gpu().isa) for x in (source, *kernel.then)]
        entrants.append(Entrant(chosen.tactic, chosen.params, kernel, from_bytes(to_bytes(cubins))))
    judge = Judge(0, limit=3.0)
    start = time.perf_counter()
    got = dict(judge.outcomes(task, [entrants[1], entrants[2], entrants[0]], 1 << 20, True))
    judge.close()
    assert got[2].seconds and not got[2].failure, got
    assert got[0].seconds is None and "ILLEGAL" in got[0].failure, got
    assert got[1].seconds is None and "do not end within 3 s" in got[1].failure, got
    seconds = time.perf_counter() - start
    return f"{got[2].seconds * 1e6:.1f} us; {got[0].failure[:90]}; {got[1].failure}; {seconds:.1f} s"


@check
def late_sizes(plan: Plan) -> str:
    """Nets whose sizes or steps depend on data, and host steps between kernels, against ONNX Runtime."""
    import onnxruntime

    from tests.runtime.cuda import nets

    for name, (graph, feeds) in nets.NETS.items():
        data = nets.model(graph)
        profiles = (Profile.of(N=(1, 2, 4)),) if name == "mixed" else ()
        engine = Engine(build_plan(data, BuildConfig(device="cuda", effort=1, profiles=profiles, tf32=False)).plan)
        peer = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
        for x in feeds:
            for a, b in zip(engine.run(x), peer.run(None, x), strict=True):
                assert a.dtype == b.dtype and a.shape == b.shape, name
                np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6)
    return f"{len(nets.NETS)} nets equal to ONNX Runtime"


def main() -> None:
    chosen = sys.argv[1:] or list(CHECKS)
    start = time.perf_counter()
    profile = Profile.of(N=(1, 4, 8192))
    plan = build_plan(model(), BuildConfig(device="cuda", effort=1, profiles=(profile,))).plan
    print(f"built in {time.perf_counter() - start:.1f} s")
    failed = 0
    for name in chosen:
        start = time.perf_counter()
        try:
            words = CHECKS[name](plan)
        except Exception as e:
            import traceback

            failed += 1
            words = f"FAILED: {type(e).__name__}: {e}\n{traceback.format_exc()}"
        print(f"{name}: {words} ({time.perf_counter() - start:.1f} s)", flush=True)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
