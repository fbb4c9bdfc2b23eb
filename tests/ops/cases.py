"""The one case library: small, awkward instances of every op, run on the references, every backend and every tactic.

A case makes its operands from its own name's seed, so that it is the same everywhere. Shapes are odd on purpose: channels that fill no
vector, 1x1 spatial sizes, empty axes, broadcasting on either side, negative axes, special floats.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from temper.ir.opdef import AttrValue
from temper.ir.ops import TABLE
from temper.ir.types import TensorType

Rng = np.random.Generator
Arrays = list[np.ndarray | None]


@dataclass(frozen=True)
class Case:
    """One op on concrete operands. `constants` lists operands that a model would hold as weights."""

    name: str
    op: str
    attrs: Mapping[str, AttrValue]
    make: Callable[[Rng], Arrays]
    constants: tuple[int, ...] = ()

    @property
    def full_attrs(self) -> dict[str, AttrValue]:
        """Attributes with the op table's defaults."""
        return TABLE[self.op].complete(self.attrs)

    def arrays(self) -> Arrays:
        """The operands; always the same ones."""
        return self.make(np.random.default_rng(zlib.crc32(self.name.encode())))

    def types(self) -> list[TensorType | None]:
        """IR types of the operands."""
        return [None if a is None else type_of(a) for a in self.arrays()]


def type_of(a: np.ndarray) -> TensorType:
    return TensorType("string" if a.dtype == object else str(a.dtype), a.shape)


def floats(rng: Rng, shape: Sequence[int], dtype: str = "float32", low: float = -3.0, high: float = 3.0) -> np.ndarray:
    """Uniform values that are whole multiples of 1/64, so that half precision holds them."""
    return np.asarray(np.round(rng.uniform(low, high, tuple(shape)) * 64) / 64).astype(dtype)


def weights(rng: Rng, shape: Sequence[int], fan: int, dtype: str = "float32") -> np.ndarray:
    """Normal values scaled so that a sum over `fan` products stays near 1."""
    return (rng.standard_normal(tuple(shape)) / np.sqrt(max(fan, 1))).astype(dtype)


def numbers(rng: Rng, shape: Sequence[int], dtype: str, low: int | None = None, high: int | None = None) -> np.ndarray:
    """Random integers of the whole range, or of [low, high]; floats as `floats`; bools."""
    kind = np.dtype(dtype)
    if kind.kind == "f":
        return floats(rng, shape, dtype)
    if kind.kind == "b":
        return np.asarray(rng.integers(0, 2, tuple(shape))).astype(bool)
    info = np.iinfo(kind)
    least, most = info.min if low is None else low, info.max if high is None else high
    return np.asarray(rng.integers(least, most, tuple(shape), kind.type, True))


def special(dtype: str = "float32") -> np.ndarray:
    """Signed zeros, infinities, NaN, the least denormal and normal, the largest, ties, and a sweep in between."""
    info = np.finfo(dtype)
    odd = [
        0.0,
        -0.0,
        np.inf,
        -np.inf,
        np.nan,
        info.smallest_subnormal,
        -info.smallest_subnormal,
        info.tiny,
        info.max,
        info.min,
    ]
    even = [0.5, 1.5, 2.5, -0.5, -1.5, -2.5, 1.0, -1.0, 3.0, -3.0, 20.0, -20.0, 90.0, -90.0, -110.0]
    return np.array([*odd, *even, *np.linspace(-11, 11, 23)], dtype)


def _fixed(*arrays: np.ndarray | None) -> Callable[[Rng], Arrays]:
    return lambda rng: [None if a is None else a.copy() for a in arrays]


# ---- elementwise ----

_FLOAT_UNARY = (
    "Exp Log Erf Sigmoid Sin Cos Tan Asin Acos Atan Sinh Cosh Tanh Asinh Acosh Atanh Softplus Mish Silu Gelu Softsign HardSwish "
    "HardSigmoid Elu Selu Celu Shrink ThresholdedRelu LeakyRelu Relu Abs Neg Sign Floor Ceil Round Sqrt Reciprocal Identity IsNaN "
    "IsInf"
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
            yield Case(f"{op}_special_{i}", op, attrs, _fixed(special()))
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
        yield Case(f"Clip_special_{i}", "Clip", attrs, _fixed(special()))
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
            yield Case(f"{op}_special", op, {}, _fixed(one[:, None], one[None, :]))
    yield Case("Max_special", "Max", {}, _fixed(special()[2:, None], special()[None, 2:]))
    yield Case("Min_special", "Min", {}, _fixed(special()[2:, None], special()[None, 2:]))
    small = np.arange(-7, 8, dtype=np.int32)
    divisors = np.array([-3, -2, -1, 1, 2, 3, 5], np.int32)
    yield Case("Div_toward_zero", "Div", {}, _fixed(small[:, None], divisors[None, :]))
    yield Case("Mod_floor", "Mod", {}, _fixed(small[:, None], divisors[None, :]))
    yield Case("Mod_fmod_int", "Mod", {"fmod": 1}, _fixed(small[:, None], divisors[None, :]))
    yield Case(
        "Mod_fmod",
        "Mod",
        {"fmod": 1},
        lambda rng: [floats(rng, (6, 7), low=-9, high=9), floats(rng, (7,), low=0.25, high=4)],
    )
    yield Case(
        "Add_int8_wraps", "Add", {}, _fixed(np.array([127, -128, 5], np.int32), np.array([2**31 - 1] * 3, np.int32))
    )
    for name, a, b in _BROADCASTS:
        yield Case(f"Pow_{name}", "Pow", {}, lambda rng, a=a, b=b: [floats(rng, a, low=0.1, high=4), floats(rng, b)])
    yield Case("Pow_square", "Pow", {}, lambda rng: [floats(rng, (5, 9)), np.array(2.0, np.float32)])
    yield Case("Pow_int_exponent", "Pow", {}, lambda rng: [floats(rng, (5, 9)), np.array([3], np.int64)])
    yield Case(
        "Pow_int", "Pow", {}, lambda rng: [numbers(rng, (5, 9), "int32", -9, 9), numbers(rng, (9,), "int32", 0, 5)]
    )
    yield Case("PRelu_channel", "PRelu", {}, lambda rng: [floats(rng, (2, 5, 3, 7)), floats(rng, (5, 1, 1))], (1,))
    yield Case("PRelu_last", "PRelu", {}, lambda rng: [floats(rng, (2, 3, 3, 13)), floats(rng, (13,))], (1,))
    yield Case("PRelu_special", "PRelu", {}, _fixed(special(), np.array([0.25], np.float32)), (1,))
    for op in ("And", "Or", "Xor"):
        for name, a, b in _BROADCASTS:
            yield Case(f"{op}_{name}", op, {}, lambda rng, a=a, b=b: [numbers(rng, a, "bool"), numbers(rng, b, "bool")])
    for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor"):
        for dtype in ("uint8", "int32", "int64"):
            yield Case(f"{op}_{dtype}", op, {}, lambda rng, d=dtype: [numbers(rng, (3, 7), d), numbers(rng, (7,), d)])
    for direction in ("LEFT", "RIGHT"):
        make = lambda rng: [numbers(rng, (3, 7), "uint8"), numbers(rng, (7,), "uint8", 0, 7)]  # noqa: E731
        yield Case(f"BitShift_{direction}", "BitShift", {"direction": direction}, make)
    yield Case("Equal_bool", "Equal", {}, lambda rng: [numbers(rng, (9,), "bool"), numbers(rng, (9,), "bool")])
    shapes = ((3, 1), (1, 5), (2, 3, 5)), ((), (4,), ()), ((0, 3), (3,), (1, 3)), ((2, 1, 7), (2, 5, 7), (7,))
    for i, (c, a, b) in enumerate(shapes):
        for dtype in ("float32", "int64"):
            make = lambda rng, c=c, a=a, b=b, d=dtype: [numbers(rng, c, "bool"), numbers(rng, a, d), numbers(rng, b, d)]  # noqa: E731
            yield Case(f"Where_{i}_{dtype}", "Where", {}, make)


def _casts() -> Iterator[Case]:
    for source in ("float32", "float16", "float64", "int32", "int64", "uint8", "int8", "bool"):
        for to in ("float32", "float16", "float64", "int32", "int64", "uint8", "int8", "bool"):
            low, high = (0, 100) if "uint8" in (source, to) else (-100, 100)
            if np.dtype(source).kind == "f":
                make = lambda rng, s=source, a=low, b=high: [floats(rng, (3, 7), s, a, b)]  # noqa: E731
            else:
                make = lambda rng, s=source, a=low, b=high: [numbers(rng, (3, 7), s, a, b)]  # noqa: E731
            yield Case(f"Cast_{source}_{to}", "Cast", {"to": to}, make)
    yield Case("Cast_special_half", "Cast", {"to": "float16"}, _fixed(special()))
    yield Case("Cast_special_double", "Cast", {"to": "float64"}, _fixed(special()))


def _quantization() -> Iterator[Case]:
    ties = np.arange(-20, 21, dtype=np.float32)[None, :] * np.float32(0.25)
    for to in ("int8", "uint8", "int16", "uint16"):
        zero = np.array(3, to)
        yield Case(
            f"QuantizeLinear_ties_{to}", "QuantizeLinear", {}, _fixed(ties, np.array(0.5, np.float32), zero), (1, 2)
        )
        saturated = np.array([np.inf, -np.inf, 1e30, -1e30, 0.0], np.float32)
        yield Case(
            f"QuantizeLinear_saturates_{to}",
            "QuantizeLinear",
            {},
            _fixed(saturated, np.array(0.1, np.float32), zero),
            (1, 2),
        )
        make = lambda rng, t=to: [numbers(rng, (3, 5, 7), t), np.array(0.03, np.float32), np.array(7, t)]  # noqa: E731
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
        scale = lambda rng, n=n: floats(rng, (n,), low=0.05, high=0.5)  # noqa: E731
        make = lambda rng, n=n, f=scale: [floats(rng, (4, 5, 6)), f(rng), numbers(rng, (n,), "int8", -9, 9)]  # noqa: E731
        yield Case(f"QuantizeLinear_axis_{axis}", "QuantizeLinear", {"axis": axis}, make, (1, 2))
        make = lambda rng, n=n, f=scale: [numbers(rng, (4, 5, 6), "int8"), f(rng), numbers(rng, (n,), "int8", -9, 9)]  # noqa: E731
        yield Case(f"DequantizeLinear_axis_{axis}", "DequantizeLinear", {"axis": axis}, make, (1, 2))
    blocks: Mapping[str, AttrValue] = {"axis": 1, "block_size": 3}
    make = lambda rng: [
        numbers(rng, (4, 6), "int8"),
        floats(rng, (4, 2), low=0.05, high=0.5),
        numbers(rng, (4, 2), "int8", -9, 9),
    ]
    yield Case("DequantizeLinear_blocks", "DequantizeLinear", blocks, make, (1, 2))
    bias = lambda rng: [numbers(rng, (5,), "int32", -9999, 9999), np.array(0.01, np.float32)]  # noqa: E731
    yield Case("DequantizeLinear_int32", "DequantizeLinear", {}, bias, (0, 1))
    for name, low, high in (("both", -3.0, 3.0), ("positive", 1.0, 3.0), ("negative", -3.0, -1.0)):
        make = lambda rng, a=low, b=high: [floats(rng, (5, 7), low=a, high=b)]  # noqa: E731
        yield Case(f"DynamicQuantizeLinear_{name}", "DynamicQuantizeLinear", {}, make)


# ---- contractions ----


@dataclass(frozen=True)
class _Layer:
    """A convolution: input channels, output channels, spatial sizes, kernel, strides, pads, dilations, groups, batch."""

    c: int
    oc: int
    size: tuple[int, ...]
    k: tuple[int, ...]
    s: tuple[int, ...] = ()
    p: tuple[int, ...] = ()
    d: tuple[int, ...] = ()
    g: int = 1
    n: int = 1
    bias: bool = True

    def attrs(self, last: int, **more: Any) -> dict[str, AttrValue]:
        r = len(self.k)
        return {
            "strides": self.s or (1,) * r,
            "pads": self.p or (0,) * (2 * r),
            "dilations": self.d or (1,) * r,
            "group": self.g,
            "channels_last": last,
            **more,
        }

    def data(self, rng: Rng, last: int) -> np.ndarray:
        return floats(rng, (self.n, *self.size, self.c) if last else (self.n, self.c, *self.size))

    def make(self, rng: Rng, last: int, transposed: bool = False) -> Arrays:
        x, bias = self.data(rng, last), floats(rng, (self.oc,))
        i, o = (self.c, self.oc // self.g) if transposed else (self.c // self.g, self.oc)
        fan = self.c // self.g * int(np.prod(self.k))
        lead = (i, o) if transposed else (o, i)
        w = weights(rng, (*self.k, i, o) if last else (*lead, *self.k), fan)
        return [x, w, bias] if self.bias else [x, w]


_CONVS: Mapping[str, _Layer] = {
    "pointwise": _Layer(13, 21, (5, 7), (1, 1)),
    "pointwise_1x1_image": _Layer(19, 10, (1, 1), (1, 1)),
    "pointwise_strided": _Layer(16, 8, (7, 6), (1, 1), s=(2, 2)),
    "pointwise_wide": _Layer(64, 96, (4, 9), (1, 1), n=2),
    "3x3": _Layer(5, 9, (8, 7), (3, 3), p=(1, 1, 1, 1)),
    "3x3_aligned": _Layer(16, 32, (10, 12), (3, 3), p=(1, 1, 1, 1), n=2),
    "3x3_no_bias": _Layer(8, 16, (9, 9), (3, 3), p=(1, 1, 1, 1), bias=False),
    "3x3_strided": _Layer(16, 24, (11, 14), (3, 3), s=(2, 2), p=(1, 1, 1, 1)),
    "3x3_uneven_pads": _Layer(4, 6, (6, 5), (3, 3), p=(0, 2, 1, 0)),
    "3x3_dilated": _Layer(7, 17, (11, 9), (3, 3), p=(2, 2, 2, 2), d=(2, 2)),
    "3x3_on_1x1": _Layer(8, 8, (1, 1), (3, 3), p=(1, 1, 1, 1)),
    "3x3_valid": _Layer(3, 4, (3, 3), (3, 3)),
    "7x7_stem": _Layer(3, 20, (21, 23), (7, 7), s=(2, 2), p=(3, 3, 3, 3)),
    "1x7": _Layer(6, 10, (5, 13), (1, 7), p=(0, 3, 0, 3)),
    "5x1": _Layer(6, 10, (13, 5), (5, 1), s=(3, 1)),
    "grouped": _Layer(12, 18, (6, 7), (3, 3), p=(1, 1, 1, 1), g=3),
    "grouped_pointwise": _Layer(24, 16, (5, 5), (1, 1), g=4, n=2),
    "depthwise": _Layer(13, 13, (8, 9), (3, 3), p=(1, 1, 1, 1), g=13),
    "depthwise_5x5_strided": _Layer(32, 32, (11, 10), (5, 5), s=(2, 2), p=(2, 2, 2, 2), g=32, n=2),
    "depthwise_dilated": _Layer(16, 16, (9, 9), (3, 3), p=(2, 2, 2, 2), d=(2, 2), g=16, bias=False),
    "depthwise_multiplier": _Layer(5, 15, (7, 7), (3, 3), p=(1, 1, 1, 1), g=5),
    "pads_larger_than_image": _Layer(4, 5, (2, 2), (3, 3), s=(2, 2), p=(3, 3, 3, 3)),
    "empty_batch": _Layer(4, 5, (4, 4), (3, 3), p=(1, 1, 1, 1), n=0),
    "1d": _Layer(6, 11, (17,), (5,), s=(2,), p=(2, 1)),
    "1d_depthwise": _Layer(9, 9, (12,), (3,), p=(2, 0), g=9, n=2),
    "3d": _Layer(3, 5, (5, 6, 4), (3, 3, 2), s=(1, 2, 1), p=(1, 1, 0, 1, 1, 1)),
    "3d_grouped": _Layer(4, 6, (4, 4, 4), (2, 2, 2), d=(2, 1, 1), g=2),
}
_TRANSPOSED: Mapping[str, tuple[_Layer, tuple[int, ...]]] = {
    "2x2_stride_2": (_Layer(8, 5, (4, 5), (2, 2), s=(2, 2)), (0, 0)),
    "4x4_stride_2": (_Layer(6, 9, (5, 4), (4, 4), s=(2, 2), p=(1, 1, 1, 1)), (0, 0)),
    "3x3_output_padding": (_Layer(7, 6, (4, 3), (3, 3), s=(2, 2), p=(1, 1, 1, 1), n=2), (1, 1)),
    "3x3_dilated": (_Layer(3, 4, (5, 5), (3, 3), d=(2, 2), p=(1, 0, 2, 1), bias=False), (0, 0)),
    "grouped": (_Layer(6, 9, (4, 4), (3, 3), s=(2, 1), p=(1, 1, 0, 1), g=3), (1, 0)),
    "depthwise": (_Layer(8, 8, (3, 5), (4, 4), s=(2, 2), p=(1, 1, 1, 1), g=8), (0, 0)),
    "stride_above_kernel": (_Layer(3, 2, (3, 3), (2, 2), s=(3, 3)), (2, 1)),
    "1d": (_Layer(4, 3, (7,), (5,), s=(3,), p=(1, 2)), (1,)),
    "3d": (_Layer(2, 3, (3, 2, 3), (2, 3, 2), s=(2, 1, 2)), (0, 0, 1)),
}
_PRODUCTS: Sequence[tuple[str, tuple[int, ...], tuple[int, ...], dict[str, AttrValue]]] = (
    ("small", (5, 7), (7, 9), {}),
    ("row", (1, 33), (33, 10), {}),
    ("column", (17, 4), (4, 1), {}),
    ("aligned", (32, 64), (64, 48), {}),
    ("tall", (97, 13), (13, 16), {}),
    ("batched_left", (2, 3, 5, 6), (6, 4), {}),
    ("batched", (2, 3, 5, 6), (2, 3, 6, 7), {}),
    ("batch_broadcast", (4, 1, 5, 6), (3, 6, 7), {}),
    ("transposed_right", (5, 7), (9, 7), {"transB": 1}),
    ("transposed_left", (7, 5), (7, 9), {"transA": 1}),
    ("transposed_both", (2, 7, 5), (2, 9, 7), {"transA": 1, "transB": 1}),
    ("vector_right", (3, 4, 5), (5,), {}),
    ("vector_left", (5,), (5, 3), {}),
    ("dot", (6,), (6,), {}),
    ("empty_rows", (0, 5), (5, 3), {}),
    ("empty_depth", (3, 0), (0, 4), {}),
)


def _contractions() -> Iterator[Case]:
    for last in (0, 1):
        tag = "_last" if last else ""
        for name, layer in _CONVS.items():
            make = lambda rng, x=layer, f=last: x.make(rng, f)  # noqa: E731
            yield Case(f"Conv_{name}{tag}", "Conv", layer.attrs(last), make, (1, 2) if layer.bias else (1,))
        for name, (layer, extra) in _TRANSPOSED.items():
            make = lambda rng, x=layer, f=last: x.make(rng, f, True)  # noqa: E731
            attrs = layer.attrs(last, output_padding=extra)
            yield Case(f"ConvTranspose_{name}{tag}", "ConvTranspose", attrs, make, (1, 2) if layer.bias else (1,))
    for name, a, b, attrs in _PRODUCTS:
        make = lambda rng, a=a, b=b: [floats(rng, a), weights(rng, b, a[-1])]  # noqa: E731
        yield Case(f"MatMul_{name}", "MatMul", attrs, make, (1,) if len(b) == 2 else ())
    for dtype in ("float64", "float16", "int32", "int64"):
        make = lambda rng, d=dtype: [numbers(rng, (5, 7), d, -99, 99), numbers(rng, (7, 6), d, -99, 99)]  # noqa: E731
        yield Case(f"MatMul_{dtype}", "MatMul", {}, make)
    for equation, shapes in (
        ("bij,bjk->bik", ((2, 3, 4), (2, 4, 5))),
        ("...ij,...kj->...ik", ((2, 1, 3, 4), (3, 5, 4))),
        ("ii->i", ((4, 4),)),
        ("ij->", ((3, 5),)),
        ("bhid,bhjd->bhij", ((1, 2, 3, 4), (1, 2, 5, 4))),
        ("ij,jk", ((3, 4), (4, 2))),
        ("i,j->ji", ((3,), (4,))),
    ):
        yield Case(
            f"Einsum_{equation}", "Einsum", {"equation": equation}, lambda rng, s=shapes: [floats(rng, x) for x in s]
        )
    yield Case(
        "MatMulInteger",
        "MatMulInteger",
        {},
        lambda rng: [numbers(rng, (5, 7), "uint8"), numbers(rng, (7, 6), "int8")],
        (1,),
    )
    zeros = lambda rng: [
        numbers(rng, (5, 7), "uint8"),
        numbers(rng, (7, 6), "int8"),
        np.array(128, np.uint8),
        numbers(rng, (6,), "int8", -9, 9),
    ]
    yield Case("MatMulInteger_zero_points", "MatMulInteger", {}, zeros, (1, 2, 3))
    layer = _CONVS["3x3"]
    make = lambda rng: [numbers(rng, (1, 5, 8, 7), "uint8"), numbers(rng, (9, 5, 3, 3), "uint8"), np.array(9, np.uint8)]  # noqa: E731
    yield Case("ConvInteger", "ConvInteger", layer.attrs(0), make, (1, 2))


# ---- reductions ----

_POOLS: Mapping[str, tuple[tuple[int, ...], dict[str, AttrValue]]] = {
    "2x2": ((1, 5, 8, 6), {"kernel_shape": (2, 2), "strides": (2, 2)}),
    "3x3_stem": ((2, 16, 11, 13), {"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}),
    "3x3_ceil": ((1, 7, 8, 8), {"kernel_shape": (3, 3), "strides": (2, 2), "ceil_mode": 1}),
    "ceil_padded": ((1, 3, 6, 7), {"kernel_shape": (3, 3), "strides": (2, 3), "pads": (1, 1, 1, 1), "ceil_mode": 1}),
    "ceil_drops_window": (
        (1, 3, 4, 4),
        {"kernel_shape": (1, 1), "strides": (3, 3), "pads": (0, 0, 0, 0), "ceil_mode": 1},
    ),
    "dilated": ((1, 5, 9, 9), {"kernel_shape": (3, 2), "strides": (1, 2), "dilations": (2, 2), "pads": (1, 1, 1, 0)}),
    "uneven_pads": ((1, 13, 6, 5), {"kernel_shape": (3, 3), "strides": (1, 1), "pads": (0, 1, 2, 1)}),
    "whole": ((2, 9, 4, 5), {"kernel_shape": (4, 5), "strides": (1, 1)}),
    "1x1_image": ((1, 17, 1, 1), {"kernel_shape": (3, 3), "strides": (1, 1), "pads": (1, 1, 1, 1)}),
    "1d": ((2, 6, 15), {"kernel_shape": (4,), "strides": (3,), "pads": (1, 2)}),
    "3d": ((1, 3, 5, 6, 4), {"kernel_shape": (2, 3, 2), "strides": (2, 1, 2), "pads": (0, 1, 0, 0, 1, 0)}),
}


def _pool_attrs(attrs: Mapping[str, AttrValue], rank: int) -> dict[str, AttrValue]:
    return {"pads": (0,) * (2 * rank), "dilations": (1,) * rank, **attrs}


def _last(shape: Sequence[int]) -> tuple[int, ...]:
    return (shape[0], *shape[2:], shape[1])


def _pools() -> Iterator[Case]:
    for name, (shape, given) in _POOLS.items():
        attrs = _pool_attrs(given, len(shape) - 2)
        for last in (0, 1):
            tag, data = ("_last", _last(shape)) if last else ("", shape)
            make = lambda rng, s=data: [floats(rng, s)]  # noqa: E731
            yield Case(f"MaxPool_{name}{tag}", "MaxPool", {**attrs, "channels_last": last}, make)
            for include in (0, 1):
                more = {**attrs, "channels_last": last, "count_include_pad": include}
                yield Case(f"AveragePool_{name}_{include}{tag}", "AveragePool", more, make)
            if not attrs.get("ceil_mode"):
                yield Case(
                    f"LpPool_{name}{tag}",
                    "LpPool",
                    {**attrs, "channels_last": last, "p": 3 if name == "2x2" else 2},
                    make,
                )
        yield Case(f"MaxPoolIndices_{name}", "MaxPoolIndices", attrs, lambda rng, s=shape: [floats(rng, s)])
    attrs = _pool_attrs({"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}, 2)
    for dtype in ("uint8", "int8", "float16"):
        yield Case(f"MaxPool_{dtype}", "MaxPool", attrs, lambda rng, d=dtype: [numbers(rng, (1, 5, 7, 8), d)])


_REDUCTIONS = ("ReduceSum", "ReduceMean", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare",
               "ReduceLogSum", "ReduceLogSumExp")  # fmt: skip


def _reductions() -> Iterator[Case]:
    for op in _REDUCTIONS:
        low = 0.1 if op == "ReduceLogSum" else -2.0
        for axes in ((0,), (-1,), (1, 2), (0, 1, 2, 3), (-2, 0)):
            for keep in (0, 1):
                make = lambda rng, a=low: [floats(rng, (2, 3, 5, 7), low=a, high=2.0)]  # noqa: E731
                tag = "_".join(str(a).replace("-", "m") for a in axes)
                yield Case(f"{op}_{tag}_keep{keep}", op, {"axes": axes, "keepdims": keep}, make)
        yield Case(
            f"{op}_single", op, {"axes": (1, 2)}, lambda rng, a=low: [floats(rng, (3, 1, 1, 17), low=a, high=2.0)]
        )
        if op in ("ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceMean"):
            for dtype in ("int32", "int64"):
                make = lambda rng, d=dtype: [numbers(rng, (4, 5), d, -9, 9)]  # noqa: E731
                yield Case(f"{op}_{dtype}", op, {"axes": (1,)}, make)
    yield Case("ReduceSum_empty", "ReduceSum", {"axes": (0,)}, lambda rng: [floats(rng, (0, 3))])
    yield Case(
        "ReduceMean_spatial_last",
        "ReduceMean",
        {"axes": (1, 2), "keepdims": 1},
        lambda rng: [floats(rng, (2, 7, 7, 19))],
    )
    for op in ("ArgMax", "ArgMin"):
        for axis in (0, 1, -1):
            for pick in (0, 1):
                attrs: dict[str, AttrValue] = {"axis": axis, "select_last_index": pick, "keepdims": pick}
                make = lambda rng: [numbers(rng, (4, 5, 6), "int32", 0, 3).astype(np.float32)]  # noqa: E731
                yield Case(f"{op}_{axis}_{pick}", op, attrs, make)
    for exclusive in (0, 1):
        for reverse in (0, 1):
            attrs = {"axis": -1 if reverse else 0, "exclusive": exclusive, "reverse": reverse}
            yield Case(f"CumSum_{exclusive}{reverse}", "CumSum", attrs, lambda rng: [floats(rng, (4, 7))])
            yield Case(f"CumProd_{exclusive}{reverse}", "CumProd", attrs, lambda rng: [floats(rng, (4, 7))])
            yield Case(
                f"CumSum_{exclusive}{reverse}_int64",
                "CumSum",
                attrs,
                lambda rng: [numbers(rng, (4, 7), "int64", -99, 99)],
            )
    for op in ("Softmax", "LogSoftmax", "Hardmax"):
        for axis, shape in (
            (-1, (3, 10)),
            (1, (2, 5, 3, 4)),
            (0, (4, 3)),
            (-1, (2, 3, 1)),
            (1, (1, 1000)),
            (-1, (0, 4)),
        ):
            yield Case(
                f"{op}_{axis}_{'x'.join(map(str, shape))}", op, {"axis": axis}, lambda rng, s=shape: [floats(rng, s)]
            )
    yield Case("Softmax_large", "Softmax", {}, lambda rng: [floats(rng, (3, 9), low=-500, high=500)])
    yield Case(
        "Softmax_masked", "Softmax", {}, _fixed(np.array([[-np.inf, 0.0, 1.0], [2.0, -np.inf, -np.inf]], np.float32))
    )


def _normalisations() -> Iterator[Case]:
    def vectors(rng: Rng, n: int, count: int) -> list[np.ndarray]:
        return [floats(rng, (n,), low=-1, high=1) for _ in range(count)]

    for name, shape in (
        ("2d", (2, 13, 5, 7)),
        ("1d", (3, 8, 9)),
        ("matrix", (4, 6)),
        ("3d", (1, 3, 2, 3, 4)),
        ("1x1", (2, 16, 1, 1)),
    ):
        for last in (0, 1):
            data, tag = (_last(shape), "_last") if last else (shape, "")
            attrs: dict[str, AttrValue] = {"channels_last": last}
            make = lambda rng, s=data, c=shape[1]: [floats(rng, s), *vectors(rng, c, 3), floats(rng, (c,), low=0.1)]  # noqa: E731
            yield Case(f"BatchNormalization_{name}{tag}", "BatchNormalization", attrs, make, (1, 2, 3, 4))
            if len(shape) > 2 and name != "1x1":
                make = lambda rng, s=data, c=shape[1]: [floats(rng, s), *vectors(rng, c, 2)]  # noqa: E731
                yield Case(
                    f"InstanceNormalization_{name}{tag}",
                    "InstanceNormalization",
                    {**attrs, "epsilon": 1e-3},
                    make,
                    (1, 2),
                )
            if len(shape) == 4:
                make = lambda rng, s=data: [floats(rng, s)]  # noqa: E731
                yield Case(f"LRN_{name}{tag}", "LRN", {**attrs, "size": 5, "alpha": 0.1, "bias": 2.0}, make)
                yield Case(f"LRN_{name}_even{tag}", "LRN", {**attrs, "size": 4}, make)
    for last in (0, 1):
        data = (2, 5, 3, 12) if last else (2, 12, 5, 3)
        make = lambda rng, s=data: [floats(rng, s), *vectors(rng, 12, 2)]  # noqa: E731
        yield Case(
            f"GroupNormalization_{last}", "GroupNormalization", {"num_groups": 4, "channels_last": last}, make, (1, 2)
        )
    for axis in (-1, 1, -2, 0):
        shape = (3, 4, 17)
        tail = shape[axis:] if axis < 0 else shape[axis:]
        make = lambda rng, t=tail: [floats(rng, (3, 4, 17)), floats(rng, t), floats(rng, t)]  # noqa: E731
        yield Case(f"LayerNormalization_{axis}", "LayerNormalization", {"axis": axis}, make, (1, 2))
        make = lambda rng, t=tail: [floats(rng, (3, 4, 17)), floats(rng, t)]  # noqa: E731
        yield Case(f"RMSNormalization_{axis}", "RMSNormalization", {"axis": axis}, make, (1,))
    yield Case(
        "LayerNormalization_no_bias",
        "LayerNormalization",
        {},
        lambda rng: [floats(rng, (5, 16)), floats(rng, (16,))],
        (1,),
    )


# ---- movement ----


def _movement() -> Iterator[Case]:
    def data(*shape: int, dtype: str = "float32") -> Callable[[Rng], Arrays]:
        return lambda rng: [numbers(rng, shape, dtype)]

    for perm, shape in (((0, 2, 3, 1), (2, 5, 3, 7)), ((0, 3, 1, 2), (2, 3, 7, 5)), ((1, 0), (17, 9)), ((2, 0, 1), (1, 1, 8)),
                        ((0, 2, 1), (2, 33, 40)), ((0,), (5,)), ((1, 0, 2), (0, 3, 4)), ((3, 1, 0, 2), (2, 3, 4, 5)), ((), ())):  # fmt: skip
        yield Case(
            f"Transpose_{'x'.join(map(str, shape))}_{''.join(map(str, perm))}",
            "Transpose",
            {"perm": perm},
            data(*shape),
        )
    for shape, to in (
        ((2, 3, 4), (6, 4)),
        ((2, 3, 4), (2, -1)),
        ((1, 7), (7,)),
        ((), (1, 1)),
        ((1,), ()),
        ((0, 3), (3, 0)),
    ):
        yield Case(f"Reshape_{shape}_{to}", "Reshape", {"shape": to}, data(*shape))
    for shape, to in (
        ((3, 1), (2, 3, 4)),
        ((1, 5), (3, 5)),
        ((), (2, 2)),
        ((4,), (4,)),
        ((3, 1), (1, 1)),
        ((1, 2), (0, 2)),
    ):
        yield Case(f"Expand_{shape}_{to}", "Expand", {"shape": to}, data(*shape))
    yield Case("Squeeze", "Squeeze", {"axes": (1, -1)}, data(3, 1, 4, 1))
    yield Case("Unsqueeze", "Unsqueeze", {"axes": (0, -1)}, data(3, 4))
    for shape, repeats in (((2, 3), (2, 1)), ((2, 3), (1, 3)), ((3,), (0,)), ((1, 2, 3), (2, 2, 2))):
        yield Case(f"Tile_{shape}_{repeats}", "Tile", {"repeats": repeats}, data(*shape))
    parts = ((1, 3, 4, 5), (1, 3, 4, 8), (1, 3, 4, 1))
    yield Case("Concat_last", "Concat", {"axis": -1}, lambda rng: [floats(rng, s) for s in parts])
    yield Case("Concat_channels", "Concat", {"axis": 1}, lambda rng: [floats(rng, (2, c, 3, 3)) for c in (5, 16, 3)])
    yield Case("Concat_first", "Concat", {"axis": 0}, lambda rng: [floats(rng, (n, 7)) for n in (1, 0, 4)])
    yield Case("Concat_int64", "Concat", {"axis": 0}, lambda rng: [numbers(rng, (n,), "int64") for n in (1, 2)])
    yield Case("Concat_one", "Concat", {"axis": 0}, data(3, 4))
    yield Case("Split_last", "Split", {"axis": -1, "sizes": (5, 8, 1)}, data(2, 3, 14))
    yield Case("Split_channels", "Split", {"axis": 1, "sizes": (3, 3, 1)}, data(2, 7, 5))
    yield Case("Split_empty_part", "Split", {"axis": 0, "sizes": (0, 4)}, data(4, 3))
    far = (1 << 63) - 1
    slices: Sequence[
        tuple[str, tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    ] = (
        ("middle", (4, 9, 5), (1, 2), (3, 7), (0, 1), (1, 1)),
        ("steps", (4, 9, 5), (0, 1), (far, far), (0, 1), (2, 3)),
        ("negative_axes", (4, 9, 5), (-3,), (-1,), (-2,), (1,)),
        ("reversed", (4, 9, 5), (-1,), (-far,), (1,), (-1,)),
        ("reversed_steps", (4, 9, 5), (7,), (0,), (1,), (-2,)),
        ("reversed_past_end", (9,), (100,), (-100,), (0,), (-3,)),
        ("clamped", (4, 9), (-100, 3), (100, 100), (0, 1), (1, 1)),
        ("empty", (4, 9), (3,), (2,), (0,), (1,)),
        ("channels", (2, 5, 5, 13), (3,), (11,), (3,), (1,)),
    )
    for name, shape, starts, ends, axes, steps in slices:
        yield Case(
            f"Slice_{name}", "Slice", {"starts": starts, "ends": ends, "axes": axes, "steps": steps}, data(*shape)
        )
    yield Case("Slice_defaults", "Slice", {"starts": (1, 1), "ends": (3, 2)}, data(4, 5, 6))
    for mode in ("constant", "reflect", "edge", "wrap"):
        yield Case(f"Pad_{mode}", "Pad", {"mode": mode, "pads": (0, 1, 2, 0, 2, 1)}, data(2, 4, 5))
    yield Case("Pad_value", "Pad", {"pads": (1, 0, 0, 2), "value": -1.5}, data(3, 4))
    yield Case("Pad_crop", "Pad", {"pads": (0, -1, 2, -2)}, data(4, 6))
    yield Case("Pad_spatial", "Pad", {"pads": (0, 0, 1, 1, 0, 0, 1, 1)}, data(1, 3, 4, 4))
    yield Case("Pad_int64", "Pad", {"pads": (1, 1), "value": 7}, data(3, dtype="int64"))
    for axis, shape, index in (
        (0, (5, 3), (4,)),
        (1, (2, 7, 3), (2, 2)),
        (-1, (3, 4), ()),
        (0, (9,), (0,)),
        (2, (2, 3, 6), (1,)),
    ):
        n = shape[axis]
        make = lambda rng, s=shape, i=index, n=n: [floats(rng, s), numbers(rng, i, "int64", -n, n - 1)]  # noqa: E731
        yield Case(f"Gather_{axis}_{index}", "Gather", {"axis": axis}, make)
    yield Case("Gather_int32", "Gather", {}, lambda rng: [floats(rng, (5, 3)), numbers(rng, (4,), "int32", 0, 4)])
    for axis in (0, 1, -1):
        n = (3, 4)[axis]
        index = lambda rng, n=n: numbers(rng, (2, 3), "int64", -n, n - 1)  # noqa: E731
        yield Case(
            f"GatherElements_{axis}",
            "GatherElements",
            {"axis": axis},
            lambda rng, f=index: [floats(rng, (3, 4)), f(rng)],
        )
    nd = (((2, 3, 4), (5, 2), 0, 2), ((2, 3, 4), (2, 1), 1, 3), ((2, 3, 4), (2, 3, 1), 2, 4), ((4, 3), (2, 2, 1), 0, 3))
    for shape, index_shape, batch, bound in nd:
        make = lambda rng, s=shape, i=index_shape, b=bound: [floats(rng, s), numbers(rng, i, "int64", 0, b - 1)]  # noqa: E731
        yield Case(f"GatherND_{index_shape}_{batch}", "GatherND", {"batch_dims": batch}, make)
    for reduction in ("none", "add", "mul", "max", "min"):
        for axis in (0, -1):
            attrs: dict[str, AttrValue] = {"axis": axis, "reduction": reduction}
            # indices that repeat only where the result does not depend on the order
            index = np.array([[0, 1, 2], [1, 2, 0]] if reduction == "none" else [[0, 1, 1], [0, 2, 2]], np.int64)
            make = lambda rng, i=index: [floats(rng, (4, 4)), i.copy(), floats(rng, (2, 3))]  # noqa: E731
            yield Case(f"ScatterElements_{reduction}_{axis}", "ScatterElements", attrs, make)
        at = np.array([[0], [2]] if reduction == "none" else [[1], [1]], np.int64)
        make = lambda rng, i=at: [floats(rng, (4, 5)), i.copy(), floats(rng, (2, 5))]  # noqa: E731
        yield Case(f"ScatterND_{reduction}", "ScatterND", {"reduction": reduction}, make)
    yield Case("ScatterND_elements", "ScatterND", {},
               lambda rng: [floats(rng, (4, 5)), np.array([[0, 1], [-1, -1]], np.int64), floats(rng, (2,))])  # fmt: skip
    for mode in ("DCR", "CRD"):
        for last in (0, 1):
            attrs = {"blocksize": 2, "mode": mode, "channels_last": last}
            yield Case(
                f"DepthToSpace_{mode}_{last}", "DepthToSpace", attrs, data(*((2, 3, 5, 12) if last else (2, 12, 3, 5)))
            )
    for last in (0, 1):
        attrs = {"blocksize": 2, "channels_last": last}
        yield Case(f"SpaceToDepth_{last}", "SpaceToDepth", attrs, data(*((2, 4, 6, 3) if last else (2, 3, 4, 6))))
    for upper in (0, 1):
        for k in (-2, 0, 1, 9):
            yield Case(f"Trilu_{upper}_{k}", "Trilu", {"upper": upper, "k": k}, data(2, 4, 5))
    for axis in (-1, 0, 1):
        make = lambda rng: [numbers(rng, (3, 4), "int64", -5, 5), np.array([0.25, 2.0], np.float32)]  # noqa: E731
        yield Case(f"OneHot_{axis}", "OneHot", {"depth": 5, "axis": axis}, make, (1,))
    for batch in (0, 1):
        make = lambda rng, b=batch: [floats(rng, (4, 5, 2)), numbers(rng, ((4, 5)[b],), "int64", 1, (5, 4)[b])]  # noqa: E731
        yield Case(f"ReverseSequence_{batch}", "ReverseSequence", {"batch_axis": batch, "time_axis": 1 - batch}, make)


def _resizes() -> Iterator[Case]:
    def resize(name: str, shape: tuple[int, ...], **attrs: AttrValue) -> Case:
        return Case(f"Resize_{name}", "Resize", attrs, lambda rng: [floats(rng, shape)])

    transforms = ("half_pixel", "pytorch_half_pixel", "align_corners", "asymmetric", "half_pixel_symmetric")
    for transform in transforms:
        for mode in ("nearest", "linear", "cubic"):
            for name, to in (
                ("up", (1, 3, 11, 8)),
                ("down", (1, 3, 4, 3)),
                ("one", (1, 3, 1, 1)),
                ("mixed", (1, 3, 13, 2)),
            ):
                yield resize(
                    f"{mode}_{transform}_{name}",
                    (1, 3, 6, 5),
                    sizes=to,
                    mode=mode,
                    coordinate_transformation_mode=transform,
                )
    for nearest in ("round_prefer_floor", "round_prefer_ceil", "floor", "ceil"):
        for transform in ("half_pixel", "asymmetric", "align_corners"):
            more: dict[str, AttrValue] = {"nearest_mode": nearest, "coordinate_transformation_mode": transform}
            yield resize(f"nearest_{nearest}_{transform}_2x", (2, 5, 4, 3), scales=(1.0, 1.0, 2.0, 2.0), **more)
            yield resize(f"nearest_{nearest}_{transform}_half", (1, 5, 7, 8), scales=(1.0, 1.0, 0.5, 0.6), **more)
    yield resize("upsample_asymmetric_floor", (1, 16, 5, 7), scales=(1.0, 1.0, 2.0, 2.0), mode="nearest", nearest_mode="floor",
                 coordinate_transformation_mode="asymmetric")  # fmt: skip
    yield resize("linear_scales", (1, 3, 5, 6), scales=(1.0, 1.0, 1.7, 0.8), mode="linear")
    yield resize("cubic_a", (1, 2, 5, 6), scales=(1.0, 1.0, 2.0, 1.5), mode="cubic", cubic_coeff_a=-0.5)
    yield resize("cubic_exclude", (1, 2, 5, 6), scales=(1.0, 1.0, 2.0, 1.5), mode="cubic", exclude_outside=1)
    for mode in ("linear", "cubic"):
        yield resize(f"{mode}_antialias_down", (1, 2, 12, 11), sizes=(1, 2, 5, 4), mode=mode, antialias=1)
    yield resize("1d_linear", (2, 3, 7), sizes=(2, 3, 12), mode="linear")
    yield resize("last_linear", (1, 6, 5, 13), sizes=(1, 12, 10, 13), mode="linear", channels_last=1)
    yield resize("last_nearest", (1, 6, 5, 13), sizes=(1, 12, 10, 13), mode="nearest", channels_last=1)
    yield resize("crop", (1, 2, 8, 8), sizes=(1, 2, 4, 5), mode="linear", coordinate_transformation_mode="tf_crop_and_resize",
                 roi=(0.0, 0.0, 0.2, -0.3, 1.0, 1.0, 0.8, 1.2), extrapolation_value=9.0)  # fmt: skip
    yield Case("Resize_uint8", "Resize", {"sizes": (1, 2, 7, 9)}, lambda rng: [numbers(rng, (1, 2, 4, 5), "uint8")])
    for mode in ("linear", "nearest", "cubic"):
        for padding in ("zeros", "border", "reflection"):
            for align in (0, 1):
                attrs: dict[str, AttrValue] = {"mode": mode, "padding_mode": padding, "align_corners": align}
                make = lambda rng: [floats(rng, (2, 3, 5, 6)), rng.uniform(-1.3, 1.3, (2, 4, 7, 2)).astype(np.float32)]  # noqa: E731
                yield Case(f"GridSample_{mode}_{padding}_{align}", "GridSample", attrs, make)


# ---- shapes, sorting, selection ----


def _control() -> Iterator[Case]:
    for name, attrs in (
        ("all", {}),
        ("part", {"start": 1, "end": 3}),
        ("negative", {"start": -2}),
        ("none", {"start": 3, "end": 1}),
    ):
        yield Case(f"Shape_{name}", "Shape", attrs, lambda rng: [floats(rng, (2, 3, 4, 5))])
    yield Case("Size", "Size", {}, lambda rng: [floats(rng, (2, 3, 4))])
    yield Case("Range_up", "Range", {"start": 2, "limit": 11, "delta": 3}, _fixed())
    yield Case("Range_down", "Range", {"start": 9, "limit": 2, "delta": -2, "to": "int32"}, _fixed())
    yield Case("Range_empty", "Range", {"start": 5, "limit": 5, "delta": 1}, _fixed())
    yield Case("Range_float", "Range", {"start": 0.5, "limit": 2.0, "delta": 0.25, "to": "float32"}, _fixed())
    yield Case("ConstantOfShape", "ConstantOfShape", {"shape": (2, 0, 3)}, _fixed())
    yield Case("ConstantOfShape_int64", "ConstantOfShape", {"shape": (2, 3), "value": -7, "to": "int64"}, _fixed())
    yield Case("NonZero", "NonZero", {"count": 4}, _fixed(np.array([[0, 2, 0], [1.5, 0, -1], [0, 0, 3]], np.float32)))
    chosen = np.array([True, False, True])
    yield Case("Compress_axis", "Compress", {"axis": 1, "count": 2}, lambda rng: [floats(rng, (2, 4)), chosen.copy()])
    yield Case("Compress_flat", "Compress", {"count": 2}, lambda rng: [floats(rng, (2, 4)), chosen.copy()])
    for largest in (0, 1):
        for axis in (0, 1, -1):
            attrs2: dict[str, AttrValue] = {"k": 3, "axis": axis, "largest": largest}
            yield Case(f"TopK_{axis}_{largest}", "TopK", attrs2, lambda rng: [floats(rng, (5, 7))])
            yield Case(f"TopK_ties_{axis}_{largest}", "TopK", attrs2, lambda rng: [numbers(rng, (5, 7), "int64", 0, 3)])
    boxes = np.array(
        [[[0, 0, 1, 1], [0, 0.1, 1, 1.1], [0, -0.1, 1, 0.9], [0, 10, 1, 11], [1, 11.1, 0, 10.1], [0, 100, 1, 101]]],
        np.float32,
    )
    scores = np.array([[[0.9, 0.75, 0.6, 0.95, 0.5, 0.3], [0.1, 0.8, 0.2, 0.3, 0.9, 0.05]]], np.float32)
    common: dict[str, AttrValue] = {"max_output_boxes_per_class": 3, "iou_threshold": 0.5}
    yield Case("NonMaxSuppression", "NonMaxSuppression", {**common, "count": 6}, _fixed(boxes, scores))
    yield Case(
        "NonMaxSuppression_threshold",
        "NonMaxSuppression",
        {**common, "score_threshold": 0.4, "count": 4},
        _fixed(boxes, scores),
    )
    centers = np.array(
        [
            [
                [0.5, 0.5, 1, 1],
                [0.5, 0.6, 1, 1],
                [0.5, 0.4, 1, 1],
                [0.5, 10.5, 1, 1],
                [0.5, 10.6, 1, 1],
                [0.5, 100.5, 1, 1],
            ]
        ],
        np.float32,
    )
    yield Case(
        "NonMaxSuppression_centers",
        "NonMaxSuppression",
        {**common, "center_point_box": 1, "count": 6},
        _fixed(centers, scores),
    )
    rows = np.array([[1, 0], [1, 0], [2, 3], [0, 1]], np.int64)
    yield Case("Unique_flat", "Unique", {"count": 4}, _fixed(rows))
    yield Case("Unique_unsorted", "Unique", {"sorted": 0, "count": 4}, _fixed(rows))
    yield Case("Unique_axis", "Unique", {"axis": 0, "count": 3}, _fixed(rows))


CASES: tuple[Case, ...] = tuple(
    case
    for family in (
        _unary,
        _binary,
        _casts,
        _quantization,
        _contractions,
        _pools,
        _reductions,
        _normalisations,
        _movement,
        _resizes,
        _control,
    )
    for case in family()
)


def cases_of(*ops: str) -> list[Case]:
    """The cases of these ops, in order."""
    return [c for c in CASES if c.op in ops]
