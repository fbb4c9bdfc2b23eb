"""Every GPU tactic against the references through Triton's interpreter, on whatever the op library has for it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from temper.ir.dims import evaluate
from temper.tactics.cuda.sources import cuda_tactics
from temper.tune.measure import Guarded, blank
from temper.tune.verify import mismatch
from tests.tactics.cuda.interpret import Job, interpret
from tests.tactics.cuda.trials import LARGE, Trial, ops, trials

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed: no GPU kernel can be interpreted", allow_module_level=True)

#: Element types of shared scratch by the type of the pointer to it.
_SCRATCH = {
    "*i8": np.int8, "*u8": np.uint8, "*fp16": np.float16, "*i32": np.int32, "*fp32": np.float32, "*i64": np.int64,
    "*fp64": np.float64, "*bf16": np.uint16, "*fp8e4nv": np.uint8,
}  # fmt: skip
#: The interpreter starts once for every share of the ops.
_SHARES = 6


class _Placed:
    """A trial's buffers as arrays of the job batch."""

    def __init__(self, number: int, t: Trial, arrays: dict[str, np.ndarray]) -> None:
        self.trial, self.problem = t, t.subject.problem()
        self.guarded: dict[str, Guarded] = {}
        w, k, p = t.subject.workload, t.kernel, self.problem
        packed = t.tactic.prepack(w, t.params, t.subject.constants())
        arguments: list[int | tuple[str, int, str]] = []
        for (kind, i), (_, pointer) in zip(k.args, k.triton.signature, strict=False):
            name = f"{number}.{kind}{i}"
            if kind == "shared":
                array, stride = np.full(evaluate(k.shared_workspace, p.env), 85, np.uint8).view(_SCRATCH[pointer]), None
            elif kind == "input":
                array, stride = p.inputs[i], w.inputs[i].row_stride  # type: ignore[union-attr]
            elif kind == "operand":
                array, stride = p.operands[i], w.epilogue.operands[i].row_stride
            elif kind == "packed":
                array, stride = packed[i], None
            else:
                array, stride = blank(p.want[i]), w.outputs[i].row_stride
            assert array is not None
            g = self.guarded[name] = Guarded(np.asarray(array.view(np.int8) if array.dtype == bool else array), stride)
            arrays[name] = g.block.view(g.dtype)
            arguments.append((name, g.start // g.dtype.itemsize, pointer))
        arguments += [p.env[s] for s in k.symbols]
        self.jobs = [
            Job(s.text, s.entry, evaluate(g, p.env), tuple(arguments)) for s, g in zip(k.sources, k.grids, strict=True)
        ]

    def failure(self, results: dict[str, np.ndarray]) -> str | None:
        outputs = []
        for name, g in self.guarded.items():
            g.block[:] = results[name].view(np.uint8)
            if not g.intact:
                return f"{name}: wrote outside the tensor"
            if ".output" in name:
                outputs.append(g.array)
        w = self.trial.subject.workload
        for y, want, bound, slot in zip(outputs, self.problem.want, self.problem.bounds, w.outputs, strict=True):
            y = y.view(bool) if want.dtype == bool else y
            if (wrong := mismatch(y, want, bound, dtype=slot.type.dtype)) is not None:
                return wrong
        return None


@pytest.mark.parametrize("share", range(_SHARES))
def test_kernels_agree_with_the_reference(share: int, tmp_path: Path) -> None:
    arrays: dict[str, np.ndarray] = {}
    placed = [
        _Placed(i, t, arrays) for i, t in enumerate(t for op in ops()[share::_SHARES] for t in trials(op, "sm_90"))
    ]
    results = interpret([job for p in placed for job in p.jobs], arrays, tmp_path)
    failures = {p.trial.name: p.failure(results) for p in placed}
    wrong = [f"{name}: {failure}" for name, failure in failures.items() if failure is not None]
    assert not wrong, f"{len(wrong)} of {len(placed)} kernels:\n" + "\n".join(wrong)


def test_every_tactic_has_a_case() -> None:
    # chains of several ops have tests of their own
    wanted = {t.name for t in cuda_tactics() if t.ops != {"Chain"}} - LARGE
    found: set[str] = set()
    for op in ("Conv", "ConvInt8", "MatMul", "MaxPool", "ReduceMean", "Transpose", "Relu", *ops()):
        if found >= wanted:
            break
        found |= {t.tactic.name for t in trials(op, "sm_90")}
    assert found == wanted
