"""Fake quantization that a model writes out in float arithmetic, as quantization-aware training does, becomes Q/DQ.

A rounded value is fake-quantized if what leads to it and what follows is, with a scale s > 0 and integers z, l, h,

    y = s * (clip(round(x / s + z), l, h) - z)

in any order in which it is written: the clip before or after rounding, in units of x or of codes, by Clip, Min, Max or
Relu; Mul by 1/s for Div by s; floor(u + 1/2) for round(u), as TensorFlow rounds; u + (round(u) - u), which hides the
rounding from gradients. Results agree with the chain's except for values within float32's rounding of the middle
between two codes. Weights get their codes here, before constants are folded; scales may be computed from other
constants.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from temper.ir.graph import Graph, Node, Value
from temper.ir.opdef import AttrValue
from temper.ir.ops import TABLE, make
from temper.passes.manager import Log, Pass
from temper.reference import run

NAME = "fake-quantize"

#: Relative error of the product of the two scales, which models round apart, and of codes in units of a code.
_SCALES, _CODES = 1e-4, 2e-2

#: Constants computed from others are looked at up to so many elements, unless they are what is quantized.
_SMALL = 1 << 16

#: Steps on either side of the rounding.
_MOST = 8


@dataclass(frozen=True, eq=False)
class Affine:
    """clip(a x + b, low, high) of a value x: scalars, or arrays that broadcast with x."""

    x: Value
    a: np.ndarray
    b: np.ndarray
    low: np.ndarray
    high: np.ndarray


@dataclass(frozen=True, eq=False)
class Chain:
    """y = scale * j, j = clip(round(x / scale), low, high)."""

    x: Value
    y: Value
    scale: np.ndarray
    low: np.ndarray
    high: np.ndarray


def known(v: Value, size: int = _SMALL) -> np.ndarray | None:
    """The value of a constant, or of what is computed from constants alone, with at most `size` elements."""
    if v.const is not None:
        return v.const if v.const.size <= size else None
    node = v.producer
    if node is None or node.op == "DequantizeLinear" or not TABLE[node.op].deterministic or len(node.outputs) > 1:
        return None
    if not v.type.static or v.type.dtype == "string" or not node.inputs:
        return None
    arrays = [None if u is None else known(u, size) for u in node.inputs]
    if any(a is None and u is not None for a, u in zip(arrays, node.inputs, strict=True)):
        return None
    found = np.asarray(
        run(node.op, arrays, node.attrs, [None if u is None else u.type.dtype for u in node.inputs], [v.type.dtype])[0]
    )
    return found if found.size <= size else None


def _step(node: Node, v: Value) -> tuple[Value, np.ndarray, np.ndarray, np.ndarray, np.ndarray] | None:
    """Of a node that gives clip(a u + b, low, high): u, which is v if it is among the operands, and the four."""
    one, zero, free = np.float64(1), np.float64(0), np.float64(np.inf)
    data = [u for u in node.inputs if u is not None]
    if node.op == "Identity":
        return data[0], one, zero, -free, free  # type: ignore[return-value]
    if node.op == "Relu":
        return data[0], one, zero, zero, free  # type: ignore[return-value]
    if node.op == "Clip":
        ends = (node.attrs["min"], node.attrs["max"])
        low, high = (d if e is None else np.float64(e) for d, e in zip((-free, free), ends, strict=True))  # type: ignore[arg-type]
        return data[0], one, zero, low, high  # type: ignore[return-value]
    if node.op not in ("Mul", "Div", "Add", "Sub", "Min", "Max") or len(data) != 2:
        return None
    first = known(data[1])
    u, c = (data[0], first) if first is not None else (data[1], known(data[0]))
    if c is None or c.dtype != np.float32 or (first is None and node.op in ("Div", "Sub")) or u.type != v.type:
        return None
    w = c.astype(np.float64)
    w = w.reshape(()) if w.size == 1 else w
    if node.op in ("Mul", "Div"):
        if not (w > 0).all():
            return None
        return u, w if node.op == "Mul" else 1 / w, zero, -free, free  # type: ignore[return-value]
    if node.op in ("Add", "Sub"):
        return u, one, w if node.op == "Add" else -w, -free, free  # type: ignore[return-value]
    return u, one, zero, *((-free, w) if node.op == "Min" else (w, free))


def _before(v: Value) -> Iterator[Affine]:
    """What v is of values before it, the nearest first."""
    free = np.array(np.inf)
    found = Affine(v, np.array(1.0), np.array(0.0), -free, free)
    yield found
    for _ in range(_MOST):
        node = found.x.producer
        step = _step(node, found.x) if node is not None else None
        if step is None:
            return
        u, a, b, low, high = step
        # clip(a' clip(a u + b, low, high) + b', low', high')
        ends = (np.clip(found.a * e + found.b, found.low, found.high) for e in (low, high))
        found = Affine(u, found.a * a, found.a * b + found.b, *ends)
        yield found


def _after(v: Value, u: Value | None) -> Iterator[tuple[Value, Affine]]:
    """Values after v, and what they are of it. u: what v is the rounding of."""
    free = np.array(np.inf)
    found = Affine(v, np.array(1.0), np.array(0.0), -free, free)
    at = v
    yield at, found
    for _ in range(_MOST):
        passed = _straight_through(at, u) if at is v else None
        if passed is not None:
            at = passed
            yield at, found
            continue
        users = at.users
        step = _step(users[0], users[0].output) if len(users) == 1 and len(users[0].outputs) == 1 else None
        if step is None or step[0] is not at:
            return
        _, a, b, low, high = step
        at = users[0].output
        ends = (np.clip(a * e + b, low, high) for e in (found.low, found.high))
        found = Affine(v, found.a * a, found.b * a + b, *ends)
        yield at, found


def _straight_through(v: Value, u: Value | None) -> Value | None:
    """u + (v - u), or None."""
    for difference in v.users:
        if u is None or difference.op != "Sub" or list(difference.inputs) != [v, u]:
            continue
        for total in difference.output.users:
            if total.op == "Add" and u in total.inputs and len(difference.output.users) == 1:
                return total.output
    return None


def _chain(node: Node) -> Chain | str | None:
    """What a Round or Floor is the middle of; None where nothing points to quantization, or why it is not taken."""
    argument = node.inputs[0]
    assert argument is not None
    half = 0.5 if node.op == "Floor" else 0.0
    reason: str | None = None
    for u in _before(argument):
        if u.x.type != node.output.type:
            break
        for y, c in _after(node.output, argument):
            # whole numbers alone, of scale 1, are no quantization
            if np.abs(u.a * c.a - 1).max() > _SCALES or y.type != node.output.type or (c.a == 1).all():
                continue
            found = _range(u, c, half)
            if isinstance(found, str):
                reason = found
            elif found is not None:
                return Chain(u.x, y, c.a, *found)
    return reason


def _range(before: Affine, after: Affine, half: float) -> tuple[np.ndarray, np.ndarray] | str | None:
    """Least and greatest code, counted from that of zero; None where there is no range, a reason where it does not do.
    half: what is added before rounding down."""
    shift = np.rint(before.b - half)
    # rounding is monotone, so that it may change places with a clip
    low, high = (np.rint(e - half) - shift if np.isfinite(e).all() else e for e in (before.low, before.high))
    ends = [(e - after.b) / after.a - shift if np.isfinite(e).all() else e for e in (after.low, after.high)]
    if any(np.isfinite(e).all() and np.abs(e - np.rint(e)).max() > _CODES for e in ends):
        return None  # clips to what is no code
    low, high = np.maximum(low, np.rint(ends[0])), np.minimum(high, np.rint(ends[1]))
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        return None
    if np.abs(before.b - half - shift).max() > _CODES or np.abs(after.b / after.a + shift).max() > _CODES:
        return "zero lies between two codes"
    if (high - low > 255).any() or (low > 0).any() or (high < 0).any():
        return f"codes of {low.min():g} to {high.max():g} do not fit 8 bits with a code for zero"
    return low, high


def _axis(a: np.ndarray, rank: int) -> int | None:
    """The axis of a value of that rank along which an array that broadcasts with it varies; None of several."""
    shape = (1,) * (rank - a.ndim) + a.shape
    wide = [i for i, n in enumerate(shape) if n > 1]
    return wide[0] if len(wide) == 1 else None


def _written(graph: Graph, node: Node, chain: Chain) -> str | None:
    """Writes Q/DQ for a chain; the reason if it cannot be."""
    x, rank = chain.x, chain.y.type.rank
    value = known(x, 1 << 62)
    least, most = float(chain.low.min()), float(chain.high.max())
    signed = least >= -128 and most <= 127
    zero = 0 if signed or least == 0 else int(-least)
    if most + zero > 255:
        return f"channels have codes of {least:g} to {most:g}, which no zero point holds"
    axis, scale = 0, chain.scale.reshape(-1)
    if scale.size > 1:
        if value is None or (found := _axis(chain.scale, rank)) is None:
            return "a tensor that is computed has a scale for each of several indices"
        axis = found
    dtype = "int8" if signed else "uint8"
    origin = (*(node.origin or (node.name,)), f"rule:{NAME}")
    s = graph.add_constant(scale.astype(np.float32).reshape(-1 if scale.size > 1 else ()), f"{node.name}.scale")
    z = graph.add_constant(np.full(s.type.shape, zero, dtype), f"{node.name}.zero")  # type: ignore[arg-type]
    if value is not None:
        codes = np.clip(np.rint(value / chain.scale), chain.low, chain.high) + zero
        q = graph.add_constant(np.broadcast_to(codes, value.shape).astype(dtype), f"{node.name}.codes")
    else:
        info = np.iinfo(dtype)
        if (least, most) != (info.min - zero, info.max - zero):  # fewer codes than there are
            ends: dict[str, AttrValue] = {"min": float(least * scale[0]), "max": float(most * scale[0])}
            x = make(graph, "Clip", [x], ends, name=f"{node.name}.clip", origin=origin).output
        to: dict[str, AttrValue] = {"axis": 0, "to": dtype}
        q = make(graph, "QuantizeLinear", [x, s, z], to, name=f"{node.name}.codes", origin=origin).output
    d = make(graph, "DequantizeLinear", [q, s, z], {"axis": axis}, name=f"{node.name}.again", origin=origin)
    graph.replace_uses(chain.y, d.output)
    return None


def _run(graph: Graph, log: Log) -> None:
    for node in graph.nodes:
        if node.op not in ("Round", "Floor") or not graph.alive(node) or node.output.type.dtype != "float32":
            continue
        found = "disabled" if NAME in log.disabled else _chain(node)
        if isinstance(found, Chain):
            found = _written(graph, node, found)
            if found is None:
                log.did(NAME, node.name)
        if isinstance(found, str):
            log.did_not(NAME, node.name, found)
    graph.prune()


FAKE_QUANTIZE = Pass(NAME, _run)
