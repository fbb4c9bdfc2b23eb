"""What a model's outputs mean: along which axis an answer is chosen from classes, and which parts are plain values.

Read off the float graph: the axis of a Softmax, or of the features of the product that an output comes from, followed
through ops that only move or scale it; an output that a Concat joins is examined part by part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from temper.ir.graph import Graph, Node, Value

#: Largest deviation from 1 of the sum of probabilities; float32 sums of some thousand terms stay far below.
_SUM = 1e-3


@dataclass(frozen=True)
class Head:
    """Elements [start, stop) of output number `output` along `axis` (all of it where axis is -1).

    kind: "classes" (the answer is the largest along `classes`), "yes or no" (a sigmoid: the answer is the side of one
    half) or "values". classes: the axis of the output that classes lie along, -1 if none.
    """

    output: int
    name: str
    kind: str
    classes: int = -1
    axis: int = -1
    start: int = 0
    stop: int = 0

    def of(self, output: np.ndarray) -> np.ndarray:
        """This head's part of the whole output."""
        return output if self.axis < 0 else output.take(np.arange(self.start, self.stop), axis=self.axis)


def heads(graph: Graph) -> tuple[Head, ...]:
    """Heads of all outputs of floats, in order; outputs of other types (indices, strings) have none."""
    found: list[Head] = []
    for number, (value, name) in enumerate(zip(graph.outputs, graph.output_names, strict=True)):
        if value.type.dtype in ("float32", "float64", "float16", "bfloat16"):
            whole = Head(number, name, "values")
            found += _heads(value, tuple(range(value.type.rank)), whole)
    return tuple(found)


#: Ops that work on each element; those of several operands pass on the one of the result's shape.
_POINTWISE = frozenset(
    "Add Sub Mul Div Exp Log Identity Cast Relu LeakyRelu Clip HardSwish Dropout PRelu Neg Sqrt Max Min".split()
)
_PRODUCTS = frozenset({"Conv", "MatMul", "ConvTranspose", "Attention", "ConvInt8", "MatMulInt8"})


def _heads(value: Value, axes: tuple[int, ...], head: Head) -> list[Head]:
    """Heads of what reaches the output as `value`. axes: the output's axis of every axis of `value`, -1 if it has
    none."""
    node = value.producer
    if node is None:
        return [head]
    if node.op in ("Softmax", "LogSoftmax"):
        return [_classes(head, value, axes, node.attrs["axis"])]
    if node.op == "Sigmoid":
        return [replace(head, kind="yes or no")]
    if node.op in _PRODUCTS:
        first = node.op.startswith("Conv") and not node.attrs.get("channels_last", node.op == "ConvInt8")
        return [_classes(head, value, axes, 1 if first else value.type.rank - 1)]
    if node.op == "Concat":
        return _parts(node, axes, head)
    back = _back(node, value, axes)
    return [head] if back is None else _heads(*back, head)


def _classes(head: Head, value: Value, axes: tuple[int, ...], axis: object) -> Head:
    if not isinstance(axis, int) or axes[axis] < 0 or value.type.shape[axis] == 1:
        return head
    return replace(head, kind="classes", classes=axes[axis])


def _parts(node: Node, axes: tuple[int, ...], head: Head) -> list[Head]:
    axis = node.attrs["axis"]
    sizes = [v.type.shape[axis] for v in node.inputs if v is not None] if isinstance(axis, int) else []
    if head.axis >= 0 or not isinstance(axis, int) or axes[axis] < 0 or not all(isinstance(s, int) for s in sizes):
        return [head]
    found: list[Head] = []
    start = 0
    for v, s in zip(node.inputs, sizes, strict=True):
        assert v is not None and isinstance(s, int)
        part = replace(head, axis=axes[axis], start=start, stop=start + s)
        found += _heads(v, axes, part)
        start += s
    explicit = [_activated(v) for v in node.inputs]
    # beside parts that are activated as answers, those that are not are coordinates and the like
    return [
        h if e or not any(explicit) else replace(h, kind="values", classes=-1)
        for h, e in zip(found, explicit, strict=True)
    ]


def _activated(v: Value | None) -> bool:
    return v is not None and v.producer is not None and v.producer.op in ("Softmax", "LogSoftmax", "Sigmoid")


def _back(node: Node, value: Value, axes: tuple[int, ...]) -> tuple[Value, tuple[int, ...]] | None:
    """The operand that `value` is made of element by element, and the output's axes of its own; None if there is
    none."""
    x = node.inputs[0] if node.inputs else None
    if x is None:
        return None
    if node.op == "Transpose":
        perm: Sequence[int] = node.attrs["perm"]  # type: ignore[assignment]
        own = [-1] * len(perm)
        for place, source in enumerate(perm):
            own[source] = axes[place]
        return x, tuple(own)
    if node.op in ("Reshape", "Squeeze", "Unsqueeze", "Flatten"):
        return x, _renamed(x, value, axes)
    if node.op.startswith("Reduce") or node.op in ("AveragePool", "MaxPool"):
        reduced = node.attrs.get("axes", ())
        if x.type.rank == value.type.rank:
            return x, axes
        kept = [i for i in range(x.type.rank) if isinstance(reduced, tuple) and i not in reduced]
        if len(kept) != value.type.rank:
            return None
        own = [-1] * x.type.rank
        for place, source in enumerate(kept):
            own[source] = axes[place]
        return x, tuple(own)
    if node.op in _POINTWISE:
        same = [u for u in node.inputs if u is not None and u.const is None and u.type.shape == value.type.shape]
        return (same[0], axes) if same else None
    return None


def _renamed(x: Value, value: Value, axes: tuple[int, ...]) -> tuple[int, ...]:
    """Axes of a reshaped tensor: those with the same size, and the same number of elements after them, are the same."""

    def places(v: Value) -> dict[int, tuple[object, object]]:
        after: object = 1
        found: dict[int, tuple[object, object]] = {}
        for i in range(v.type.rank - 1, -1, -1):
            d = v.type.shape[i]
            if d != 1:
                found[i] = (d, after)
                after = d * after  # type: ignore[operator]
        return found

    targets = {size: i for i, size in places(value).items()}
    own = places(x)
    return tuple(axes[targets[own[i]]] if i in own and own[i] in targets else -1 for i in range(x.type.rank))


def are_probabilities(classes_last: np.ndarray) -> bool:
    """Along the last axis are shares of one."""
    return bool((classes_last >= 0).all() and np.abs(classes_last.sum(axis=-1) - 1).max(initial=0.0) < _SUM)


def logarithms(classes_last: np.ndarray) -> np.ndarray:
    """float64 log-probabilities of what is given along the last axis: probabilities, their logarithms, or logits."""
    x = classes_last.astype(np.float64)
    if are_probabilities(x):
        # what float32 rounds to zero lies below its least number
        return np.asarray(np.log(np.maximum(x, float(np.finfo(np.float32).tiny))))
    top = x.max(axis=-1, keepdims=True)
    result: np.ndarray = x - top - np.log(np.exp(x - top).sum(axis=-1, keepdims=True))
    return result
