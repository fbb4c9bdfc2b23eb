"""A graph as bytes that any machine can read back: its text form and its constants, zipped. `temper rebuild` starts
from it."""

from __future__ import annotations

import io
import json
import zipfile

import numpy as np

from temper.errors import PlanError
from temper.ir.graph import Graph
from temper.ir.text import constants_of, parse, to_text

#: begins the keys of arrays of strings, which are kept as JSON: numpy would pickle them
_STRINGS = "strings "


def to_bytes(graph: Graph) -> bytes:
    """Deterministic: equal graphs give equal bytes."""
    out = io.BytesIO()
    arrays = dict(_stored(k, a) for k, a in constants_of(graph).items())
    np.savez(out, text=np.frombuffer(to_text(graph).encode(), np.uint8), **arrays)  # type: ignore[arg-type]
    return out.getvalue()


def _stored(key: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    if array.dtype != object:
        return key, array
    text = json.dumps({"shape": array.shape, "elements": array.reshape(-1).tolist()})
    return _STRINGS + key, np.frombuffer(text.encode(), np.uint8)


def _restored(key: str, array: np.ndarray) -> tuple[str, np.ndarray]:
    if not key.startswith(_STRINGS):
        return key, array
    found = json.loads(array.tobytes())
    out = np.empty(len(found["elements"]), object)
    out[:] = found["elements"]
    return key.removeprefix(_STRINGS), out.reshape(found["shape"])


def from_bytes(data: bytes | memoryview) -> Graph:
    """Inverse of `to_bytes`. PlanError if there is no graph, or a damaged one."""
    if not len(data):
        raise PlanError(
            "this plan carries no portable graph; build it with --portable to be able to rebuild it elsewhere"
        )
    try:
        loaded = np.load(io.BytesIO(bytes(data)), allow_pickle=False)
        arrays = dict(_restored(k, loaded[k]) for k in loaded.files)
        return parse(arrays.pop("text").tobytes().decode(), constants=arrays)
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as e:
        raise PlanError(f"the portable graph in the plan is damaged: {e}") from e
