"""Depthwise convolution and pools on GPUs: cubins for every level without spills, and what the blockings promise."""

from __future__ import annotations

import importlib.util

import pytest

from temper.compile.triton import CUDA_ISAS, compile_cubin
from temper.ir.types import TensorType
from temper.tactics.base import Slot, Workload
from temper.tactics.cuda.depthwise import ConvDirect, Depthwise
from temper.tactics.cuda.pool import Pool
from temper.tactics.epilogue import Epilogue

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed: no GPU kernel can be compiled", allow_module_level=True)


def depthwise(isa: str, groups: int = 144, each: int = 1, zero_point: int = -128) -> Workload:
    channels = groups * each
    attrs = {
        "channels_last": 1, "dilations": (1, 1), "group": groups, "kernel_shape": (3, 3), "pads": (1, 1, 1, 1),
        "strides": (2, 2), "zero_point": zero_point,
    }  # fmt: skip
    inputs = (("int8", (1, 56, 56, channels)), ("int8", (3, 3, each, channels)), ("int32", (channels,)))
    return Workload(
        "ConvInt8",
        tuple(attrs.items()),
        tuple(Slot(TensorType(*t)) for t in inputs),
        (False, True, True),
        (Slot(TensorType("int32", (1, 28, 28, channels))),),
        Epilogue.identity("int32", 4),
        isa,
    )


def pool(isa: str, kernel: int) -> Workload:
    pad = kernel // 2
    attrs = {
        "ceil_mode": 0, "channels_last": 1, "dilations": (1, 1), "kernel_shape": (kernel, kernel),
        "pads": (pad,) * 4, "strides": (1, 1),
    }  # fmt: skip
    t = Slot(TensorType("int8", (1, 20, 20, 128)))
    return Workload("MaxPool", tuple(attrs.items()), (t,), (False,), (t,), Epilogue.identity("int8", 4), isa)


@pytest.mark.parametrize("isa", CUDA_ISAS)
def test_cubins_do_not_spill(isa: str) -> None:
    for tactic, w in ((Depthwise(), depthwise(isa)), (Pool(), pool(isa, 5))):
        assert tactic.accepts(w) is None
        made = compile_cubin(tactic.generate(w, tactic.candidates(w)[0], "k").triton, isa)  # type: ignore[attr-defined]
        assert made.frame == 0, (tactic.name, made.registers)


def test_large_windows_are_loops() -> None:
    made = [pool("sm_90", k) for k in (3, 15)]
    small, large = (Pool().generate(w, Pool().candidates(w)[0], "k").source for w in made)
    assert "for tap in range(TAPS)" not in small and "for tap in range(TAPS)" in large


def test_groups_go_to_the_tactic_for_them() -> None:
    one, several = depthwise("sm_90"), depthwise("sm_90", groups=18, each=8)
    assert Depthwise().accepts(one) is None and ConvDirect().accepts(several) is None
    assert Depthwise().accepts(several) == "not depthwise: groups of 8 channels"
    assert ConvDirect().accepts(one) == "one channel a group is for cuda.depthwise"
    assert ConvDirect().accepts(depthwise("sm_90", groups=1, each=16)) == "a matrix product computes it"
