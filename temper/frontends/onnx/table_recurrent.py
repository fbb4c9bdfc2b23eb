"""LSTM, GRU and RNN of ONNX: the whole sequence times the input weights, then the recurrence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import MappingProxyType

from temper.errors import ShapeError
from temper.frontends.onnx.context import Context, Refusal, Row
from temper.ir.dims import DimLike
from temper.ir.graph import Value
from temper.ir.ops.recurrent import ACTIVATIONS, CELLS, DIRECTIONS

_DEFAULTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"lstm": ("Sigmoid", "Tanh", "Tanh"), "gru": ("Sigmoid", "Tanh"), "rnn": ("Tanh",)}
)
#: parameters of activations where the node gives none: those of the ONNX operators, and the identity's
_ALPHA: Mapping[str, float] = MappingProxyType(
    {"Affine": 1.0, "LeakyRelu": 0.01, "ThresholdedRelu": 1.0, "ScaledTanh": 1.0, "HardSigmoid": 0.2, "Elu": 1.0}
)
_BETA: Mapping[str, float] = MappingProxyType({"Affine": 0.0, "ScaledTanh": 1.0, "HardSigmoid": 0.5})


def _activations(c: Context, cell: str, directions: int) -> dict[str, object]:
    """The attributes activations, alpha and beta; numbers go to the activations that take one, in order."""
    given = c.attr("activations") or _DEFAULTS[cell] * directions
    by_lower = {a.lower(): a for a in ACTIVATIONS}
    unknown = sorted(a for a in given if a.lower() not in by_lower)
    if unknown:
        raise ShapeError(f"{c}: unknown activations {unknown}; ONNX has {', '.join(sorted(ACTIVATIONS))}")
    count = CELLS[cell][1] * directions
    if len(given) < count:
        raise ShapeError(f"{c}: attribute 'activations' has {len(given)} entries for {directions} directions")
    names = [by_lower[a.lower()] for a in given[:count]]  # RNN's default has two whatever the direction

    def numbers(attr: str, defaults: Mapping[str, float]) -> Iterator[float]:
        left = iter(c.attr(attr) or ())
        for name in names:
            yield float(next(left, defaults[name])) if name in defaults else 0.0

    return {
        "activations": " ".join(names),
        "alpha": tuple(numbers("activation_alpha", _ALPHA)),
        "beta": tuple(numbers("activation_beta", _BETA)),
    }


def _part(c: Context, x: Value, start: int, stop: int) -> Value:
    return c.emit("Slice", x, starts=(start,), ends=(stop,), axes=(1,), steps=(1,))


def _biases(c: Context, b: Value, cell: str, hidden: int, after: bool) -> tuple[Value, Value | None]:
    """From B [D, 2 * G * H]: what is added to all gates beforehand, and what a GRU adds inside the reset."""
    wide = CELLS[cell][0] * hidden
    if not after:
        return c.emit("Add", _part(c, b, 0, wide), _part(c, b, wide, 2 * wide)), None
    both = c.emit("Add", _part(c, b, 0, 2 * hidden), _part(c, b, wide, wide + 2 * hidden))
    outside = c.emit("Concat", both, _part(c, b, 2 * hidden, wide), axis=1)
    return outside, _part(c, b, wide + 2 * hidden, 2 * wide)


def _state(c: Context, i: int, layout: int) -> Value | None:
    """An initial state as [D, B, H]."""
    v = c.optional(i)
    if v is None or not layout or v.type.rank != 3:
        return v
    batch, d, hidden = v.type.shape
    return c.reshape(v, (d, batch, hidden)) if d == 1 else c.emit("Transpose", v, perm=(1, 0, 2))


def _recurrent(c: Context) -> list[Value]:
    cell = c.op.lower()
    x, w, r = c.input(0), c.input(1), c.input(2)
    direction, layout = c.attr("direction", "forward"), c.attr("layout", 0)
    if direction not in DIRECTIONS or layout not in (0, 1):
        raise ShapeError(f"{c}: direction '{direction}' or layout {layout} does not exist")
    d, count = DIRECTIONS[direction], CELLS[cell][0]
    if any(v.type.rank != 3 for v in (x, w, r)):
        raise ShapeError(f"{c}: X {x.type}, W {w.type} and R {r.type} must have rank 3")
    hidden = r.type.shape[2]
    if not isinstance(hidden, int):
        raise Refusal(f"the hidden size {hidden} is symbolic")
    if c.attr("hidden_size") not in (None, hidden):
        raise ShapeError(f"{c}: hidden_size {c.attr('hidden_size')} contradicts R {r.type}")
    wide = (d, count * hidden, x.type.shape[2])
    if w.type.shape != wide:
        raise ShapeError(f"{c}: W must have shape {list(wide)}, not {w.type}")
    after = bool(cell == "gru" and c.attr("linear_before_reset", 0))
    gates = c.emit("MatMul", x, c.reshape(w, (d * count * hidden, wide[2])), transB=1)
    inside = None
    if (b := c.optional(3)) is not None:
        if b.type.shape != (d, 2 * count * hidden):
            raise ShapeError(f"{c}: B must have shape {[d, 2 * count * hidden]}, not {b.type}")
        outside, inside = _biases(c, b, cell, hidden, after)
        gates = c.emit("Add", gates, c.reshape(outside, (d * count * hidden,)))
    peepholes = c.optional(7) if cell == "lstm" else None
    first = (_state(c, 5, layout), _state(c, 6, layout) if cell == "lstm" else None)
    attrs = {
        "cell": cell,
        "direction": direction,
        "clip": float(c.attr("clip", 0.0) or 0.0),
        "batch_first": layout,
        "linear_before_reset": int(after),
        "input_forget": int(bool(cell == "lstm" and c.attr("input_forget", 0))),
        **_activations(c, cell, d),
    }
    y, *last = c.emit_many("Recurrence", [gates, r, inside, c.optional(4), *first, peepholes], attrs)
    rows: tuple[DimLike, ...] = y.type.shape[:2]
    if layout:
        y = c.reshape(y, (*rows, d, hidden))
        return [y, *(_swapped(c, v) for v in last)]
    if d == 1:
        return [c.reshape(y, (rows[0], 1, rows[1], hidden)), *last]
    return [c.emit("Transpose", c.reshape(y, (*rows, d, hidden)), perm=(0, 2, 1, 3)), *last]


def _swapped(c: Context, v: Value) -> Value:
    """[B, D, H] of [D, B, H]."""
    d, batch, hidden = v.type.shape
    return c.reshape(v, (batch, d, hidden)) if d == 1 else c.emit("Transpose", v, perm=(1, 0, 2))


ROWS: tuple[Row, ...] = tuple(Row(op, _recurrent) for op in ("LSTM", "GRU", "RNN"))
