"""Files the commands read and write: kinds of model files, input arrays, and outputs written whole or not at all."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from temper.errors import BuildError, ConfigError, DataError, ModelError

if TYPE_CHECKING:
    import numpy as np


def is_plan(path: Path) -> bool:
    """True for a plan file, False for anything else that can be read (an ONNX file has no magic number). ModelError
    otherwise.
    """
    from temper.plan.container import MAGIC

    try:
        with open(path, "rb") as f:
            start = f.read(len(MAGIC))
    except OSError as e:
        raise ModelError(f"cannot read {path}: {e.strerror}") from e
    return start == MAGIC or (path.suffix == ".plan" and not start.startswith(b"\x08"))


def write_whole(path: Path, data: bytes) -> None:
    """Writes a file atomically. BuildError says why it cannot be written; nothing half-written stays."""
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        raise BuildError(f"cannot write {path}: it is not a regular file")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, target)
    except OSError as e:
        raise BuildError(f"cannot write {path}: {e.strerror}") from e
    finally:
        temporary.unlink(missing_ok=True) if target.parent.is_dir() else None


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Arrays of an .npz by name, or the one of an .npy under the empty name. DataError if it is neither."""
    import numpy as np

    with suppress(OSError), open(path, "rb") as f:
        start = f.read(6)
        if start and start != b"\x93NUMPY" and start[:2] != b"PK":
            raise DataError(f"{path} is neither an .npy nor an .npz: give a file made by numpy.save or numpy.savez")
    try:
        found = np.load(path, allow_pickle=False)
        return {"": found} if isinstance(found, np.ndarray) else {k: found[k] for k in found.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as e:
        reason = getattr(e, "strerror", None) or str(e)
        raise DataError(
            f"cannot read arrays from {path}: {reason}; give a file made by numpy.save or numpy.savez"
        ) from e


def read_feeds(names: Sequence[str], inputs: Sequence[str], data: Path | None) -> dict[str, np.ndarray]:
    """Input arrays by name from `NAME=FILE.npy` options and an optional .npz or .npy with all of them.

    A single nameless array is the model's only input. DataError and ConfigError name the option that is wrong.
    """
    feeds: dict[str, np.ndarray] = {}
    if data is not None:
        arrays = read_arrays(data)
        if len(arrays) == 1 and len(names) == 1 and not set(arrays) & set(names):
            arrays = {names[0]: next(iter(arrays.values()))}
        if "" in arrays:
            raise DataError(
                f"{data} holds one array, the model has the inputs {', '.join(names)}; give an .npz with these names"
            )
        unused = sorted(set(arrays) - set(names))
        if unused and not set(arrays) >= set(names):
            raise DataError(f"{data} holds {', '.join(unused)}, the model's inputs are {', '.join(names)}")
        feeds.update({k: v for k, v in arrays.items() if k in names})
    for option in inputs:
        name, equals, file = option.rpartition("=")
        if not equals and len(names) == 1:
            name = names[0]
        if name not in names:
            raise ConfigError(f"--input {option}: give NAME=FILE.npy; the model's inputs are {', '.join(names)}")
        arrays = read_arrays(Path(file))
        if len(arrays) != 1:
            raise DataError(f"--input {option}: {file} holds {len(arrays)} arrays; give it with --data")
        feeds[name] = next(iter(arrays.values()))
    return feeds


def npz_bytes(arrays: dict[str, np.ndarray]) -> bytes:
    """An .npz file. Names with a slash are kept: numpy stores them as they are."""
    import numpy as np

    out = BytesIO()
    np.savez(out, **arrays)  # type: ignore[arg-type]
    return out.getvalue()
