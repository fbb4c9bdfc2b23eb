# ruff: noqa: E731 (a case is a name and the function that makes its operands)
"""Cases of elementwise ops: functions, arithmetic, casts, quantization."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from temper.ir.opdef import AttrValue
from tests.ops.case import Case, fixed, floats, numbers, special

_FLOAT_UNARY = (
    "Exp Log Erf Sigmoid Sin Cos Tan Asin Acos Atan Sinh Cosh Tanh Asinh Acosh Atanh Softplus Mish "
    "Silu Gelu Softsign HardSwish HardSigmoid Elu Selu Celu Shrink ThresholdedRelu LeakyRelu Relu Abs Neg Sign Floor "
    "Ceil Round Sqrt Reciprocal Identity IsNaN IsInf"
).split()
_UNARY_ATTRS: Mapping[str, Sequence[Mapping[str, AttrValue]]] = {
    "Gelu": ({"approximate": "tanh"},),
    "Silu": ({"alpha": 1.702},),
    "Elu": ({"alpha": 0.3},),
    "Celu": ({"alpha": 2.5},),
    "HardSigmoid": ({"alpha": 1 / 6, "beta": 0.5},),
    "LeakyRelu": ({"alpha": 0.2},),
    "Shrink": ({"lambd": 1.5, "bias": 0.25},),
    "ThresholdedRelu": ({"alpha": 0.0},),
    "IsInf": ({"detect_positive": 0}, {"detect_negative": 0}),
}


def _unary() -> Iterator[Case]:
    for op in _FLOAT_UNARY:
        for i, attrs in enumerate(({}, *_UNARY_ATTRS.get(op, ()))):
            yield Case(f"{op}_special_{i}", op, attrs, fixed(special()))
        low = (
            1.0
            if op == "Acosh"
            else 0.0
            if op in ("Log", "Sqrt")
            else -0.98
            if op in ("Asin", "Acos", "Atanh")
            else -3.0
        )
        high = 0.98 if op in ("Asin", "Acos", "Atanh") else 3.0
        for name, shape in (("channels", (2, 3, 5, 13)), ("scalar", ()), ("empty", (0, 3))):
            yield Case(f"{op}_{name}", op, {}, lambda rng, s=shape, a=low, b=high: [floats(rng, s, low=a, high=b)])
        yield Case(f"{op}_half", op, {}, lambda rng, a=low, b=high: [floats(rng, (37,), "float16", a, b)])
    for dtype in ("int8", "int32", "int64"):
        for op in ("Abs", "Neg", "Sign", "Relu"):
            if not (op == "Relu" and dtype == "int64"):
                yield Case(f"{op}_{dtype}", op, {}, lambda rng, d=dtype: [numbers(rng, (5, 7), d)])
    yield Case("Not", "Not", {}, lambda rng: [numbers(rng, (5, 7), "bool")])
    for dtype in ("uint8", "int32", "int64"):
        yield Case(f"BitwiseNot_{dtype}", "BitwiseNot", {}, lambda rng, d=dtype: [numbers(rng, (5, 7), d)])
    bounds: Sequence[Mapping[str, AttrValue]] = (
        {},
        {"min": 0.0},
        {"max": 6.0},
        {"min": 0.0, "max": 6.0},
        {"min": -1.5, "max": -1.0},
    )
    for i, attrs in enumerate(bounds):
        yield Case(f"Clip_special_{i}", "Clip", attrs, fixed(special()))
        yield Case(f"Clip_{i}", "Clip", attrs, lambda rng: [floats(rng, (3, 17), low=-9, high=9)])
    yield Case("Clip_int32", "Clip", {"min": -5, "max": 9}, lambda rng: [numbers(rng, (4, 9), "int32", -20, 20)])
    yield Case("Clip_uint8", "Clip", {"max": 100}, lambda rng: [numbers(rng, (4, 9), "uint8")])


_BROADCASTS = (
    ("same", (2, 5, 3, 13), (2, 5, 3, 13)),
    ("channel", (2, 5, 3, 13), (13,)),
    ("left_scalar", (), (3, 7)),
    ("both_sides", (4, 1, 9), (3, 1)),
    ("image_channel", (2, 3, 3, 13), (2, 1, 1, 13)),
    ("empty", (0, 3), (1, 3)),
)


def _binary() -> Iterator[Case]:
    arithmetic = ("Add", "Sub", "Mul", "Div", "Max", "Min", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "Equal")
    for op in arithmetic:
        for name, a, b in _BROADCASTS:
            yield Case(f"{op}_{name}", op, {}, lambda rng, a=a, b=b: [floats(rng, a), floats(rng, b)])
        for dtype in ("int32", "int64", "float64", "float16"):
            low = 1 if op == "Div" else None
            make = lambda rng, d=dtype, m=low: [
                numbers(rng, (3, 11), d),
                numbers(rng, (11,), d, m) + np.dtype(d).type(0),
            ]
            yield Case(f"{op}_{dtype}", op, {}, make)
        one = special()
        if op not in ("Max", "Min"):
            yield Case(f"{op}_special", op, {}, fixed(one[:, None], one[None, :]))
    yield Case("Max_special", "Max", {}, fixed(special()[2:, None], special()[None, 2:]))
    yield Case("Min_special", "Min", {}, fixed(special()[2:, None], special()[None, 2:]))
    small = np.arange(-7, 8, dtype=np.int32)
    divisors = np.array([-3, -2, -1, 1, 2, 3, 5], np.int32)
    yield Case("Div_toward_zero", "Div", {}, fixed(small[:, None], divisors[None, :]))
    yield Case("Mod_floor", "Mod", {}, fixed(small[:, None], divisors[None, :]))
    for dtype in ("float32", "float64", "float16"):
        odd = np.array([-9.25, -4, -0.5, -0.0, 0.0, 0.5, 3, 7.75, np.inf, -np.inf, np.nan], dtype)
        by = np.array([-4, -1.5, 0.25, 2, 4, np.inf, -np.inf], dtype)
        yield Case(f"Mod_{dtype}", "Mod", {}, fixed(odd[:, None], by[None, :]))
    yield Case("Mod_fmod_int", "Mod", {"fmod": 1}, fixed(small[:, None], divisors[None, :]))
    yield Case(
        "Mod_fmod",
        "Mod",
        {"fmod": 1},
        lambda rng: [floats(rng, (6, 7), low=-9, high=9), floats(rng, (7,), low=0.25, high=4)],
    )
    yield Case(
        "Add_int8_wraps", "Add", {}, fixed(np.array([127, -128, 5], np.int32), np.array([2**31 - 1] * 3, np.int32))
    )
    for name, a, b in _BROADCASTS:
        yield Case(f"Pow_{name}", "Pow", {}, lambda rng, a=a, b=b: [floats(rng, a, low=0.1, high=4), floats(rng, b)])
    yield Case("Pow_square", "Pow", {}, lambda rng: [floats(rng, (5, 9)), np.array(2.0, np.float32)])
    for kinds in ("float32 uint32", "float32 uint64", "int32 float32", "int64 float32"):
        base, exponent = kinds.split()
        whole = np.arange(6).astype(exponent)
        bases = np.array([-3, -1, 0, 1, 2, 7, 10], base)
        yield Case(f"Pow_{base}_{exponent}", "Pow", {}, fixed(bases[:, None], whole[None, :]))
    yield Case("Pow_int_exponent", "Pow", {}, lambda rng: [floats(rng, (5, 9)), np.array([3], np.int64)])
    yield Case(
        "Pow_int", "Pow", {}, lambda rng: [numbers(rng, (5, 9), "int32", -9, 9), numbers(rng, (9,), "int32", 0, 5)]
    )
    yield Case("PRelu_channel", "PRelu", {}, lambda rng: [floats(rng, (2, 5, 3, 7)), floats(rng, (5, 1, 1))], (1,))
    yield Case("PRelu_last", "PRelu", {}, lambda rng: [floats(rng, (2, 3, 3, 13)), floats(rng, (13,))], (1,))
    yield Case("PRelu_special", "PRelu", {}, fixed(special(), np.array([0.25], np.float32)), (1,))
    for op in ("And", "Or", "Xor"):
        for name, a, b in _BROADCASTS:
            yield Case(f"{op}_{name}", op, {}, lambda rng, a=a, b=b: [numbers(rng, a, "bool"), numbers(rng, b, "bool")])
    for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor"):
        for dtype in ("uint8", "int32", "int64"):
            yield Case(f"{op}_{dtype}", op, {}, lambda rng, d=dtype: [numbers(rng, (3, 7), d), numbers(rng, (7,), d)])
    for direction in ("LEFT", "RIGHT"):
        make = lambda rng: [numbers(rng, (3, 7), "uint8"), numbers(rng, (7,), "uint8", 0, 7)]
        yield Case(f"BitShift_{direction}", "BitShift", {"direction": direction}, make)
    yield Case("Equal_bool", "Equal", {}, lambda rng: [numbers(rng, (9,), "bool"), numbers(rng, (9,), "bool")])
    shapes = ((3, 1), (1, 5), (2, 3, 5)), ((), (4,), ()), ((0, 3), (3,), (1, 3)), ((2, 1, 7), (2, 5, 7), (7,))
    for i, (c, a, b) in enumerate(shapes):
        for dtype in ("float32", "int64"):
            make = lambda rng, c=c, a=a, b=b, d=dtype: [numbers(rng, c, "bool"), numbers(rng, a, d), numbers(rng, b, d)]
            yield Case(f"Where_{i}_{dtype}", "Where", {}, make)


def _casts() -> Iterator[Case]:
    for source in ("float32", "float16", "float64", "int32", "int64", "uint8", "int8", "bool"):
        for to in ("float32", "float16", "float64", "int32", "int64", "uint8", "int8", "bool"):
            low, high = (0, 100) if "uint8" in (source, to) else (-100, 100)
            if np.dtype(source).kind == "f":
                make = lambda rng, s=source, a=low, b=high: [floats(rng, (3, 7), s, a, b)]
            else:
                make = lambda rng, s=source, a=low, b=high: [numbers(rng, (3, 7), s, a, b)]
            yield Case(f"Cast_{source}_{to}", "Cast", {"to": to}, make)
    yield Case("Cast_special_half", "Cast", {"to": "float16"}, fixed(special()))
    yield Case("Cast_special_double", "Cast", {"to": "float64"}, fixed(special()))


def _quantization() -> Iterator[Case]:
    ties = np.arange(-20, 21, dtype=np.float32)[None, :] * np.float32(0.25)
    for to in ("int8", "uint8", "int16", "uint16"):
        zero = np.array(3, to)
        yield Case(
            f"QuantizeLinear_ties_{to}", "QuantizeLinear", {}, fixed(ties, np.array(0.5, np.float32), zero), (1, 2)
        )
        saturated = np.array([np.inf, -np.inf, 1e30, -1e30, 0.0], np.float32)
        yield Case(
            f"QuantizeLinear_saturates_{to}",
            "QuantizeLinear",
            {},
            fixed(saturated, np.array(0.1, np.float32), zero),
            (1, 2),
        )
        make = lambda rng, t=to: [numbers(rng, (3, 5, 7), t), np.array(0.03, np.float32), np.array(7, t)]
        yield Case(f"DequantizeLinear_{to}", "DequantizeLinear", {}, make, (1, 2))
    yield Case(
        "QuantizeLinear_no_zero",
        "QuantizeLinear",
        {},
        lambda rng: [floats(rng, (4, 6)), np.array(0.1, np.float32)],
        (1,),
    )
    yield Case(
        "QuantizeLinear_to",
        "QuantizeLinear",
        {"to": "int8"},
        lambda rng: [floats(rng, (4, 6)), np.array(0.1, np.float32)],
        (1,),
    )
    for axis in (0, 1, -1):
        n = (4, 5, 6)[axis]
        scale = lambda rng, n=n: floats(rng, (n,), low=0.05, high=0.5)
        make = lambda rng, n=n, f=scale: [floats(rng, (4, 5, 6)), f(rng), numbers(rng, (n,), "int8", -9, 9)]
        yield Case(f"QuantizeLinear_axis_{axis}", "QuantizeLinear", {"axis": axis}, make, (1, 2))
        make = lambda rng, n=n, f=scale: [numbers(rng, (4, 5, 6), "int8"), f(rng), numbers(rng, (n,), "int8", -9, 9)]
        yield Case(f"DequantizeLinear_axis_{axis}", "DequantizeLinear", {"axis": axis}, make, (1, 2))
    blocks: Mapping[str, AttrValue] = {"axis": 1, "block_size": 3}
    make = lambda rng: [
        numbers(rng, (4, 6), "int8"),
        floats(rng, (4, 2), low=0.05, high=0.5),
        numbers(rng, (4, 2), "int8", -9, 9),
    ]
    yield Case("DequantizeLinear_blocks", "DequantizeLinear", blocks, make, (1, 2))
    bias = lambda rng: [numbers(rng, (5,), "int32", -9999, 9999), np.array(0.01, np.float32)]
    yield Case("DequantizeLinear_int32", "DequantizeLinear", {}, bias, (0, 1))
    ties = np.concatenate([np.arange(-300, 300) / 2, [1e9, -1e9, 3e38, -np.inf, np.inf]]).astype(np.float32)
    for dtype, zero in (("uint8", 0), ("int8", 0), ("uint8", 128), ("int8", -7)):
        attrs: Mapping[str, AttrValue] = {"to": dtype, "zero_point": zero}
        yield Case(f"Saturate_{dtype}_{zero}", "Saturate", attrs, lambda rng: [ties.reshape(5, -1)])
    for scale, least in ((0.5, -128), (0.25, 0), (0.0, 0)):
        ends = lambda rng, s=scale, low=least: [ties.reshape(5, -1), np.array(s, np.float32), np.array(low, np.float32)]
        yield Case(f"FakeQuantize_{scale}", "FakeQuantize", {}, ends)
    for name, low, high in (("both", -3.0, 3.0), ("positive", 1.0, 3.0), ("negative", -3.0, -1.0)):
        make = lambda rng, a=low, b=high: [floats(rng, (5, 7), low=a, high=b)]
        yield Case(f"DynamicQuantizeLinear_{name}", "DynamicQuantizeLinear", {}, make)


def cases() -> Iterator[Case]:
    yield from _unary()
    yield from _binary()
    yield from _casts()
    yield from _quantization()
