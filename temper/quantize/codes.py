"""From thresholds to codes: scale and zero point of every group, and the graph in its Q/DQ form.

Codes are symmetric: int8 with scale amax / 127, or uint8 with amax / 255 where no value can be negative. A tensor whose
values reach much further to one side, as behind SiLU or GELU, may have a range instead, both ends of which the codes
hold: uint8 with a zero point, up to one bit more.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from temper.errors import ConfigError
from temper.ir.graph import Graph, Node, Value
from temper.ir.opdef import AttrValue
from temper.ir.ops import make
from temper.passes.integer import MOVES
from temper.quantize.placement import Group, Placement, coded_inputs, data_of, key_of

_INT32 = 2**31

#: Elements of weights that are rounded at once: few enough to stay in the second-level cache.
_AT_ONCE = 1 << 16

#: Least and greatest value of a tensor.
Range = tuple[float, float]


@dataclass(frozen=True)
class Codes:
    """How a group's values become codes: round(x / scale) + zero, saturated."""

    dtype: str
    scale: np.float32
    zero: int

    @property
    def low(self) -> int:
        """Least code, counted from the zero point; the greatest is 255 more."""
        return -128 if self.dtype == "int8" else -self.zero


def range_of(v: Value, ranges: Mapping[str, Range]) -> Range | None:
    """The range of a tensor: its own, or what those that moves bring to it span; None if one has none."""
    if v.name in ranges or v.producer is None or v.producer.op not in MOVES:
        return ranges.get(v.name)
    found = [range_of(u, ranges) for u in data_of(v.producer) if u.const is None]
    known = [r for r in found if r is not None]
    if not known or len(known) < len(found):
        return None
    return min(r[0] for r in known), max(r[1] for r in known)


def threshold(v: Value, amax: Mapping[str, float]) -> float:
    """Largest value that codes of a tensor stand for: its own, or the largest of what moves bring to it. ConfigError
    names a tensor without one."""
    if v.name in amax:
        return float(amax[v.name])
    data = [u for u in data_of(v.producer) if u.const is None] if v.producer is not None else []
    if not data or v.producer is None or v.producer.op not in MOVES:
        raise ConfigError(
            f"no threshold for tensor '{v.name}', whose codes were asked for: calibrate this model, or give a cache "
            "that holds it"
        )
    return max(threshold(u, amax) for u in data)


def codes_of(
    graph: Graph, placement: Placement, amax: Mapping[str, float], ranges: Mapping[str, Range] | None = None
) -> tuple[Codes, ...]:
    """Codes of every group, by its tensors' ranges if all have one, else by the largest of their thresholds.
    ConfigError names a tensor without a threshold, or with one that is not a number >= 0."""
    values = {v.name: v for v in graph.values}
    return tuple(_codes(g, [values[name] for name in g.tensors], amax, ranges or {}) for g in placement.groups)


def _codes(group: Group, tensors: list[Value], amax: Mapping[str, float], ranges: Mapping[str, Range]) -> Codes:
    spans = [range_of(v, ranges) for v in tensors] if group.signed and ranges and not group.symmetric else [None]
    if None not in spans:
        low = min(0.0, *(s[0] for s in spans if s is not None))
        high = max(0.0, *(s[1] for s in spans if s is not None))
        scale = np.float32((high - low) / 255)
        if scale >= np.finfo(np.float32).tiny and np.isfinite(scale):
            return Codes("uint8", scale, int(np.rint(-low / float(scale))))
    limits = {v.name: threshold(v, amax) for v in tensors}
    for name, limit in limits.items():
        if not (0 <= limit <= np.finfo(np.float32).max):
            raise ConfigError(f"the threshold of tensor '{name}' is {limit}: it must be a float32 number >= 0")
    scale = np.float32(max(limits.values()) / group.levels)
    # constantly zero, or as good as
    scale = scale if scale >= np.finfo(np.float32).tiny else np.float32(1)
    return Codes("int8" if group.signed else "uint8", scale, 0)


def channel_ranges(w: np.ndarray) -> np.ndarray:
    """max |w| of every output channel (last axis)."""
    ranges: np.ndarray = np.abs(w).reshape(-1, w.shape[-1]).max(axis=0, initial=0)
    return ranges


def weight_scales(w: np.ndarray) -> np.ndarray:
    """max |w| / 127 of every output channel (last axis), float32; 1 for a channel of zeros."""
    scale = (channel_ranges(w).astype(np.float64) / 127).astype(np.float32)
    # a subnormal scale would make codes beyond 127
    return np.where(scale >= np.finfo(np.float32).tiny, scale, np.float32(1)).astype(np.float32)


def quantize_weights(w: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """int8 codes in [-127, 127], half to even."""
    rows, by = w.reshape(math.prod(w.shape[:-1]), w.shape[-1]), scale.astype(np.float64)
    codes = np.empty(rows.shape, np.int8)
    count = max(1, _AT_ONCE // max(1, rows.shape[1]))
    for i in range(0, len(rows), count):
        x = rows[i : i + count] / by
        np.clip(np.rint(x, out=x), -127, 127, out=x)
        codes[i : i + count] = x
    return codes.reshape(w.shape)


def insert(
    graph: Graph,
    placement: Placement,
    amax: Mapping[str, float],
    channel_scales: Mapping[str, np.ndarray] | None = None,
    ranges: Mapping[str, Range] | None = None,
) -> None:
    """Writes the Q/DQ form into `graph`. amax, ranges: see `codes_of`. channel_scales: of the weights of products by
    key, instead of `weight_scales`."""
    values = {v.name: v for v in graph.values}
    nodes = {key_of(n): n for n in graph.nodes}
    codes = codes_of(graph, placement, amax, ranges)
    data = {key: [codes[placement.reads[key, i]] for i in coded_inputs(nodes[key])] for key in placement.products}
    for group, c in zip(placement.groups, codes, strict=True):
        for name in group.tensors:
            _quantized(graph, values[name], c, placement)
    for key in placement.products:
        if nodes[key].op != "Attention":
            _quantize_product(graph, nodes[key], float(data[key][0].scale), (channel_scales or {}).get(key))


def _quantized(graph: Graph, v: Value, codes: Codes, placement: Placement) -> None:
    """DQ(Q(v)) for the readers of codes of `v`."""
    constants = [
        graph.add_constant(np.array(codes.scale, np.float32), f"{v.name}.scale"),
        graph.add_constant(np.array(codes.zero, codes.dtype), f"{v.name}.zero"),
    ]
    readers = [(n, i) for n, i in v.uses if key_of(n) in placement.moves or (key_of(n), i) in placement.reads]
    origin = ("rule:quantize",)
    attrs: dict[str, AttrValue] = {"axis": 0, "to": codes.dtype}
    q = make(graph, "QuantizeLinear", [v, *constants], attrs, name=f"{v.name}.codes", origin=origin)
    d = make(graph, "DequantizeLinear", [q.output, *constants], {"axis": 0}, name=f"{v.name}.again", origin=origin)
    for node, i in readers:
        graph.set_input(node, i, d.output)


def _quantize_product(graph: Graph, node: Node, x_scale: float, scale: np.ndarray | None) -> None:
    w = node.inputs[1]
    assert w is not None and w.const is not None
    if scale is None:
        scale = graph.derived(weight_scales, w.const)
    label = f"{node.name}.weights"
    codes = graph.add_constant(graph.derived(quantize_weights, w.const, scale), label)
    graph.set_input(node, 1, _constant_codes(graph, codes, scale))
    if node.op != "Conv" or len(node.inputs) < 3 or node.inputs[2] is None or node.inputs[2].const is None:
        return
    unit = np.float64(x_scale) * scale.astype(np.float64)
    bias = np.rint(node.inputs[2].const.astype(np.float64) / unit)
    if (np.abs(bias) >= _INT32).any():
        return  # it stays float, added after the product
    wide = graph.add_constant(bias.astype(np.int32), f"{node.name}.bias")
    graph.set_input(node, 2, _constant_codes(graph, wide, unit.astype(np.float32)))


def _constant_codes(graph: Graph, codes: Value, scale: np.ndarray) -> Value:
    s = graph.add_constant(scale, f"{codes.name}.scale")
    attrs = {"axis": codes.type.rank - 1}
    return make(graph, "DequantizeLinear", [codes, s], attrs, name=f"{codes.name}.again").output
