"""Moves the selection of rows before the ops that compute them, so that rows which are dropped are never computed.

select(f(x), rows) = f(select(x, rows)) where f treats rows apart: elementwise ops, products with a constant matrix,
normalisation and softmax along other axes, and the queries of attention. A classifier that reads the first token of a
transformer then needs the last layer's products for that token only.

A selection moves before an op when nothing else reads the op's result, it keeps at most half of it, and a product, a
normalisation or attention is among the ops it passes: a program behind a convolution, say, stays in its kernel.
"""

from __future__ import annotations

from dataclasses import dataclass

from temper.ir.graph import Graph, Node, Value
from temper.ir.opdef import Kind
from temper.ir.ops import TABLE, make
from temper.ir.ops.rules import ints
from temper.passes.manager import Log, Pass

_NAME = "select-early"
_RULE = (f"rule:{_NAME}",)

@dataclass(frozen=True)
class _Rows:
    """What is selected along an axis: `count` indices from `start` on, `step` apart."""

    axis: int
    start: int
    count: int
    step: int

    def of(self, axis: int) -> _Rows:
        """The same along another axis."""
        return _Rows(axis, self.start, self.count, self.step)

    @property
    def attrs(self) -> dict[str, tuple[int, ...]]:
        """Of the Slice that selects them."""
        end = self.start + (self.count - 1) * self.step + 1
        return {"starts": (self.start,), "ends": (end,), "axes": (self.axis,), "steps": (self.step,)}


def _selected(node: Node) -> _Rows | None:
    """What a node selects of its first input: at most half of an axis of known size."""
    x = node.inputs[0] if node.inputs else None
    if x is None or node.op not in ("Slice", "Gather"):
        return None
    if node.op == "Gather":
        index = node.inputs[1]
        axis = int(str(node.attrs["axis"])) % max(1, x.type.rank)
        if index is None or index.const is None or index.const.size != 1 or index.type.rank > 1:
            return None
        size, at = x.type.shape[axis], int(index.const.reshape(-1)[0])
        if not isinstance(size, int) or not -size <= at < size:
            return None
        found = _Rows(axis, at % size, 1, 1)
    else:
        changed = [a for a, (d, e) in enumerate(zip(x.type.shape, node.output.type.shape, strict=True)) if d != e]
        starts, ends, axes, steps = (node.attrs.get(k) for k in ("starts", "ends", "axes", "steps"))
        if len(changed) != 1 or not isinstance(starts, tuple) or not isinstance(ends, tuple):
            return None
        (axis,), size = changed, x.type.shape[changed[0]]
        order = ints(node.attrs, "axes") if isinstance(axes, tuple) else tuple(range(len(starts)))
        at = [a % x.type.rank for a in order].index(axis)
        start, end = starts[at], ends[at]
        step = ints(node.attrs, "steps")[at] if isinstance(steps, tuple) else 1
        if not isinstance(size, int) or not isinstance(start, int) or not isinstance(end, int) or step < 1:
            return None
        rows = range(size)[start:end:step]
        if not rows:
            return None
        found = _Rows(axis, rows[0], len(rows), step)
    return found if 2 * found.count <= size else None


def _pointwise(op: str) -> bool:
    """Every output element is made of one element of each input, at the same place: of no parameters along an axis."""
    definition = TABLE[op]
    return definition.kind is Kind.ELEMENTWISE and definition.deterministic and "axis" not in definition.attrs


def _by_rows(node: Node, rows: _Rows) -> dict[int, _Rows] | None:
    """Which inputs of a node the rows of its result need, and along which of their axes; None where it does not treat
    rows of that axis apart."""
    if len(node.outputs) != 1:
        return None
    shape, x = node.output.type.shape, node.inputs[0]
    rank, axis = len(shape), rows.axis
    if _pointwise(node.op):
        found = {}
        for i, v in enumerate(node.inputs):
            own = axis - (rank - v.type.rank) if v is not None else -1
            if v is None or own < 0 or (v.type.shape[own] == 1 and shape[axis] != 1):
                continue
            if v.type.shape[own] != shape[axis]:
                return None
            found[i] = rows.of(own)
        return found
    if x is None:
        return None
    if node.op == "MatMul":
        w = node.inputs[1]
        plain = not node.attrs.get("transA") and w is not None and w.const is not None and w.type.rank == 2
        return {0: rows} if plain and axis < rank - 1 and x.type.rank == rank else None
    if node.op in ("LayerNormalization", "RMSNormalization", "Softmax", "LogSoftmax"):
        along = int(str(node.attrs["axis"])) % rank
        apart = axis != along if "max" in node.op else axis < along
        return {0: rows} if apart else None
    if node.op == "Attention":
        layout, mask = str(node.attrs["layout"]), node.inputs[3] if len(node.inputs) > 3 else None
        if node.attrs.get("causal") or axis != (1 if layout[3] == "r" else 2):
            return None
        found = {0: rows.of(1 if layout[0] == "r" else 2)}
        if mask is not None and mask.type.rank > 1 and mask.type.shape[-2] != 1:
            found[3] = rows.of(mask.type.rank - 2)
        return found
    return None


def _asked(graph: Graph, v: Value) -> _Rows | None:
    """The rows of a value that all its readers select alike; None if some reader needs more."""
    found = {_selected(n) if i == 0 else None for n, i in v.uses}
    return found.pop() if len(found) == 1 and not graph.is_output(v) else None


def _reaches(graph: Graph, node: Node, rows: _Rows) -> bool:
    """Whether a selection that moves before `node` spares more than elementwise work."""
    needed = _by_rows(node, rows)
    if needed is None:
        return False
    if TABLE[node.op].kind is not Kind.ELEMENTWISE:
        return True
    for v, own in {(v, rows) for i, rows in needed.items() if (v := node.inputs[i]) is not None}:
        alone = all(n is node or (k == 0 and _selected(n) == own) for n, k in v.uses) and not graph.is_output(v)
        if alone and v.producer is not None and _reaches(graph, v.producer, own):
            return True
    return False


def _run(graph: Graph, log: Log) -> None:
    cut: dict[tuple[int, _Rows], Value] = {}

    def rows_of(v: Value, rows: _Rows) -> Value:
        if (v.id, rows) not in cut:
            if v.const is not None:
                index = tuple(
                    slice(rows.start, rows.start + rows.count * rows.step, rows.step) if a == rows.axis else slice(None)
                    for a in range(v.const.ndim)
                )
                cut[v.id, rows] = graph.add_constant(v.const[index], v.name, v.type.dtype)
            else:
                cut[v.id, rows] = make(graph, "Slice", [v], rows.attrs, origin=_RULE).output
        return cut[v.id, rows]

    for node in reversed(graph.nodes):
        # selections made on the way are readers of what comes earlier, and so are looked at in time
        if not graph.alive(node) or len(node.outputs) != 1:
            continue
        rows = _asked(graph, node.output)
        if rows is None:
            continue
        needed = _by_rows(node, rows)
        if needed is None or not _reaches(graph, node, rows):
            if TABLE[node.op].kind in (Kind.CONTRACTION, Kind.REDUCTION):
                log.did_not(_NAME, node.name, f"{node.op} does not treat rows of axis {rows.axis} apart")
            continue
        inputs = [rows_of(v, needed[i]) if v is not None and i in needed else v for i, v in enumerate(node.inputs)]
        origin = (*(node.origin or (node.name,)), *_RULE)
        new = make(graph, node.op, inputs, node.attrs, name=node.name, origin=origin)
        # thresholds of the whole hold for a part
        new.output.known_as(node.output.sources)
        for reader, _ in list(node.output.uses):
            y = new.output
            if reader.output.type != y.type:
                y = make(graph, "Reshape", [y], {"shape": reader.output.type.shape}, origin=_RULE).output
            cut = {k: v for k, v in cut.items() if v is not reader.output}
            graph.replace_uses(reader.output, y)
            graph.remove_node(reader)
        graph.remove_node(node)
        log.did(_NAME, node.name)
    graph.prune()


SELECT_EARLY = Pass(_NAME, _run)
