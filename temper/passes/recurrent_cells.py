"""Recognises LSTM cells that are written out step by step; consecutive steps become one recurrent layer.

What tf2onnx writes for a Keras cell, and what an unrolled loop leaves: z = x W + h R + b, split into four parts of H
columns, then c' = f c + i g and h' = o act(c'). Which part is which gate follows from the products, not from their
order. Runs before fold, so that steps whose states are zeros still look like the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations

import numpy as np

from temper.ir.dims import DimLike
from temper.ir.graph import Graph, Node, Value
from temper.ir.ops import make
from temper.ir.ops.recurrent import ACTIVATIONS
from temper.passes.manager import Log, Pass
from temper.passes.steps import readers, seen, sequence

RULE = "lstm-cell"

#: an activation and its parameters
_Function = tuple[str, float, float]


@dataclass(frozen=True)
class Cell:
    """One step.

    order: which of the four parts are i, o, f and g.
    kept: f c, and where c is among its operands.
    products: x W and h R in any order, or x W alone where h is zeros.
    bias: constants added.
    """

    h: Value
    c: Value
    split: Node
    order: tuple[int, int, int, int]
    functions: tuple[_Function, _Function, _Function]
    kept: Node
    kept_at: int
    products: tuple[Node, ...]
    bias: tuple[Value, ...]
    hidden: int

    @property
    def last_c(self) -> Value:
        """c of the step before: an operand of f c, which is read anew since rewrites replace it."""
        v = self.kept.inputs[self.kept_at]
        assert v is not None
        return v


def _function(v: Value) -> tuple[_Function, Value] | None:
    """(activation, its operand) where `v` is an activation of something."""
    node = v.producer
    if node is None or node.op not in ACTIVATIONS or len(node.inputs) != 1 or node.inputs[0] is None:
        return None
    alpha, beta = (float(str(node.attrs.get(k, 0.0))) for k in ("alpha", "beta"))
    return (node.op, alpha, beta), node.inputs[0]


def _pair(v: Value, op: str) -> Iterator[tuple[Value, Value]]:
    """The operands of `v` = a op b, in both orders."""
    node = v.producer
    if node is not None and node.op == op and len(node.inputs) == 2:
        for a, b in permutations(node.inputs):
            if a is not None and b is not None:
                yield a, b


def _gate(v: Value, split: Node | None = None) -> tuple[_Function, Node, int] | None:
    """(activation, Split, which part) where `v` is an activation of a part of a Split."""
    found = _function(v)
    if found is None or found[1].producer is None or found[1].producer.op != "Split":
        return None
    if split is not None and found[1].producer is not split:
        return None
    return found[0], found[1].producer, found[1].index


_Reading = tuple[Node, tuple[int, int, int, int], tuple[_Function, _Function, _Function], Value, Node, int]


def _parts(h: Value) -> Iterator[_Reading]:
    """Every reading of `h` as o * act(f * c + i * g): (Split, order, activations, c', f * c, place of c)."""
    for a, b in _pair(h, "Mul"):
        out, outer = _gate(a), _function(b)
        if out is None or outer is None:
            continue
        gate, split, o = out
        for kept, added in _pair(outer[1], "Add"):
            for fv, last in _pair(kept, "Mul"):
                for iv, gv in _pair(added, "Mul"):
                    f, i, g = _gate(fv, split), _gate(iv, split), _gate(gv, split)
                    if f is None or i is None or g is None or f[0] != gate or i[0] != gate:
                        continue
                    order = (i[2], o, f[2], g[2])
                    if sorted(order) == [0, 1, 2, 3] and kept.producer is not None:
                        yield (
                            split,
                            order,
                            (gate, g[0], outer[0]),
                            outer[1],
                            kept.producer,
                            int(kept.producer.inputs[1] is last),
                        )


def _terms(v: Value) -> list[Value]:
    """The terms of a sum."""
    node = v.producer
    if node is None or node.op != "Add" or len(v.uses) > 1:
        return [v]
    return [t for u in node.inputs if u is not None for t in _terms(u)]


def find_cell(h: Value) -> Cell | str | None:
    """The step whose h' is `h`; None if it is none, a reason where only its sums are not known."""
    reading = next(_parts(h), None)
    if reading is None:
        return None
    split, order, functions, c, kept, kept_at = reading
    z = split.inputs[0]
    hidden = split.outputs[0].type.shape[-1]
    if z is None or z.type.rank != 2 or len(split.outputs) != 4 or not isinstance(hidden, int):
        return "its gates are not four parts of rows"
    if any(p.type != split.outputs[0].type for p in split.outputs) or z.type.shape[1] != 4 * hidden:
        return "its gates are not four equal parts of the columns"
    products: list[Node] = []
    bias: list[Value] = []
    for t in _terms(z):
        if t.const is not None and not np.any(t.const):
            continue  # the product of a state of zeros
        if t.const is not None and t.const.size == 4 * hidden:
            bias.append(t)
        elif t.producer is not None and t.producer.op == "MatMul" and weights(t.producer) is not None:
            products.append(t.producer)
        else:
            return f"its gates also add {t!r}"
    if len(products) not in (1, 2):
        return f"its gates are {len(products)} products with constants, not x W and h R"
    return Cell(h, c, split, order, functions, kept, kept_at, tuple(products), tuple(bias), hidden)


def weights(node: Node) -> np.ndarray | None:
    """The constant [K, N] of a product of rows, or None."""
    w, x = node.inputs[1], node.inputs[0]
    if w is None or x is None or w.const is None or w.const.ndim != 2 or x.type.rank != 2:
        return None
    if node.attrs.get("transA", 0):
        return None
    return w.const.T if node.attrs.get("transB", 0) else w.const


def data(node: Node) -> Value:
    x = node.inputs[0]
    assert x is not None
    return x


#: the place of h R in a step whose h is zeros
_ABSENT = -1


def _input_product(cell: Cell, place: int) -> Node:
    """x W, where h R is at `place`."""
    return cell.products[0 if place == _ABSENT else 1 - place]


def _recurrent_product(cell: Cell, before: Cell | None, known: np.ndarray | None) -> int | None:
    """Which of the cell's products is h R: that of the previous step's h, or that with the weights known to be R."""
    if len(cell.products) == 1:
        return None if before is not None or known is None else _ABSENT
    for k, node in enumerate(cell.products):
        own = weights(node)
        assert own is not None
        if own.shape[0] != cell.hidden:
            continue
        if before is not None and seen(data(node)) is not before.h:
            continue
        if known is not None and not np.array_equal(own, known):
            continue
        return k
    return None


def _same_layer(a: Cell, b: Cell, ra: int, rb: int) -> bool:
    """True if two steps have one layer's weights."""
    pairs = [(_input_product(a, ra), _input_product(b, rb))]
    if ra != _ABSENT:
        pairs.append((a.products[ra], b.products[rb]))
    arrays = [(weights(x), weights(y)) for x, y in pairs]
    arrays += [(x.const, y.const) for x, y in zip(a.bias, b.bias, strict=False)]
    same = all(x is y or (x is not None and y is not None and np.array_equal(x, y)) for x, y in arrays)
    return same and len(a.bias) == len(b.bias) and (a.order, a.functions) == (b.order, b.functions)


def _chains(cells: Sequence[Cell]) -> list[tuple[list[Cell], list[int]]]:
    """Steps that follow each other in one layer, and which product of each is h R."""
    by_c = {c.c.id: c for c in cells}
    after: dict[int, Cell] = {}
    for cell in cells:
        before = by_c.get(seen(cell.last_c).id)
        r = None if before is None else _recurrent_product(cell, before, None)
        if before is None or r is None or before.c.id in after:
            continue
        rb = _recurrent_product(before, None, weights(cell.products[r]))
        if rb is not None and _same_layer(before, cell, rb, r):
            after[before.c.id] = cell
    followed = {c.c.id for c in after.values()}
    out = []
    for cell in cells:
        if cell.c.id in followed:
            continue
        chain = [cell]
        while (following := after.get(chain[-1].c.id)) is not None:
            chain.append(following)
        known: np.ndarray | None = None
        if len(chain) > 1:
            last = _recurrent_product(chain[1], chain[0], None)
            assert last is not None
            known = weights(chain[1].products[last])
        found = [_recurrent_product(c, None, known) for c in chain]
        if None not in found:
            out.append((chain, [k for k in found if k is not None]))
    return out


def _columns(array: np.ndarray, cell: Cell) -> np.ndarray:
    """The last axis in ONNX's order of gates: i, o, f, g."""
    blocks = np.split(array, 4, axis=-1)
    return np.concatenate([blocks[k] for k in cell.order], axis=-1)


class Emitter:
    """Adds the nodes that stand for those of `nodes`."""

    def __init__(self, graph: Graph, name: str, nodes: Sequence[Node]) -> None:
        self.graph, self.name = graph, name
        origins = (o for n in nodes for o in (n.origin or (n.name,)))
        self.origin = (*dict.fromkeys(origins), f"rule:{RULE}")

    def __call__(self, op: str, *inputs: Value | None, **attrs: object) -> Node:
        return make(self.graph, op, inputs, attrs, name=f"{self.name}.{op.lower()}", origin=self.origin)  # type: ignore[arg-type]

    def reshape(self, v: Value, *shape: DimLike) -> Value:
        return v if v.type.shape == shape else self("Reshape", v, shape=shape).output

    def constant(self, array: np.ndarray, what: str) -> Value:
        return self.graph.add_constant(np.ascontiguousarray(array), f"{self.name}.{what}")


def layer(
    emit: Emitter,
    cell: Cell,
    w: np.ndarray,
    r: np.ndarray,
    x: Value,
    first: int,
    backwards: bool,
    h0: Value | None,
    c0: Value,
) -> Node:
    """The Recurrence of `cell`'s gates over the steps of x [T, B, I] (first 0) or [B, T, I] (first 1)."""
    batch, hidden = x.type.shape[1 - first], cell.hidden
    gates = emit("MatMul", x, emit.constant(_columns(w, cell), "W")).output
    if cell.bias:
        bias = sum(v.const.reshape(-1) for v in cell.bias if v.const is not None)
        gates = emit("Add", gates, emit.constant(_columns(np.asarray(bias), cell), "b")).output
    states = [None if v is None else emit.reshape(v, 1, batch, hidden) for v in (h0, c0)]
    return emit(
        "Recurrence",
        gates,
        emit.constant(_columns(r, cell).T[None], "R"),
        None,
        None,
        *states,
        cell="lstm",
        direction="reverse" if backwards else "forward",
        batch_first=first,
        activations=" ".join(f[0] for f in cell.functions),
        alpha=tuple(f[1] for f in cell.functions),
        beta=tuple(f[2] for f in cell.functions),
    )


def _rewrite(graph: Graph, chain: Sequence[Cell], which: Sequence[int]) -> None:
    """One Recurrence for the steps of `chain`; which[k]: step k's product h R."""
    head, steps = chain[0], len(chain)
    emit = Emitter(graph, head.split.name, [n for c in chain for n in (*c.products, c.split)])
    whose = 1 if which[0] == _ABSENT else 0
    r, w = weights(chain[whose].products[which[whose]]), weights(_input_product(head, which[0]))
    assert r is not None and w is not None
    xs = [data(_input_product(c, k)) for c, k in zip(chain, which, strict=True)]
    batch, size = xs[0].type.shape
    whole = sequence(xs)
    first, backwards = 0, False
    if whole is not None:
        x, first, backwards = whole
    else:
        parts = [emit.reshape(v, 1, batch, size) for v in xs]
        x = emit("Concat", *parts, axis=0).output if steps > 1 else parts[0]
    h0 = None if which[0] == _ABSENT else data(head.products[which[0]])
    y, h, c = layer(emit, head, w, r, x, first, backwards, h0, head.last_c).outputs
    stacked = _stack(chain)
    for t, cell in enumerate(chain[:-1]):
        at = steps - 1 - t if backwards else t
        part = emit("Slice", y, starts=(at,), ends=(at + 1,), axes=(first,), steps=(1,)).output
        graph.replace_uses(cell.h, emit.reshape(part, batch, head.hidden))
    for old, new in ((chain[-1].h, h), (chain[-1].c, c)):
        graph.replace_uses(old, emit.reshape(new, batch, head.hidden))
    if stacked is not None and not backwards:
        node, axis = stacked
        rows = y if axis == first else emit("Transpose", y, perm=(1, 0, 2)).output
        graph.replace_uses(node.output, rows)


def _stack(chain: Sequence[Cell]) -> tuple[Node, int] | None:
    """(Concat, axis) where one joins every step's h along a new axis of time, in order."""
    for user in readers(chain[0].h):
        if user.op != "Concat" or len(user.inputs) != len(chain) or user.output.type.rank != 3:
            continue
        axis = int(str(user.attrs["axis"])) % 3
        if axis > 1 or user.output.type.shape[axis] != len(chain):
            continue
        if all(v is not None and seen(v) is c.h for v, c in zip(user.inputs, chain, strict=True)):
            return user, axis
    return None


def _apart(graph: Graph, chain: Sequence[Cell], which: Sequence[int]) -> str | None:
    """Why the steps must stay apart: a state between two of them is read elsewhere, or an input follows from one."""
    own = {n.id for c in chain for n in (c.c.producer, c.h.producer, c.kept) if n is not None}
    for cell in chain[:-1]:
        if graph.is_output(cell.c):
            return f"{cell.c!r} is an output of the model"
        for node in readers(cell.c):
            inner = node.op in ACTIVATIONS and {u.id for u in node.output.users} <= own
            if node.id not in own and not inner:
                return f"{cell.c!r} is read by {node!r}"
    stack = [data(_input_product(c, k)) for c, k in zip(chain, which, strict=True)]
    visited: set[int] = set()
    while stack:
        node_ = stack.pop().producer
        if node_ is None or node_.id in visited:
            continue
        if node_.id in own:
            return f"an input of the steps follows from {node_!r}"
        visited.add(node_.id)
        stack += [v for v in node_.inputs if v is not None]
    return None


def _recognise(graph: Graph, log: Log) -> None:
    cells = []
    for node in graph.nodes:
        if node.op != "Mul":
            continue
        found = find_cell(node.output)
        if isinstance(found, str):
            log.did_not(RULE, node.name, found)
        elif found is not None:
            cells.append(found)
    for chain, which in _chains(cells):
        reason = _apart(graph, chain, which) if len(chain) > 1 else None
        if reason is not None:
            log.did_not("merge-steps", chain[0].split.name, reason)
        pieces = [(chain, which)] if reason is None else [([c], [k]) for c, k in zip(chain, which, strict=True)]
        for steps, places in pieces:
            if len(steps) == 1 and places[0] == _ABSENT:
                log.did_not(RULE, steps[0].split.name, "its h is zeros: there is no h R")
                continue
            _rewrite(graph, steps, places)
            log.did(RULE, steps[0].split.name)
    graph.prune()


RECURRENT_CELLS = Pass("recurrent-cells", _recognise)
