"""Models that come quantized to 8-bit floats (E4M3): their products multiply the codes, on GPUs that can.

    conv(s q, t w8) = (s t) conv(q, w8)      q, w8: E4M3; s: a number; t: one of every output channel

Weights arrive as float32, since constants are folded: they are E4M3 numbers times a scale of their channel, which is
recovered (any that fits, up to a power of two) and checked element by element. Sums are float32, as those of halves.
NVIDIA TensorRT writes and reads such models ("explicit quantization", FP8).
"""

from __future__ import annotations

import numpy as np

from temper.ir.graph import Graph, Node, Value
from temper.ir.ops import make
from temper.passes.manager import Log, Pass
from temper.reference.formats import number, numbers

_NAME = "float8"
_ORIGIN = ("rule:float8",)
_DTYPE = "float8e4m3fn"

#: What moves elements and leaves them as they are, with one operand that is data.
_MOVES = frozenset({"Transpose", "Reshape", "Slice", "Identity", "Unsqueeze", "Squeeze", "Flatten"})

#: A folded weight is a product rounded to float32; an E4M3 number has 3 bits of mantissa.
_CLOSE = 2.0**-20

#: Powers of two between the largest weight of a channel and the numbers it may stand for: E4M3 reaches 2^8.75.
_TOP = 2.0**8


def run(graph: Graph, log: Log) -> None:
    for node in graph.nodes:
        if node.op not in ("Conv", "MatMul") or node.inputs[0] is None:
            continue
        found = _data(node.inputs[0])
        if found is None:
            continue
        reason = _multiplied(graph, node, *found)
        if reason is None:
            log.did(_NAME, node.name)
        else:
            log.did_not(_NAME, node.name, reason)
    graph.prune()


def _data(x: Value) -> tuple[Node, list[Node]] | None:
    """The DequantizeLinear of E4M3 codes that a value comes from, and what moves it since, the last first."""
    moves: list[Node] = []
    node = x.producer
    while node is not None and node.op in _MOVES and node.inputs[0] is not None:
        moves.append(node)
        node = node.inputs[0].producer
    if node is None or node.op != "DequantizeLinear" or node.inputs[0] is None:
        return None
    return (node, moves) if node.inputs[0].type.dtype == _DTYPE else None


def _multiplied(graph: Graph, node: Node, dequantize: Node, moves: list[Node]) -> str | None:
    """Makes the product one of E4M3 numbers; or why not."""
    q, s, w = dequantize.inputs[0], dequantize.inputs[1], node.inputs[1]
    assert q is not None and s is not None
    if s.const is None or s.const.size != 1:
        return "its data has no one scale known at build"
    zero = dequantize.inputs[2] if len(dequantize.inputs) > 2 else None
    if zero is not None and (zero.const is None or np.any(zero.const & 0x7F)):
        return "its data has a zero point"
    if w is None or w.const is None or w.const.dtype != np.float32:
        return "its weights are not known at build"
    if node.op == "Conv" and node.attrs["group"] != 1:
        return "tensor cores gain nothing from groups of few channels"
    if any(node.attrs.get(t) for t in ("transA", "transB")):
        return "an operand is transposed"
    codes = graph.derived(weight_numbers, w.const)
    if codes is None:
        return "its weights are not E4M3 numbers with a scale per output channel"
    w8, t = codes
    wide = make(graph, "Cast", [q], {"to": "float32"}, name=f"{node.name}.codes", origin=_ORIGIN).output
    for m in reversed(moves):
        wide = make(graph, m.op, [wide, *m.inputs[1:]], m.attrs, name=f"{m.name}.codes", origin=_ORIGIN).output
    replace_product(graph, node, wide, w8, (t.astype(np.float64) * float(s.const.reshape(()))).astype(np.float32))
    return None


def replace_product(graph: Graph, node: Node, x: Value, w8: np.ndarray, total: np.ndarray) -> None:
    """Puts the product of E4M3 numbers `x` and weights `w8`, both float32, times the scales `total` in place of a
    product with a bias or none."""
    weights = graph.add_constant(w8, f"{node.name}.weights")
    y = make(graph, node.op, [x, weights], node.attrs, name=node.name, origin=(*node.origin, *_ORIGIN)).output
    factor = graph.add_constant(total, f"{node.name}.scale")
    y = make(graph, "Mul", [y, factor], {}, name=f"{node.name}.descaled", origin=_ORIGIN).output
    bias = node.inputs[2] if len(node.inputs) > 2 else None
    if bias is not None:
        y = make(graph, "Add", [y, bias], {}, name=f"{node.name}.biased", origin=_ORIGIN).output
    name = node.output.name
    graph.replace_uses(node.output, y)
    graph.remove_node(node)
    graph.rename(y, name)


def weight_numbers(w: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """E4M3 numbers and a scale per output channel (last axis), both float32, whose products are `w`; None if there are
    none."""
    rows = w.reshape(-1, w.shape[-1]).astype(np.float64)
    largest = np.abs(rows).max(axis=0, initial=0)
    if not np.isfinite(largest).all():
        return None
    scale = np.ones(rows.shape[1])
    done = largest == 0
    codes = np.zeros(rows.shape)
    for mantissa in range(8):
        # the largest number has this mantissa: 1.75 is the greatest at the greatest exponent
        top = _TOP * (1 + mantissa / 8) / (2 if mantissa == 7 else 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            tried = np.where(largest > 0, largest / top, 1.0).astype(np.float32).astype(np.float64)
            x = rows / tried
        near = numbers(number(x.astype(np.float32), _DTYPE), _DTYPE).astype(np.float64)
        fits = (np.abs(near - x) <= _CLOSE * np.abs(x)).all(axis=0) & (tried > 0) & ~done
        codes[:, fits], scale[fits] = near[:, fits], tried[fits]
        done |= fits
    if not done.all():
        return None
    return codes.reshape(w.shape).astype(np.float32), scale.astype(np.float32)


FLOAT8 = Pass(_NAME, run)
