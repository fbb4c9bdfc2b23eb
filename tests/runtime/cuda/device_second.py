"""Checked on a machine with two GPUs: one plan on both in one process, and builds on the second. See device.py."""

from __future__ import annotations

import json
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from typer.testing import CliRunner

import temper
from temper.builder import build_plan
from temper.cli.app import app
from temper.config import BuildConfig
from temper.errors import TemperError
from temper.plan.file import write
from temper.plan.format import Plan
from temper.runtime.engine import Engine
from tests.runtime.cuda.checks import check, inputs, model, same


def _count() -> int:
    import torch

    return int(torch.cuda.device_count())


@check
def two_gpus_at_once(plan: Plan) -> str:
    """Engines and contexts of two GPUs: in turn from one thread, without waiting for each other, and from two."""
    import torch

    if _count() == 1:
        return "one GPU: nothing to see"
    before = torch.cuda.current_device()
    engines = [Engine(plan, device=f"cuda:{k}") for k in range(2)]
    data = [inputs(4, seed=k) for k in range(2)]
    wants = [np.asarray(engines[0](x)) for x in data]
    for _ in range(20):
        for k, e in enumerate(engines):
            same(e(data[k]), wants[k])
            same(e(data[1 - k]), wants[1 - k])
    given = [torch.from_numpy(x).to(f"cuda:{k}") for k, x in enumerate(data)]
    out = [torch.empty(4, 16, device=f"cuda:{k}") for k in range(2)]
    contexts: list[Any] = [e.context() for e in engines]
    for k, c in enumerate(contexts):
        c.set_input("x", given[k])
        c.set_output("y", out[k])
    for _ in range(50):
        for c in contexts:
            c.enqueue()
    for c in contexts:
        c.synchronize()
    for k in range(2):
        same(out[k].cpu(), wants[k])
    wrong: list[str] = []

    def loop(k: int) -> None:
        own = engines[k].context()
        for _ in range(200):
            if not (np.asarray(own(data[k])) == wants[k]).all():
                wrong.append(f"GPU {k}")
                return

    threads = [threading.Thread(target=loop, args=(k,)) for k in range(2)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong, wrong
    for refused in (lambda: contexts[1].set_input("x", given[0]), lambda: engines[0](given[1])):
        _refused(refused)
    current = f"PyTorch's current device was {before}, is {torch.cuda.current_device()}"
    return f"the same results in turn, side by side and from two threads; the other's arrays are refused; {current}"


@check
def arrays_and_streams_of_the_second_gpu(plan: Plan) -> str:
    """PyTorch's arrays in and out without a copy, by DLPack and by the CUDA array interface, on its streams and in its
    graphs; streams and arrays of the first GPU are refused."""
    import torch

    if _count() == 1:
        return "one GPU: nothing to see"
    want, engine = np.asarray(Engine(plan, device="cuda:0")(inputs(3))), Engine(plan, device="cuda:1")
    same(engine(inputs(3)), want)
    x = torch.from_numpy(inputs(3)).to("cuda:1")
    y = torch.from_dlpack(engine(x))
    assert y.device == torch.device("cuda:1"), y.device
    same(y.cpu(), want)
    out = torch.empty(3, 16, device="cuda:1")
    assert engine(x, out=out) is out
    same(out.cpu(), want)

    class Old:  # the CUDA array interface alone
        __cuda_array_interface__ = x.__cuda_array_interface__

    same(engine(Old()).numpy(), want)
    stream = torch.cuda.Stream(device=1)
    context = engine.context(stream=stream)
    with torch.cuda.stream(stream):
        late = torch.zeros(3, 8, 16, 16, device="cuda:1")
        torch.cuda._sleep(20_000_000)
        late += x  # what the engine reads is made just before, slowly
        y = torch.from_dlpack(context(late)) + 0
    stream.synchronize()
    same(y.cpu(), want)
    with torch.cuda.device(1), torch.cuda.stream(stream):
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            z = torch.from_dlpack(context(late)) + 1
    late.copy_(x)
    torch.cuda.synchronize(1)
    graph.replay()
    torch.cuda.synchronize(1)
    same(z.cpu(), want + 1)
    first = torch.from_numpy(inputs(3)).to("cuda:0")

    class Elsewhere:
        __cuda_array_interface__ = first.__cuda_array_interface__

    refusals = (
        lambda: engine(first),
        lambda: engine(Elsewhere()),
        lambda: engine(x, out=torch.empty(3, 16, device="cuda:0")),
        lambda: engine.context(stream=torch.cuda.Stream(device=0)),
        lambda: Engine(plan, device="cuda:0").context(stream=stream),
    )
    words = dict.fromkeys(_refused(r) for r in refusals)
    return f"in, out, a slow stream, a graph; refused: {'; '.join(words)}"


@check
def commands_on_the_second_gpu(plan: Plan) -> str:
    """`temper bench --device cuda:1` and `temper run`."""
    if _count() == 1:
        return "one GPU: nothing to see"
    x, times = inputs(4), []
    with tempfile.TemporaryDirectory() as folder:
        made, given, answer = (Path(folder) / n for n in ("small.plan", "x.npy", "y.npz"))
        write(plan, made)
        np.save(given, x)
        for k in range(2):
            _run("run", made, "--input", f"x={given}", "--save", answer, "--device", f"cuda:{k}")
            same(np.load(answer)["y"], np.asarray(Engine(plan, device=f"cuda:{k}")(x)))
            words = _run("bench", made, "--batch", "1,4", "--duration", 0.1, "--json", "--device", f"cuda:{k}")
            times.append(json.loads(words)["runs"][1]["latency_ms"]["median"])
    return "bench: " + ", ".join(f"cuda:{k} {1e3 * t:.1f} us" for k, t in enumerate(times))


@check
def builds_on_the_second_gpu(plan: Plan) -> str:
    """`device="cuda:1"`: kernels are verified and timed there, in FP16 and INT8, and the plan runs on either."""
    if _count() == 1:
        return "one GPU: nothing to see"
    made = build_plan(model(), BuildConfig(device="cuda:1", effort=1, shapes={"x": (2, 8, 16, 16)})).plan
    x = inputs(2)
    same(Engine(made, device="cuda:0")(x), Engine(made, device="cuda:1")(x))
    data = [{"x": inputs(2, seed=s)} for s in range(20)]
    engine = temper.build(
        model(), device="cuda:1", precision="int8", pure_int8=True, calibration=data, effort=1,
        shapes={"x": (2, 8, 16, 16)},
    )
    y = np.asarray(engine(x))
    same(Engine(engine.plan, device="cuda:0")(x), y)
    exact = np.asarray(Engine(made)(x))
    assert np.abs(y - exact).max() <= 0.1 * np.abs(exact).max()
    return f"FP32 and INT8 ({engine.report['int8']['int8']} layers) were built on the second, and run alike on both"


def _run(*args: object) -> str:
    done = CliRunner().invoke(app, [str(a) for a in args])
    assert done.exit_code == 0, f"temper {' '.join(map(str, args))}: {done.output}\n{done.exception!r}"
    return done.stdout


def _refused(call: Callable[[], object]) -> str:
    """What the error says."""
    try:
        call()
    except TemperError as e:
        assert "GPU" in str(e), e
        return str(e)
    raise AssertionError("an array or a stream of another GPU was taken")
