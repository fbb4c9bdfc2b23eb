"""References of ops on strings and of ops that look things up: arrays of strings hold Python's `str` as objects."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from temper.reference.numeric import Arrays, Attrs, ReferenceFn, present


def _objects(values: list[Any], shape: tuple[int, ...]) -> np.ndarray:
    out = np.empty(len(values), object)
    out[:] = values
    return out.reshape(shape)


def _normalize(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    """Words that are not stop words, with their case changed; one empty string where none is left. The locale is not
    looked at: Python's case rules are Unicode's."""
    (x,) = present(arrays)
    stop = set(attrs["stopwords"])
    exact = bool(attrs["is_case_sensitive"])
    lowered = {w.lower() for w in stop}
    words = [w for w in x.reshape(-1) if (w not in stop if exact else w.lower() not in lowered)]
    change = {"LOWER": str.lower, "UPPER": str.upper}.get(attrs["case_change_action"], str)
    words = [change(w) for w in words] or [""]
    return [_objects(words, (*x.shape[:-1], len(words)))]


def _concat(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    a, b = np.broadcast_arrays(*present(arrays))
    return [_objects([u + v for u, v in zip(a.reshape(-1), b.reshape(-1), strict=True)], a.shape)]


def _split(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    """Parts of every string, filled up with empty strings, and how many there are. Without a delimiter, runs of
    whitespace separate."""
    (x,) = present(arrays)
    delimiter, most = attrs["delimiter"] or None, attrs["maxsplit"]
    parts = [w.split(delimiter, most) for w in x.reshape(-1)]
    width = max(map(len, parts), default=0)
    padded = [w for p in parts for w in (*p, *[""] * (width - len(p)))]
    counts = np.array([len(p) for p in parts], np.int64).reshape(x.shape)
    return [_objects(padded, (*x.shape, width)), counts]


def _regex(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    (x,) = present(arrays)
    pattern = re.compile(attrs["pattern"])
    found = [pattern.fullmatch(w) is not None for w in x.reshape(-1)]
    return [np.array(found, bool).reshape(x.shape)]


def _tf_idf(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    """Counts of n-grams in every row of operand 0. Operand 1: the pool, grams of 1, 2, .. items one after another;
    `starts` says where those of each length begin. 2: column of each gram. 3: weights or None."""
    x, pool, columns = arrays[0], arrays[1], arrays[2]
    assert x is not None and pool is not None and columns is not None
    items, starts = pool.tolist(), [*attrs["starts"], pool.size]
    known: dict[tuple[Any, ...], int] = {}
    for length in range(1, len(starts)):
        for at in range(starts[length - 1], starts[length], length):
            known[tuple(items[at : at + length])] = len(known)
    least, most, skips = attrs["min_gram_length"], attrs["max_gram_length"], attrs["max_skip_count"]
    rows = x.reshape(-1, x.shape[-1]) if x.ndim else x.reshape(1, 1)
    counts = np.zeros((len(rows), attrs["width"]), np.float32)
    for row, out in zip(rows.tolist(), counts, strict=True):
        grams: Counter[int] = Counter()
        for length in range(least, most + 1):
            for skip in range(1, (skips if length > 1 else 0) + 2):
                for at in range(len(row) - (length - 1) * skip):
                    number = known.get(tuple(row[at : at + length * skip : skip]))
                    if number is not None:
                        grams[number] += 1
        for number, times in grams.items():
            out[columns[number]] += times
    weights = np.ones(attrs["width"], np.float32)
    if arrays[3] is not None:
        weights[columns] = arrays[3]
    if attrs["mode"] == "IDF":
        counts = (counts > 0) * weights
    elif attrs["mode"] == "TFIDF":
        counts = counts * weights
    return [counts.astype(np.float32).reshape((*x.shape[:-1], attrs["width"]))]


def _labels(arrays: Arrays, attrs: Attrs) -> list[np.ndarray]:
    """values[i] where an element equals keys[i] (NaN equals NaN), the default elsewhere."""
    x, keys, values, other = present(arrays)
    table: dict[Any, Any] = {}
    for k, v in zip(keys.tolist(), values.tolist(), strict=True):
        table.setdefault("nan" if k != k else (k,), v)
    rest = other.reshape(-1).tolist()[0]
    found = [table.get("nan" if e != e else (e,), rest) for e in x.reshape(-1).tolist()]
    if values.dtype == object:
        return [_objects(found, x.shape)]
    return [np.array(found, values.dtype).reshape(x.shape)]


REFERENCES: Mapping[str, ReferenceFn] = MappingProxyType(
    {
        "StringNormalizer": _normalize,
        "StringConcat": _concat,
        "StringSplit": _split,
        "RegexFullMatch": _regex,
        "TfIdfVectorizer": _tf_idf,
        "LabelEncoder": _labels,
    }
)
