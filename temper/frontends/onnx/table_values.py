"""ONNX ops that make values from attributes, shapes and ranges."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from temper.errors import ModelError, ShapeError
from temper.frontends.onnx.context import Context, Refusal, Row, unknown
from temper.frontends.onnx.tensors import dtype_of
from temper.ir.dims import Dim, ceil_div, data_symbols
from temper.ir.graph import Value
from temper.ir.symbolic import LIMIT, sign_of
from temper.reference.formats import number

#: largest range computed at import
_RANGE_LIMIT = 1 << 24


def _constant(c: Context) -> Value:
    given = {k: v for k, v in c.attrs.items() if v is not None}
    if len(given) != 1:
        raise ModelError(f"{c}: exactly one value attribute must be given, not {sorted(given) or 'none'}")
    ((name, value),) = given.items()
    if name in ("value", "sparse_value"):
        return c.constant(value[0], value[1])
    if name.startswith("value_string"):
        array = np.empty(() if name == "value_string" else len(value), object)
        array[...] = value
        return c.constant(array)
    return c.constant(np.array(value, np.float32 if name.startswith("value_float") else np.int64))


def _constant_of_shape(c: Context) -> Value:
    shape = c.dims(0, "shape")
    if any(isinstance(d, int) and d < 0 for d in shape):
        raise ShapeError(f"{c}: negative dimension in {list(map(str, shape))}")
    array, dtype = c.attr("value", (np.zeros(1, np.float32), "float32"))
    if array.size != 1:
        raise ModelError(f"{c}: attribute 'value' must have one element, not {array.size}")
    return filled(c, array.reshape(()), dtype, shape)


def filled(c: Context, scalar: np.ndarray, dtype: str, shape: tuple[Any, ...]) -> Value:
    """A tensor of one repeated element: a constant if small, else an Expand, which takes no memory yet."""
    count = 1
    for d in shape:
        count = d * count
    if isinstance(count, int) and count <= LIMIT and not any(isinstance(d, Dim) for d in shape):
        return c.constant(np.full(shape, scalar, scalar.dtype), dtype)
    return c.emit("Expand", c.constant(scalar.copy(), dtype), shape=shape)


def _shape(c: Context) -> Value:
    rank = c.input(0).type.rank
    start, end = c.attr("start", 0), c.attr("end", rank)
    chosen = slice(start, end).indices(rank)
    return c.emit("Shape", c.input(0), start=chosen[0], end=max(chosen[0], chosen[1]))


def _size(c: Context) -> Value:
    return c.emit("Size", c.input(0))


def _range(c: Context) -> Value:
    if c.dynamic and any(c.known(c.input(i)) is None for i in range(3)):
        return _range_by_data(c)
    values = []
    for i, what in enumerate(("start", "limit", "delta")):
        known = c.known(c.input(i))
        if known is None:
            reason = f"data-dependent shape: {what} (input {i}, '{c.input(i).name}') is computed from the data"
            raise unknown(reason, c.input(i))
        if known.size != 1:
            raise ShapeError(f"{c}: {what} (input {i}) must be a scalar, not {c.input(i).type}")
        values.append(known.reshape(-1)[0])
    start, limit, delta = values
    dtype = c.input(0).type.dtype
    if not any(isinstance(v, Dim) for v in values):
        start, limit, delta = (v.item() for v in values)
        if not delta or not all(map(math.isfinite, (start, limit, delta))):
            raise ShapeError(f"{c}: there is no range from {start} to {limit} by {delta}")
        count = max(0, math.ceil((limit - start) / delta))
        if count > _RANGE_LIMIT:
            raise Refusal(f"a range of {count} elements is too long")
        return c.constant(number(np.arange(count) * np.asarray(delta) + np.asarray(start), dtype), dtype)
    if not all(isinstance(v, (int, np.integer, Dim)) for v in values) or isinstance(delta, Dim):
        raise Refusal("a range with fractional or symbolic steps over symbolic sizes")
    step = int(delta)
    first = start if isinstance(start, Dim) else int(start)
    last = limit if isinstance(limit, Dim) else int(limit)
    if data_symbols(first, last) and c.dynamic and (step != 1 or first != 0):
        return c.counted("RangeOf", [c.input(i) for i in range(3)], {})[0]
    if sign_of((last - first) * step) != 1 and not data_symbols(last):
        raise Refusal(f"the length of the range from {first} to {last} by {step} may be zero for some sizes")
    return (
        c.emit("Range", start=first, limit=last, delta=step, to=dtype)
        if step > 0
        else c.emit("Range", start=first, limit=first - ceil_div(first - last, -step) * -step, delta=step, to=dtype)
    )


def _range_by_data(c: Context) -> Value:
    """From a known integer, by 1, to a size found in the data: the range is as long as that size says; else a step
    finds the length."""
    start, delta = (c.known(c.input(i)) for i in (0, 2))
    whole = all(k is not None and k.size == 1 and k.dtype.kind in "iu" for k in (start, delta))
    if (
        whole
        and start is not None
        and delta is not None
        and int(start.reshape(-1)[0]) == 0 == int(delta.reshape(-1)[0]) - 1
    ):
        (limit,) = c.sizes(c.input(1), "limit")
        return c.emit("Range", start=0, limit=limit, delta=1, to=c.input(0).type.dtype)
    return c.counted("RangeOf", [c.input(i) for i in range(3)], {})[0]


def _eye_like(c: Context) -> Value:
    t = c.input(0).type
    if t.rank != 2 or not t.static:
        raise Refusal(f"only matrices of known size are supported, not {t}")
    rows, columns = (int(d) for d in t.shape if isinstance(d, int))
    if rows * columns > _RANGE_LIMIT:
        raise Refusal(f"{rows} x {columns} elements are too many")
    code = c.attr("dtype")
    dtype = t.dtype if code is None else dtype_of(code, f"{c}: attribute 'dtype'")
    if dtype == "string":
        raise Refusal(f"dtype {dtype} is not supported")
    one = np.eye(rows, columns, c.attr("k", 0), bool)
    return c.constant(np.where(one, number(1, dtype), number(0, dtype)), dtype)


def _image_decoder(c: Context) -> Value:
    if not c.dynamic:
        raise Refusal("data-dependent shape: the size of the image is in the data")
    sizes = (c.builder.fresh("height"), c.builder.fresh("width"))
    return c.emit("ImageDecoder", c.input(0), pixel_format=c.attr("pixel_format", "RGB"), count=sizes)


ROWS: tuple[Row, ...] = (
    Row("Constant", _constant),
    Row("ConstantOfShape", _constant_of_shape),
    Row("Shape", _shape),
    Row("Size", _size),
    Row("Range", _range),
    Row("EyeLike", _eye_like),
    Row("ImageDecoder", _image_decoder),
)
