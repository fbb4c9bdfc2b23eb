"""Ops on sequences whose length depends on data. A sequence is one value of dtype "sequence", which only the host sees;
sequences of known length never get here: the frontend resolves them.

Ops that give a tensor have its dtype and shape as attributes (`to`, `shape`), since elements may differ; sizes of it
that only the run finds are symbols, listed in `count`.
"""

from __future__ import annotations

from typing import Any, cast

from temper.errors import ShapeError
from temper.ir.opdef import Attrs, AttrSpec, InferFn, Kind, OpDef, Tolerance
from temper.ir.ops import rules
from temper.ir.ops.rules import INTS_ATTR, Types, default, need
from temper.ir.types import TensorType
from temper.reference.sequences import REFERENCES

#: the type of every sequence
SEQUENCE = TensorType("sequence", ())


def _takes(types: Types) -> None:
    if need(types, 0) != SEQUENCE:
        raise ShapeError(f"operand 0 must be a sequence, not {types[0]}")


def _made(types: Types, attrs: Attrs) -> list[TensorType]:
    return [SEQUENCE]


def _changed(types: Types, attrs: Attrs) -> list[TensorType]:
    _takes(types)
    return [SEQUENCE]


def _length(types: Types, attrs: Attrs) -> list[TensorType]:
    _takes(types)
    return [TensorType("int64", ())]


def _tensor(types: Types, attrs: Attrs) -> list[TensorType]:
    _takes(types)
    return [TensorType(rules.text(attrs, "to"), cast("tuple[Any, ...]", attrs["shape"]))]


def _op(name: str, operands: tuple[int, int | None], infer: InferFn, attrs: dict[str, AttrSpec] | None = None) -> OpDef:
    return OpDef(
        name, Kind.OPAQUE, operands, infer, REFERENCES[name], rules.free, attrs or {}, 1, Tolerance(),
        deterministic=False,
    )  # fmt: skip


_RESULT = {"to": AttrSpec(str, required=True), "shape": INTS_ATTR, "count": AttrSpec(tuple, ())}

#: deterministic=False: there are no constants of this type to fold to
OPS: tuple[OpDef, ...] = (
    _op("SequenceConstruct", (0, None), _made),
    _op("SequenceInsert", (2, 3), _changed),
    _op("SequenceErase", (1, 2), _changed),
    _op("SequenceAt", (2, 2), _tensor, _RESULT),
    _op("SequenceLength", (1, 1), _length),
    _op("SplitToSequence", (1, 2), _made, {"axis": default(0), "keepdims": default(1)}),
    _op("ConcatFromSequence", (1, 1), _tensor, {"axis": default(0), "new_axis": default(0), **_RESULT}),
)
