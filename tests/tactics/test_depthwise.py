"""Depthwise convolution against a direct float64 sum: geometry, tails, views, symbolic sizes, epilogues."""

from __future__ import annotations

import numpy as np
import pytest

from temper.ir.dims import Dim
from temper.tactics.base import Workload
from temper.tactics.cpu.depthwise import Depthwise
from temper.tactics.epilogue import Epilogue
from temper.tactics.epilogue_reference import epilogue_reference
from tests.tactics.kernels import ISAS, N, Runner, assert_close, bias_relu_scale, f32

rng = np.random.default_rng(1)
Pair = tuple[int, int]


def conv(
    x: np.ndarray, w: np.ndarray, b: np.ndarray | None, stride: Pair, dilation: Pair, pads: tuple[int, ...]
) -> np.ndarray:
    n, h, wd, c = x.shape
    kh, kw, _, oc = w.shape
    t, left, bottom, right = pads
    x = np.pad(x.astype(np.float64), ((0, 0), (t, bottom), (left, right), (0, 0)))
    x = np.repeat(x, oc // c, axis=3)
    oh = (x.shape[1] - (kh - 1) * dilation[0] - 1) // stride[0] + 1
    ow = (x.shape[2] - (kw - 1) * dilation[1] - 1) // stride[1] + 1
    out = np.zeros((n, oh, ow, oc))
    for ky in range(kh):
        for kx in range(kw):
            y0, x0 = ky * dilation[0], kx * dilation[1]
            out += (
                x[:, y0 : y0 + (oh - 1) * stride[0] + 1 : stride[0], x0 : x0 + (ow - 1) * stride[1] + 1 : stride[1]]
                * w[ky, kx, 0]
            )
    return out if b is None else out + b


def workload(
    shape: tuple[int | Dim, ...],
    oc: int,
    kernel: Pair,
    stride: Pair = (1, 1),
    dilation: Pair = (1, 1),
    pads: tuple[int, ...] = (1, 1, 1, 1),
    isa: str = "avx512",
    bias: bool = True,
    epilogue: Epilogue | None = None,
    xs: int | None = None,
    os: int | None = None,
    threads: int = 1,
) -> Workload:
    n, h, w, c = shape
    assert isinstance(c, int)
    oh = (h + pads[0] + pads[2] - (kernel[0] - 1) * dilation[0] - 1) // stride[0] + 1
    ow = (w + pads[1] + pads[3] - (kernel[1] - 1) * dilation[1] - 1) // stride[1] + 1
    attrs = (("channels_last", 1), ("dilations", dilation), ("group", c), ("pads", pads), ("strides", stride))
    e = epilogue or Epilogue.identity("float32", 4)
    outs = tuple(f32(n, oh, ow, oc, stride=os if k == 0 else None) for k in range(len(e.results)))
    ins = (f32(n, h, w, c, stride=xs), f32(*kernel, 1, oc), f32(oc) if bias else None)
    return Workload("Conv", attrs, ins, (False, True, bias), outs, e, isa, threads)


CASES = [
    ((1, 7, 7, 16), 16, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
    ((2, 9, 23, 37), 37, (3, 3), (2, 2), (1, 1), (1, 1, 1, 1)),
    ((1, 14, 14, 48), 48, (5, 5), (1, 1), (1, 1), (2, 2, 2, 2)),
    ((1, 15, 13, 33), 33, (5, 5), (2, 2), (1, 1), (2, 1, 1, 2)),
    ((1, 8, 30, 5), 5, (7, 7), (1, 1), (1, 1), (3, 3, 3, 3)),
    ((1, 12, 11, 20), 20, (3, 3), (1, 1), (2, 3), (2, 3, 2, 3)),
    ((1, 10, 10, 3), 3, (1, 1), (3, 2), (1, 1), (0, 0, 0, 0)),
    ((1, 6, 5, 7), 21, (3, 2), (1, 1), (1, 1), (0, 1, 1, 0)),
    ((1, 2, 2, 19), 19, (3, 3), (1, 1), (1, 1), (4, 4, 4, 4)),
    ((1, 40, 1, 64), 64, (9, 1), (1, 1), (1, 1), (4, 0, 4, 0)),
]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("case", CASES)
def test_geometry(case: tuple, isa: str) -> None:
    shape, oc, kernel, stride, dilation, pads = case
    x = rng.standard_normal(shape).astype(np.float32)
    w = rng.standard_normal((*kernel, 1, oc)).astype(np.float32)
    b = rng.standard_normal(oc).astype(np.float32)
    (got,) = Runner(Depthwise(), workload(shape, oc, kernel, stride, dilation, pads, isa)).same_for_all_splits(
        (x, w, b)
    )
    assert_close(got, conv(x, w, b, stride, dilation, pads), 2, 1e-5)


def test_every_parameter_set_agrees() -> None:
    shape, oc = (1, 9, 15, 70), 70
    x = rng.standard_normal(shape).astype(np.float32)
    w = rng.standard_normal((3, 3, 1, oc)).astype(np.float32)
    load = workload(shape, oc, (3, 3), isa="avx2", bias=False)
    want = conv(x, w, None, (1, 1), (1, 1), (1, 1, 1, 1))
    candidates = Depthwise().candidates(load)
    assert len(candidates) > 4 and len(set(candidates)) == len(candidates)
    for params in candidates[:: max(1, len(candidates) // 6)]:
        (got,) = Runner(Depthwise(), load, params)((x, w, None), parts=2)
        assert_close(got, want, 2, 1e-5)


@pytest.mark.parametrize("isa", ISAS)
def test_epilogue_views_and_symbolic_sizes(isa: str) -> None:
    e = bias_relu_scale()
    h, wd = Dim.symbol("H"), Dim.symbol("W")
    run = Runner(
        Depthwise(), workload((N, h, wd, 35), 35, (3, 3), (2, 1), isa=isa, epilogue=e, xs=40, os=64, threads=2)
    )
    for n, height, width in ((1, 5, 3), (2, 8, 29)):
        x = rng.standard_normal((n, height, width, 35)).astype(np.float32)
        w = rng.standard_normal((3, 3, 1, 35)).astype(np.float32)
        b = rng.standard_normal(35).astype(np.float32)
        channel = rng.standard_normal((1, 1, 1, 35)).astype(np.float32)
        image = rng.standard_normal((n, 1, 1, 35)).astype(np.float32)
        got = run.same_for_all_splits((x, w, b), (None, channel, image), {"N": n, "H": height, "W": width})
        acc = conv(x, w, b, (2, 1), (1, 1), (1, 1, 1, 1)).astype(np.float32)
        for g, want in zip(got, epilogue_reference(e, [acc, channel, image]), strict=True):
            assert_close(g, want, 4, 2e-5)


def test_declines_with_a_reason() -> None:
    w = workload((1, 8, 8, 16), 16, (3, 3))
    dense = Workload(
        w.op,
        (("channels_last", 1), ("group", 1)),
        (f32(1, 8, 8, 16), f32(3, 3, 16, 16)),
        (False, True),
        w.outputs,
        w.epilogue,
        "avx2",
    )
    assert "not depthwise" in str(Depthwise().accepts(dense))
    live = Workload(w.op, w.attrs, w.inputs, (False, False, True), w.outputs, w.epilogue, "avx2")
    assert "constant" in str(Depthwise().accepts(live))
