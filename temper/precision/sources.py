"""Where calibration data comes from: items, one by one, of files, functions, iterables and calibrators."""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from shutil import copyfileobj
from typing import Any

import numpy as np

from temper.dtypes import storage
from temper.errors import DataError
from temper.precision.batching import Cut, Fitter, Unfit
from temper.precision.scripts import raising

#: An item of data, what it is called, and the number of its first sample where it is a piece of something larger.
Item = tuple[object, str, int | None]


def array_items(arrays: Mapping[str, np.ndarray], name: str, fitter: Fitter) -> Iterator[Item]:
    """Arrays that hold many samples along their first axis, in pieces of a batch each."""
    parts = fitter.rows(arrays)
    if parts == 1:
        yield arrays, name, None
        return
    count = min(len(a) for k, a in arrays.items() if k in fitter.inputs)
    step = -(-count // parts)
    for start in range(0, count, step):
        yield {k: a[start : start + step] for k, a in arrays.items() if k in fitter.inputs}, name, start


def file_items(path: Path, fitter: Fitter) -> Iterator[Item]:
    """Of an .npz, arrays by input name; of an .npy, the only input. Files are mapped, not read whole. DataError if it
    is neither."""
    try:
        if path.suffix.lower() == ".npy":
            found: dict[str, np.ndarray] = {"": np.load(path, mmap_mode="r", allow_pickle=False)}
        else:
            with zipfile.ZipFile(path) as archive:
                members = [m for m in archive.namelist() if m.endswith(".npy")]
                found = {m.removesuffix(".npy"): _mapped(archive, m) for m in members}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as e:
        reason = getattr(e, "strerror", None) or str(e) or "it is empty"
        raise DataError(f"{path}: cannot be read as arrays: {reason}") from e
    if len(found) == 1 and len(fitter.inputs) == 1 and not set(found) & set(fitter.inputs):
        found = dict(zip(fitter.inputs, found.values(), strict=True))
    yield from array_items(found, path.name, fitter)


def _mapped(archive: zipfile.ZipFile, member: str) -> np.ndarray:
    """A member of an .npz, from a nameless temporary file."""
    file = tempfile.TemporaryFile(prefix="temper-npz-")  # noqa: SIM115, the array keeps it open
    with archive.open(member) as packed:
        copyfileobj(packed, file, 1 << 20)
    file.seek(0)
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    if dtype.hasobject:
        raise ValueError(f"'{member.removesuffix('.npy')}' holds Python objects, not numbers")
    if 0 in shape or not shape:
        return np.frombuffer(file.read(), dtype).reshape(shape)
    return np.memmap(file, dtype, "r", file.tell(), shape, "F" if fortran else "C")


def folder_items(files: Sequence[Path], fitter: Fitter) -> Iterator[Item]:
    for path in files:
        yield from file_items(path, fitter)


def value_items(data: object, what: str, fitter: Fitter) -> Iterator[Item]:
    """Of an array or a mapping of arrays, which hold all samples; of a calibrator, until it gives no batch; of a
    function, what it returns; of anything else that can be iterated, its elements. Exceptions of a user's code become
    DataErrors that say where."""
    if isinstance(data, Mapping):
        yield from array_items({str(k): np.asarray(a) for k, a in data.items()}, what, fitter)
    elif hasattr(data, "__array__"):
        names = list(fitter.inputs)
        if len(names) != 1:
            raise DataError(f"{what} is one array, the model's inputs are {', '.join(names)}: give a dict by name")
        yield from array_items({names[0]: np.asarray(data)}, what, fitter)
    elif hasattr(data, "get_batch"):
        yield from _of_calibrator(data, what, fitter)
    elif callable(data):
        with raising(what):
            made = data()
        yield from value_items(made, what, fitter)
    elif isinstance(data, Iterable):
        with raising(what):
            iterator = iter(data)
        for number, item in enumerate(_steps(iterator, what)):
            yield item, f"{what}[{number}]", None
    else:
        raise DataError(
            f"{what} is a {type(data).__name__}; calibration data is a path, an array, a dict of arrays by input name, "
            "an iterable of such, a function that returns one, or a calibrator"
        )


def _steps(iterator: Iterator[Any], what: str) -> Iterator[Any]:
    while True:
        with raising(what):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item


def _of_calibrator(calibrator: Any, what: str, fitter: Fitter) -> Iterator[Item]:
    names = list(fitter.inputs)
    number = 0
    while True:
        with raising(f"{what}.get_batch"):
            item = calibrator.get_batch(names)
        if item is None or (isinstance(item, (list, tuple)) and not len(item)):
            return
        yield item, f"{what} batch {number}", None
        number += 1


def random_items(count: int, fitter: Fitter) -> Iterator[Item]:
    """Seeded made-up batches: normal floats, integers 0 and 1. DataError for an input that cannot be made up."""
    rng = np.random.default_rng(0)
    for number in range(count):
        feeds = {}
        for name, t in fitter.inputs.items():
            shape = fitter.optimal_shape(name)
            if t.dtype in ("float32", "float16", "float64"):
                feeds[name] = rng.standard_normal(shape).astype(t.dtype)
            elif t.dtype == "bool":
                feeds[name] = rng.random(shape) < 0.5
            elif t.dtype.startswith(("int", "uint")):
                feeds[name] = rng.integers(0, 2, shape).astype(storage(t.dtype))
            else:
                raise DataError(f"input '{name}' of type {t.dtype} cannot be made up; give it as data")
        yield feeds, f"random[{number}]", None


def cut_items(items: Iterable[Item], fitter: Fitter) -> Iterator[Cut | Unfit]:
    """The batches of items, and what of them cannot be used."""
    for item, name, start in items:
        yield from fitter.cuts(item, name, start)
    yield from fitter.end()
