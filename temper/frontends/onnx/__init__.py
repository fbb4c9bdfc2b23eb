"""The ONNX frontend: `import_onnx` turns a model file into a verified IR graph.

Channel-first layout and the file's value names are kept. Operands that describe shapes become attributes; constants
are the file's initializers. The `onnx` package is imported on first use.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from temper.frontends.onnx.load import ModelSource, loaded
from temper.ir.derived import Derived
from temper.ir.dims import DimLike
from temper.ir.graph import Graph

Members = Mapping[str, "Sequence[Sequence[int | str]] | None"]


def import_onnx(
    source: ModelSource,
    *,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    dims: Mapping[str, DimLike] | None = None,
    folder: str | os.PathLike[str] | None = None,
    check_value_info: bool = True,
    values: Mapping[str, np.ndarray] | None = None,
    members: Members | None = None,
    dynamic: bool = True,
    loop_limit: int = 1_000_000,
) -> Graph:
    """The IR graph of an ONNX model given as a path, as bytes or as a ModelProto.

    shapes: input name -> shape, replacing the file's; a string names an open dimension.
    dims: dimension name -> its size: a number, or an expression in other names.
    folder: where external data lies, by default the folder of the file.
    check_value_info: compare the types that the file states for its values with the inferred ones.
    values: input name -> its value, for inputs that describe shapes (Reshape's shape, Slice's bounds); such an input is
        a constant then and no input of the graph.
    members: for inputs that are sequences, the shapes of their members, which become inputs NAME.0, NAME.1 ..; for
        optionals that are left out, None. An output that is a sequence becomes outputs NAME.0, NAME.1 ..
    dynamic: sizes, loops and branches may depend on data; otherwise nodes that make them do are refused.
    loop_limit: steps after which a loop that depends on data is an error at run time.

    ModelError: the file is damaged or contradicts itself. UnsupportedError: it uses what Temper lacks; every such node
    is listed. ShapeError: operands of a node do not fit together.
    """
    return import_structured(
        source, shapes=shapes, dims=dims, folder=folder, check_value_info=check_value_info, values=values,
        members=members, dynamic=dynamic, loop_limit=loop_limit,
    )[0]  # fmt: skip


def import_structured(
    source: ModelSource,
    *,
    shapes: Mapping[str, Sequence[int | str]] | None = None,
    dims: Mapping[str, DimLike] | None = None,
    folder: str | os.PathLike[str] | None = None,
    check_value_info: bool = True,
    values: Mapping[str, np.ndarray] | None = None,
    members: Members | None = None,
    dynamic: bool = True,
    loop_limit: int = 1_000_000,
) -> tuple[Graph, tuple[int | None, ...]]:
    """As `import_onnx`, and for each of the model's outputs: None for a tensor, -1 for an empty optional, or how many
    of the graph's outputs a sequence consists of."""
    from temper.frontends.onnx.importer import Importer
    from temper.ir.verify import verify

    read = loaded(source)
    place, tensors, derived = read.folder, read.tensors, read.derived
    if folder is not None:
        place, tensors, derived = Path(folder).resolve(), {}, Derived()
    importer = Importer(
        read.proto, place, read.label, shapes or {}, dims or {}, check_value_info, values, members, dynamic, loop_limit,
        tensors, derived,
    )  # fmt: skip
    graph = importer.run()
    verify(graph)
    return graph, tuple(importer.counts)


__all__ = ["import_onnx", "import_structured"]
