"""Our references, the shape inference and the ONNX implementations agree on every case."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx.reference import ReferenceEvaluator

from temper.dtypes import CODED, NARROW_INTS, storage
from temper.ir.ops import TABLE
from temper.ir.types import TensorType
from temper.reference import REFERENCES, run
from temper.reference.formats import ML_DTYPES, UNNAMED, decode
from temper.reference.sequences import SEQUENCE_OPS
from tests.ops.cases import CASES, Case
from tests.ops.to_onnx import node_model


@cache
def _options() -> ort.SessionOptions:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return options


#: cases that ONNX Runtime refuses or answers otherwise than ONNX states, and why; onnx.reference decides those
_NOT_ONNX_RUNTIME = {
    **{f"Mod_{dtype}": "it has only the truncated remainder of floats" for dtype in ("float16", "float32", "float64")},
    **{
        f"Resize_{name}": "it takes the corners of the rounded length, not of the scaled one"
        for name in (
            "linear_corners_scales",
            "cubic_corners_scales",
            *(f"nearest_{m}_align_corners_half" for m in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil")),
        )
    },
    "Clip_special_0": "an absent bound is the largest finite number there",
    "Clip_special_1": "an absent bound is the largest finite number there",
    "Clip_special_2": "an absent bound is the largest finite number there",
    **dict.fromkeys(
        (f"DFT_{name}_30" for name in ("real", "half", "complex", "inverse")), "its sums are off by 1e-4 at odd lengths"
    ),
    "DFT_back_to_real_10": "it does not take missing results for zeros",
    **dict.fromkeys((f"StringSplit_{name}" for name in ("comma", "most")), "an empty string has no part there"),
    "StringSplit_spaces": "a tab does not separate there",
    "Einsum_...ij,...kj->...ik": "its shape inference does not broadcast the ellipsis",
}


def onnx_results(model: onnx.ModelProto, feeds: dict[str, np.ndarray], name: str = "") -> list[np.ndarray]:
    """ONNX Runtime's outputs, or onnx.reference's where ONNX Runtime has no such kernel or cannot judge the case."""
    if name in _NOT_ONNX_RUNTIME:
        return list(ReferenceEvaluator(model).run(None, feeds))
    try:
        session = ort.InferenceSession(model.SerializeToString(), _options(), providers=["CPUExecutionProvider"])
    except (ort.capi.onnxruntime_pybind11_state.NotImplemented, ort.capi.onnxruntime_pybind11_state.InvalidGraph):
        with np.errstate(all="ignore"):
            return list(ReferenceEvaluator(model).run(None, feeds))
    return list(session.run(None, feeds))


def assert_near(got: np.ndarray, want: np.ndarray, op: str) -> None:
    """Exact ops to the last bit (but -0 is 0), others within a few roundings of the result and of its tensor."""
    assert got.dtype == want.dtype
    assert got.shape == want.shape
    tolerance = TABLE[op].tolerance
    if want.dtype.kind != "f" or (tolerance.relative == 0.0 and not tolerance.reduction):
        np.testing.assert_array_equal(got, want)
        return
    eps = float(np.finfo(want.dtype).eps)
    finite = np.abs(want[np.isfinite(want)])
    scale = float(np.median(finite)) if finite.size else 1.0
    np.testing.assert_allclose(
        got.astype(np.float64), want.astype(np.float64), rtol=64 * eps, atol=64 * eps * scale + 1e-30
    )


def _bounded(types: Sequence[TensorType]) -> list[tuple[str, tuple[object, ...]]]:
    return [(str(storage(t.dtype)), t.shape) for t in types]


def _theirs(a: np.ndarray, dtype: str) -> np.ndarray:
    """An operand as onnx.reference takes it: of types numpy lacks, as ml_dtypes' arrays."""
    if dtype not in UNNAMED:
        return a
    kind = np.dtype(getattr(ml_dtypes, ML_DTYPES[dtype]))
    return a.astype(kind) if dtype in NARROW_INTS else a.view(kind)


def _ours(a: np.ndarray, dtype: str) -> np.ndarray:
    """A result to compare: numbers of 8- and 4-bit floats, whose NaN has several codes; else what arrays hold."""
    if dtype in CODED:
        return a.astype(np.float32)
    return a if dtype not in UNNAMED else a.astype(storage(dtype)) if dtype in NARROW_INTS else a.view(storage(dtype))


#: ONNX Runtime refuses even LRN sizes and onnx.reference leaves channels out: test_lrn_even_size checks these by hand
_EVEN_LRN = [c for c in CASES if c.op == "LRN" and c.attrs["size"] == 4]


#: ops whose tables are operands here and attributes in ONNX, random ops, and one that ONNX Runtime needs a locale for,
#: while onnx.reference also takes accents away: frontends/test_onnx_ml.py; NMS and NonZero with all rows: as these
_OTHER_FORM = (
    "StringNormalizer",
    "LabelEncoder",
    "TfIdfVectorizer",
    "TreeEnsemble",
    "RandomUniform",
    "RandomNormal",
    "Multinomial",
    "BoxesKept",
    "Positions",
    "Histogram",  # no op of ONNX: quantize/test_histogram.py
    "AttentionInt8",  # no op of ONNX: tactics/test_attention_int8.py
)
_COMPARED = [c for c in CASES if c not in _EVEN_LRN and c.op not in _OTHER_FORM]


@pytest.mark.parametrize("case", _COMPARED, ids=lambda c: c.name)
def test_agrees_with_onnx(case: Case) -> None:
    attrs = case.full_attrs
    arrays = case.arrays()
    before = [None if a is None else a.copy() for a in arrays]
    types = case.types()
    results = TABLE[case.op].infer(types, attrs)
    got = run(case.op, arrays, attrs, [None if t is None else t.dtype for t in types], [r.dtype for r in results])
    for a, b in zip(arrays, before, strict=True):
        assert a is b or np.array_equal(a, b, equal_nan=a.dtype.kind == "f"), "the reference changed an operand"
    assert [(str(g.dtype), g.shape) for g in got] == _bounded(results)
    model = node_model(case.op, attrs, types, results)
    feeds = {f"x{i}": a for i, a in enumerate(arrays) if a is not None}
    if any(t is not None and t.dtype in UNNAMED for t in (*types, *results)):
        theirs = {
            f"x{i}": _theirs(a, t.dtype) for i, (a, t) in enumerate(zip(arrays, types, strict=True)) if a is not None
        }
        with np.errstate(all="ignore"):
            made = ReferenceEvaluator(model).run(None, theirs)
        want = [_ours(np.asarray(m), r.dtype) for m, r in zip(made, results, strict=True)]
        got = [decode(g, r.dtype) if r.dtype in CODED else g for g, r in zip(got, results, strict=True)]
    else:
        want = onnx_results(model, feeds, case.name)
    for g, w in zip(got, want, strict=True):
        assert_near(g, np.asarray(w), case.op)


@pytest.mark.parametrize("case", _EVEN_LRN, ids=lambda c: c.name)
def test_lrn_even_size(case: Case) -> None:
    (x,), attrs = case.arrays(), case.full_attrs
    assert x is not None
    (got,) = REFERENCES["LRN"]([x], attrs)
    if attrs["channels_last"]:
        x, got = np.moveaxis(x, -1, 1), np.moveaxis(got, -1, 1)
    for c in range(x.shape[1]):
        # floor((size - 1) / 2) channels before, ceil((size - 1) / 2) after
        squares = (x[:, max(c - 1, 0) : c + 3].astype(np.float64) ** 2).sum(axis=1)
        np.testing.assert_allclose(got[:, c], x[:, c] / (1.0 + 1e-4 / 4 * squares) ** 0.75, rtol=1e-6)


def test_names_are_unique() -> None:
    assert len({c.name for c in CASES}) == len(CASES)


#: ops that ONNX has no form of, or that run graphs: test_data_sizes.py, frontends/test_onnx_flow.py
_WITHOUT_ONNX = ("Sizes", "ReshapeSizes", "SliceBounds", "RangeOf", "Prefix", "ByData", "If", "Loop", *SEQUENCE_OPS)


def test_every_op_has_a_case() -> None:
    assert set(TABLE) - {c.op for c in CASES} == set(_WITHOUT_ONNX)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_cost_is_known(case: Case) -> None:
    types, attrs = case.types(), case.full_attrs
    cost = TABLE[case.op].cost(types, TABLE[case.op].infer(types, attrs), attrs)
    assert isinstance(cost, int) and cost >= 0
