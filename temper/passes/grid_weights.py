"""Recovers the codes of quantized weights that an exporter folded into float constants.

Where a product reads dequantized codes and each output channel of its constant weights lies on a grid of at most 8
bits, w = s k with integer k, the weights are s and k: quantization-aware training left them so. The grid is searched
for, with s = max |w| / m for some m up to 128, and must hold to a thousandth of a step; weights that were never
quantized do not pass that.
"""

from __future__ import annotations

import numpy as np

from temper.ir.graph import Graph, Node, Value
from temper.ir.ops import make
from temper.passes.fake_quantize import known
from temper.passes.manager import Log, Pass

NAME = "grid-weights"

#: Distance from the grid, in steps; and elements of a channel that tell which grids may do.
_EXACT, _SAMPLE = 1e-3, 64

#: What stands between codes and a product: the values are still the codes'.
_SAME = frozenset({"MaxPool", "Relu", "Reshape", "Flatten", "Transpose", "Squeeze", "Unsqueeze", "Identity", "Pad"})


def _of_codes(v: Value) -> bool:
    for _ in range(8):
        node = v.producer
        if node is None:
            return False
        if node.op == "DequantizeLinear":
            return True
        first = node.inputs[0] if node.inputs else None
        if node.op not in _SAME or first is None:
            return False
        v = first
    return False


def _channels(node: Node, w: Value) -> int | None:
    """The axis of output channels of a product's weights."""
    if node.op == "Conv":
        return 0
    if node.op == "MatMul" and w.type.rank == 2:
        return 0 if node.attrs["transB"] else 1
    return None


def grid(rows: np.ndarray) -> np.ndarray | None:
    """Scales of a grid that holds each row of [n, k], or None; 1 of a row of zeros."""
    wide = rows.astype(np.float64)
    peak = np.abs(wide).max(axis=1)
    few = wide[:, :: max(1, wide.shape[1] // _SAMPLE)]
    scales = np.ones(len(rows))
    for i, top in enumerate(peak):
        if not top > 0:
            continue
        steps = top / np.arange(1, 129)
        at = few[i][None, :] / steps[:, None]
        for m in np.flatnonzero(np.abs(at - np.rint(at)).max(axis=1) <= _EXACT):
            whole = wide[i] / steps[m]
            codes = np.rint(whole)
            if np.abs(whole - codes).max() <= _EXACT and codes.max() <= 127:
                scales[i] = steps[m]
                break
        else:
            return None
    return scales


def _run(graph: Graph, log: Log) -> None:
    for node in graph.nodes:
        w = node.inputs[1] if node.op in ("Conv", "MatMul") else None
        axis = None if w is None or w.type.dtype != "float32" else _channels(node, w)
        x = node.inputs[0] if node.inputs else None
        if w is None or axis is None or x is None or not _of_codes(x):
            continue
        values = known(w, 1 << 62)
        if values is None or not values.size:
            continue
        if NAME in log.disabled:
            log.did_not(NAME, node.name, "disabled")
            continue
        rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
        scales = grid(rows) if np.isfinite(values).all() else None
        if scales is None or (scales < np.finfo(np.float32).tiny).any():
            log.did_not(NAME, node.name, "its data is quantized, its weights are not: they lie on no grid of 8 bits")
            continue
        shape = tuple(-1 if i == axis else 1 for i in range(values.ndim))
        codes = np.rint(values.astype(np.float64) / scales.reshape(shape)).astype(np.int8)
        operands = [
            graph.add_constant(codes, f"{w.name}.codes"),
            graph.add_constant(scales.astype(np.float32), f"{w.name}.scale"),
            graph.add_constant(np.zeros(len(scales), np.int8), f"{w.name}.zero"),
        ]
        d = make(graph, "DequantizeLinear", operands, {"axis": axis}, name=f"{w.name}.again", origin=(f"rule:{NAME}",))
        graph.set_input(node, 1, d.output)
        log.did(NAME, node.name)
    graph.prune()


GRID_WEIGHTS = Pass(NAME, _run)
