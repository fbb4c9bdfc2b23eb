"""Channels-last layout: every spatial op works on [N, spatial.., C]; transposes move to the edges and cancel.

Each channels-first spatial op is rewritten between two Transposes. These then sink through their readers until they
meet one that undoes them, or the edge of the graph. A reader whose other inputs would need a transpose in return lets
through only "to channels-first" ones of rank 4 and more (at rank 3 both directions are the same permutation), or those
that leave fewer transposes than they remove: so sinking ends.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import accumulate

import numpy as np

from temper.ir.dims import DimLike, product
from temper.ir.graph import Graph, Node, Value
from temper.ir.opdef import AttrValue, Kind
from temper.ir.ops import TABLE, make
from temper.passes.manager import Log, Pass

Perm = tuple[int, ...]


def to_last(rank: int) -> Perm:
    """[N, C, spatial..] to [N, spatial.., C]."""
    return (0, *range(2, rank), 1)


def to_first(rank: int) -> Perm:
    """[N, spatial.., C] to [N, C, spatial..]."""
    return (0, rank - 1, *range(1, rank - 1))


def inverse(perm: Perm) -> Perm:
    return tuple(int(i) for i in np.argsort(perm))


def compose(first: Perm, then: Perm) -> Perm:
    """The permutation of transposing by `first`, then by `then`."""
    return tuple(first[i] for i in then)


#: What nodes are made by; those it names nothing are called after what they are made of (names.py).
_RULE = "rule:channels-last"


def transpose(graph: Graph, v: Value, perm: Perm) -> Value:
    """`v` transposed; folded for constants, quantized ones too, nothing for the identity."""
    if perm == tuple(range(v.type.rank)):
        return v
    if v.const is not None:
        return graph.add_constant(graph.derived(transposed, v.const, perm), v.name, v.type.dtype)
    source = v.producer
    if source is not None and source.op == "DequantizeLinear" and not source.attrs["block_size"]:
        codes, axis = source.inputs[0], source.attrs["axis"]
        if codes is not None and codes.const is not None and isinstance(axis, int):
            attrs = {**source.attrs, "axis": perm.index(axis % len(perm))}
            inputs = [transpose(graph, codes, perm), *source.inputs[1:]]
            return make(graph, "DequantizeLinear", inputs, attrs, origin=source.origin).output
    return make(graph, "Transpose", [v], {"perm": perm}, origin=(_RULE,)).output


def transposed(array: np.ndarray, perm: Perm) -> np.ndarray:
    """The transpose, contiguous."""
    return np.ascontiguousarray(array.transpose(perm))


def _convert(graph: Graph, log: Log) -> None:
    for node in graph.nodes:
        if "channels_last" not in TABLE[node.op].attrs or node.attrs.get("channels_last"):
            continue
        x = node.inputs[0]
        assert x is not None
        rank = x.type.rank
        if rank < 3:
            log.did_not("channels-last", node.name, f"its data has rank {rank}: there are no spatial axes")
            continue
        inputs = list(node.inputs)
        inputs[0] = transpose(graph, x, to_last(rank))
        if node.op in ("Conv", "ConvTranspose", "ConvInteger"):
            w = node.inputs[1]
            assert w is not None
            # OIHW -> HWIO; ConvTranspose has IOHW -> HWIO
            perm = (*range(2, rank), 1, 0) if node.op != "ConvTranspose" else (*range(2, rank), 0, 1)
            inputs[1] = transpose(graph, w, perm)
        attrs: dict[str, AttrValue] = {**node.attrs, "channels_last": 1}
        for name in ("sizes", "scales"):  # Resize states them for every axis
            given = attrs.get(name)
            if node.op == "Resize" and isinstance(given, tuple) and len(given) == rank:
                attrs[name] = tuple(given[i] for i in to_last(rank))
        roi = attrs.get("roi")
        if node.op == "Resize" and isinstance(roi, tuple):
            attrs["roi"] = tuple(roi[half + i] for half in (0, rank) for i in to_last(rank))
        if node.op == "Resize" and not _resize_knows(node):
            log.did_not("channels-last", node.name, "its sizes are not constants")
            continue
        new = make(
            graph, node.op, inputs, attrs, name=node.name, origin=(*(node.origin or (node.name,)), _RULE)
        )
        for old, out in zip(node.outputs, new.outputs, strict=True):
            graph.replace_uses(old, transpose(graph, out, to_first(rank)) if out.type.rank == rank else out)
        graph.remove_node(node)
        log.did("channels-last", node.name)
    _sink_all(graph, log)
    graph.prune()


def _resize_knows(node: Node) -> bool:
    return all(v is None for v in node.inputs[1:])


Sink = Callable[[Graph, Node, Node, Perm], bool]


def _sink_all(graph: Graph, log: Log) -> None:
    """Until nothing moves: cancel pairs of transposes, then sink the first that can.

    What stays and only renames becomes a Reshape. That comes last: a transpose of [N, C, 1, 1] still sinks and
    cancels, a Reshape would stand between an op and its epilogue.
    """
    moved = True
    while moved:
        moved = False
        for node in graph.nodes:
            if node.op != "Transpose" or not graph.alive(node):
                continue
            x = node.inputs[0]
            assert x is not None
            perm = _perm(node)
            if x.type.count == 1 and _as_reshape(
                graph, node, perm
            ):  # a scalar asks for nothing in return: it would sink forever
                moved = True
                continue
            if x.producer is not None and x.producer.op == "Transpose":
                source = x.producer.inputs[0]
                assert source is not None
                graph.replace_uses(node.output, transpose(graph, source, compose(_perm(x.producer), perm)))
                graph.remove_node(node)
                moved = True
                continue
            for user in node.output.users:
                sink = _SINKS.get(user.op) or (_elementwise if TABLE[user.op].kind is Kind.ELEMENTWISE else None)
                if sink is None:
                    continue
                reason = _not_worth_sinking(node, user, perm)
                if reason is not None:
                    log.did_not("sink transpose", user.name, reason)
                    continue
                if sink(graph, node, user, perm):
                    log.did("sink transpose", user.name)
                    moved = True
            if not node.output.uses and not graph.is_output(node.output):
                graph.remove_node(node)
                moved = True
    for node in graph.nodes:
        if node.op == "Transpose":
            _as_reshape(graph, node, _perm(node))


def _not_worth_sinking(node: Node, user: Node, perm: Perm) -> str | None:
    """None if the transpose `node` may sink through `user`; the reason if more transposes would come than go.

    "To first" sinks always, but for rank 3, where it is its own inverse and the transposes it leaves behind would sink
    again. Others sink where no input needs a transpose in return: a majority is not enough, since what comes in return
    may be "to first".
    """
    gone = come = 0
    for v in user.inputs:
        if v is None or v.const is not None or v.type.count == 1:
            continue
        same = v is node.output or (
            v.producer is not None and v.producer.op == "Transpose" and _perm(v.producer) == perm
        )
        gone, come = gone + same, come + (not same)
    if come == 0 or (come < gone if len(perm) < 4 else perm == to_first(len(perm))):
        return None
    return f"{come} of its other inputs would need a transpose in return"


def _perm(node: Node) -> Perm:
    perm = node.attrs["perm"]
    assert isinstance(perm, tuple)
    return perm  # type: ignore[return-value]


def _as_reshape(graph: Graph, node: Node, perm: Perm) -> bool:
    """A transpose that moves only axes of size 1 renames the buffer."""
    x = node.inputs[0]
    assert x is not None
    real = [i for i in perm if x.type.shape[i] != 1]
    if real != sorted(real):
        return False
    if not _shape_ok(node.output.type.shape):
        return False
    origin = (*dict.fromkeys((*node.origin, _RULE)),)
    shape = node.output.type.shape
    graph.replace_uses(node.output, make(graph, "Reshape", [x], {"shape": shape}, origin=origin).output)
    graph.remove_node(node)
    return True


def _shape_ok(shape: tuple[DimLike, ...]) -> bool:
    return len(shape) > 0


def _rewire(
    graph: Graph, user: Node, inputs: list[Value | None], attrs: Mapping[str, AttrValue], perm: Perm | None
) -> bool:
    """`user` again on other inputs; each output goes back through `perm` (None: as it is)."""
    new = make(graph, user.op, inputs, attrs, name=user.name, origin=user.origin or (user.name,))
    for old, out in zip(user.outputs, new.outputs, strict=True):
        graph.replace_uses(old, out if perm is None else transpose(graph, out, perm))
    graph.remove_node(user)
    return True


def _elementwise(graph: Graph, node: Node, user: Node, perm: Perm) -> bool:
    """f(T(x), y, ..) = T(f(x, T'(y), ..)); broadcast operands are first given the full rank."""
    rank = len(perm)
    if any(o.type.rank != rank for o in user.outputs):
        return False
    inputs: list[Value | None] = []
    for v in user.inputs:
        if v is None:
            inputs.append(None)
        elif v is node.output:
            inputs.append(node.inputs[0])
        else:
            if v.type.rank < rank:
                if v.type.count == 1 and v.type.rank <= 1:
                    inputs.append(v)
                    continue
                shape = (1,) * (rank - v.type.rank) + v.type.shape
                v = (
                    graph.add_constant(
                        v.const.reshape((1,) * (rank - v.type.rank) + v.const.shape), v.name, v.type.dtype
                    )
                    if v.const is not None
                    else make(graph, "Reshape", [v], {"shape": shape}, origin=(_RULE,)).output
                )
            inputs.append(transpose(graph, v, inverse(perm)))
    return _rewire(graph, user, inputs, user.attrs, perm)


def _axis_op(graph: Graph, node: Node, user: Node, perm: Perm) -> bool:
    """Softmax, Split, Concat, CumSum ..: the axis is renamed."""
    axis = user.attrs.get("axis")
    if not isinstance(axis, int):
        return False
    inputs = [
        None if v is None else node.inputs[0] if v is node.output else transpose(graph, v, inverse(perm))
        for v in user.inputs
    ]
    return _rewire(graph, user, inputs, {**user.attrs, "axis": perm[axis % len(perm)]}, perm)


def _reduce(graph: Graph, node: Node, user: Node, perm: Perm) -> bool:
    axes = user.attrs.get("axes")
    if not isinstance(axes, tuple):
        return False
    rank = len(perm)
    chosen = {perm[int(str(a)) % rank] for a in axes} if axes else set(range(rank))
    attrs = {**user.attrs, "axes": tuple(sorted(chosen))}
    if user.attrs.get("keepdims", 1):
        return _rewire(graph, user, [node.inputs[0], *user.inputs[1:]], attrs, perm)
    left = [i for i in range(rank) if i not in chosen]
    order = tuple(left.index(i) for i in perm if i in left)
    return _rewire(graph, user, [node.inputs[0], *user.inputs[1:]], attrs, order)


def _quantize(graph: Graph, node: Node, user: Node, perm: Perm) -> bool:
    """Scale and zero point are vectors along `axis`, not broadcast tensors."""
    axis = user.attrs["axis"]
    if user.attrs.get("block_size") or not isinstance(axis, int) or node.output in user.inputs[1:]:
        return False
    attrs = {**user.attrs, "axis": perm[axis % len(perm)]} if -len(perm) <= axis < len(perm) else user.attrs
    return _rewire(graph, user, [node.inputs[0], *user.inputs[1:]], attrs, perm)


def _pad(graph: Graph, node: Node, user: Node, perm: Perm) -> bool:
    pads = user.attrs.get("pads")
    if not isinstance(pads, tuple) or len(pads) != 2 * len(perm) or any(v is not None for v in user.inputs[1:]):
        return False
    back = inverse(perm)
    n = len(perm)
    return _rewire(
        graph,
        user,
        [node.inputs[0]],
        {**user.attrs, "pads": tuple(pads[i] for i in back) + tuple(pads[n + i] for i in back)},
        perm,
    )


def _slice(graph: Graph, node: Node, user: Node, perm: Perm) -> bool:
    starts = user.attrs["starts"]
    assert isinstance(starts, tuple)
    axes = user.attrs.get("axes", tuple(range(len(starts))))
    assert isinstance(axes, tuple)
    renamed = tuple(perm[int(str(a)) % len(perm)] for a in axes)
    return _rewire(graph, user, [node.inputs[0]], {**user.attrs, "axes": renamed}, perm)


def _reshape(graph: Graph, node: Node, user: Node, perm: Perm) -> bool:
    """A reshape that only splits and merges axes inside units the transpose keeps together can come first.

    Where the transpose tears units apart (channel shuffle, depth to space), it is split in two if that leaves a "to
    first" to sink: the first part brings each unit together, the second moves whole units.
    """
    x = node.inputs[0]
    assert x is not None
    groups = factor_groups(node.output.type.shape, user.output.type.shape)
    if groups is None or perm == tuple(range(len(perm))):
        return False
    units = [tuple(perm[i] for i in g[0]) for g in groups]  # axes of x per group
    if any(not u for u in units):
        return False
    order = sorted(range(len(groups)), key=lambda k: min(units[k]))
    together = tuple(i for k in order for i in units[k])
    shape = tuple(user.output.type.shape[j] for k in order for j in groups[k][1])
    starts = dict(zip(order, accumulate([0, *(len(groups[k][1]) for k in order)]), strict=False))
    new_perm = tuple(starts[k] + j for k in range(len(groups)) for j in range(len(groups[k][1])))
    if together != tuple(range(len(perm))):
        if new_perm != to_first(len(new_perm)) or len(new_perm) < 3:
            return False
        x = transpose(graph, x, together)
    origin = (*(user.origin or (user.name,)), _RULE)
    first = make(graph, "Reshape", [x], {"shape": shape}, origin=origin).output
    graph.replace_uses(user.output, transpose(graph, first, new_perm))
    graph.remove_node(user)
    return True


def factor_groups(
    before: tuple[DimLike, ...], after: tuple[DimLike, ...]
) -> list[tuple[tuple[int, ...], tuple[int, ...]]] | None:
    """Smallest runs of axes with equal products on both sides: [(axes before, axes after), ..].

    None if the shapes do not line up.
    """
    out = []
    i = j = 0
    while i < len(before) or j < len(after):
        a, b = [i] if i < len(before) else [], [j] if j < len(after) else []
        i, j = i + len(a), j + len(b)
        while True:
            left, right = product(tuple(before[k] for k in a)), product(tuple(after[k] for k in b))
            if left == right:
                break
            if isinstance(left, int) and isinstance(right, int):
                if left < right and i < len(before):
                    a.append(i)
                    i += 1
                elif right < left and j < len(after):
                    b.append(j)
                    j += 1
                else:
                    return None
            elif i < len(before) and len(a) <= len(b):
                a.append(i)
                i += 1
            elif j < len(after):
                b.append(j)
                j += 1
            else:
                return None
        out.append((tuple(a), tuple(b)))
    return out


def _matmul_rows(graph: Graph, log: Log) -> None:
    """flatten(T(x)) @ W = flatten(x) @ W with rows permuted.

    A classifier after a channels-last feature map needs no transpose.
    """
    for node in graph.nodes:
        if node.op != "MatMul" or node.attrs.get("transA") or node.attrs.get("transB"):
            continue
        a, w = node.inputs
        assert a is not None and w is not None
        reshape = a.producer
        if reshape is None or reshape.op != "Reshape" or w.const is None or w.type.rank != 2 or a.type.rank != 2:
            continue
        flat = reshape.inputs[0]
        assert flat is not None
        t = flat.producer
        if t is None or t.op != "Transpose" or _perm(t)[0] != 0 or flat.type.shape[0] != a.type.shape[0]:
            continue
        inner = flat.type.shape[1:]
        if any(not isinstance(d, int) for d in inner):
            log.did_not("permute classifier weights", node.name, f"the flattened shape {flat.type} is not static")
            continue
        perm = _perm(t)
        rows = (
            np.arange(w.const.shape[0])
            .reshape(tuple(int(str(d)) for d in inner))
            .transpose([inverse(perm)[i] - 1 for i in range(1, len(perm))])
            .reshape(-1)
        )
        source = t.inputs[0]
        assert source is not None
        x = make(graph, "Reshape", [source], {"shape": a.type.shape}, origin=(*reshape.origin, _RULE)).output
        graph.set_input(node, 0, x)
        graph.set_input(node, 1, graph.add_constant(w.const[rows], w.name, w.type.dtype))
        log.did("permute classifier weights", node.name)
    graph.prune()


_SINKS: Mapping[str, Sink] = {
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax", "Concat", "Split", "CumSum"), _axis_op),
    **dict.fromkeys(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1"), _reduce),
    **dict.fromkeys(("ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp"), _reduce),
    "QuantizeLinear": _quantize,
    "DequantizeLinear": _quantize,
    "Pad": _pad,
    "Slice": _slice,
    "Reshape": _reshape,
}

LAYOUT = Pass("layout", _convert)
CLASSIFIER_ROWS = Pass("classifier-rows", _matmul_rows)
