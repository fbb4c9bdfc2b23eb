"""References of ops on sequences whose length depends on data. A sequence is a tuple of arrays."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from temper.reference.numeric import Attrs, ReferenceFn

#: names of the ops: their tensors are kept as they are, whatever their format
SEQUENCE_OPS = frozenset(
    {
        "SequenceConstruct",
        "SequenceInsert",
        "SequenceErase",
        "SequenceAt",
        "SequenceLength",
        "SplitToSequence",
        "ConcatFromSequence",
    }
)


def _position(arrays: Sequence[Any], i: int, length: int, default: int) -> int:
    """Operand i as an index, counted from the end where it is negative. IndexError if it is out of range."""
    at = int(np.reshape(arrays[i], ())) if len(arrays) > i and arrays[i] is not None else default
    if not -length <= at <= length:
        raise IndexError(f"position {at} is out of range for a sequence of {length}")
    return at + length if at < 0 else at


def _construct(arrays: Sequence[Any], attrs: Attrs) -> list[Any]:
    return [tuple(np.array(a) for a in arrays)]


def _insert(arrays: Sequence[Any], attrs: Attrs) -> list[Any]:
    items = arrays[0]
    at = _position(arrays, 2, len(items), len(items))
    return [(*items[:at], np.array(arrays[1]), *items[at:])]


def _element(arrays: Sequence[Any], default: int) -> int:
    n = len(arrays[0])
    at = _position(arrays, 1, n, default)
    if at >= n:
        raise IndexError(f"position {at} is out of range for a sequence of {n}")
    return at


def _erase(arrays: Sequence[Any], attrs: Attrs) -> list[Any]:
    at = _element(arrays, len(arrays[0]) - 1)
    return [(*arrays[0][:at], *arrays[0][at + 1 :])]


def _at(arrays: Sequence[Any], attrs: Attrs) -> list[Any]:
    return [arrays[0][_element(arrays, 0)].copy()]


def _length(arrays: Sequence[Any], attrs: Attrs) -> list[Any]:
    return [np.array(len(arrays[0]), np.int64)]


def _split(arrays: Sequence[Any], attrs: Attrs) -> list[Any]:
    """Parts of a size each (the last one may be smaller) if `split` is a scalar, of the sizes it lists otherwise."""
    x, axis = arrays[0], attrs["axis"]
    size = x.shape[axis]
    given = arrays[1] if len(arrays) > 1 else None
    if given is None or given.ndim == 0:
        chunk = 1 if given is None else int(given)
        if chunk < 1:
            raise ValueError(f"parts of {chunk} elements")
        parts = [min(chunk, size - k) for k in range(0, size, chunk)]
    else:
        parts = [int(p) for p in given]
    if sum(parts) != size or min(parts, default=0) < 0:
        raise ValueError(f"parts {parts} of an axis of {size}")
    pieces = np.split(x, np.cumsum(parts)[:-1].tolist(), axis) if parts else []
    if given is None and not attrs.get("keepdims", 1):
        pieces = [p.squeeze(axis) for p in pieces]
    return [tuple(p.copy() for p in pieces)]


def _concat(arrays: Sequence[Any], attrs: Attrs) -> list[Any]:
    if not arrays[0]:
        raise ValueError("the sequence is empty")
    return [(np.stack if attrs.get("new_axis", 0) else np.concatenate)(arrays[0], axis=attrs["axis"])]


REFERENCES: Mapping[str, ReferenceFn] = MappingProxyType(
    {
        "SequenceConstruct": _construct,
        "SequenceInsert": _insert,
        "SequenceErase": _erase,
        "SequenceAt": _at,
        "SequenceLength": _length,
        "SplitToSequence": _split,
        "ConcatFromSequence": _concat,
    }
)
