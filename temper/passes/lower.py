"""Lowering: ops without kernels of their own become ops that have them.

Runs after the channels-last layout, where a block of channels is contiguous: a DepthToSpace is then one Transpose
between two renamings, and the weights of a ConvTranspose are [kernel.., C, OC/group]. Rules decline, with a reason,
what they cannot express; a general kernel or the reference then runs the op as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod

import numpy as np

from temper.ir.dims import DimLike, product
from temper.ir.graph import Graph, Value
from temper.passes.building import Builder, integers_of, node_of, number_of
from temper.passes.phases import can_phase, conv_transpose
from temper.passes.rewrite import Any_, Match, Rule, op, rules_pass
from temper.passes.volumes import VOLUME_RULES

_X = Any_("x")

#: LRN becomes a product with a band matrix up to this many channels.
_MAX_LRN_CHANNELS = 1024


def _floating(graph: Graph, m: Match) -> str | None:
    dtypes = sorted({v.type.dtype for v in node_of(m).inputs if v is not None})
    if len(dtypes) > 1:
        return f"it mixes {' and '.join(dtypes)}"
    return None if dtypes[0] in ("float32", "float64") else f"{dtypes[0]} would lose accuracy in steps"


# ---- blocks ----


def _depth_to_space(graph: Graph, m: Match) -> Value:
    """Channels [b, b, d] (DCR) or [d, b, b] (CRD) of pixel (h, w) become pixels (h b + i, w b + j) of d channels."""
    node, x, b = node_of(m), m["x"], int(number_of(node_of(m), "blocksize"))
    build, first = Builder(graph, node), node.attrs["mode"] == "DCR"
    parts: tuple[DimLike, ...]
    perm: tuple[int, ...]
    if node.attrs["channels_last"]:
        n, h, w, c = x.type.shape
        d = c // (b * b)
        parts, perm = ((n, h, w, b, b, d), (0, 1, 3, 2, 4, 5)) if first else ((n, h, w, d, b, b), (0, 1, 4, 2, 5, 3))
    else:
        n, c, h, w = x.type.shape
        d = c // (b * b)
        parts, perm = ((n, b, b, d, h, w), (0, 3, 4, 1, 5, 2)) if first else ((n, d, b, b, h, w), (0, 1, 4, 2, 5, 3))
    return build.reshape(build("Transpose", build.reshape(x, parts), perm=perm), m["y"].type.shape)


def _space_to_depth(graph: Graph, m: Match) -> Value:
    """Pixels (h b + i, w b + j) of c channels become channels [b, b, c] of pixel (h, w)."""
    node, x, b = node_of(m), m["x"], int(number_of(node_of(m), "blocksize"))
    build = Builder(graph, node)
    if node.attrs["channels_last"]:
        n, h, w, c = x.type.shape
        parts: tuple[DimLike, ...] = (n, h // b, b, w // b, b, c)
        perm: tuple[int, ...] = (0, 1, 3, 2, 4, 5)
    else:
        n, c, h, w = x.type.shape
        parts, perm = (n, c, h // b, b, w // b, b), (0, 3, 5, 1, 2, 4)
    return build.reshape(build("Transpose", build.reshape(x, parts), perm=perm), m["y"].type.shape)


# ---- one spatial axis ----

#: Attributes with an entry per spatial axis (pads with two), and what an added axis of size 1 gets.
_PER_AXIS = {"strides": 1, "dilations": 1, "kernel_shape": 1, "output_padding": 0}


def _is_line(m: Match) -> bool:
    return m["x"].type.rank == 3


def _one_axis(graph: Graph, m: Match) -> str | None:
    node = node_of(m)
    return None if node.attrs["channels_last"] else "it is not channels-last"


def _as_image(graph: Graph, m: Match) -> Value:
    """op over [N, W, C] = op over [N, 1, W, C] with a window of height 1: kernels are written for images."""
    node, x = node_of(m), m["x"]
    build = Builder(graph, node)
    attrs = dict(node.attrs)
    for name, neutral in _PER_AXIS.items():
        if name in attrs:
            attrs[name] = (neutral, *integers_of(node, name))
    begin, end = integers_of(node, "pads")
    attrs["pads"] = (0, begin, 0, end)
    inputs: list[Value | None] = [build.reshape(x, (x.type.shape[0], 1, *x.type.shape[1:]))]
    if len(node.inputs) > 1:
        w = node.inputs[1]
        assert w is not None
        inputs += [build.reshape(w, (1, *w.type.shape)), *node.inputs[2:]]
    return build.reshape(build.add(node.op, inputs, attrs, node.name), m["y"].type.shape)


# ---- matrix products ----


def _transpose_left(graph: Graph, m: Match) -> Value:
    """a.T @ b with the transpose as a node of its own: kernels read the left operand by rows."""
    node, a = node_of(m), m["x"]
    build, rank = Builder(graph, node), a.type.rank
    flipped = build("Transpose", a, perm=(*range(rank - 2), rank - 1, rank - 2)) if rank > 1 else a
    return build.add("MatMul", [flipped, m["w"]], {**node.attrs, "transA": 0}, node.name)


# ---- normalisation ----


def _channel_shape(m: Match) -> tuple[int, ...]:
    """A vector of channels, shaped to broadcast against the data."""
    rank = m["x"].type.rank
    return (-1,) if node_of(m).attrs["channels_last"] or rank < 3 else (-1, *(1,) * (rank - 2))


def _by_channel(build: Builder, m: Match, v: Value) -> Value:
    shape = tuple(v.type.shape[0] if d == -1 else d for d in _channel_shape(m))
    return build.reshape(v, shape)


def _batch_norm(graph: Graph, m: Match) -> Value:
    """batchnorm(x) = x s + t with s = scale / sqrt(var + eps) and t = bias - mean s; s and t are per channel."""
    node = node_of(m)
    build = Builder(graph, node)
    spread = build("Sqrt", build("Add", m["var"], build.scalar(number_of(node, "epsilon"), m["var"])))
    s = build("Div", m["scale"], spread)
    t = build("Sub", m["bias"], build("Mul", m["mean"], s))
    return build("Add", build("Mul", m["x"], _by_channel(build, m, s)), _by_channel(build, m, t), label=node.name)


def _inverse_spread(build: Builder, variance: Value, epsilon: float) -> Value:
    return build("Reciprocal", build("Sqrt", build("Add", variance, build.scalar(epsilon, variance))))


def _instance_norm(graph: Graph, m: Match) -> Value:
    """d = x - mean(x); y = d (scale / sqrt(mean(d d) + eps)) + bias, means over the spatial axes of each image."""
    node, x = node_of(m), m["x"]
    build, rank = Builder(graph, node), m["x"].type.rank
    axes = tuple(range(1, rank - 1)) if node.attrs["channels_last"] else tuple(range(2, rank))
    d = build("Sub", x, build("ReduceMean", x, axes=axes, keepdims=1))
    variance = build("ReduceMean", build("Mul", d, d), axes=axes, keepdims=1)
    spread = _inverse_spread(build, variance, number_of(node, "epsilon"))
    factor = build("Mul", spread, _by_channel(build, m, m["scale"]))
    return build("Add", build("Mul", d, factor), _by_channel(build, m, m["bias"]), label=node.name)


def _group_norm(graph: Graph, m: Match) -> Value:
    """As instance normalisation, over the channels of a group too: [N, S, G, C/G] with means over S, then over C/G.

    The mean of equally many means is the mean of all; in two steps each runs along contiguous rows.
    """
    node, x = node_of(m), m["x"]
    build, shape, groups = Builder(graph, node), m["x"].type.shape, int(number_of(node, "num_groups"))
    last = bool(node.attrs["channels_last"]) or len(shape) < 3
    channels = shape[-1] if last else shape[1]
    spatial = product(shape[1:-1] if last else shape[2:])
    each = channels // groups
    split = (shape[0], spatial, groups, each) if last else (shape[0], groups, each, spatial)
    over_pixels, over_channels = ((1,), (3,)) if last else ((3,), (2,))
    vector = (groups, each) if last else (groups, each, 1)

    def mean(v: Value) -> Value:
        return build("ReduceMean", build("ReduceMean", v, axes=over_pixels, keepdims=1), axes=over_channels, keepdims=1)

    parts = build.reshape(x, split)
    d = build("Sub", parts, mean(parts))
    inverse = _inverse_spread(build, mean(build("Mul", d, d)), number_of(node, "epsilon"))
    factor = build("Mul", inverse, build.reshape(m["scale"], vector))
    return build.reshape(
        build("Add", build("Mul", d, factor), build.reshape(m["bias"], vector), label=node.name), shape
    )


def _lrn_check(graph: Graph, m: Match) -> str | None:
    if m["x"].type.rank > 2 and not node_of(m).attrs["channels_last"]:
        return "it is not channels-last"
    channels = m["x"].type.shape[-1]
    if not isinstance(channels, int) or channels > _MAX_LRN_CHANNELS:
        return f"a band matrix of {channels} channels is too large"
    return _floating(graph, m)


def _lrn(graph: Graph, m: Match) -> Value:
    """lrn(x) = x / (bias + (x x) @ B) ** beta, B the band matrix with alpha / size where channels are neighbours.

    Channel c sees c - floor((size - 1) / 2) .. c + ceil((size - 1) / 2). The product costs C multiplications an element
    instead of `size`, in the fastest kernel there is; a non-finite square reaches all channels of its pixel.
    """
    node, x = node_of(m), m["x"]
    build, size = Builder(graph, node), int(number_of(node, "size"))
    channels = int(str(x.type.shape[-1]))
    c = np.arange(channels)
    ahead = c[:, None] - c[None, :]  # source channel less output channel
    near = (ahead >= -((size - 1) // 2)) & (ahead <= -(-(size - 1) // 2))
    band = build.constant((near * (number_of(node, "alpha") / size)).astype(x.type.dtype))
    total = build("Add", build("MatMul", build("Mul", x, x), band), build.scalar(number_of(node, "bias"), x))
    return build("Div", x, build("Pow", total, build.scalar(number_of(node, "beta"), x)), label=node.name)


def _lp_check(graph: Graph, m: Match) -> str | None:
    node = node_of(m)
    if node.attrs["ceil_mode"]:
        return "with ceil_mode the average of the last window counts fewer elements"
    return _floating(graph, m)


def _lp_pool(graph: Graph, m: Match) -> Value:
    """lppool(x) = (K averagepool(|x| ** p)) ** (1 / p), K elements a window, padding counted."""
    node, x = node_of(m), m["x"]
    build, p = Builder(graph, node), number_of(node, "p")
    power = build("Abs", x)
    if p == 2:
        power = build("Mul", x, x)
    elif p != 1:
        power = build("Pow", power, build.scalar(p, x))
    attrs = {k: v for k, v in node.attrs.items() if k != "p"}
    mean = build.add("AveragePool", [power], {**attrs, "count_include_pad": 1})
    total = build("Mul", mean, build.scalar(prod(integers_of(node, "kernel_shape")), x))
    if p == 1:
        return total
    return build("Sqrt", total) if p == 2 else build("Pow", total, build.scalar(1.0 / p, x))


def _windowed(name: str) -> list[Rule]:
    """A rule for every number of operands of a convolution or pool."""
    operands = {"Conv": (2, 3), "ConvTranspose": (2, 3), "ConvInt8": (2, 3, 4)}.get(name, (1,))
    rest = (Any_("w"), Any_("b"), Any_("z"))
    return [
        Rule(f"{name.lower()}-1d", op(name, _X, *rest[: n - 1], bind="y"), _as_image, _one_axis, _is_line)
        for n in operands
    ]


_WINDOWED = ("Conv", "ConvTranspose", "ConvInt8", "MaxPool", "AveragePool")

LOWER_RULES: Sequence[Rule] = (
    *(rule for name in _WINDOWED for rule in _windowed(name)),
    *VOLUME_RULES,
    Rule("depth-to-space", op("DepthToSpace", _X, bind="y"), _depth_to_space),
    Rule("space-to-depth", op("SpaceToDepth", _X, bind="y"), _space_to_depth),
    Rule("conv-transpose", op("ConvTranspose", _X, Any_("w"), bind="y"), conv_transpose, can_phase),
    Rule("conv-transpose", op("ConvTranspose", _X, Any_("w"), Any_("b"), bind="y"), conv_transpose, can_phase),
    Rule("transposed-left", op("MatMul", _X, Any_("w"), bind="y", transA=1), _transpose_left),
    Rule(
        "batch-norm",
        op("BatchNormalization", _X, Any_("scale"), Any_("bias"), Any_("mean"), Any_("var"), bind="y"),
        _batch_norm,
        _floating,
    ),
    Rule(
        "instance-norm",
        op("InstanceNormalization", _X, Any_("scale"), Any_("bias"), bind="y"),
        _instance_norm,
        _floating,
    ),
    Rule("group-norm", op("GroupNormalization", _X, Any_("scale"), Any_("bias"), bind="y"), _group_norm, _floating),
    Rule("lrn", op("LRN", _X, bind="y"), _lrn, _lrn_check),
    Rule("lp-pool", op("LpPool", _X, bind="y"), _lp_pool, _lp_check),
)


LOWER = rules_pass("lower", LOWER_RULES)


def _no_group_kernel(graph: Graph, m: Match) -> str | None:
    """None where no GPU kernel computes a normalisation over pixels as it is."""
    x = m["x"]
    if node_of(m).attrs["channels_last"] and x.type.dtype == "float32" and isinstance(x.type.shape[-1], int):
        return "a kernel computes it"
    return _floating(graph, m)


_NORMS = {"instance-norm", "group-norm"}

#: On GPUs normalisations over pixels have kernels of their own.
LOWER_FOR_GPUS = rules_pass(
    "lower", [replace(r, check=_no_group_kernel) if r.name in _NORMS else r for r in LOWER_RULES]
)
