"""Elementwise chains: broadcasting patterns, types, views, tails and splits, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from temper.ir.dims import Dim
from temper.ir.types import TensorType
from temper.tactics.base import Slot, Workload
from temper.tactics.cpu.pointwise import Pointwise, collapse
from temper.tactics.epilogue import Epilogue, Instr, Operand
from temper.tactics.epilogue_reference import epilogue_reference
from temper.tactics.geometry import strides_of
from tests.tactics.kernels import ISAS, N, Runner, assert_close, f32

rng = np.random.default_rng(0)


def workload(e: Epilogue, shape: tuple[int | Dim, ...], isa: str, strides: tuple[int | None, ...] = ()) -> Workload:
    slots = tuple(
        Slot(TensorType(e.dtype_of(r), shape), strides[k] if strides else None) for k, r in enumerate(e.results)
    )
    return Workload("Pointwise", (), (), (), slots, e, isa)


def operands(e: Epilogue, shape: tuple[int, ...]) -> list[np.ndarray]:
    out = []
    for o in e.operands:
        s = tuple(d if m else 1 for d, m in zip(shape, o.mask, strict=True))
        if o.dtype == "bool":
            out.append(rng.random(s) < 0.5)
        elif o.dtype.startswith("float"):
            out.append(rng.standard_normal(s).astype(o.dtype))
        else:
            out.append(rng.integers(0 if o.dtype.startswith("u") else -9, 10, s).astype(o.dtype))
    return out


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize(
    "shape", [(2, 5, 7, 37), (1, 1, 1, 1), (3, 4, 1, 16), (2, 1, 9, 1), (1, 3, 3000, 3), (1, 1, 1, 9001), (0, 2, 2, 5)]
)
def test_every_broadcast(isa: str, shape: tuple[int, ...]) -> None:
    masks = [
        (True,) * 4,
        (False, False, False, True),
        (True, False, False, True),
        (False,) * 4,
        (True, True, True, False),
        (False, True, True, False),
        (True, False, False, False),
        (False, True, False, True),
    ]
    ops = tuple(Operand("float32", m) for m in masks)
    instrs = tuple(
        Instr("Add" if i % 2 else "Mul", (len(masks) + i - 1 if i else 0, i + 1), "float32")
        for i in range(len(masks) - 1)
    )
    e = Epilogue(ops, instrs, (len(masks) + len(instrs) - 1, len(masks)))
    arrays = operands(e, shape)
    got = Runner(Pointwise(), workload(e, shape, isa)).same_for_all_splits((), arrays)
    for g, want in zip(got, epilogue_reference(e, arrays), strict=True):
        assert np.array_equal(g, want)


@pytest.mark.parametrize("isa", ISAS)
def test_symbolic_batch_and_views(isa: str) -> None:
    full = (True,) * 3
    e = Epilogue(
        (Operand("float32", full, 50), Operand("float32", full), Operand("float32", (True, False, True))),
        (Instr("Mul", (0, 2), "float32"), Instr("Add", (3, 1), "float32")),
        (4,),
    )
    run = Runner(Pointwise(), workload(e, (N, 6, 21), isa, (33,)))
    for n in (1, 3):
        arrays = operands(e, (n, 6, 21))
        (got,) = run.same_for_all_splits((), arrays, {"N": n})
        assert np.array_equal(got, epilogue_reference(e, arrays)[0])


@pytest.mark.parametrize("isa", ISAS)
def test_masks_in_lanes(isa: str) -> None:
    full = (True, True)
    e = Epilogue(
        (Operand("float32", full), Operand("float32", (False, True)), Operand("bool", full), Operand("int32", full)),
        (
            Instr("Greater", (0, 1), "bool"),
            Instr("And", (4, 2), "bool"),
            Instr("Not", (5,), "bool"),
            Instr("Cast", (3,), "float32"),
            Instr("Where", (6, 0, 7), "float32"),
            Instr("Cast", (6,), "int32"),
            Instr("Add", (9, 3), "int32"),
        ),
        (8, 6, 10),
    )
    arrays = operands(e, (5, 43))
    got = Runner(Pointwise(), workload(e, (5, 43), isa)).same_for_all_splits((), arrays)
    for g, want in zip(got, epilogue_reference(e, arrays), strict=True):
        assert g.dtype == want.dtype and np.array_equal(g, want)


@pytest.mark.parametrize("dtype", ["int64", "int8", "uint8", "uint16", "float64", "int32"])
def test_typed_loops(dtype: str) -> None:
    full = (True, True)
    ints = "int" in dtype
    instrs = [
        Instr("Add", (0, 1), dtype),
        Instr("Mul", (2, 0), dtype),
        Instr("Div", (3, 1), dtype),
        Instr("Max", (4, 0), dtype),
        Instr("Clip", (5,), dtype, (("max", 50), ("min", 2))),
        Instr("Abs", (6,), dtype),
        Instr("Less", (0, 1), "bool"),
        Instr("Where", (8, 7, 0), dtype),
        Instr("Cast", (9,), "float32"),
        Instr("Sigmoid", (10,), "float32"),
    ]
    if ints:
        instrs.append(Instr("Mod", (0, 1), dtype))
    e = Epilogue(
        (Operand(dtype, full), Operand(dtype, (False, True))), tuple(instrs), (9, 8, 11, *((12,) if ints else ()))
    )
    arrays = operands(e, (7, 29))
    arrays[1][0, :3] = 0
    with np.errstate(all="ignore"):
        want = epilogue_reference(e, arrays)
    got = Runner(Pointwise(), workload(e, (7, 29), "avx2")).same_for_all_splits((), arrays)
    for k, (g, x) in enumerate(zip(got, want, strict=True)):
        if k == 2:
            assert_close(g, x)
        elif k == 3:
            assert np.array_equal(g[:, 3:], x[:, 3:])
        else:
            assert np.array_equal(g, x, equal_nan=dtype == "float64"), k


def test_declines_with_a_reason() -> None:
    full = (True,)
    half = Epilogue((Operand("float16", full),), (Instr("Relu", (0,), "float16"),), (1,))
    assert Pointwise().accepts(workload(half, (4,), "avx2")) == "Relu on (float16) has no C form"
    erf64 = Epilogue((Operand("float64", full),), (Instr("Erf", (0,), "float64"),), (1,))
    assert Pointwise().accepts(workload(erf64, (4,), "avx2")) == "Erf on (float64) has no C form"
    relu = Epilogue((Operand("float32", full),), (Instr("Relu", (0,), "float32"),), (1,))
    other = Workload("Conv", (), (f32(4),), (False,), (f32(4),), relu, "avx2")
    assert Pointwise().accepts(other) == "computes Pointwise, not Conv"


def test_collapse_merges_what_every_tensor_walks_as_one() -> None:
    shape = (2, 3, 1, 4)
    loops = collapse(
        shape, [strides_of(shape, (True,) * 4, None), strides_of(shape, (False, False, False, True), None)]
    )
    assert loops.shape == (6, 4) and loops.strides == ((4, 1), (0, 1))
    loops = collapse(shape, [strides_of(shape, (True,) * 4, 10), strides_of(shape, (False,) * 4, None)])
    assert loops.shape == (6, 4) and loops.strides == ((10, 1), (0, 0))
    assert collapse((N, 8), [strides_of((N, 8), (True, True), None)]).shape == (1, N * 8)


@pytest.mark.parametrize("isa", ISAS)
def test_codes_of_a_selection(isa: str) -> None:
    """One-hot rows as codes, with a tail: a masked store of narrowed selections."""
    e = Epilogue(
        (
            Operand("int32", (False, True, False)),
            Operand("int32", (False, False, True)),
            Operand("float32", (False, False, False)),
        ),
        (
            Instr("Equal", (0, 1), "bool"),
            Instr("Cast", (3,), "float32"),
            Instr("Div", (4, 2), "float32"),
            Instr("Saturate", (5,), "int8", (("to", "int8"), ("zero_point", 0))),
        ),
        (6,),
    )
    w = Workload("Pointwise", (), (), (), (Slot(TensorType("int8", (1, 8, 257))),), e, isa)
    a, b = np.arange(8, dtype=np.int32).reshape(1, 8, 1) % 4, np.arange(257, dtype=np.int32).reshape(1, 1, 257) % 4
    (got,) = Runner(Pointwise(), w).same_for_all_splits([], [a, b, np.full((1, 1, 1), 1 / 127, np.float32)])
    np.testing.assert_array_equal(got, np.where(a == b, 127, 0))
