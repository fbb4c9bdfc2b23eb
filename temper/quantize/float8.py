"""Products of 8-bit floats (E4M3): where they can be, their scales, and the form a graph gets.

    y = conv(e4m3(x / s), e4m3(w / t)) * (s t)      s of the tensor, t of every output channel

Scales are amax / 448 rounded up to a power of two: dividing and multiplying by them is exact, and E4M3, whose steps
are relative, loses nothing but the least of its numbers. What is rounded is the data and the weights; the sum is
float32, as of halves. OCP 8-bit Floating Point Specification (OFP8) 1.0, 2023.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from temper.ir.graph import Graph, Node, Value
from temper.ir.ops import make
from temper.passes.float8 import replace_product
from temper.quantize.codes import threshold
from temper.quantize.placement import Site, key_of, quantizable
from temper.reference.formats import number, numbers

DTYPE = "float8e4m3fn"
LARGEST = 448.0

_ORIGIN = ("rule:float8",)


def declines(node: Node) -> str | None:
    """Why a node cannot be a product of 8-bit floats; None if it can."""
    if node.op not in ("Conv", "MatMul"):
        return f"{node.op} is not a product with weights"
    if (reason := quantizable(node)) is not None:
        return reason
    if node.op == "Conv" and node.attrs["group"] != 1:
        return "tensor cores gain nothing from groups of few channels"
    return None


def float8_sites(graph: Graph) -> tuple[Site, ...]:
    """Every product that can be one of 8-bit floats, in topological order."""
    nodes = [n for n in graph.nodes if declines(n) is None]
    counts = Counter(n.name for n in nodes)
    return tuple(
        Site(
            n.name if counts[n.name] == 1 else key_of(n),
            n.op,
            key_of(n),
            (0,),
            tuple(v.name for v in n.inputs[:1] if v is not None),
            tuple(o for o in n.origin if not o.startswith("rule:")),
        )
        for n in nodes
    )


def scale_of(amax: float | np.ndarray) -> np.ndarray:
    """The least power of two that brings values up to `amax` within E4M3's range; 1 for zeros."""
    wanted = np.asarray(amax, np.float64) / LARGEST
    exponent = np.ceil(np.log2(np.where(wanted > 0, wanted, 1.0)))
    return np.where(wanted > 0, np.exp2(np.clip(exponent, -120, 120)), 1.0).astype(np.float32)


def channel_scales(w: np.ndarray) -> np.ndarray:
    """Of every output channel (last axis)."""
    return scale_of(np.abs(w).reshape(-1, w.shape[-1]).max(axis=0, initial=0))


def rounded(x: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """What x / scale is as E4M3, in float32."""
    return numbers(number(x / scale, DTYPE), DTYPE).astype(np.float32)


def insert(graph: Graph, sites: Sequence[Site], amax: Mapping[str, float]) -> None:
    """Makes these sites products of 8-bit floats. amax: threshold by tensor; ConfigError names one without."""
    nodes = {n.outputs[0].name: n for n in graph.nodes}
    largest = {}
    for site in sites:
        x = nodes[site.key].inputs[0]
        assert x is not None
        largest[site.key] = threshold(x, amax)
    narrow(graph, largest)


def narrow(graph: Graph, largest: Mapping[str, float]) -> None:
    """Makes products, by the name of their result, ones of 8-bit floats. largest: magnitude of the data they read."""
    nodes = {n.outputs[0].name: n for n in graph.nodes if n.outputs[0].name in largest}
    reach: dict[str, float] = {}  # by name, which the result of a product made anew takes over
    for key, node in nodes.items():
        assert node.inputs[0] is not None
        reach[node.inputs[0].name] = max(reach.get(node.inputs[0].name, 0.0), largest[key])
    made: dict[int, tuple[Value, float]] = {}
    for node in nodes.values():
        x = node.inputs[0]
        assert x is not None
        if x.id not in made:
            made[x.id] = _narrowed(graph, x, float(scale_of(reach[x.name])))
        half, scale = made[x.id]
        wide = make(graph, "Cast", [half], {"to": "float32"}, name=f"{node.name}.float32", origin=_ORIGIN).output
        _product(graph, node, wide, scale)


def _narrowed(graph: Graph, x: Value, scale: float) -> tuple[Value, float]:
    factor = graph.add_constant(np.array(1 / scale, np.float32), f"{x.name}.factor")
    y = make(graph, "Mul", [x, factor], {}, name=f"{x.name}.scaled", origin=_ORIGIN).output
    return make(graph, "Cast", [y], {"to": DTYPE}, name=f"{x.name}.{DTYPE}", origin=_ORIGIN).output, scale


def _product(graph: Graph, node: Node, x: Value, scale: float) -> None:
    w = node.inputs[1]
    assert w is not None and w.const is not None
    of = channel_scales(w.const)
    total = (of.astype(np.float64) * scale).astype(np.float32)
    replace_product(graph, node, x, rounded(w.const, of), total)
