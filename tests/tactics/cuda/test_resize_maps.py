"""Linear and cubic Resize of run-time sizes by Triton's interpreter: coordinate modes, layouts, crops."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from temper.dtypes import storage
from temper.ir.dims import Dim, evaluate
from temper.ir.evaluate import bind_attr
from temper.ir.ops import TABLE
from temper.tactics.base import Workload
from temper.tactics.cuda.kernel import TritonKernel
from temper.tactics.cuda.resize_maps import ResizeMaps
from tests.tactics.cuda.interpret import Job, interpret
from tests.tactics.test_index_copy import workload
from tests.tactics.test_resize import MODES

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed: no GPU kernel can be interpreted", allow_module_level=True)

rng = np.random.default_rng(0)
H, W, P, Q = (Dim.symbol(s) for s in "HWPQ")
LAST = {"channels_last": 1}
CROP = {"coordinate_transformation_mode": "tf_crop_and_resize", "roi": (0.0, -0.3, 0.2, 0.0, 1.0, 0.8, 1.5, 1.0)}
SIZES = ({"H": 5, "W": 6, "P": 9, "Q": 13}, {"H": 9, "W": 13, "P": 4, "Q": 13}, {"H": 1, "W": 2, "P": 3, "Q": 1})

CASES: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    **{
        f"{mode}, {transform}": (
            (1, H, W, 5),
            {"sizes": (1, P, Q, 5), "mode": mode, "coordinate_transformation_mode": transform, **LAST},
        )
        for mode in ("linear", "cubic")
        for transform in MODES
    },
    "scales": ((1, H, W, 16), {"scales": (1.0, 2.0, 2.5, 1.0), "mode": "linear", **LAST}),
    "last axis": ((1, 3, H, W), {"sizes": (1, 3, P, Q), "mode": "linear"}),
    "volume": ((2, H, W, H, 3), {"sizes": (2, P, Q, P, 3), "mode": "linear", **LAST}),
    "excluded": ((1, H, W, 5), {"mode": "cubic", "exclude_outside": 1, "sizes": (1, P, Q, 5), **LAST}),
    "crop": ((1, H, W, 3), {"mode": "linear", "extrapolation_value": 9.0, "sizes": (1, P, Q, 3), **CROP, **LAST}),
}


def prepared(name: str) -> Workload:
    shape, attrs = CASES[name]
    return workload("Resize", shape, attrs, isa="sm_90")


def test_results_are_the_references(tmp_path: Path) -> None:
    jobs, arrays, wanted = [], dict[str, np.ndarray](), {}
    for name in CASES:
        w, tactic = prepared(name), ResizeMaps()
        assert tactic.accepts(w) is None, name
        kernel = tactic.generate(w, (), "resized")
        assert isinstance(kernel, TritonKernel) and w.inputs[0] is not None
        for k, env in enumerate(SIZES):
            x = rng.standard_normal(w.inputs[0].type.bind(env).shape).astype(np.float32)
            (want,) = TABLE["Resize"].reference([x], {k: bind_attr(v, env) for k, v in w.attrs})
            at = f"{name}{k}"
            arrays |= {f"{at}x": x.reshape(-1), f"{at}y": np.zeros(want.size, storage("float32"))}
            wanted[at] = want
            pointers = ((f"{at}x", 0, "*fp32"), (f"{at}y", 0, "*fp32"))
            sizes = [evaluate(env[s], env) for s in kernel.symbols]
            jobs.append(Job(kernel.triton.text, "resized", evaluate(kernel.grid, env), (*pointers, *sizes)))
    results = interpret(jobs, arrays, tmp_path)
    for at, want in wanted.items():
        # 16 taps at most of numbers up to 3, each rounded: 16 * 2^-23 * 3
        np.testing.assert_allclose(results[f"{at}y"].reshape(want.shape), want, rtol=0, atol=6e-6, err_msg=at)


def test_what_it_leaves_to_others() -> None:
    tactic = ResizeMaps()
    attrs = {"mode": "linear", "antialias": 1, "sizes": (1, P, Q, 5), **LAST}
    soft = workload("Resize", (1, H, W, 5), attrs, isa="sm_90")
    assert "antialiased" in str(tactic.accepts(soft))
    nearest = workload("Resize", (1, H, W, 5), {"mode": "nearest", "sizes": (1, P, Q, 5), **LAST}, isa="sm_90")
    assert "copy" in str(tactic.accepts(nearest))
