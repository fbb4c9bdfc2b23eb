"""Ops that read sizes from data. Their attribute `binds` (or `count`) holds the symbols whose values they find.

Sizes: the elements of an integer tensor. ReshapeSizes: a Reshape's shape with 0 and -1 resolved. SliceBounds: a slice's
starts and lengths. RangeOf: a range between tensors. ByData: any op whose result has a shape that no rule can express;
it runs its reference, and every unknown size of its results is a new symbol. Prefix binds nothing: the first rows of a
tensor, a view of it without a copy.
"""

from __future__ import annotations

from typing import Any, cast

from temper.errors import ShapeError
from temper.ir.dims import Dim
from temper.ir.opdef import Attrs, AttrSpec, InferFn, Kind, OpDef, Tolerance
from temper.ir.ops import rules
from temper.ir.ops.rules import INTS, INTS_ATTR, NUMBERS, Types, allow, default, need
from temper.ir.types import TensorType
from temper.reference.data_sizes import REFERENCES

_BINDS = AttrSpec(tuple, required=True)


def _binds(attrs: Attrs) -> int:
    return len(rules.dims(attrs, "binds"))


def _listed(types: Types, attrs: Attrs, count: int) -> None:
    """ShapeError unless operand 0 has as many integers as the attribute `binds` lists."""
    t = allow(need(types, 0), INTS)
    if t.count != count:
        raise ShapeError(f"binds lists {count} sizes, but the operand is {t}")


def _sizes(types: Types, attrs: Attrs) -> list[TensorType]:
    _listed(types, attrs, _binds(attrs))
    return [TensorType("int64", (_binds(attrs),))]


def _reshape_sizes(types: Types, attrs: Attrs) -> list[TensorType]:
    rules.dims(attrs, "of")
    return _sizes(types, attrs)


def _slice_bounds(types: Types, attrs: Attrs) -> list[TensorType]:
    sizes, steps, n = rules.dims(attrs, "sizes"), rules.ints(attrs, "steps"), _binds(attrs)
    if len(sizes) != len(steps) or n != 2 * len(sizes):
        raise ShapeError(f"{len(sizes)} sizes, {len(steps)} steps and {n} symbols")
    for i in (0, 1):
        if allow(need(types, i), INTS).count != len(sizes):
            raise ShapeError(f"{len(sizes)} sizes, but the bounds are {types[i]}")
    return [TensorType("int64", (n,))]


def _range_of(types: Types, attrs: Attrs) -> list[TensorType]:
    for i in range(3):
        if need(types, i).count != 1:
            raise ShapeError(f"operand {i} must be a scalar, not {types[i]}")
    return [TensorType(allow(need(types, 0), NUMBERS).dtype, (cast(Any, attrs["count"]),))]


def _prefix(types: Types, attrs: Attrs) -> list[TensorType]:
    x, shape = need(types, 0), rules.dims(attrs, "shape")
    if x.rank < 1 or shape[1:] != x.shape[1:]:
        raise ShapeError(f"{rules.shape_text(shape)} is not the beginning of {x}")
    return [TensorType(x.dtype, shape)]


def _by_data(types: Types, attrs: Attrs) -> list[TensorType]:
    dtypes, shapes = cast("tuple[str, ...]", attrs["dtypes"]), cast("tuple[Any, ...]", attrs["shapes"])
    if len(dtypes) != len(shapes):
        raise ShapeError(f"{len(dtypes)} dtypes for {len(shapes)} results")
    return [TensorType(d, tuple(s)) for d, s in zip(dtypes, shapes, strict=True)]


def _op(name: str, operands: tuple[int, int | None], infer: InferFn, attrs: dict[str, AttrSpec]) -> OpDef:
    return OpDef(
        name, Kind.OPAQUE, operands, infer, REFERENCES[name], rules.free, attrs, 1, Tolerance(), deterministic=False
    )


#: deterministic=False: their results have names (the symbols), so that they are neither merged nor folded
OPS: tuple[OpDef, ...] = (
    _op("Sizes", (1, 1), _sizes, {"binds": _BINDS}),
    _op("ReshapeSizes", (1, 1), _reshape_sizes, {"of": INTS_ATTR, "allowzero": default(0), "binds": _BINDS}),
    _op("SliceBounds", (2, 2), _slice_bounds, {"sizes": INTS_ATTR, "steps": INTS_ATTR, "binds": _BINDS}),
    _op("Prefix", (1, 1), _prefix, {"shape": INTS_ATTR}),
    _op("RangeOf", (3, 3), _range_of, {"count": AttrSpec((int, Dim), required=True)}),
    _op(
        "ByData",
        (0, None),
        _by_data,
        {"of": AttrSpec(str, required=True), "given": AttrSpec(tuple, ()), "dtypes": INTS_ATTR, "shapes": INTS_ATTR,
         "count": AttrSpec(tuple, ())},
    ),
)  # fmt: skip
