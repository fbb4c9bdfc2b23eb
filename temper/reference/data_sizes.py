"""References of the ops that read sizes from data: they run on the host, between the segments whose sizes they find."""

from __future__ import annotations

import math
from collections.abc import Mapping
from types import MappingProxyType

import numpy as np

from temper.reference.numeric import Arrays, Attrs, ReferenceFn, present

#: no tensor is this long; a range of more elements comes from damaged data
LONGEST = 1 << 40


def _sizes(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    (x,) = present(arrays)
    return [x.reshape(-1).astype(np.int64)]


def _reshape_sizes(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    """ONNX's rules for Reshape: 0 copies a dimension unless allowzero, one -1 takes what is left. ValueError where the
    numbers of elements differ."""
    (x,) = present(arrays)
    of = tuple(attrs["of"])
    wanted = [int(v) for v in x.reshape(-1)]
    if not attrs.get("allowzero", 0):
        if any(d == 0 and i >= len(of) for i, d in enumerate(wanted)):
            raise ValueError(f"the shape {wanted} copies a dimension that {list(of)} does not have")
        wanted = [of[i] if d == 0 else d for i, d in enumerate(wanted)]
    count = math.prod(of)
    rest = math.prod(d for d in wanted if d != -1)
    found = [(count // rest if rest else 0) if d == -1 else d for d in wanted]
    if wanted.count(-1) > 1 or min(found, default=0) < 0 or math.prod(found) != count:
        raise ValueError(f"{list(of)} cannot be reshaped to {wanted}")
    return [np.array(found, np.int64)]


def _slice_bounds(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    """Starts, then numbers of elements, of start:end:step on axes of the given sizes, bounds clamped as numpy does."""
    starts, ends = present(arrays)
    found = [
        slice(int(a), int(b), step).indices(size)
        for a, b, size, step in zip(starts.reshape(-1), ends.reshape(-1), attrs["sizes"], attrs["steps"], strict=True)
    ]
    lengths = [len(range(*f)) for f in found]
    return [np.array([f[0] for f in found] + lengths, np.int64)]


def _range_of(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    """start + i delta for every i with which it stays before limit; computed in float64 for floats."""
    start, limit, delta = (a.reshape(-1)[0] for a in present(arrays))
    wide = [float(v) if v.dtype.kind == "f" else int(v) for v in (start, limit, delta)]
    if not wide[2] or not all(map(math.isfinite, wide)):
        raise ValueError(f"there is no range from {wide[0]} to {wide[1]} by {wide[2]}")
    count = max(0, math.ceil((wide[1] - wide[0]) / wide[2]))
    if count > LONGEST:
        raise ValueError(f"a range of {count} elements is too long")
    return [(np.arange(count) * np.asarray(wide[2]) + np.asarray(wide[0])).astype(start.dtype)]


def _prefix(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    (x,) = present(arrays)
    return [x[: attrs["shape"][0]].copy()]


def _by_data(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    from temper.reference import REFERENCES as every  # this table is a part of that one

    return [np.asarray(y) for y in every[attrs["of"]](arrays, dict(attrs["given"]))]


REFERENCES: Mapping[str, ReferenceFn] = MappingProxyType(
    {
        "Sizes": _sizes,
        "ReshapeSizes": _reshape_sizes,
        "SliceBounds": _slice_bounds,
        "RangeOf": _range_of,
        "Prefix": _prefix,
        "ByData": _by_data,
    }
)
