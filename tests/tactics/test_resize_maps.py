"""Linear and cubic resize of run-time sizes against the reference: coordinate modes, layouts, crops, programs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from temper.ir.dims import Dim
from temper.ir.evaluate import bind_attr
from temper.ir.ops import TABLE
from temper.tactics.cpu.resize_maps import ResizeMaps
from temper.tactics.epilogue_reference import epilogue_reference
from tests.tactics.kernels import ISAS, Runner, bias_relu_scale
from tests.tactics.test_index_copy import workload
from tests.tactics.test_resize import MODES

rng = np.random.default_rng(0)
H, W, P, Q = (Dim.symbol(s) for s in "HWPQ")
LAST = {"channels_last": 1}
SIZES = ({"H": 5, "W": 6, "P": 9, "Q": 13}, {"H": 9, "W": 13, "P": 4, "Q": 13}, {"H": 1, "W": 2, "P": 3, "Q": 1})


def check(shape: tuple[Any, ...], attrs: dict[str, Any], isa: str = "avx512", **strides: Any) -> None:
    w = workload("Resize", shape, attrs, isa=isa, **strides)
    runner = Runner(ResizeMaps(), w)
    assert w.inputs[0] is not None
    for env in SIZES:
        x = rng.standard_normal(w.inputs[0].type.bind(env).shape).astype(np.float32)
        (got,) = runner.same_for_all_splits([x], env=env)
        (want,) = TABLE["Resize"].reference([x], {k: bind_attr(v, env) for k, v in w.attrs})
        assert got.shape == want.shape
        np.testing.assert_allclose(got, want, rtol=0, atol=4e-6, err_msg=str(env))


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_sizes_and_scales(mode: str, isa: str) -> None:
    check((2, H, W, 37), {"sizes": (2, P, Q, 37), "mode": mode, **LAST}, isa)
    check((1, H, W, 16), {"scales": (1.0, 2.0, 2.5, 1.0), "mode": mode, **LAST}, isa)
    check((1, 3, H, W), {"sizes": (1, 3, P, Q), "mode": mode}, isa)


@pytest.mark.parametrize("transform", MODES)
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_coordinate_modes(mode: str, transform: str) -> None:
    check((1, H, W, 5), {"sizes": (1, P, Q, 5), "mode": mode, "coordinate_transformation_mode": transform, **LAST})


@pytest.mark.parametrize("extra", [{"exclude_outside": 1}, {"cubic_coeff_a": -0.5}])
def test_options(extra: dict[str, Any]) -> None:
    check((1, H, W, 5), {"mode": "cubic", **extra, "sizes": (1, P, Q, 5), **LAST})


def test_crop_views_and_known_sizes() -> None:
    crop = {
        "sizes": (1, P, Q, 3),
        "mode": "linear",
        "coordinate_transformation_mode": "tf_crop_and_resize",
        "extrapolation_value": 9.0,
        "roi": (0.0, -0.3, 0.2, 0.0, 1.0, 0.8, 1.5, 1.0),
        **LAST,
    }
    check((1, H, W, 3), crop, in_stride=11, out_stride=7)
    check((1, 4, 6, 5), {"sizes": (1, 8, 3, 5), "mode": "cubic", **LAST})


def test_program_after_it() -> None:
    plain = workload("Resize", (2, H, W, 21), {"sizes": (2, P, Q, 21), "mode": "linear", **LAST})
    w = replace(plain, epilogue=bias_relu_scale(), outputs=plain.outputs * 2)
    env = SIZES[0]
    x = rng.standard_normal((2, 5, 6, 21)).astype(np.float32)
    (acc,) = TABLE["Resize"].reference([x], {k: bind_attr(v, env) for k, v in w.attrs})
    operands = [
        rng.standard_normal([d if m else 1 for d, m in zip(acc.shape, o.mask, strict=True)]).astype(np.float32)
        for o in w.epilogue.operands[1:]
    ]
    results = Runner(ResizeMaps(), w).same_for_all_splits([x], [None, *operands], env=env)
    for got, want in zip(results, epilogue_reference(w.epilogue, [acc, *operands]), strict=True):
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


def test_declines_with_a_reason() -> None:
    tactic = ResizeMaps()
    soft = workload("Resize", (1, H, W, 5), {"mode": "linear", "antialias": 1, "sizes": (1, P, Q, 5), **LAST})
    assert "taps of an antialiased axis" in (tactic.accepts(soft) or "")
    same = workload("Resize", (1, H, W, 5), {"mode": "linear", "sizes": (1, H, W, 5), **LAST})
    assert "plain copy" in (tactic.accepts(same) or "")
