"""The reference computed at some indices of the first axis is what it is there of the whole."""

from __future__ import annotations

import numpy as np
import pytest

from temper.ir.graph import Graph
from temper.ir.ops import make
from temper.ir.types import TensorType
from temper.passes.manager import Log
from temper.passes.partition import partition
from temper.tactics.base import Workload
from temper.tactics.workload import workload
from temper.tune.verify import make_problem

_HEADS = {"heads": 2, "kv_heads": 2, "scale": 0.5, "layout": "rrrr", "causal": 0, "safe": 0}
_WINDOW = {"strides": (1, 1), "dilations": (1, 1), "channels_last": 1}
_CONV = {"pads": (1, 1, 1, 1), "group": 1, **_WINDOW}
_POOL = {"kernel_shape": (2, 2), "pads": (0, 0, 0, 0), "ceil_mode": 0, **_WINDOW}

#: op, shapes of its inputs, which of them are constants, attributes
_SEPARABLE = {
    "conv": ("Conv", [(9, 6, 5, 4), (3, 3, 4, 8), (8,)], (1, 2), _CONV),
    "rows": ("MatMul", [(9, 6), (6, 5)], (1,), {}),
    "square rows": ("MatMul", [(9, 9), (9, 9)], (), {}),
    "batch": ("MatMul", [(9, 3, 6), (9, 6, 5)], (), {}),
    "shared batch": ("MatMul", [(9, 3, 6), (6, 5)], (), {}),
    "one factor": ("MatMul", [(9, 3, 9), (1, 9, 5)], (), {}),
    "attention": ("Attention", [(9, 4, 6), (9, 5, 6), (9, 5, 6), (9, 1, 1, 5)], (), _HEADS),
    "one mask": ("Attention", [(9, 4, 6), (9, 5, 6), (9, 5, 6), (4, 5)], (), _HEADS),
    "pool": ("MaxPool", [(9, 6, 5, 4)], (), _POOL),
    "softmax": ("Softmax", [(9, 6)], (), {"axis": 1}),
    "mean": ("ReduceMean", [(9, 6, 5)], (), {"axes": (1,), "keepdims": 1}),
    "turned": ("Transpose", [(9, 6, 5)], (), {"perm": (0, 2, 1)}),
    "joined": ("Concat", [(9, 6, 5), (9, 2, 5)], (), {"axis": 1}),
}
_MIXED = {
    "softmax": ("Softmax", [(9, 6)], (), {"axis": 0}),
    "transposed": ("MatMul", [(6, 9), (6, 5)], (), {"transA": 1}),
    "left factor": ("MatMul", [(3, 6), (9, 6, 5)], (), {}),
    "few": ("MatMul", [(3, 6), (6, 5)], (), {}),
    "turned": ("Transpose", [(6, 5, 9)], (), {"perm": (2, 0, 1)}),
    "joined": ("Concat", [(9, 6), (3, 6)], (), {"axis": 0}),
}


def _workload(op: str, shapes: list[tuple[int, ...]], constant: tuple[int, ...], attrs: dict[str, object]) -> Workload:
    """The op followed by an addition of a whole tensor and one of its last axis."""
    rng = np.random.default_rng(1)
    g = Graph("rows")
    inputs = [
        g.add_constant(rng.standard_normal(s).astype(np.float32), f"c{i}")
        if i in constant
        else g.add_input(f"x{i}", TensorType("float32", s))
        for i, s in enumerate(shapes)
    ]
    y = make(g, op, inputs, attrs).output
    if op != "Transpose":  # whose program has numbers only
        y = make(g, "Add", [y, g.add_input("r", y.type)]).output
    shape = y.type.shape[-1:] if op != "Transpose" else ()
    y = make(g, "Mul", [y, g.add_constant(rng.standard_normal(shape).astype(np.float32), "m")]).output
    g.set_outputs([y])
    region = next(r for r in partition(g, Log(), prologues=True) if r.op == op)
    return workload(region, "sm_90", 1)


def _given(w: Workload) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(2)
    shapes = [s.type.shape for s in w.inputs if s is not None]
    return {i: rng.standard_normal(shapes[i]).astype(np.float32) for i, known in enumerate(w.constant) if known}


@pytest.mark.parametrize("name", _SEPARABLE)
def test_picked_indices_have_the_whole_problems_answers(name: str) -> None:
    w = _workload(*_SEPARABLE[name])
    whole, part = (make_problem(w, _given(w), {}, most=most) for most in (np.inf, 1.0))
    assert whole.rows is None and part.rows is not None
    assert part.rows[0] == 0 and part.rows[-1] == 8 and 3 <= len(part.rows) < 9
    for a, b in zip(whole.inputs + whole.operands, part.inputs + part.operands, strict=True):
        assert (a is None and b is None) or np.array_equal(a, b)
    assert [y.shape for y in part.whole()] == [y.shape for y in whole.want]
    (want,), (found,) = (whole.want[0][part.rows],), part.want
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-5)
    bound = whole.bounds[0][part.rows]
    np.testing.assert_allclose(part.bounds[0], bound, rtol=0.5, atol=1e-7)


@pytest.mark.parametrize("name", _MIXED)
def test_what_works_along_the_first_axis_is_computed_whole(name: str) -> None:
    w = _workload(*_MIXED[name])
    assert make_problem(w, _given(w), {}, most=1.0).rows is None


def test_long_random_arrays_repeat_a_prime_number_of_elements() -> None:
    w = _workload("MatMul", [(3000, 1500), (1500, 2)], (1,), {})
    x = make_problem(w, _given(w), {}, most=1e5).inputs[0]
    assert x is not None and x.shape == (3000, 1500)
    flat = x.reshape(-1)
    assert np.array_equal(flat[4_000_037:], flat[: flat.size - 4_000_037])
    assert 0.99 < flat.std() < 1.01


@pytest.mark.parametrize("op", ["Conv", "ConvInt8", "MatMul", "MatMulInt8"])
def test_products_of_codes_are_cut_as_products_of_floats_are(op: str) -> None:
    """640 indices of 200 sums each of 576 terms: 74 million multiplications."""
    conv, codes = op.startswith("Conv"), op.endswith("Int8")
    shapes = [(640, 5, 5, 64), (3, 3, 64, 8)] if conv else [(640, 576), (576, 200)]
    attrs = {**(_CONV if conv else {}), **({"zero_point": -128} if codes else {})}
    g = Graph("codes")
    x = g.add_input("x", TensorType("int8" if codes else "float32", shapes[0]))
    weights = g.add_constant(np.ones(shapes[1], np.int8 if codes else np.float32), "w")
    g.set_outputs([make(g, op, [x, weights], attrs).output])
    (region,) = partition(g, Log())
    w = workload(region, "sm_90", 1)
    rows = make_problem(w, {1: np.asarray(weights.const)}, {}, most=8e6).rows
    assert rows is not None and 50 <= len(rows) <= 70
