"""Linear and cubic Resize as weighted means along each axis: which input elements an output element reads, and weights.

The weights of each axis are the reference's own: it is run on an identity matrix along that axis, so every coordinate
mode, clamping, exclusion and antialiasing comes out alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from temper.ir.dims import Dim, DimLike, product
from temper.reference.resize import resize
from temper.tactics.base import Workload

#: Taps per output element that the template keeps in registers and on the stack.
_MAX_TAPS = 1024

AXES = 3


@dataclass(frozen=True)
class AxisTaps:
    """Interpolation along one axis: the first input index of each output index (-1: outside a crop) and weights [out,
    taps].
    """

    size: int
    start: np.ndarray
    weight: np.ndarray

    @property
    def out(self) -> int:
        return len(self.start)

    @property
    def taps(self) -> int:
        return int(self.weight.shape[1])


@dataclass(frozen=True)
class ResizeShape:
    """outer: pixels' groups before the resized axes; run: contiguous elements of a pixel after them."""

    outer: DimLike
    axes: tuple[AxisTaps, ...]
    run: int
    xld: int
    old: int


def axis_taps(size: int, out: int, attrs: Mapping[str, object]) -> AxisTaps:
    """Taps of one axis of `size` elements, from the reference on an identity matrix. `attrs`: the op's, for this axis
    only.
    """
    return _axis_taps(size, out, tuple(sorted(attrs.items())))


@lru_cache(maxsize=64)  # a build asks for the same taps several times, and the matrix has size x out elements
def _axis_taps(size: int, out: int, items: tuple[tuple[str, object], ...]) -> AxisTaps:
    attrs = dict(items)
    if size == out and not attrs:
        return AxisTaps(size, np.arange(size, dtype=np.int32), np.ones((size, 1), np.float32))
    matrix = resize([np.eye(size)], {**attrs, "extrapolation_value": np.nan})[0]  # [out, size]
    outside = np.isnan(matrix).any(axis=1)
    used = np.where(outside[:, None], False, matrix != 0)
    first = np.where(used.any(axis=1), used.argmax(axis=1), 0)
    last = np.where(used.any(axis=1), size - 1 - used[:, ::-1].argmax(axis=1), 0)
    taps = int((last - first).max(initial=0)) + 1
    start = np.minimum(first, size - taps)
    weight = np.take_along_axis(np.nan_to_num(matrix), start[:, None] + np.arange(taps), axis=1)
    return AxisTaps(size, np.where(outside, -1, start).astype(np.int32), weight.astype(np.float32))


def axis_attrs(w: Workload, a: int) -> dict[str, object]:
    """The attributes of axis `a` of a two-dimensional problem [size, size] of which only axis 0 is resized; {} if
    nothing changes.
    """
    attrs = dict(w.attrs)
    x = w.inputs[0]
    assert x is not None
    rank, size, out = x.type.rank, x.type.shape[a], w.outputs[0].type.shape[a]
    scales, roi = attrs.get("scales"), attrs.get("roi", (0.0,) * rank + (1.0,) * rank)
    assert isinstance(roi, tuple)
    crop = (float(roi[a]), float(roi[rank + a]))
    cropped = attrs["coordinate_transformation_mode"] == "tf_crop_and_resize" and crop != (0.0, 1.0)
    scale = float(scales[a]) if isinstance(scales, tuple) else None
    if size == out and (scale is None or scale == 1.0) and not cropped:
        return {}
    drop = ("sizes", "scales", "roi", "extrapolation_value", "channels_last")
    rest: dict[str, object] = {k: v for k, v in attrs.items() if k not in drop}
    extent: dict[str, object] = {} if scale is None else {"scales": (scale, 1.0)}
    if "sizes" in attrs:
        extent["sizes"] = (out, size)
    return {**rest, **extent, "roi": (crop[0], 0.0, crop[1], 1.0)}


def resize_shape(w: Workload) -> ResizeShape | str:
    """Geometry of a workload, or the reason it has none here."""
    x, y = w.inputs[0], w.outputs[0]
    assert x is not None
    rank = x.type.rank
    changed = [a for a in range(rank) if axis_attrs(w, a)]
    if not changed:
        return "no axis changes: it is a plain copy"
    first, last = changed[0], max(changed[-1], rank - 2)
    sizes = x.type.shape[first : last + 1]
    if any(isinstance(d, Dim) for d in (*sizes, *y.type.shape[first:])):
        return "it resizes an axis whose size is not known at build"
    if last - first + 1 > AXES:
        return f"it resizes over {last - first + 1} axes, more than {AXES}"
    if last == rank - 1 and (x.row_stride is not None or y.row_stride is not None):
        return "it resizes the last axis of a view"
    run = 1 if last == rank - 1 else int(str(y.type.shape[-1]))
    if 0 in (*y.type.shape, *x.type.shape):
        return "it moves no element"
    axes = tuple(
        axis_taps(int(str(x.type.shape[a])), int(str(y.type.shape[a])), axis_attrs(w, a))
        for a in range(first, last + 1)
    )
    if np.prod([a.taps for a in axes]) > _MAX_TAPS:
        return f"it combines {'x'.join(str(a.taps) for a in axes)} elements into one"
    one = AxisTaps(1, np.zeros(1, np.int32), np.ones((1, 1), np.float32))
    return ResizeShape(
        product(y.type.shape[:first]),
        (*(one,) * (AXES - len(axes)), *axes),
        run,
        x.row_stride or run,
        y.row_stride or run,
    )


def last_axis(w: Workload) -> bool:
    """The last axis is resized: elements then go one by one."""
    assert w.inputs[0] is not None
    return bool(axis_attrs(w, w.inputs[0].type.rank - 1))
