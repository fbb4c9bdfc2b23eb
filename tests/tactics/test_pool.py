"""Pools against a direct loop over windows."""

from __future__ import annotations

import numpy as np
import pytest

from temper.tactics.base import Workload
from temper.tactics.cpu.pool import Pool
from temper.tactics.epilogue import Epilogue
from temper.tactics.epilogue_reference import epilogue_reference
from tests.tactics.kernels import ISAS, N, Runner, assert_close, bias_relu_scale, f32

rng = np.random.default_rng(2)


def pool(x: np.ndarray, out: tuple[int, int], op: str, k, s, d, pads, include: int) -> np.ndarray:
    n, h, w, c = x.shape
    y = np.zeros((n, *out, c))
    for oy in range(out[0]):
        for ox in range(out[1]):
            rows = [oy * s[0] - pads[0] + i * d[0] for i in range(k[0])]
            cols = [ox * s[1] - pads[1] + i * d[1] for i in range(k[1])]
            inside = [x[:, r, q] for r in rows for q in cols if 0 <= r < h and 0 <= q < w]
            if op == "MaxPool":
                y[:, oy, ox] = np.max(inside, 0) if inside else -np.inf
            else:
                padded = sum(r < h + pads[2] and q < w + pads[3] for r in rows for q in cols)
                total = np.sum(np.asarray(inside, np.float64), 0) if inside else 0.0
                with np.errstate(all="ignore"):
                    y[:, oy, ox] = np.divide(total, padded if include else len(inside))
    return y


def workload(
    shape, out, op, k, s=(1, 1), d=(1, 1), pads=(0, 0, 0, 0), include=0, isa="avx512", e=None, xs=None, os=None
) -> Workload:
    attrs = [("channels_last", 1), ("dilations", d), ("kernel_shape", k), ("pads", pads), ("strides", s)]
    if op == "AveragePool":
        attrs.append(("count_include_pad", include))
    e = e or Epilogue.identity("float32", 4)
    outs = tuple(f32(shape[0], *out, shape[3], stride=os if i == 0 else None) for i in range(len(e.results)))
    return Workload(op, tuple(sorted(attrs)), (f32(*shape, stride=xs),), (False,), outs, e, isa)


CASES = [
    ((1, 16, 16, 64), (8, 8), (3, 3), (2, 2), (1, 1), (1, 1, 1, 1)),
    ((2, 9, 7, 37), (9, 7), (5, 5), (1, 1), (1, 1), (2, 2, 2, 2)),
    ((1, 7, 8, 5), (4, 4), (2, 2), (2, 2), (1, 1), (0, 0, 0, 0)),  # ceil_mode: the last window is partial
    ((1, 12, 10, 150), (4, 8), (3, 2), (2, 1), (2, 2), (0, 0, 0, 0)),
    ((1, 7, 7, 33), (1, 1), (7, 7), (1, 1), (1, 1), (0, 0, 0, 0)),
]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("op", ["MaxPool", "AveragePool", "AveragePool with padding"])
@pytest.mark.parametrize("case", CASES)
def test_windows(case: tuple, op: str, isa: str) -> None:
    shape, out, k, s, d, pads = case
    name, include = op.split()[0], int(" " in op)
    x = rng.standard_normal(shape).astype(np.float32)
    if name == "MaxPool":
        x[0, 3, 4, 1] = np.nan
    (got,) = Runner(Pool(), workload(shape, out, name, k, s, d, pads, include, isa)).same_for_all_splits((x,))
    assert_close(got, pool(x, out, name, k, s, d, pads, include), 2, 1e-6)


@pytest.mark.parametrize("isa", ISAS)
def test_epilogue_views_and_symbolic_batch(isa: str) -> None:
    e = bias_relu_scale()
    run = Runner(Pool(), workload((N, 6, 6, 21), (3, 3), "MaxPool", (2, 2), (2, 2), isa=isa, e=e, xs=30, os=40))
    for n in (1, 3):
        x = rng.standard_normal((n, 6, 6, 21)).astype(np.float32)
        channel, image = (rng.standard_normal((m, 1, 1, 21)).astype(np.float32) for m in (1, n))
        got = run.same_for_all_splits((x,), (None, channel, image), {"N": n})
        acc = pool(x, (3, 3), "MaxPool", (2, 2), (2, 2), (1, 1), (0,) * 4, 0).astype(np.float32)
        for g, want in zip(got, epilogue_reference(e, [acc, channel, image]), strict=True):
            assert np.array_equal(g, want)


def test_declines_with_a_reason() -> None:
    w = workload((1, 4, 4, 8), (2, 2), "MaxPool", (2, 2), (2, 2))
    nchw = Workload(w.op, (("kernel_shape", (2, 2)),), w.inputs, w.constant, w.outputs, w.epilogue, "avx2")
    assert Pool().accepts(nchw) == "computes channels-last 2-D pools only"
