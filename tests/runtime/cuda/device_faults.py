"""Checked on a real GPU: kernels that fault or hang, memory that is short, GPUs that are not there. See device.py."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from temper.config import BuildConfig
from temper.errors import ConfigError, DeviceError, DeviceMemoryError, InputError, PlanError, TemperError
from temper.plan.format import Plan
from temper.runtime.cuda.driver import Gpu, Memory, Stream
from temper.runtime.engine import Engine
from tests.runtime.cuda.checks import check, inputs, model, same


class Small(Gpu):
    """The GPU, as if it had room for blocks of at most so many bytes."""

    most = 1 << 40

    def allocate(self, nbytes: int, what: str) -> Memory:
        if nbytes > self.most:
            raise DeviceMemoryError(f"no room for {nbytes} bytes for {what}")
        return super().allocate(nbytes, what)


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


def _first_convolution() -> Any:
    """The tuning task of a layer, as a build makes it."""
    import temper.builder as builder
    from temper.tune import select

    tasks: list[select.Task] = []

    class Done(Exception):
        pass

    class Listening(select.Tuner):
        def choose(self, given: Any) -> Any:
            tasks.extend(given)
            raise Done

    builder.Tuner, kept = Listening, builder.Tuner  # type: ignore[misc]
    try:
        builder.build_plan(model(layers=1), BuildConfig(device="cuda", effort=1))
    except Done:
        pass
    finally:
        builder.Tuner = kept  # type: ignore[misc]
    return next(t for t in tasks if t.workload.op == "Conv")


#: What a kernel may do instead of ending well, given its first pointer.
HARM = {
    "faults": "    tl.store({first} + (1 << 44), tl.load({first}))\n",
    "hangs": "    n = 0\n    while tl.load({first}, volatile=True) < 3.0e38:\n        n += 1\n",
}


def _harmed(kernel: Any, harm: str) -> Any:
    """A kernel with a line of HARM at its start."""
    source = kernel.triton
    at = source.text.index(":\n", source.text.index(")", source.text.index(f"def {kernel.entries[0]}("))) + 2
    line = HARM[harm].format(first=source.signature[0][0])
    return replace(kernel, triton=replace(source, text=source.text[:at] + line + source.text[at:]))


@check
def tuning(plan: Plan) -> str:
    """Of three candidates for a layer one faults and one never ends: they are out, with reasons; the third is timed."""
    from temper.compile.triton import compile_cubin, triton_version
    from temper.tactics.cuda.kernel import TritonKernel
    from temper.target import target_of
    from temper.tune.candidates import candidates_for
    from temper.tune.cuda import from_bytes, to_bytes
    from temper.tune.cuda_bench import CompiledCandidate
    from temper.tune.cuda_judge import Judge

    task = _first_convolution()
    tactics = target_of(BuildConfig(device="cuda", effort=1)).tactics()
    (chosen, *_), _ = candidates_for(tactics, task.workload, 1, triton_version(), task.env)
    kernel = chosen.kernel
    assert isinstance(kernel, TritonKernel)
    candidates = []
    for harm in ("", *HARM):
        cubins = [compile_cubin(x, Gpu().isa) for x in (_harmed(kernel, harm) if harm else kernel).sources]
        candidates.append(CompiledCandidate(chosen.tactic, chosen.params, kernel, from_bytes(to_bytes(cubins))))
    judge = Judge(0, limit=3.0)
    start = time.perf_counter()
    got = dict(judge.outcomes(task, [candidates[1], candidates[2], candidates[0]], 1 << 20, True))
    judge.close()
    assert got[2].seconds and not got[2].failure, got
    assert got[0].seconds is None and "ILLEGAL" in got[0].failure, got
    assert got[1].seconds is None and "do not end within 3 s" in got[1].failure, got
    seconds = time.perf_counter() - start
    return f"{got[2].seconds * 1e6:.1f} us; {got[0].failure[:90]}; {got[1].failure}; {seconds:.1f} s"


@check
def harmed_build(plan: Plan) -> str:
    """A whole build in which one candidate of a convolution faults and one never ends: it goes on without them, its
    results are right, and the plan tells why they are out."""
    import tempfile
    from functools import partial
    from pathlib import Path

    import onnxruntime

    import temper.tune.cuda as tuned
    from temper.builder import build_plan
    from temper.tune.cuda_judge import Judge

    left = list(HARM)

    class Harmful(tuned.Cuda):
        def compile(self, kernels: Any, isa: str, jobs: int) -> Any:
            given = {}
            for key, k in kernels.items():
                given[key] = _harmed(k, left.pop()) if left and "tl.dot(" in k.triton.text else k
            return super().compile(given, isa, jobs)

    import temper.target as target

    kept = target.Cuda, tuned.Judge
    target.Cuda, tuned.Judge = Harmful, partial(Judge, limit=3.0)  # type: ignore[misc,assignment]
    start = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as folder:
            config = BuildConfig(device="cuda", effort=2, cache=Path(folder) / "cache.sqlite")
            made = build_plan(model(layers=1), config).plan
    finally:
        target.Cuda, tuned.Judge = kept  # type: ignore[misc]
    notes = [note for r in made.report["regions"] for _, _, note in r["trials"] if note.startswith("does not run")]
    assert not left and len(notes) == 2, (left, notes)
    assert any("ILLEGAL" in n for n in notes) and any("do not end within 3 s" in n for n in notes), notes
    x = inputs(1)
    want = onnxruntime.InferenceSession(model(layers=1), providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
    got = Engine(made)(x)
    assert abs(got - want).max() < abs(want).max() * 2**-8, (got, want)
    return f"{'; '.join(n[:70] for n in notes)}; {time.perf_counter() - start:.1f} s"


@check
def memory_taken(plan: Plan) -> str:
    """Nearly all of the GPU's memory in other hands (for a GPU nobody else uses): loads, contexts and builds say what
    there is no room for; when it is back, all goes on."""
    import torch

    from temper.builder import build_plan

    gpu, words, engine = Gpu(0), list[str](), Engine(plan)
    torch.cuda.init()
    free = int(gpu.driver("cuMemGetInfo")[0])
    taken = torch.empty(free - (2 << 30), dtype=torch.uint8, device="cuda")
    hoard: list[Memory] = []

    def hold(nbytes: int) -> None:
        try:
            while True:
                hoard.append(gpu.allocate(nbytes, "a check"))
        except DeviceMemoryError:
            pass

    for nbytes in (256 << 20, 8 << 20, 2 << 20):
        hold(nbytes)
    big = Plan(**{**vars(plan), "constants": memoryview(bytes(256 << 20))})
    for make, of in ((lambda: Engine(big), "the model's constants"), (lambda: engine(inputs(8192)), "arena")):
        try:
            make()
        except DeviceMemoryError as e:
            assert "has no room for" in str(e) and of in str(e) and "are free" in str(e), e
            words.append(str(e)[:80])
        else:
            raise AssertionError(f"there was room for {of}")
    for room, sizes in ((0, (1, 1, 1)), (1500 << 20, (8192, 8192, 8192))):
        for _ in range(0, room, 256 << 20):
            hoard.pop(0)
        start = time.perf_counter()
        try:
            made = build_plan(model(layers=2), BuildConfig(device="cuda", effort=1, batches=(sizes,))).plan
            notes = {n for r in made.report["regions"] for _, _, n in r["trials"] if "fit" in n}
            words.append(f"built with {room >> 20} MiB, {len(notes)} notes of what did not fit {list(notes)[:1]}")
        except TemperError as e:
            assert "OUT_OF_MEMORY" in str(e) or "has no room" in str(e) or "memory" in str(e), e
            words.append(f"with {room >> 20} MiB in {time.perf_counter() - start:.0f} s: {str(e)[:300]}")
    hoard.clear()
    del taken
    torch.cuda.empty_cache()
    same(Engine(plan)(inputs(2)), Engine(plan)(inputs(2)))
    same(engine(inputs(8192))[:2].shape, (2, 16))
    return "\n  ".join(words)


@check
def memory(plan: Plan) -> str:
    """A context and a build that the GPU has no room for say so, and take nothing with them."""
    from temper.tune import cuda_bench
    from temper.tune.verify import make_problem

    huge = tuple(replace(p, arena_bytes=1 << 42) for p in plan.profiles)
    engine = Engine(Plan(**{**vars(plan), "profiles": huge}))
    try:
        engine(inputs(1))
    except DeviceMemoryError as e:
        words = str(e)
    assert "has no room for 41943" in words and "for a context's arena" in words and "are free" in words, words
    same(Engine(plan)(inputs(1)), Engine(plan)(inputs(1)))
    task = _first_convolution()
    gpu = Small(0)
    gpu.most = 1 << 12
    problem = make_problem(task.workload, task.constants, task.env, operand_constants=task.operand_constants, most=3e8)
    candidates: list[Any] = [None, None]
    stream: Any = Stream(gpu)
    buffers = cuda_bench.Buffers.of(task.workload, problem)
    found = list(cuda_bench._judged(gpu, stream, task, buffers, candidates, [(), ()], 0, True))
    assert len(found) == 2 and all(isinstance(a, tuple) and a[1].passing for a in found), found
    return words[:90]


@check
def other_gpus(plan: Plan) -> str:
    """`cuda:N`, arrays and streams of another GPU, and plans for other chips."""
    import torch

    other = Plan(**{**vars(plan), "isa": "sm_80"})
    _refused(lambda: Engine(other), PlanError, "the plan was built for sm_80, this GPU")
    _refused(lambda: Engine(plan, device="cuda:x"), ConfigError, "cannot run on 'cuda:x'")
    count = torch.cuda.device_count()
    _refused(lambda: Engine(plan, device=f"cuda:{count}"), DeviceError, f"no GPU {count}: the driver sees {count}")
    if count == 1:
        return "one GPU: cuda:1 is refused; chips and names of devices too"
    want = Engine(plan)(inputs(3))
    second = Engine(plan, device="cuda:1")
    same(second(inputs(3)), want)
    x = torch.from_numpy(inputs(3)).to("cuda:1")
    y = torch.from_dlpack(second(x))
    assert y.device.index == 1
    same(y.cpu(), want)
    _refused(lambda: second(x.to("cuda:0")), InputError, "input 'x' is on GPU 0, the engine on GPU 1")
    stream = torch.cuda.Stream("cuda:0")
    _refused(lambda: second.context(stream=stream), DeviceError, "is not one of GPU 1")
    return f"{count} GPUs: the same results on two, arrays and streams of the other one are refused"


def _refused(call: Callable[[], object], kind: type[Exception], words: str) -> None:
    try:
        call()
    except kind as e:
        assert words in str(e), e
    else:
        raise AssertionError(f"not refused: {words}")
