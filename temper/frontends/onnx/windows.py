"""Strides, pads and dilations of ONNX's windowed ops: defaults filled in and auto_pad turned into numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from temper.errors import ShapeError
from temper.frontends.onnx.context import Context, Refusal
from temper.ir.dims import Dim, DimLike


def _vector(c: Context, name: str, length: int, default: int, least: int) -> tuple[int, ...]:
    found = tuple(c.attr(name) or (default,) * length)
    if len(found) != length or min(found, default=least) < least:
        raise ShapeError(f"{c}: attribute '{name}' must be {length} numbers of at least {least}, not {list(found)}")
    return found


def window(c: Context, spatial: Sequence[DimLike], kernel: Sequence[int], ceil_mode: bool = False) -> dict[str, Any]:
    """strides, pads (begin.., end..) and dilations for data of these spatial sizes."""
    rank = len(spatial)
    if rank < 1 or len(kernel) != rank:
        raise ShapeError(f"{c}: {rank} spatial axes, but a kernel of {list(kernel)}")
    if min(kernel) < 1:
        raise ShapeError(f"{c}: kernel sizes must be positive, not {list(kernel)}")
    strides, dilations = _vector(c, "strides", rank, 1, 1), _vector(c, "dilations", rank, 1, 1)
    mode = c.attr("auto_pad", "NOTSET")
    if mode in ("NOTSET", ""):
        pads = _vector(c, "pads", 2 * rank, 0, 0)
    elif mode == "VALID":
        pads = (0,) * (2 * rank)
    elif mode in ("SAME_UPPER", "SAME_LOWER"):
        totals = [same_padding(d, k, s, r) for d, k, s, r in zip(spatial, kernel, strides, dilations, strict=True)]
        begins = [t // 2 if mode == "SAME_UPPER" else t - t // 2 for t in totals]
        pads = (*begins, *(t - b for t, b in zip(totals, begins, strict=True)))
    else:
        raise ShapeError(f"{c}: auto_pad {mode!r} does not exist")
    return {"strides": strides, "pads": pads, "dilations": dilations}


def same_padding(size: DimLike, kernel: int, stride: int, dilation: int) -> int:
    """Padding along one axis for ceil(size / stride) output elements; Refusal if it varies with the size."""
    extent = (kernel - 1) * dilation + 1
    if stride == 1:
        return extent - 1
    if not isinstance(size, Dim):
        return max(0, (-(-size // stride) - 1) * stride + extent - size)
    if (size % stride) == 0:
        return max(0, extent - stride)
    raise Refusal(
        f"auto_pad SAME with stride {stride} on the symbolic size {size} pads differently from size to size; "
        "fix the size with shapes= or dims="
    )
