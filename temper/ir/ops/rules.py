"""What the op families share: typed access to attributes, axes, broadcasting, dtype groups, attribute specs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from temper.errors import ShapeError, UnequalSizes
from temper.ir.dims import Dim, DimLike, product
from temper.ir.opdef import Attrs, AttrSpec, CostFn, InferFn
from temper.ir.types import TensorType

Types = Sequence[TensorType | None]

FLOATS = frozenset({"float32", "float16", "bfloat16", "float64"})
SIGNED = frozenset({"int8", "int16", "int32", "int64"})
UNSIGNED = frozenset({"uint8", "uint16", "uint32", "uint64"})
INTS = SIGNED | UNSIGNED
NUMBERS = FLOATS | INTS
BOOL = frozenset({"bool"})
ANY = NUMBERS | BOOL | {"complex64", "complex128", "string"}

INT = AttrSpec(int, required=True)
INTS_ATTR = AttrSpec(tuple, required=True)
NUMBER = (int, float)


def default(value: Any) -> AttrSpec:
    """Spec of an optional attribute whose type follows from its default (floats also take ints)."""
    return AttrSpec(NUMBER if isinstance(value, float) else type(value), value)


def ints(attrs: Attrs, name: str) -> tuple[int, ...]:
    """A tuple of plain ints; ShapeError if any is symbolic."""
    value = cast("tuple[Any, ...]", attrs[name])
    for v in value:
        if not isinstance(v, int):
            raise ShapeError(f"{name}={value} must be integers")
    return value


def dims(attrs: Attrs, name: str) -> tuple[DimLike, ...]:
    """A tuple of ints or Dims."""
    value = cast("tuple[Any, ...]", attrs[name])
    for v in value:
        if not isinstance(v, (int, Dim)):
            raise ShapeError(f"{name}={value} must be integers or dimensions")
    return value


def integer(attrs: Attrs, name: str) -> int:
    return cast(int, attrs[name])


def text(attrs: Attrs, name: str) -> str:
    return cast(str, attrs[name])


def need(types: Types, i: int) -> TensorType:
    """Operand i; ShapeError when it is absent."""
    t = types[i] if i < len(types) else None
    if t is None:
        raise ShapeError(f"operand {i} is missing")
    return t


def optional(types: Types, i: int) -> TensorType | None:
    return types[i] if i < len(types) else None


def allow(t: TensorType, allowed: frozenset[str], what: str = "operand") -> TensorType:
    """`t`, or ShapeError when its dtype is not one of `allowed`."""
    if t.dtype not in allowed:
        raise ShapeError(f"{what} is {t.dtype}; allowed: {', '.join(sorted(allowed))}")
    return t


def same_dtype(types: Types) -> str:
    """The dtype all present operands share."""
    found = {t.dtype for t in types if t is not None}
    if len(found) != 1:
        raise ShapeError(f"operands must have one dtype, not {', '.join(sorted(found))}")
    return found.pop()


def axis_of(axis: int, rank: int, what: str = "axis") -> int:
    """`axis` counted from the front."""
    if not -rank <= axis < rank:
        raise ShapeError(f"{what} {axis} is out of range for rank {rank}")
    return axis % rank


def axes_of(axes: Sequence[int], rank: int) -> tuple[int, ...]:
    """Axes counted from the front; ShapeError on a repeated one."""
    out = tuple(axis_of(a, rank) for a in axes)
    if len(set(out)) != len(out):
        raise ShapeError(f"axes {tuple(axes)} name an axis twice")
    return out


def broadcast(*shapes: tuple[DimLike, ...]) -> tuple[DimLike, ...]:
    """numpy's broadcast. A symbolic dimension goes only with 1 or itself: kernels fix broadcasting at build time."""
    rank = max((len(s) for s in shapes), default=0)
    out: list[DimLike] = [1] * rank
    for shape in shapes:
        for i, d in enumerate(shape, rank - len(shape)):
            if out[i] == 1:
                out[i] = d
            elif d != 1 and d != out[i]:
                hint = (
                    "; if they are always equal, give both the same name or value"
                    if isinstance(d, Dim) or isinstance(out[i], Dim)
                    else ""
                )
                text = " and ".join(shape_text(s) for s in shapes)
                raise UnequalSizes(f"shapes {text} do not broadcast: {out[i]} against {d}{hint}", out[i], d)
    return tuple(out)


def shape_text(shape: Sequence[DimLike]) -> str:
    return f"[{', '.join(str(d) for d in shape)}]"


def equal_or_raise(a: DimLike, b: DimLike, what: str) -> None:
    if a != b:
        raise UnequalSizes(f"{what}: {a} against {b}", a, b)


def vector(t: TensorType | None, length: DimLike, what: str) -> None:
    """ShapeError unless `t` is absent or has shape [length]."""
    if t is not None and t.shape != (length,):
        raise ShapeError(f"{what} must have shape [{length}], not {shape_text(t.shape)}")


def per_element(ops: int = 1) -> CostFn:
    """Cost of `ops` operations for each element of every output."""

    def cost(inputs: Types, outputs: Sequence[TensorType], attrs: Attrs) -> DimLike:
        total: DimLike = 0
        for t in outputs:
            total = t.count * ops + total
        return total

    return cost


def per_input(ops: int = 1) -> CostFn:
    """Cost of `ops` operations for each element of the first input."""

    def cost(inputs: Types, outputs: Sequence[TensorType], attrs: Attrs) -> DimLike:
        return need(inputs, 0).count * ops

    return cost


def free(inputs: Types, outputs: Sequence[TensorType], attrs: Attrs) -> DimLike:
    """Cost of an op that only moves data."""
    return 0


def same_as_input(allowed: frozenset[str]) -> InferFn:
    """One output of operand 0's type."""

    def infer(types: Types, attrs: Attrs) -> list[TensorType]:
        return [allow(need(types, 0), allowed)]

    return infer


def sized(shape: tuple[DimLike, ...]) -> DimLike:
    return product(shape)
