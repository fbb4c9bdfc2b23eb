"""ai.onnx.ml's feature operators and linear models, as tensor ops: what exporters of scikit-learn write."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from temper.errors import ModelError
from temper.frontends.onnx.context import Context, Refusal, Row
from temper.frontends.onnx.scores import classified, transformed
from temper.frontends.onnx.table_strings import objects
from temper.ir.graph import Value

_DOMAIN = "ai.onnx.ml"


def _float(c: Context, x: Value) -> Value:
    return x if x.type.dtype == "float32" else c.emit("Cast", x, to="float32")


def _rows(c: Context, x: Value) -> Value:
    """[N, C]; a vector is one row."""
    if x.type.rank == 1:
        return c.reshape(x, (1, *x.type.shape))
    if x.type.rank != 2:
        raise Refusal(f"the data must have rank 1 or 2, not {x.type}")
    return x


def _extract(c: Context) -> Value:
    x, index = c.input(0), c.input(1)
    y = c.emit("Gather", x, c.reshape(index, (index.type.count,)), axis=-1)
    return c.reshape(y, (1, index.type.count)) if x.type.rank == 1 else y


def _binarizer(c: Context) -> Value:
    x = c.input(0)
    return c.emit("Cast", c.emit("Greater", x, c.like(c.attr("threshold", 0.0), x)), to=x.type.dtype)


def _normalizer(c: Context) -> Value:
    """Rows divided by their norm; a row whose norm is 0 stays as it is."""
    x, norm = _float(c, c.input(0)), c.attr("norm", "MAX")
    axis = {"axes": (x.type.rank - 1,), "keepdims": 1}
    if norm == "MAX":
        size = c.emit("ReduceMax", x, **axis)
    elif norm == "L1":
        size = c.emit("ReduceSum", c.emit("Abs", x), **axis)
    elif norm == "L2":
        size = c.emit("Sqrt", c.emit("ReduceSum", c.emit("Mul", x, x), **axis))
    else:
        raise ModelError(f"{c}: norm must be MAX, L1 or L2, not {norm!r}")
    return c.emit("Div", x, c.emit("Where", c.emit("Equal", size, c.like(0.0, size)), c.like(1.0, size), size))


def _scaler(c: Context) -> Value:
    x = _float(c, c.input(0))
    for op, name, neutral in (("Sub", "offset", 0.0), ("Mul", "scale", 1.0)):
        values = np.array(c.attr(name) or (neutral,), np.float32)
        if values.size not in (1, x.type.shape[-1]):
            raise ModelError(f"{c}: {name} has {values.size} elements for {x.type.shape[-1]} features")
        if (values != neutral).any():
            x = c.emit(op, x, c.constant(values))
    return x


def _imputer(c: Context) -> Value:
    x = c.input(0)
    whole = x.type.dtype in ("int32", "int64")
    values: Any = c.attr("imputed_value_int64s" if whole else "imputed_value_floats")
    replaced = c.attr("replaced_value_int64" if whole else "replaced_value_float", 0)
    if not values or len(values) not in (1, x.type.shape[-1]):
        raise ModelError(f"{c}: {len(values or ())} imputed values for {x.type.shape[-1]} features")
    gone = c.emit("IsNaN", x) if math.isnan(replaced) else c.emit("Equal", x, c.like(replaced, x))
    return c.emit("Where", gone, c.constant(np.array(values, x.type.dtype)), x)


def _one_hot(c: Context) -> Value:
    x, texts = c.input(0), c.attr("cats_strings")
    numbers = c.attr("cats_int64s")
    if (texts is None) == (numbers is None) or (texts is not None) != (x.type.dtype == "string"):
        raise ModelError(f"{c}: give categories of the data's kind: cats_strings or cats_int64s")
    if not c.attr("zeros", 1):
        raise Refusal("zeros=0 (an unknown category is an error) is not supported; export with zeros=1")
    if texts is None and x.type.dtype != "int64":
        x = c.emit("Cast", x, to="int64")
    cats = c.constant(objects(texts) if texts is not None else np.array(numbers, np.int64))
    wide = c.reshape(x, (*x.type.shape, 1))
    return c.emit("Cast", c.emit("Equal", wide, cats), to="float32")


def _concatenated(c: Context) -> Value:
    parts = [_float(c, _rows(c, c.input(i))) for i in range(len(c.inputs))]
    return parts[0] if len(parts) == 1 else c.emit("Concat", *parts, axis=1)


def _linear(c: Context, outputs: int) -> Value:
    """X coefficients' + intercepts, [N, outputs]."""
    x = _float(c, _rows(c, c.input(0)))
    given = np.array(c.attr("coefficients") or (), np.float32)
    if not outputs or not isinstance(x.type.shape[1], int) or given.size != outputs * x.type.shape[1]:
        raise ModelError(f"{c}: {given.size} coefficients for {x.type.shape[1]} features and {outputs} results")
    y = c.emit("MatMul", x, c.constant(np.ascontiguousarray(given.reshape(outputs, -1).T)))
    bias = np.array(c.attr("intercepts") or (), np.float32)
    if bias.size not in (0, outputs):
        raise ModelError(f"{c}: {bias.size} intercepts for {outputs} results")
    return c.emit("Add", y, c.constant(bias)) if bias.any() else y


def _regressor(c: Context) -> Value:
    return transformed(c, _linear(c, c.attr("targets", 1)), c.attr("post_transform", "NONE"))


def _classifier(c: Context) -> list[Value]:
    labels = c.attr("classlabels_strings") or c.attr("classlabels_ints")
    width = _rows(c, c.input(0)).type.shape[1]
    rows = len(c.attr("coefficients") or ()) // width if isinstance(width, int) and width else 0
    if not labels:
        raise ModelError(f"{c}: there are no class labels")
    return classified(c, _linear(c, rows), labels, c.attr("post_transform", "NONE"))


def _kernel(c: Context, x: Value, vectors: np.ndarray) -> Value:
    """k(x, v) for every row and support vector. Kernels: x.v; (gamma x.v + coef0)^degree; exp(-gamma |x - v|^2);
    tanh(gamma x.v + coef0)."""
    gamma, offset, degree = (*(c.attr("kernel_params") or ()), 0.0, 0.0, 0.0)[:3]
    kind = c.attr("kernel_type", "LINEAR")
    products = c.emit("MatMul", x, c.constant(np.ascontiguousarray(vectors.T)))
    if kind == "LINEAR":
        return products
    if kind == "RBF":
        own = c.emit("ReduceSum", c.emit("Mul", x, x), axes=(1,), keepdims=1)
        theirs = c.constant((vectors.astype(np.float64) ** 2).sum(axis=1).astype(np.float32))
        distance = c.emit("Sub", c.emit("Add", own, theirs), c.emit("Mul", products, c.like(2.0, x)))
        return c.emit("Exp", c.emit("Mul", c.emit("Max", distance, c.like(0.0, x)), c.like(-gamma, x)))
    inner = c.emit("Add", c.emit("Mul", products, c.like(gamma, x)), c.like(offset, x))
    if kind == "POLY":
        return c.emit("Pow", inner, c.like(degree, x))
    if kind == "SIGMOID":
        return c.emit("Tanh", inner)
    raise ModelError(f"{c}: kernel_type {kind!r} does not exist")


def _support_vector_regressor(c: Context) -> Value:
    x, count = _float(c, _rows(c, c.input(0))), c.attr("n_supports", 0)
    weights = np.array(c.attr("coefficients") or (), np.float32)
    if count:
        vectors = np.array(c.attr("support_vectors") or (), np.float32)
        if vectors.size % count or weights.size != count:
            raise ModelError(f"{c}: {vectors.size} numbers and {weights.size} coefficients for {count} support vectors")
        x = _kernel(c, x, vectors.reshape(count, -1))
    elif weights.size != x.type.shape[1]:
        raise ModelError(f"{c}: {weights.size} coefficients for {x.type.shape[1]} features")
    bias = np.array((c.attr("rho") or (0.0,))[:1], np.float32)
    y = c.emit("Add", c.emit("MatMul", x, c.constant(weights.reshape(-1, 1))), c.constant(bias))
    if c.attr("one_class", 0):
        y = c.emit("Where", c.emit("Greater", y, c.like(0.0, y)), c.like(1.0, y), c.like(-1.0, y))
    return transformed(c, y, c.attr("post_transform", "NONE"))


def _support_vector_classifier(c: Context) -> list[Value]:
    """A decision for every pair of classes i < j: the sum over their support vectors of weight times kernel, plus rho.
    A positive one is a vote for i; the class with most votes wins, the first of several. The scores are the decisions;
    for two classes -d and d, as ONNX Runtime has it."""
    x, sizes = _float(c, _rows(c, c.input(0))), c.attr("vectors_per_class")
    labels = c.attr("classlabels_strings") or c.attr("classlabels_ints")
    if c.attr("prob_a") or not sizes:
        raise Refusal(
            "probabilities are not supported; export with probability=False"
            if sizes
            else "it is supported with support vectors only; export a linear model as LinearClassifier"
        )
    count, classes, post = sum(sizes), len(sizes), c.attr("post_transform", "NONE")
    weights = np.array(c.attr("coefficients") or (), np.float32)
    vectors = np.array(c.attr("support_vectors") or (), np.float32)
    bias = np.array(c.attr("rho") or (), np.float32)
    pairs = [(i, j) for i in range(classes) for j in range(i + 1, classes)]
    if not labels or len(labels) != classes or classes < 2 or not count or vectors.size % count:
        raise ModelError(f"{c}: {vectors.size} numbers of {count} support vectors for {classes} classes")
    if weights.size != (classes - 1) * count or bias.size != len(pairs):
        raise ModelError(f"{c}: {weights.size} coefficients and {bias.size} biases for {classes} classes")
    if classes == 2 and post not in ("NONE", "LOGISTIC"):
        raise Refusal(f"post_transform {post} of two classes is not supported")
    rows, first = weights.reshape(classes - 1, count), np.cumsum([0, *sizes])
    spread = np.zeros((count, len(pairs)), np.float32)
    votes, given = np.zeros((len(pairs), classes), np.float32), np.zeros(classes, np.float32)
    for p, (i, j) in enumerate(pairs):
        spread[first[i] : first[i + 1], p] = rows[j - 1, first[i] : first[i + 1]]
        spread[first[j] : first[j + 1], p] = rows[i, first[j] : first[j + 1]]
        votes[p, [i, j]] = 1, -1
        given[j] += 1
    kernel = _kernel(c, x, vectors.reshape(count, -1))
    decisions = c.emit("Add", c.emit("MatMul", kernel, c.constant(spread)), c.constant(bias))
    won = c.emit("Cast", c.emit("Greater", decisions, c.like(0.0, decisions)), to="float32")
    total = c.emit("Add", c.emit("MatMul", won, c.constant(votes)), c.constant(given))
    best = c.emit("ArgMax", total, axis=1, keepdims=0)
    names = objects(labels) if isinstance(labels[0], str) else np.array(labels, np.int64)
    if classes == 2:
        decisions = c.emit("Concat", c.emit("Neg", decisions), decisions, axis=1)
    return [c.emit("Gather", c.constant(names), best, axis=0), transformed(c, decisions, post)]


ROWS: tuple[Row, ...] = (
    Row("ArrayFeatureExtractor", _extract, domain=_DOMAIN),
    Row("Binarizer", _binarizer, domain=_DOMAIN),
    Row("Normalizer", _normalizer, domain=_DOMAIN),
    Row("Scaler", _scaler, domain=_DOMAIN),
    Row("Imputer", _imputer, domain=_DOMAIN),
    Row("OneHotEncoder", _one_hot, domain=_DOMAIN),
    Row("FeatureVectorizer", _concatenated, domain=_DOMAIN),
    Row("LinearRegressor", _regressor, domain=_DOMAIN),
    Row("LinearClassifier", _classifier, domain=_DOMAIN),
    Row("SVMClassifier", _support_vector_classifier, domain=_DOMAIN),
    Row("SVMRegressor", _support_vector_regressor, domain=_DOMAIN),
)
