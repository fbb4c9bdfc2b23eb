"""Random ops. They run on the host (reference/random.py tells what a seed means) and are neither folded nor merged.

The ...Like forms are these with the shape of another tensor; Bernoulli is a comparison with RandomUniform.
"""

from __future__ import annotations

from temper.errors import ShapeError
from temper.ir.opdef import Attrs, AttrSpec, InferFn, Kind, OpDef, Tolerance
from temper.ir.ops import rules
from temper.ir.ops.rules import FLOATS, INT, NUMBER, Types, allow, default, integer, need
from temper.ir.types import TensorType
from temper.reference.random import REFERENCES

_SEED = AttrSpec(NUMBER)


def _drawn(types: Types, attrs: Attrs) -> list[TensorType]:
    if attrs["to"] not in FLOATS:
        raise ShapeError(f"to={attrs['to']!r} is not a floating-point dtype")
    return [TensorType(rules.text(attrs, "to"), rules.dims(attrs, "shape"))]


def _multinomial(types: Types, attrs: Attrs) -> list[TensorType]:
    x = allow(need(types, 0), FLOATS)
    if x.rank != 2 or attrs["to"] not in ("int32", "int64") or integer(attrs, "sample_size") < 1:
        raise ShapeError(f"draws of {attrs['sample_size']} samples of {attrs['to']} from {x}")
    return [TensorType(rules.text(attrs, "to"), (x.shape[0], integer(attrs, "sample_size")))]


def _op(name: str, operands: int, infer: InferFn, attrs: dict[str, AttrSpec]) -> OpDef:
    return OpDef(
        name,
        Kind.OPAQUE,
        (operands, operands),
        infer,
        REFERENCES[name],
        rules.per_element(16),
        {**attrs, "seed": _SEED},
        tolerance=Tolerance(relative=0.0),
        deterministic=False,
    )


_SHAPE = {"shape": rules.INTS_ATTR, "to": default("float32")}

OPS: tuple[OpDef, ...] = (
    _op("RandomUniform", 0, _drawn, {"low": default(0.0), "high": default(1.0), **_SHAPE}),
    _op("RandomNormal", 0, _drawn, {"mean": default(0.0), "scale": default(1.0), **_SHAPE}),
    _op("Multinomial", 1, _multinomial, {"sample_size": INT, "to": default("int32")}),
)
