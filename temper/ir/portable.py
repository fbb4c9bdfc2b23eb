"""A graph as bytes that any machine can read back: its text form and its constants, zipped. `temper rebuild` starts
from it."""

from __future__ import annotations

import io
import zipfile

import numpy as np

from temper.errors import PlanError
from temper.ir.graph import Graph
from temper.ir.text import constants_of, parse, to_text


def to_bytes(graph: Graph) -> bytes:
    """Deterministic: equal graphs give equal bytes."""
    out = io.BytesIO()
    np.savez(out, text=np.frombuffer(to_text(graph).encode(), np.uint8), **constants_of(graph))  # type: ignore[arg-type]
    return out.getvalue()


def from_bytes(data: bytes | memoryview) -> Graph:
    """Inverse of `to_bytes`. PlanError if there is no graph, or a damaged one."""
    if not len(data):
        raise PlanError(
            "this plan carries no portable graph; build it with --portable to be able to rebuild it elsewhere"
        )
    try:
        arrays = dict(np.load(io.BytesIO(bytes(data)), allow_pickle=False))
        return parse(arrays.pop("text").tobytes().decode(), constants=arrays)
    except (ValueError, KeyError, OSError, zipfile.BadZipFile) as e:
        raise PlanError(f"the portable graph in the plan is damaged: {e}") from e
