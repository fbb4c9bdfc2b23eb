"""Recurrent layers as one op; the product of the whole sequence with the input weights comes before it as a MatMul.

Recurrence(gates, R, candidate_bias?, lengths?, h0?, c0?, P?) runs T steps over B rows in D = 1 or 2 directions with H
hidden units and, by `cell`, G gates: "lstm" (i, o, f, c), "gru" (z, r, h) or "rnn" (one). Formulas are those of ONNX's
LSTM, GRU and RNN. gates: [T, B, D * G * H] (batch_first: [B, T, ..]) = X W^T plus all biases that are added to it. R:
[D, G * H, H]. candidate_bias: [D, H], what a GRU with linear_before_reset adds inside the reset. lengths: int32 [B],
steps of each row; later places of Y are 0, and a row without steps keeps its state. h0, c0: [D, B, H], zeros where
absent. P: [D, 3 * H], an LSTM's peepholes (i, o, f).

Results: Y [T, B, D * H] (batch_first: [B, T, ..]), the last h [D, B, H] and, of an LSTM, the last c [D, B, H].
activations: ONNX's names, one direction after the other, separated by blanks; alpha and beta: a number for each. clip:
bound of what goes into activations of gates; 0 for none. input_forget: the forget gate is 1 - i.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from temper.errors import ShapeError
from temper.ir.dims import DimLike
from temper.ir.opdef import Attrs, AttrSpec, Kind, OpDef, Tolerance
from temper.ir.ops import rules
from temper.ir.ops.rules import FLOATS, Types, allow, default, need
from temper.ir.types import TensorType
from temper.reference.recurrent import REFERENCES

#: cell -> (gates, activations of a direction)
CELLS: Mapping[str, tuple[int, int]] = MappingProxyType({"lstm": (4, 3), "gru": (3, 2), "rnn": (1, 1)})
DIRECTIONS: Mapping[str, int] = MappingProxyType({"forward": 1, "reverse": 1, "bidirectional": 2})
ACTIVATIONS = frozenset(
    """Affine Elu HardSigmoid LeakyRelu Relu ScaledTanh Sigmoid Softplus Softsign Tanh ThresholdedRelu""".split()
)


def _recurrence(types: Types, attrs: Attrs) -> list[TensorType]:
    gates, r = allow(need(types, 0), FLOATS, "gates"), need(types, 1)
    cell, direction = rules.text(attrs, "cell"), rules.text(attrs, "direction")
    if cell not in CELLS or direction not in DIRECTIONS:
        raise ShapeError(f"no such recurrent layer: {direction} {cell}")
    count, functions = CELLS[cell]
    d = DIRECTIONS[direction]
    named = rules.text(attrs, "activations").split()
    if len(named) != d * functions or not set(named) <= ACTIVATIONS:
        raise ShapeError(f"a {direction} {cell} takes {d * functions} activations of ONNX's, not {named}")
    if any(len(attrs[n]) != len(named) for n in ("alpha", "beta")):  # type: ignore[arg-type]
        raise ShapeError("every activation has one alpha and one beta")
    if gates.rank != 3 or r.rank != 3 or not isinstance(r.shape[2], int):
        raise ShapeError(f"gates {gates} and recurrence weights {r} must have rank 3 and a known hidden size")
    hidden = r.shape[2]
    steps, batch = gates.shape[1::-1] if rules.integer(attrs, "batch_first") else gates.shape[:2]
    wanted: Sequence[tuple[int, tuple[DimLike, ...], str]] = (
        (0, (*gates.shape[:2], d * count * hidden), "gates"),
        (1, (d, count * hidden, hidden), "recurrence weights"),
        (2, (d, hidden), "the candidate's bias"),
        (3, (batch,), "sequence lengths"),
        (4, (d, batch, hidden), "the initial h"),
        (5, (d, batch, hidden), "the initial c"),
        (6, (d, 3 * hidden), "peepholes"),
    )
    for i, shape, what in wanted:
        t = rules.optional(types, i)
        if t is not None and t.shape != shape:
            raise ShapeError(f"{what} must have shape {rules.shape_text(shape)}, not {rules.shape_text(t.shape)}")
        if t is not None and t.dtype != ("int32" if i == 3 else gates.dtype):
            raise ShapeError(f"{what} cannot be {t.dtype} where gates are {gates.dtype}")
    rows = (batch, steps) if rules.integer(attrs, "batch_first") else (steps, batch)
    last = TensorType(gates.dtype, (d, batch, hidden))
    return [TensorType(gates.dtype, (*rows, d * hidden)), *[last] * (2 if cell == "lstm" else 1)]


def _cost(inputs: Types, outputs: Sequence[TensorType], attrs: Attrs) -> DimLike:
    return need(inputs, 0).count * need(inputs, 1).shape[2] * 2


OPS: tuple[OpDef, ...] = (
    OpDef(
        "Recurrence",
        Kind.CONTRACTION,
        (2, 7),
        _recurrence,
        REFERENCES["Recurrence"],
        _cost,
        {
            "cell": AttrSpec(str, required=True),
            "direction": default("forward"),
            "activations": AttrSpec(str, required=True),
            "alpha": AttrSpec(tuple, required=True),
            "beta": AttrSpec(tuple, required=True),
            "clip": default(0.0),
            "batch_first": default(0),
            "linear_before_reset": default(0),
            "input_forget": default(0),
        },
        outputs=3,
        tolerance=Tolerance(relative=16.0, reduction=True),
    ),
)
