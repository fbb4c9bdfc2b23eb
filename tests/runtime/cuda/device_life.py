"""Checked on a real GPU: engines that come and go, with work queued, from many threads, and in forked processes. See
device.py."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from temper.errors import TemperError
from temper.plan.file import write
from temper.plan.format import Plan
from temper.runtime.cuda.context import CudaContext
from temper.runtime.cuda.driver import Gpu
from temper.runtime.engine import Engine
from tests.runtime.cuda.checks import check, inputs, same


def _free(gpu: Gpu) -> int:
    """Bytes of the GPU's memory that nobody has."""
    gpu.enter()
    gpu.driver("cuCtxSynchronize")
    return int(gpu.driver("cuMemGetInfo")[0])


def _peak() -> int:
    """KiB of host memory that this process had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@check
def unloading(plan: Plan) -> str:
    """A thousand engines one after another, with numpy and PyTorch: memory is back as soon as the last name is gone."""
    import gc

    import torch

    gpu, x = Gpu(), torch.from_numpy(inputs(2)).cuda()
    want = Engine(plan)(inputs(2))
    gc.collect()
    gc.disable()  # reference counts alone must do
    try:
        start, before, host = time.perf_counter(), 0, 0
        for k in range(1000):
            engine = Engine(plan)
            y = engine(x)
            if k % 100 == 0:
                same(torch.from_dlpack(y).cpu(), want)
                same(engine(inputs(2)), want)
            del engine, y
            if k == 20:
                before, host = _free(gpu), _peak()
        seconds = time.perf_counter() - start
        lost, more = before - _free(gpu), _peak() - host
    finally:
        gc.enable()
    assert lost < 8 << 20, f"{lost} bytes of the GPU are gone"
    assert more < 100 << 10, f"{more} KiB of the host are gone"
    return f"1000 engines in {seconds:.1f} s, {lost >> 10} KiB of the GPU and {more} KiB of the host gone"


@check
def shared_by_threads(plan: Plan) -> str:
    """One engine called by 16 threads at once, with arrays of both kinds and several sizes."""
    import torch

    engine = Engine(plan)
    want = {n: engine(inputs(n, n)) for n in (1, 2, 3, 4)}
    wrong: list[str] = []

    def work(number: int) -> None:
        n = 1 + number % 4
        x = torch.from_numpy(inputs(n, n)).cuda() if number % 2 else inputs(n, n)
        try:
            for _ in range(100):
                y = engine(x)
                got = torch.from_dlpack(y).cpu().numpy() if number % 2 else y
                if not np.array_equal(got, want[n]):
                    wrong.append(f"thread {number}: other numbers")
        except TemperError as e:
            wrong.append(f"thread {number}: {e}")

    threads = [threading.Thread(target=work, args=(k,)) for k in range(16)]
    start = time.perf_counter()
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong, wrong[:3]
    return f"16 threads, 100 calls each, {len(engine._idle)} contexts, {time.perf_counter() - start:.1f} s"


@check
def dropped_while_running(plan: Plan) -> str:
    """Contexts and engines that go while their work is queued: it ends, right, in the caller's array."""
    import torch

    want = Engine(plan)(inputs(4, 5))
    x = torch.from_numpy(inputs(4, 5)).cuda()
    for stream in (None, torch.cuda.Stream(), torch.cuda.Stream()):
        outs = [torch.full((4, 16), -1.0, device="cuda") for _ in range(4)]
        torch.cuda.synchronize()
        engine = Engine(plan)
        context = engine.context(stream=stream)
        assert isinstance(context, CudaContext)
        if stream is not None:
            with torch.cuda.stream(stream):
                torch.cuda._sleep(20_000_000)
        context.set_input("x", x)
        for out in outs:
            context.set_output("y", out)
            context.enqueue()
        del context, engine
        torch.cuda.synchronize()
        for out in outs:
            same(out.cpu(), want)
    y = Engine(plan)(x)  # a result outlives its engine
    same(torch.from_dlpack(y).cpu(), want)
    return "three streams, four runs each; a result outlives its engine"


@check
def dropped_anywhere(plan: Plan) -> str:
    """The last name goes in a thread that never used the GPU, and within somebody's capture: both give memory back and
    disturb nothing."""
    import torch

    gpu = Gpu()
    engine = Engine(plan)
    engine(inputs(1))
    held = [engine]
    before = _free(gpu)
    del engine
    thread = threading.Thread(target=held.clear)
    thread.start()
    thread.join()
    after = _free(gpu)
    assert after > before, f"{before} bytes were free with the engine, {after} without"
    x = torch.from_numpy(inputs(4, 3)).cuda()
    other, want = Engine(plan), Engine(plan)(inputs(4, 3))
    other(x)
    stream = torch.cuda.Stream()
    context = Engine(plan).context(stream=stream)
    with torch.cuda.stream(stream):
        context(x)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            y = torch.from_dlpack(context(x))
            del other
    graph.replay()
    torch.cuda.synchronize()
    same(y.cpu(), want)
    return f"{(after - before) >> 10} KiB back from another thread; a capture went on"


@check
def forks(plan: Plan) -> str:
    """A forked process is told what is wrong, and its parent goes on."""
    engine = Engine(plan)
    want = engine(inputs(2))
    for call in (lambda: engine(inputs(2)), lambda: Engine(plan)(inputs(2))):
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                call()
                words = "it ran"
            except TemperError as e:
                words = str(e)
            except BaseException as e:
                words = f"{type(e).__name__}: {e}"
            os.write(theirs, words.encode())
            os._exit(0)
        os.close(theirs)
        with os.fdopen(ours) as pipe:
            words = pipe.read()
        assert os.waitpid(child, 0)[1] == 0 and "forked" in words and "spawn" in words, words
    same(engine(inputs(2)), want)
    return words[:110]


FAULT = """
import sys
import numpy as np
import temper
from temper.runtime.cuda.launch import Functions, LaunchCall
from temper.compile.triton import TritonSource, compile_cubin
from temper.plan.cubins import DeviceFunction
text = '''import triton
import triton.language as tl

@triton.jit
def wild(y):
    tl.store(y + tl.arange(0, 128), 1.0)
'''
first, second = temper.load(sys.argv[1]), temper.load(sys.argv[1])
x = np.ones((2, 8, 16, 16), np.float32)
first(x), second(x)
gpu = first._shared.gpu
made = compile_cubin(TritonSource(text, "wild", (("y", "*fp32"),)), gpu.isa)
code = DeviceFunction("wild", made.data, made.threads, scratch=made.scratch)
context = first.context()
LaunchCall(Functions(gpu, {"wild": code}), "wild", [1 << 20], [], 4, "wild layer").run(context.stream.handle)
for call in (lambda: context(x), lambda: second(x), lambda: temper.load(sys.argv[1])(x)):
    try:
        call()
    except temper.TemperError as e:
        print("caught:", e)
print("went on")
"""


@check
def faults_of_others(plan: Plan) -> str:
    """After one engine's fault the others say that it was not theirs, and the process ends by itself as usual."""
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "small.plan")
        write(plan, path)
        done = subprocess.run(
            [sys.executable, "-c", FAULT, path], capture_output=True, text=True, check=False, timeout=60
        )
    lines = [x for x in done.stdout.splitlines() if x.startswith("caught:")]
    assert done.returncode == 0 and "went on" in done.stdout, done.stdout + done.stderr
    assert "Traceback" not in done.stderr, done.stderr
    assert len(lines) == 3 and "CUDA_ERROR" in lines[0], lines
    assert all("since a kernel faulted before" in x for x in lines[1:]), lines
    return lines[1][8:120]
