"""The default calibrator: its error model against quantizing arrays, and its choice where the answer is known."""

from __future__ import annotations

import numpy as np
import pytest

from temper.errors import ConfigError
from temper.ir.graph import Graph
from temper.ir.ops import make
from temper.ir.types import TensorType
from temper.quantize.auto import CANDIDATES, Chosen, choose, choose_ranged, clipping_weight, noise, thresholds
from temper.quantize.histogram import EMPTY, observe
from temper.quantize.thresholds import ALGORITHMS, algorithm

RNG = np.random.default_rng(5)
NORMAL = RNG.standard_normal(100_000).astype(np.float32)


def quantized(x: np.ndarray, amax: float, levels: int) -> np.ndarray:
    step = amax / levels
    return np.clip(np.rint(x / step), -levels if levels == 127 else 0, levels) * step


@pytest.mark.parametrize("levels", [127, 255])
@pytest.mark.parametrize("amax", [0.3, 1.0, 2.5, 6.0, 40.0])
def test_noise_is_that_of_quantizing(levels: int, amax: float) -> None:
    x = NORMAL if levels == 127 else np.maximum(NORMAL, 0)
    want = np.mean((quantized(x, amax, levels) - x) ** 2) / np.mean(x**2)
    assert noise(observe(x), amax, levels) == pytest.approx(want, rel=0.02)


def test_clipping_counts_as_often_as_it_is_told() -> None:
    h = observe(NORMAL)
    clipped = np.mean(np.maximum(np.abs(NORMAL) - 1, 0) ** 2)
    more = noise(h, 1.0, 127, 3.0) - noise(h, 1.0, 127, 1.0)
    assert more == pytest.approx(2 * clipped / np.mean(NORMAL**2), rel=0.02)


def test_zeros() -> None:
    zeros = observe(np.zeros(10, np.float32))
    assert noise(zeros, 0.0, 127) == 0 == noise(EMPTY, 1.0, 127)
    assert choose(zeros, zeros, 127).amax == 0
    assert noise(observe(np.ones(3, np.float32)), 0.0, 127) == 1


def test_an_outlier_of_the_calibration_data_is_left_out() -> None:
    x = NORMAL.copy()
    x[0] = 400.0
    found = choose(observe(x), observe(NORMAL[:50_000]), 127)
    assert found.amax < 20 < found.alternatives["minmax"]
    assert found.errors[found.calibrator] == min(found.errors.values())
    assert found.amax == found.alternatives[found.calibrator]


def test_large_values_that_held_back_data_have_too_are_kept() -> None:
    """One value in 10,000 carries most of the tensor's power: clipping it is not a bargain."""
    x = NORMAL.copy()
    x[::10_000] = 400.0
    found = choose(observe(x), observe(x[::-1]), 127)
    assert found.amax > 380
    assert found.errors["percentile:99.99"] > 10 * found.errors["minmax"]


def test_without_held_back_data_the_same_data_judge() -> None:
    h = observe(NORMAL)
    assert choose(h, EMPTY, 127) == choose(h, h, 127)


def test_a_zero_point_has_twice_the_steps_so_that_less_is_clipped() -> None:
    x = np.random.default_rng(3).laplace(size=200_000).astype(np.float32) * 2
    x = x / (1 + np.exp(-x))  # SiLU: down to -0.28
    h = observe(x)
    symmetric, ranged = choose(h, h, 127), choose_ranged(h, h)
    assert symmetric.amax < ranged.amax <= h.amax

    def error(t: float) -> float:
        low = max(float(x.min()), -t)
        scale = (min(float(x.max()), t) - low) / 255
        codes = np.clip(np.rint(x / scale), np.rint(low / scale), np.rint(low / scale) + 255)
        return float(((codes * scale - x) ** 2).mean())

    assert error(ranged.amax) < error(symmetric.amax)
    assert ranged.errors[ranged.calibrator] * float((x**2).mean()) == pytest.approx(error(ranged.amax), rel=0.05)


def test_ranges_of_equal_sides_are_as_symmetric_codes() -> None:
    h = observe(NORMAL)
    assert choose_ranged(h, h).amax == pytest.approx(choose(h, h, 127).amax, rel=0.02)


def test_equal_errors_take_the_first() -> None:
    flat = observe(np.linspace(-1, 1, 4097, dtype=np.float32))
    assert choose(flat, flat, 127, candidates=("percentile:100", "minmax")).calibrator == "percentile:100"


def graph() -> Graph:
    """x >= 0 goes to a 3x3 convolution over a MaxPool; what that gives, to a MatMul."""
    g = Graph("auto")
    x = g.add_input("x", TensorType("float32", (1, 8, 8, 2)))
    y = make(g, "Relu", [x], {}, name="y").output
    attrs = {"kernel_shape": (2, 2), "strides": (2, 2), "pads": (0, 0, 0, 0), "dilations": (1, 1), "channels_last": 1}
    pooled = make(g, "MaxPool", [y], attrs, name="pooled").outputs[0]
    w = g.add_constant(np.ones((3, 3, 2, 4), np.float32), "w")
    same = {"strides": (1, 1), "pads": (1, 1, 1, 1), "dilations": (1, 1), "group": 1, "channels_last": 1}
    conv = make(g, "Conv", [pooled, w], same, name="conv").output
    rows = make(g, "Reshape", [conv], {"shape": (16, 4)}, name="rows").output
    m = g.add_constant(np.ones((4, 3), np.float32), "m")
    g.set_outputs([make(g, "MatMul", [rows, m], {}, name="z").output])
    return g


def test_clipping_weight_of_windows() -> None:
    values = {v.name: v for v in graph().values}
    assert clipping_weight(values["y"]) == pytest.approx(9)  # all weights equal: nine errors add up
    assert clipping_weight(values["rows"]) == 1
    assert clipping_weight(values["z"]) == 1  # nothing reads it


def test_thresholds_of_a_graph() -> None:
    g = graph()
    seen = {"x": observe(NORMAL), "y": observe(np.maximum(NORMAL, 0))}
    found = thresholds(g, seen, {})
    assert set(found) == {"x", "y"}
    assert set(found["x"].alternatives) == set(CANDIDATES) == set(found["x"].errors)
    again = choose(seen["y"], EMPTY, 255, clipping_weight(next(v for v in g.values if v.name == "y")))
    assert found["y"] == again
    entropy = thresholds(g, seen, {}, "entropy")["x"]
    assert (entropy.calibrator, entropy.amax) == ("entropy", ALGORITHMS["entropy"](seen["x"], 127))
    assert set(entropy.errors) == {"entropy", *CANDIDATES}
    assert isinstance(entropy, Chosen)


def test_algorithms_by_name() -> None:
    h = observe(NORMAL)
    assert algorithm("percentile")(h, 127) == ALGORITHMS["percentile:99.99"](h, 127)
    assert algorithm("percentile:50")(h, 127) == pytest.approx(0.674, abs=0.01)
    for wrong in ("median", "percentile:x", "percentile:0", "percentile:101", "minmax:3"):
        with pytest.raises(ConfigError, match="there is no calibrator"):
            algorithm(wrong)
