"""Shape inference with symbolic sizes, and the reasons it gives when operands contradict an op."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from temper.errors import ShapeError
from temper.ir.dims import Dim, DimLike
from temper.ir.graph import Graph
from temper.ir.ops import TABLE, make
from temper.ir.ops.flow import FLOW_OPS
from temper.ir.types import TensorType
from temper.reference import REFERENCES, run
from temper.reference.numeric import bfloat16_to_float32, float32_to_bfloat16
from tests.ops.cases import CASES, Case

N, H, W, S = (Dim.symbol(x) for x in "NHWS")


def infer(op: str, *shapes: tuple[DimLike, ...] | TensorType | None, **attrs: Any) -> list[TensorType]:
    types = [TensorType("float32", s) if isinstance(s, tuple) else s for s in shapes]
    return TABLE[op].infer(types, TABLE[op].complete(attrs))


def shape(op: str, *shapes: tuple[DimLike, ...] | TensorType | None, **attrs: Any) -> tuple[DimLike, ...]:
    (out,) = infer(op, *shapes, **attrs)
    return out.shape


#: operands hold sizes that follow from those of the data, or constants of the case do
_TIED = ("ConvInteger", "Col2Im", "DeformConv")
_WINDOWED = [
    c for c in CASES if "strides" in TABLE[c.op].attrs and c.op not in _TIED and not c.name.startswith("Conv_empty")
]


@pytest.mark.parametrize("case", _WINDOWED, ids=lambda c: c.name)
def test_symbolic_batch_and_image_agree_with_fixed_ones(case: Case) -> None:
    types, attrs = case.types(), case.full_attrs
    x = types[0]
    assert x is not None
    fixed = TABLE[case.op].infer(types, attrs)
    channels = x.rank - 1 if attrs.get("channels_last") else 1
    names = {f"d{i}": d for i, d in enumerate(x.shape) if i != channels}
    dims = tuple(d if i == channels else Dim.symbol(f"d{i}") for i, d in enumerate(x.shape))
    symbolic = TABLE[case.op].infer([TensorType(x.dtype, dims), *types[1:]], attrs)
    env = {k: v for k, v in names.items() if isinstance(v, int)}
    assert [t.bind(env) for t in symbolic] == fixed


_CONV = {"strides": (2, 2), "pads": (1, 1, 1, 1), "dilations": (1, 1)}
_SYMBOLIC: list[tuple[str, list[tuple[DimLike, ...]], Mapping[str, Any], tuple[DimLike, ...]]] = [
    ("Conv", [(N, 3, H, W), (8, 3, 3, 3)], _CONV, (N, 8, (H - 1) // 2 + 1, (W - 1) // 2 + 1)),
    ("Add", [(N, 1, S), (7, S)], {}, (N, 7, S)),
    ("Where", [(N, 1), (1, S), (1,)], {}, (N, S)),
    ("MatMul", [(N, S, 64), (64, 10)], {}, (N, S, 10)),
    ("MatMul", [(N, 4, S, 16), (N, 4, S, 16)], {"transB": 1}, (N, 4, S, S)),
    ("Einsum", [(N, S, 8), (N, S, 8)], {"equation": "bid,bjd->bij"}, (N, S, S)),
    ("Reshape", [(N, 4, 4, 8)], {"shape": (-1, 128)}, (N, 128)),
    ("Reshape", [(N, S, 64)], {"shape": (N, S, 4, 16)}, (N, S, 4, 16)),
    ("Reshape", [(N, S, 64)], {"shape": (N, -1)}, (N, S * 64)),
    ("Transpose", [(N, 3, H, W)], {"perm": (0, 2, 3, 1)}, (N, H, W, 3)),
    ("Concat", [(N, S, 4), (N, 1, 4)], {"axis": 1}, (N, S + 1, 4)),
    ("Expand", [(1, S)], {"shape": (N, 1)}, (N, S)),
    ("Tile", [(N, 3)], {"repeats": (2, S)}, (N * 2, S * 3)),
    ("Pad", [(N, S)], {"pads": (0, 1, 0, 2)}, (N, S + 3)),
    ("Slice", [(N, S)], {"starts": (1,), "ends": (2**63 - 1,), "axes": (1,)}, (N, S - 1)),
    ("Slice", [(N, S)], {"starts": (0,), "ends": (-1,), "axes": (1,)}, (N, S - 1)),
    ("Slice", [(N, S)], {"starts": (-3,), "ends": (2**63 - 1,), "axes": (1,)}, (N, 3)),
    ("Slice", [(1, 512)], {"starts": (0,), "ends": (S,), "axes": (1,)}, (1, S)),
    ("Slice", [(N, S)], {"starts": (-1,), "ends": (-(2**63),), "axes": (1,), "steps": (-1,)}, (N, S)),
    ("Slice", [(N, S * 2)], {"starts": (0,), "ends": (2**63 - 1,), "axes": (1,), "steps": (2,)}, (N, (S * 2 + 1) // 2)),
    ("Resize", [(N, 3, H, W)], {"scales": (1.0, 1.0, 2.0, 0.5)}, (N, 3, H * 2, W // 2)),
    ("Resize", [(N, 3, H, W)], {"sizes": (N, 3, 64, S)}, (N, 3, 64, S)),
    ("DepthToSpace", [(N, 12, H, W)], {"blocksize": 2}, (N, 3, H * 2, W * 2)),
    ("ReduceMean", [(N, 7, H, W)], {"axes": (2, 3), "keepdims": 0}, (N, 7)),
    ("ArgMax", [(N, S, 5)], {"axis": -1, "keepdims": 0}, (N, S)),
    ("Gather", [(1000, 64)], {}, (N, S, 64)),
    ("OneHot", [(N, S), (2,)], {"depth": 10}, (N, S, 10)),
    ("Range", [], {"start": 0, "limit": S, "delta": 1}, (S,)),
    ("NonZero", [(N, S)], {"count": H}, (2, H)),
    ("NonMaxSuppression", [(N, S, 4), (N, 80, S)], {"count": H}, (H, 3)),
]


@pytest.mark.parametrize("row", _SYMBOLIC, ids=lambda r: f"{r[0]}_{r[3]}")
def test_symbolic(
    row: tuple[str, list[tuple[DimLike, ...]], Mapping[str, Any], tuple[DimLike, ...]],
) -> None:
    op, operands, attrs, expected = row
    extra = [TensorType("int64", (N, S))] if op == "Gather" else []
    if op == "Where":
        first = TensorType("bool", operands[0])
        assert shape(op, first, *operands[1:], **attrs) == expected
    else:
        assert shape(op, *operands, *extra, **attrs) == expected


_CONTRADICTIONS: list[tuple[str, list[Any], Mapping[str, Any], str]] = [
    ("Add", [(2, 3), (4,)], {}, "do not broadcast"),
    ("Add", [(N, 3), (S, 3)], {}, "same name"),
    ("Add", [(N, 3), TensorType("int64", (3,))], {}, "one dtype"),
    ("Exp", [TensorType("int32", (3,))], {}, "int32"),
    ("Conv", [(1, 4, 8, 8), (8, 3, 3, 3)], _CONV, "channels"),
    ("Conv", [(1, 3, 8, 8), (8, 3, 3, 3), (7,)], _CONV, "bias"),
    ("Conv", [(1, 3, 8, 8), (8, 3, 3)], _CONV, "rank"),
    ("Conv", [(1, 3, 2, 2), (8, 3, 7, 7)], _CONV, "does not fit"),
    ("Conv", [(1, 3, 8, 8), (8, 3, 3, 3)], {**_CONV, "strides": (0, 1)}, "positive"),
    ("Conv", [(1, 3, 8, 8), (8, 3, 3, 3)], {**_CONV, "pads": (1, 1)}, "pads"),
    ("Conv", [(1, 4, 8, 8), (9, 2, 3, 3)], {**_CONV, "group": 2}, "groups"),
    ("MatMul", [(2, 3), (4, 5)], {}, "inner dimensions"),
    ("Einsum", [(2, 3), (4, 5)], {"equation": "ij,jk->ik"}, "label 'j'"),
    ("Reshape", [(2, 3)], {"shape": (4, 2)}, "cannot be reshaped"),
    ("Reshape", [(N, 3)], {"shape": (5, 3)}, "cannot be reshaped"),
    ("Transpose", [(2, 3)], {"perm": (0, 0)}, "permutation"),
    ("Concat", [(2, 3), (3, 3)], {"axis": 1}, "axis 0"),
    ("Split", [(2, 5)], {"axis": 1, "sizes": (2, 2)}, "do not sum"),
    ("Squeeze", [(2, 3)], {"axes": (0,)}, "not 1"),
    ("Gather", [(2, 3), TensorType("int64", (1,))], {"axis": 2}, "out of range"),
    ("ReduceSum", [(2, 3)], {"axes": (0, -2)}, "twice"),
    ("MaxPool", [(1, 3, 8, 8)], {**_CONV, "kernel_shape": (2,)}, "kernel_shape"),
    ("BatchNormalization", [(1, 3, 8, 8), (3,), (3,), (3,), (4,)], {}, r"\[3\]"),
    ("TopK", [(2, 3)], {"k": 4}, "out of range"),
    ("Resize", [(1, 1, 4, 4)], {}, "sizes or scales"),
    ("QuantizeLinear", [(2, 3), (2,)], {"axis": 1}, "scale"),
]


@pytest.mark.parametrize("row", _CONTRADICTIONS, ids=lambda r: f"{r[0]}_{r[3]}")
def test_contradictions_are_named(row: tuple[str, list[Any], Mapping[str, Any], str]) -> None:
    op, operands, attrs, reason = row
    with pytest.raises(ShapeError, match=reason):
        infer(op, *operands, **attrs)


def test_make_names_the_node() -> None:
    g = Graph()
    x = g.add_input("x", TensorType("float32", (2, 3)))
    with pytest.raises(ShapeError, match="node 'join'"):
        make(g, "Concat", [x], {"axis": 5}, name="join")
    with pytest.raises(ShapeError, match="takes 2 inputs"):
        make(g, "Add", [x])


def test_references_are_the_tables() -> None:
    assert {n: d.reference for n, d in TABLE.items() if n not in FLOW_OPS} == dict(REFERENCES)


def test_bfloat16_is_computed_in_float32_and_rounded() -> None:
    x = np.array([1.0, 1.5, 3.140625, -2.0], np.float32)
    (y,) = run("Exp", [float32_to_bfloat16(x)], {}, ["bfloat16"], ["bfloat16"])
    assert y.dtype == np.uint16
    np.testing.assert_allclose(bfloat16_to_float32(y), np.exp(x), rtol=2**-8)


def test_bfloat16_rounds_ties_to_even_and_keeps_specials() -> None:
    ties = np.array([0x3F808000, 0x3F818000, 0x7F7FFFFF, 0x7F800000, 0x7FC00001, 0x80000000], np.uint32).view(
        np.float32
    )
    assert [hex(b) for b in float32_to_bfloat16(ties)] == ["0x3f80", "0x3f82", "0x7f80", "0x7f80", "0x7fc0", "0x8000"]
