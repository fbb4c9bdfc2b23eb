"""What a table row sees of one ONNX node: its operands, attributes and known values, and the means to emit IR nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, cast

import numpy as np

from temper.errors import ModelError, ShapeError
from temper.ir.dims import Dim, DimLike
from temper.ir.graph import Graph, Value
from temper.ir.opdef import Attrs
from temper.ir.ops import TABLE, make
from temper.ir.symbolic import LIMIT, known_outputs


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


@dataclass
class Builder:
    """The graph under construction and the values known so far (by `Value.id`)."""

    graph: Graph
    known: dict[int, np.ndarray] = field(default_factory=dict)

    def constant(self, array: np.ndarray, name: str, dtype: str | None = None) -> Value:
        value = self.graph.add_constant(array, name, dtype)
        if value.const is not None and value.const.size <= LIMIT and value.type.dtype != "bfloat16":
            self.known[value.id] = value.const
        return value

    def emit(
        self, op: str, inputs: Sequence[Value | None], attrs: Attrs, label: str, names: Sequence[str]
    ) -> list[Value]:
        """Adds a node, or constants where its results follow from small known operands."""
        if op not in TABLE:
            raise Refusal(f"it needs the op {op}, which Temper does not have yet")
        node = make(self.graph, op, inputs, attrs, name=label, origin=(label,), output_names=names)
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
        except ShapeError as e:
            raise ShapeError(f"node '{label}' ({op}): {e}") from e
        outputs = list(node.outputs)
        if all(f is not None and f.dtype != object for f in found):
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
        return self.builder.known.get(value.id)

    def array(self, i: int, what: str) -> np.ndarray:
        """The constant value of operand i; Refusal if it depends on data or on symbolic sizes."""
        found = self.known(self.input(i))
        const = self.input(i).const
        if found is None and const is not None:
            found = const
        if found is None or found.dtype == object:
            raise unknown(f"{what} (input {i}, '{self.input(i).name}') is not constant", self.input(i))
        return found

    def dims(self, i: int, what: str, fractions: bool = False) -> tuple[DimLike, ...]:
        """The integers of the vector operand i, symbolic sizes included; Refusal if they depend on data.

        fractions: also takes floating-point numbers, and truncates them.
        """
        v = self.input(i)
        found = self.known(v)
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

    def like(self, number: float, value: Value) -> Value:
        """A scalar constant of `value`'s dtype."""
        if value.type.dtype == "bfloat16":
            bits = np.array(number, np.float32).view(np.uint32)
            return self.constant(np.asarray((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16, np.uint16), "bfloat16")
        return self.constant(np.array(number, np.dtype(value.type.dtype)))

    def reshape(self, x: Value, shape: Sequence[DimLike]) -> Value:
        return x if x.type.shape == tuple(shape) else self.emit("Reshape", x, shape=tuple(shape))

    def __str__(self) -> str:
        return f"node '{self.label}' ({self.op})"


Emit = Callable[[Context], Value | Sequence[Value]]


@dataclass(frozen=True)
class Row:
    """How one ONNX op becomes IR nodes, from opset `since` until the next row of the same op.

    refused: why the op is never imported, where it never is.
    """

    op: str
    emit: Emit
    since: int = 1
    refused: str = ""


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
