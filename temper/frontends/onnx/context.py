"""What a table row sees of one ONNX node: its operands, attributes and known values, and the means to emit IR nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from itertools import count
from math import isfinite
from typing import Any, cast

import numpy as np

from temper.errors import ModelError, ShapeError
from temper.ir.dims import Dim, DimLike, data_symbols, from_data, parse_dim
from temper.ir.graph import Graph, Value
from temper.ir.opdef import Attrs
from temper.ir.ops import TABLE, make
from temper.ir.symbolic import LIMIT, encoded_outputs, known_outputs
from temper.ir.types import TensorType
from temper.reference.formats import UNNAMED, number, numbers


class Refusal(Exception):
    """A node cannot be imported; the message is the reason. The importer collects these.

    needs: names of the model's inputs whose values would have to be known for the node to be imported.
    """

    def __init__(self, reason: str, needs: Sequence[str] = ()) -> None:
        super().__init__(reason)
        self.needs = tuple(needs)


def unknown(reason: str, value: Value) -> Refusal:
    """A Refusal for want of `value`: it names the model's inputs that `value` is computed from."""
    found: dict[str, None] = {}
    stack, seen = [value], {value.id}
    while stack:
        v = stack.pop()
        if v.producer is None:
            found[v.name] = None
            continue
        for u in v.producer.inputs:
            if u is not None and u.const is None and u.id not in seen:
                seen.add(u.id)
                stack.append(u)
    return Refusal(reason, sorted(found))


#: ops that keep the elements of a small integer tensor, and their order
_KEEPS = frozenset({"Reshape", "Squeeze", "Unsqueeze", "Identity", "Cast", "Flatten"})


def _with(d: DimLike, number: int) -> DimLike:
    """A dimension in which every symbol that depends on data is `number`."""
    return parse_dim(str(d), lambda s: number if from_data(s) else Dim.symbol(s)) if data_symbols(d) else d


def _all_with(value: Any, number: int) -> Any:
    if isinstance(value, tuple):
        return tuple(_all_with(v, number) for v in value)
    return _with(value, number) if isinstance(value, Dim) else value


def by_data(
    op: str, inputs: Sequence[Value | None], attrs: Attrs, fresh: Callable[[], DimLike]
) -> dict[str, Any] | None:
    """Attributes of the ByData that stands for an op whose operands have sizes that depend on data; None if none has,
    or if no such sizes could be legal.

    Shapes are inferred with every such size 1, and again with 2: what differs, or is legal in one case only and 1, is a
    new symbol.
    """
    types = [None if v is None else v.type for v in inputs]
    if not any(t is not None and t.data_symbols for t in types):
        return None
    definition = TABLE[op]
    results: list[list[TensorType]] = []
    for size in (1, 2):
        bound = [None if t is None else TensorType(t.dtype, tuple(_with(d, size) for d in t.shape)) for t in types]
        try:
            results.append(definition.infer(bound, _all_with_attrs(definition.complete(attrs), size)))
        except (ShapeError, ValueError, ZeroDivisionError):
            continue
    if not results:
        return None
    shapes: list[tuple[DimLike, ...]] = []
    made: list[DimLike] = []

    def new() -> DimLike:
        made.append(fresh())
        return made[-1]

    for index, t in enumerate(results[0]):
        others = [r[index].shape for r in results]
        if any(len(o) != t.rank for o in others):
            return None
        same = [all(o[a] == d for o in others) and (len(results) > 1 or d != 1) for a, d in enumerate(t.shape)]
        shapes.append(tuple(d if s else new() for d, s in zip(t.shape, same, strict=True)))
    return {
        "of": op,
        "given": tuple(sorted(definition.complete(attrs).items())),
        "dtypes": tuple(t.dtype for t in results[0]),
        "shapes": tuple(shapes),
        "count": tuple(made),
    }


def _all_with_attrs(attrs: Attrs, number: int) -> dict[str, Any]:
    return {k: _all_with(v, number) for k, v in attrs.items()}


@dataclass
class Builder:
    """The graph under construction and the values known so far (by `Value.id`)."""

    graph: Graph
    known: dict[int, np.ndarray] = field(default_factory=dict)
    #: sizes may depend on data; otherwise nodes that make them do are refused
    dynamic: bool = False
    #: numbers of the symbols made so far; graphs of one model share it
    numbers: Iterator[int] = field(default_factory=count)
    #: results of ops that bind symbols: the same op on the same operands finds the same sizes
    found: dict[tuple[object, ...], list[Value]] = field(default_factory=dict)

    def constant(self, array: np.ndarray, name: str, dtype: str | None = None) -> Value:
        value = self.graph.add_constant(array, name, dtype)
        if value.const is not None and value.const.size <= LIMIT and value.type.dtype not in UNNAMED:
            self.known[value.id] = value.const
        return value

    def fresh(self, what: str) -> DimLike:
        """A symbol for a size that depends on data. what: an identifier that tells what it is of."""
        return Dim.symbol(f"_{what}{next(self.numbers)}")

    def emit(
        self, op: str, inputs: Sequence[Value | None], attrs: Attrs, label: str, names: Sequence[str]
    ) -> list[Value]:
        """Adds a node, or constants where its results follow from small known operands.

        Where no rule gives the shapes of results because sizes depend on data, the op becomes a ByData.
        """
        if op not in TABLE:
            raise Refusal(f"it needs the op {op}, which Temper does not have yet")
        try:
            node = make(self.graph, op, inputs, attrs, name=label, origin=(label,), output_names=names)
        except ShapeError:
            free = by_data(op, inputs, attrs, lambda: self.fresh(op)) if self.dynamic else None
            if free is None:
                raise
            types = [TensorType(d, s) for d, s in zip(free["dtypes"], free["shapes"], strict=True)]
            made = self.graph.add_node("ByData", inputs, types, free, name=label, origin=(label,), output_names=names)
            return list(made.outputs)
        for o in node.outputs:
            if any(isinstance(d, int) and d < 0 for d in o.type.shape):
                raise ShapeError(f"node '{label}' ({op}): its output would be {o.type}")
        try:
            found = known_outputs(
                op,
                [None if v is None else self.known.get(v.id) for v in inputs],
                [None if v is None else v.type for v in inputs],
                node.attrs,
                [o.type for o in node.outputs],
            )
            # quantized constants stay: integer products take them as they are
            codes = op == "DequantizeLinear" and "int" in node.inputs[0].type.dtype  # type: ignore[union-attr]
            encoded = None if codes else encoded_outputs(op, inputs, node.attrs, [o.type for o in node.outputs])
        except ShapeError as e:
            raise ShapeError(f"node '{label}' ({op}): {e}") from e
        outputs = list(node.outputs)
        if encoded is not None:
            stated = [(o.name, o.type.dtype) for o in outputs]
            self.graph.remove_node(node)
            return [self.constant(np.asarray(f), n, d) for f, (n, d) in zip(encoded, stated, strict=True)]
        if op != "DequantizeLinear" and all(f is not None and f.dtype != object for f in found):
            given = [o.name for o in outputs]
            self.graph.remove_node(node)
            return [self.constant(f, n) for f, n in zip(found, given, strict=True) if f is not None]
        self.known.update((o.id, f) for o, f in zip(outputs, found, strict=True) if f is not None)
        return outputs


@dataclass
class Context:
    """One ONNX node. Rows read operands through it and return the values of the node's outputs, first to last."""

    builder: Builder
    op: str
    label: str
    opset: int
    inputs: list[Value | None]
    attrs: Mapping[str, Any]
    outputs: Sequence[str]
    #: names that something reads
    used: Set[str] = frozenset()
    inner: int = 0
    #: ids of the values this node made, as against those it passes through
    made: set[int] = field(default_factory=set)

    # ---- operands ----

    def has(self, i: int) -> bool:
        return i < len(self.inputs) and self.inputs[i] is not None

    def input(self, i: int) -> Value:
        """Operand i; ModelError if it is absent."""
        v = self.inputs[i] if i < len(self.inputs) else None
        if v is None:
            raise ModelError(f"{self}: input {i} is missing")
        return v

    def optional(self, i: int) -> Value | None:
        return self.inputs[i] if i < len(self.inputs) else None

    def known(self, value: Value) -> np.ndarray | None:
        """The numbers of a small value that is known at import, or expressions over sizes; None if it is not."""
        if value.const is not None and value.type.dtype in UNNAMED and value.const.size <= LIMIT:
            return numbers(value.const, value.type.dtype)
        return self.builder.known.get(value.id)

    def array(self, i: int, what: str) -> np.ndarray:
        """The constant value of operand i; Refusal if it depends on data or on symbolic sizes."""
        found = self.known(self.input(i))
        const = self.input(i).const
        if found is None and const is not None:
            found = numbers(const, self.input(i).type.dtype)
        if found is None or found.dtype == object:
            raise unknown(f"{what} (input {i}, '{self.input(i).name}') is not constant", self.input(i))
        return found

    @property
    def dynamic(self) -> bool:
        return self.builder.dynamic

    def counted(self, op: str, inputs: Sequence[Value | None], attrs: Attrs) -> list[Value]:
        """An op whose number of results depends on data; Refusal where that is not allowed."""
        if not self.dynamic:
            raise Refusal("data-dependent shape: the number of results depends on the data")
        if all(v is None or v.const is not None for v in inputs):
            definition = TABLE[op]
            made = definition.reference([None if v is None else v.const for v in inputs], {**attrs, "count": 0})
            return [self.constant(np.asarray(y)) for y in made]
        key = (op, *(None if v is None else v.id for v in inputs), *sorted(attrs.items()))
        if key not in self.builder.found:
            self.builder.found[key] = self.emit_many(op, inputs, {**attrs, "count": self.builder.fresh(op)})
        return self.builder.found[key]

    def elements(self, v: Value) -> list[DimLike | None] | None:
        """The integers a tensor of few elements holds, None for those that depend on data. None if it has too many, or
        if their number depends on data."""
        known, n = self.known(v), v.type.count
        if known is None and v.const is not None:
            known = v.const
        if known is not None:
            flat = known.reshape(-1).tolist()
            return [d if isinstance(d, (int, Dim)) else None for d in flat]
        if not isinstance(n, int) or n > LIMIT:
            return None
        source = v.producer
        first = source.inputs[0] if source is not None and source.inputs else None
        if source is not None and source.op == "Concat" and v.type.rank == 1:
            parts = [self.elements(u) for u in source.inputs if u is not None]
            return [e for p in parts if p is not None for e in p] if all(p is not None for p in parts) else [None] * n
        if source is not None and source.op in _KEEPS and first is not None and "int" in first.type.dtype:
            return self.elements(first)
        return [None] * n

    def sizes(self, v: Value, what: str) -> tuple[DimLike, ...]:
        """The integers of a tensor; those that depend on data become symbols, which a Sizes step binds."""
        found = self.elements(v)
        if found is None:
            raise Refusal(f"the number of elements of {what} ('{v.name}') depends on data")
        if any(d is None for d in found):
            key = ("Sizes", v.id)
            if key not in self.builder.found:
                binds = tuple(self.builder.fresh("size") if d is None else d for d in found)
                whole = v if "int" in v.type.dtype else self.emit("Cast", v, to="int64")
                self.builder.found[key] = self.emit_many("Sizes", [whole], {"binds": binds})
            producer = self.builder.found[key][0].producer
            assert producer is not None
            return cast("tuple[DimLike, ...]", producer.attrs["binds"])
        return cast("tuple[DimLike, ...]", tuple(found))

    def dims(self, i: int, what: str, fractions: bool = False) -> tuple[DimLike, ...]:
        """The integers of the vector operand i, symbolic sizes included; Refusal if they depend on data and may not.

        fractions: also takes floating-point numbers, and truncates them.
        """
        v = self.input(i)
        found = self.known(v)
        if found is None and self.dynamic and v.type.rank <= 1:
            return self.sizes(v, what)
        if found is None:
            raise unknown(f"data-dependent shape: {what} (input {i}, '{v.name}') is computed from the data", v)
        if found.ndim > 1:
            raise ShapeError(f"{self}: {what} (input {i}, '{v.name}') must be a vector, not {v.type}")
        flat = found.reshape(-1).tolist()
        if fractions:
            flat = [int(d) if isinstance(d, float) and isfinite(d) else d for d in flat]
        if not all(isinstance(d, (int, Dim)) for d in flat):
            raise Refusal(f"{what} (input {i}, '{v.name}') is not made of integers")
        return cast("tuple[DimLike, ...]", tuple(flat))

    def ints(self, i: int, what: str) -> tuple[int, ...]:
        """Like `dims`, but plain integers only."""
        found = self.dims(i, what)
        if any(isinstance(d, Dim) for d in found):
            raise Refusal(
                f"{what} (input {i}) depends on the symbolic size {next(d for d in found if isinstance(d, Dim))}"
            )
        return cast("tuple[int, ...]", found)

    def scalar(self, i: int, what: str) -> int | float:
        """The single element of operand i as a Python number."""
        found = self.array(i, what)
        if found.size != 1:
            raise ShapeError(f"{self}: {what} (input {i}) must have one element, not {found.size}")
        return cast("int | float", found.reshape(-1)[0].item())

    def wants(self, i: int) -> bool:
        """True if output i is there and something reads it."""
        return i < len(self.outputs) and self.outputs[i] in self.used

    # ---- attributes (defaults from ONNX's schema are filled in) ----

    def attr(self, name: str, default: Any = None) -> Any:
        return self.attrs.get(name, default)

    def take(self, *names: str) -> dict[str, Any]:
        """The named attributes that are present."""
        return {n: self.attrs[n] for n in names if n in self.attrs}

    def axis(self, rank: int, default: int | None = None) -> int:
        """The attribute `axis` counted from the front; ShapeError if it is outside [-rank, rank)."""
        axis = self.attr("axis", default)
        if not isinstance(axis, int) or not -rank <= axis < rank:
            raise ShapeError(f"{self}: axis {axis} is out of range for rank {rank}")
        return axis % rank

    # ---- emitting ----

    def emit(self, op: str, *inputs: Value | None, **attrs: Any) -> Value:
        """One IR node with one output."""
        return self.emit_many(op, inputs, attrs)[0]

    def emit_many(self, op: str, inputs: Sequence[Value | None], attrs: Attrs) -> list[Value]:
        self.inner += 1
        base = next((o for o in self.outputs if o), self.label)
        values = self.builder.emit(op, inputs, attrs, self.label, [f"{base}.{op}{self.inner}"])
        self.made.update(v.id for v in values)
        return values

    def constant(self, array: np.ndarray, dtype: str | None = None) -> Value:
        self.inner += 1
        base = next((o for o in self.outputs if o), self.label)
        value = self.builder.constant(array, f"{base}.c{self.inner}", dtype)
        self.made.add(value.id)
        return value

    def like(self, amount: float, value: Value) -> Value:
        """A scalar constant of `value`'s dtype."""
        return self.constant(number(amount, value.type.dtype), value.type.dtype)

    def reshape(self, x: Value, shape: Sequence[DimLike]) -> Value:
        return x if x.type.shape == tuple(shape) else self.emit("Reshape", x, shape=tuple(shape))

    def __str__(self) -> str:
        return f"node '{self.label}' ({self.op})"


Emit = Callable[[Context], Value | Sequence[Value | None]]


@dataclass(frozen=True)
class Row:
    """How one ONNX op becomes IR nodes, from opset `since` of its domain until the next row of the same op.

    refused: why the op is never imported, where it never is.
    """

    op: str
    emit: Emit
    since: int = 1
    refused: str = ""
    domain: str = ""


def refuse(op: str, reason: str) -> Row:
    """A row for an op that is known but cannot be imported."""

    def emit(c: Context) -> Value:
        raise Refusal(reason)

    return Row(op, emit, refused=reason)


def same(op: str, *attrs: str) -> Emit:
    """A row that carries all operands and the named attributes over unchanged."""

    def emit(c: Context) -> Value:
        return c.emit(op, *c.inputs, **c.take(*attrs))

    return emit
