"""Convolutions and matrix products of the GEMM family against float64 sums: geometry, tails, views, symbols, groups."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from temper.compile.cc import ISAS
from temper.ir.dims import Dim, evaluate
from temper.ir.types import TensorType
from temper.tactics.base import Slot, Workload
from temper.tactics.conv_geometry import conv_shape
from temper.tactics.cpu.blocking import BAND, COPIED, FLAT, ROWS, Blocking, Geometry, prefetch_rate
from temper.tactics.cpu.conv import ConvFallback, ConvGemm
from temper.tactics.cpu.gemm import Gemm, GemmPacked
from temper.tactics.cpu.source import c_dim
from temper.tactics.epilogue import Epilogue, Instr, Operand
from tests.tactics.kernels import N, Runner, bias_relu_scale, f32

rng = np.random.default_rng(3)
EPS = float(np.finfo(np.float32).eps)


def residual(rank: int) -> Epilogue:
    full = (True,) * rank
    return Epilogue(
        (Operand("float32", full), Operand("float32", full)),
        (Instr("Add", (0, 1), "float32"), Instr("Relu", (2,), "float32")),
        (3,),
    )


def silu(rank: int) -> Epilogue:
    return Epilogue((Operand("float32", (True,) * rank),), (Instr("Silu", (0,), "float32"),), (1,))


def plain(rank: int) -> Epilogue:
    return Epilogue.identity("float32", rank)


def conv_workload(
    image: tuple[Any, Any, Any, int],
    oc: int,
    kernel: tuple[int, int] = (1, 1),
    strides: tuple[int, int] = (1, 1),
    pads: tuple[int, int, int, int] = (0, 0, 0, 0),
    dilations: tuple[int, int] = (1, 1),
    group: int = 1,
    *,
    isa: str = "avx512",
    threads: int = 1,
    bias: bool = True,
    epilogue: Epilogue | None = None,
    x_stride: int | None = None,
    y_stride: int | None = None,
    constant: bool = True,
) -> Workload:
    n, h, w, ic = image
    oh = (h + (pads[0] + pads[2] - (kernel[0] - 1) * dilations[0] - 1)) // strides[0] + 1
    ow = (w + (pads[1] + pads[3] - (kernel[1] - 1) * dilations[1] - 1)) // strides[1] + 1
    attrs = {"channels_last": 1, "dilations": dilations, "group": group, "pads": pads, "strides": strides}
    e = epilogue or plain(4)
    inputs = (f32(n, h, w, ic, stride=x_stride), f32(*kernel, ic // group, oc), f32(oc) if bias else None)
    outputs = tuple(f32(n, oh, ow, oc, stride=None if i else y_stride) for i in range(len(e.results)))
    return Workload(
        "Conv", tuple(sorted(attrs.items())), inputs, (False, constant, constant), outputs, e, isa, threads
    )


def conv_reference(x: np.ndarray, k: np.ndarray, bias: np.ndarray | None, w: Workload) -> np.ndarray:
    sy, sx = w.attr("strides")  # type: ignore[misc]
    dy, dx = w.attr("dilations")  # type: ignore[misc]
    t, left, b, r = w.attr("pads")  # type: ignore[misc]
    group = w.attr("group")
    assert isinstance(group, int)
    x = np.pad(x.astype(np.float64), ((0, 0), (max(t, 0), max(b, 0)), (max(left, 0), max(r, 0)), (0, 0)))
    x = x[:, -min(t, 0) : x.shape[1] + min(b, 0), -min(left, 0) : x.shape[2] + min(r, 0)]
    kh, kw, icg, oc = k.shape
    oh = (x.shape[1] - (kh - 1) * dy - 1) // sy + 1
    ow = (x.shape[2] - (kw - 1) * dx - 1) // sx + 1
    ocg = oc // group
    y = np.zeros((x.shape[0], oh, ow, oc))
    for i in range(kh):
        for j in range(kw):
            v = x[:, i * dy : i * dy + (oh - 1) * sy + 1 : sy, j * dx : j * dx + (ow - 1) * sx + 1 : sx]
            for g in range(group):
                y[..., g * ocg : (g + 1) * ocg] += (
                    v[..., g * icg : (g + 1) * icg] @ k[i, j][:, g * ocg : (g + 1) * ocg]
                )
    return y if bias is None else y + bias


def check(
    runner: Runner,
    inputs: list[np.ndarray | None],
    want: np.ndarray,
    terms: int,
    env: dict[str, int],
    operands: list[np.ndarray | None],
) -> None:
    """Results of every split, within the rounding of `terms` sequential additions of unit-variance products."""
    e = runner.w.epilogue
    values = [want, *(None if o is None else o.astype(np.float64) for o in operands[1:])]
    for ins in e.instrs:
        a = [values[i] for i in ins.args]
        assert a[0] is not None
        if ins.op == "Relu":
            values.append(np.maximum(a[0], 0))
        elif ins.op == "Silu":
            values.append(a[0] / (1 + np.exp(-a[0])))
        else:
            assert a[1] is not None
            values.append(a[0] + a[1] if ins.op == "Add" else a[0] * a[1])
    got = runner.same_for_all_splits(inputs, operands, env)
    for g, r in zip(got, e.results, strict=True):
        expected = values[r]
        assert expected is not None
        assert g.shape == expected.shape
        scale = np.abs(expected).max() + 1
        assert np.abs(g - expected).max() <= EPS * scale * (4 + terms**0.5 * 2), f"{runner.params}"


def run_conv(tactic: Any, w: Workload, params: Any, env: dict[str, int]) -> None:
    xs, ks = w.inputs[0], w.inputs[1]
    assert xs is not None and ks is not None
    shape = [s.bind(env).shape for s in (xs.type, ks.type)]
    x = rng.standard_normal(shape[0]).astype(np.float32)
    k = rng.standard_normal(shape[1]).astype(np.float32)
    bias = rng.standard_normal(k.shape[-1:]).astype(np.float32) if w.inputs[2] else None
    want = conv_reference(x, k, bias, w)
    operands: list[np.ndarray | None] = [None]
    for o in w.epilogue.operands[1:]:
        size = [d if m else 1 for d, m in zip(want.shape, o.mask, strict=True)]
        operands.append(rng.standard_normal(size).astype(np.float32))
    check(Runner(tactic, w, params), [x, k, bias], want, int(np.prod(k.shape[:3])), env, operands)


CASES: dict[str, dict[str, Any]] = {
    "1x1": {"image": (1, 7, 7, 64), "oc": 96, "epilogue": residual(4)},
    "1x1 odd, views": {"image": (2, 5, 6, 5), "oc": 1, "x_stride": 9, "y_stride": 4},
    "1x1 symbolic batch": {"image": (N, 3, 5, 20), "oc": 67, "epilogue": bias_relu_scale()},
    "1x1 strided": {"image": (3, 4, 4, 8), "oc": 33, "strides": (2, 2)},
    "one pixel": {"image": (1, 1, 1, 40), "oc": 200, "epilogue": residual(4)},
    "K blocks": {"image": (1, 3, 5, 2100), "oc": 48, "bias": False},
    "stem 7x7": {
        "image": (1, 17, 23, 3),
        "oc": 20,
        "kernel": (7, 7),
        "strides": (2, 2),
        "pads": (3, 3, 3, 3),
        "epilogue": silu(4),
    },
    "3x3 s2": {"image": (1, 14, 14, 32), "oc": 67, "kernel": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)},
    "3x3 symbolic size": {
        "image": (N, Dim.symbol("H"), Dim.symbol("W"), 6),
        "oc": 35,
        "kernel": (3, 3),
        "pads": (1, 1, 1, 1),
        "epilogue": residual(4),
    },
    "dilated groups": {
        "image": (2, 13, 10, 12),
        "oc": 24,
        "kernel": (3, 2),
        "pads": (2, 1, 0, 1),
        "dilations": (2, 3),
        "group": 3,
        "epilogue": bias_relu_scale(),
    },
    "1-D": {"image": (1, 1, 50, 6), "oc": 40, "kernel": (1, 5), "pads": (0, 2, 0, 2)},
    "all padding": {"image": (1, 3, 3, 4), "oc": 8, "kernel": (5, 5), "pads": (4, 4, 4, 4), "dilations": (2, 2)},
    "cropped": {"image": (1, 9, 9, 4), "oc": 16, "kernel": (3, 3), "pads": (-1, 1, 1, -2)},
    "unpadded 3x3": {"image": (2, 9, 8, 256), "oc": 16, "kernel": (3, 3)},
}
ENV = {"N": 3, "H": 7, "W": 11}


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("case", CASES)
def test_conv(case: str, isa: str) -> None:
    """The best and the worst predicted candidate, and one in between for two threads."""
    tactic = ConvGemm()
    w = conv_workload(**CASES[case], isa=isa)
    ranked = list(tactic.candidates(w))
    for params in {ranked[0], ranked[-1]}:
        run_conv(tactic, w, params, ENV)
    w = conv_workload(**CASES[case], isa=isa, threads=2)
    ranked = list(tactic.candidates(w))
    run_conv(tactic, w, next(p for p in ranked[len(ranked) // 3 :] + ranked if dict(p)["split"]), ENV)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("case", CASES)
def test_fallback(case: str, isa: str) -> None:
    run_conv(ConvFallback(), conv_workload(**CASES[case], isa=isa, constant=False), (), ENV)


@pytest.mark.parametrize("isa", ISAS)
def test_fallback_depthwise(isa: str) -> None:
    w = conv_workload((1, 6, 7, 10), 20, (3, 3), pads=(1, 1, 1, 1), group=10, isa=isa)
    assert "depthwise" in (ConvGemm().accepts(w) or "")
    run_conv(ConvFallback(), w, (), {})


@pytest.mark.parametrize(
    ("case", "mode"), [("1x1", FLAT), ("1x1", COPIED), ("3x3 s2", BAND), ("3x3 s2", COPIED), ("unpadded 3x3", ROWS)]
)
@pytest.mark.parametrize("kc", [8, 10**6])
def test_any_blocking(case: str, mode: int, kc: int) -> None:
    """Hand-made blockings that the ranking would never propose: one-tile blocks, several panels, short K blocks."""
    w = conv_workload(**CASES[case])
    s = conv_shape(w)
    assert not isinstance(s, str)
    if mode in (BAND, ROWS) and kc < s.k:
        kc = s.k
    for mr, nb, ocs, pt, ahead in ((5, 3, 1, 2, 1), (3, 2, 2, 1, 0), (14, 1, 9, 3, 1)):
        b = Blocking(mr, nb, ocs, pt, min(kc, s.k), mode, 0, ahead)
        assert prefetch_rate(Geometry(s, b, 16))[1] > 0 or not ahead
        run_conv(ConvGemm(), w, b.params, {})


def test_tile_does_not_change_the_sum() -> None:
    """A result's bits do not depend on the register tile, the mode or the K blocks."""
    w = conv_workload((1, 9, 9, 24), 40, (3, 3), pads=(1, 1, 1, 1))
    x, k, b = (rng.standard_normal(n).astype(np.float32) for n in ((1, 9, 9, 24), (3, 3, 24, 40), (40,)))
    seen = {Runner(ConvGemm(), w, p)([x, k, b])[0].tobytes() for p in ConvGemm().candidates(w)[::4]}
    assert len(seen) == 1


def test_conv_declines() -> None:
    good = conv_workload((1, 4, 4, 8), 8)
    assert ConvGemm().accepts(good) is None
    assert "constant" in (ConvGemm().accepts(conv_workload((1, 4, 4, 8), 8, constant=False)) or "")
    half = Slot(TensorType("float16", (1, 4, 4, 8)))
    bad = Workload("Conv", good.attrs, (half, *good.inputs[1:]), good.constant, good.outputs, good.epilogue, "avx512")
    for tactic in (ConvGemm(), ConvFallback()):
        assert "float16" in (tactic.accepts(bad) or "")
        assert "Conv" in (tactic.accepts(matmul_workload((2, 3), (3, 4))) or "")


def matmul_workload(
    a: tuple[Any, ...],
    b: tuple[Any, ...],
    *,
    trans: bool = False,
    constant: bool = False,
    isa: str = "avx512",
    epilogue: Epilogue | None = None,
    a_stride: int | None = None,
    b_stride: int | None = None,
    threads: int = 1,
) -> Workload:
    rank = max(len(a), len(b))
    lead_a, lead_b = ((1,) * (rank - len(s)) + s[:-2] for s in (a, b))
    lead = tuple(q if p == 1 else p for p, q in zip(lead_a, lead_b, strict=True))
    out = (*lead, a[-2], b[-2] if trans else b[-1])
    e = epilogue or plain(rank)
    attrs = (("transB", 1),) if trans else ()
    outputs = tuple(f32(*out) for _ in e.results)
    inputs = (f32(*a, stride=a_stride), f32(*b, stride=b_stride))
    return Workload("MatMul", attrs, inputs, (False, constant), outputs, e, isa, threads)


MATMULS: dict[str, dict[str, Any]] = {
    "plain": {"a": (19, 33), "b": (33, 50), "epilogue": residual(2)},
    "views": {"a": (9, 12), "b": (12, 21), "a_stride": 20, "b_stride": 30},
    "vector": {"a": (1, 70), "b": (70, 130), "epilogue": residual(2)},
    "rows of a batch": {"a": (2, 3, 5, 16), "b": (16, 24), "epilogue": bias_relu_scale()},
    "batched": {"a": (2, 3, 8, 16), "b": (2, 3, 16, 20), "epilogue": bias_relu_scale()},
    "broadcast": {"a": (2, 1, 7, 6), "b": (3, 6, 18)},
    "transposed": {"a": (2, 8, 20), "b": (2, 37, 20), "trans": True},
    "symbolic": {"a": (N, 4, Dim.symbol("S"), 24), "b": (N, 4, 24, 33)},
    "symbolic K": {"a": (N, 5, Dim.symbol("S")), "b": (N, Dim.symbol("S"), 17), "epilogue": residual(3)},
}


def run_matmul(tactic: Any, w: Workload, params: Any) -> None:
    env = {"N": 2, "S": 13}
    sa, sb = (s.type.bind(env).shape for s in w.inputs if s is not None)
    a, b = rng.standard_normal(sa).astype(np.float32), rng.standard_normal(sb).astype(np.float32)
    want = a.astype(np.float64) @ (np.swapaxes(b, -1, -2) if w.attr("transB", 0) else b)
    operands: list[np.ndarray | None] = [None]
    for o in w.epilogue.operands[1:]:
        size = [d if m else 1 for d, m in zip(want.shape, o.mask, strict=True)]
        operands.append(rng.standard_normal(size).astype(np.float32))
    check(Runner(tactic, w, params), [a, b], want, a.shape[-1], env, operands)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("case", MATMULS)
def test_matmul(case: str, isa: str) -> None:
    w = matmul_workload(**MATMULS[case], isa=isa)
    ranked = list(Gemm().candidates(w))
    for params in {ranked[0], ranked[-1]}:
        run_matmul(Gemm(), w, params)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("trans", [False, True])
@pytest.mark.parametrize("rows", [(1,), (19,), (2, N)])
def test_packed_matmul(isa: str, trans: bool, rows: tuple[Any, ...]) -> None:
    b = (45, 30) if trans else (30, 45)
    w = matmul_workload((*rows, 30), b, trans=trans, constant=True, isa=isa, threads=2)
    ranked = list(GemmPacked().candidates(w))
    for params in {ranked[0], ranked[-1]}:
        run_matmul(GemmPacked(), w, params)


def test_matmul_declines() -> None:
    assert "constant" in (GemmPacked().accepts(matmul_workload((2, 3), (3, 4))) or "")
    assert "batch" in (GemmPacked().accepts(matmul_workload((2, 2, 3), (2, 3, 4), constant=True)) or "")
    assert "columns" in (Gemm().accepts(matmul_workload((2, 3), (3, N))) or "")
    assert "constant" in (Gemm().accepts(matmul_workload((2, 3), (3, 4), constant=True)) or "")


def test_k_blocks_keep_all_rows_in_one_block() -> None:
    """A K block of 128 rows fits the second-level cache where whole rows of 3072 terms would not."""
    w = matmul_workload((128, 3072), (3072, 768), constant=True)
    best = dict(GemmPacked().candidates(w)[0])
    assert best["kc"] < 3072 and best["pt"] * best["mr"] >= 128


def test_c_dim() -> None:
    """The C text computes what the dimension evaluates to."""
    h = Dim.symbol("H")
    for d in (5, h, (h + 1) // 2 * N, (h - 1) // 2 + 1, h % 3 + 2 * N * h, -3):
        text = c_dim(d, ("H", "N")).replace("(int64_t)", "").replace("/", "//")
        for env in ({"H": 7, "N": 3}, {"H": 8, "N": 1}):
            assert eval(text, {"v": [env["H"], env["N"]]}) == evaluate(d, env)
