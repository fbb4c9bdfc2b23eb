"""Strassen's products: odd rows, images, views, symbols and splits against float64; rounding; what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from temper.ir.dims import Dim
from temper.tactics.base import Workload
from temper.tactics.cpu.gemm import GemmPacked
from temper.tactics.cpu.strassen import GemmStrassen
from temper.tactics.epilogue import Epilogue
from temper.tactics.epilogue_reference import epilogue_reference
from tests.tactics.kernels import ISAS, N, Runner, bias_relu_scale, f32

S = Dim.symbol("S")
EPS = float(np.finfo(np.float32).eps)


def product(
    lead: tuple[Any, ...],
    k: int,
    n: int,
    isa: str = "avx512",
    *,
    trans: bool = False,
    epilogue: Epilogue | None = None,
    strides: tuple[int | None, int | None] = (None, None),
    threads: int = 1,
    constant: bool = True,
) -> Workload:
    e = epilogue or Epilogue.identity("float32", len(lead) + 1)
    inputs = (f32(*lead, k, stride=strides[0]), f32(n, k) if trans else f32(k, n))
    outputs = tuple(f32(*lead, n, stride=None if i else strides[1]) for i in range(len(e.results)))
    attrs = (("transB", 1),) if trans else ()
    return Workload("MatMul", attrs, inputs, (False, constant), outputs, e, isa, threads)


CASES: dict[str, dict[str, Any]] = {
    "rows": {"lead": (64,), "k": 256, "n": 96},
    "odd rows, odd half of terms": {"lead": (51,), "k": 258, "n": 64, "strides": (300, 70)},
    "odd images": {"lead": (3, 17), "k": 260, "n": 64, "epilogue": bias_relu_scale(3)},
    "image of two axes": {"lead": (2, 3, 9), "k": 256, "n": 64, "epilogue": bias_relu_scale(4)},
    "rows on the first axis": {"lead": (49, 1), "k": 256, "n": 64, "threads": 2},
    "several blocks": {"lead": (1, 300), "k": 1600, "n": 192, "trans": True},
    "symbolic": {"lead": (N, S), "k": 256, "n": 128, "epilogue": bias_relu_scale(3)},
    "symbolic rows": {"lead": (S,), "k": 256, "n": 64},
}


def data(w: Workload, env: dict[str, int], seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray | None]]:
    """Inputs, and the epilogue's operands."""
    rng = np.random.default_rng(seed)
    shapes = [s.type.bind(env).shape for s in w.inputs if s is not None]
    inputs = [rng.standard_normal(s).astype(np.float32) for s in shapes]
    out = w.outputs[0].type.bind(env).shape
    operands: list[np.ndarray | None] = [None]
    for o in w.epilogue.operands[1:]:
        size = [d if m else 1 for d, m in zip(out, o.mask, strict=True)]
        operands.append(rng.standard_normal(size).astype(np.float32))
    return inputs, operands


def wanted(w: Workload, inputs: list[np.ndarray]) -> np.ndarray:
    b = inputs[1].T if w.attr("transB", 0) else inputs[1]
    return inputs[0].astype(np.float64) @ b.astype(np.float64)


@pytest.mark.parametrize("env", [{"N": 3, "S": 29}, {"N": 1, "S": 1}], ids=["29", "1"])
@pytest.mark.parametrize("case", CASES)
def test_product(case: str, env: dict[str, int]) -> None:
    isa = ISAS[sorted(CASES).index(case) % 3]
    w = product(**CASES[case], isa=isa)
    if not w.symbols and env["S"] == 1:
        pytest.skip("the same as with other sizes")
    inputs, operands = data(w, env)
    want = wanted(w, inputs)
    terms = inputs[0].shape[-1]
    results = epilogue_reference(w.epilogue, [want.astype(np.float32), *operands[1:]])
    ranked = list(GemmStrassen().candidates(w))
    for params in {ranked[0], ranked[-1]}:
        got = Runner(GemmStrassen(), w, params).same_for_all_splits(inputs, operands, env)
        for y, expected in zip(got, results, strict=True):
            bound = EPS * (np.abs(expected).max() + 1) * (4 + 2 * terms**0.5)
            assert y.shape == expected.shape
            assert np.abs(y - expected).max() <= bound, params


def test_rounding_is_near_the_ordinary_products() -> None:
    """Gaussian data: RMS error 1.4 times the ordinary product's (which the K blocks lower here), never twice."""
    w = product((128,), 768, 96)
    inputs, _ = data(w, {})
    want = wanted(w, inputs)
    rms = [float(np.sqrt(((Runner(t, w)(inputs)[0] - want) ** 2).mean())) for t in (GemmStrassen(), GemmPacked())]
    assert rms[0] < 2 * rms[1]


def test_images_do_not_touch() -> None:
    w = product((2, 33), 256, 64)
    inputs, _ = data(w, {})
    runner = Runner(GemmStrassen(), w)
    clean = runner(inputs)[0]
    inputs[0][0] = np.inf
    assert runner(inputs)[0][1].tobytes() == clean[1].tobytes()


def test_declines() -> None:
    accepts = GemmStrassen().accepts
    assert accepts(product((64,), 256, 64)) is None
    assert "rows" in (accepts(product((40,), 256, 64)) or "")
    assert "terms" in (accepts(product((64,), 257, 64)) or "")
    assert "columns" in (accepts(product((64,), 256, 80)) or "")
    assert "constant" in (accepts(product((64,), 256, 64, constant=False)) or "")
