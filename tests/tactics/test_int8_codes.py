"""Products of codes: how every tile narrows its results, depthwise and Winograd kernels, on all code levels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from temper.compile.cc import ISAS
from temper.ir.dims import Dim
from temper.ir.types import TensorType
from temper.runtime.machine import cpu_flags
from temper.tactics.base import Params, Slot, Tactic, Workload
from temper.tactics.cpu.depthwise import Depthwise
from temper.tactics.cpu.depthwise_int8 import DepthwiseInt8
from temper.tactics.cpu.int8 import ConvInt8
from temper.tactics.cpu.winograd_int8 import WinogradInt8
from temper.tactics.epilogue import Epilogue, Instr, Operand
from temper.tactics.epilogue_reference import epilogue_reference
from tests.tactics.kernels import N, Runner

LEVELS = [i for i in ("avx512vnni", "avx512", "avx2", "portable") if ISAS[i].needs <= cpu_flags()]
Pair = tuple[int, int]


def rng() -> np.random.Generator:
    return np.random.default_rng(7)


def requantized(dtype: str, zero: int, skip: bool = False) -> Epilogue:
    """Sums in int32 times a scale per channel, plus codes of a skip connection, rounded to codes."""
    operands = [Operand("int32", (True,) * 4), Operand("float32", (False, False, False, True))]
    if skip:
        operands.append(Operand("int8", (True,) * 4))
    n = len(operands)
    instrs = [Instr("Cast", (0,), "float32", (("to", "float32"),)), Instr("Mul", (n, 1), "float32")]
    if skip:
        instrs += [Instr("Cast", (2,), "float32", (("to", "float32"),)), Instr("Add", (n + 1, n + 2), "float32")]
    last = n + len(instrs) - 1
    instrs.append(Instr("Saturate", (last,), dtype, (("to", dtype), ("zero_point", zero))))
    return Epilogue(tuple(operands), tuple(instrs), (last + 1,))


def workload(
    shape: tuple[int | Dim, ...],
    oc: int,
    kernel: Pair,
    groups: int,
    pads: tuple[int, int, int, int],
    e: Epilogue,
    isa: str,
    stride: Pair = (1, 1),
    dtype: str = "uint8",
    zero: int = 0,
    out_stride: int | None = None,
) -> Workload:
    n, h, w, c = shape
    assert isinstance(c, int)
    oh = (h + pads[0] + pads[2] - kernel[0]) // stride[0] + 1
    ow = (w + pads[1] + pads[3] - kernel[1]) // stride[1] + 1
    attrs = (
        ("channels_last", 1), ("dilations", (1, 1)), ("group", groups), ("pads", pads), ("strides", stride),
        ("zero_point", zero),
    )  # fmt: skip
    ins = tuple(
        Slot(TensorType(d, s))
        for d, s in ((dtype, shape), ("int8", (*kernel, c // groups, oc)), ("int32", (oc,)))
    )
    out = Slot(TensorType(e.dtype_of(e.results[0]), (n, oh, ow, oc)), out_stride)
    return Workload("ConvInt8", attrs, ins, (False, True, True), (out,), e, isa)


def conv(x: np.ndarray, w: np.ndarray, b: np.ndarray, groups: int, load: Workload) -> np.ndarray:
    """The sums in int64, wrapped to int32."""
    pads, stride = load.attr("pads"), load.attr("strides")
    assert isinstance(pads, tuple) and isinstance(stride, tuple)
    t, left, bottom, right = (int(p) for p in pads)
    x = np.pad(x.astype(np.int64) - int(str(load.attr("zero_point"))), ((0, 0), (t, bottom), (left, right), (0, 0)))
    kh, kw, per, oc = w.shape
    oh, ow = (x.shape[1] - kh) // int(stride[0]) + 1, (x.shape[2] - kw) // int(stride[1]) + 1
    out = np.zeros((x.shape[0], oh, ow, oc), np.int64) + b
    for ky in range(kh):
        for kx in range(kw):
            part = x[:, ky : ky + (oh - 1) * int(stride[0]) + 1 : int(stride[0])]
            part = part[:, :, kx : kx + (ow - 1) * int(stride[1]) + 1 : int(stride[1])]
            for g in range(groups):
                many = slice(g * (oc // groups), (g + 1) * (oc // groups))
                out[..., many] += part[..., g * per : (g + 1) * per] @ w[ky, kx, :, many].astype(np.int64)
    return out.astype(np.int32)


def arrays(load: Workload, size: tuple[int, ...]) -> list[np.ndarray]:
    k, b = load.inputs[1], load.inputs[2]
    assert k is not None and b is not None and load.inputs[0] is not None
    info = np.iinfo(load.inputs[0].type.dtype)
    r = rng()
    return [
        r.integers(info.min, info.max + 1, size).astype(load.inputs[0].type.dtype),
        r.integers(-128, 128, tuple(int(str(d)) for d in k.type.shape)).astype(np.int8),
        r.integers(-(1 << 18), 1 << 18, tuple(int(str(d)) for d in b.type.shape)).astype(np.int32),
    ]


def scales(oc: int, spread: float) -> np.ndarray:
    """Mostly useful ones; beyond int32, negative, infinite and NaN ones among them."""
    s = (rng().random(oc) / spread).astype(np.float32)
    for i, odd in enumerate((1e30, -1e30, np.inf, np.nan, -3.0, 2.0**31)):
        s[(5 * i + 2) % oc] = odd
    return s.reshape(1, 1, 1, oc)


def check(
    tactic: Tactic,
    load: Workload,
    groups: int,
    size: tuple[int, ...],
    params: Params | None = None,
    env: Mapping[str, int] | None = None,
) -> None:
    x, w, b = arrays(load, size)
    acc = conv(x, w, b, groups, load)
    scale = scales(acc.shape[-1], 3e2 * w.shape[0] * w.shape[2])
    operands: list[np.ndarray | None] = [None, scale]
    if len(load.epilogue.operands) > 2:
        operands.append(rng().integers(-128, 128, acc.shape).astype(np.int8))
    operands = operands[: len(load.epilogue.operands)]
    with np.errstate(all="ignore"):
        (want,) = epilogue_reference(load.epilogue, [acc, *(o for o in operands if o is not None)])
    run = Runner(tactic, load, params)
    (got,) = run.same_for_all_splits((x, w, b), operands, env)
    assert got.dtype == want.dtype and np.array_equal(got, want), params


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("oc", [96, 24, 4, 80, 67])
def test_tiles_narrow_their_results(oc: int, isa: str) -> None:
    """One candidate of every register tile."""
    odd = oc % 32 != 0
    e = requantized("int8" if odd else "uint8", -7 if oc == 24 else 3 if oc == 67 else 0, skip=oc in (24, 96))
    load = workload((1, 5, 7, 8), oc, (1, 1), 1, (0, 0, 0, 0), e, isa, dtype="int8" if odd else "uint8", zero=5 * odd)
    tiles = {(dict(p)["mr"], dict(p)["nb"]): p for p in ConvInt8().candidates(load)}
    for params in tiles.values():
        check(ConvInt8(), load, 1, (1, 5, 7, 8), params)


@pytest.mark.parametrize("isa", LEVELS)
def test_rows_of_unknown_number(isa: str) -> None:
    for dtype in ("uint8", "float32", "int32"):
        e = Epilogue.identity("int32", 4)
        if dtype == "uint8":
            e = requantized("uint8", 128)
        load = workload((N, 3, 7, 8), 40, (1, 1), 1, (0, 0, 0, 0), e, isa, out_stride=48)
        check(ConvInt8(), load, 1, (2, 3, 7, 8), env={"N": 2})


DEPTHWISE = [
    ((1, 7, 9, 64), (3, 3), (1, 1), (1, 1, 1, 1), "uint8", 0),
    ((2, 6, 11, 96), (3, 3), (2, 2), (1, 1, 1, 1), "int8", 0),
    ((1, 9, 8, 48), (5, 5), (1, 1), (2, 2, 2, 2), "int8", -9),
    ((1, 8, 13, 80), (5, 5), (2, 2), (1, 2, 2, 1), "uint8", 131),
    ((1, 5, 6, 17), (7, 7), (1, 1), (3, 3, 3, 3), "int8", 4),
    ((1, 10, 7, 33), (2, 4), (3, 3), (0, 1, 2, 0), "uint8", 1),
    ((1, 3, 1, 130), (3, 1), (1, 1), (1, 0, 1, 0), "int8", 0),
]


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("case", DEPTHWISE, ids=lambda c: "x".join(map(str, (*c[0], *c[1]))))
def test_depthwise(case: tuple, isa: str) -> None:
    shape, kernel, stride, pads, dtype, zero = case
    c = shape[3]
    e = Epilogue.identity("int32", 4) if c == 80 else requantized("int8" if c % 32 else "uint8", zero % 5, c == 96)
    load = workload(shape, c, kernel, c, pads, e, isa, stride, dtype, zero, c + 16 if c == 48 else None)
    check(Depthwise(), load, c, shape)
    reason = DepthwiseInt8().accepts(load)
    if isa != "avx512vnni":
        assert reason is not None and "products of bytes" in reason
        return
    assert reason is None
    candidates = DepthwiseInt8().candidates(load)
    assert len(set(candidates)) == len(candidates)
    for params in candidates[:: max(1, len(candidates) // 4)]:
        check(DepthwiseInt8(), load, c, shape, params)


@pytest.mark.skipif("avx512vnni" not in LEVELS, reason="this CPU has no VNNI")
def test_depthwise_of_unknown_size_and_what_it_declines() -> None:
    h, w = Dim.symbol("H"), Dim.symbol("W")
    e = requantized("uint8", 0)
    load = workload((N, h, w, 40), 40, (3, 3), 40, (1, 1, 1, 1), e, "avx512vnni", (2, 1))
    for n, height, width in ((1, 5, 3), (2, 8, 13)):
        check(DepthwiseInt8(), load, 40, (n, height, width, 40), env={"N": n, "H": height, "W": width})
    few = workload((1, 5, 5, 8), 8, (3, 3), 8, (1, 1, 1, 1), e, "avx512vnni")
    assert "16 channels" in str(DepthwiseInt8().accepts(few))


WINOGRAD = [
    ((1, 9, 13, 64), 48, (1, 1, 1, 1), "uint8", 0),
    ((2, 6, 8, 32), 16, (0, 2, 1, 0), "int8", -5),
    ((1, 8, 8, 32), 80, (1, 1, 1, 1), "uint8", 131),
]


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("case", WINOGRAD, ids=lambda c: "x".join(map(str, c[0])))
def test_winograd(case: tuple, isa: str) -> None:
    shape, oc, pads, dtype, zero = case
    e = Epilogue.identity("int32", 4) if oc == 16 else requantized("int8", zero % 3, oc == 80)
    load = workload(shape, oc, (3, 3), 1, pads, e, isa, (1, 1), dtype, zero)
    assert "25 bits" in str(WinogradInt8().accepts(load))
    load = replace(load, attrs=tuple(sorted((*load.attrs, ("bits", 25)))))
    for params in WinogradInt8().candidates(load)[::3]:
        check(WinogradInt8(), load, 1, shape, params)


@pytest.mark.parametrize("isa", LEVELS)
def test_winograd_at_the_ends_of_its_range(isa: str) -> None:
    """Data and weights whose transforms are the largest there are, and sums of just below 2^25."""
    bt = np.array([[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 2, -1, -2, 1, 0]])
    signs = np.array([[1, 0, 0], [1, -1, 1], [1, 2, 4]])
    load = workload((1, 4, 4, 96), 32, (3, 3), 1, (1, 1, 1, 1), Epilogue.identity("int32", 4), isa)
    load = replace(load, attrs=tuple(sorted((*load.attrs, ("bits", 25)))))
    run = Runner(WinogradInt8(), load)
    b = np.zeros(32, np.int32)
    for k in range(4):
        row = bt[k % 3][1:5]
        x = np.where(np.outer(row, row) >= 0, 255, 0).astype(np.uint8)[None, :, :, None].repeat(96, 3)
        w = np.where(np.outer(signs[k % 3], signs[k % 3]) >= 0, 127, -128)[:, :, None, None]
        if k == 3:
            x[:], w = 255, np.full((3, 3, 1, 1), 127)
        w = w.repeat(96, 2).repeat(32, 3).astype(np.int8)
        w[..., 1::2] = -w[..., 1::2].clip(-127)
        (got,) = run((x, w, b))
        assert np.array_equal(got, conv(x, w, b, 1, load))
    assert np.abs(got).max() > 2**24


FEW = [
    ((2, 9, 11, 3), (7, 7), (2, 2), (3, 3, 3, 3), "uint8", 0),
    ((1, 8, 9, 3), (3, 3), (2, 2), (0, 0, 1, 1), "int8", -5),
    ((1, 6, 30, 1), (3, 5), (1, 1), (1, 2, 1, 2), "int8", 0),
    ((1, 7, 26, 5), (2, 3), (1, 2), (1, 1, 0, 1), "uint8", 131),
    ((1, 5, 40, 2), (1, 4), (1, 1), (0, 0, 0, 0), "int8", 3),
]


@pytest.mark.parametrize("isa", LEVELS)
@pytest.mark.parametrize("case", FEW, ids=lambda c: "x".join(map(str, (*c[0], *c[1]))))
def test_rows_of_few_channels_are_one_tap(case: tuple, isa: str) -> None:
    shape, kernel, stride, pads, dtype, zero = case
    load = workload(shape, 37, kernel, 1, pads, requantized("uint8", zero % 3), isa, stride, dtype, zero)
    candidates = ConvInt8().candidates(load)
    for params in candidates[:: max(1, len(candidates) // 3)]:
        check(ConvInt8(), load, 1, shape, params)
