"""Rows that one warp keeps, and attention that keeps its scores: what the op library's small sizes do not reach."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from temper.ir.dims import Dim, DimLike, evaluate
from temper.ir.types import TensorType
from temper.tactics.base import Params, Slot, Tactic, Workload
from temper.tactics.cuda.attention import Attention
from temper.tactics.cuda.attention_int8 import AttentionInt8
from temper.tactics.cuda.kernel import TritonKernel
from temper.tactics.cuda.norm import LayerNorm
from temper.tactics.cuda.strips import Strips, strip_blockings
from temper.tactics.epilogue import Attr, Epilogue, Instr, Operand
from temper.tune.measure import Guarded, blank
from temper.tune.verify import Problem, make_problem, mismatch, sample
from tests.tactics.cuda.interpret import Job, interpret

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed: no GPU kernel can be interpreted", allow_module_level=True)

CODES = (Instr("Div", (0, 1), "float32"), Instr("Saturate", (4,), "int8", (("to", "int8"), ("zero_point", 0))))


def norm(
    dtype: str, rows: DimLike, columns: int, op: str = "LayerNormalization", stride: int | None = None
) -> Workload:
    """Rows of a batch of one, stored in `dtype`, and the result rounded to it."""
    x = Slot(TensorType(dtype, (1, rows, columns)), stride)
    vector = Slot(TensorType("float32", (columns,)))
    slots = (x, vector, vector) if op == "LayerNormalization" else (x, vector)
    program = Epilogue((Operand("float32", (True,) * 3),), (Instr("Cast", (0,), dtype),), (1,))
    if dtype == "float32":
        program = Epilogue.identity("float32", 3)
    attrs = (("axis", -1), ("epsilon", 1e-5))
    out = (Slot(TensorType(dtype, (1, rows, columns))),)
    narrow = (0,) if dtype != "float32" else ()
    return Workload(op, attrs, slots, (False,) + (True,) * (len(slots) - 1), out, program, "sm_90", 1, narrow)


def coded(rows: int, columns: int) -> Workload:
    """A residual added; the sum as halves and, by a scale and a bias a channel, as codes."""
    w = norm("float16", rows, columns)
    full, channel = (True, True, True), (False, False, True)
    operands = (
        Operand("float32", full),
        Operand("float32", (False,) * 3),
        Operand("float16", full),
        Operand("float32", channel),
    )
    program = (
        *CODES, Instr("Cast", (2,), "float32"), Instr("Add", (0, 6), "float32"), Instr("Mul", (7, 3), "float32"),
        Instr("Cast", (8,), "float16"),
    )  # fmt: skip
    outs = tuple(Slot(TensorType(d, w.outputs[0].type.shape)) for d in ("int8", "float16"))
    return replace(w, outputs=outs, epilogue=Epilogue(operands, program, (5, 9)))


def attention(keys: int, mask: tuple[int, ...] | None, dtype: str) -> Workload:
    """Two heads of 32 columns, slices of rows of 192."""
    rows = Slot(TensorType(dtype, (2, keys, 64)), 192)
    attrs: dict[str, Attr] = {"causal": 0, "heads": 2, "kv_heads": 2, "layout": "rrrr", "safe": 0}
    attrs |= {"zero_point": 0} if dtype == "int8" else {"scale": 0.2}
    shift = None if mask is None else Slot(TensorType("float32", mask))
    more = (Slot(TensorType("float32", ())),) if dtype == "int8" else ()
    op, narrow = ("AttentionInt8", ()) if dtype == "int8" else ("Attention", (0, 1, 2))
    slots, constant = (rows, rows, rows, shift, *more), (False,) * 4 + (True,) * len(more)
    out = (Slot(TensorType("float32", (2, keys, 64))),)
    identity = Epilogue.identity("float32", 3)
    return Workload(op, tuple(sorted(attrs.items())), slots, constant, out, identity, "sm_90", 1, narrow)


class Placed:
    """A kernel's launch on buffers between guard bytes."""

    def __init__(self, name: str, tactic: Tactic, w: Workload, params: Params, env: dict[str, int]) -> None:
        assert tactic.accepts(w) is None
        rng = np.random.default_rng(1)
        constants = {
            i: sample(s.type, env, rng) if s.type.rank else np.array(1e-3, np.float32)
            for i, (s, c) in enumerate(zip(w.inputs, w.constant, strict=True))
            if s is not None and c
        }
        scale = np.full((1, 1, 1), 0.03, np.float32)
        scalars = {i: scale for i, o in enumerate(w.epilogue.operands) if not any(o.mask)}
        self.name, self.w = f"{name} {params}", w
        self.problem: Problem = make_problem(w, constants, env, operand_constants=scalars)
        kernel = tactic.generate(w, params, "k")
        assert isinstance(kernel, TritonKernel)
        self.arrays: dict[str, np.ndarray] = {}
        self.guards: dict[str, Guarded] = {}
        arguments: list[int | tuple[str, int, str]] = []
        given = {"input": self.problem.inputs, "operand": self.problem.operands}
        for (kind, i), (_, pointer) in zip(kernel.args, kernel.triton.signature, strict=False):
            slots: Sequence[Slot | None] = w.inputs if kind == "input" else w.outputs
            array = blank(self.problem.want[i]) if kind == "output" else given[kind][i]
            assert array is not None
            slot = slots[i] if kind != "operand" else None
            key = f"{self.name} {kind}{i}"
            g = self.guards[key] = Guarded(np.asarray(array), slot.row_stride if slot is not None else None)
            self.arrays[key] = g.block.view(g.dtype)
            arguments.append((key, g.start // g.dtype.itemsize, pointer))
        arguments += [env[s] for s in kernel.symbols]
        self.job = Job(kernel.source, kernel.entries[0], evaluate(kernel.grid, env), tuple(arguments))

    def failures(self, results: dict[str, np.ndarray]) -> Iterator[str]:
        found = []
        for key, g in self.guards.items():
            g.block[:] = results[key].view(np.uint8)
            if not g.intact:
                yield f"{key}: wrote outside"
            if " output" in key:
                found.append(g.array)
        for y, want, bound, slot in zip(found, self.problem.want, self.problem.bounds, self.w.outputs, strict=True):
            if (wrong := mismatch(y, want, bound, dtype=slot.type.dtype)) is not None:
                yield f"{self.name}: {wrong}"


def failures(placed: Sequence[Placed], folder: Path) -> list[str]:
    arrays = {k: a for p in placed for k, a in p.arrays.items()}
    results = interpret([p.job for p in placed], arrays, folder)
    return [f for p in placed for f in p.failures(results)]


def test_rows_of_a_warp_agree_with_the_reference(tmp_path: Path) -> None:
    """Whole and ragged rows and strips, slices of wider rows, a size known at run time, RMS, codes."""
    tactic, n = LayerNorm(), Dim.symbol("d0")
    subjects = {
        "ragged": norm("float16", 5, 264), "whole": norm("float16", 8, 512), "wide": norm("float32", 5, 132),
        "bfloat16": norm("bfloat16", 4, 768), "slice": norm("float16", 3, 200, stride=208),
        "run time": norm("float16", n, 136), "rms": norm("float16", 6, 384, "RMSNormalization"),
        "codes": coded(5, 264), "whole codes": coded(4, 256),
    }  # fmt: skip
    placed = []
    for name, w in subjects.items():
        env = {"d0": 7} if name == "run time" else {}
        placed += [Placed(name, tactic, w, p, env) for p in list(strip_blockings())[:2]]
    assert not failures(placed, tmp_path)


def test_what_warps_do_not_hold_is_left_to_blocks() -> None:
    assert Strips.of(768, "float16") == Strips(768, 256)
    assert [Strips(700, 256).ragged(i) for i in range(3)] == [False, False, True]
    assert Strips.of(2056, "float16") == "keeps at most 2048 elements of a row in a warp's registers, not 2056"
    assert Strips.of(500, "float16") == "reads 16 bytes at a time, and rows of 500 are not a multiple of that"
    assert Strips.of(128, "float16") == "rows of 128 leave lanes idle"
    skewed = norm("float16", 1 << 14, 264, stride=268)
    assert not any(dict(p).get("strips") for p in LayerNorm().candidates(skewed))
    assert dict(LayerNorm().candidates(coded(1 << 14, 768))[0])["strips"] == 1
    assert not any(dict(p).get("strips") for p in LayerNorm().candidates(norm("float16", 128, 768)))


def test_codes_behind_statistics_are_divided_by_a_reciprocal() -> None:
    w = coded(1 << 14, 768)
    for params in LayerNorm().candidates(w):
        assert "rough_quotient(v0, v1)" in LayerNorm().generate(w, params, "k").source


@pytest.mark.parametrize("dtype", ["float16", "int8"])
def test_scores_that_are_kept_agree_with_the_reference(dtype: str, tmp_path: Path) -> None:
    """Of all keys in one block, and in blocks of 64, 32 and 16; masks of a key, of a query and a key, and none."""
    tactic = Attention() if dtype == "float16" else AttentionInt8()
    placed = []
    for keys, mask in ((100, None), (100, (2, 1, 1, 100)), (64, (1, 1, 64, 64))):
        w = attention(keys, mask, dtype)
        kept = [p for p in tactic.candidates(w) if dict(p)["bn"] >= keys and dict(p)["bm"] == 64]
        for early in (0, 1):
            chosen = [p for p in kept if dict(p)["early"] == early][:1]
            assert chosen or (dtype == "float16" and early)
            placed += [Placed(f"{keys} {mask}", tactic, w, p, {}) for p in chosen]
    assert not failures(placed, tmp_path)
