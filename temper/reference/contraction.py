"""References of contractions. Floats are multiplied and accumulated in float64 and rounded once to the output dtype:
the best oracle at hand for any summation order. 8-bit integers are exact so; wider ones wrap in their own dtype.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import product
from types import MappingProxyType
from typing import Any

import numpy as np

from temper.reference.numeric import Arrays, Attrs, ReferenceFn, present

#: doubles in one im2col block (32 MiB)
_BLOCK = 1 << 22


def to_channels_last(x: np.ndarray, attrs: Attrs) -> np.ndarray:
    """[N, C, spatial..] -> [N, spatial.., C] unless the data is so already."""
    return x if attrs.get("channels_last") else np.moveaxis(x, 1, -1)


def from_channels_last(y: np.ndarray, attrs: Attrs) -> np.ndarray:
    return y if attrs.get("channels_last") else np.ascontiguousarray(np.moveaxis(y, -1, 1))


def spatial(attrs: Attrs, name: str, rank: int, default: int) -> tuple[int, ...]:
    """A per-axis attribute, or `default` on every axis."""
    value = attrs.get(name)
    return tuple(value) if value is not None else (default,) * rank


def pad_spatial(x: np.ndarray, pads: Sequence[int], value: float) -> np.ndarray:
    """Channels-last data padded by (begin.., end..); negative pads crop."""
    rank = x.ndim - 2
    crop = tuple(slice(max(-pads[i], 0), x.shape[1 + i] - max(-pads[rank + i], 0)) for i in range(rank))
    widths = [(0, 0), *((max(pads[i], 0), max(pads[rank + i], 0)) for i in range(rank)), (0, 0)]
    return np.pad(x[(slice(None), *crop)], widths, constant_values=value)


def windows(x: np.ndarray, kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int]) -> np.ndarray:
    """View [N, out.., C, kernel..] of channels-last data that is padded already."""
    rank = len(kernel)
    out = [(x.shape[1 + i] - (kernel[i] - 1) * dilations[i] - 1) // strides[i] + 1 for i in range(rank)]
    steps = x.strides
    return np.lib.stride_tricks.as_strided(
        x,
        (x.shape[0], *out, x.shape[-1], *kernel),
        (
            steps[0],
            *(steps[1 + i] * strides[i] for i in range(rank)),
            steps[-1],
            *(steps[1 + i] * dilations[i] for i in range(rank)),
        ),
        writeable=False,
    )


def tap(view: np.ndarray, at: tuple[int, ...]) -> np.ndarray:
    """The element at kernel position `at` of every window: [N, out.., C]."""
    index: Any = (..., *at)
    part: np.ndarray = view[index]
    return part


def _conv(x: np.ndarray, w: np.ndarray, attrs: Attrs) -> np.ndarray:
    """Channels-last data and [kernel.., C/group, OC] weights, both float64 -> float64 [N, out.., OC]."""
    rank, group = x.ndim - 2, attrs.get("group", 1)
    kernel = w.shape[:rank]
    strides, dilations = spatial(attrs, "strides", rank, 1), spatial(attrs, "dilations", rank, 1)
    view = windows(pad_spatial(x, spatial(attrs, "pads", 2 * rank, 0), 0.0), kernel, strides, dilations)
    out_shape, channels, features = view.shape[1 : 1 + rank], x.shape[-1], w.shape[-1]
    out = np.zeros((x.shape[0], *out_shape, features))
    if group == channels == features:
        for at in product(*map(range, kernel)):
            out += tap(view, at) * w[at][0]
        return out
    depth = math.prod(kernel) * (channels // group)
    # [group, C/group * kernel, OC/group], the order of a window's elements
    flat = np.moveaxis(w.reshape(*kernel, channels // group, group, features // group), (rank, rank + 1), (1, 0))
    flat = np.moveaxis(flat, 1, 1).reshape(group, depth, features // group)
    row = max(1, math.prod(out_shape[1:])) * depth * group
    step = max(1, _BLOCK // max(row, 1))
    for n in range(x.shape[0]):
        for y in range(0, out_shape[0], step):
            part = view[n, y : y + step]
            lead = part.shape[:rank]
            columns = part.reshape(math.prod(lead), group, depth)
            result = np.matmul(columns.transpose(1, 0, 2), flat)
            out[n, y : y + step] = result.transpose(1, 0, 2).reshape(*lead, features)
    return out


def _weights_last(w: np.ndarray, attrs: Attrs) -> np.ndarray:
    """OIHW -> HWIO (for ConvTranspose IOHW -> HWIO, see its caller) unless the weights are so already."""
    return w if attrs.get("channels_last") else np.moveaxis(w, (0, 1), (-1, -2))


def _convolution(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    x, w = present(arrays[:2])
    bias = arrays[2] if len(arrays) > 2 else None
    y = _conv(to_channels_last(x, attrs).astype(np.float64), _weights_last(w, attrs).astype(np.float64), attrs)
    if bias is not None:
        y += bias.astype(np.float64)
    with np.errstate(over="ignore"):
        return [from_channels_last(y, attrs).astype(x.dtype)]


def _conv_transpose(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    x, w = present(arrays[:2])
    bias = arrays[2] if len(arrays) > 2 else None
    rank, group = x.ndim - 2, attrs.get("group", 1)
    data = to_channels_last(x, attrs).astype(np.float64)
    # [kernel.., C, OC/group]
    taps = (w if attrs.get("channels_last") else np.moveaxis(w, (0, 1), (-2, -1))).astype(np.float64)
    kernel, channels, per_group = taps.shape[:rank], data.shape[-1], taps.shape[-1]
    strides, dilations = spatial(attrs, "strides", rank, 1), spatial(attrs, "dilations", rank, 1)
    pads, extra = spatial(attrs, "pads", 2 * rank, 0), spatial(attrs, "output_padding", rank, 0)
    size = data.shape[1:-1]
    out_shape = [
        strides[i] * (size[i] - 1) + extra[i] + (kernel[i] - 1) * dilations[i] + 1 - pads[i] - pads[rank + i]
        for i in range(rank)
    ]
    # every tap lands inside [-pad_begin, ...): scatter into a buffer that keeps the cropped border, then crop
    full = [
        max(strides[i] * (size[i] - 1) + (kernel[i] - 1) * dilations[i] + 1, pads[i] + out_shape[i])
        for i in range(rank)
    ]
    out = np.zeros((data.shape[0], *full, group * per_group))
    rows = data.reshape(-1, group, channels // group).transpose(1, 0, 2)
    for at in product(*map(range, kernel)):
        tap = taps[at].reshape(group, channels // group, per_group)
        part = np.matmul(rows, tap).transpose(1, 0, 2).reshape(*data.shape[:-1], group * per_group)
        where = tuple(
            slice(at[i] * dilations[i], at[i] * dilations[i] + strides[i] * (size[i] - 1) + 1, strides[i])
            for i in range(rank)
        )
        if math.prod(size):
            out[(slice(None), *where)] += part
    y = out[(slice(None), *(slice(pads[i], pads[i] + out_shape[i]) for i in range(rank)))]
    if bias is not None:
        y = y + bias.astype(np.float64)
    with np.errstate(over="ignore"):
        return [from_channels_last(y, attrs).astype(x.dtype)]


def _product(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """a @ b: floats in float64 and rounded to a's dtype, integers in their own dtype (they wrap)."""
    if a.dtype.kind == "f":
        with np.errstate(all="ignore"):
            return np.asarray(np.matmul(a.astype(np.float64), b.astype(np.float64))).astype(a.dtype)
    return np.asarray(np.matmul(a, b))


def _matmul(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    a, b = present(arrays)
    if attrs.get("transA") and a.ndim > 1:
        a = np.swapaxes(a, -1, -2)
    if attrs.get("transB") and b.ndim > 1:
        b = np.swapaxes(b, -1, -2)
    return [_product(a, b)]


def _einsum(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    operands = present(arrays)
    dtype = operands[0].dtype
    work = [a.astype(np.float64) for a in operands] if dtype.kind == "f" else operands
    with np.errstate(all="ignore"):
        return [np.asarray(np.einsum(attrs["equation"].replace(" ", ""), *work, optimize=True)).astype(dtype)]


def _centered(x: np.ndarray, zero: np.ndarray | None, axis: int) -> np.ndarray:
    """x minus its zero point (a scalar, or one per index of `axis`) as float64, exact."""
    wide = x.astype(np.float64)
    if zero is None:
        return wide
    if zero.ndim == 1 and zero.size > 1:
        shape = [1] * x.ndim
        shape[axis] = -1
        return wide - zero.reshape(shape).astype(np.float64)
    return wide - zero.astype(np.float64)


def _zero(arrays: Arrays, i: int) -> np.ndarray | None:
    return arrays[i] if len(arrays) > i else None


def _matmul_integer(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    a, b = present(arrays[:2])
    left, right = _centered(a, _zero(arrays, 2), a.ndim - 2), _centered(b, _zero(arrays, 3), b.ndim - 1)
    return [np.asarray(np.matmul(left, right)).astype(np.int64).astype(np.int32)]


def _conv_integer(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    x, w = present(arrays[:2])
    data = to_channels_last(_centered(x, _zero(arrays, 2), 0), attrs)
    taps = _weights_last(w, attrs)
    y = _conv(data, _centered(taps, _zero(arrays, 3), taps.ndim - 1), attrs)
    return [from_channels_last(y, attrs).astype(np.int64).astype(np.int32)]


def _wrapped(y: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    """Whole-valued sums of 8-bit products and an int32 bias, as int32; beyond its range they wrap."""
    total = y.astype(np.int64) + (0 if bias is None else bias.astype(np.int64))
    return np.asarray(total).astype(np.int32)


def _code_of_zero(arrays: Arrays, attrs: Attrs) -> float:
    zero = _zero(arrays, 3)
    return float(attrs.get("zero_point", 0) if zero is None else zero)


def _conv_int8(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    x, w = present(arrays[:2])
    data = to_channels_last(x.astype(np.float64) - _code_of_zero(arrays, attrs), attrs)
    y = _conv(data, _weights_last(w, attrs).astype(np.float64), attrs)
    return [from_channels_last(_wrapped(y, _zero(arrays, 2)), attrs)]


def _matmul_int8(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    a, b = present(arrays[:2])
    left = a.astype(np.float64) - _code_of_zero(arrays, attrs)
    return [_wrapped(np.asarray(np.matmul(left, b.astype(np.float64))), _zero(arrays, 2))]


def _matmul_bfloat16(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    a, b = present(arrays[:2])
    return [np.asarray(np.matmul(a.astype(np.float64), b.astype(np.float64))).astype(np.float32)]


REFERENCES: Mapping[str, ReferenceFn] = MappingProxyType(
    {
        "Conv": _convolution,
        "ConvTranspose": _conv_transpose,
        "MatMul": _matmul,
        "Einsum": _einsum,
        "MatMulInteger": _matmul_integer,
        "ConvInteger": _conv_integer,
        "ConvBfloat16": _convolution,
        "MatMulBfloat16": _matmul_bfloat16,
        "ConvInt8": _conv_int8,
        "MatMulInt8": _matmul_int8,
    }
)
