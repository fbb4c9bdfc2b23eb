"""Frozen dataclasses to JSON values and back, by their type hints."""

from __future__ import annotations

import dataclasses
import math
import types
from collections.abc import Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from temper.errors import DataError

T = TypeVar("T")

#: JSON has no such numbers; the fields that hold them are floats, so the strings cannot be mistaken.
_SPECIAL = ("inf", "-inf", "nan")


def to_json(value: Any) -> Any:
    """A dataclass becomes an object of its fields, tuples become arrays, keys of mappings strings."""
    if dataclasses.is_dataclass(value):
        return {f.name: to_json(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_json(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else ("inf" if value > 0 else "-inf")
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if hasattr(value, "item"):  # a numpy scalar
        return to_json(value.item())
    raise TypeError(f"{type(value).__name__} has no JSON form")


def from_json(kind: type[T], data: Any, *, schema: int | None = None, where: str = "") -> T:
    """An instance of dataclass `kind`. where: path of the field, for messages. Raises DataError."""
    if not isinstance(data, Mapping):
        raise DataError(f"{where or 'the file'}: expected an object for {kind.__name__}, not {_named(data)}")
    if schema is not None and data.get("schema") != schema:
        raise DataError(f"{kind.__name__} of schema {data.get('schema')!r}; this version of Temper reads {schema}")
    hints = get_type_hints(kind)
    values = {}
    for f in dataclasses.fields(kind):  # type: ignore[arg-type]
        path = f"{where}.{f.name}" if where else f.name
        if f.name in data:
            values[f.name] = _value(hints[f.name], data[f.name], path)
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            raise DataError(f"{path} is missing")
    return kind(**values)


def _value(hint: Any, data: Any, where: str) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return data
    if origin in (Union, types.UnionType):
        if data is None and type(None) in args:
            return None
        rest = [a for a in args if a is not type(None)]
        fitting = [a for a in rest if isinstance(a, type) and type(data) is a] or rest[:1]
        return _value(fitting[0], data, where)
    if origin is tuple:
        if not isinstance(data, (list, tuple)):
            raise DataError(f"{where}: expected an array, not {_named(data)}")
        return tuple(_value(args[0], v, f"{where}[{i}]") for i, v in enumerate(data))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(data, Mapping):
            raise DataError(f"{where}: expected an object, not {_named(data)}")
        return {_key(args[0], k, where): _value(args[1], v, f"{where}[{k!r}]") for k, v in data.items()}
    if dataclasses.is_dataclass(hint):
        return from_json(hint, data, where=where)  # type: ignore[arg-type]
    if hint is float and (data in _SPECIAL or (isinstance(data, (int, float)) and not isinstance(data, bool))):
        return float(data)
    if type(data) is hint:
        return data
    raise DataError(f"{where}: expected {hint.__name__}, not {_named(data)}")


def _key(hint: Any, key: str, where: str) -> Any:
    if hint is not int:
        return key
    try:
        return int(key)
    except ValueError:
        raise DataError(f"{where}: the key {key!r} is not a whole number") from None


def _named(data: Any) -> str:
    text = repr(data)
    return text if len(text) < 40 else f"{text[:36]} ..."
