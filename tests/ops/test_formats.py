"""Number formats that numpy lacks: conversions, packed tensors and kernels, against ml_dtypes and the onnx package."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from onnx.numpy_helper import to_float8e8m0

import temper.onnx_backend as backend
from temper.dtypes import CODED, NARROW_INTS, storage
from temper.frontends.onnx import import_onnx
from temper.frontends.onnx.tensors import DTYPES, read_tensor
from temper.ir.evaluate import evaluate
from temper.ir.graph import Graph
from temper.ir.text import parse, to_text
from temper.reference.formats import (
    MINI_FLOATS,
    ML_DTYPES,
    bits_of,
    decode,
    encode,
    number,
    range_of,
    reinterpret,
    wrap,
)
from tests.tactics.kernels import ISAS
from tests.tactics.test_rare import run

rng = np.random.default_rng(0)
_CODES = {name: np.arange(16 if bits_of(name) == 4 else 256).astype(np.uint8) for name in sorted(CODED)}
_TENSOR = {name: code for code, name in DTYPES.items()}


def theirs(dtype: str) -> np.dtype:
    return np.dtype(getattr(ml_dtypes, ML_DTYPES[dtype]))


def samples() -> np.ndarray:
    """Random bit patterns, all halves of small integers, and the halves between neighbouring 8-bit floats."""
    halves = np.arange(1 << 16).astype(np.uint16).view(np.float16).astype(np.float32)
    bits = rng.integers(0, 1 << 32, 1 << 15, np.uint32).view(np.float32)
    finite = halves[np.isfinite(halves)]
    return np.concatenate([halves, bits, np.nextafter(finite[::7], np.float32(np.inf))])


@pytest.mark.parametrize("dtype", sorted(CODED))
def test_every_code_has_its_number(dtype: str) -> None:
    want = _CODES[dtype].view(theirs(dtype)).astype(np.float32)
    np.testing.assert_array_equal(decode(_CODES[dtype], dtype), want)


@pytest.mark.parametrize("dtype", MINI_FLOATS)
def test_numbers_round_to_the_nearest_code(dtype: str) -> None:
    x = samples()
    if dtype == "float4e2m1":
        assert not encode(np.float32([np.nan]), dtype).any()
        x = x[~np.isnan(x)]
    with np.errstate(all="ignore"):
        np.testing.assert_array_equal(encode(x, dtype, saturate=False), x.astype(theirs(dtype)).view(np.uint8))
        info = ml_dtypes.finfo(theirs(dtype))
        x = x[~np.isnan(x)]
        clipped = np.clip(x, float(info.min), float(info.max)).astype(theirs(dtype))
    np.testing.assert_array_equal(encode(x, dtype), clipped.view(np.uint8))


@pytest.mark.parametrize("mode", ["up", "down", "nearest"])
@pytest.mark.parametrize("saturate", [False, True])
def test_scales(mode: str, saturate: bool) -> None:
    x = np.abs(samples())
    x = x[np.isfinite(x) & (x >= np.float32(2.0**-126))]
    want = to_float8e8m0(x, saturate, mode).view(np.uint8)
    np.testing.assert_array_equal(encode(x, "float8e8m0", saturate, mode), want)
    odd = encode(np.float32([0, np.nan, np.inf, 1e-45]), "float8e8m0", saturate, mode)
    assert odd.tolist() == ([0, 255, 254, 0] if saturate else [255, 255, 255, 255])


def test_doubles_are_rounded_once() -> None:
    tie = 1 + 2.0**-4  # between 1 and 1.125 of float8e4m3fn
    got = decode(encode(np.array([tie, tie + 2.0**-40, tie - 2.0**-40]), "float8e4m3fn"), "float8e4m3fn")
    assert got.tolist() == [1.0, 1.125, 1.0]


@pytest.mark.parametrize("dtype", NARROW_INTS)
def test_narrow_integers_wrap(dtype: str) -> None:
    low, high = range_of(dtype)
    x = np.arange(-40, 40)
    got = wrap(x, dtype)
    assert got.dtype == storage(dtype)
    assert int(got.min()) == low
    assert int(got.max()) == high
    assert not ((got.astype(np.int64) - x) % (high - low + 1)).any()


def test_bits_keep_their_pattern() -> None:
    x = np.arange(-8, 8).astype(np.int8)
    assert reinterpret(x, "uint4").tolist() == [*range(8, 16), *range(8)]
    np.testing.assert_array_equal(reinterpret(reinterpret(x, "float4e2m1"), "int4"), x)
    assert reinterpret(np.float32(-0.0).reshape(()), "uint32") == 1 << 31


@pytest.mark.parametrize("dtype", [*NARROW_INTS, *MINI_FLOATS, "float8e8m0"])
@pytest.mark.parametrize("count", [0, 1, 5, 8])
def test_packed_tensors(dtype: str, count: int) -> None:
    values = rng.integers(0, 1 << bits_of(dtype), count)
    want = wrap(values, dtype) if dtype in NARROW_INTS else values.astype(np.uint8)
    array = want.astype(theirs(dtype)) if dtype in NARROW_INTS else want.view(theirs(dtype))
    raw = onnx.numpy_helper.from_array(array, "t")
    typed = helper.make_tensor("t", _TENSOR[dtype], [count], array.astype(np.float32).tolist())
    for tensor in (raw, typed):
        got, name = read_tensor(tensor, None, "tensor")
        assert name == dtype
        finite = np.ones(count, bool) if dtype in NARROW_INTS else np.isfinite(decode(want, dtype))
        np.testing.assert_array_equal(got[finite], want[finite])


@pytest.mark.parametrize("isa", ISAS)
@pytest.mark.parametrize("dtype", sorted(CODED))
def test_kernels_convert_every_code_and_half(dtype: str, isa: str) -> None:
    codes = _CODES[dtype]
    np.testing.assert_array_equal(run("Cast", [codes], [dtype], "float32", isa), decode(codes, dtype))
    x = samples()
    for saturate in (0, 1):
        got = run("Cast", [x], ["float32"], dtype, isa, saturate=saturate)
        np.testing.assert_array_equal(got, encode(x, dtype, bool(saturate)))


@pytest.mark.parametrize("mode", ["down", "nearest"])
def test_kernels_round_scales(mode: str) -> None:
    x = samples()
    got = run("Cast", [x], ["float32"], "float8e8m0", round_mode=mode)
    np.testing.assert_array_equal(got, encode(x, "float8e8m0", True, mode))


def test_text_keeps_constants() -> None:
    g = Graph("g")
    values = [g.add_constant(number(1, d).reshape(1), f"c_{d}", d) for d in sorted({*CODED, *NARROW_INTS})]
    g.set_outputs(values)
    text = to_text(g)
    assert to_text(parse(text)) == text
    assert [v.type.dtype for v in parse(text).outputs] == [v.type.dtype for v in values]


def test_microscaling_blocks() -> None:
    """Blocks of float4e2m1 that share a power of two, and what is asked of 8-bit floats."""
    w = rng.integers(0, 16, (4, 8)).astype(np.uint8)
    scale = rng.integers(120, 135, (4, 2)).astype(np.uint8)
    odd = np.array([0, 0x7C, 0xFC, 0x7E], np.uint8)  # 0, both infinities and NaN of float8e5m2
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["d"], axis=1, block_size=4, output_dtype=TensorProto.FLOAT),
        helper.make_node(
            "QuantizeLinear", ["d", "s"], ["q"], axis=1, block_size=4, output_dtype=TensorProto.FLOAT4E2M1
        ),
        helper.make_node("IsNaN", ["o"], ["n"]),
        helper.make_node("IsInf", ["o"], ["i"], detect_negative=0),
    ]
    inputs = [("w", "float4e2m1", [4, 8]), ("s", "float8e8m0", [4, 2]), ("o", "float8e5m2", [4])]
    types = {"d": TensorProto.FLOAT, "q": TensorProto.FLOAT4E2M1, "n": TensorProto.BOOL, "i": TensorProto.BOOL}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info(n, _TENSOR[d], shape) for n, d, shape in inputs],
        [helper.make_tensor_value_info(n, t, None) for n, t in types.items()],
    )
    imported = import_onnx(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 28)]))
    d, q, n, i = evaluate(imported, {"w": w, "s": scale, "o": odd})
    np.testing.assert_array_equal(d, decode(w, "float4e2m1") * np.repeat(decode(scale, "float8e8m0"), 4, axis=1))
    np.testing.assert_array_equal(q, w)
    assert n.tolist() == [False, False, False, True]
    assert i.tolist() == [False, True, False, False]


def test_packed_weights_with_block_scales_are_multiplied() -> None:
    """A product with int4 weights in blocks of two rows, as quantized language models hold them."""
    w = rng.integers(-8, 8, (8, 6)).astype(np.int8)
    scale = rng.uniform(0.1, 1, (4, 6)).astype(np.float32)
    x = rng.standard_normal((3, 8)).astype(np.float32)
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["d"], axis=0, block_size=2),
        helper.make_node("MatMul", ["x", "d"], ["y"]),
        helper.make_node("Cast", ["y"], ["z"], to=TensorProto.FLOAT8E4M3FN),
    ]
    constants = [
        onnx.numpy_helper.from_array(w.astype(ml_dtypes.int4), "w"),
        onnx.numpy_helper.from_array(scale, "s"),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [3, 8])],
        [
            helper.make_tensor_value_info("y", TensorProto.FLOAT, [3, 6]),
            helper.make_tensor_value_info("z", TensorProto.FLOAT8E4M3FN, [3, 6]),
        ],
        constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 23)])
    y, z = backend.prepare(model).run([x])
    want = x.astype(np.float64) @ (w * np.repeat(scale, 2, axis=0)).astype(np.float64)
    np.testing.assert_allclose(y, want, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(z.astype(np.float32), y.astype(ml_dtypes.float8_e4m3fn).astype(np.float32))
