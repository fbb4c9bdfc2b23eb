# ruff: noqa: E731 (a case is a name and the function that makes its operands)
"""Cases on the element types numpy lacks: casts, quantization, moves, and the bits of one type read as another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from temper.dtypes import CODED, NARROW_INTS, storage
from temper.ir.opdef import AttrValue
from temper.reference.formats import MINI_FLOATS, encode, range_of
from tests.ops.case import Case, Rng, fixed, floats, numbers, special

_FLOATS = ("float32", "float16", "float64", "bfloat16")


def _codes(rng: Rng, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Elements of any of these types; floats are finite and within 2^-6 .. 200, so that every other type holds them."""
    if dtype in NARROW_INTS:
        low, high = range_of(dtype)
        return rng.integers(low, high, shape, endpoint=True).astype(storage(dtype))
    return encode(np.exp2(rng.uniform(-6, 7.5, shape)) * rng.choice([-1, 1], shape), dtype)


def _edges(dtype: str) -> np.ndarray:
    """Float32 numbers around every number of a format: itself, halves to its neighbours and just beside them."""
    f = MINI_FLOATS[dtype]
    top = float(2.0 ** (f.largest >> f.mantissa) * 2.0 ** -(f.bias - 1))
    steps = np.concatenate([np.linspace(0, 2.0 ** (2 - f.bias), 65), np.geomspace(2.0**-f.bias, 4 * top, 300)])
    near = np.concatenate([steps, np.nextafter(steps, 0), np.nextafter(steps, np.inf)]).astype(np.float32)
    return np.concatenate([near, -near, special()[:4], special()[5:]])


def _casts() -> Iterator[Case]:
    for dtype in MINI_FLOATS:
        for saturate in (1, 0):
            attrs: Mapping[str, AttrValue] = {"to": dtype} if saturate else {"to": dtype, "saturate": 0}
            yield Case(f"Cast_edges_{dtype}_{saturate}", "Cast", attrs, fixed(_edges(dtype)))
            for source in ("float16", "float64", "int32", "int8", "bool"):
                make = lambda rng, s=source: [numbers(rng, (5, 13), s, -100, 100)]
                yield Case(f"Cast_{source}_{dtype}_{saturate}", "Cast", attrs, make)
    for dtype in sorted(CODED):
        every = np.arange(16 if dtype == "float4e2m1" else 255).astype(np.uint8)
        for to in ("float32", "float16", "float64"):
            yield Case(f"Cast_{dtype}_{to}", "Cast", {"to": to}, fixed(every), dtypes={0: dtype})
    for mode in ("up", "down", "nearest"):
        x = np.exp2(np.linspace(-126, 127, 380)).astype(np.float32)
        attrs = {"to": "float8e8m0", "round_mode": mode}
        yield Case(f"Cast_scale_{mode}", "Cast", attrs, fixed(np.concatenate([x, np.exp2(np.arange(-126, 128.0))])))
    for dtype in NARROW_INTS:
        every = np.arange(range_of(dtype)[0], range_of(dtype)[1] + 1).astype(storage(dtype))
        for to in ("float32", "float16", "int8", "uint8", "int64", "bool"):
            yield Case(f"Cast_{dtype}_{to}", "Cast", {"to": to}, fixed(every), dtypes={0: dtype})
        for source in ("float32", "float16", "int8", "int32", "bool"):
            make = lambda rng, s=source: [numbers(rng, (5, 13), s, -100, 100)]
            yield Case(f"Cast_{source}_{dtype}", "Cast", {"to": dtype}, make)
    for source, to in (("float8e5m2", "float8e4m3fn"), ("float8e4m3fnuz", "bfloat16"), ("bfloat16", "float8e5m2fnuz")):
        if source == "bfloat16":
            make = lambda rng: [(floats(rng, (5, 13)).view(np.uint32) >> 16).astype(np.uint16)]
        else:
            make = lambda rng, s=source: [_codes(rng, (5, 13), s)]
        yield Case(f"Cast_{source}_{to}", "Cast", {"to": to}, make, dtypes={0: source})


def _bit_casts() -> Iterator[Case]:
    pairs = ("float32 int32", "int64 float64", "uint16 int16", "int8 uint8", "bool uint8")
    for source, to in (p.split() for p in pairs):
        yield Case(f"BitCast_{source}_{to}", "BitCast", {"to": to}, lambda rng, s=source: [numbers(rng, (3, 17), s)])
    pairs = ("bfloat16 int16", "float8e5m2 uint8", "int4 uint4", "uint4 int4", "float4e2m1 int4", "int2 uint2")
    for source, to in (p.split() for p in pairs):
        if source == "bfloat16":
            make = lambda rng: [numbers(rng, (3, 17), "uint16", 0, 0x7F00)]
        else:
            make = lambda rng, s=source: [_codes(rng, (3, 17), s)]
        yield Case(f"BitCast_{source}_{to}", "BitCast", {"to": to}, make, dtypes={0: source})


def _quantization() -> Iterator[Case]:
    blocks: Mapping[str, AttrValue] = {"axis": 1, "block_size": 3}
    for dtype in (*MINI_FLOATS, *NARROW_INTS):
        zero = np.zeros((), storage(dtype)) if dtype in CODED else np.ones((), storage(dtype))
        kinds = {2: dtype}
        make = lambda rng, z=zero: [floats(rng, (4, 6)), np.array(0.25, np.float32), z]
        yield Case(f"QuantizeLinear_{dtype}", "QuantizeLinear", {"to": dtype}, make, (1, 2), kinds)
        make = lambda rng: [floats(rng, (4, 6)), floats(rng, (4, 2), low=0.25, high=0.5)]
        yield Case(f"QuantizeLinear_{dtype}_blocks", "QuantizeLinear", {**blocks, "to": dtype}, make, (1,))
        kinds = {0: dtype, 2: dtype}
        make = lambda rng, d=dtype, z=zero: [_codes(rng, (4, 6), d), np.array(0.25, np.float32), z]
        yield Case(f"DequantizeLinear_{dtype}", "DequantizeLinear", {}, make, (1, 2), kinds)
        make = lambda rng, d=dtype: [_codes(rng, (4, 6), d), floats(rng, (4, 2), low=0.25, high=0.5)]
        yield Case(f"DequantizeLinear_{dtype}_blocks", "DequantizeLinear", blocks, make, (1,), {0: dtype})
    make = lambda rng: [_codes(rng, (4, 6), "int4"), np.array(0.25, np.float32)]
    yield Case("DequantizeLinear_to", "DequantizeLinear", {"to": "float16"}, make, (1,), {0: "int4"})


def _moves() -> Iterator[Case]:
    for dtype in ("float8e4m3fn", "float4e2m1", "int4"):
        make = lambda rng, d=dtype: [_codes(rng, (3, 4, 5), d)]
        kinds = {0: dtype}
        yield Case(f"Identity_{dtype}", "Identity", {}, make, dtypes=kinds)
        yield Case(f"Transpose_{dtype}", "Transpose", {"perm": (2, 0, 1)}, make, dtypes=kinds)
        yield Case(f"Reshape_{dtype}", "Reshape", {"shape": (4, 15)}, make, dtypes=kinds)
    make = lambda rng: [numbers(rng, (3, 1), "bool"), *(_codes(rng, (3, 5), "float8e5m2") for _ in range(2))]
    yield Case("Where_float8e5m2", "Where", {}, make, dtypes={1: "float8e5m2", 2: "float8e5m2"})
    make = lambda rng: [_codes(rng, (3, 5), "float8e4m3fn")]
    pad: Mapping[str, AttrValue] = {"pads": (0, 1, 2, 0), "value": 1.5}
    yield Case("Pad_float8e4m3fn", "Pad", pad, make, dtypes={0: "float8e4m3fn"})


def cases() -> Iterator[Case]:
    yield from _casts()
    yield from _bit_casts()
    yield from _quantization()
    yield from _moves()
