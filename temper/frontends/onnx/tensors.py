"""Reads ONNX tensors: every length is checked against the stated dimensions before anything is allocated, and external
data is read only from plain files inside the model's own folder."""

from __future__ import annotations

import hashlib
import math
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from temper.dtypes import NARROW_INTS, storage
from temper.errors import ModelError, UnsupportedError
from temper.reference.formats import UNNAMED, bits_of, unpack

#: TensorProto.DataType -> IR dtype. Types missing here are refused by name.
DTYPES = {
    1: "float32",
    2: "uint8",
    3: "int8",
    4: "uint16",
    5: "int16",
    6: "int32",
    7: "int64",
    8: "string",
    9: "bool",
    10: "float16",
    11: "float64",
    12: "uint32",
    13: "uint64",
    14: "complex64",
    15: "complex128",
    16: "bfloat16",
    17: "float8e4m3fn",
    18: "float8e4m3fnuz",
    19: "float8e5m2",
    20: "float8e5m2fnuz",
    21: "uint4",
    22: "int4",
    23: "float4e2m1",
    24: "float8e8m0",
    25: "uint2",
    26: "int2",
}

_NAMES = {27: "float6e2m3", 28: "float6e3m2"}

#: the typed field that carries each dtype when raw_data is not used
_FIELD = {
    "float32": "float_data",
    "complex64": "float_data",
    "float64": "double_data",
    "complex128": "double_data",
    "int64": "int64_data",
    "uint64": "uint64_data",
    "uint32": "uint64_data",
    "string": "string_data",
}
_FIELDS = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")

#: a sparse tensor may state any dense size, whatever the file's; larger ones are refused
DENSE_LIMIT = 1 << 30


def dtype_of(code: int, where: str) -> str:
    """IR dtype of a TensorProto.DataType; ModelError if there is no such type, UnsupportedError if Temper lacks it."""
    if code in DTYPES:
        return DTYPES[code]
    if code not in _NAMES:
        raise ModelError(f"{where}: element type {code} is not an ONNX data type")
    raise UnsupportedError(f"{where}: element type {_NAMES[code]} is not supported")


def read_tensor(proto: Any, folder: Path | None, where: str) -> tuple[np.ndarray, str]:
    """(array, IR dtype) of a TensorProto. ModelError names `where` and what contradicts what.

    folder: the model's folder, in which external data must lie; None refuses external data.
    """
    where = f"{where} '{proto.name}'" if proto.name else where
    dtype = dtype_of(proto.data_type, where)
    shape = tuple(int(d) for d in proto.dims)
    if any(d < 0 for d in shape):
        raise ModelError(f"{where}: negative dimension in {list(shape)}")
    if len(shape) > 32:
        raise ModelError(f"{where}: {len(shape)} dimensions; at most 32 are possible")
    if proto.HasField("segment"):
        raise UnsupportedError(f"{where}: tensors stored in segments are not supported")
    count = 1
    for d in shape:
        count *= d
    used = [f for f in _FIELDS if len(getattr(proto, f))]
    if proto.HasField("raw_data") and (len(proto.raw_data) or not used):
        used.append("raw_data")
    external = proto.data_location == 1
    if external and len(used):
        raise ModelError(f"{where}: says its data is external, but {' and '.join(used)} is set too")
    if len(used) > 1:
        raise ModelError(f"{where}: {' and '.join(used)} are both set; exactly one field may hold the data")
    if external:
        if dtype == "string":
            raise ModelError(f"{where}: strings cannot be stored externally")
        data: bytes | bytearray = _external(proto.external_data, folder, _size(dtype, count), where)
    elif used == ["raw_data"]:
        if dtype == "string":
            raise ModelError(f"{where}: strings cannot be stored in raw_data")
        data = proto.raw_data
    else:
        return _typed(proto, used, dtype, shape, count, where), dtype
    need = _size(dtype, count)
    if len(data) != need:
        raise ModelError(
            f"{where}: dimensions {list(shape)} of {dtype} need {need} bytes, but the data has {len(data)}"
        )
    return _from_bytes(data, dtype, shape, where), dtype


def _size(dtype: str, count: int) -> int:
    """Bytes of `count` elements in a file: types narrower than a byte are packed."""
    return -(-count * bits_of(dtype) // 8) if dtype != "string" else 8 * count


def _from_bytes(data: bytes | bytearray, dtype: str, shape: Sequence[int], where: str) -> np.ndarray:
    if dtype == "bool":
        return _shaped(np.frombuffer(data, np.uint8) != 0, shape, where)
    if bits_of(dtype) < 8:
        return _shaped(unpack(data, dtype, math.prod(shape)), shape, where)
    array = np.frombuffer(data, storage(dtype).newbyteorder("<"))
    return _shaped(array if sys.byteorder == "little" else array.astype(storage(dtype)), shape, where)


def _shaped(array: np.ndarray, shape: Sequence[int], where: str) -> np.ndarray:
    try:
        return array.reshape(tuple(shape))
    except ValueError as e:  # numpy refuses shapes such as (0, 2**40, 2**40) whose non-zero part overflows
        raise ModelError(f"{where}: dimensions {list(shape)} are too large") from e


def _typed(proto: Any, used: list[str], dtype: str, shape: Sequence[int], count: int, where: str) -> np.ndarray:
    field = _FIELD.get(dtype, "int32_data")
    if used and used[0] != field:
        raise ModelError(f"{where}: {dtype} data must be in {field} or raw_data, not {used[0]}")
    values = getattr(proto, field)
    if dtype in UNNAMED and dtype != "bfloat16":
        return _shaped(_packed(values, dtype, count, where), shape, where)
    per = 2 if dtype.startswith("complex") else 1
    if len(values) != count * per:
        raise ModelError(f"{where}: dimensions {list(shape)} need {count * per} values, but {field} has {len(values)}")
    if dtype == "string":
        out = np.empty(count, object)
        try:
            out[:] = [v.decode() for v in values]
        except UnicodeDecodeError as e:
            raise ModelError(f"{where}: a string is not valid UTF-8") from e
        return _shaped(out, shape, where)
    if dtype in ("float32", "float64"):
        return _shaped(np.array(values, dtype), shape, where)
    if per == 2:
        real = np.array(values, "float32" if dtype == "complex64" else "float64")
        return _shaped(real.view(dtype), shape, where)
    wide = np.array(values, np.uint64 if field == "uint64_data" else np.int64)
    if dtype == "bool":
        return _shaped(wide != 0, shape, where)
    bits = np.dtype("uint16") if dtype in ("float16", "bfloat16") else np.dtype(dtype)
    limits = np.iinfo(bits)
    if count and (int(wide.min()) < limits.min or int(wide.max()) > limits.max):
        raise ModelError(f"{where}: {field} has values outside the range of {dtype}")
    narrow = wide.astype(bits)
    return _shaped(narrow.view(np.float16) if dtype == "float16" else narrow, shape, where)


def _packed(values: Sequence[int], dtype: str, count: int, where: str) -> np.ndarray:
    """Elements of a type without a numpy dtype from int32_data, each entry one byte of the packed form."""
    need = _size(dtype, count)
    if len(values) != need:
        raise ModelError(f"{where}: {count} elements of {dtype} need {need} bytes, but int32_data has {len(values)}")
    octets = np.array(values, np.int64)
    if need and (int(octets.min()) < 0 or int(octets.max()) > 255):
        raise ModelError(f"{where}: int32_data has values outside the bytes that hold {dtype}")
    return unpack(octets.astype(np.uint8).tobytes(), dtype, count)


def read_sparse(proto: Any, folder: Path | None, where: str) -> tuple[np.ndarray, str]:
    """(dense array, IR dtype) of a SparseTensorProto."""
    where = f"{where} '{proto.values.name}'"
    values, dtype = read_tensor(proto.values, folder, where)
    indices, index_type = read_tensor(proto.indices, folder, f"{where}: indices")
    shape = tuple(int(d) for d in proto.dims)
    if any(d < 0 for d in shape):
        raise ModelError(f"{where}: negative dimension in {list(shape)}")
    if dtype == "string" or (dtype in UNNAMED and dtype not in NARROW_INTS):
        raise UnsupportedError(f"{where}: sparse tensors of {dtype} are not supported")
    count = 1
    for d in shape:
        count *= d
    if count * values.itemsize > DENSE_LIMIT:
        raise UnsupportedError(f"{where}: the sparse tensor has {count} elements when dense, which is too many")
    if index_type != "int64" or values.ndim != 1:
        raise ModelError(f"{where}: a sparse tensor needs a vector of values and int64 indices")
    flat = indices
    if indices.ndim == 2 and indices.shape == (len(values), len(shape)):
        if len(values) and ((indices < 0).any() or (indices >= np.array(shape)).any()):
            raise ModelError(f"{where}: an index lies outside the dimensions {list(shape)}")
        flat = (
            np.ravel_multi_index(tuple(indices.T), shape) if len(values) and shape else np.zeros(len(values), np.int64)
        )
    elif indices.shape != (len(values),):
        raise ModelError(f"{where}: {len(values)} values, but indices of shape {list(indices.shape)}")
    if len(flat) and (int(flat.min()) < 0 or int(flat.max()) >= count):
        raise ModelError(f"{where}: an index lies outside the dimensions {list(shape)}")
    dense = np.zeros(count, values.dtype)
    dense[flat] = values
    return _shaped(dense, shape, where), dtype


def _number(entries: dict[str, str], key: str, where: str) -> int | None:
    if key not in entries:
        return None
    text = entries[key]
    if not text.isascii() or not text.isdigit() or len(text) > 19:
        raise ModelError(f"{where}: external data has {key} {text!r}, which is not a non-negative number")
    return int(text)


def _external(fields: Any, folder: Path | None, nbytes: int, where: str) -> bytearray:
    """The bytes of an externally stored tensor, after every check on the path and the range."""
    entries: dict[str, str] = {}
    for f in fields:
        if f.key in entries:
            raise ModelError(f"{where}: external data states {f.key!r} twice")
        entries[f.key] = f.value
    location = entries.get("location", "")
    offset, length = _number(entries, "offset", where) or 0, _number(entries, "length", where)
    if not location or "\0" in location:
        raise ModelError(f"{where}: external data names no file")
    parts = PurePosixPath(location.replace("\\", "/")).parts
    if not parts:
        raise ModelError(f"{where}: external data {location!r} names no file")
    if os.path.isabs(location) or parts[0] == "/" or ":" in parts[0]:
        raise ModelError(f"{where}: external data {location!r} is an absolute path; it must lie in the model's folder")
    if ".." in parts:
        raise ModelError(f"{where}: external data {location!r} leaves the model's folder through '..'")
    if folder is None:
        raise ModelError(
            f"{where}: external data {location!r} needs the model's folder; import from a path, or give folder="
        )
    if length is not None and length != nbytes:
        raise ModelError(f"{where}: external data has length {length}, but the dimensions need {nbytes} bytes")
    path = folder
    try:
        for part in parts:
            path = path / part
            if stat.S_ISLNK(os.lstat(path).st_mode):
                raise ModelError(
                    f"{where}: external data {location!r} goes through a symbolic link, which could lead anywhere; "
                    "replace the link by the file"
                )
        # O_NOFOLLOW and the checks on the open descriptor hold even if the path changes after the walk above.
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError as e:
        raise ModelError(f"{where}: external data {location!r} cannot be read: {e.strerror or e}") from e
    except ValueError as e:
        raise ModelError(f"{where}: external data {location!r} is not a file name") from e
    with os.fdopen(descriptor, "rb") as file:
        info = os.fstat(file.fileno())
        if not stat.S_ISREG(info.st_mode):
            raise ModelError(f"{where}: external data {location!r} is not a regular file")
        if info.st_nlink > 1:
            raise ModelError(
                f"{where}: external data {location!r} has {info.st_nlink} hard links, so it may be a file from outside "
                "the model's folder; replace it by a copy"
            )
        if offset + nbytes > info.st_size:
            raise ModelError(
                f"{where}: external data needs bytes {offset} to {offset + nbytes} of {location!r}, "
                f"which has {info.st_size}"
            )
        file.seek(offset)
        data = bytearray(nbytes)
        if file.readinto(data) != nbytes:
            raise ModelError(f"{where}: external data {location!r} ended early")
    checksum = entries.get("checksum")
    if checksum and hashlib.sha1(data, usedforsecurity=False).hexdigest() != checksum.lower():
        raise ModelError(f"{where}: external data in {location!r} does not match its SHA-1 checksum")
    return data
