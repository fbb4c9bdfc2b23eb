"""Sizes, strides and attributes of a workload as kernels of every device need them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

from temper.ir.dims import Dim, DimLike
from temper.tactics.base import Workload


def static(d: DimLike) -> int | None:
    """The dimension if it is known."""
    return None if isinstance(d, Dim) else int(d)


def typical_count(shape: Sequence[DimLike], unknown: int = 64) -> int:
    """Number of elements, a run-time dimension taken as `unknown`: what predictions count with."""
    return prod(unknown if isinstance(d, Dim) else d for d in shape)


def strides_of(shape: Sequence[DimLike], mask: Sequence[bool], row_stride: int | None) -> list[DimLike]:
    """Element strides along `shape`'s axes of a row-major tensor that has size 1 (stride 0) where mask is False."""
    out: list[DimLike] = [0] * len(shape)
    step: DimLike = 1
    for a in reversed(range(len(shape))):
        if mask[a]:
            out[a] = step
            step = step * shape[a]
        if a == len(shape) - 1 and row_stride is not None:
            step = row_stride
    return out


def integers(w: Workload, name: str) -> tuple[int, ...]:
    """A tuple of plain ints among the attributes."""
    value = w.attr(name)
    assert isinstance(value, tuple)
    return tuple(int(i) for i in value)


def int_tuple(w: Workload, name: str, count: int, default: int) -> tuple[int, ...] | None:
    """A tuple attribute of `count` ints; absent or empty means the default everywhere; None if it has another form."""
    value = w.attr(name, ()) or (default,) * count
    if not isinstance(value, tuple) or len(value) != count:
        return None
    return tuple(int(x) for x in value)


def attrs_of_axis(w: Workload, a: int) -> dict[str, object] | None:
    """The op's attributes restricted to input axis `a` as a 1-D problem; None if the op leaves the axis alone."""
    attrs = dict(w.attrs)
    x = w.inputs[0]
    assert x is not None
    size, rank = x.type.shape[a], x.type.rank

    def at(name: str, i: int) -> object:
        value = attrs[name]
        assert isinstance(value, tuple)
        return value[i]

    if w.op == "Pad":
        begin, end = at("pads", a), at("pads", rank + a)
        return None if begin == end == 0 else {"pads": (begin, end), "mode": attrs["mode"], "value": -1}
    if w.op == "Tile":
        return None if at("repeats", a) == 1 else {"repeats": (at("repeats", a),)}
    if w.op == "Slice":
        starts = attrs["starts"]
        assert isinstance(starts, tuple)
        axes, steps = attrs.get("axes", tuple(range(len(starts)))), attrs.get("steps", (1,) * len(starts))
        assert isinstance(axes, tuple) and isinstance(steps, tuple)
        for i, axis in enumerate(axes):
            if int(axis) % rank == a:
                return {"starts": (starts[i],), "ends": (at("ends", i),), "axes": (0,), "steps": (steps[i],)}
        return None
    assert w.op == "Resize"
    out = w.outputs[0].type.shape[a]
    scale = at("scales", a) if "scales" in attrs else 1.0 if size == out else 0.0
    roi = (float(str(at("roi", a))), float(str(at("roi", rank + a)))) if "roi" in attrs else (0.0, 1.0)
    if (
        size == out
        and scale == 1.0
        and (attrs["coordinate_transformation_mode"] != "tf_crop_and_resize" or roi == (0.0, 1.0))
    ):
        return None
    rest = {
        k: v for k, v in attrs.items() if k not in ("sizes", "scales", "roi", "extrapolation_value", "channels_last")
    }
    extent: dict[str, object] = {"scales": (scale,)} if "scales" in attrs else {}
    if "sizes" in attrs:
        extent["sizes"] = (out,)
    return {**rest, **extent, "roi": roi, "extrapolation_value": -1.0}


@dataclass(frozen=True)
class Axis:
    """A collapsed axis of the input: its size, element stride, and whether it is reduced."""

    size: DimLike
    stride: DimLike
    reduced: bool


def collapse_axes(w: Workload, axes: frozenset[int]) -> list[Axis]:
    """Input axes without those of size 1, neighbours of one kind merged; a kept last axis stays alone."""
    x = w.inputs[0]
    assert x is not None
    shape = x.type.shape
    strides = strides_of(shape, (True,) * len(shape), x.row_stride)
    out: list[Axis] = []
    for i, (d, s) in enumerate(zip(shape, strides, strict=True)):
        last = i == len(shape) - 1
        if d == 1 and not last:
            continue
        alone = last and i not in axes
        if out and not alone and out[-1].reduced == (i in axes) and out[-1].stride == d * s:
            out[-1] = Axis(out[-1].size * d, s, i in axes)
        else:
            out.append(Axis(d, s, i in axes))
    return out


def reduced_axes(w: Workload) -> frozenset[int]:
    """The axes a Reduce* workload reduces, not negative."""
    x = w.inputs[0]
    axes = w.attr("axes")
    assert x is not None and isinstance(axes, tuple)
    return frozenset(int(a) % x.type.rank for a in axes)
