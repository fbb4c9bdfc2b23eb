"""Control flow whose course depends on data: If and Loop, with sub-graphs as attributes. (A Scan becomes a Loop.)

If(condition, captured..) {then, other}: both graphs take the captured values and give the results.
Loop(trips?, condition?, carried.., captured..) {body, carried=n, tests}: the body takes the number of the step (int64),
the carried and the captured values. It gives, if tests is 1, whether to go on; the next carried values; and the step's
results, which are joined along a new first axis.

`shapes` states the results' shapes, `count` lists the symbols in it that only the run finds. A size of a carried value
that may change from step to step is a symbol of the body's inputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import numpy as np

from temper.errors import ShapeError
from temper.ir.dims import data_symbols
from temper.ir.graph import Graph
from temper.ir.opdef import Attrs, AttrSpec, InferFn, Kind, OpDef, Tolerance
from temper.ir.ops import rules
from temper.ir.ops.rules import INTS_ATTR, Types, default, integer
from temper.ir.types import TensorType

_GRAPH = AttrSpec(Graph, required=True)

#: ops whose attributes hold the graphs they run
FLOW_OPS = frozenset({"If", "Loop"})


def _graph(attrs: Attrs, name: str) -> Graph:
    return cast(Graph, attrs[name])


def _scalar(t: TensorType | None, dtype: str, what: str) -> None:
    if t is not None and (t.dtype != dtype or t.count != 1):
        raise ShapeError(f"{what} must be one {dtype}, not {t}")


def _takes(graph: Graph, types: Types, what: str) -> None:
    """ShapeError unless the graph's inputs have these types; sizes that change from step to step agree with any."""
    if len(graph.inputs) != len(types):
        raise ShapeError(f"{what} takes {len(graph.inputs)} values, not {len(types)}")
    for v, t in zip(graph.inputs, types, strict=True):
        if t is None or t.dtype != v.type.dtype or t.rank != v.type.rank:
            raise ShapeError(f"{what} takes {v!r}, not {t}")
        if any(a != b and not data_symbols(a) for a, b in zip(v.type.shape, t.shape, strict=True)):
            raise ShapeError(f"{what} takes {v!r}, not {t}")


def _results(shapes: Any, made: Sequence[TensorType], what: str) -> list[TensorType]:
    if len(shapes) != len(made) or any(len(s) != t.rank for s, t in zip(shapes, made, strict=True)):
        raise ShapeError(f"{what} gives {', '.join(map(str, made))}, which do not have the shapes {shapes}")
    for s, t in zip(shapes, made, strict=True):
        if any(isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(s, t.shape, strict=True)):
            raise ShapeError(f"{what} gives {t}, not a tensor of shape {rules.shape_text(s)}")
    return [TensorType(t.dtype, tuple(s)) for s, t in zip(shapes, made, strict=True)]


def _if(types: Types, attrs: Attrs) -> list[TensorType]:
    _scalar(types[0], "bool", "the condition")
    found: list[TensorType] = []
    for name in ("then", "other"):
        graph = _graph(attrs, name)
        _takes(graph, types[1:], f"the branch '{name}'")
        found = _results(attrs["shapes"], [v.type for v in graph.outputs], f"the branch '{name}'")
    return found


def _loop(types: Types, attrs: Attrs) -> list[TensorType]:
    body, n, tests = _graph(attrs, "body"), integer(attrs, "carried"), integer(attrs, "tests")
    _scalar(types[0], "int64", "the trip count")
    _scalar(types[1], "bool", "the condition")
    _takes(body, [TensorType("int64", ()), *types[2:]], "the body")
    if tests:
        _scalar(body.outputs[0].type, "bool", "the body's condition")
    made = [v.type for v in body.outputs[tests:]]
    if len(made) < n:
        raise ShapeError(f"the body gives {len(made)} values, but {n} are carried")
    for before, after in zip(body.inputs[1 : 1 + n], made[:n], strict=True):
        if before.type.dtype != after.dtype or before.type.rank != after.rank:
            raise ShapeError(f"the carried value {before!r} becomes {after} in the next step")
    stacked = [TensorType(t.dtype, (0, *t.shape)) for t in made[n:]]
    shapes = cast("tuple[Any, ...]", attrs["shapes"])
    lengths = [(0, *s[1:]) for s in shapes[n:]]
    _results((*shapes[:n], *lengths), [*made[:n], *stacked], "the body")
    return [TensorType(t.dtype, tuple(s)) for t, s in zip([*made[:n], *stacked], shapes, strict=True)]


def _alone(op: str) -> Any:
    def reference(arrays: Sequence[np.ndarray | None], attrs: Attrs) -> list[np.ndarray]:
        from temper.ir.evaluate import run_flow  # evaluation knows all ops, this one included

        return run_flow(op, arrays, attrs, {})

    return reference


def _op(name: str, operands: tuple[int, int | None], infer: InferFn, attrs: dict[str, AttrSpec]) -> OpDef:
    shared = {"shapes": INTS_ATTR, "count": AttrSpec(tuple, ())}
    return OpDef(
        name, Kind.OPAQUE, operands, infer, _alone(name), rules.free, {**attrs, **shared}, 1, Tolerance(),
        deterministic=False,
    )  # fmt: skip


#: deterministic=False: a branch or a body may find sizes, whose names must stay single
OPS: tuple[OpDef, ...] = (
    _op("If", (1, None), _if, {"then": _GRAPH, "other": _GRAPH}),
    _op(
        "Loop",
        (2, None),
        _loop,
        {"body": _GRAPH, "carried": default(0), "tests": default(1), "limit": default(1_000_000)},
    ),
)
