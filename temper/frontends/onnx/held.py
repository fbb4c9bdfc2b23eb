"""What a name of an ONNX graph may stand for during import (values, lists, nothing), and the nodes resolved then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from temper.errors import ModelError
from temper.frontends.onnx.context import Context, Refusal, unknown
from temper.ir.dims import DimLike
from temper.ir.graph import Value

if TYPE_CHECKING:
    from temper.frontends.onnx.importer import Body, Importer


@dataclass(frozen=True)
class Items:
    """A sequence: its values, first to last. dtype: of its elements."""

    values: tuple[Value, ...]
    dtype: str


@dataclass(frozen=True)
class Nothing:
    """An optional without a value."""


@dataclass(frozen=True)
class Listed:
    """A sequence whose length depends on data: one value of dtype "sequence".

    dtype: of its elements, "" as long as it is not known. shape: of its elements, None for a size in which they differ;
    None if nothing is known of it.
    """

    value: Value
    dtype: str
    shape: tuple[DimLike | None, ...] | None


#: What a name may stand for; None depends on an unsupported node
Held = Value | Items | Listed | Nothing | None


@dataclass
class Site:
    """A node that is resolved here: how it reaches its operands and emits others."""

    importer: Importer
    node: Any
    inputs: list[Held]
    attrs: Mapping[str, Any]
    body: Body
    label: str
    opset: int
    c: Context

    def value(self, i: int) -> Value:
        """Operand i, a tensor."""
        v = self.inputs[i] if i < len(self.inputs) else None
        if not isinstance(v, Value):
            raise ModelError(f"{self.c}: input {i} must be a tensor")
        return v

    def items(self, i: int) -> Items:
        v = self.inputs[i] if i < len(self.inputs) else None
        if not isinstance(v, Items):
            raise ModelError(f"{self.c}: input {i} must be a sequence")
        return v

    def listed(self, i: int) -> bool:
        """Operand i is a sequence whose length depends on data."""
        return i < len(self.inputs) and isinstance(self.inputs[i], Listed)

    def has(self, i: int) -> bool:
        return i < len(self.inputs) and self.inputs[i] is not None

    def number(self, v: Value, what: str) -> int:
        """The known value of a scalar."""
        found = self.c.known(v)
        if found is None and v.const is not None:
            found = v.const
        if found is None:
            raise unknown(f"{what} ('{v.name}') is computed from the data", v)
        if found.size != 1 or found.dtype == object:
            raise Refusal(f"{what} ('{v.name}') depends on a symbolic size, or is not a scalar")
        return int(found.reshape(-1)[0])

    def run(self, graph: Any, values: Sequence[Held], step: str = "") -> list[Held]:
        """The outputs of a sub-graph with its inputs bound."""
        if len(values) != len(graph.input):
            raise ModelError(f"{self.c}: the sub-graph has {len(graph.input)} inputs, not {len(values)}")
        return self.importer.subgraph(graph, values, self.body, f"{self.label}/{step}")

    def branch(self, name: str, count: int) -> list[Held]:
        results = self.run(self.attrs[name], [], "" if name == "then_branch" else "else/")
        if len(results) != count:
            raise ModelError(f"{self.c}: the branch has {len(results)} outputs, not {count}")
        return results
