"""Attention recovered: softmax(scale * Q K^T + mask) V with the moves that split and merge heads becomes one op.

Read backwards from the product with V: a softmax over the last axis, its input through scalar factors, additive masks
and Where with a large negative number, down to the product of Q and K. Heads, scale factors and the three operands'
places are found by tracing views (attention_views.py). A mask that hides exactly the future becomes `causal`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from temper.ir.dims import DimLike
from temper.ir.graph import Graph, Node, Value
from temper.ir.opdef import AttrValue
from temper.ir.ops import make
from temper.passes.attention_parts import grouped, triangular_mask
from temper.passes.attention_views import Rows, reshaped, rows_of, scalar, scaled
from temper.passes.manager import Log, Pass
from temper.passes.rewrite import only_user

_NAME = "attention"
#: What Where puts in place of a hidden score: so large that adding it to a score is the same as replacing the score.
_HIDDEN = -1e9


@dataclass
class _Scores:
    """What stands between the product Q K^T and its softmax: factor * product + masks."""

    product: Node
    factor: float = 1.0
    masks: list[Value] = field(default_factory=list)


def _scores(graph: Graph, v: Value) -> _Scores | str:
    factor, masks = 1.0, list[Value]()
    shape = v.type.shape
    while True:
        node = v.producer
        if node is None or node.op not in ("Add", "Mul", "Div", "Where", "MatMul"):
            return f"{v!r} is made by {node.op if node else 'no node'}, which is not on the way to a softmax"
        if (reason := only_user(v, graph)) is not None:
            return reason
        if node.op == "MatMul":
            return _Scores(node, factor, masks) if v.type.shape == shape else "a mask broadcasts the scores"
        if (step := scaled(node)) is not None:
            v, factor = step[0], factor * step[1]
            continue
        if factor != 1.0:
            return f"{node!r} adds a mask before the scores are scaled"
        made = _mask_step(graph, node)
        if isinstance(made, str):
            return made
        v = made[0]
        masks.append(made[1])


def _leads_to_product(v: Value) -> bool:
    while v.producer is not None and v.producer.op in ("Add", "Mul", "Div", "Where"):
        inner = [i for i in v.producer.inputs if i is not None and i.const is None and i.type.shape == v.type.shape]
        if not inner:
            return False
        v = next((i for i in inner if i.producer is not None and i.producer.op in _STEPS), inner[0])
    return v.producer is not None and v.producer.op == "MatMul"


_STEPS = ("Add", "Mul", "Div", "Where", "MatMul")


def _mask_step(graph: Graph, node: Node) -> tuple[Value, Value] | str:
    """(scores, mask to be added to them) of an Add or a Where."""
    inputs = [v for v in node.inputs if v is not None]
    if node.op == "Add":
        for x, m in ((inputs[0], inputs[1]), (inputs[1], inputs[0])):
            if x.type == node.output.type and _leads_to_product(x):
                return x, m
        return f"{node!r} adds no mask to scores"
    if node.op != "Where":
        return f"{node!r} multiplies scores by {inputs[1].type}"
    condition, a, b = inputs
    for x, c, seen in ((a, b, True), (b, a, False)):
        hidden = scalar(c)
        if hidden is not None and hidden <= _HIDDEN and x.type == node.output.type and _leads_to_product(x):
            zero, low = graph.add_constant(np.zeros((), np.float32)), graph.add_constant(np.asarray(hidden, np.float32))
            return x, make(graph, "Where", [condition, zero, low] if seen else [condition, low, zero]).output
    return f"{node!r} does not put a large negative number in place of scores"


def _causal(mask: Value, s: DimLike, t: DimLike) -> bool:
    """True if a mask is 0 up to the query's own position, counted from the end, and hides the rest."""
    if mask.const is None:
        return s == t and mask.type.shape[-2:] == (s, t) and triangular_mask(mask, _HIDDEN)
    a = mask.const
    if not isinstance(s, int) or not isinstance(t, int) or not 2 <= s <= t:
        return False
    if a.size != s * t or a.shape[-2:] != (s, t):
        return False
    plane, seen = a.reshape(s, t), np.arange(t) <= np.arange(s)[:, None] + (t - s)
    return bool((plane[seen] == 0).all() and (plane[~seen] <= _HIDDEN).all())


@dataclass(frozen=True)
class _Weights:
    """The softmax behind the weights. safe: rows without a key become zeros; hidden: bool of the rows that do so, where
    that is computed from a mask and not from the weights."""

    softmax: Node
    safe: bool = False
    hidden: Value | None = None


def _softmax(graph: Graph, v: Value) -> _Weights | str:
    node = v.producer
    if (reason := only_user(v, graph)) is not None:
        return reason
    found: _Weights | None = None
    if node is not None and node.op == "Where":
        condition, zero, p = node.inputs
        assert condition is not None and p is not None
        if scalar(zero) != 0.0 or p.producer is None:
            return f"{node!r} does not put zeros in place of weights"
        test = condition.producer
        if test is not None and test.op == "IsNaN" and test.inputs[0] is p and len(p.uses) == 2:
            found = _Weights(p.producer, True)
        elif (reason := only_user(p, graph)) is not None:
            return reason
        else:
            found = _Weights(p.producer, True, condition)
        node = p.producer
    if node is None or node.op != "Softmax":
        return f"{v!r} is not a softmax"
    if int(str(node.attrs["axis"])) % v.type.rank != v.type.rank - 1:
        return f"{node!r} is not over the last axis"
    return found or _Weights(node)


def _hides_blind_rows(hidden: Value, masks: list[Value]) -> bool:
    """True if `hidden` holds exactly where a mask is -inf for all keys, as ONNX's Attention writes it."""
    if hidden.const is not None:
        constant = [m.const for m in masks if m.const is not None and m.const.ndim]
        rows = [np.isneginf(m).all(axis=-1, keepdims=True) for m in constant]
        return not hidden.const.any() or any(r.shape == hidden.const.shape and (r == hidden.const).all() for r in rows)
    test = hidden.producer
    if test is None or test.op != "Equal" or scalar(test.inputs[1]) != -np.inf or test.inputs[0] is None:
        return False
    most = test.inputs[0].producer
    if most is None or most.op != "ReduceMax" or not most.attrs["keepdims"] or most.inputs[0] not in masks:
        return False
    axes = most.attrs["axes"]
    return isinstance(axes, tuple) and axes in ((-1,), (most.inputs[0].type.rank - 1,))


def _match(graph: Graph, last: Node) -> tuple[list[Value], dict[str, AttrValue], tuple[DimLike, ...]] | str:
    """Operands, attributes and (b, heads, s, e) of the attention that ends in this product."""
    p, v = last.inputs[0], last.inputs[1]
    assert p is not None and v is not None
    found = _softmax(graph, p)
    if isinstance(found, str):
        return found
    x, safe = found.softmax.inputs[0], found.safe
    assert x is not None
    scores = _scores(graph, x)
    if isinstance(scores, str):
        return scores
    if found.hidden is not None and not _hides_blind_rows(found.hidden, scores.masks):
        return f"weights become zeros where {found.hidden!r}, which is not where a mask hides all keys"
    first = scores.product
    q, kt = first.inputs[0], first.inputs[1]
    assert q is not None and kt is not None
    if any(n.attrs.get("transA") for n in (first, last)) or last.attrs.get("transB"):
        return "a product has a transposed operand"
    rank = p.type.rank
    if rank not in (3, 4) or {u.type.rank for u in (q, kt, v)} != {rank} or q.type.dtype != "float32":
        return f"operands have {rank} axes, or are not float32"
    transposed = bool(first.attrs.get("transB"))
    t_axis, d_axis = (rank - 2, rank - 1) if transposed else (rank - 1, rank - 2)
    if not all(isinstance(d, int) for d in (q.type.shape[-1], v.type.shape[-1])):
        return "the width of a head is not known"
    k, repeats = kt, 1
    if rank == 4:
        heads = p.type.shape[1]
        if not isinstance(heads, int):
            return "the number of heads is not known"
        made = grouped(kt, v, transposed)
        if made is not None:
            k, v, repeats, scores.factor = made[0], made[1], made[2], scores.factor * made[3]
            t_axis, d_axis = 2, 3
        groups = heads // repeats
        if {k.type.shape[1], v.type.shape[1]} != {groups} or {k.type.shape[0], v.type.shape[0]} != {p.type.shape[0]}:
            return "keys or values are broadcast over heads or batches"
        batch: DimLike = p.type.shape[0]
        orders = ((0, 1, 2, 3), (0, 1, t_axis, d_axis), (0, 1, 2, 3))
    else:
        if {u.type.shape[0] for u in (q, k, v)} != {p.type.shape[0]}:
            return "keys or values are broadcast over batches"
        lead = p.type.shape[0]
        batch, heads = (1, lead) if isinstance(lead, int) else (lead, 1)
        groups = heads
        axes = (-1, 0) if isinstance(lead, int) else (0, -1)
        orders = ((*axes, 1, 2), (*axes, t_axis, d_axis), (*axes, 1, 2))
    s, t = p.type.shape[-2:]
    d, e = q.type.shape[-1], v.type.shape[-1]
    sizes = ((batch, heads, s, d), (batch, groups, t, d), (batch, groups, t, e))
    operands, letters, factor = [], "", scores.factor
    for value, order, size in zip((q, k, v), orders, sizes, strict=True):
        rows = rows_of(graph, value, order, size) or _moved(graph, value, order, size)
        if value is v and rows.factor != 1.0:
            rows = _moved(graph, value, order, size)
        factor = factor * rows.factor
        operands.append(rows.value)
        letters += rows.letter
    attrs: dict[str, AttrValue] = {"heads": heads, "kv_heads": groups, "safe": int(safe)}
    mask, causal = _mask(graph, scores.masks, rank, (batch, heads, s, t))
    if mask is not None:
        operands.append(mask)
    return operands, {**attrs, "scale": factor, "layout": letters + "h", "causal": int(causal)}, (batch, heads, s, e)


def _moved(graph: Graph, v: Value, order: tuple[int, int, int, int], sizes: tuple[DimLike, ...]) -> Rows:
    """The operand with its axes put in order by a Transpose where needed."""
    perm = tuple(i for i in order if i >= 0)
    if perm != tuple(range(len(perm))):
        v = make(graph, "Transpose", [v], {"perm": perm}).output
    return Rows(reshaped(graph, v, sizes), "h", 1.0)


def _mask(graph: Graph, masks: list[Value], rank: int, sizes: tuple[DimLike, ...]) -> tuple[Value | None, bool]:
    """One mask whose last axis is whole, and whether the rest hid the future."""
    kept = [m for m in masks if not _causal(m, sizes[2], sizes[3])]
    causal = len(kept) < len(masks)
    total: Value | None = None
    for m in kept:
        if rank == 3 and m.type.rank == 3:
            lead = m.type.shape[0]
            by_head = sizes[0] == 1
            m = reshaped(graph, m, (1, lead, *m.type.shape[1:]) if by_head else (lead, 1, *m.type.shape[1:]))
        total = m if total is None else make(graph, "Add", [total, m]).output
    if total is not None and total.type.shape[-1:] != (sizes[3],):
        shape = (*total.type.shape[:-1], sizes[3]) if total.type.rank else (sizes[3],)
        total = make(graph, "Expand", [total], {"shape": shape}).output
    return total, causal


def _rewrite(
    graph: Graph, last: Node, operands: list[Value], attrs: dict[str, AttrValue], sizes: tuple[DimLike, ...]
) -> None:
    """Puts the op in place; heads that are merged right after are merged by its stores."""
    b, h, s, e = sizes
    origin = (*_origin(last, operands), f"rule:{_NAME}")
    result = last.output
    user = result.users[0] if only_user(result, graph) is None else None
    if user is not None and user.op == "Reshape" and user.output.type.shape == sizes:  # heads of three axes
        result = user.output
        user = result.users[0] if only_user(result, graph) is None else None
    if user is not None and user.op == "Transpose":
        perm, rank = user.attrs["perm"], result.type.rank
        assert isinstance(perm, tuple)
        axes = {0: "b", 1: "h", 2: "s", 3: "e"} if rank == 4 else {0: "h" if b == 1 else "b", 1: "s", 2: "e"}
        length = dict(zip("bhse", sizes, strict=True))
        order = "".join(axes[int(str(i))] for i in perm)
        if "".join(a for a in order if length[a] != 1) == "".join(a for a in "bshe" if length[a] != 1 and a in order):
            attrs = {**attrs, "layout": str(attrs["layout"])[:3] + "r"}
            more = (*origin[:-1], *(user.origin or (user.name,)), origin[-1])
            new = make(graph, "Attention", operands, attrs, name=last.name, origin=more)
            graph.replace_uses(user.output, reshaped(graph, new.output, user.output.type.shape))
            return
    if h == 1:
        attrs = {**attrs, "layout": str(attrs["layout"])[:3] + "r"}
    new = make(graph, "Attention", operands, attrs, name=last.name, origin=origin)
    graph.replace_uses(last.output, reshaped(graph, new.output, last.output.type.shape))


def _origin(last: Node, operands: list[Value]) -> tuple[str, ...]:
    """Source nodes from the split of the heads to the last product, in order."""
    names: list[str] = []
    ends, seen = {v.id for v in operands}, set[int]()
    stack = [(last, _INSIDE)]
    while stack:
        node, through = stack.pop()
        if node.id in seen or (node is not last and node.op not in through):
            continue
        seen.add(node.id)
        names = [*(node.origin or (node.name,)), *names]
        for i, v in enumerate(node.inputs):
            if v is not None and v.id not in ends and v.producer is not None:
                outside = node.op == "MatMul" and (node is not last or i == 1)
                stack.append((v.producer, _MOVES if outside else through))
    return tuple(dict.fromkeys(names))


_MOVES = frozenset({"Transpose", "Reshape", "Split"})
_INSIDE = frozenset({"Softmax", "Add", "Mul", "Div", "Where", "IsNaN", "MatMul"})


def _run(graph: Graph, log: Log) -> None:
    for node in graph.nodes:
        if node.op != "MatMul" or not graph.alive(node):
            continue
        weights = node.inputs[0]
        source = weights.producer if weights is not None else None
        if source is None or source.op not in ("Softmax", "Where"):
            continue
        found = _match(graph, node)
        if isinstance(found, str):
            log.did_not(_NAME, node.name, found)
            continue
        _rewrite(graph, node, *found)
        log.did(_NAME, node.name)
    graph.prune()


ATTENTION = Pass(_NAME, _run)
