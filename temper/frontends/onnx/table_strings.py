"""ONNX ops on strings, and ops that look things up: all of them are host steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from temper.errors import ModelError, ShapeError
from temper.frontends.onnx.context import Context, Refusal, Row, same
from temper.ir.graph import Value


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
