"""Codes and GELU as GPU kernels round them, against the reference; and products of integers that wait late."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from temper.builder import build_plan
from temper.compile import triton_stages
from temper.compile.triton import compile_cubin
from temper.config import BuildConfig
from temper.ir.types import TensorType
from temper.tactics.base import Slot, Workload
from temper.tactics.cuda.conv import GemmTiles
from temper.tactics.cuda.epilogue_triton import epilogue_helpers, epilogue_statements
from temper.tactics.cuda.product_tma import GemmStreamed
from temper.tactics.cuda.shortcuts import with_shortcuts
from temper.tactics.epilogue import GELU_UNIT, Epilogue, Instr, Operand
from tests.passes.nets import Net
from tests.tactics.cuda.interpret import Job, interpret

_FULL = (True, True)


def _saturate(value: int, kind: str, zero: int) -> Instr:
    return Instr("Saturate", (value,), kind, (("to", kind), ("zero_point", zero)))


def _text(e: Epilogue, rows: int, calls: str = "") -> str:
    """A kernel `k` of a program of x [rows, 64] and a scalar."""
    body = [
        f"row = tl.arange(0, {rows}).to(tl.int64)", "channel = tl.arange(0, 64)", f"row_ok = row < {rows}",
        "channel_ok = channel < 64", "live = row_ok[:, None] & channel_ok[None, :]",
        "v0 = tl.load(x + row[:, None] * 64 + channel[None, :])", *epilogue_statements(e, channels=64),
    ]  # fmt: skip
    assert calls in "\n".join(body)
    head = f"import triton\nimport triton.language as tl\n{epilogue_helpers(e)}\n\n@triton.jit\n"
    return head + "def k(x, q1, o0):\n" + "".join(f"    {line}\n" for line in body)


def _coded(programs: Sequence[Epilogue], x: np.ndarray, scalars: Sequence[float], folder: Path) -> list[np.ndarray]:
    """What programs of a float32 operand [16, 64], and perhaps a scalar, make of x."""
    jobs, arrays = [], {"x": x}
    for i, (e, scalar) in enumerate(zip(programs, scalars, strict=True)):
        text = _text(e, 16)
        arrays |= {f"q{i}": np.array([scalar], np.float32), f"o{i}": np.zeros(x.shape, e.dtype_of(e.results[0]))}
        jobs.append(Job(text, "k", 1, (("x", 0), (f"q{i}", 0), (f"o{i}", 0))))
    made = interpret(jobs, arrays, folder)
    return [made[f"o{i}"] for i in range(len(programs))]


def test_codes_are_rounded_half_to_even_and_cut(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x = rng.uniform(-300, 300, (16, 64)).astype(np.float32)
    x[0] = np.arange(64) - 31.5  # ties
    x[1] = np.arange(64) + 96.5
    x[2] = -np.arange(64) - 96.5
    x[3, :9] = [np.inf, -np.inf, 3e38, -3e38, 2.0**31, -(2.0**31), 1e-45, -0.0, np.nan]
    kinds = [("int8", 0), ("int8", -128), ("uint8", 0), ("uint8", 128), ("int8", 3)]
    programs = [Epilogue((Operand("float32", _FULL),), (_saturate(0, *kind),), (1,)) for kind in kinds]
    codes = _coded(programs, x, [0.0] * len(kinds), tmp_path)
    for (kind, zero), got in zip(kinds, codes, strict=True):
        info = np.iinfo(kind)
        want = (np.rint(x.astype(np.float64)) + zero).clip(info.min, info.max)
        want[3, 8] = info.min  # NaN
        assert np.array_equal(got, want.astype(kind)), (kind, zero)


def test_gelu_for_codes_is_within_half_of_the_least_unit(tmp_path: Path) -> None:
    x = np.linspace(-12, 12, 16 * 64, dtype=np.float32).reshape(16, 64)
    want = np.array([0.5 * v * math.erfc(-v / math.sqrt(2)) for v in x.ravel().tolist()]).reshape(x.shape)
    steps = Instr("Gelu", (0,), "float32"), Instr("Div", (2, 1), "float32"), _saturate(3, "int8", 0)
    e = Epilogue((Operand("float32", _FULL), Operand("float32", (False, False))), steps, (4,))
    assert with_shortcuts(e).instrs[0].attr("approximate") == "codes"
    units = [GELU_UNIT, 0.05]
    for unit, codes in zip(units, _coded([e, e], x, units, tmp_path), strict=True):
        assert np.abs(codes - (want / unit).clip(-128, 127)).max() < 0.9


def test_codes_become_numbers(tmp_path: Path) -> None:
    jobs, arrays = [], {}
    for kind in ("int8", "uint8"):
        for zero in (0, -7, 121, 2**30 + 1):
            full, scalar = Operand(kind, _FULL), Operand("int32", (False, False))
            back = (("to", "float32"),)
            less = (
                Instr("Cast", (0,), "int32", (("to", "int32"),)),
                Instr("Sub", (2, 1), "int32"),
                Instr("Cast", (3,), "float32", back),
            )
            e = Epilogue((full, scalar), less if zero else (Instr("Cast", (0,), "float32", back),), (4 if zero else 2,))
            x, name = np.arange(256).astype(np.uint8).view(kind).reshape(4, 64), f"{kind}{zero}"
            text = _text(e, 4, "code_less" if zero else "code_number")
            arrays |= {f"x{name}": x, f"q{name}": np.array([zero], np.int32), f"o{name}": np.zeros(x.shape, np.float32)}
            jobs.append(Job(text, "k", 1, tuple((f"{n}{name}", 0) for n in "xqo")))
    made = interpret(jobs, arrays, tmp_path)
    for name in (n[1:] for n in arrays if n.startswith("x")):
        want = (arrays[f"x{name}"].astype(np.int64) - arrays[f"q{name}"]).astype(np.float32)
        assert np.array_equal(made[f"o{name}"], want), name


def _product(rows: int) -> Workload:
    steps = Instr("Cast", (0,), "float32", (("to", "float32"),)), _saturate(1, "int8", 0)
    e = Epilogue((Operand("int32", _FULL),), steps, (2,))
    slots = tuple(Slot(TensorType("int8", shape)) for shape in ((rows, 512), (512, 512), (rows, 512)))
    return Workload("MatMulInt8", (("zero_point", 0),), slots[:2], (False, True), slots[2:], epilogue=e, isa="sm_90")


@pytest.mark.parametrize("tactic", [GemmTiles(), GemmStreamed()])
def test_products_of_integers_wait_for_the_step_before(tactic: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    w, seen = _product(8192), []
    change = triton_stages.late_sums

    def noted(text: str) -> str:
        seen.append((text, change(text)))
        return seen[-1][1]

    monkeypatch.setattr(triton_stages, "late_sums", noted)
    params = next(p for p in tactic.candidates(w) if dict(p)["bm"] >= 128)
    source = tactic.generate(w, params, "k").triton
    assert source.late
    late = compile_cubin(source, "sm_90")
    ((before, after),) = seen
    assert before.count("pendings = 1") == 0 and after.count("pendings = 1") == 1
    assert after.count("warp_group_dot_wait") > before.count("warp_group_dot_wait")
    assert late.data != compile_cubin(replace(source, late=False), "sm_90").data


def test_codes_of_single_elements_compile(timing_cache: Path) -> None:
    """Triton converts four codes at once, and compiles no tile of fewer."""
    net = Net()
    x = net.input(1, 3, 5, 5)
    mean, best = net("ReduceMean", x, axes=(0, 1, 2, 3), keepdims=1), net("ArgMax", x, axis=1, keepdims=1)
    most = net("Cast", net("ReduceMax", net.input(4, 9, name="z", dtype="int8"), axes=(1,), keepdims=0), to="float32")
    scale, zero = net.const(0.02), net.const(-128, "int8")
    found = [net("QuantizeLinear", y, scale, zero, to="int8") for y in (mean, net("Cast", best, to="float32"))]
    found.append(most)
    config = BuildConfig(device="cuda:sm_90", effort=0, cache=timing_cache)
    rows = build_plan(net.done(*found), config).plan.report["regions"]
    tactics = {r["op"]: r["tactic"] for r in rows}
    assert tactics.keys() == {"ReduceMean", "ArgMax", "ReduceMax"}
    assert all(t.startswith("cuda.") and "line=1 " not in t for t in tactics.values()), tactics


def test_other_loops_are_left_alone() -> None:
    text = (
        "  %a:3 = ttng.warp_group_dot_wait %d, %x, %y {pendings = 0 : i32} : "
        "tensor<8x8xi32, #mma>, !ttg.memdesc<8x8>, !ttg.memdesc<8x8>"
    )
    assert triton_stages.late_sums(text) == text
