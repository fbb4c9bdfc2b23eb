"""Verification of GPU kernels, against a driver whose device memory is the host's and kernels that numpy stands for."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from temper.ir.types import TensorType
from temper.runtime.cuda.driver import Gpu, Stream
from temper.tactics.base import Kernel, Slot, Workload
from temper.tactics.epilogue import Epilogue
from temper.tune.cuda_bench import Buffers, DeviceBench
from temper.tune.verify import make_problem
from tests.runtime.cuda.fake import FakeDriver

KERNEL: Any = Kernel("", ("k",), (("input", 0), ("output", 0)), (), grid=1)


def workload(rows: int, stride: int | None = None) -> Workload:
    slot = Slot(TensorType("float32", (rows, 8, 16)))
    out = Slot(slot.type, stride)
    return Workload("Softmax", (("axis", -1),), (slot,), (False,), (out,), Epilogue.identity("float32", 3), "sm_90")


class Bench(DeviceBench):
    """Launches are a function of the addresses of input and output."""

    run: Callable[[int, int], None]

    def calls(self, *about: Any, **more: Any) -> list[Any]:
        bench, x = self, self._inputs[0]
        assert x is not None
        addresses = x.address, self._outputs[0].address

        class Call:
            @staticmethod
            def run(stream: Any) -> None:
                bench.run(*addresses)

        return [Call()]


def bench(rows: int, most: float = np.inf, stride: int | None = None) -> Bench:
    gpu = Gpu(0, FakeDriver())
    w = workload(rows, stride)
    return Bench(gpu, Stream(gpu), w, Buffers.of(w, make_problem(w, {}, {}, most=most)), 1 << 20)


def at(address: int, count: int) -> np.ndarray:
    return np.ctypeslib.as_array((ctypes.c_float * count).from_address(address))


def softmax(rows: int, stride: int = 16) -> Callable[[int, int], None]:
    def run(x: int, y: int) -> None:
        data = at(x, rows * 8 * 16).reshape(-1, 16).astype(np.float64)
        e = np.exp(data - data.max(axis=-1, keepdims=True))
        out = at(y, (rows * 8 - 1) * stride + 16)
        for i, row in enumerate(e / e.sum(axis=-1, keepdims=True)):
            out[i * stride : i * stride + 16] = row

    return run


@pytest.mark.parametrize("most", [np.inf, 1.0])
def test_what_is_right_and_what_is_wrong(most: float) -> None:
    b = bench(9, most)
    rows = b.problem.rows
    assert (rows is None) == (most == np.inf)
    right = softmax(9)
    b.run = right
    assert b.verify(KERNEL, None, []) is None  # type: ignore[arg-type]
    assert b.verify(KERNEL, None, [np.ones(3, np.int8)]) is None  # type: ignore[arg-type]
    b.run = lambda x, y: None
    assert str(b.verify(KERNEL, None, [])).startswith("output 0: "), "what was there before is not a result"  # type: ignore[arg-type]

    def late(x: int, y: int) -> None:
        right(x, y)
        at(y, 9 * 128)[8 * 128 + 5] += 1  # in the last index of the first axis, which is looked at

    b.run = late
    assert str(b.verify(KERNEL, None, [])).startswith("output 0: ")  # type: ignore[arg-type]

    def beyond(x: int, y: int) -> None:
        right(x, y)
        at(y, 9 * 128 + 1)[-1] = 1.0

    b.run = beyond
    assert b.verify(KERNEL, None, []) == "output 0: wrote outside the tensor"  # type: ignore[arg-type]

    def before(x: int, y: int) -> None:
        right(x, y)
        at(x - 4, 1)[0] = 1.0

    b.run = before
    assert b.verify(KERNEL, None, []) == "input 0: wrote outside the tensor"  # type: ignore[arg-type]


def test_rows_that_are_apart() -> None:
    b = bench(9, 1.0, stride=24)
    b.run = softmax(9, 24)
    assert b.verify(KERNEL, None, []) is None  # type: ignore[arg-type]

    def between(x: int, y: int) -> None:
        softmax(9, 24)(x, y)
        at(y, 24)[20] = 1.0

    b.run = between
    assert b.verify(KERNEL, None, []) == "output 0: wrote outside the tensor"  # type: ignore[arg-type]


def test_candidates_that_pack_alike_share_their_copies() -> None:
    b = bench(3)
    packed, other = [np.arange(100, dtype=np.float32)], [np.arange(100, dtype=np.float32)]
    blocks = b.rotating(packed, 4)
    assert len(blocks) == 4 and all(np.array_equal(at(m.address, 100), packed[0]) for (m,) in blocks)
    assert len({m.address for (m,) in blocks}) == 4
    assert b.rotating(packed, 4) is blocks and b.rotating(other, 4) is not blocks
    b.forget()
    assert b.rotating(packed, 4) is not blocks
    assert b.rotating([], 20) == [[]] * 20
