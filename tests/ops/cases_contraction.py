# ruff: noqa: E731 (a case is a name and the function that makes its operands)
"""Cases of convolutions and matrix products."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from temper.ir.opdef import AttrValue
from temper.reference.formats import float32_to_bfloat16
from tests.ops.case import Arrays, Case, Rng, floats, numbers, weights


@dataclass(frozen=True)
class Layer:
    """A convolution: channels in and out, spatial sizes, kernel, strides, pads, dilations, groups, batch."""

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


_CONVS: Mapping[str, Layer] = {
    "pointwise": Layer(13, 21, (5, 7), (1, 1)),
    "pointwise_1x1_image": Layer(19, 10, (1, 1), (1, 1)),
    "pointwise_strided": Layer(16, 8, (7, 6), (1, 1), s=(2, 2)),
    "pointwise_wide": Layer(64, 96, (4, 9), (1, 1), n=2),
    "3x3": Layer(5, 9, (8, 7), (3, 3), p=(1, 1, 1, 1)),
    "3x3_aligned": Layer(16, 32, (10, 12), (3, 3), p=(1, 1, 1, 1), n=2),
    "3x3_no_bias": Layer(8, 16, (9, 9), (3, 3), p=(1, 1, 1, 1), bias=False),
    "3x3_strided": Layer(16, 24, (11, 14), (3, 3), s=(2, 2), p=(1, 1, 1, 1)),
    "3x3_uneven_pads": Layer(4, 6, (6, 5), (3, 3), p=(0, 2, 1, 0)),
    "3x3_dilated": Layer(7, 17, (11, 9), (3, 3), p=(2, 2, 2, 2), d=(2, 2)),
    "3x3_on_1x1": Layer(8, 8, (1, 1), (3, 3), p=(1, 1, 1, 1)),
    "3x3_valid": Layer(3, 4, (3, 3), (3, 3)),
    "7x7_stem": Layer(3, 20, (21, 23), (7, 7), s=(2, 2), p=(3, 3, 3, 3)),
    "4x4_patches": Layer(3, 20, (12, 20), (4, 4), s=(4, 4), n=2),
    "2x3_beside": Layer(8, 9, (9, 12), (2, 3), s=(1, 3)),
    "1x7": Layer(6, 10, (5, 13), (1, 7), p=(0, 3, 0, 3)),
    "5x1": Layer(6, 10, (13, 5), (5, 1), s=(3, 1)),
    "grouped": Layer(12, 18, (6, 7), (3, 3), p=(1, 1, 1, 1), g=3),
    "grouped_pointwise": Layer(24, 16, (5, 5), (1, 1), g=4, n=2),
    "depthwise": Layer(13, 13, (8, 9), (3, 3), p=(1, 1, 1, 1), g=13),
    "depthwise_5x5_strided": Layer(32, 32, (11, 10), (5, 5), s=(2, 2), p=(2, 2, 2, 2), g=32, n=2),
    "depthwise_dilated": Layer(16, 16, (9, 9), (3, 3), p=(2, 2, 2, 2), d=(2, 2), g=16, bias=False),
    "depthwise_multiplier": Layer(5, 15, (7, 7), (3, 3), p=(1, 1, 1, 1), g=5),
    "pads_larger_than_image": Layer(4, 5, (2, 2), (3, 3), s=(2, 2), p=(3, 3, 3, 3)),
    "empty_batch": Layer(4, 5, (4, 4), (3, 3), p=(1, 1, 1, 1), n=0),
    "1d": Layer(6, 11, (17,), (5,), s=(2,), p=(2, 1)),
    "1d_depthwise": Layer(9, 9, (12,), (3,), p=(2, 0), g=9, n=2),
    "3d": Layer(3, 5, (5, 6, 4), (3, 3, 2), s=(1, 2, 1), p=(1, 1, 0, 1, 1, 1)),
    "3d_grouped": Layer(4, 6, (4, 4, 4), (2, 2, 2), d=(2, 1, 1), g=2),
}
_TRANSPOSED: Mapping[str, tuple[Layer, tuple[int, ...]]] = {
    "2x2_stride_2": (Layer(8, 5, (4, 5), (2, 2), s=(2, 2)), (0, 0)),
    "4x4_stride_2": (Layer(6, 9, (5, 4), (4, 4), s=(2, 2), p=(1, 1, 1, 1)), (0, 0)),
    "3x3_output_padding": (Layer(7, 6, (4, 3), (3, 3), s=(2, 2), p=(1, 1, 1, 1), n=2), (1, 1)),
    "3x3_dilated": (Layer(3, 4, (5, 5), (3, 3), d=(2, 2), p=(1, 0, 2, 1), bias=False), (0, 0)),
    "grouped": (Layer(6, 9, (4, 4), (3, 3), s=(2, 1), p=(1, 1, 0, 1), g=3), (1, 0)),
    "depthwise": (Layer(8, 8, (3, 5), (4, 4), s=(2, 2), p=(1, 1, 1, 1), g=8), (0, 0)),
    "stride_above_kernel": (Layer(3, 2, (3, 3), (2, 2), s=(3, 3)), (2, 1)),
    "1d": (Layer(4, 3, (7,), (5,), s=(3,), p=(1, 2)), (1,)),
    "3d": (Layer(2, 3, (3, 2, 3), (2, 3, 2), s=(2, 1, 2)), (0, 0, 1)),
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
    ("halves", (2, 33, 258), (258, 64), {}),
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
            make = lambda rng, x=layer, f=last: x.make(rng, f)
            yield Case(f"Conv_{name}{tag}", "Conv", layer.attrs(last), make, (1, 2) if layer.bias else (1,))
        for name, (layer, extra) in _TRANSPOSED.items():
            make = lambda rng, x=layer, f=last: x.make(rng, f, True)
            attrs = layer.attrs(last, output_padding=extra)
            yield Case(f"ConvTranspose_{name}{tag}", "ConvTranspose", attrs, make, (1, 2) if layer.bias else (1,))
    for name, a, b, attrs in _PRODUCTS:
        make = lambda rng, a=a, b=b: [floats(rng, a), weights(rng, b, a[-1])]
        yield Case(f"MatMul_{name}", "MatMul", attrs, make, (1,) if len(b) == 2 else ())
    for dtype in ("float64", "float16", "int32", "int64"):
        make = lambda rng, d=dtype: [numbers(rng, (5, 7), d, -99, 99), numbers(rng, (7, 6), d, -99, 99)]
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
    for dtype in ("float64", "int64"):
        make = lambda rng, d=dtype: [numbers(rng, s, d, -9, 9) for s in ((3, 4), (4, 5), (5, 2))]
        yield Case(f"Einsum_chain_{dtype}", "Einsum", {"equation": "ij,jk,kl->li"}, make)
    make = lambda rng: [floats(rng, (3, 5, 5)), floats(rng, (5, 3))]
    yield Case("Einsum_diagonal_and_product", "Einsum", {"equation": "bii,ib->i"}, make)
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
    make = lambda rng: [numbers(rng, (1, 5, 8, 7), "uint8"), numbers(rng, (9, 5, 3, 3), "uint8"), np.array(9, np.uint8)]
    yield Case("ConvInteger", "ConvInteger", layer.attrs(0), make, (1, 2))


def _int8() -> Iterator[Case]:
    """Products of codes over their whole range; signed and unsigned data take turns, and so do zero points.

    wide: weights beyond int8; late: a zero point that is known at run time only.
    """
    zero_at_run_time = {"uint8": 77, "int8": -23}
    for k, (name, layer) in enumerate(_CONVS.items()):
        dtype, zero = (("uint8", 0), ("int8", 0), ("uint8", 131), ("int8", -5))[k % 4]

        def make(rng: Rng, x: Layer = layer, dtype: str = dtype) -> Arrays:
            data = numbers(rng, (x.n, *x.size, x.c), dtype)
            w = numbers(rng, (*x.k, x.c // x.g, x.oc), "int8")
            bias = numbers(rng, (x.oc,), "int32", -(1 << 20), 1 << 20)
            return [data, w, bias] if x.bias else [data, w]

        def wide(rng: Rng, make: Callable[..., Arrays] = make) -> Arrays:
            data, w, *bias = make(rng)
            assert w is not None
            return [data, numbers(rng, w.shape, "int16", -254, 254), *bias]

        def late(rng: Rng, make: Callable[..., Arrays] = make, x: Layer = layer, dtype: str = dtype) -> Arrays:
            data, w, *bias = make(rng)
            return [data, w, bias[0] if bias else np.zeros(x.oc, np.int32), np.array(zero_at_run_time[dtype], dtype)]

        attrs = layer.attrs(1, zero_point=zero)
        yield Case(f"ConvInt8_{name}", "ConvInt8", attrs, make, (1, 2) if layer.bias else (1,))
        if k % 3 == 0 or layer.g > 1:
            yield Case(f"ConvInt8_wide_{name}", "ConvInt8", attrs, wide, (1, 2) if layer.bias else (1,))
        if k % 3 == 1 or layer.g > 1:
            yield Case(f"ConvInt8_late_{name}", "ConvInt8", layer.attrs(1), late, (1, 2))
    layer = Layer(32, 48, (9, 7), (3, 3), p=(1, 1, 1, 1))
    few = lambda rng: [
        numbers(rng, (1, 9, 7, 32), "uint8"),
        numbers(rng, (3, 3, 32, 48), "int8", -127, 127),
        numbers(rng, (48,), "int32", -(1 << 20), 1 << 20),
    ]
    yield Case("ConvInt8_few_bits", "ConvInt8", layer.attrs(1, bits=25), few, (1, 2))
    for k, (name, a, b, attrs) in enumerate(_PRODUCTS):
        if len(a) < 2 or len(b) != 2 or attrs or 0 in b:
            continue
        dtype, zero = (("uint8", 0), ("int8", 0), ("uint8", 131), ("int8", -5))[k % 4]
        operands = lambda rng, a=a, b=b, d=dtype: [
            numbers(rng, a, d),
            numbers(rng, b, "int8"),
            numbers(rng, (b[1],), "int32", -(1 << 20), 1 << 20),
        ]
        yield Case(f"MatMulInt8_{name}", "MatMulInt8", {"zero_point": zero}, operands, (1, 2))
        beyond = lambda rng, make=operands, b=b: [make(rng)[0], numbers(rng, b, "int16", -254, 254)]
        yield Case(f"MatMulInt8_wide_{name}", "MatMulInt8", {"zero_point": zero}, beyond, (1,))
        found = lambda rng, make=operands, d=dtype: [*make(rng), np.array(zero_at_run_time[d], d)]
        yield Case(f"MatMulInt8_late_{name}", "MatMulInt8", {}, found, (1, 2))
    for k, (name, a, b, attrs) in enumerate(_PRODUCTS):
        if len(a) < 2 or len(b) < 2 or attrs or 0 in (*a, *b):
            continue
        dtype, zero = (("int8", -5), ("uint8", 0), ("uint8", 131), ("int8", 0))[k % 4]
        both = lambda rng, a=a, b=b, d=dtype: [numbers(rng, a, d), numbers(rng, b, "int8")]
        yield Case(f"MatMulInt8_both_{name}", "MatMulInt8", {"zero_point": zero}, both)


_HALVES = {0: "bfloat16", 1: "bfloat16"}


def _bfloat16() -> Iterator[Case]:
    """Products of bfloat16; odd channel counts leave half a word."""
    halves = lambda rng, shape: float32_to_bfloat16(rng.standard_normal(shape, np.float32))
    for name, layer in _CONVS.items():

        def make(rng: Rng, x: Layer = layer) -> Arrays:
            data, w = halves(rng, (x.n, *x.size, x.c)), halves(rng, (*x.k, x.c // x.g, x.oc))
            return [data, w, rng.standard_normal(x.oc, np.float32)] if x.bias else [data, w]

        constant = (1, 2) if layer.bias else (1,)
        yield Case(f"ConvBfloat16_{name}", "ConvBfloat16", layer.attrs(1), make, constant, _HALVES)
    for name, a, b, attrs in _PRODUCTS:
        if len(a) < 2 or len(b) != 2 or attrs or 0 in b:
            continue
        operands = lambda rng, a=a, b=b: [halves(rng, a), halves(rng, b)]
        yield Case(f"MatMulBfloat16_{name}", "MatMulBfloat16", {}, operands, (1,), _HALVES)


def cases() -> Iterator[Case]:
    yield from _contractions()
    yield from _int8()
    yield from _bfloat16()
