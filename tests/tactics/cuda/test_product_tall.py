"""Convolutions by tiles of 192 rows: what they give, and that their products wait for each other late."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from temper.compile import triton_stages
from temper.compile.triton import compile_cubin
from temper.ir.dims import evaluate
from temper.ir.types import TensorType
from temper.tactics.base import Slot, Workload
from temper.tactics.cuda.product_tall import ConvTall, Tall
from temper.tune.verify import make_problem, mismatch
from tests.tactics.cuda.guarded_run import guarded_run
from tests.tactics.cuda.test_register_tiles import codes

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed: no GPU kernel can be interpreted", allow_module_level=True)

TACTIC = ConvTall()


def image(w: Workload, batch: int) -> Workload:
    """The workload for several images."""

    def wide(s: Slot | None) -> Slot:
        assert s is not None
        return replace(s, type=TensorType(s.type.dtype, (batch, *s.type.shape[1:])))

    return replace(w, inputs=(wide(w.inputs[0]), *w.inputs[1:]), outputs=(wide(w.outputs[0]),))


CASES: dict[str, tuple[Workload, Tall]] = {
    "window": (image(codes(9, (128, 256), 3, 1), 3), Tall(192, 256, 128, 8, 3)),
    "stride": (image(codes(15, (128, 128), 3, 2), 4), Tall(192, 128, 64, 8, 3, 1)),
    "flat": (image(codes(13, (256, 128), 1, 1), 3), Tall(192, 128, 128, 4, 2)),
    "residual": (image(codes(10, (128, 128), 1, 1, True), 2), Tall(192, 128, 128, 4, 2)),
}


@pytest.mark.parametrize("name", list(CASES))
def test_agrees_with_the_reference(name: str, tmp_path: Path) -> None:
    w, t = CASES[name]
    rng = np.random.default_rng(7)
    constants: dict[int, np.ndarray] = {}
    for i, slot in enumerate(w.inputs[1:], 1):
        assert slot is not None
        shape = tuple(evaluate(d, {}) for d in slot.type.shape)
        constants[i] = rng.integers(-127, 128, shape).astype(slot.type.dtype)
    channels = int(w.outputs[0].type.shape[-1])
    fixed = {
        i: (rng.uniform(1, 4, (1, 1, 1, channels if o.mask[-1] else 1)) * 1e-4).astype(np.float32)
        for i, o in enumerate(w.epilogue.operands)
        if i and o.dtype == "float32"
    }
    problem = make_problem(w, constants, {}, operand_constants=fixed)
    kernel = TACTIC.generate(w, t.params, "tall")
    assert evaluate(kernel.grid, {}) > 1 or name == "residual"
    made = guarded_run(kernel, problem, TACTIC.prepack(w, t.params, constants), tmp_path / "k")
    assert mismatch(made["output0"], problem.want[0], problem.bounds[0]) is None


def test_both_products_wait_for_those_of_the_step_before(monkeypatch: pytest.MonkeyPatch) -> None:
    seen, change = [], triton_stages.late_sums

    def noted(text: str) -> str:
        seen.append((text, change(text)))
        return seen[-1][1]

    monkeypatch.setattr(triton_stages, "late_sums", noted)
    w = image(codes(14, (256, 256), 3, 1), 128)
    params = next(p for p in TACTIC.candidates(w) if dict(p)["bn"] == 256)
    made = compile_cubin(TACTIC.generate(w, params, "k").triton, "sm_90")
    ((before, after),) = seen
    assert before.count("pendings = 2") == 0 and after.count("pendings = 2") == 1
    assert made.frame == 0


def test_declines_with_a_reason() -> None:
    w = image(codes(14, (256, 256), 3, 1), 128)
    assert TACTIC.accepts(w) is None
    assert str(TACTIC.accepts(replace(w, isa="sm_80"))).startswith("computes results of one size")
    assert str(TACTIC.accepts(image(w, 1))).endswith("known as it is built")
    assert TACTIC.accepts(image(codes(14, (48, 256), 3, 1), 128)) == "channels are not multiples of its tiles'"
