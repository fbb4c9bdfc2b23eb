"""Resize in its five versions, and its predecessor Upsample."""

from __future__ import annotations

from typing import Any

from temper.errors import ModelError, ShapeError
from temper.frontends.onnx.context import Context, Refusal, Row
from temper.frontends.onnx.table_movement import axes_from_front
from temper.ir.dims import DimLike
from temper.ir.graph import Value


def _scales(c: Context, given: tuple[float, ...], axes: tuple[int, ...]) -> tuple[float, ...]:
    if len(given) != len(axes):
        raise ShapeError(f"{c}: {len(given)} scales for {len(axes)} axes")
    full = [1.0] * c.input(0).type.rank
    for a, s in zip(axes, given, strict=True):
        full[a] = float(s)
    return tuple(full)


def _resized(c: Context, attrs: dict[str, Any]) -> Value:
    x = c.input(0)
    unchanged = attrs.get("sizes") == x.type.shape or all(s == 1 for s in attrs.get("scales", (0,)))
    if unchanged and attrs.get("coordinate_transformation_mode") != "tf_crop_and_resize":
        return x
    return c.emit("Resize", x, **attrs)


def _early(c: Context) -> Value:
    """Upsample, and Resize before opset 11: output pixel i is taken at i / scale."""
    mode = {"bilinear": "linear"}.get(c.attr("mode"), c.attr("mode"))
    given = c.array(1, "scales").reshape(-1).tolist() if c.has(1) else c.attr("scales")
    attrs = {"mode": mode, "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
    return _resized(c, {**attrs, "scales": _scales(c, tuple(given), tuple(range(c.input(0).type.rank)))})


def _given(c: Context, i: int) -> bool:
    """True if operand i is there and not empty, which stands for absence too."""
    return c.has(i) and c.input(i).type.count != 0


def _kept_aspect(c: Context, axes: tuple[int, ...], sizes: tuple[DimLike, ...]) -> dict[str, Any]:
    """Sizes and scales where all `axes` get one scale, that of the axis which grows least or most."""
    policy, shape = c.attr("keep_aspect_ratio_policy"), c.input(0).type.shape
    known = [(d, shape[a]) for a, d in zip(axes, sizes, strict=True)]
    ratios = [d / s for d, s in known if isinstance(d, int) and isinstance(s, int) and s > 0]
    if len(ratios) < len(known):
        raise Refusal(f"keep_aspect_ratio_policy {policy} on sizes that are not known")
    if policy not in ("not_larger", "not_smaller"):
        raise ShapeError(f"{c}: keep_aspect_ratio_policy {policy!r} does not exist")
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    full, scales = list(shape), [1.0] * len(shape)
    for a, (_, s) in zip(axes, known, strict=True):
        full[a], scales[a] = int(scale * int(str(s)) + 0.5), scale
    return {"sizes": tuple(full), "scales": tuple(scales)}


def _resize(c: Context) -> Value:
    x = c.input(0)
    rank = x.type.rank
    axes = axes_from_front(c, c.attr("axes"), rank) if c.attr("axes") is not None else tuple(range(rank))
    names = ("mode", "coordinate_transformation_mode", "nearest_mode", "cubic_coeff_a", "exclude_outside", "antialias")
    attrs: dict[str, Any] = c.take(*names, "extrapolation_value")
    if _given(c, 2) == _given(c, 3):
        raise ModelError(f"{c}: exactly one of scales (input 2) and sizes (input 3) must be given")
    if _given(c, 2):
        attrs["scales"] = _scales(c, tuple(c.array(2, "scales").reshape(-1).tolist()), axes)
    else:
        sizes, full = c.dims(3, "sizes"), list[DimLike](x.type.shape)
        if len(sizes) != len(axes):
            raise ShapeError(f"{c}: {len(sizes)} sizes for {len(axes)} axes")
        for a, d in zip(axes, sizes, strict=True):
            full[a] = d
        attrs["sizes"] = tuple(full)
        if c.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
            attrs |= _kept_aspect(c, axes, sizes)
    if attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        roi = c.array(1, "roi").reshape(-1).tolist()
        if len(roi) != 2 * len(axes):
            raise ShapeError(f"{c}: {len(roi)} numbers in roi for {len(axes)} axes")
        corners = [0.0] * rank + [1.0] * rank
        for k, a in enumerate(axes):
            corners[a], corners[rank + a] = float(roi[k]), float(roi[len(axes) + k])
        attrs["roi"] = tuple(corners)
    return _resized(c, attrs)


ROWS: tuple[Row, ...] = (Row("Upsample", _early), Row("Resize", _early, 10), Row("Resize", _resize, 11))
