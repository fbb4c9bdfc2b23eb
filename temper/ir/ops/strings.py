"""Ops on strings, and ops that look things up. They run on the host: strings never reach a kernel.

LabelEncoder(x, keys, values, default) has its table as operands; TfIdfVectorizer(x, pool, columns, weights) its grams.
"""

from __future__ import annotations

import re
from typing import Any, cast

from temper.errors import ShapeError
from temper.ir.dims import Dim
from temper.ir.opdef import Attrs, AttrSpec, InferFn, Kind, OpDef, Tolerance
from temper.ir.ops import rules
from temper.ir.ops.rules import INT, INTS, NUMBERS, Types, allow, default, integer, need
from temper.ir.types import TensorType
from temper.reference.strings import REFERENCES

_STRING = frozenset({"string"})
_COUNT = AttrSpec((int, Dim), required=True)


def _normalizer(types: Types, attrs: Attrs) -> list[TensorType]:
    x = allow(need(types, 0), _STRING)
    if x.rank not in (1, 2) or (x.rank == 2 and x.shape[0] != 1):
        raise ShapeError(f"{x} must be a vector or one row")
    return [TensorType("string", (*x.shape[:-1], cast(Any, attrs["count"])))]


def _concat(types: Types, attrs: Attrs) -> list[TensorType]:
    a, b = (allow(need(types, i), _STRING) for i in (0, 1))
    return [TensorType("string", rules.broadcast(a.shape, b.shape))]


def _split(types: Types, attrs: Attrs) -> list[TensorType]:
    x = allow(need(types, 0), _STRING)
    return [TensorType("string", (*x.shape, cast(Any, attrs["count"]))), TensorType("int64", x.shape)]


def _regex(types: Types, attrs: Attrs) -> list[TensorType]:
    x = allow(need(types, 0), _STRING)
    try:
        re.compile(rules.text(attrs, "pattern"))
    except re.error as e:
        raise ShapeError(f"the pattern {attrs['pattern']!r} cannot be read: {e}") from e
    return [TensorType("bool", x.shape)]


def _tf_idf(types: Types, attrs: Attrs) -> list[TensorType]:
    x = allow(need(types, 0), INTS | _STRING)
    if need(types, 1).dtype != x.dtype:
        raise ShapeError(f"the pool holds {need(types, 1).dtype}, the data {x.dtype}")
    if x.rank not in (1, 2):
        raise ShapeError(f"{x} must have rank 1 or 2")
    return [TensorType("float32", (*x.shape[:-1], integer(attrs, "width")))]


def _labels(types: Types, attrs: Attrs) -> list[TensorType]:
    x = allow(need(types, 0), NUMBERS | _STRING)
    keys, values = need(types, 1), need(types, 2)
    if keys.dtype != x.dtype or keys.shape != values.shape or keys.rank != 1:
        raise ShapeError(f"keys {keys} and values {values} do not make a table for {x}")
    return [TensorType(values.dtype, x.shape)]


def _op(name: str, operands: tuple[int, int], infer: InferFn, attrs: dict[str, AttrSpec], outputs: int = 1) -> OpDef:
    cost = rules.per_input(8)
    return OpDef(name, Kind.OPAQUE, operands, infer, REFERENCES[name], cost, attrs, outputs, Tolerance(relative=0.0))


OPS: tuple[OpDef, ...] = (
    _op(
        "StringNormalizer",
        (1, 1),
        _normalizer,
        {
            "case_change_action": default("NONE"),
            "is_case_sensitive": default(0),
            "stopwords": default(()),
            "count": _COUNT,
        },
    ),
    _op("StringConcat", (2, 2), _concat, {}),
    _op("StringSplit", (1, 1), _split, {"delimiter": default(""), "maxsplit": default(-1), "count": _COUNT}, 2),
    _op("RegexFullMatch", (1, 1), _regex, {"pattern": AttrSpec(str, required=True)}),
    _op(
        "TfIdfVectorizer",
        (3, 4),
        _tf_idf,
        {
            "mode": AttrSpec(str, required=True),
            "min_gram_length": INT,
            "max_gram_length": INT,
            "max_skip_count": INT,
            "starts": rules.INTS_ATTR,
            "width": INT,
        },
    ),
    _op("LabelEncoder", (4, 4), _labels, {}),
)
