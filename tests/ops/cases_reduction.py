# ruff: noqa: E731 (a case is a name and the function that makes its operands)
"""Cases of pooling, reductions, softmax and normalisations."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from temper.ir.opdef import AttrValue
from tests.ops.case import Case, Rng, fixed, floats, numbers

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
            make = lambda rng, s=data: [floats(rng, s)]
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
        if len(shape) > 3:
            by_column: dict[str, AttrValue] = {**attrs, "storage_order": 1}
            make = lambda rng, s=shape: [floats(rng, s)]
            yield Case(f"MaxPoolIndices_{name}_by_column", "MaxPoolIndices", by_column, make)
    attrs = _pool_attrs({"kernel_shape": (3, 3), "strides": (2, 2), "pads": (1, 1, 1, 1)}, 2)
    for dtype in ("uint8", "int8", "float16"):
        yield Case(f"MaxPool_{dtype}", "MaxPool", attrs, lambda rng, d=dtype: [numbers(rng, (1, 5, 7, 8), d)])
    for dtype, c in (("uint8", 64), ("int8", 64), ("uint8", 83), ("int8", 17)):
        wide: dict[str, AttrValue] = {**attrs, "channels_last": 1}
        make = lambda rng, d=dtype, c=c: [numbers(rng, (2, 7, 8, c), d)]
        yield Case(f"MaxPool_{dtype}_{c}_last", "MaxPool", wide, make)


_REDUCTIONS = (
    "ReduceSum",
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceL1",
    "ReduceL2",
    "ReduceSumSquare",
    "ReduceLogSum",
    "ReduceLogSumExp",
)


def _reductions() -> Iterator[Case]:
    for op in _REDUCTIONS:
        low = 0.1 if op == "ReduceLogSum" else -2.0
        for axes in ((0,), (-1,), (1, 2), (0, 1, 2, 3), (-2, 0)):
            for keep in (0, 1):
                make = lambda rng, a=low: [floats(rng, (2, 3, 5, 7), low=a, high=2.0)]
                tag = "_".join(str(a).replace("-", "m") for a in axes)
                yield Case(f"{op}_{tag}_keep{keep}", op, {"axes": axes, "keepdims": keep}, make)
        yield Case(
            f"{op}_single", op, {"axes": (1, 2)}, lambda rng, a=low: [floats(rng, (3, 1, 1, 17), low=a, high=2.0)]
        )
        if op in ("ReduceL1", "ReduceLogSumExp"):
            yield Case(f"{op}_long", op, {"axes": (1,)}, lambda rng: [floats(rng, (1, 1100, 3))])
        if op in ("ReduceMean", "ReduceMax"):
            make = lambda rng: [floats(rng, (3, 40, 60))]
            yield Case(f"{op}_long_rows", op, {"axes": (1, 2), "keepdims": 0}, make)
        if op in ("ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceMean"):
            for dtype in ("int32", "int64"):
                make = lambda rng, d=dtype: [numbers(rng, (4, 5), d, -9, 9)]
                yield Case(f"{op}_{dtype}", op, {"axes": (1,)}, make)
        make = lambda rng, a=low: [floats(rng, (3, 4, 5, 2), "float64", low=a, high=2.0)]
        yield Case(f"{op}_double", op, {"axes": (0, 2)}, make)
        yield Case(f"{op}_double_all", op, {"axes": (0, 1, 2, 3), "keepdims": 0}, make)
    for op in ("ReduceMax", "ReduceMin"):
        for dtype in ("uint8", "int8", "bool"):
            make = lambda rng, d=dtype: [numbers(rng, (3, 4, 5), d)]
            yield Case(f"{op}_{dtype}", op, {"axes": (0, 2)}, make)
        odd = np.array([[-np.inf, -np.inf], [np.inf, np.inf], [-np.inf, np.inf], [-0.5, 2]])
        for dtype in ("float32", "float64"):
            yield Case(f"{op}_special_{dtype}", op, {"axes": (1,)}, fixed(odd.astype(dtype)))
    for op in ("ReduceL1", "ReduceSumSquare"):
        yield Case(f"{op}_int32", op, {"axes": (1,)}, lambda rng: [numbers(rng, (4, 5), "int32", -9, 9)])
    for op in ("ReduceSum", "ReduceMax", "ReduceMin", "ReduceLogSumExp"):
        for dtype in ("float32", "float64"):
            yield Case(f"{op}_nothing_{dtype}", op, {"axes": (1,)}, lambda rng, d=dtype: [floats(rng, (2, 0, 4), d)])
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
                make = lambda rng: [numbers(rng, (4, 5, 6), "int32", 0, 3).astype(np.float32)]
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
        "Softmax_masked", "Softmax", {}, fixed(np.array([[-np.inf, 0.0, 1.0], [2.0, -np.inf, -np.inf]], np.float32))
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
            make = lambda rng, s=data, c=shape[1]: [floats(rng, s), *vectors(rng, c, 3), floats(rng, (c,), low=0.1)]
            yield Case(f"BatchNormalization_{name}{tag}", "BatchNormalization", attrs, make, (1, 2, 3, 4))
            if len(shape) > 2 and name != "1x1":
                make = lambda rng, s=data, c=shape[1]: [floats(rng, s), *vectors(rng, c, 2)]
                yield Case(
                    f"InstanceNormalization_{name}{tag}",
                    "InstanceNormalization",
                    {**attrs, "epsilon": 1e-3},
                    make,
                    (1, 2),
                )
            if len(shape) == 4:
                make = lambda rng, s=data: [floats(rng, s)]
                yield Case(f"LRN_{name}{tag}", "LRN", {**attrs, "size": 5, "alpha": 0.1, "bias": 2.0}, make)
                yield Case(f"LRN_{name}_even{tag}", "LRN", {**attrs, "size": 4}, make)
    for last in (0, 1):
        data = (2, 5, 3, 12) if last else (2, 12, 5, 3)
        make = lambda rng, s=data: [floats(rng, s), *vectors(rng, 12, 2)]
        yield Case(
            f"GroupNormalization_{last}", "GroupNormalization", {"num_groups": 4, "channels_last": last}, make, (1, 2)
        )
    for axis in (-1, 1, -2, 0):
        shape = (3, 4, 17)
        tail = shape[axis:] if axis < 0 else shape[axis:]
        make = lambda rng, t=tail: [floats(rng, (3, 4, 17)), floats(rng, t), floats(rng, t)]
        yield Case(f"LayerNormalization_{axis}", "LayerNormalization", {"axis": axis}, make, (1, 2))
        make = lambda rng, t=tail: [floats(rng, (3, 4, 17)), floats(rng, t)]
        yield Case(f"RMSNormalization_{axis}", "RMSNormalization", {"axis": axis}, make, (1,))
    yield Case(
        "LayerNormalization_no_bias",
        "LayerNormalization",
        {},
        lambda rng: [floats(rng, (5, 16)), floats(rng, (16,))],
        (1,),
    )


def _histograms() -> Iterator[Case]:
    """Sizes below, at and above a vector and a run; every scale of float32; values that are not finite."""
    for n in (1, 15, 16, 37, 5000, 150_001):
        yield Case(f"Histogram_{n}", "Histogram", {}, lambda rng, n=n: [rng.standard_normal((n,), np.float32)])
    for exponent in (-149, -126, -60, 0, 90, 127):
        scale = lambda rng, e=exponent: [
            np.ldexp(np.append(rng.uniform(-1, 1, 40), [1.0, 0.0, -0.0]), e).astype(np.float32).reshape(43, 1)
        ]
        yield Case(f"Histogram_scale_{exponent}", "Histogram", {}, scale)
    odd = np.array([np.nan, np.inf, -np.inf, 1.0, 0.0, -3.5, np.nan], np.float32)
    yield Case("Histogram_not_finite", "Histogram", {}, lambda rng: [odd])
    yield Case("Histogram_nothing_finite", "Histogram", {}, lambda rng: [odd[:3]])
    yield Case("Histogram_zeros", "Histogram", {}, lambda rng: [np.zeros((3, 20), np.float32)])
    relu = lambda rng: [np.maximum(rng.standard_normal((2, 40, 9), np.float32), 0)]
    yield Case("Histogram_relu", "Histogram", {}, relu)


def cases() -> Iterator[Case]:
    yield from _histograms()
    yield from _pools()
    yield from _reductions()
    yield from _normalisations()
