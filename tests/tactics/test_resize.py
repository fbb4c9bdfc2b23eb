"""Linear and cubic resize against the reference: coordinate modes, layouts, views, symbolic batch, epilogues."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from temper.ir.ops import TABLE
from temper.tactics.base import Slot
from temper.tactics.cpu.resize import ResizeTaps
from temper.tactics.epilogue_reference import epilogue_reference
from temper.tactics.resize_geometry import axis_taps
from tests.tactics.kernels import ISAS, N, Runner, bias_relu_scale
from tests.tactics.test_index_copy import workload

rng = np.random.default_rng(0)
LAST = {"channels_last": 1}


def check(
    shape: tuple[Any, ...],
    attrs: dict[str, Any],
    isa: str = "avx512",
    env: dict[str, int] | None = None,
    **strides: Any,
) -> None:
    w = workload("Resize", shape, attrs, isa=isa, **strides)
    assert w.inputs[0] is not None
    x = rng.standard_normal(w.inputs[0].type.bind(env or {}).shape).astype(np.float32)
    (got,) = Runner(ResizeTaps(), w).same_for_all_splits([x], env=env)
    (want,) = TABLE["Resize"].reference([x], dict(w.attrs))
    np.testing.assert_allclose(got, want, rtol=0, atol=2e-6)


MODES = ["half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric"]


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_channels_last(mode: str, isa: str) -> None:
    check((2, 5, 6, 37), {"sizes": (2, 9, 13, 37), "mode": mode, **LAST}, isa)
    check((1, 9, 13, 16), {"scales": (1.0, 0.4, 2.5, 1.0), "mode": mode, **LAST}, isa)


@pytest.mark.parametrize("transform", MODES)
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_coordinate_modes(mode: str, transform: str) -> None:
    for sizes in ((1, 8, 3, 5), (1, 1, 12, 5), (1, 2, 6, 5)):
        check((1, 4, 6, 5), {"sizes": sizes, "mode": mode, "coordinate_transformation_mode": transform, **LAST})


@pytest.mark.parametrize(
    "extra", [{"antialias": 1}, {"exclude_outside": 1, "mode": "cubic"}, {"mode": "cubic", "cubic_coeff_a": -0.5}]
)
def test_options(extra: dict[str, Any]) -> None:
    check((1, 12, 10, 5), {"mode": "linear", **extra, "sizes": (1, 5, 17, 5), **LAST})


def test_crop_and_resize() -> None:
    crop = {"coordinate_transformation_mode": "tf_crop_and_resize", "extrapolation_value": -3.5, "mode": "linear"}
    check((1, 6, 5, 3), {**crop, "sizes": (1, 7, 8, 3), "roi": (0.0, -0.3, 0.2, 0.0, 1.0, 0.8, 1.5, 1.0), **LAST})
    check((1, 3, 6, 5), {**crop, "sizes": (1, 3, 7, 8), "roi": (0.0, 0.0, -0.3, 0.2, 1.0, 1.0, 0.8, 1.5)})


def test_channels_first_and_other_ranks() -> None:
    for mode in ("linear", "cubic"):
        check((2, 3, 5, 6), {"sizes": (2, 3, 10, 9), "mode": mode})
        check((7,), {"sizes": (12,), "mode": mode})
        check((2, 9, 4), {"sizes": (2, 4, 4), "mode": mode, **LAST})
        check((1, 3, 4, 5, 6), {"sizes": (1, 6, 8, 3, 6), "mode": mode, **LAST})
        check((1, 6, 5, 4), {"sizes": (1, 9, 5, 4), "mode": mode, **LAST})


@pytest.mark.parametrize("isa", ISAS)
def test_symbolic_batch_and_views(isa: str) -> None:
    attrs = {"scales": (1.0, 2.0, 2.0, 1.0), "mode": "linear", **LAST}
    for strides in ({}, {"in_stride": 50}, {"out_stride": 61}, {"in_stride": 50, "out_stride": 61}):
        for n in (1, 3):
            check((N, 3, 4, 37), attrs, isa, {"N": n}, **strides)


@pytest.mark.parametrize("isa", ISAS)
def test_epilogue(isa: str) -> None:
    w = workload("Resize", (2, 3, 4, 37), {"scales": (1.0, 2.0, 1.5, 1.0), "mode": "linear", **LAST}, isa=isa)
    w = replace(w, epilogue=bias_relu_scale(), outputs=(Slot(w.outputs[0].type, 41), w.outputs[0]))
    x = rng.standard_normal((2, 3, 4, 37)).astype(np.float32)
    operands = [rng.standard_normal((1, 1, 1, 37)), rng.standard_normal((2, 1, 1, 37))]
    operands = [o.astype(np.float32) for o in operands]
    got = Runner(ResizeTaps(), w).same_for_all_splits([x], [None, *operands])
    (acc,) = TABLE["Resize"].reference([x], dict(w.attrs))
    for g, want in zip(got, epilogue_reference(w.epilogue, [acc, *operands]), strict=True):
        np.testing.assert_allclose(g, want, rtol=0, atol=1e-5)


def test_taps_are_as_few_as_the_mode_needs() -> None:
    linear = {"mode": "linear", "sizes": (8, 4), "coordinate_transformation_mode": "half_pixel"}
    a = axis_taps(4, 8, linear)
    assert a.taps == 2 and a.start.min() == 0 and a.start.max() == 2
    assert np.allclose(a.weight.sum(axis=1), 1)
    assert axis_taps(4, 4, {}).taps == 1


def test_declines_with_a_reason() -> None:
    t = ResizeTaps()
    assert (
        t.accepts(workload("Resize", (1, 4, 4, 3), {"scales": (1.0, 2.0, 2.0, 1.0), "mode": "nearest"}))
        == "mode nearest is a copy"
    )
    assert t.accepts(workload("Resize", (1, N, 4, 3), {"scales": (1.0, 2.0, 2.0, 1.0), "mode": "linear"})) == (
        "it resizes an axis whose size is not known at build"
    )
    four = workload("Resize", (2, 2, 2, 2), {"sizes": (3, 3, 3, 3), "mode": "linear"})
    assert t.accepts(four) == "it resizes over 4 axes, more than 3"
