"""References of reductions, pooling, softmax and normalisations: float64 inside and rounded once; integers wrap."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import product
from types import MappingProxyType

import numpy as np

from temper.reference.contraction import from_channels_last, spatial, tap, to_channels_last, windows
from temper.reference.numeric import Arrays, Attrs, ReferenceFn, present, widen


def lowest(dtype: np.dtype) -> float | int:
    """The identity of max."""
    return -math.inf if dtype.kind == "f" else 0 if dtype.kind == "b" else int(np.iinfo(dtype).min)


def highest(dtype: np.dtype) -> float | int:
    """The identity of min."""
    return math.inf if dtype.kind == "f" else 1 if dtype.kind == "b" else int(np.iinfo(dtype).max)


Axes = tuple[int, ...]


def _reduce(fn: Callable[[np.ndarray, Axes], np.ndarray]) -> ReferenceFn:
    """Reference from a function that reduces `axes` and keeps them as 1."""

    def reference(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
        (x,) = present(arrays)
        axes = tuple(a % x.ndim for a in attrs["axes"])
        with np.errstate(all="ignore"):
            y = np.asarray(fn(widen(x), axes)).astype(x.dtype, copy=False)
        return [y if attrs.get("keepdims", 1) else y.reshape([d for i, d in enumerate(x.shape) if i not in axes])]

    return reference


def _sum(x: np.ndarray, axes: Axes) -> np.ndarray:
    return np.sum(x, axis=axes, keepdims=True, dtype=x.dtype)


def _mean(x: np.ndarray, axes: Axes) -> np.ndarray:
    """Integers: the wrapped sum divided toward zero."""
    count = math.prod(x.shape[a] for a in axes)
    total = _sum(x, axes)
    return total / np.float64(count) if x.dtype.kind == "f" else np.trunc(total / count)


def _prod(x: np.ndarray, axes: Axes) -> np.ndarray:
    return np.prod(x, axis=axes, keepdims=True, dtype=x.dtype)


def _max(x: np.ndarray, axes: Axes) -> np.ndarray:
    return np.max(x, axis=axes, keepdims=True, initial=lowest(x.dtype))


def _min(x: np.ndarray, axes: Axes) -> np.ndarray:
    return np.min(x, axis=axes, keepdims=True, initial=highest(x.dtype))


def _log_sum_exp(x: np.ndarray, axes: Axes) -> np.ndarray:
    top = _max(x, axes) if x.dtype.kind == "f" else _max(x.astype(np.float64), axes)
    shift = np.where(np.isfinite(top), top, 0.0)
    return np.log(np.sum(np.exp(x - shift), axis=axes, keepdims=True)) + shift


def _arg(pick: Callable[..., np.ndarray]) -> ReferenceFn:
    def reference(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
        (x,) = present(arrays)
        axis = attrs.get("axis", 0) % x.ndim
        if attrs.get("select_last_index", 0):
            found = x.shape[axis] - 1 - pick(np.flip(x, axis), axis=axis)
        else:
            found = pick(x, axis=axis)
        return [np.asarray(np.expand_dims(found, axis) if attrs.get("keepdims", 1) else found).astype(np.int64)]

    return reference


def _running(x: np.ndarray, attrs: Attrs, fn: np.ufunc, start: int) -> np.ndarray:
    axis = attrs["axis"]
    work = np.flip(x, axis) if attrs.get("reverse", 0) else x
    out = fn.accumulate(work, axis=axis, dtype=work.dtype)
    if attrs.get("exclusive", 0):
        out = np.roll(out, 1, axis=axis)
        first = [slice(None)] * x.ndim
        first[axis] = slice(0, 1)
        out[tuple(first)] = start
    return np.flip(out, axis) if attrs.get("reverse", 0) else out


def _cumulative(fn: np.ufunc, start: int) -> ReferenceFn:
    def reference(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
        (x,) = present(arrays)
        return [np.ascontiguousarray(_running(widen(x), attrs, fn, start).astype(x.dtype, copy=False))]

    return reference


def _softmax(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    (x,) = present(arrays)
    axis = attrs.get("axis", -1)
    with np.errstate(all="ignore"):
        e = np.exp(widen(x) - widen(np.max(x, axis=axis, keepdims=True, initial=lowest(x.dtype))))
        return [(e / e.sum(axis=axis, keepdims=True)).astype(x.dtype)]


def _log_softmax(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    (x,) = present(arrays)
    axis = attrs.get("axis", -1)
    with np.errstate(all="ignore"):
        centered = widen(x) - widen(np.max(x, axis=axis, keepdims=True, initial=lowest(x.dtype)))
        return [(centered - np.log(np.exp(centered).sum(axis=axis, keepdims=True))).astype(x.dtype)]


def _hardmax(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    (x,) = present(arrays)
    axis = attrs.get("axis", -1) % x.ndim
    out = np.zeros_like(x)
    np.put_along_axis(out, np.expand_dims(np.argmax(x, axis), axis), 1, axis)
    return [out]


# ---- pooling ----


def pool_sizes(size: tuple[int, ...], attrs: Attrs) -> tuple[list[int], list[int]]:
    """(output size, padding needed at the end so that every window is whole) of each spatial axis.

    With ceil_mode a last window counts only if it starts inside the data or the padding before it.
    """
    rank, kernel = len(size), attrs["kernel_shape"]
    strides, dilations = spatial(attrs, "strides", rank, 1), spatial(attrs, "dilations", rank, 1)
    pads = spatial(attrs, "pads", 2 * rank, 0)
    out, ends = [], []
    for i in range(rank):
        extent = (kernel[i] - 1) * dilations[i] + 1
        room = size[i] + pads[i] + pads[rank + i] - extent
        n = room // strides[i] + 1
        if attrs.get("ceil_mode", 0):
            n = min(-(-room // strides[i]) + 1, -(-(size[i] + pads[i]) // strides[i]))
        out.append(n)
        ends.append(max((n - 1) * strides[i] + extent - size[i] - pads[i], 0))
    return out, ends


def _pool_windows(x: np.ndarray, attrs: Attrs, fill: float | int) -> np.ndarray:
    """[N, out.., C, kernel..] of channels-last data."""
    rank = x.ndim - 2
    out, ends = pool_sizes(x.shape[1:-1], attrs)
    pads = spatial(attrs, "pads", 2 * rank, 0)
    padded = np.pad(x, [(0, 0), *((pads[i], ends[i]) for i in range(rank)), (0, 0)], constant_values=fill)
    view = windows(
        padded, attrs["kernel_shape"], spatial(attrs, "strides", rank, 1), spatial(attrs, "dilations", rank, 1)
    )
    return view[(slice(None), *(slice(0, n) for n in out))]


def _fold(view: np.ndarray, kernel: tuple[int, ...], fn: Callable[[np.ndarray, np.ndarray], np.ndarray]) -> np.ndarray:
    out: np.ndarray | None = None
    for at in product(*map(range, kernel)):
        part = tap(view, at)
        out = part.copy() if out is None else fn(out, part)
    assert out is not None
    return out


def _max_pool(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    (x,) = present(arrays)
    view = _pool_windows(to_channels_last(x, attrs), attrs, lowest(x.dtype))
    return [from_channels_last(_fold(view, tuple(attrs["kernel_shape"]), np.maximum), attrs)]


def _max_pool_indices(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    """Data is [N, C, spatial..]; an index counts elements of the whole tensor, the first of equal maxima wins.

    storage_order 1 counts the elements of a plane by columns.
    """
    (x,) = present(arrays)
    rank = x.ndim - 2
    index = np.arange(x.size, dtype=np.int64).reshape(x.shape)
    if attrs.get("storage_order", 0):
        turned = index.reshape(*x.shape[:2], *reversed(x.shape[2:]))
        index = turned.transpose(0, 1, *range(x.ndim - 1, 1, -1))
    shape = tuple(attrs["kernel_shape"])
    view = _pool_windows(to_channels_last(x, {}), attrs, lowest(x.dtype))
    # outside elements have index -1; they win only where a window has nothing else
    where = _pool_windows(to_channels_last(index, {}), attrs, -1)
    flat, at = view.reshape(*view.shape[:-rank], -1), where.reshape(*where.shape[:-rank], -1)
    inside = np.where(at >= 0, flat, lowest(x.dtype)) if x.dtype.kind != "f" else flat
    best = np.argmax(np.where((at >= 0) & (inside == inside.max(-1, keepdims=True)), 1, 0), -1)[..., None]
    y, chosen = np.take_along_axis(flat, best, -1)[..., 0], np.take_along_axis(at, best, -1)[..., 0]
    assert len(shape) == rank
    return [from_channels_last(y, {}), from_channels_last(chosen, {})]


def window_counts(size: tuple[int, ...], attrs: Attrs) -> np.ndarray:
    """AveragePool's divisor at every output position: [out..]. count_include_pad counts `pads`, not ceil_mode's.

    A window that lies in the padding altogether has the divisor 1, and so the mean 0.
    """
    rank = len(size)
    pads = spatial(attrs, "pads", 2 * rank, 0)
    include = attrs.get("count_include_pad", 0)
    ones = np.ones((1, *size, 1))
    ones = np.pad(
        ones, [(0, 0), *((pads[i], pads[rank + i]) for i in range(rank)), (0, 0)], constant_values=float(bool(include))
    )
    _, ends = pool_sizes(size, attrs)
    extra = [(0, max(ends[i] - pads[rank + i], 0)) for i in range(rank)]
    ones = np.pad(ones, [(0, 0), *extra, (0, 0)])
    view = windows(
        ones, attrs["kernel_shape"], spatial(attrs, "strides", rank, 1), spatial(attrs, "dilations", rank, 1)
    )
    out, _ = pool_sizes(size, attrs)
    inside: np.ndarray = view[0][tuple(slice(0, n) for n in out)][(slice(None),) * rank + (0,)]
    counts: np.ndarray = inside.sum(axis=tuple(range(rank, 2 * rank)))
    return np.maximum(counts, 1.0)


def _average_pool(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    (x,) = present(arrays)
    data = to_channels_last(x, attrs)
    total = _fold(_pool_windows(data.astype(np.float64), attrs, 0.0), tuple(attrs["kernel_shape"]), np.add)
    with np.errstate(all="ignore"):
        return [from_channels_last((total / window_counts(data.shape[1:-1], attrs)[..., None]).astype(x.dtype), attrs)]


def _lp_pool(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    (x,) = present(arrays)
    p = attrs.get("p", 2)
    powers = np.abs(to_channels_last(x, attrs).astype(np.float64)) ** p
    total = _fold(_pool_windows(powers, attrs, 0.0), tuple(attrs["kernel_shape"]), np.add)
    return [from_channels_last((total ** (1.0 / p)).astype(x.dtype), attrs)]


# ---- normalisation ----


def _per_channel(parameter: np.ndarray, x: np.ndarray, attrs: Attrs) -> np.ndarray:
    """A [C] vector shaped to broadcast against the data, as float64."""
    axis = x.ndim - 1 if attrs.get("channels_last") else 1
    return widen(parameter).reshape([-1 if i == axis else 1 for i in range(x.ndim)])


def _batch_norm(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    x = present(arrays)[0]
    scale, bias, mean, var = (_per_channel(p, x, attrs) for p in present(arrays)[1:])
    return [((widen(x) - mean) / np.sqrt(var + attrs.get("epsilon", 1e-5)) * scale + bias).astype(x.dtype)]


def _standardize(x: np.ndarray, axes: Axes, epsilon: float) -> np.ndarray:
    mean = x.mean(axis=axes, keepdims=True)
    return (x - mean) / np.sqrt(((x - mean) ** 2).mean(axis=axes, keepdims=True) + epsilon)


def _instance_norm(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    x, scale, bias = present(arrays)
    axes = tuple(range(1, x.ndim - 1)) if attrs.get("channels_last") else tuple(range(2, x.ndim))
    y = _standardize(widen(x), axes, attrs.get("epsilon", 1e-5))
    return [(y * _per_channel(scale, x, attrs) + _per_channel(bias, x, attrs)).astype(x.dtype)]


def _group_norm(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    x, scale, bias = present(arrays)
    data = np.moveaxis(x, -1, 1) if attrs.get("channels_last") else x
    groups = attrs["num_groups"]
    split = widen(data).reshape(data.shape[0], groups, -1)
    y = _standardize(split, (2,), attrs.get("epsilon", 1e-5)).reshape(data.shape)
    y = y * _per_channel(scale, data, {}) + _per_channel(bias, data, {})
    return [np.ascontiguousarray(np.moveaxis(y, 1, -1) if attrs.get("channels_last") else y).astype(x.dtype)]


def _layer_norm(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    x, scale = present(arrays[:2])
    bias = arrays[2] if len(arrays) > 2 else None
    axes = tuple(range(attrs.get("axis", -1) % x.ndim, x.ndim))
    y = _standardize(widen(x), axes, attrs.get("epsilon", 1e-5)) * widen(scale)
    return [(y if bias is None else y + widen(bias)).astype(x.dtype)]


def _rms_norm(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    x, scale = present(arrays)
    axes = tuple(range(attrs.get("axis", -1) % x.ndim, x.ndim))
    wide = widen(x)
    return [
        (
            wide / np.sqrt((wide * wide).mean(axis=axes, keepdims=True) + attrs.get("epsilon", 1e-5)) * widen(scale)
        ).astype(x.dtype)
    ]


def _lrn(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    (x,) = present(arrays)
    data = widen(to_channels_last(x, attrs))
    size = attrs["size"]
    before = (size - 1) // 2
    squares = np.pad(data * data, [(0, 0)] * (x.ndim - 1) + [(before, size - 1 - before)])
    total = np.lib.stride_tricks.sliding_window_view(squares, size, axis=-1).sum(-1)
    y = data / (attrs.get("bias", 1.0) + attrs.get("alpha", 1e-4) / size * total) ** attrs.get("beta", 0.75)
    return [from_channels_last(y, attrs).astype(x.dtype)]


def _dynamic_quantize(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    """(uint8 data, float32 scale, uint8 zero point) from the data's range widened to hold 0, all in float32."""
    (x,) = present(arrays)
    low, high = np.minimum(np.float32(0), x.min(initial=0)), np.maximum(np.float32(0), x.max(initial=0))
    scale = np.asarray((high - low) / np.float32(255), np.float32)
    if scale == 0:
        return [
            np.zeros(x.shape, np.uint8),
            np.asarray(1.0 if x.size == 0 else scale, np.float32),
            np.asarray(0, np.uint8),
        ]
    zero = np.clip(np.rint(-low / scale), 0, 255)
    return [np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.uint8), scale, np.asarray(zero, np.uint8)]


REFERENCES: Mapping[str, ReferenceFn] = MappingProxyType(
    {
        "ReduceSum": _reduce(_sum),
        "ReduceMean": _reduce(_mean),
        "ReduceProd": _reduce(_prod),
        "ReduceMax": _reduce(_max),
        "ReduceMin": _reduce(_min),
        "ReduceL1": _reduce(lambda x, a: _sum(np.abs(x), a)),
        "ReduceL2": _reduce(lambda x, a: np.sqrt(_sum(x * x, a))),
        "ReduceSumSquare": _reduce(lambda x, a: _sum(x * x, a)),
        "ReduceLogSum": _reduce(lambda x, a: np.log(_sum(x, a))),
        "ReduceLogSumExp": _reduce(_log_sum_exp),
        "ArgMax": _arg(np.argmax),
        "ArgMin": _arg(np.argmin),
        "CumSum": _cumulative(np.add, 0),
        "CumProd": _cumulative(np.multiply, 1),
        "Softmax": _softmax,
        "LogSoftmax": _log_softmax,
        "Hardmax": _hardmax,
        "MaxPool": _max_pool,
        "MaxPoolIndices": _max_pool_indices,
        "AveragePool": _average_pool,
        "LpPool": _lp_pool,
        "BatchNormalization": _batch_norm,
        "InstanceNormalization": _instance_norm,
        "GroupNormalization": _group_norm,
        "LayerNormalization": _layer_norm,
        "RMSNormalization": _rms_norm,
        "LRN": _lrn,
        "DynamicQuantizeLinear": _dynamic_quantize,
    }
)
