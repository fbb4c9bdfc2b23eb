"""Transposed convolution as a plain convolution whose output channels hold the phases of the output pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod

import numpy as np

from temper.ir.graph import Graph, Node, Value
from temper.passes.building import Builder, integers_of, node_of, number_of
from temper.passes.rewrite import Match


@dataclass(frozen=True)
class PhaseAxis:
    """One spatial axis of a transposed convolution computed as a convolution with stride 1 that gives all phases at
    once.

    taps: kernel size of that convolution. crop: elements to drop at the front of its interleaved result.
    """

    stride: int
    taps: int
    dilation: int
    pad_begin: int
    pad_end: int
    crop: int


def phase_axis(kernel: int, stride: int, dilation: int, begin: int, end: int, extra: int) -> PhaseAxis | str:
    """Geometry of one axis.

    Input i and tap k meet at f = i stride + k dilation, and output o is at f = o + begin. Write f = q stride + r. With
    dilation 1 the taps of phase r are k = r + stride j, and they read input q - j: a correlation over j with
    ceil(kernel / stride) taps, the same for every phase. With stride 1 there is one phase, and dilation is kept.
    """
    if stride > 1 and dilation > 1:
        return f"stride {stride} with dilation {dilation} spreads the taps unevenly over the phases"
    taps = -(-kernel // stride)
    reach = (taps - 1) * dilation
    first = min(max(begin, 0) // stride, reach)  # the smallest q computed
    # outputs end before f = (size - 1) stride + extra + (kernel - 1) dilation + 1 - end; count q up to there, less size
    beyond = -(-(extra + (kernel - 1) * dilation + 1 - end - stride) // stride)
    pad_begin = reach - first
    pad_end = max(beyond - first - pad_begin + reach, 0)
    if begin - first * stride < 0:
        return "its pads are negative"
    return PhaseAxis(stride, taps, dilation, pad_begin, pad_end, begin - first * stride)


def phases_of(node: Node) -> list[PhaseAxis] | str:
    """The geometry of every spatial axis of a ConvTranspose whose weights have their channels last."""
    w = node.inputs[1]
    assert w is not None
    rank = w.type.rank - 2
    strides, pads, dilations = integers_of(node, "strides"), integers_of(node, "pads"), integers_of(node, "dilations")
    extra = integers_of(node, "output_padding")
    out = []
    for i in range(rank):
        size = w.type.shape[i]
        assert isinstance(size, int)
        axis = phase_axis(size, strides[i], dilations[i], pads[i], pads[rank + i], extra[i])
        if isinstance(axis, str):
            return axis
        out.append(axis)
    return out


def can_phase(graph: Graph, m: Match) -> str | None:
    node = node_of(m)
    w = node.inputs[1]
    if w is None or w.const is None:
        return "its weights are not constants"
    if len(node.inputs) > 2 and node.inputs[2] is not None and node.inputs[2].const is None:
        return "its bias is not a constant"
    if not node.attrs["channels_last"]:
        return "it is not channels-last"
    group = int(number_of(node, "group"))
    if group > 1 and w.const.shape[-2] == group:
        return "it is depthwise: its phases would be a grouped convolution without a fast kernel"
    found = phases_of(node)
    return found if isinstance(found, str) else None


def phase_weights(w: np.ndarray, group: int, axes: Sequence[PhaseAxis]) -> np.ndarray:
    """[kernel.., C, OC/group] to [taps.., C/group, group * phases * OC/group], taps reversed, output channels by
    (group, phase.., channel)."""
    rank, kernel = len(axes), w.shape[: len(axes)]
    room = [a.taps * a.stride for a in axes]
    padded = np.zeros((*room, *w.shape[rank:]), w.dtype)
    padded[tuple(slice(k) for k in kernel)] = w
    # an index of the padded kernel is (tap, phase)
    split = padded.reshape(*(n for a in axes for n in (a.taps, a.stride)), group, w.shape[-2] // group, w.shape[-1])
    split = np.flip(split, axis=tuple(range(0, 2 * rank, 2)))
    order = (*range(0, 2 * rank, 2), 2 * rank + 1, 2 * rank, *range(1, 2 * rank, 2), 2 * rank + 2)
    moved = split.transpose(order)
    return np.ascontiguousarray(moved.reshape(*(a.taps for a in axes), w.shape[-2] // group, -1))


def conv_transpose(graph: Graph, m: Match) -> Value:
    """convtranspose(x, w) = crop(interleave(conv(x, w'))), where w' has every phase of the output as a block of
    channels.

    With stride 1 in every axis this is conv(x, flip(w)). See `phase_axis` for the derivation; no multiplication is
    spent on the zeros between inputs, and the padding of a kernel to a multiple of the stride is the only waste.
    """
    node, axes = node_of(m), phases_of(node_of(m))
    assert not isinstance(axes, str)
    build, w, group = Builder(graph, node), node.inputs[1], int(number_of(node, "group"))
    assert w is not None and w.const is not None
    weights: list[Value | None] = [build.constant(phase_weights(w.const, group, axes))]
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        bias = node.inputs[2].const
        assert bias is not None
        weights.append(build.constant(phase_channels(bias, group, axes)))
    return interleaved(graph, node, m["x"], weights, axes)


def phase_channels(a: np.ndarray, group: int, axes: Sequence[PhaseAxis]) -> np.ndarray:
    """[group * OC/group] to one for each (group, phase.., channel), as `phase_weights` orders them."""
    return np.tile(a.reshape(group, 1, -1), (1, prod(x.stride for x in axes), 1)).reshape(-1)


def interleaved(
    graph: Graph, node: Node, x: Value, weights: Sequence[Value | None], axes: Sequence[PhaseAxis]
) -> Value:
    """The convolution that gives all phases of a ConvTranspose, and the moves that make its result of them. weights:
    and bias, as `phase_weights` and `phase_channels` order them."""
    build, group, rank = Builder(graph, node), int(number_of(node, "group")), len(axes)
    strides = tuple(a.stride for a in axes)
    first = weights[0]
    assert first is not None
    each = int(str(first.type.shape[-1])) // group // prod(strides)
    conv = build(
        "Conv",
        x,
        *weights,
        label=node.name,
        strides=(1,) * rank,
        dilations=tuple(a.dilation for a in axes),
        group=group,
        pads=(*(a.pad_begin for a in axes), *(a.pad_end for a in axes)),
        channels_last=1,
    )
    n, *grid, _ = conv.type.shape
    # [N, q.., group, r.., OC/group] -> [N, q0, r0, q1, r1, .., group, OC/group]
    parts = (n, *grid, group, *strides, each)
    perm = (0, *(i for a in range(rank) for i in (1 + a, 2 + rank + a)), 1 + rank, 2 + 2 * rank)
    y = conv
    if any(s > 1 for s in strides):
        y = build("Transpose", build.reshape(conv, parts), perm=perm)
    y = build.reshape(y, (n, *(q * s for q, s in zip(grid, strides, strict=True)), group * each))
    wanted = node.output.type.shape[1:-1]
    cut = [a for a in range(rank) if axes[a].crop or y.type.shape[1 + a] != wanted[a]]
    if cut:
        y = build(
            "Slice",
            y,
            starts=tuple(axes[a].crop for a in cut),
            ends=tuple(wanted[a] + axes[a].crop for a in cut),
            axes=tuple(1 + a for a in cut),
            steps=(1,) * len(cut),
        )
    return y
