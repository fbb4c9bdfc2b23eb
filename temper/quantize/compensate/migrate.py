"""Moving ranges between a tensor's channels and the weights that read them: equalisation and SmoothQuant as one.

A tensor x with one scale wastes codes on channels that are small. Where it comes from something that can be divided by
a vector s, channel by channel (a product's weights and bias, a normalisation's scale and shift), through functions with
f(c x) = c f(x) for c > 0, and is read by products only, whose weights are multiplied by s in turn, nothing changes but
the ranges. Cross-layer equalisation (arXiv 1906.04721) is that between two products, SmoothQuant (arXiv 2211.10438)
behind a normalisation; depthwise triples are two such tensors. With

    s_c = max|x_c|^alpha / max|W_c|^(1 - alpha)

alpha is chosen for each tensor from 0, 0.1 .. 1 or off, by the expected squared error of the products that read it:
rounding x with step d adds d^2/12 sum_c s_c^2 |W_c|^2, rounding the weights of result o with step e_o adds
e_o^2/12 sum_c E[x_c^2] / s_c^2.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from temper.ir.graph import Graph, Node, Value
from temper.quantize.compensate.channels import Channels, by_input, from_input
from temper.quantize.placement import key_of, not_negative, quantizable

#: f(c x) = c f(x) for c > 0, elementwise, or within a channel.
_THROUGH = frozenset({"Relu", "LeakyRelu", "Identity", "MaxPool"})
_NORMS = frozenset({"LayerNormalization", "RMSNormalization"})

ALPHAS = tuple(a / 10 for a in range(11))

#: Gain in expected error below which a tensor is left alone.
_GAIN = 0.9

#: Bounds of s, relative to its geometric mean.
_LIMITS = (1e-3, 1e3)

Operand = tuple[str, int]


@dataclass(frozen=True)
class Place:
    """A tensor whose channels may be rescaled.

    divided: constants that are divided by s along their last axis.
    sinks: products that read it.
    tensors: all tensors on the way from where it is made, whose ranges change.
    """

    tensor: str
    divided: tuple[Operand, ...]
    sinks: tuple[Node, ...]
    tensors: tuple[str, ...]


def places(graph: Graph) -> list[Place]:
    """In topological order."""
    found = []
    for v in graph.values:
        if v.const is not None or graph.is_output(v) or not v.uses:
            continue
        if all(i == 0 and n.op in ("Conv", "MatMul") and quantizable(n) is None for n, i in v.uses):
            origin = _origin(graph, v)
            if origin is not None:
                found.append(Place(v.name, origin[0], tuple(v.users), origin[1]))
    order = {n.id: i for i, n in enumerate(graph.nodes)}
    return sorted(found, key=lambda p: order[p.sinks[0].id])


def _origin(graph: Graph, v: Value) -> tuple[tuple[Operand, ...], tuple[str, ...]] | None:
    """The constants that make `v` and can be divided, and the tensors on the way; None where something else does."""
    divided: list[Operand] = []
    tensors = [v.name]
    while (node := v.producer) is not None:
        channels = v.type.shape[-1]
        if quantizable(node) is None or node.op in _NORMS:
            constants = [i for i in (1, 2) if i < len(node.inputs) and node.inputs[i] is not None]
            if any(_vector(node.inputs[i], channels) is False for i in constants):
                return None
            return (*divided, *((key_of(node), i) for i in constants)), tuple(tensors)
        x = node.inputs[0]
        if node.op in ("Add", "Mul"):
            sides = [i for i in (0, 1) if node.inputs[i] is not None and _vector(node.inputs[i], channels)]
            if len(sides) != 1:
                return None
            divided.append((key_of(node), sides[0]))
            if node.op == "Mul":
                return tuple(divided), tuple(tensors)
            x = node.inputs[1 - sides[0]]
        elif node.op not in _THROUGH:
            return None
        if x is None or len(x.uses) != 1 or graph.is_output(x):
            return None
        v = x
        tensors.append(v.name)
    return None


def _vector(v: Value | None, channels: object) -> bool:
    """A constant with a value for every channel."""
    return v is not None and v.const is not None and v.const.ndim > 0 and v.const.shape[-1] == channels


@dataclass(frozen=True, eq=False)
class Migration:
    """What one tensor's rescaling comes to. factors: s by channel. gain: expected error left, as a share of before."""

    place: Place
    alpha: float
    factors: np.ndarray
    gain: float


def migration(
    place: Place, x: Channels, operands: Mapping[Operand, np.ndarray], levels: int, limit: float
) -> Migration | None:
    """The best rescaling of a tensor; None if it is best left alone. operands: current constants. levels, limit: of its
    codes at present, whose threshold may be less than its largest value; afterwards nothing is clipped."""
    sinks = [(n, by_input(n.op, operands[key_of(n), 1], _group(n)).astype(np.float64)) for n in place.sinks]
    reach = x.amax
    greatest = np.max([np.abs(w).max(axis=(0, 3)).reshape(-1) for _, w in sinks], axis=0)
    used = (reach > 0) & (greatest > 0)
    if used.sum() < 2:
        return None
    before = _expected(sinks, x, np.ones(len(reach)), limit / levels)
    best: tuple[float, float, np.ndarray] | None = None
    for alpha in ALPHAS:
        s = np.ones(len(reach))
        s[used] = reach[used] ** alpha / greatest[used] ** (1 - alpha)
        s[used] = np.clip(s[used] / np.exp(np.log(s[used]).mean()), *_LIMITS)
        after = _expected(sinks, x, s, float((reach / s).max()) / levels)
        if best is None or after < best[0]:
            best = after, alpha, s
    assert best is not None
    if not best[0] < _GAIN * before:
        return None
    return Migration(place, best[1], best[2].astype(np.float32).astype(np.float64), best[0] / before)


def _expected(sinks: Sequence[tuple[Node, np.ndarray]], x: Channels, s: np.ndarray, step: float) -> float:
    """Expected squared rounding error of all results, up to a common factor."""
    total = 0.0
    for _, w in sinks:
        group = w.shape[1]
        scaled = w * s.reshape(1, group, -1, 1)
        steps = np.abs(scaled).max(axis=(0, 2)) / 127  # [group, results]
        power = (x.mean_square / s**2).reshape(group, -1).sum(axis=1) * w.shape[0]
        total += step**2 * float((scaled**2).sum()) + float((steps**2 * power[:, None]).sum())
    return total


def _group(node: Node) -> int:
    return int(str(node.attrs["group"])) if node.op == "Conv" else 1


def apply(m: Migration, operands: dict[Operand, np.ndarray]) -> None:
    """Rescales the constants in `operands`, which must hold all that the place names."""
    for at in m.place.divided:
        operands[at] = (operands[at].astype(np.float64) / m.factors).astype(np.float32)
    for node in m.place.sinks:
        key = (key_of(node), 1)
        w, group = operands[key], _group(node)
        parts = by_input(node.op, w, group).astype(np.float64) * m.factors.reshape(1, group, -1, 1)
        operands[key] = from_input(node.op, parts, w.shape).astype(np.float32)


def levels_of(graph: Graph, tensor: str) -> int:
    """127, or 255 of a tensor that cannot be negative."""
    return 255 if not_negative(next(v for v in graph.values if v.name == tensor)) else 127
