"""Recognises squeeze-excite: gate(dense(activation(dense(mean of x over space)))) = SqueezeExcite(x, weights).

`dense` is a 1x1 convolution, or a matrix product with its bias, both with constant weights; views between [N, C] and
[N, C, 1, 1] are looked through. Runs before layout, which then treats the op like any spatial one. The product with the
map stays outside.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from temper.ir.graph import Graph, Node, Value
from temper.ir.ops import make
from temper.passes.manager import Log, Pass
from temper.passes.rewrite import only_user

ACTIVATIONS = frozenset({"Relu", "Silu", "HardSwish"})
GATES = frozenset({"Sigmoid", "HardSigmoid"})
_NAME = "squeeze-excite"
_APPLIED = "gates-applied"


@dataclass(frozen=True)
class _Dense:
    """x @ weights + bias: weights [in, out], bias [out] or None."""

    x: Value
    weights: np.ndarray
    bias: np.ndarray | None


def _through_views(v: Value, inner: list[Value]) -> Value:
    """The value under reshapes that only add or drop axes of size 1; values passed are noted in `inner`."""
    while v.producer is not None and v.producer.op == "Reshape":
        source = v.producer.inputs[0]
        assert source is not None
        if [d for d in source.type.shape if d != 1] != [d for d in v.type.shape if d != 1]:
            break
        inner.append(v)
        v = source
    return v


def _dense(v: Value, inner: list[Value]) -> _Dense | str:
    """`v` as a dense layer of an earlier value, or why it is none."""
    v = _through_views(v, inner)
    inner.append(v)
    node, bias = v.producer, None
    if node is not None and node.op == "Add":
        constant = [i for i in node.inputs if i is not None and i.const is not None]
        rest = [i for i in node.inputs if i is not None and i.const is None]
        if len(constant) != 1 or len(rest) != 1:
            return f"{node!r} adds no constant"
        bias = constant[0].const
        v = _through_views(rest[0], inner)
        inner.append(v)
        node = v.producer
    if node is None or node.op not in ("Conv", "MatMul"):
        return f"{v!r} is made by {node.op if node else 'no node'}, not by a convolution or matrix product"
    x, w = node.inputs[0], node.inputs[1]
    assert x is not None and w is not None
    if w.const is None:
        return f"the weights of {node!r} are not constant"
    matrix = _conv_matrix(node, x, w.const) if node.op == "Conv" else _product_matrix(node, w.const)
    if isinstance(matrix, str):
        return matrix
    if node.op == "Conv" and len(node.inputs) > 2 and node.inputs[2] is not None:
        if bias is not None or node.inputs[2].const is None:
            return f"{node!r} has a bias that is not one constant"
        bias = node.inputs[2].const
    if bias is not None and (bias.size != matrix.shape[1] or max(bias.shape, default=1) != bias.size):
        return f"the bias of {node!r} has shape {list(bias.shape)}, not one number a channel"
    return _Dense(x, np.ascontiguousarray(matrix), None if bias is None else bias.reshape(-1))


def _conv_matrix(node: Node, x: Value, w: np.ndarray) -> np.ndarray | str:
    """[in, out] weights of a convolution that sees one pixel through a 1x1 window."""
    last = bool(node.attrs.get("channels_last"))
    kernel, spatial = (w.shape[:-2], x.type.shape[1:-1]) if last else (w.shape[2:], x.type.shape[2:])
    pads = node.attrs["pads"]
    assert isinstance(pads, tuple)
    if any(d != 1 for d in (*kernel, *spatial)) or any(pads) or node.attrs["group"] != 1:
        return f"{node!r} is not a 1x1 convolution of one pixel"
    flat: np.ndarray = w.reshape(w.shape[-2:]) if last else w.reshape(w.shape[:2]).T
    return flat


def _product_matrix(node: Node, w: np.ndarray) -> np.ndarray | str:
    if w.ndim != 2 or node.attrs.get("transA"):
        return f"{node!r} is not a product with one matrix"
    return w.T if node.attrs.get("transB") else w


def _spatial_mean(v: Value) -> Value | str:
    """The map [N, C, spatial..] whose spatial mean `v` is, or why there is none."""
    node = v.producer
    if node is None or node.op != "ReduceMean":
        return f"{v!r} is made by {node.op if node else 'no node'}, not by ReduceMean"
    x, axes = node.inputs[0], node.attrs["axes"]
    assert x is not None and isinstance(axes, tuple)
    rank = x.type.rank
    if rank < 3 or sorted(int(str(a)) % rank for a in axes) != list(range(2, rank)):
        return f"{node!r} averages axes {axes} of {x.type}, not its spatial ones"
    return x


def _match(graph: Graph, gate: Node) -> tuple[Value, _Dense, str, _Dense] | str:
    """The map, the first layer, its activation and the second layer of a block that ends in `gate`; or why there is
    none."""
    inner: list[Value] = []
    out = gate.inputs[0]
    assert out is not None
    second = _dense(out, inner)
    if isinstance(second, str):
        return second
    middle = _through_views(second.x, inner)
    inner.append(middle)
    act = middle.producer
    if act is None or act.op not in ACTIVATIONS or act.inputs[0] is None:
        return f"{middle!r} is made by {act.op if act else 'no node'}, which is not an activation of this block"
    first = _dense(act.inputs[0], inner)
    if isinstance(first, str):
        return first
    mean = _through_views(first.x, inner)
    inner.append(mean)
    x = _spatial_mean(mean)
    if isinstance(x, str):
        return x
    if (
        x.type.dtype != "float32"
        or x.type.shape[1] != first.weights.shape[0]
        or first.weights.shape[1] != second.weights.shape[0]
    ):
        return f"no kernel takes {x.type} with weights {first.weights.shape} and {second.weights.shape}"
    if any(d == 0 for d in x.type.shape):
        return f"{x!r} is empty"
    for v in inner:
        if (reason := only_user(v, graph)) is not None:
            return reason
    return x, first, act.op, second


def _run(graph: Graph, log: Log) -> None:
    for node in graph.nodes:
        if node.op not in GATES or not graph.alive(node):
            continue
        found = _match(graph, node)
        if isinstance(found, str):
            log.did_not(_NAME, node.name, found)
            continue
        x, first, activation, second = found
        weights = [
            None if a is None else graph.add_constant(a, node.name)
            for a in (first.weights, first.bias, second.weights, second.bias)
        ]
        attrs: dict[str, int | float | str] = {"activation": activation, "gate": node.op}
        if node.op == "HardSigmoid":
            attrs |= {"gate_alpha": float(node.attrs["alpha"]), "gate_beta": float(node.attrs["beta"])}  # type: ignore[arg-type]
        new = make(graph, "SqueezeExcite", [x, *weights], attrs, name=node.name, origin=_origin(node, x)).output
        if new.type != node.output.type:
            shape = node.output.type.shape
            new = make(graph, "Reshape", [new], {"shape": shape}, origin=(f"rule:{_NAME}",)).output
        graph.replace_uses(node.output, new)
        log.did(_NAME, node.name)
    graph.prune()


def _origin(gate: Node, x: Value) -> tuple[str, ...]:
    """Source nodes between the map and the gate, in order."""
    names: list[str] = []
    stack, seen = [gate], set()
    while stack:
        n = stack.pop()
        if n.id in seen:
            continue
        seen.add(n.id)
        names = [*(n.origin or (n.name,)), *names]
        stack += [v.producer for v in n.inputs if v is not None and v is not x and v.producer is not None]
    return (*dict.fromkeys(names), f"rule:{_NAME}")


def _applied(graph: Graph, log: Log) -> None:
    for node in graph.nodes:
        if node.op != "Mul" or not graph.alive(node):
            continue
        for x, gates in (node.inputs, node.inputs[::-1]):
            assert x is not None and gates is not None
            made = gates.producer
            if made is None or made.op != "SqueezeExcite" or made.attrs["apply"] or made.inputs[0] is not x:
                continue
            if node.output.type != x.type:
                log.did_not(_APPLIED, node.name, f"{gates!r} is not a gate a channel of {x!r}")
            elif (reason := only_user(gates, graph)) is not None:
                log.did_not(_APPLIED, node.name, reason)
            else:
                origin = (*(made.origin or (made.name,)), *(node.origin or (node.name,)))
                attrs = {**made.attrs, "apply": 1}
                new = make(graph, "SqueezeExcite", made.inputs, attrs, name=made.name, origin=origin).output
                graph.replace_uses(node.output, new)
                log.did(_APPLIED, node.name)
                break
    graph.prune()


SQUEEZE_EXCITE = Pass(_NAME, _run)

#: x * SqueezeExcite(x)  =  SqueezeExcite(x, apply), for devices whose kernels apply what they make. After layout, which
#: brings both to one order of axes.
GATES_APPLIED = Pass(_APPLIED, _applied)
