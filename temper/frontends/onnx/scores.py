"""What ai.onnx.ml's classifiers and regressors do with raw scores: transforms, and the label of the best class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from temper.errors import ModelError
from temper.frontends.onnx.context import Context, Refusal
from temper.ir.graph import Value


def transformed(c: Context, y: Value, post: str) -> Value:
    """post_transform of scores [N, E]. SOFTMAX_ZERO leaves scores of 0 out of the softmax."""
    if post == "NONE":
        return y
    if post == "LOGISTIC":
        return c.emit("Sigmoid", y)
    if post == "SOFTMAX":
        return c.emit("Softmax", y, axis=1)
    if post == "SOFTMAX_ZERO":
        zero = c.like(0.0, y)
        nothing = c.emit("Equal", y, zero)
        weight = c.emit("Softmax", c.emit("Where", nothing, c.like(-np.inf, y), y), axis=1)
        return c.emit("Where", nothing, zero, weight)
    if post == "PROBIT":
        raise Refusal("post_transform PROBIT is not supported")
    raise ModelError(f"{c}: post_transform {post!r} does not exist")


def classified(
    c: Context, y: Value, labels: Sequence[str] | Sequence[int], post: str, middle: float | None = None
) -> list[Value]:
    """[label of the best class, transformed scores] from scores [N, E]; float32.

    middle: of two classes the second is best where its score, the last, is above that. One score for two labels is that
    of the second one: LOGISTIC makes it p and the other 1 - p; else the other is 1 - score where the middle is 0.5, and
    -score where it is 0.
    """
    if y.type.dtype != "float32":
        y = c.emit("Cast", y, to="float32")
    if isinstance(labels[0], str):
        names = np.empty(len(labels), object)
        names[:] = list(labels)
    else:
        names = np.array(labels, np.int64)
    one = y.type.shape[1] == 1 and len(labels) == 2
    if one and middle is None:
        middle = 0.0
    if not one and y.type.shape[1] != len(labels):
        raise ModelError(f"{c}: {y.type.shape[1]} scores for {len(labels)} classes")
    if middle is not None:
        last = y if one else c.emit("Gather", y, c.constant(np.array([1])), axis=1)
        best = c.emit("Cast", c.reshape(c.emit("Greater", last, c.like(middle, y)), (y.type.shape[0],)), to="int64")
    else:
        best = c.emit("ArgMax", y, axis=1, keepdims=0)
    if one:
        if post == "LOGISTIC":
            scores = c.emit("Sigmoid", c.emit("Concat", c.emit("Neg", y), y, axis=1))
        else:
            other = c.emit("Sub", c.like(1.0, y), y) if middle else c.emit("Neg", y)
            scores = transformed(c, c.emit("Concat", other, y, axis=1), post)
    else:
        scores = transformed(c, y, post)
    return [c.emit("Gather", c.constant(names), best, axis=0), scores]
