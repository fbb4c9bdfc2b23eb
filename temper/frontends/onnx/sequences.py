"""Sequences and optionals of ONNX whose length is known while importing: lists of values, values or nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

import numpy as np

from temper.errors import ShapeError
from temper.frontends.onnx.context import Refusal, unknown
from temper.frontends.onnx.held import Held, Items, Listed, Nothing, Site
from temper.frontends.onnx.lists import as_listed, element, inserted, joined, split_on_data
from temper.frontends.onnx.tensors import dtype_of
from temper.ir.dims import Dim
from temper.ir.graph import Value

_FAR = 2**63 - 1


def _position(s: Site, i: int, length: int, past: int) -> int:
    """Operand i as an index into a sequence; `past`: 1 where the end is legal too."""
    at = s.number(s.value(i), "the position")
    if not -length <= at < length + past:
        raise ShapeError(f"{s.c}: position {at} is out of range for a sequence of {length}")
    return at + length if at < 0 else at


def _construct(s: Site) -> list[Held]:
    values = tuple(s.value(i) for i in range(len(s.inputs)))
    return [Items(values, values[0].type.dtype)]


def _empty(s: Site) -> list[Held]:
    return [Items((), dtype_of(s.attrs.get("dtype", 1), f"{s.c}: attribute 'dtype'"))]


def _on_data(s: Site, position: int) -> bool:
    """The sequence's length, or the position in it, depends on data."""
    if s.listed(0):
        return True
    known = s.c.known(s.value(position)) if s.has(position) else np.zeros(())
    return s.c.dynamic and (known is None or known.dtype == object)


def _at(s: Site) -> list[Held]:
    if _on_data(s, 1):
        return [element(s.c, as_listed(s.c, s.inputs[0]), s.value(1))]
    items = s.items(0)
    return [items.values[_position(s, 1, len(items.values), 0)]]


def _insert(s: Site) -> list[Held]:
    if _on_data(s, 2):
        return [inserted(s.c, as_listed(s.c, s.inputs[0]), s.value(1), s.value(2) if s.has(2) else None)]
    items, v = s.items(0), s.value(1)
    at = _position(s, 2, len(items.values), 1) if s.has(2) else len(items.values)
    return [Items((*items.values[:at], v, *items.values[at:]), v.type.dtype)]


def _erase(s: Site) -> list[Held]:
    if _on_data(s, 1):
        held = as_listed(s.c, s.inputs[0])
        made = s.c.emit("SequenceErase", held.value, *([s.value(1)] if s.has(1) else []))
        return [Listed(made, held.dtype, held.shape)]
    items = s.items(0)
    at = _position(s, 1, len(items.values), 0) if s.has(1) else len(items.values) - 1
    if at < 0:
        raise ShapeError(f"{s.c}: the sequence is empty")
    return [Items(items.values[:at] + items.values[at + 1 :], items.dtype)]


def _length(s: Site) -> list[Held]:
    held = s.inputs[0]
    if isinstance(held, Listed):
        return [s.c.emit("SequenceLength", held.value)]
    return [s.c.constant(np.array(len(s.items(0).values), np.int64))]


def part_of(s: Site, x: Value, axis: int, start: int, end: int) -> Value:
    if (start, end) == (0, x.type.shape[axis]):
        return x
    return s.c.emit("Slice", x, starts=(start,), ends=(end,), axes=(axis,), steps=(1,))


def without_axis(s: Site, x: Value, axis: int) -> Value:
    return s.c.reshape(x, (*x.type.shape[:axis], *x.type.shape[axis + 1 :]))


def axis_of(s: Site, axis: int, rank: int) -> int:
    if not -rank <= axis < rank:
        raise ShapeError(f"{s.c}: axis {axis} is out of range for rank {rank}")
    return axis % rank


def static_size(s: Site, x: Value, axis: int) -> int:
    size = x.type.shape[axis]
    if isinstance(size, Dim):
        raise Refusal(f"the length {size} of axis {axis} of '{x.name}' is symbolic; fix it with shapes= or dims=")
    return size


def _split(s: Site) -> list[Held]:
    x = s.value(0)
    axis = axis_of(s, s.attrs.get("axis", 0), x.type.rank)
    if s.c.dynamic and isinstance(x.type.shape[axis], Dim):
        return [split_on_data(s.c, x, s.value(1) if s.has(1) else None, axis, s.attrs)]
    size = static_size(s, x, axis)
    if not s.has(1):
        parts = [1] * size
    else:
        split = s.c.known(s.value(1))
        if s.c.dynamic and (split is None or split.dtype == object):
            return [split_on_data(s.c, x, s.value(1), axis, s.attrs)]
        if split is None or split.dtype == object:
            raise unknown(f"the split ('{s.value(1).name}') is computed from the data", s.value(1))
        chunk = int(split.reshape(-1)[0]) if split.size else 0
        if split.ndim == 0 and chunk < 1:
            raise ShapeError(f"{s.c}: parts of {chunk} elements")
        parts = [min(chunk, size - k) for k in range(0, size, chunk)] if split.ndim == 0 else split.tolist()
    if sum(parts) != size:
        raise ShapeError(f"{s.c}: parts {parts} of an axis of {size}")
    ends = np.cumsum(parts).tolist()
    values = [part_of(s, x, axis, e - p, e) for p, e in zip(parts, ends, strict=True)]
    if not s.has(1) and not s.attrs.get("keepdims", 1):
        values = [without_axis(s, v, axis) for v in values]
    return [Items(tuple(values), x.type.dtype)]


def stack_of(s: Site, values: Sequence[Value], axis: int) -> Value:
    """Values joined along a new axis."""
    rank = values[0].type.rank + 1
    axis = axis_of(s, axis, rank)
    shaped = [s.c.reshape(v, (*v.type.shape[:axis], 1, *v.type.shape[axis:])) for v in values]
    return s.c.emit("Concat", *shaped, axis=axis) if len(shaped) > 1 else shaped[0]


def _concat(s: Site) -> list[Held]:
    held = s.inputs[0]
    if isinstance(held, Listed):
        return [joined(s.c, held, s.attrs["axis"], bool(s.attrs.get("new_axis", 0)))]
    values, axis = s.items(0).values, s.attrs["axis"]
    if not values:
        raise ShapeError(f"{s.c}: the sequence is empty")
    if s.attrs.get("new_axis", 0):
        return [stack_of(s, values, axis)]
    axis = axis_of(s, axis, values[0].type.rank)
    return [s.c.emit("Concat", *values, axis=axis) if len(values) > 1 else values[0]]


def _optional(s: Site) -> list[Held]:
    return [s.inputs[0] if s.has(0) else Nothing()]


def _get_element(s: Site) -> list[Held]:
    if isinstance(s.inputs[0], Nothing):
        raise ShapeError(f"{s.c}: the optional is empty")
    return [s.inputs[0]]


def _has_element(s: Site) -> list[Held]:
    return [s.c.constant(np.array(s.has(0) and not isinstance(s.inputs[0], Nothing)))]


def identity(s: Site) -> list[Held]:
    return [s.inputs[0]]


#: What resolves a node of the default domain.
SEQUENCES: Mapping[str, Callable[[Site], list[Held]]] = MappingProxyType(
    {
        "SequenceConstruct": _construct,
        "SequenceEmpty": _empty,
        "SequenceAt": _at,
        "SequenceInsert": _insert,
        "SequenceErase": _erase,
        "SequenceLength": _length,
        "SplitToSequence": _split,
        "ConcatFromSequence": _concat,
        "Optional": _optional,
        "OptionalGetElement": _get_element,
        "OptionalHasElement": _has_element,
    }
)
