"""Integer regions of every kind on every code level: bits of the plain Q/DQ graph, ties and saturation included.

All scales are powers of two, so that floats compute the Q/DQ graph without rounding: every difference of a code is a
fault. Steps of the codes are such that results lie halfway between codes often, and beyond their range.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from temper.builder import build_plan
from temper.compile.cc import ISAS
from temper.config import BuildConfig
from temper.frontends.onnx import import_onnx
from temper.ir.evaluate import evaluate
from temper.runtime.engine import Engine
from temper.runtime.machine import cpu_flags
from tests.passes.test_integer_import import Writer

LEVELS = [i for i in ("avx512vnni", "avx512", "avx2", "portable") if ISAS[i].needs <= cpu_flags()]
#: element type of codes, zero point: all the forms data comes in
_CODES = ((np.uint8, 0), (np.uint8, 128), (np.int8, 0), (np.int8, -37), (np.uint8, 201))


class Net:
    """Layers between codes of random form; steps are powers of two near the size of what they round."""

    def __init__(self, seed: int) -> None:
        self.n, self.rng = Writer(np.random.default_rng(seed)), np.random.default_rng(seed + 1)

    def fake(self, x: str, log_step: int) -> str:
        dtype, zero = _CODES[self.rng.integers(len(_CODES))]
        return self.n.fake(x, 2.0**log_step, zero, dtype)

    def weights(self, *shape: int, wide: bool = False, axis: int = 0) -> str:
        """Codes of the whole range, -128 and 255 among them, with a power of two for each channel."""
        dtype, zero = (np.uint8, 117) if wide else (np.int8, 0)
        info, channels = np.iinfo(dtype), shape[axis]
        codes = self.rng.integers(info.min, info.max + 1, shape)
        codes[self.rng.random(shape) < 0.2] = info.min
        codes[self.rng.random(shape) < 0.2] = info.max
        q = self.n.const(codes, dtype)
        scale = self.n.const(2.0 ** self.rng.integers(-8, -5, channels), np.float32)
        return self.n("DequantizeLinear", q, scale, self.n.const(np.full(channels, zero), dtype), axis=axis)

    def conv(self, x: str, *shape: int, step: int = 1, wide: bool = False, **attrs: object) -> str:
        return self.fake(self.n("Conv", x, self.weights(*shape, wide=wide), **attrs), step)


def everything(seed: int) -> tuple[Net, str]:
    net = Net(seed)
    n = net.n
    x = net.fake("x", -3)
    a = net.conv(x, 24, 5, 3, 3, pads=[1, 1, 1, 1], step=2)
    a = net.conv(a, 24, 1, 3, 3, group=24, pads=[1, 1, 1, 1], step=3)
    a = net.fake(n("Add", a, n("Conv", x, net.weights(24, 5, 1, 1))), 2)
    a = net.fake(n("Add", net.fake(n("Relu", a), 1), net.conv(a, 24, 8, 3, 3, group=3, pads=[0, 1, 2, 1], step=4)), 3)
    b = net.conv(a, 9, 24, 3, 3, wide=True, strides=[2, 2], pads=[1, 1, 1, 1], step=5)
    c = n("MaxPool", a, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    d = net.fake(n("AveragePool", a, kernel_shape=[2, 2], strides=[2, 2], pads=[0, 0, 1, 1], count_include_pad=1), 2)
    y = net.fake(n("Concat", b, net.fake(c, 3), d, axis=1), 3)
    y = net.conv(y, 57, 1, 3, 3, group=57, wide=True, dilations=[2, 2], pads=[2, 2, 2, 2], step=6)
    y = net.fake(n("Clip", n("Mul", y, n.const(0.25, np.float32)), n.const(-64, np.float32)), 1)
    # 4 x 4 means divide by a power of two
    y = net.fake(n("GlobalAveragePool", y), 0)
    y = n("Gemm", n("Flatten", y), net.weights(10, 57), n.const(net.rng.integers(-99, 99, 10), np.float32), transB=1)
    return net, net.fake(y, 3)


@pytest.mark.parametrize(("isa", "seed"), [(isa, k) for k, isa in enumerate(LEVELS)])
def test_every_level_computes_the_same_bits(isa: str, seed: int, tmp_path: Path) -> None:
    net, y = everything(seed)
    shape = (2, 5, 8, 7)
    model = net.n.model(y, shape)
    # halves of the first step: ties; and far beyond the range of codes
    x = (net.rng.integers(-600, 600, shape) / 16).astype(np.float32)
    x.flat[:4] = (1e30, -1e30, np.inf, -np.inf)
    graph = import_onnx(model)
    (want,) = evaluate(graph, {"x": x})
    build = build_plan(model, BuildConfig(threads=2, effort=0, isa=isa, cache=tmp_path / "cache.sqlite"))
    regions = build.plan.report["regions"]
    assert not {"Conv", "MatMul", "AveragePool", "ReduceMean"} & {r["op"] for r in regions}
    assert [r["name"] for r in regions if r["tactic"] == "host"] == []
    (got,) = Engine(build.plan).run({"x": x})
    np.testing.assert_array_equal(got, want)
    assert len(np.unique(want)) > 8


def test_pairs_of_products_do_not_saturate(tmp_path: Path) -> None:
    """255 * 127 twice is beyond int16, which the byte product of CPUs before VNNI saturates at."""
    shape = (1, 64, 3, 3)
    results = []
    for isa in LEVELS:
        n = Writer()
        w = n("DequantizeLinear", n.const(np.full((4, 64, 1, 1), 127), np.int8), n.const(1.0, np.float32))
        x = n.dq(n.codes("x", 1.0, 0), 1.0, 0)
        model = n.model(n.fake(n("Conv", x, w), 16384.0, 0), shape)
        build = build_plan(model, BuildConfig(effort=0, isa=isa, cache=tmp_path / "cache.sqlite"))
        (got,) = Engine(build.plan).run({"x": np.full(shape, 255, np.float32)})
        results.append(float(got.reshape(-1)[0]))
    assert results == [np.rint(255 * 127 * 64 / 16384) * 16384] * len(LEVELS)
