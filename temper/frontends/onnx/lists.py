"""Sequences whose length depends on data: nodes that make, change and read them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from temper.errors import ModelError, ShapeError
from temper.frontends.onnx.context import Context, Refusal
from temper.frontends.onnx.held import Held, Items, Listed
from temper.ir.dims import DimLike
from temper.ir.graph import Value

Shape = tuple["DimLike | None", ...]


def common(a: Shape | None, b: Shape | None) -> Shape | None:
    """What two shapes of elements have in common; Refusal if their ranks differ."""
    if a is None or b is None:
        return b if a is None else a
    if len(a) != len(b):
        raise Refusal(f"the elements of a sequence of unknown length have {len(a)} and {len(b)} dimensions")
    return tuple(d if d == e else None for d, e in zip(a, b, strict=True))


def as_listed(c: Context, held: Held) -> Listed:
    """A sequence as one value."""
    if isinstance(held, Listed):
        return held
    if not isinstance(held, Items):
        raise ModelError(f"{c}: a sequence is expected")
    shape: Shape | None = None
    for v in held.values:
        shape = common(shape, v.type.shape)
    return Listed(c.emit("SequenceConstruct", *held.values), held.dtype, shape)


def _result(c: Context, op: str, held: Listed, shape: Shape, *operands: Value, **attrs: Any) -> Value:
    """A tensor read from a sequence; sizes that are not known become symbols."""
    found = [c.builder.fresh(op) if d is None else d for d in shape]
    count = tuple(f for f, d in zip(found, shape, strict=True) if d is None)
    attrs |= {"to": held.dtype, "shape": tuple(found), "count": count}
    return c.emit(op, held.value, *operands, **attrs)


def _shape_of(c: Context, held: Listed) -> Shape:
    if held.shape is None or not held.dtype:
        raise Refusal("the sequence has no elements whose type could be told")
    return held.shape


def element(c: Context, held: Listed, position: Value) -> Value:
    return _result(c, "SequenceAt", held, _shape_of(c, held), position)


def inserted(c: Context, held: Listed, v: Value, position: Value | None) -> Listed:
    made = c.emit("SequenceInsert", held.value, v, *([] if position is None else [position]))
    return Listed(made, v.type.dtype, common(held.shape, v.type.shape))


def joined(c: Context, held: Listed, axis: int, new_axis: bool) -> Value:
    shape = list(_shape_of(c, held))
    rank = len(shape) + new_axis
    if not -rank <= axis < rank:
        raise ShapeError(f"{c}: axis {axis} is out of range for rank {rank}")
    if new_axis:
        shape.insert(axis % rank, None)
    else:
        shape[axis % rank] = None
    return _result(c, "ConcatFromSequence", held, tuple(shape), axis=axis % rank, new_axis=int(new_axis))


def split_on_data(c: Context, x: Value, split: Value | None, axis: int, attrs: Mapping[str, Any]) -> Listed:
    keep = int(split is not None or bool(attrs.get("keepdims", 1)))
    made = c.emit("SplitToSequence", x, *([] if split is None else [split]), axis=axis, keepdims=keep)
    shape: list[DimLike | None] = list(x.type.shape)
    shape[axis] = 1 if split is None else None
    if not keep:
        del shape[axis]
    return Listed(made, x.type.dtype, tuple(shape))
