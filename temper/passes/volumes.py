"""Windows over three and more spatial axes become windows over fewer axes, for which there are kernels.

The leading spatial axis (depth) is taken apart: a convolution sees the depths under its window as further channels, a
pool is a pool over the planes and then one over the depth. Both run on channels-last data, where planes and depth are
contiguous; `PLANES` runs before the layout, for pools that only look three-dimensional.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from temper.ir.dims import DimLike, product
from temper.ir.graph import Graph, Node, Value
from temper.ir.opdef import AttrValue
from temper.passes.manager import Log, Pass
from temper.passes.parts import Parts, replace_each
from temper.passes.rewrite import Any_, Match, Rule, op

_X = Any_("x")
#: Attributes with an entry per spatial axis; pads have two.
_PER_AXIS = ("strides", "dilations", "kernel_shape")


def _node(m: Match) -> Node:
    node = m["y"].producer
    assert node is not None
    return node


def _ints(node: Node, name: str) -> tuple[int, ...]:
    value = node.attrs[name]
    assert isinstance(value, tuple)
    return tuple(int(str(i)) for i in value)


def _is_volume(m: Match) -> bool:
    return m["x"].type.rank > 4


def _channels_last(graph: Graph, m: Match) -> str | None:
    return None if _node(m).attrs["channels_last"] else "it is not channels-last"


def _inner(node: Node) -> dict[str, AttrValue]:
    """The attributes for all spatial axes but the first."""
    attrs = dict(node.attrs)
    for name in _PER_AXIS:
        if name in attrs:
            attrs[name] = _ints(node, name)[1:]
    pads = _ints(node, "pads")
    half = len(pads) // 2
    attrs["pads"] = (*pads[1:half], *pads[half + 1 :])
    return attrs


def _flat(x: Value) -> tuple[DimLike, ...]:
    """The shape with depth merged into the batch."""
    n, d, *rest = x.type.shape
    return (n * d, *rest)


# ---- convolution ----


def _planes(p: Parts, x: Value, depths: DimLike) -> list[Value]:
    """For every position of the kernel in depth, the input planes it meets: [N, depths, spatial.., C] each."""
    node = p.node
    pads, stride, dilation = _ints(node, "pads"), _ints(node, "strides")[0], _ints(node, "dilations")[0]
    begin, end = pads[0], pads[len(pads) // 2]
    taps, size, rank = p.input(1).type.shape[0], x.type.shape[1], x.type.rank
    zero = p.integer("zero_point") if node.op == "ConvInt8" else 0
    assert isinstance(taps, int)

    def padded(before: int, after: int) -> Value:
        """Planes added, or taken away where negative, before the first and after the last."""
        widths = [0] * (2 * rank)
        widths[1], widths[rank + 1] = before, after
        return p("Pad", x, pads=tuple(widths), value=zero) if before or after else x

    before = [begin - k * dilation for k in range(taps)]
    if stride == 1 and isinstance(size, int) and isinstance(depths, int):
        widths = [(b, depths - size - b) for b in before]
        if all(abs(b) <= size and abs(after) <= size for b, after in widths):
            return [padded(b, after) for b, after in widths]
    x = padded(begin, end)
    out, span = [], (depths - 1) * stride + 1
    for k in range(taps):
        first = k * dilation
        out.append(p("Slice", x, starts=(first,), ends=(first + span,), axes=(1,), steps=(stride,)))
    return out


def depth_as_channels(w: np.ndarray) -> np.ndarray:
    """[KD, kernel.., C/group, OC] -> [kernel.., KD C/group, OC]."""
    moved = np.moveaxis(w, 0, -3)
    return np.ascontiguousarray(moved).reshape(*w.shape[1:-2], w.shape[0] * w.shape[-2], w.shape[-1])


def _depth_as_channels(p: Parts, w: Value) -> Value:
    if w.const is not None:
        return p.constant(depth_as_channels(w.const))
    rank = w.type.rank
    perm = (*range(1, rank - 2), 0, rank - 2, rank - 1)
    shape = (*w.type.shape[1 : rank - 2], w.type.shape[0] * w.type.shape[rank - 2], w.type.shape[rank - 1])
    return p.reshape(p("Transpose", w, perm=perm), shape)


def _conv(graph: Graph, m: Match) -> Value:
    """conv(x, w) over depth and planes = conv(concat_k x[depth k of the window], w') over planes.

    w' has the kernel's depth as channels, within each group. A depthwise convolution stays one per position k of the
    window instead, and these are added: y = sum_k conv(x[depth k], w[k]). Of codes, what pads the depth is their zero.
    """
    node = _node(m)
    p, out, x = Parts(graph, node), m["y"].type.shape, m["x"]
    w, bias, group = p.input(1), p.optional(2), p.integer("group")
    rest = [] if p.optional(3) is None else [p.optional(3)]
    planes, attrs = _planes(p, x, out[1]), _inner(node)
    if len(planes) > 1 and w.type.shape[-2] == 1:
        y: Value | None = None
        for k, plane in enumerate(planes):
            if w.const is not None:
                part = p.constant(np.ascontiguousarray(w.const[k]))
            else:
                part = p("Slice", w, starts=(k,), ends=(k + 1,), axes=(0,), steps=(1,))
                part = p.reshape(part, w.type.shape[1:])
            operands = [part, None if k else bias, *rest]
            one = p(node.op, p.reshape(plane, _flat(plane)), *_given(operands), **attrs)
            y = one if y is None else p("Add", y, one)
        assert y is not None
        return p.reshape(y, out)
    if group > 1 and len(planes) > 1:
        each = x.type.shape[-1] // group
        planes = [p.reshape(v, (*v.type.shape[:-1], group, each)) for v in planes]
    whole = planes[0] if len(planes) == 1 else p("Concat", *planes, axis=-1)
    if group > 1 and len(planes) > 1:
        whole = p.reshape(whole, (*whole.type.shape[:-2], whole.type.shape[-2] * whole.type.shape[-1]))
    operands = [_depth_as_channels(p, w), bias, *rest]
    return p.reshape(p(node.op, p.reshape(whole, _flat(whole)), *_given(operands), **attrs), out)


def _given(operands: list[Value | None]) -> list[Value | None]:
    """Operands without the absent ones at the end."""
    while operands and operands[-1] is None:
        operands = operands[:-1]
    return operands


# ---- pooling ----


def _pool(graph: Graph, m: Match) -> Value:
    """pool over depth and planes = pool over depth of (pool over planes).

    A maximum is one of maxima. A mean is one of means, because the number of elements under a window is the product of
    the numbers along its axes, with and without padding.
    """
    node, y = _node(m), m["x"]
    p, out = Parts(graph, node), m["y"].type.shape
    inner = _inner(node)
    if any(k != 1 for k in inner["kernel_shape"]) or any(s != 1 for s in inner["strides"]):  # type: ignore[union-attr]
        planes = p(node.op, p.reshape(y, _flat(y)), **inner)
        y = p.reshape(planes, (*y.type.shape[:2], *planes.type.shape[1:]))
    kernel, stride = _ints(node, "kernel_shape")[0], _ints(node, "strides")[0]
    if (kernel, stride) != (1, 1):
        pads = _ints(node, "pads")
        attrs: dict[str, AttrValue] = {
            **node.attrs,
            "kernel_shape": (kernel, 1),
            "strides": (stride, 1),
            "dilations": (_ints(node, "dilations")[0], 1),
            "pads": (pads[0], 0, pads[len(pads) // 2], 0),
        }
        n, d, *rest = y.type.shape
        y = p(node.op, p.reshape(y, (n, d, product(tuple(rest[:-1])), rest[-1])), **attrs)
    return p.reshape(y, out)


def _is_narrow(m: Match) -> bool:
    x = m["x"].type
    return x.dtype in ("int16", "uint16") or (x.dtype in ("int8", "uint8") and x.rank != 4)


def _pool_narrow(graph: Graph, m: Match) -> Value:
    """maxpool(x) = cast(maxpool(cast(x))): float32 holds small integers exactly."""
    p = Parts(graph, _node(m))
    return p.cast(p("MaxPool", p.cast(m["x"], "float32"), **p.node.attrs), m["x"].type.dtype)


VOLUME_RULES: Sequence[Rule] = (
    Rule("pool-narrow", op("MaxPool", _X, bind="y"), _pool_narrow, when=_is_narrow),
    Rule("conv-planes", op("Conv", _X, Any_("w"), bind="y"), _conv, _channels_last, _is_volume),
    Rule("conv-planes", op("Conv", _X, Any_("w"), Any_("b"), bind="y"), _conv, _channels_last, _is_volume),
    Rule("conv-planes", op("ConvInt8", _X, Any_("w"), bind="y"), _conv, _channels_last, _is_volume),
    Rule("conv-planes", op("ConvInt8", _X, Any_("w"), Any_("b"), bind="y"), _conv, _channels_last, _is_volume),
    Rule(
        "conv-planes",
        op("ConvInt8", _X, Any_("w"), Any_("b"), Any_("z"), bind="y"),
        _conv,
        _channels_last,
        _is_volume,
    ),
    *(
        Rule("pool-planes", op(name, _X, bind="y"), _pool, _channels_last, _is_volume)
        for name in ("MaxPool", "AveragePool")
    ),
)


# ---- pools that only look three-dimensional ----


def _flat_pool(p: Parts) -> Value | str:
    """A window of one depth on data [N, C, D, H, W] that is a renamed [N C, D, H, W]: D are channels of a 2-D pool."""
    node, x = p.node, p.input(0)
    pads = _ints(node, "pads")
    half = len(pads) // 2
    if node.attrs["channels_last"] or _ints(node, "kernel_shape")[0] != 1 or pads[0] or pads[half]:
        return "its window covers several depths"
    n, c, d, *spatial = x.type.shape
    source = None if x.producer is None or x.producer.op != "Reshape" else x.producer.inputs[0]
    flat = (n * c, d, *spatial)
    if source is None or source.type.shape != flat:
        return "its data is not an image by another name"
    stride = _ints(node, "strides")[0]
    y = source
    if stride > 1:
        depths = node.output.type.shape[2]
        if not isinstance(d, int) or not isinstance(depths, int):
            return f"its depth {d} is not known at build"
        y = p("Slice", y, starts=(0,), ends=((depths - 1) * stride + 1,), axes=(1,), steps=(stride,))
    return p.reshape(p(node.op, y, **_inner(node)), node.output.type.shape)


def _run(graph: Graph, log: Log) -> None:
    def write(node: Node) -> Value | str | None:
        pools = node.op in ("MaxPool", "AveragePool") and len(_ints(node, "strides")) > 2
        return _flat_pool(Parts(graph, node)) if pools else None

    replace_each(graph, log, "pool of planes", write)


PLANES = Pass("planes", _run)
