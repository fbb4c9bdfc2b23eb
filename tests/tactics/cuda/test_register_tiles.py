"""Products whose results are stored from registers: the order of their columns, bits of codes, and halves."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from temper.compile.triton import compile_cubin
from temper.ir.dims import evaluate
from temper.ir.types import TensorType
from temper.tactics.base import Slot, Tactic, Workload
from temper.tactics.cuda import register_tiles
from temper.tactics.cuda.conv import ConvImplicitGemm
from temper.tactics.cuda.kernel import TritonKernel
from temper.tactics.cuda.product_kept import ConvKept, Kept
from temper.tactics.cuda.product_text import Blocking
from temper.tactics.cuda.product_tma import GemmStreamed
from temper.tactics.cuda.stem import ConvFewChannels
from temper.tactics.epilogue import Epilogue, Instr, Operand
from temper.tune.measure import Guarded, blank
from temper.tune.verify import make_problem, mismatch
from tests.tactics.cuda.interpret import Job, interpret

HERE = importlib.util.find_spec("triton") is not None
WIDE, HALF = (("to", "float32"),), (("to", "float16"),)


def codes(size: int, channels: tuple[int, int], kernel: int, stride: int, residual: bool = False) -> Workload:
    """A convolution of codes with padding, scaled to codes again; with another tensor's codes added."""
    full, channel, scalar = (True,) * 4, (False,) * 3 + (True,), (False,) * 4
    operands = [Operand("int32", full), Operand("float32", channel)]
    operands += [Operand("int8", full), Operand("float32", scalar)] * residual
    n = len(operands)
    steps = [Instr("Cast", (0,), "float32", WIDE), Instr("Mul", (n, 1), "float32")]
    if residual:
        steps += [Instr("Cast", (2,), "float32", WIDE), Instr("Mul", (n + 2, 3), "float32")]
        steps.append(Instr("Add", (n + 1, n + 3), "float32"))
    steps.append(Instr("Saturate", (n + len(steps) - 1,), "int8", (("to", "int8"), ("zero_point", -128))))
    attrs = (
        ("bits", 25), ("channels_last", 1), ("dilations", (1, 1)), ("group", 1), ("pads", (kernel // 2,) * 4),
        ("strides", (stride, stride)), ("zero_point", 0 if channels[0] < 4 else -128),
    )  # fmt: skip
    x, w = TensorType("int8", (1, size, size, channels[0])), TensorType("int8", (kernel, kernel, *channels))
    out = TensorType("int8", (1, -(-size // stride), -(-size // stride), channels[1]))
    slots = (Slot(x), Slot(w), Slot(TensorType("int32", channels[1:])))
    e = Epilogue(tuple(operands), tuple(steps), (n + len(steps) - 1,))
    return Workload("ConvInt8", attrs, slots, (False, True, True), (Slot(out),), e, "sm_90")


def halves(rows: int, terms: int, channels: int) -> Workload:
    """A matrix product of halves that adds another tensor."""
    full = (True, True)
    steps = (
        Instr("Cast", (1,), "float32", WIDE), Instr("Add", (0, 2), "float32"), Instr("Cast", (3,), "float16", HALF),
    )  # fmt: skip
    e = Epilogue((Operand("float32", full), Operand("float16", full)), steps, (4,))
    slots = [Slot(TensorType("float16", shape)) for shape in ((rows, terms), (terms, channels))]
    out = Slot(TensorType("float16", (rows, channels)))
    attrs = (("transA", 0), ("transB", 0))
    return Workload("MatMul", attrs, tuple(slots), (False, True), (out,), e, "sm_90", widened=(0, 1))


#: By name: the tactic, the workload and the blocking.
CASES: dict[str, tuple[Any, Workload, Blocking | Kept]] = {
    "window": (ConvImplicitGemm(), codes(9, (64, 128), 3, 1), Blocking(64, 128, 64, 4, 3, direct=1, near=1)),
    "residual": (
        ConvImplicitGemm(), codes(10, (64, 256), 1, 1, True), Blocking(128, 256, 64, 8, 3, early=1, direct=1),
    ),
    "first": (ConvFewChannels(), codes(20, (3, 64), 7, 2), Blocking(128, 64, 64, 4, 2, direct=1, near=1)),
    "copied": (GemmStreamed(), halves(130, 64, 256), Blocking(128, 256, 64, 8, 3, direct=1)),
    "copied in order, the last tile half": (
        GemmStreamed(), halves(130, 136, 160), Blocking(128, 128, 64, 8, 4, direct=2),
    ),
    "copied in order": (GemmStreamed(), halves(130, 64, 256), Blocking(128, 256, 64, 8, 3, direct=2)),
    "kept": (ConvKept(), codes(10, (192, 192), 1, 1, True), Kept(64, 128, 4, 3, 1, 1)),
    "kept, every second pixel": (ConvKept(), codes(15, (128, 128), 1, 2), Kept(64, 128, 4, 3, 1, 1)),
    "kept in turn": (ConvKept(), codes(12, (64, 64), 1, 1), Kept(64, 64, 4, 2, 1, 0)),
}  # fmt: skip


def kernel_of(name: str) -> tuple[Tactic, Workload, Blocking | Kept, TritonKernel]:
    tactic, w, b = CASES[name]
    assert register_tiles.fits(w, b.bm, b.bn, b.warps)
    return tactic, w, b, tactic.generate(w, b.params, "direct")


@pytest.mark.skipif(not HERE, reason="triton is not installed: no GPU kernel can be interpreted")
def test_agrees_with_the_reference(tmp_path: Path) -> None:
    rng = np.random.default_rng(11)
    arrays: dict[str, np.ndarray] = {}
    jobs, checks = [], []
    for name in CASES:
        tactic, w, b, kernel = kernel_of(name)
        constants: dict[int, np.ndarray] = {}
        for i, slot in enumerate(w.inputs[1:], 1):
            assert slot is not None
            shape, dtype = tuple(evaluate(d, {}) for d in slot.type.shape), np.dtype(slot.type.dtype)
            whole = rng.integers(-127, 128, shape) if dtype.kind == "i" else rng.standard_normal(shape)
            constants[i] = whole.astype(dtype)
        out = [evaluate(d, {}) for d in w.outputs[0].type.shape]
        fixed = {
            i: (rng.uniform(1, 4, [n if m else 1 for n, m in zip(out, o.mask, strict=True)]) * 1e-4).astype(np.float32)
            for i, o in enumerate(w.epilogue.operands)
            if i and o.dtype == "float32"
        }
        problem = make_problem(w, constants, {}, operand_constants=fixed)
        packed = tactic.prepack(w, b.params, constants)
        arguments: list[int | tuple[str, int, str]] = []
        for (kind, i), (_, pointer) in zip(kernel.args, kernel.triton.signature, strict=False):
            given = {"input": problem.inputs, "operand": problem.operands, "packed": packed, "output": ()}
            scratch = np.zeros(evaluate(kernel.shared_workspace, {}), np.int8)
            array = scratch if kind == "shared" else blank(problem.want[i]) if kind == "output" else given[kind][i]
            g = Guarded(np.asarray(array), None)
            arrays[f"{name}.{kind}{i}"] = g.block.view(g.dtype)
            arguments.append((f"{name}.{kind}{i}", g.start // g.dtype.itemsize, pointer))
            if kind == "output":
                checks.append((f"{name}.{kind}{i}", g, problem))
        jobs += [
            Job(s.text, s.entry, evaluate(grid, {}), tuple(arguments))
            for s, grid in zip(kernel.sources, kernel.grids, strict=True)
        ]
    results = interpret(jobs, arrays, tmp_path)
    for key, g, problem in checks:
        g.block[:] = results[key].view(np.uint8)
        assert g.intact, key
        assert mismatch(g.array, problem.want[0], problem.bounds[0]) is None, key


@pytest.mark.skipif(not HERE, reason="triton is not installed: no GPU kernel can be compiled")
def test_a_large_tile_takes_fewer_registers_and_no_more_shared_memory() -> None:
    tactic, w, b, kernel = kernel_of("residual")
    plain = tactic.generate(w, replace(b, direct=0).params, "plain")
    assert isinstance(plain, TritonKernel)
    direct, before = compile_cubin(kernel.triton, "sm_90"), compile_cubin(plain.triton, "sm_90")
    assert direct.frame == 0 and direct.registers <= before.registers and direct.shared <= before.shared


@pytest.mark.skipif(not HERE, reason="triton is not installed: no GPU kernel can be compiled")
def test_copies_through_the_near_cache_are_other_code() -> None:
    source = kernel_of("window")[3].triton
    assert source.near
    near, far = compile_cubin(source, "sm_90"), compile_cubin(replace(source, near=False), "sm_90")
    assert len(near.data) == len(far.data) and near.data != far.data and near.registers == far.registers


def test_columns_are_every_channel_once() -> None:
    for part in (32, 64):
        order = register_tiles.ordered_columns(4 * part, part)
        assert sorted(order) == list(range(4 * part))
        # a thread's sums of a row are columns 8 j + 2 t and the next: 16 bytes that lie together
        held = [order[8 * j + 2 * 1 + e] for j in range(part // 8) for e in range(2)]
        assert held == list(range(part // 4, part // 2))


def test_results_of_several_sizes_decline() -> None:
    w = codes(9, (64, 128), 3, 1, True)
    assert register_tiles.part(w) == 64 and register_tiles.part(halves(64, 64, 64)) == 32
    mixed = replace(w, epilogue=replace(w.epilogue, operands=(w.epilogue.operands[0], Operand("float16", (True,) * 4))))
    assert register_tiles.part(mixed) == 0 and not register_tiles.fits(mixed, 128, 128, 4)
    assert not register_tiles.fits(replace(w, isa="sm_80"), 128, 128, 4)
    assert register_tiles.fits(w, 128, 64, 8) and not register_tiles.fits(w, 64, 64, 8)
