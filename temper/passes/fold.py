"""Folds arithmetic into weights: BatchNorm, scale, bias and padding join the convolution or matrix product beside them.

Weights are still in the framework's layout here (channels first): [OC, IC/group, k..] for Conv, [IC, OC/group, k..] for
ConvTranspose. Folded products are computed in float64 and rounded once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from temper.ir.graph import Graph, Node, Value
from temper.ir.opdef import AttrValue
from temper.ir.ops import make
from temper.ir.ops.rules import ints
from temper.passes.rewrite import Any_, Const, Match, Rule, only_user, op, rules_pass

_X, _C = Any_("x"), Const("c")


def _node(v: Value) -> Node:
    assert v.producer is not None
    return v.producer


def _array(v: Value | None) -> np.ndarray:
    assert v is not None and v.const is not None
    return v.const


def _per_channel(c: np.ndarray, rank: int, channels: int) -> np.ndarray | None:
    """`c` as [channels] if it broadcasts along the channel axis (axis 1) only, else None."""
    if c.size == 1 and c.ndim <= rank:
        return np.full(channels, c.reshape(-1)[0], c.dtype)
    shape = (1,) * (rank - c.ndim) + c.shape
    if len(shape) == rank and shape[1] == channels and c.size == channels:
        return c.reshape(channels)
    return None


def _vector(graph: Graph, like: Value, a: np.ndarray) -> Value:
    return graph.add_constant(a.astype(_array(like).dtype, copy=False), like.name)


def _bn_affine(node: Node) -> tuple[np.ndarray, np.ndarray]:
    """BatchNorm as scale and shift in float64."""
    scale, bias, mean, var = (_array(v).astype(np.float64) for v in node.inputs[1:5])
    s = scale / np.sqrt(var + float(node.attrs["epsilon"]))  # type: ignore[arg-type]
    return s, bias - mean * s


def _bn_constant(graph: Graph, m: Match) -> str | None:
    node = _node(m["y"])
    if any(v is None or v.const is None for v in node.inputs[1:5]):
        return "its parameters are not constants"
    return "it is already channels-last" if node.attrs.get("channels_last") else None


def _bn_to_affine(graph: Graph, m: Match) -> Value:
    """batchnorm(x) = x * s + t with s = scale / sqrt(var + eps), t = bias - mean * s."""
    node = _node(m["y"])
    s, t = _bn_affine(node)
    shape = (-1, *(1,) * (m["y"].type.rank - 2)) if m["y"].type.rank > 1 else (-1,)
    dtype = _array(node.inputs[1]).dtype
    scaled = make(
        graph,
        "Mul",
        [node.inputs[0], graph.add_constant(s.astype(dtype).reshape(shape), f"{node.name}.scale")],
        name=f"{node.name}.mul",
        origin=node.origin or (node.name,),
    )
    return make(
        graph,
        "Add",
        [scaled.output, graph.add_constant(t.astype(dtype).reshape(shape), f"{node.name}.shift")],
        name=node.name,
        origin=node.origin or (node.name,),
    ).output


def _conv_parts(v: Value) -> tuple[Node, np.ndarray, int]:
    """The convolution, its weights with the output channel on axis 0 ([OC, ..]) and the number of output channels."""
    node = _node(v)
    w = _array(node.inputs[1])
    oc = v.type.shape[1]
    assert isinstance(oc, int)
    return node, w, oc


def _is_conv(graph: Graph, m: Match) -> str | None:
    node = _node(m["conv"])
    if node.inputs[1] is None or node.inputs[1].const is None:
        return "its weights are not constants"
    if len(node.inputs) > 2 and node.inputs[2] is not None and node.inputs[2].const is None:
        return "its bias is not a constant"
    if node.attrs.get("channels_last"):
        return "it is already channels-last"
    return only_user(m["conv"], graph)


def _channelwise(graph: Graph, m: Match) -> str | None:
    reason = _is_conv(graph, m)
    if reason:
        return reason
    _, _, oc = _conv_parts(m["conv"])
    if _per_channel(_array(m["c"]), m["conv"].type.rank, oc) is None:
        return f"the constant {m['c'].type} is not one number per output channel"
    return None


def _scale_weights(graph: Graph, node: Node, w: np.ndarray, s: np.ndarray) -> np.ndarray:
    """Weights times a factor per output channel, in float64."""
    group = int(node.attrs["group"]) if node.op == "ConvTranspose" else 0  # type: ignore[arg-type]
    return graph.derived(_times_channels, w, s, group)


def _times_channels(w: np.ndarray, s: np.ndarray, group: int) -> np.ndarray:
    """group: of a ConvTranspose; 0 for a Conv."""
    wide = w.astype(np.float64)
    if not group:
        return (wide * s.reshape(-1, *(1,) * (w.ndim - 1))).astype(w.dtype)
    per = w.shape[1]
    blocks = wide.reshape(group, w.shape[0] // group, per, *w.shape[2:]) * s.reshape(
        group, 1, per, *(1,) * (w.ndim - 2)
    )
    return blocks.reshape(w.shape).astype(w.dtype)


def _rebuilt(graph: Graph, node: Node, w: np.ndarray, bias: np.ndarray | None) -> Value:
    inputs = [node.inputs[0], _vector(graph, node.inputs[1], w)]  # type: ignore[arg-type]
    if bias is not None:
        inputs.append(graph.add_constant(bias.astype(w.dtype), f"{node.name}.bias"))
    return make(graph, node.op, inputs, node.attrs, name=node.name, origin=node.origin or (node.name,)).output


def _bias_of(node: Node) -> np.ndarray | None:
    return _array(node.inputs[2]).astype(np.float64) if len(node.inputs) > 2 and node.inputs[2] is not None else None


def _scaled(graph: Graph, m: Match, factor: Callable[[np.ndarray], np.ndarray]) -> Value:
    """The convolution with weights and bias times factor(c), in float64."""
    node, w, oc = _conv_parts(m["conv"])
    c = _per_channel(_array(m["c"]), m["conv"].type.rank, oc)
    assert c is not None
    s = factor(c.astype(np.float64))
    bias = _bias_of(node)
    return _rebuilt(graph, node, _scale_weights(graph, node, w, s), None if bias is None else bias * s)


def _fold_mul(graph: Graph, m: Match) -> Value:
    """conv(x, w, b) * c = conv(x, w * c, b * c) for a factor per output channel."""
    return _scaled(graph, m, lambda c: c)


def _fold_div(graph: Graph, m: Match) -> Value:
    """conv(x, w, b) / c = conv(x, w / c, b / c) for a divisor per output channel."""
    return _scaled(graph, m, np.reciprocal)


def _fold_add(graph: Graph, m: Match) -> Value:
    """conv(x, w, b) + c = conv(x, w, b + c) for a summand per output channel."""
    node, w, oc = _conv_parts(m["conv"])
    c = _per_channel(_array(m["c"]), m["conv"].type.rank, oc)
    assert c is not None
    bias = _bias_of(node)
    return _rebuilt(graph, node, w, c.astype(np.float64) + (0 if bias is None else bias))


def _fold_sub(graph: Graph, m: Match) -> Value:
    """conv(x, w, b) - c = conv(x, w, b - c) for a subtrahend per output channel."""
    node, w, oc = _conv_parts(m["conv"])
    c = _per_channel(_array(m["c"]), m["conv"].type.rank, oc)
    assert c is not None
    bias = _bias_of(node)
    return _rebuilt(graph, node, w, (0 if bias is None else bias) - c.astype(np.float64))


def _scaled_input(graph: Graph, m: Match) -> str | None:
    node = _node(m["y"])
    if node.inputs[1] is None or node.inputs[1].const is None:
        return "its weights are not constants"
    if node.attrs.get("channels_last"):
        return "it is already channels-last"
    channels = m["x"].type.shape[1] if m["x"].type.rank >= 3 else None
    if not isinstance(channels, int):
        return "the number of channels is not known"
    if m["x"].type != m["scaled"].type:
        return "the scaling also broadcasts the data"
    if _per_channel(_array(m["c"]), m["x"].type.rank, channels) is None:
        return f"the constant {m['c'].type} is not one number per input channel"
    return only_user(m["scaled"], graph)


def _fold_input_scale(graph: Graph, m: Match) -> Value:
    """conv(x * c, w) = conv(x, w * c) for a factor per input channel."""
    node = _node(m["y"])
    w = _array(node.inputs[1])
    channels = m["x"].type.shape[1]
    assert isinstance(channels, int)
    c = _per_channel(_array(m["c"]), m["x"].type.rank, channels)
    assert c is not None
    group = int(node.attrs["group"])  # type: ignore[arg-type]
    factor = np.repeat(c.astype(np.float64).reshape(group, -1), w.shape[0] // group, axis=0)  # [OC, IC/group]
    scaled = (w.astype(np.float64) * factor.reshape(*factor.shape, *(1,) * (w.ndim - 2))).astype(w.dtype)
    inputs = [m["x"], _vector(graph, node.inputs[1], scaled), *node.inputs[2:]]  # type: ignore[arg-type]
    return make(graph, "Conv", inputs, node.attrs, name=node.name, origin=node.origin or (node.name,)).output


def _zero_spatial_pad(graph: Graph, m: Match) -> str | None:
    pad, node = _node(m["padded"]), _node(m["y"])
    rank = m["x"].type.rank
    pads = pad.attrs["pads"]
    if node.attrs.get("channels_last"):
        return "it is already channels-last"
    if pad.attrs.get("mode", "constant") != "constant" or float(pad.attrs.get("value", 0.0)) != 0.0:  # type: ignore[arg-type]
        return "it does not pad with zeros"
    assert isinstance(pads, tuple)
    if any(not isinstance(p, int) or p < 0 for p in pads):
        return "it crops, or its widths are not known"
    if any(pads[i] for i in (0, 1, rank, rank + 1)):
        return "it pads the batch or the channels"
    if node.op == "AveragePool" and not node.attrs.get("count_include_pad"):
        inner = node.attrs["pads"]
        assert isinstance(inner, tuple)
        if any(inner):
            return "the pool has pads of its own that do not count"
        if node.attrs.get("ceil_mode"):
            return "with ceil_mode the last window would count fewer elements"
    return only_user(m["padded"], graph)


def _fold_pad(graph: Graph, m: Match) -> Value:
    """conv(pad0(x, p), w, pads=q) = conv(x, w, pads=p+q); an average pool then counts the zeros."""
    pad, node = _node(m["padded"]), _node(m["y"])
    rank = m["x"].type.rank
    outer, inner = ints(pad.attrs, "pads"), ints(node.attrs, "pads")
    spatial = [*outer[2:rank], *outer[rank + 2 :]]
    attrs: dict[str, AttrValue] = {**node.attrs, "pads": tuple(a + b for a, b in zip(inner, spatial, strict=True))}
    if node.op == "AveragePool":
        attrs["count_include_pad"] = 1
    return make(
        graph, node.op, [m["x"], *node.inputs[1:]], attrs, name=node.name, origin=node.origin or (node.name,)
    ).output


def _matmul_scale(graph: Graph, m: Match) -> str | None:
    node = _node(m["mm"])
    w = node.inputs[1]
    if w is None or w.const is None:
        return "its second operand is not a constant"
    if node.attrs.get("transB"):
        return "its second operand is transposed"
    c = _array(m["c"])
    if c.size != 1 and not (c.size == w.const.shape[-1] and c.shape[-1:] == w.const.shape[-1:]):
        return f"the constant {m['c'].type} is not one number per column"
    if m["y"].type != m["mm"].type:
        return "the scaling also broadcasts the product"
    return only_user(m["mm"], graph)


def _times_columns(w: np.ndarray, c: np.ndarray) -> np.ndarray:
    return (w.astype(np.float64) * c.reshape(-1)).astype(w.dtype)


def _fold_matmul_mul(graph: Graph, m: Match) -> Value:
    """(x @ w) * c = x @ (w * c) for a factor per column."""
    node = _node(m["mm"])
    weights = node.inputs[1]
    assert weights is not None
    w = _array(weights)
    scaled = graph.derived(_times_columns, w, _array(m["c"]))
    return make(
        graph,
        "MatMul",
        [node.inputs[0], _vector(graph, weights, scaled)],
        node.attrs,
        name=node.name,
        origin=node.origin or (node.name,),
    ).output


def _rules() -> list[Rule]:
    rules = [
        Rule(
            "batchnorm-to-affine",
            op("BatchNormalization", _X, Any_("s"), Any_("b"), Any_("m"), Any_("v"), bind="y"),
            _bn_to_affine,
            _bn_constant,
        )
    ]
    for kind in ("Conv", "ConvTranspose"):
        for conv in (op(kind, _X, Any_("w"), bind="conv"), op(kind, _X, Any_("w"), Any_("b"), bind="conv")):
            rules += [
                Rule(f"{kind.lower()}-mul", op("Mul", conv, _C), _fold_mul, _channelwise),
                Rule(f"{kind.lower()}-add", op("Add", conv, _C), _fold_add, _channelwise),
                Rule(f"{kind.lower()}-sub", op("Sub", conv, _C), _fold_sub, _channelwise),
                Rule(f"{kind.lower()}-div", op("Div", conv, _C), _fold_div, _channelwise),
            ]
    scaled = op("Mul", _X, _C, bind="scaled")
    padded = op("Pad", _X, bind="padded")
    rules += [
        Rule("scale-conv", op("Conv", scaled, Any_("w"), bind="y"), _fold_input_scale, _scaled_input),
        Rule("scale-conv", op("Conv", scaled, Any_("w"), Any_("b"), bind="y"), _fold_input_scale, _scaled_input),
        Rule("pad-conv", op("Conv", padded, Any_("w"), bind="y"), _fold_pad, _zero_spatial_pad),
        Rule("pad-conv", op("Conv", padded, Any_("w"), Any_("b"), bind="y"), _fold_pad, _zero_spatial_pad),
        Rule("pad-pool", op("AveragePool", padded, bind="y"), _fold_pad, _zero_spatial_pad),
        Rule(
            "matmul-mul",
            op("Mul", op("MatMul", _X, Any_("w"), bind="mm"), _C, bind="y"),
            _fold_matmul_mul,
            _matmul_scale,
        ),
    ]
    return rules


FOLD_RULES: Sequence[Rule] = tuple(_rules())
FOLD = rules_pass("fold", FOLD_RULES)
