"""Smaller tensors for a failing model: a size is replaced everywhere at once, and data is cropped to it.

Which axes belong together is not derived: the check tells whether the smaller model is still the same failure.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from temper.debug.extract import Case

#: Attributes that repeat a size of a tensor.
_SIZED = frozenset({"group", "num_groups", "hidden_size", "num_heads", "split", "split_size"})

#: Integer vectors up to this length may state shapes.
_SHAPE_LIKE = 64


def sizes_of(case: Case) -> list[int]:
    """Sizes above 1 of the axes of inputs and weights, largest first."""
    shapes = [a.shape for a in case.feeds.values()] + [tuple(t.dims) for t in case.model.graph.initializer]
    return sorted({n for s in shapes for n in s if n > 1}, reverse=True)


def with_size(case: Case, size: int, smaller: int) -> Case | None:
    """The model with every axis of `size` elements cropped to `smaller`; None if nothing changes."""
    import onnx

    model = onnx.ModelProto()
    model.CopyFrom(case.model)
    changed = False
    for i, t in enumerate(model.graph.initializer):
        array = onnx.numpy_helper.to_array(t)
        new = _states(array, size, smaller) if _shape_like(array) else _crop(array, size, smaller)
        if new is not array:
            changed = True
            model.graph.initializer[i].CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(new), t.name))
    feeds = {}
    for name, array in case.feeds.items():
        feeds[name] = _crop(array, size, smaller)
        changed = changed or feeds[name] is not array
    for v in model.graph.input:
        for d in v.type.tensor_type.shape.dim:
            if d.dim_value == size:
                d.dim_value = smaller
    for v in model.graph.output:
        for d in v.type.tensor_type.shape.dim:  # the rank stays, the sizes follow from the rest
            d.Clear()
    for node in model.graph.node:
        changed = _attributes(node, size, smaller) or changed
    return Case(model, feeds) if changed else None


def _shape_like(array: np.ndarray) -> bool:
    return array.dtype.kind in "iu" and array.ndim <= 1 and array.size <= _SHAPE_LIKE


def _crop(array: np.ndarray, size: int, smaller: int) -> np.ndarray:
    if size not in array.shape:
        return array
    return array[tuple(slice(0, smaller) if n == size else slice(None) for n in array.shape)]


def _states(array: np.ndarray, size: int, smaller: int) -> np.ndarray:
    return np.where(array == size, smaller, array).astype(array.dtype) if bool((array == size).any()) else array


def _attributes(node: Any, size: int, smaller: int) -> bool:
    import onnx

    changed = False
    for a in node.attribute:
        if a.name in _SIZED and a.type == onnx.AttributeProto.INT and a.i == size:
            a.i, changed = smaller, True
        elif a.name in _SIZED and size in a.ints:
            a.ints[:] = [smaller if n == size else n for n in a.ints]
            changed = True
        elif node.op_type == "Constant" and a.name == "value":
            array = onnx.numpy_helper.to_array(a.t)
            new = _states(array, size, smaller) if _shape_like(array) else _crop(array, size, smaller)
            if new is not array:
                a.t.CopyFrom(onnx.numpy_helper.from_array(np.ascontiguousarray(new), a.t.name))
                changed = True
    return changed
