"""ONNX control flow, resolved at import where its course is known, and other operators that are resolved then.

Short loops whose trip count is known are unrolled. Of an If on data both branches are computed if they are a few
pointwise operations, which is sound because ONNX's operators have no side effects. Other loops and branches become
steps with graphs of their own (subgraphs.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from temper.errors import ModelError, ShapeError
from temper.frontends.onnx.context import Refusal, unknown
from temper.frontends.onnx.held import Held, Items, Listed, Nothing, Site
from temper.frontends.onnx.sequences import SEQUENCES, axis_of, identity, part_of, stack_of, static_size, without_axis
from temper.frontends.onnx.subgraphs import branches, loop, scan
from temper.frontends.onnx.tensors import dtype_of
from temper.ir.dims import Dim
from temper.ir.graph import Value
from temper.ir.opdef import Kind
from temper.ir.ops import TABLE

#: iterations of one loop that are unrolled where nothing may depend on data
_STEPS = 4096

#: nodes that an unrolled loop may become where it can be a step of the plan instead
_UNROLLED = 1024

#: nodes of an If's branches that are both computed
_POINTWISE = 8

_FAR = 2**63 - 1


def _if(s: Site) -> list[Held]:
    condition, count = s.value(0), len(s.node.output)
    known = s.c.known(condition)
    if known is not None and known.dtype != object and known.size == 1:
        return s.branch("then_branch" if bool(known.reshape(-1)[0]) else "else_branch", count)
    if s.c.dynamic and not _trivial(s):
        return branches(s, condition)
    refused = unknown(
        f"the condition ('{condition.name}') is computed from the data, and the branches differ in type", condition
    )
    chosen: list[Held] = []
    flag = s.c.reshape(condition, ())
    for a, b in zip(s.branch("then_branch", count), s.branch("else_branch", count), strict=True):
        if a is None or b is None:
            chosen.append(None)
        elif isinstance(a, Value) and isinstance(b, Value) and a.type == b.type:
            chosen.append(s.c.emit("Where", flag, a, b))
        elif isinstance(a, Items) and isinstance(b, Items) and [v.type for v in a.values] == [v.type for v in b.values]:
            both = zip(a.values, b.values, strict=True)
            chosen.append(Items(tuple(s.c.emit("Where", flag, x, y) for x, y in both), a.dtype))
        elif s.c.dynamic:
            return branches(s, condition)
        else:
            raise refused
    return chosen


def _trivial(s: Site) -> bool:
    """Both branches are a few pointwise operations: computing both costs less than leaving the compiled code."""
    nodes = [n for name in ("then_branch", "else_branch") for n in s.attrs[name].node]
    plain = (n.op_type in ("Constant", "Identity") or _pointwise(n.op_type) for n in nodes)
    return len(nodes) <= _POINTWISE and all(plain)


def _pointwise(op: str) -> bool:
    return op in TABLE and TABLE[op].kind is Kind.ELEMENTWISE


def size_of(graph: Any) -> int:
    """Nodes of a graph, those of the graphs inside it included."""
    inner = [a.g for n in graph.node for a in n.attribute if a.HasField("g")]
    return len(graph.node) + sum(map(size_of, inner))


def _few(s: Site, graph: Any) -> int:
    """Most steps of a loop that are unrolled: few, where a loop can be a step of the plan instead."""
    return max(1, _UNROLLED // max(1, size_of(graph))) if s.c.dynamic else _STEPS


def _scanned(s: Site, graph: Any, index: int, values: Sequence[Held], axis: int, reverse: bool = False) -> Held:
    """The results of all steps, joined along `axis`; of no step: an empty tensor of the type the sub-graph states."""
    if any(v is None for v in values):
        return None
    tensors = [v for v in values if isinstance(v, Value)]
    if len(tensors) < len(values):
        raise Refusal("a result of every iteration is a sequence")
    if tensors:
        return stack_of(s, tensors[::-1] if reverse else tensors, axis)
    stated = graph.output[index].type.tensor_type
    if any(not d.HasField("dim_value") for d in stated.shape.dim):
        raise Refusal("the loop makes no step, and its body does not state the shapes of its results")
    shape = [int(d.dim_value) for d in stated.shape.dim]
    shape.insert(axis % (len(shape) + 1), 0)
    dtype = dtype_of(stated.elem_type, f"{s.c}: output '{graph.output[index].name}'")
    return s.c.constant(np.zeros(shape, dtype))


def _loop(s: Site) -> list[Held]:
    """Unrolled where its course is known and short; otherwise, if the model may depend on data, a step of the plan."""
    if not s.c.dynamic:
        return _unrolled(s)
    importer = s.importer
    problems, count = len(importer.problems), importer.count
    try:
        return _unrolled(s)
    except Refusal:
        del importer.problems[problems:]
        importer.count = count
    flags = [s.value(i) if s.has(i) else None for i in (0, 1)]
    return loop(s, s.attrs["body"], s.inputs[2:], *flags)


def _unrolled(s: Site) -> list[Held]:
    graph, carried = s.attrs["body"], list(s.inputs[2:])
    most = _few(s, graph)
    limit = s.number(s.value(0), "the trip count") if s.has(0) else None
    going = bool(s.number(s.value(1), "the condition")) if s.has(1) else True
    stacked: list[list[Held]] = [[] for _ in range(len(graph.output) - 1 - len(carried))]
    step = 0
    while going and (limit is None or step < limit):
        if step >= most or (limit or 0) > most:
            raise Refusal(f"a loop of more than {most} iterations is not unrolled")
        index, flag = s.c.constant(np.array(step, np.int64)), s.c.constant(np.array(True))
        condition, *results = s.run(graph, [index, flag, *carried], f"{step}/")
        carried = results[: len(carried)]
        for column, v in zip(stacked, results[len(carried) :], strict=True):
            column.append(v)
        step += 1
        if condition is None:
            return [None] * len(s.node.output)
        if not isinstance(condition, Value):
            raise ModelError(f"{s.c}: the body's first output must be the condition")
        going = bool(s.number(condition, "the condition to go on")) if limit is None or step < limit else False
    first = 1 + len(carried)
    return [*carried, *(_scanned(s, graph, first + k, column, 0) for k, column in enumerate(stacked))]


def _joined(s: Site, values: Sequence[Held], states: int) -> list[Held]:
    """A Scan's results from those joined along a first axis: each moved to its axis and turned to its direction."""
    axes = s.attrs.get("scan_output_axes") or (0,) * (len(values) - states)
    back = s.attrs.get("scan_output_directions") or (0,) * (len(values) - states)
    out = list(values[:states])
    for v, axis, reverse in zip(values[states:], axes, back, strict=True):
        if isinstance(v, Value) and reverse:
            v = s.c.emit("Slice", v, starts=(-1,), ends=(-_FAR,), axes=(0,), steps=(-1,))
        if isinstance(v, Value) and (to := axis_of(s, axis, v.type.rank)):
            v = s.c.emit("Transpose", v, perm=(*range(1, to + 1), 0, *range(to + 1, v.type.rank)))
        out.append(v)
    return out


def _scan(s: Site) -> list[Held]:
    if s.opset < 9:
        return _scan_of_batches(s)
    graph, n = s.attrs["body"], s.attrs["num_scan_inputs"]
    states = len(s.inputs) - n
    data = [s.value(i) for i in range(states, len(s.inputs))]
    axes = [axis_of(s, a, x.type.rank) for a, x in zip(s.attrs.get("scan_input_axes") or (0,) * n, data, strict=True)]
    backward = s.attrs.get("scan_input_directions") or (0,) * n
    lengths = {x.type.shape[a] for x, a in zip(data, axes, strict=True)}
    if len(lengths) != 1 and not any(isinstance(d, Dim) for d in lengths):
        raise ShapeError(f"{s.c}: scanned axes of lengths {sorted(map(str, lengths))}")
    length = next(iter(lengths))
    if s.c.dynamic and (isinstance(length, Dim) or length > _few(s, graph)):
        scanned = zip(data, axes, map(bool, backward), strict=True)
        return _joined(s, scan(s, graph, s.inputs[:states], list(scanned)), states)
    length = static_size(s, data[0], axes[0])
    if length > _STEPS:
        raise Refusal(f"a scan of more than {_STEPS} steps is not unrolled")
    given = list(zip(data, axes, map(bool, backward), strict=True))
    carried, stacked = _steps(s, graph, s.inputs[:states], given, length, "")
    out_axes = s.attrs.get("scan_output_axes") or (0,) * len(stacked)
    out_back = s.attrs.get("scan_output_directions") or (0,) * len(stacked)
    joined = zip(stacked, out_axes, out_back, strict=True)
    return [*carried, *(_scanned(s, graph, states + k, v, a, bool(r)) for k, (v, a, r) in enumerate(joined))]


def _steps(
    s: Site, graph: Any, states: Sequence[Held], data: Sequence[tuple[Value, int, bool]], length: int, where: str
) -> tuple[list[Held], list[list[Held]]]:
    """Unrolled steps of a Scan: the final states, and each result of every step."""
    carried: list[Held] = list(states)
    stacked: list[list[Held]] = [[] for _ in range(len(graph.output) - len(states))]
    for step in range(length):
        now = []
        for x, axis, back in data:
            at = length - 1 - step if back else step
            now.append(without_axis(s, part_of(s, x, axis, at, at + 1), axis))
        results = s.run(graph, [*carried, *now], f"{where}{step}/")
        carried = results[: len(states)]
        for column, v in zip(stacked, results[len(states) :], strict=True):
            column.append(v)
    return carried, stacked


def _scan_of_batches(s: Site) -> list[Held]:
    """The form of opset 8: operand 0 holds each sample's length or is left out, axis 0 of all others is the batch,
    axis 1 of what is scanned is the sequence. Results of samples that end early are filled with zeros."""
    graph, n = s.attrs["body"], s.attrs["num_scan_inputs"]
    states = len(s.inputs) - 1 - n
    values = [s.value(i) for i in range(1, len(s.inputs))]
    batch, length = static_size(s, values[0], 0), static_size(s, values[states], 1)
    lengths = [length] * batch
    if s.has(0):
        found = s.c.known(s.value(0))
        if found is None or found.dtype == object:
            raise unknown(f"the lengths ('{s.value(0).name}') are computed from the data", s.value(0))
        lengths = [int(k) for k in found.reshape(-1)]
    if batch * length * size_of(graph) > _STEPS:
        raise Refusal(f"{batch} x {length} steps of the form of opset 8 are not unrolled")
    back = s.attrs.get("directions") or (0,) * n
    samples: list[list[Held]] = []
    for b in range(batch):
        own = [without_axis(s, part_of(s, v, 0, b, b + 1), 0) for v in values]
        given = [(part_of(s, v, 0, 0, lengths[b]), 0, bool(r)) for v, r in zip(own[states:], back, strict=True)]
        carried, stacked = _steps(s, graph, own[:states], given, lengths[b], f"{b}/")
        rows = [_scanned(s, graph, states + k, column, 0) for k, column in enumerate(stacked)]
        samples.append([*carried, *(_filled(s, r, length) for r in rows)])
    out: list[Held] = []
    for column in zip(*samples, strict=True):
        tensors = [v for v in column if isinstance(v, Value)]
        out.append(stack_of(s, tensors, 0) if len(tensors) == batch else None)
    return out


def _filled(s: Site, v: Held, length: int) -> Held:
    """Rows of zeros appended up to `length`."""
    if not isinstance(v, Value) or v.type.shape[0] == length:
        return v
    have = v.type.shape[0]
    assert isinstance(have, int)
    return s.c.emit(
        "Pad", v, pads=(0,) * v.type.rank + (length - have,) + (0,) * (v.type.rank - 1), mode="constant", value=0
    )


RESOLVED: Mapping[str, Callable[[Site], list[Held]]] = MappingProxyType(
    {
        **SEQUENCES,
        "If": _if,
        "Loop": _loop,
        "Scan": _scan,
    }
)


def resolver(op: str, inputs: Sequence[Held]) -> Callable[[Site], list[Held]] | None:
    """What resolves a node of the default domain, if it is resolved here."""
    if op == "Identity" and inputs and isinstance(inputs[0], (Items, Listed, Nothing)):
        return identity
    return RESOLVED.get(op)
