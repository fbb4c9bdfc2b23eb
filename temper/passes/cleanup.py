"""Cleanup: dead code, common subexpressions, constant folding, and nodes that do nothing or undo each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from temper.ir.dims import Dim
from temper.ir.graph import Graph, Node, Value, attr_text
from temper.ir.opdef import AttrValue
from temper.ir.ops import TABLE, make
from temper.passes.layout import compose, transpose
from temper.passes.manager import Log, Pass
from temper.passes.rewrite import Any_, Match, Rule, apply_rules, op
from temper.reference import run

#: A fold that makes a constant more than this many bytes larger than its inputs is not worth the plan's size.
MAX_GROWTH = 1 << 20

_X = Any_("x")


def _source(v: Value) -> Node:
    assert v.producer is not None
    return v.producer


def _attr(v: Value, name: str) -> AttrValue:
    return _source(v).attrs[name]


def _drop(graph: Graph, m: Match) -> Value:
    """f(x) = x."""
    return m["x"]


def _same_type(m: Match) -> bool:
    return m["x"].type == m["y"].type


def _merge_reshapes(graph: Graph, m: Match) -> Value:
    """reshape(reshape(x, a), b) = reshape(x, b)."""
    return make(graph, "Reshape", [m["x"]], {"shape": m["y"].type.shape}).output


def _merge_transposes(graph: Graph, m: Match) -> Value:
    """transpose(transpose(x, p), q) = transpose(x, p[q])."""
    p, q = _attr(m["inner"], "perm"), _attr(m["y"], "perm")
    return transpose(graph, m["x"], compose(p, q))  # type: ignore[arg-type]


def _no_pads(m: Match) -> bool:
    pads = _attr(m["y"], "pads")
    return isinstance(pads, tuple) and not any(pads)


def _is_identity_perm(m: Match) -> bool:
    return _attr(m["y"], "perm") == tuple(range(m["x"].type.rank))


def _keeps_all(m: Match) -> bool:
    steps = _source(m["y"]).attrs.get("steps", ())
    assert isinstance(steps, tuple)
    return _same_type(m) and all(s == 1 for s in steps)


CLEANUP_RULES: Sequence[Rule] = (
    Rule("drop-identity", op("Identity", _X), _drop),
    Rule("drop-reshape", op("Reshape", _X, bind="y"), _drop, when=_same_type),
    Rule("drop-expand", op("Expand", _X, bind="y"), _drop, when=_same_type),
    Rule("drop-cast", op("Cast", _X, bind="y"), _drop, when=_same_type),
    Rule("drop-slice", op("Slice", _X, bind="y"), _drop, when=_keeps_all),
    Rule("drop-tile", op("Tile", _X, bind="y"), _drop, when=_same_type),
    Rule("drop-pad", op("Pad", _X, bind="y"), _drop, when=_no_pads),
    Rule("drop-concat", op("Concat", _X), _drop),
    Rule("drop-transpose", op("Transpose", _X, bind="y"), _drop, when=_is_identity_perm),
    Rule("merge-reshapes", op("Reshape", op("Reshape", _X), bind="y"), _merge_reshapes),
    Rule("merge-transposes", op("Transpose", op("Transpose", _X, bind="inner"), bind="y"), _merge_transposes),
    Rule("relu-relu", op("Relu", op("Relu", _X, bind="y")), lambda g, m: m["y"]),
)


def fold_constants(graph: Graph, log: Log, *, codes: bool = True) -> int:
    """Replaces nodes whose inputs are all constants by their reference's result. codes: also what reads quantized
    constants, which integer products take as they are."""
    folded = 0
    for node in graph.nodes:
        definition = TABLE[node.op]
        if node.op == "DequantizeLinear" and not codes:
            continue
        if not definition.deterministic or not all(v is None or v.const is not None for v in node.inputs):
            continue
        if not all(o.type.static for o in node.outputs) or any(o.type.dtype == "string" for o in node.outputs):
            continue
        if any(isinstance(d, Dim) for a in node.attrs.values() for d in (a if isinstance(a, tuple) else (a,))):
            continue  # which part of a constant it is follows from run-time sizes
        before = sum(v.type.nbytes({}) for v in node.inputs if v is not None)
        after = sum(o.type.nbytes({}) for o in node.outputs)
        if after > before + MAX_GROWTH:
            log.did_not("fold", node.name, f"the constant would grow from {before} to {after} bytes")
            continue
        arrays = run(
            node.op,
            [None if v is None else v.const for v in node.inputs],
            node.attrs,
            [None if v is None else v.type.dtype for v in node.inputs],
            [o.type.dtype for o in node.outputs],
        )
        for out, array in zip(node.outputs, arrays, strict=True):
            graph.replace_uses(out, graph.add_constant(np.asarray(array), out.name, out.type.dtype))
        folded += 1
    graph.prune()
    return folded


def merge_common(graph: Graph, log: Log) -> int:
    """Common subexpressions: equal ops on equal inputs become one; equal small constants too."""
    merged = 0
    seen: dict[tuple[object, ...], Node] = {}
    constants: dict[tuple[object, ...], Value] = {}
    for v in graph.constants:
        assert v.const is not None
        if v.const.dtype.kind == "O" or v.const.nbytes > 1 << 16:
            continue
        key: tuple[object, ...] = (str(v.type), v.const.tobytes())
        first = constants.setdefault(key, v)
        graph.replace_uses(v, first)
    for node in graph.nodes:
        if not TABLE[node.op].deterministic:
            continue
        attrs = ";".join(f"{k}={attr_text(a)}" for k, a in sorted(node.attrs.items()))
        key = (
            node.op,
            tuple(None if v is None else v.id for v in node.inputs),
            attrs,
            tuple(str(o.type) for o in node.outputs),
        )
        if key in seen:
            for mine, theirs in zip(node.outputs, seen[key].outputs, strict=True):
                graph.replace_uses(mine, theirs)
            merged += 1
        else:
            seen[key] = node
    graph.prune()
    return merged


def concat_of_split(graph: Graph, log: Log) -> int:
    """concat(.., split(x).0, split(x).1, ..) along the split's axis = concat(.., x, ..): the pieces need not be taken
    apart."""
    count = 0
    for node in graph.nodes:
        if node.op != "Concat":
            continue
        inputs = [v for v in node.inputs if v is not None]
        axis = int(node.attrs["axis"]) % node.output.type.rank  # type: ignore[arg-type]
        for i, v in enumerate(inputs):
            s = v.producer
            if s is None or s.op != "Split" or v.index != 0 or int(s.attrs["axis"]) % v.type.rank != axis:  # type: ignore[arg-type]
                continue
            n = len(s.outputs)
            if [x.id for x in inputs[i : i + n]] == [o.id for o in s.outputs]:
                whole = s.inputs[0]
                assert whole is not None
                new = make(
                    graph,
                    "Concat",
                    [*inputs[:i], whole, *inputs[i + n :]],
                    node.attrs,
                    name=node.name,
                    origin=node.origin,
                )
                graph.replace_uses(node.output, new.output)
                log.did("concat-of-split", node.name)
                count += 1
                break
    graph.prune()
    return count


def _until_nothing_changes(*, codes: bool) -> Callable[[Graph, Log], None]:
    """All of the above."""

    def cleanup(graph: Graph, log: Log) -> None:
        graph.prune()
        while (
            apply_rules(graph, CLEANUP_RULES, log)
            + fold_constants(graph, log, codes=codes)
            + merge_common(graph, log)
            + concat_of_split(graph, log)
        ):
            pass

    return cleanup


cleanup = _until_nothing_changes(codes=True)
CLEANUP = Pass("cleanup", cleanup)
#: Leaves quantized constants as they are: what comes before the integer pass.
CLEANUP_BUT_CODES = Pass("cleanup", _until_nothing_changes(codes=False))
