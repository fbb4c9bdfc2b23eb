"""Checked on a machine with two GPUs: one plan on both in one process, and builds on the second. See device.py."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

import temper
from temper.builder import build_plan
from temper.config import BuildConfig
from temper.errors import TemperError
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


def _refused(call: Callable[[], object]) -> None:
    try:
        call()
    except TemperError as e:
        assert "GPU" in str(e), e
    else:
        raise AssertionError("an array of another GPU was taken")
