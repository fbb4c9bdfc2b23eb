"""References of ops that move, select and repeat data. They work on any dtype, object arrays included."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from temper.reference.numeric import Arrays, Attrs, ReferenceFn, present
from temper.reference.resize import grid_sample, resize

_COMBINE: Mapping[str, np.ufunc] = MappingProxyType(
    {"add": np.add, "mul": np.multiply, "max": np.maximum, "min": np.minimum}
)


def _one(fn: Callable[[np.ndarray, Attrs], np.ndarray]) -> ReferenceFn:
    """Reference of an op with one operand."""

    def reference(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
        (x,) = present(arrays)
        return [np.array(fn(x, attrs), order="C")]

    return reference


def _squeeze(x: np.ndarray, attrs: Attrs) -> np.ndarray:
    return np.squeeze(x, axis=tuple(attrs["axes"]))


def _unsqueeze(x: np.ndarray, attrs: Attrs) -> np.ndarray:
    return np.expand_dims(x, tuple(attrs["axes"]))


def _expand(x: np.ndarray, attrs: Attrs) -> np.ndarray:
    return np.broadcast_to(x, np.broadcast_shapes(x.shape, tuple(attrs["shape"])))


def _concat(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    return [np.concatenate(present(arrays), axis=attrs["axis"])]


def _split(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    (x,) = present(arrays)
    cuts = np.cumsum(attrs["sizes"])[:-1]
    return [np.ascontiguousarray(p) for p in np.split(x, cuts, axis=attrs["axis"])]


def slice_of(size: int, start: int, end: int, step: int) -> slice:
    """ONNX's start:end:step as Python's. Going down, a start before the axis is its first element."""
    start, end = (b + size if b < 0 else b for b in (start, end))
    if step > 0:
        return slice(min(max(start, 0), size), min(max(end, 0), size), step)
    if size == 0 or end >= size:
        return slice(0, 0)
    return slice(min(max(start, 0), size - 1), end if end >= 0 else None, step)


def _slice(x: np.ndarray, attrs: Attrs) -> np.ndarray:
    starts, ends = attrs["starts"], attrs["ends"]
    axes = attrs.get("axes") or tuple(range(len(starts)))
    steps = attrs.get("steps") or (1,) * len(starts)
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        index[axis] = slice_of(x.shape[axis], start, end, step)
    return x[tuple(index)]


def _pad(x: np.ndarray, attrs: Attrs) -> np.ndarray:
    pads, rank, mode = attrs["pads"], x.ndim, attrs.get("mode", "constant")
    crop = tuple(slice(max(-pads[i], 0), x.shape[i] - max(-pads[rank + i], 0)) for i in range(rank))
    widths = [(max(pads[i], 0), max(pads[rank + i], 0)) for i in range(rank)]
    if mode != "constant":
        return np.pad(x[crop], widths, mode=mode)
    value = attrs.get("value", 0)
    return np.pad(x[crop], widths, constant_values=value if x.dtype == object else x.dtype.type(value))


def _gather(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    x, indices = present(arrays)
    return [np.asarray(np.take(x, indices, axis=attrs.get("axis", 0)))]


def _gather_elements(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    x, indices = present(arrays)
    return [x[_along(x, indices, attrs.get("axis", 0))]]


def _along(x: np.ndarray, indices: np.ndarray, axis: int) -> tuple[np.ndarray, ...]:
    """Index arrays that address `x` at every position of `indices`, with the axis's own index taken from there."""
    grid: list[np.ndarray] = list(np.indices(indices.shape, sparse=True))
    axis %= x.ndim
    grid[axis] = np.where(indices < 0, indices + x.shape[axis], indices)
    return tuple(grid)


def _gather_nd(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    x, indices = present(arrays)
    batch = attrs.get("batch_dims", 0)
    lead: list[np.ndarray] = []
    for axis in range(batch):
        shape = [1] * (indices.ndim - 1)
        shape[axis] = x.shape[axis]
        lead.append(np.arange(x.shape[axis]).reshape(shape))
    return [np.asarray(x[(*lead, *np.moveaxis(indices, -1, 0))])]


def _scatter(out: np.ndarray, where: tuple[np.ndarray, ...], updates: np.ndarray, reduction: str) -> np.ndarray:
    if reduction == "none":
        out[where] = updates
    elif out.dtype == bool or out.dtype == object:
        raise ValueError(f"reduction {reduction!r} needs numbers")
    else:
        _COMBINE[reduction].at(out, where, updates)
    return out


def _scatter_elements(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    x, indices, updates = present(arrays)
    return [_scatter(x.copy(), _along(x, indices, attrs.get("axis", 0)), updates, attrs.get("reduction", "none"))]


def _scatter_nd(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    x, indices, updates = present(arrays)
    return [_scatter(x.copy(), tuple(np.moveaxis(indices, -1, 0)), updates, attrs.get("reduction", "none"))]


def _blocks_first(x: np.ndarray, attrs: Attrs) -> np.ndarray:
    return np.moveaxis(x, -1, 1) if attrs.get("channels_last") else x


def _blocks_back(y: np.ndarray, attrs: Attrs) -> np.ndarray:
    return np.moveaxis(y, 1, -1) if attrs.get("channels_last") else y


def _depth_to_space(x: np.ndarray, attrs: Attrs) -> np.ndarray:
    x, b = _blocks_first(x, attrs), attrs["blocksize"]
    n, c, h, w = x.shape
    d = c // (b * b)
    if attrs.get("mode", "DCR") == "DCR":
        y = x.reshape(n, b, b, d, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        y = x.reshape(n, d, b, b, h, w).transpose(0, 1, 4, 2, 5, 3)
    return _blocks_back(y.reshape(n, d, h * b, w * b), attrs)


def _space_to_depth(x: np.ndarray, attrs: Attrs) -> np.ndarray:
    x, b = _blocks_first(x, attrs), attrs["blocksize"]
    n, c, h, w = x.shape
    y = x.reshape(n, c, h // b, b, w // b, b).transpose(0, 3, 5, 1, 2, 4)
    return _blocks_back(y.reshape(n, c * b * b, h // b, w // b), attrs)


def _trilu(x: np.ndarray, attrs: Attrs) -> np.ndarray:
    return (np.triu if attrs.get("upper", 1) else np.tril)(x, attrs.get("k", 0)).astype(x.dtype, copy=False)


def _one_hot(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    """values = [off, on]; an index outside [-depth, depth) gives a row of off."""
    indices, values = present(arrays)
    depth, axis = attrs["depth"], attrs.get("axis", -1) % (indices.ndim + 1)
    whole = np.expand_dims(np.where(indices < 0, indices + depth, indices), axis)
    on = whole == np.arange(depth).reshape([-1 if i == axis else 1 for i in range(indices.ndim + 1)])
    return [np.where(on, values[1], values[0]).astype(values.dtype, copy=False)]


def _reverse_sequence(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    x, lengths = present(arrays)
    batch, time = attrs.get("batch_axis", 1), attrs.get("time_axis", 0)
    work = np.moveaxis(x, (batch, time), (0, 1))
    out = work.copy()
    for i, length in enumerate(lengths):
        out[i, :length] = work[i, :length][::-1]
    return [np.ascontiguousarray(np.moveaxis(out, (0, 1), (batch, time)))]


def _lookup(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    x, table = present(arrays)
    return [table[np.ascontiguousarray(x).view(np.uint8)].reshape(x.shape)]


REFERENCES: Mapping[str, ReferenceFn] = MappingProxyType(
    {
        "Transpose": _one(lambda x, a: np.transpose(x, a["perm"])),
        "Reshape": _one(lambda x, a: x.reshape(tuple(a["shape"]))),
        "Squeeze": _one(_squeeze),
        "Unsqueeze": _one(_unsqueeze),
        "Expand": _one(_expand),
        "Tile": _one(lambda x, a: np.tile(x, tuple(a["repeats"]))),
        "Slice": _one(_slice),
        "Pad": _one(_pad),
        "Concat": _concat,
        "Split": _split,
        "Gather": _gather,
        "Lookup": _lookup,
        "GatherElements": _gather_elements,
        "GatherND": _gather_nd,
        "ScatterElements": _scatter_elements,
        "ScatterND": _scatter_nd,
        "Trilu": _one(_trilu),
        "OneHot": _one_hot,
        "DepthToSpace": _one(_depth_to_space),
        "SpaceToDepth": _one(_space_to_depth),
        "ReverseSequence": _reverse_sequence,
        "Resize": resize,
        "GridSample": grid_sample,
    }
)
