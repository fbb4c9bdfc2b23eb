"""The inputs that an ONNX file declares: their types, given or stated, and the symbols of their open dimensions."""

from __future__ import annotations

import keyword
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from temper.dtypes import storage
from temper.errors import ModelError, UnsupportedError
from temper.frontends.onnx.context import Builder
from temper.frontends.onnx.held import Held, Items, Listed, Nothing
from temper.frontends.onnx.order import Scope
from temper.frontends.onnx.tensors import dtype_of
from temper.ir.dims import Dim, DimLike, parse_dim, symbols_of
from temper.ir.graph import Value
from temper.ir.ops.sequences import SEQUENCE
from temper.ir.types import TensorType

_EXPRESSION_LIMIT = 100

DimOverride = int | str


@dataclass
class Declared:
    """Inputs of one model. shapes, dims, values, members: what the caller gave instead of what the file leaves open."""

    builder: Builder
    label: str
    shapes: Mapping[str, Sequence[DimOverride]]
    dims: Mapping[str, DimLike]
    values: Mapping[str, np.ndarray]
    members: Mapping[str, Sequence[Sequence[DimOverride]] | None]
    symbols: dict[str, str] = field(default_factory=dict)
    #: names that are a whole dimension of some input: sizes of inputs bind them
    bound: set[str] = field(default_factory=set)

    def declare(self, inputs: Sequence[Any], scope: Scope) -> None:
        """Puts what stands for every input into the scope. ModelError, or UnsupportedError, names the input."""
        seen: set[str] = set()
        for info in inputs:
            if info.name not in scope.values and info.name not in self.values:
                stated = (d.dim_param for d in info.type.tensor_type.shape.dim)
                self.bound.update(d for d in self.shapes.get(info.name, stated) if isinstance(d, str) and d)
        for info in inputs:
            if not info.name or info.name in seen:
                raise ModelError(f"{self.label}: input '{info.name}' has no name or is listed twice")
            seen.add(info.name)
            constant = scope.values.get(info.name)
            if constant is not None:
                contradiction(info, scope, self.label)
                continue
            scope.values[info.name] = self._input(info)
            seen.update(f"{info.name}.{i}" for i in range(len(self.members.get(info.name) or ())))
        absent = sorted(set(self.values) - seen)
        if absent:
            raise ModelError(f"{self.label}: values are given for {absent}, but the inputs are {sorted(seen)}")
        unknown = sorted(set(self.shapes) - seen)
        if unknown:
            raise ModelError(f"{self.label}: shapes are given for {unknown}, but the inputs are {sorted(seen)}")

    def _input(self, info: Any) -> Held:
        """What an input stands for: a tensor, the members of a sequence, or nothing where an optional is left out."""
        kind = info.type
        if kind.WhichOneof("value") == "optional_type":
            kind = kind.optional_type.elem_type
            if info.name in self.members and self.members[info.name] is None:
                return Nothing()
        if kind.WhichOneof("value") != "sequence_type":
            return self._tensor(info.name, kind, self.shapes.get(info.name))
        shapes = self.members.get(info.name)
        if shapes is None and self.builder.dynamic:
            return self._sequence(info.name, kind.sequence_type.elem_type)
        if shapes is None:
            raise UnsupportedError(
                f"{self.label}: input '{info.name}' is a sequence; state its members, for example "
                f"members={{'{info.name}': [(2, 3), (2, 3)]}}"
            )
        element = kind.sequence_type.elem_type
        values = tuple(self._tensor(f"{info.name}.{i}", element, shape) for i, shape in enumerate(shapes))
        return Items(values, dtype_of(element.tensor_type.elem_type, f"{self.label}: input '{info.name}'"))

    def _sequence(self, name: str, element: Any) -> Listed:
        """A sequence of any length; sizes that the file leaves open may differ from member to member."""
        where = f"{self.label}: input '{name}'"
        if element.WhichOneof("value") != "tensor_type":
            raise UnsupportedError(f"{where}: only sequences of dense tensors are supported")
        tensor = element.tensor_type
        shape: tuple[DimLike | None, ...] | None = None
        if tensor.HasField("shape"):
            shape = tuple(d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim)
        value = self.builder.graph.add_input(self._free(name), SEQUENCE)
        return Listed(value, dtype_of(tensor.elem_type, where), shape)

    def _tensor(self, name: str, kind: Any, shape: Sequence[DimOverride] | None) -> Value:
        if name not in self.values:
            return self.builder.graph.add_input(self._free(name), self._input_type(name, kind, shape))
        array, dtype = self.values[name], dtype_of(kind.tensor_type.elem_type, f"{self.label}: input '{name}'")
        if array.dtype != storage(dtype) and dtype != "string":
            raise ModelError(f"{self.label}: the value given for input '{name}' is {array.dtype}, not {dtype}")
        return self.builder.constant(array, self._free(name), dtype)

    def _free(self, name: str) -> str:
        """Makes room for an input's name, which callers see, should a constant have been renamed to it."""
        for v in self.builder.graph.values:
            if v.name == name:
                self.builder.graph.rename(v, f"{name}.const")
        return name

    def _input_type(self, name: str, stated: Any, given: Sequence[DimOverride] | None) -> TensorType:
        where = f"{self.label}: input '{name}'"
        kind = stated.WhichOneof("value")
        if kind != "tensor_type":
            raise (
                UnsupportedError(f"{where}: {kind} is not supported, only dense tensors and sequences of them")
                if kind
                else ModelError(f"{where} has no type")
            )
        tensor = stated.tensor_type
        dtype = dtype_of(tensor.elem_type, where)
        if given is not None:
            if tensor.HasField("shape") and len(tensor.shape.dim) != len(given):
                raise ModelError(
                    f"{where} has {len(tensor.shape.dim)} dimensions, but the shape given for it is {list(given)}"
                )
            return TensorType(dtype, tuple(d if isinstance(d, int) else self._symbol(d) for d in given))
        if not tensor.HasField("shape"):
            raise UnsupportedError(f"{where} has no shape; give one, for example shapes={{'{name}': (1, 3, 224, 224)}}")
        if len(tensor.shape.dim) > 32:
            raise ModelError(f"{where}: {len(tensor.shape.dim)} dimensions; at most 32 are possible")
        shape: list[DimLike] = []
        for axis, d in enumerate(tensor.shape.dim):
            which = d.WhichOneof("value")
            if which == "dim_value":
                if d.dim_value < 0:
                    raise ModelError(f"{where}: dimension {axis} is {d.dim_value}; use a name for an open dimension")
                shape.append(d.dim_value)
            else:
                shape.append(self._symbol(d.dim_param if which == "dim_param" and d.dim_param else f"{name}_{axis}"))
        return TensorType(dtype, tuple(shape))

    def _symbol(self, original: str) -> DimLike:
        """The dimension of that name: a fixed value where one was given, else a symbol whose name is an identifier."""
        if original in self.dims:
            return self.dims[original]
        if (derived := self._derived(original)) is not None:
            return derived
        if original not in self.symbols:
            name = re.sub(r"\W", "_", original, flags=re.ASCII)
            if not name.isidentifier() or name.startswith("_"):  # an underscore marks sizes found in data
                name = f"d{name}" if name else "d"
            while keyword.iskeyword(name) or name in ("min", "max", "_") or name in self.symbols.values():
                name += "_"
            self.symbols[original] = name
            if name != original:
                self.builder.graph.dim_names[name] = original
        name = self.symbols[original]
        return self.dims[name] if name in self.dims else Dim.symbol(name)

    def _derived(self, text: str) -> DimLike | None:
        """`past + 1`, as exporters name the mask's length: arithmetic on names that other dimensions bind."""
        if text.isidentifier() or len(text) > _EXPRESSION_LIMIT:
            return None
        try:
            names = symbols_of(parse_dim(text))
            return parse_dim(text, self._symbol) if names and names <= self.bound else None
        except (ValueError, ZeroDivisionError):
            return None


def contradiction(info: Any, scope: Scope, label: str) -> None:
    """ModelError if the type the file states for a value cannot be the one its nodes give it."""
    value = scope.values.get(info.name)
    if not isinstance(value, Value) or info.type.WhichOneof("value") != "tensor_type":
        return
    tensor = info.type.tensor_type
    where = f"{label}: value '{info.name}'"
    if tensor.elem_type and dtype_of(tensor.elem_type, where) != value.type.dtype:
        raise ModelError(f"{where} is stated to be {dtype_of(tensor.elem_type, where)}, but it is {value.type}")
    if not tensor.HasField("shape"):
        return
    stated = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
    differ = len(stated) != value.type.rank or any(
        s is not None and isinstance(d, int) and s != d for s, d in zip(stated, value.type.shape, strict=True)
    )
    if differ:
        raise ModelError(
            f"{where} is stated to have shape {['?' if s is None else s for s in stated]}, but it is {value.type}; "
            "correct the file, or import it with check_value_info=False"
        )
