"""Winograd convolution: exact transforms, odd shapes against float64, views, splits, epilogues, refusals."""

from __future__ import annotations

import numpy as np
import pytest

from temper.ir.dims import Dim, DimLike
from temper.ir.types import TensorType
from temper.tactics.base import Params, Slot, Workload
from temper.tactics.cpu.winograd import WinogradConv, error_factor, matrices
from temper.tactics.epilogue import Epilogue, Instr, Operand
from temper.tactics.epilogue_reference import epilogue_reference
from tests.tactics.kernels import ISAS, N, Runner, f32

H, W = Dim.symbol("H"), Dim.symbol("W")
U = 2.0**-24
Pads = tuple[int, int, int, int]


def conv(
    shape: tuple[DimLike, DimLike, DimLike, int],
    oc: int,
    pads: Pads = (1, 1, 1, 1),
    isa: str = "portable",
    *,
    bias: str = "constant",
    epilogue: Epilogue | None = None,
    strides: tuple[int | None, int | None] = (None, None),
    threads: int = 1,
) -> Workload:
    n, h, w, ic = shape
    top, left, bottom, right = pads
    e = Epilogue.identity("float32", 4) if epilogue is None else epilogue
    out = (n, h + top + bottom - 2, w + left + right - 2, oc)
    inputs = [Slot(TensorType("float32", shape), strides[0]), f32(3, 3, ic, oc)] + ([f32(oc)] if bias else [])
    outputs = [Slot(TensorType("float32", out), strides[1] if k == 0 else None) for k in range(len(e.results))]
    attrs = (("channels_last", 1), ("dilations", (1, 1)), ("group", 1), ("pads", pads), ("strides", (1, 1)))
    constant = (False, True, bias == "constant")[: len(inputs)]
    return Workload("Conv", attrs, tuple(inputs), constant, tuple(outputs), e, isa, threads)


def data(n: int, h: int, w: int, ic: int, oc: int, bias: bool = True) -> list[np.ndarray]:
    rng = np.random.default_rng(n * 1000 + h * 100 + ic)
    shapes = [(n, h, w, ic), (3, 3, ic, oc)] + ([(oc,)] if bias else [])
    return [rng.standard_normal(s).astype(np.float32) for s in shapes]


def direct(arrays: list[np.ndarray], pads: Pads) -> np.ndarray:
    """The convolution in float64."""
    x, w = arrays[0].astype(np.float64), arrays[1].astype(np.float64)
    x = np.pad(x, ((0, 0), (pads[0], pads[2]), (pads[1], pads[3]), (0, 0)))
    oh, ow = x.shape[1] - 2, x.shape[2] - 2
    y = sum(x[:, i : i + oh, j : j + ow] @ w[i, j] for i in range(3) for j in range(3))
    return y + arrays[2] if len(arrays) > 2 else y


def bound(arrays: list[np.ndarray], params: Params) -> float:
    """The module docstring's normwise error bound, with the bias addition's own rounding."""
    x, w = np.abs(arrays[0]).max(initial=0), np.abs(arrays[1]).max()
    terms = 9 * arrays[0].shape[3]
    result = terms * x * w + (np.abs(arrays[2]).max() if len(arrays) > 2 else 0)
    return float(error_factor(params, arrays[0].shape[3]) * terms * U * terms * x * w + U * result)


def params(mh: int, mw: int, shared: int, *, tiles: int = 8, mr: int = 4, nb: int = 2, ahead: int = 0) -> Params:
    fields = {"mh": mh, "mw": mw, "tiles": tiles, "mr": mr, "nb": nb, "shared": shared, "ahead": ahead}
    return tuple(sorted(fields.items()))


@pytest.mark.parametrize("m", [1, 2, 4])
def test_transforms_are_exact(m: int) -> None:
    t = matrices(m)
    rng = np.random.default_rng(m)
    x, w = rng.integers(-9, 10, m + 2).astype(np.float64), rng.integers(-9, 10, 3).astype(np.float64)
    want = [x[i : i + 3] @ w for i in range(m)]
    np.testing.assert_allclose(t.at @ ((t.g @ w) * (t.bt @ x)), want, atol=1e-11)
    assert (t.at == t.at.astype(np.float32)).all() and (t.bt == t.bt.astype(np.float32)).all()


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("tile", [(4, 4), (2, 2), (4, 2), (1, 4), (2, 1)])
@pytest.mark.parametrize("shared", [0, 1])
def test_odd_shapes(isa: str, tile: tuple[int, int], shared: int) -> None:
    cases: list[tuple[tuple[int, int, int, int, int], Pads]] = [
        ((1, 7, 7, 20, 37), (1, 1, 1, 1)),
        ((2, 5, 9, 3, 5), (0, 2, 1, 0)),
        ((1, 1, 1, 17, 16), (1, 1, 1, 1)),
        ((2, 10, 6, 33, 70), (2, 2, 2, 2)),
    ]
    ahead = 16 if tile == (4, 4) else 0
    for (n, h, w, ic, oc), pads in cases if tile == (4, 4) else cases[1:3]:
        arrays = data(n, h, w, ic, oc)
        run = Runner(WinogradConv(), conv((N, h, w, ic), oc, pads, isa), params(*tile, shared, ahead=ahead))
        (got,) = run.same_for_all_splits(arrays, env={"N": n})
        assert np.abs(got - direct(arrays, pads)).max() <= bound(arrays, run.params)


@pytest.mark.parametrize("shared", [0, 1])
def test_views_and_dynamic_sizes(shared: int) -> None:
    w = conv((N, H, W, 19), 21, (1, 1, 1, 1), "avx2", bias="", strides=(29, 40))
    run = Runner(WinogradConv(), w, params(4, 2, shared))
    for n, h, width in ((1, 3, 8), (2, 9, 5), (3, 1, 2)):
        arrays = data(n, h, width, 19, 21, bias=False)
        (got,) = run.same_for_all_splits(arrays, env={"N": n, "H": h, "W": width})
        assert np.abs(got - direct(arrays, (1, 1, 1, 1))).max() <= bound(arrays, run.params)


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("shared", [0, 1])
def test_residual_epilogue_with_two_results(isa: str, shared: int) -> None:
    full, channel = (True,) * 4, (False, False, False, True)
    e = Epilogue(
        (Operand("float32", full), Operand("float32", full, 43), Operand("float32", channel)),
        (Instr("Add", (0, 1), "float32"), Instr("Relu", (3,), "float32"), Instr("Mul", (4, 2), "float32")),
        (5, 3),
    )
    arrays = data(2, 6, 11, 18, 35)
    rng = np.random.default_rng(5)
    ops = [None, rng.standard_normal((2, 6, 11, 35)).astype(np.float32), np.ones((1, 1, 1, 35), np.float32) * 2]
    w = conv((2, 6, 11, 18), 35, isa=isa, epilogue=e, bias="run time", strides=(None, 50))
    run = Runner(WinogradConv(), w, params(4, 4, shared))
    got = run.same_for_all_splits(arrays, ops)
    exact = direct(arrays, (1, 1, 1, 1))
    want = epilogue_reference(e, [exact.astype(np.float32), *ops[1:]])
    slack = bound(arrays, run.params) + 4 * U * (np.abs(exact).max() + 5)
    for g, y in zip(got, want, strict=True):
        assert np.abs(g - y).max() <= 2 * slack


def test_every_candidate_computes_the_same_convolution() -> None:
    for threads in (1, 2):
        w = conv((1, 12, 12, 24), 40, isa="avx2", threads=threads)
        arrays = data(1, 12, 12, 24, 40)
        candidates = WinogradConv().candidates(w)
        assert len(set(candidates)) == len(candidates) > 4
        times = [WinogradConv().predict(w, p) for p in candidates]
        assert times == sorted(times)
        for p in candidates[::3]:
            (got,) = Runner(WinogradConv(), w, p)(arrays, parts=threads)
            assert np.abs(got - direct(arrays, (1, 1, 1, 1))).max() <= bound(arrays, p)


def test_empty_batch_writes_nothing() -> None:
    (got,) = Runner(WinogradConv(), conv((N, 4, 4, 8), 8), params(2, 2, 1))(data(0, 4, 4, 8, 8), env={"N": 0})
    assert got.shape == (0, 4, 4, 8)


def test_error_grows_with_the_tile_and_stays_near_direct() -> None:
    arrays = data(1, 16, 16, 64, 32)
    want = direct(arrays, (1, 1, 1, 1))
    x, w = np.pad(arrays[0], ((0, 0), (1, 1), (1, 1), (0, 0))), arrays[1]
    plain = np.zeros(want.shape, np.float32)
    for c in range(64):
        for i in range(3):
            for j in range(3):
                plain += x[:, i : i + 16, j : j + 16, c, None] * w[i, j, c]
    unit = np.sqrt(np.square(plain + arrays[2] - want).mean())
    rms = {}
    for tile in ((2, 2), (4, 4)):
        (got,) = Runner(WinogradConv(), conv((1, 16, 16, 64), 32, isa="avx2"), params(*tile, 0))(arrays)
        rms[tile] = np.sqrt(np.square(got - want).mean()) / unit
    assert rms[2, 2] < rms[4, 4] < 3
    assert 1 <= error_factor(params(2, 2, 0)) < error_factor(params(4, 4, 0)) < 100
    assert error_factor(params(4, 4, 0), 256) < error_factor(params(4, 4, 0), 1)


def test_declines_with_a_reason() -> None:
    good = conv((1, 8, 8, 16), 16)
    tactic = WinogradConv()
    assert tactic.accepts(good) is None

    def changed(**attrs: object) -> Workload:
        merged = {**dict(good.attrs), **attrs}
        return Workload(
            "Conv", tuple(sorted(merged.items())), good.inputs, good.constant, good.outputs, good.epilogue, good.isa
        )  # type: ignore[arg-type]

    for w, word in (
        (changed(strides=(2, 2)), "stride"),
        (changed(dilations=(2, 2)), "dilation"),
        (changed(group=2), "group"),
        (changed(channels_last=0), "channels-last"),
        (changed(pads=(3, 1, 1, 1)), "pads"),
        (Workload("Conv", good.attrs, good.inputs, (False,) * 3, good.outputs, good.epilogue, "avx2"), "constant"),
        (Workload("MatMul", (), good.inputs, good.constant, good.outputs, good.epilogue, "avx2"), "MatMul"),
        (Workload("Conv", good.attrs, good.inputs, good.constant, good.outputs, good.epilogue, "sm_90"), "sm_90"),
    ):
        assert word in (tactic.accepts(w) or "")
    wide = (good.inputs[0], f32(5, 5, 16, 16), None)
    assert "3x3" in (
        tactic.accepts(Workload("Conv", good.attrs, wide, good.constant, good.outputs, good.epilogue, "avx2")) or ""
    )
    half = (Slot(TensorType("float16", (1, 8, 8, 16))), *good.inputs[1:])
    assert "float32" in (
        tactic.accepts(Workload("Conv", good.attrs, half, good.constant, good.outputs, good.epilogue, "avx2")) or ""
    )
