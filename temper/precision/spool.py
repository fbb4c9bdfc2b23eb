"""Batches of arrays in one temporary file, so that memory does not grow with their number."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, field
from typing import IO

import numpy as np

from temper.errors import DataError
from temper.precision.batching import Arrays


@dataclass(frozen=True)
class _Place:
    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    at: int


def _open() -> IO[bytes]:
    return tempfile.TemporaryFile(prefix="temper-samples-")


@dataclass(eq=False)
class Spool:
    """Append batches, then read any of them by number, from any thread. The file has no name and goes with the object;
    it lies in the folder for temporary files (TMPDIR)."""

    _file: IO[bytes] = field(default_factory=_open)
    _places: list[tuple[_Place, ...]] = field(default_factory=list)
    _end: int = 0

    def __len__(self) -> int:
        return len(self._places)

    def __del__(self) -> None:
        if "_file" in vars(self):  # unless there was no room for one
            self._file.close()

    def append(self, arrays: Arrays) -> None:
        """DataError if the disk is full."""
        places = []
        for name, a in arrays.items():
            places.append(_Place(name, a.dtype, a.shape, self._end))
            data = np.ascontiguousarray(a)
            try:
                self._file.write(data.reshape(-1).view(np.uint8).data)
            except OSError as e:
                folder = tempfile.gettempdir()
                raise DataError(f"samples cannot be kept in {folder}: {e.strerror}; set TMPDIR to a larger disk") from e
            self._end += data.nbytes
        self._places.append(tuple(places))

    def load(self, index: int) -> dict[str, np.ndarray]:
        """Fresh arrays of one batch."""
        self._file.flush()
        out = {}
        for p in self._places[index]:
            a = np.empty(p.shape, p.dtype)
            if a.nbytes:
                view, done = memoryview(a.reshape(-1).view(np.uint8)), 0  # type: ignore[arg-type]
                while done < a.nbytes:
                    done += os.preadv(self._file.fileno(), [view[done:]], p.at + done)
            out[p.name] = a
        return out
