"""ONNX ops on strings, and ops that look things up: host steps, but for small tables of integers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from temper.errors import ModelError, ShapeError
from temper.frontends.onnx.context import Context, Refusal, Row, same
from temper.frontends.onnx.table_values import filled
from temper.ir.graph import Value

#: positions times n-grams up to which every pair is compared by kernels; a host step looks up the others
_FEW = 1 << 14


#: keys of a LabelEncoder up to which every pair is compared by kernels
_FEW_KEYS = 64


def objects(values: Sequence[str]) -> np.ndarray:
    """A vector of strings."""
    out = np.empty(len(values), object)
    out[:] = list(values)
    return out


def _normalizer(c: Context) -> Value:
    x = c.input(0)
    attrs = {
        "case_change_action": c.attr("case_change_action", "NONE"),
        "is_case_sensitive": c.attr("is_case_sensitive", 0),
        "stopwords": tuple(c.attr("stopwords", ())),
    }
    if attrs["case_change_action"] not in ("LOWER", "UPPER", "NONE"):
        raise ModelError(f"{c}: case_change_action must be LOWER, UPPER or NONE")
    if x.type.rank and not attrs["stopwords"] and x.type.shape[-1] != 0:
        return c.emit("StringNormalizer", x, **attrs, count=x.type.shape[-1])
    return c.counted("StringNormalizer", [x], attrs)[0]


def _split(c: Context) -> list[Value]:
    most = c.attr("maxsplit")
    attrs = {"delimiter": c.attr("delimiter", ""), "maxsplit": -1 if most is None else most}
    return c.counted("StringSplit", [c.input(0)], attrs)


def _tf_idf(c: Context) -> Value:
    texts, numbers = c.attr("pool_strings"), c.attr("pool_int64s")
    if (texts is None) == (numbers is None):
        raise ModelError(f"{c}: exactly one of pool_strings and pool_int64s must be given")
    x = c.input(0)
    if (texts is not None) != (x.type.dtype == "string"):
        raise ShapeError(f"{c}: the data is {x.type.dtype}, the pool holds {'strings' if texts else 'integers'}")
    pool = objects(texts) if texts is not None else np.array(numbers, x.type.dtype)
    starts, columns = tuple(c.attr("ngram_counts")), c.attr("ngram_indexes")
    ends = (*starts, pool.size)
    sizes = [b - a for a, b in zip(ends, ends[1:], strict=False)]
    if starts[:1] != (0,) or any(s < 0 or s % n for n, s in enumerate(sizes, 1)):
        raise ModelError(f"{c}: ngram_counts {list(starts)} do not divide a pool of {pool.size} into n-grams")
    if sum(s // n for n, s in enumerate(sizes, 1)) != len(columns) or min(columns, default=0) < 0:
        raise ModelError(f"{c}: ngram_indexes must name a column for every n-gram")
    least, most = c.attr("min_gram_length"), c.attr("max_gram_length")
    if not 1 <= least <= most or c.attr("max_skip_count") < 0 or c.attr("mode") not in ("TF", "IDF", "TFIDF"):
        raise ModelError(f"{c}: lengths {least} to {most} of n-grams, or the mode {c.attr('mode')!r}, are illegal")
    weights = c.attr("weights")
    if weights is not None and len(weights) != len(columns):
        raise ModelError(f"{c}: there are {len(weights)} weights for {len(columns)} n-grams")
    length = x.type.shape[-1] if x.type.rank in (1, 2) else None
    if texts is None and isinstance(length, int) and length * len(columns) <= _FEW:
        into = np.zeros((len(columns), max(columns) + 1), np.float32)
        scaled = weights is not None and c.attr("mode") != "TF"
        into[np.arange(len(columns)), columns] = weights if scaled else 1
        return _counted_grams(c, x, starts, pool, into)
    return c.emit(
        "TfIdfVectorizer",
        x,
        c.constant(pool),
        c.constant(np.array(columns, np.int64)),
        None if weights is None else c.constant(np.array(weights, np.float32)),
        mode=c.attr("mode"),
        min_gram_length=least,
        max_gram_length=most,
        max_skip_count=c.attr("max_skip_count"),
        starts=starts,
        width=max(columns) + 1,
    )


def _counted_grams(c: Context, x: Value, starts: Sequence[int], pool: np.ndarray, into: np.ndarray) -> Value:
    """Counts of n-grams by comparing every position with every gram. into: [grams, columns], the weight of each gram in
    its column."""
    rank, length = x.type.rank, int(str(x.type.shape[-1]))
    least, most, skips = c.attr("min_gram_length"), c.attr("max_gram_length"), c.attr("max_skip_count")
    ends = (*starts, pool.size)
    counts: list[Value] = []
    kept: list[int] = []
    number = 0
    for n in range(1, len(ends)):
        grams = pool[ends[n - 1] : ends[n]].reshape(-1, n)
        numbers = list(range(number, number + len(grams)))
        number += len(grams)
        if not least <= n <= most or not len(grams):
            continue
        total: Value | None = None
        for skip in range(1, (skips if n > 1 else 0) + 2):
            places = length - (n - 1) * skip
            if places < 1:
                break
            hit: Value | None = None
            for k in range(n):
                item = c.emit("Slice", x, starts=(k * skip,), ends=(k * skip + places,), axes=(rank - 1,), steps=(1,))
                item = c.reshape(item, (*item.type.shape, 1))
                equal = c.emit("Equal", item, c.constant(np.ascontiguousarray(grams[:, k])))
                hit = equal if hit is None else c.emit("And", hit, equal)
            assert hit is not None
            found = c.emit("ReduceSum", c.emit("Cast", hit, to="float32"), axes=(rank - 1,), keepdims=0)
            total = found if total is None else c.emit("Add", total, found)
        if total is not None:
            counts.append(total)
            kept += numbers
    if not counts:
        return filled(c, np.zeros((), np.float32), "float32", (*x.type.shape[:-1], into.shape[1]))
    y = counts[0] if len(counts) == 1 else c.emit("Concat", *counts, axis=rank - 1)
    if c.attr("mode") == "IDF":
        y = c.emit("Min", y, c.like(1.0, y))
    return c.emit("MatMul", y, c.constant(into[kept]))


#: attribute suffix -> dtype of a LabelEncoder's lists
_LISTS = {"strings": "string", "int64s": "int64", "floats": "float32"}
_DEFAULTS = {"string": "default_string", "int64": "default_int64", "float32": "default_float"}


def _column(c: Context, what: str) -> np.ndarray:
    """The keys or the values, whichever attribute holds them."""
    found = [(s, c.attr(f"{what}_{s}")) for s in _LISTS if c.attr(f"{what}_{s}") is not None]
    tensor = c.attr(f"{what}_tensor")
    if len(found) + (tensor is not None) != 1:
        raise ModelError(f"{c}: exactly one list of {what} must be given")
    if tensor is not None:
        array: np.ndarray = tensor[0].reshape(-1)
        return array
    ((suffix, values),) = found
    return objects(values) if suffix == "strings" else np.array(values, _LISTS[suffix])


def _default(c: Context, values: np.ndarray) -> np.ndarray:
    tensor = c.attr("default_tensor")
    if tensor is not None and tensor[0].size:
        array: np.ndarray = tensor[0].reshape(-1)[:1]
        return array
    dtype = "string" if values.dtype == object else str(values.dtype)
    given: Any = c.attr(_DEFAULTS.get(dtype, ""), {"string": "_Unused", "int64": -1}.get(dtype, -0.0))
    return objects([given]) if dtype == "string" else np.array([given], values.dtype)


def _compared(c: Context, x: Value, keys: np.ndarray, values: np.ndarray, other: np.ndarray) -> Value:
    """values[i] where an element equals keys[i], by comparing every pair; no key is there twice."""
    wide = c.reshape(x, (*x.type.shape, 1))
    hit = c.emit("Equal", wide, c.constant(keys))
    if keys.dtype.kind == "f" and np.isnan(keys).any():
        hit = c.emit("Or", hit, c.emit("And", c.emit("IsNaN", wide), c.constant(np.isnan(keys))))
    marks = c.emit("Cast", hit, to="float32")
    last = x.type.rank
    which = c.emit("ArgMax", marks, axis=last, keepdims=0)
    found = c.emit("Greater", c.emit("ReduceMax", marks, axes=(last,), keepdims=0), c.like(0.0, marks))
    return c.emit("Where", found, c.emit("Gather", c.constant(values), which, axis=0), c.constant(other.reshape(())))


def _label_encoder(c: Context) -> Value:
    if c.attr("classes_strings") is not None:  # version 1: a list of classes and their numbers, in either direction
        classes = objects(c.attr("classes_strings"))
        order = np.arange(len(classes), dtype=np.int64)
        keys, values = (classes, order) if c.input(0).type.dtype == "string" else (order, classes)
    else:
        keys, values = _column(c, "keys"), _column(c, "values")
    if keys.size != values.size:
        raise ModelError(f"{c}: there are {keys.size} keys and {values.size} values")
    other = _default(c, values)
    if other.dtype != values.dtype:
        raise ModelError(f"{c}: the default is {other.dtype}, the values are {values.dtype}")
    numeric = all(a.dtype != object for a in (keys, values))
    if numeric and 0 < keys.size <= _FEW_KEYS and np.unique(keys).size == keys.size:
        return _compared(c, c.input(0), keys, values, other)
    return c.emit("LabelEncoder", c.input(0), *(c.constant(a) for a in (keys, values, other)))


def _refuse_maps(c: Context) -> Value:
    raise Refusal("maps are not supported; export without them (skl2onnx: options={'zipmap': False})")


ROWS: tuple[Row, ...] = (
    Row("StringNormalizer", _normalizer),
    Row("StringConcat", same("StringConcat")),
    Row("StringSplit", _split),
    Row("RegexFullMatch", same("RegexFullMatch", "pattern")),
    Row("TfIdfVectorizer", _tf_idf),
    Row("LabelEncoder", _label_encoder, domain="ai.onnx.ml"),
    *(Row(op, _refuse_maps, domain="ai.onnx.ml") for op in ("ZipMap", "CastMap", "DictVectorizer")),
)
