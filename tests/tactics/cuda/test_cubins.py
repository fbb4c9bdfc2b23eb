"""A kernel of every GPU tactic as machine code of every level: it compiles, and does not spill unless it says why."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest

from temper.compile.triton import CUDA_ISAS, compile_cubin
from temper.tactics.cuda.kernel import TritonKernel
from temper.tactics.cuda.levels import level_declines
from temper.tactics.cuda.sources import cuda_tactics
from temper.tactics.epilogue import Operand
from tests.tactics.cuda.trials import LARGE, Trial, ops, trials

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed: no GPU kernel can be compiled", allow_module_level=True)

#: Ops whose cases are looked at first: together they have most tactics.
_BROAD = ("Conv", "ConvInt8", "MatMul", "MaxPool", "ReduceMean", "Transpose", "Relu")
#: Tactics for sm_90 and later: they use the engine that copies tiles.
_COPIES = {"cuda.conv_tma", "cuda.gemm_tma"}
#: Those not declared free of spills, with the most bytes a thread may have in memory, and why.
_SPILLS = {
    "cuda.roi_align": (1600, "bounds and steps of a whole tile in float64 live across loops over the samples"),
    "cuda.conv_few_channels": (8, "on sm_100: one pair of registers more than there are"),
    "cuda.deform_conv": (64, "four corners and their weights for every tap, beside the sums"),
}


@pytest.fixture(scope="module")
def found() -> dict[str, Trial]:
    """The first kernel of each tactic that all levels can have."""
    wanted = {t.name for t in cuda_tactics() if t.ops != {"Chain"}} - LARGE  # chains have tests of their own
    out: dict[str, Trial] = {}
    for op in (*_BROAD, *ops()):
        if out.keys() >= wanted:
            break
        for t in trials(op, "sm_90"):
            name, oldest = t.tactic.name, replace(t.subject.workload, isa="sm_80")
            if name not in out and (name in _COPIES or t.tactic.accepts(oldest) is None):
                out[name] = t
    assert out.keys() == wanted
    return out


@pytest.mark.parametrize("isa", CUDA_ISAS)
def test_every_tactic_compiles_without_spilling(found: dict[str, Trial], isa: str) -> None:
    wrong = []
    for name, t in found.items():
        w = replace(t.subject.workload, isa=isa)
        if name in _COPIES and isa in ("sm_80", "sm_89"):
            assert "no engine that copies tiles" in str(t.tactic.accepts(w))
            continue
        assert t.tactic.accepts(w) is None, name
        kernel = t.tactic.generate(w, t.tactic.candidates(w)[0], "kernel")
        assert isinstance(kernel, TritonKernel)
        frames = [compile_cubin(source, isa).frame for source in kernel.sources]
        most, _ = _SPILLS.get(name, (0, ""))
        if max(frames) > most:
            wrong.append(f"{name}: {max(frames)} bytes of local memory, at most {most}")
    assert not wrong


def test_levels_decline_what_they_lack() -> None:
    t = next(iter(trials("Relu", "sm_90")))
    x = t.subject.workload
    eighth = replace(x, isa="sm_80", epilogue=replace(x.epilogue, operands=(Operand("float8e4m3fn", (True,) * 4),)))
    assert level_declines(x) is None and level_declines(replace(eighth, isa="sm_89")) is None
    assert level_declines(eighth) == "sm_80 has no float8e4m3fn"
    assert level_declines(replace(x, isa="avx2")) == "no such GPU level: avx2"
