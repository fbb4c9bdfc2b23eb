"""Walks an ONNX graph and builds the IR graph, one table row a node; what it cannot import is reported at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from temper.errors import ModelError, ShapeError
from temper.frontends.onnx import gradient
from temper.frontends.onnx.context import Builder, Context, Refusal, Row
from temper.frontends.onnx.control_flow import resolver
from temper.frontends.onnx.declared import Declared, DimOverride, contradiction
from temper.frontends.onnx.held import Held, Items, Listed, Nothing, Site
from temper.frontends.onnx.load import opsets
from temper.frontends.onnx.order import Scope, free_names, label_of, ordered
from temper.frontends.onnx.problems import Problem, UnsupportedNodesError
from temper.frontends.onnx.schema import (
    OLDEST_OPSET,
    attribute_value,
    attributes_by_schema,
    check_counts,
    check_types,
    early_difference,
    find_schema,
    function_body,
    read_attributes,
)
from temper.frontends.onnx.subgraphs import SubGraph
from temper.frontends.onnx.table import find_row
from temper.frontends.onnx.tensors import read_sparse, read_tensor
from temper.ir.derived import Derived
from temper.ir.dims import DimLike
from temper.ir.graph import Graph, Value

#: nodes after inlining functions; nested functions can otherwise multiply a small file without end
NODE_LIMIT = 200_000
_DEPTH_LIMIT = 64


class MissingOutputError(Refusal):
    """A row does not make an output that something reads."""


@dataclass
class Body:
    """What nodes of one body are read with."""

    opsets: Mapping[str, int]
    scope: Scope
    attributes: Mapping[str, Any]
    prefix: str
    calls: tuple[tuple[str, str], ...] = ()
    #: names that some node or the body's outputs read
    used: set[str] = field(default_factory=set)
    #: those as the graph calls them
    read: frozenset[str] = frozenset()


class Importer:
    """One import. `run` may be called once."""

    def __init__(
        self,
        model: Any,
        folder: Path | None,
        label: str,
        shapes: Mapping[str, Sequence[DimOverride]],
        dims: Mapping[str, DimLike],
        check_value_info: bool,
        values: Mapping[str, np.ndarray] | None = None,
        members: Mapping[str, Sequence[Sequence[DimOverride]] | None] | None = None,
        dynamic: bool = True,
        loop_limit: int = 1_000_000,
        tensors: dict[str, tuple[np.ndarray, str]] | None = None,
        derived: Derived | None = None,
    ) -> None:
        """tensors: the model's initializers as far as they were read; others are added. derived: what was computed of
        them."""
        self.model, self.folder, self.label = model, folder, label
        self.tensors = {} if tensors is None else tensors
        #: per declared output: how many of the graph's outputs stand for a sequence, None for a tensor, -1 for nothing
        self.counts: list[int | None] = []
        self.check_value_info = check_value_info and not shapes and not dims
        self.builder = Builder(Graph(model.graph.name), dynamic=dynamic)
        self.builder.graph.derived = derived or self.builder.graph.derived
        self.loop_limit = loop_limit
        self.problems: list[Problem] = []
        self.declared = Declared(self.builder, label, shapes, dims, values or {}, members or {})
        self.schemas: dict[tuple[str, str, int], Any] = {}
        self.functions: dict[tuple[str, str], Any] = {}
        self.count = 0

    def run(self) -> Graph:
        proto, graph = self.model.graph, self.builder.graph
        for f in self.model.functions:
            key = ("" if f.domain == "ai.onnx" else f.domain, f.name)
            if key in self.functions:
                raise ModelError(f"{self.label}: the function '{f.name}' of domain '{f.domain}' is defined twice")
            self.functions[key] = f
        body = Body(opsets(self.model.opset_import, self.label), Scope(), {}, "")
        self._initializers(proto, body.scope, "")
        self.declared.declare(proto.input, body.scope)
        outputs = [o.name for o in proto.output]
        if not outputs:
            raise ModelError(f"{self.label}: the graph has no outputs")
        for i, name in enumerate(outputs):
            if name in outputs[:i]:
                raise ModelError(f"{self.label}: the output '{name}' is listed twice")
        self._nodes(proto.node, body, outputs)
        for name in outputs:
            if not body.scope.holds(name):
                raise ModelError(f"{self.label}: the output '{name}' is defined by no node")
        if self.problems:
            raise UnsupportedNodesError(self.label, self.problems)
        self._outputs(outputs, body.scope)
        if self.check_value_info:
            for info in (*proto.value_info, *proto.output):
                contradiction(info, body.scope, self.label)
        graph.prune()
        for name, held in body.scope.values.items():
            if isinstance(held, Value):
                held.known_as((name,))
        return graph

    def _outputs(self, names: Sequence[str], scope: Scope) -> None:
        values: list[Value] = []
        shown: list[str] = []
        for name in names:
            held = scope.find(name)
            if isinstance(held, (Value, Listed)):
                values.append(held if isinstance(held, Value) else held.value)
                shown.append(name)
                self.counts.append(None)
                continue
            members = held.values if isinstance(held, Items) else ()
            values += members
            shown += [f"{name}.{i}" for i in range(len(members))]
            self.counts.append(len(members) if isinstance(held, Items) else -1)
        self.builder.graph.set_outputs(values, shown)

    # ---- inputs, initializers ----

    def _initializers(self, proto: Any, scope: Scope, prefix: str) -> None:
        for kind, tensors in (("initializer", proto.initializer), ("sparse initializer", proto.sparse_initializer)):
            for t in tensors:
                where = f"{self.label}: {kind}"
                name = t.name if kind == "initializer" else t.values.name
                if not name:
                    raise ModelError(f"{where}: an initializer has no name")
                if name in scope.values:
                    raise ModelError(f"{where} '{name}' is defined twice")
                array, dtype = self._initializer(t, kind, name, where, proto is self.model.graph)
                scope.values[name] = self.builder.constant(array, prefix + name, dtype)

    def _initializer(self, t: Any, kind: str, name: str, where: str, shared: bool) -> tuple[np.ndarray, str]:
        """shared: it is the model's, and in no branch's graph."""
        if shared and name in self.tensors:
            return self.tensors[name]
        found = read_tensor(t, self.folder, where) if kind == "initializer" else read_sparse(t, self.folder, where)
        if shared:
            self.tensors[name] = found
        return found

    # ---- nodes ----

    def _nodes(self, nodes: Sequence[Any], body: Body, outputs: Iterable[str]) -> None:
        body.used.update(outputs)
        body.used.update(name for n in nodes for name in free_names(n))
        body.read = frozenset(body.prefix + name for name in body.used)
        for node in ordered(nodes, body.scope, outputs, self.label, body.prefix):
            self.count += 1
            if self.count > NODE_LIMIT:
                raise ModelError(f"{self.label}: over {NODE_LIMIT} nodes after inlining functions")
            self._one(node, body)

    def _one(self, node: Any, body: Body) -> None:
        label = label_of(node, body.prefix)
        where = f"{self.label}: node '{label}' ({node.op_type})"
        domain = "" if node.domain == "ai.onnx" else node.domain
        inputs = [body.scope.find(name) if name else None for name in node.input]
        broken = any(name and v is None for name, v in zip(node.input, inputs, strict=True))
        opset = body.opsets.get(domain, 0)
        try:
            results: Sequence[Held]
            if (domain, node.op_type) in self.functions:
                results = self._call(self.functions[domain, node.op_type], node, inputs, body, label)
            else:
                results = self._emit(node, domain, opset, inputs, broken, body, label, where)
        except Refusal as e:
            self.problems.append(Problem(node.op_type, domain, opset, label, str(e), e.needs))
            results = [None] * len(node.output)
        for name, value in zip(node.output, results, strict=True):
            if name:
                body.scope.values[name] = value

    def _emit(
        self,
        node: Any,
        domain: str,
        opset: int,
        inputs: list[Held],
        broken: bool,
        body: Body,
        label: str,
        where: str,
    ) -> Sequence[Held]:
        if domain not in body.opsets:
            raise Refusal(f"the domain '{domain or 'ai.onnx'}' is not among the model's opset imports")
        schema = self._schema(node.op_type, domain, opset)
        if (
            schema is None and (row := find_row(domain, node.op_type, opset)) is not None
        ):  # ONNX Runtime's own operators
            own = {
                k: attribute_value(a, where) for k, a in read_attributes(node.attribute, where, body.attributes).items()
            }
            if broken:
                return [None] * len(node.output)
            return self._apply(row, node, _tensors(inputs), own, opset, label, where, body)
        if schema is None:
            known = domain == ""
            raise Refusal(
                f"opset {opset} has no such operator"
                if known
                else f"Temper knows no operators of the domain '{domain}'"
            )
        if schema.deprecated:
            raise Refusal(f"the operator is deprecated in opset {opset}")
        if domain == "" and opset < OLDEST_OPSET and (reason := early_difference(schema)) is not None:
            raise Refusal(f"{reason}; convert the model with onnx.version_converter.convert_version")
        check_counts(schema, node.input, node.output, where)
        given = read_attributes(node.attribute, where, body.attributes)
        resolve = resolver(node.op_type, inputs) if domain == "" else None
        if (domain, node.op_type) == (gradient.DOMAIN, "Gradient"):
            resolve = gradient.gradient
        if resolve is not None:
            return self._resolve(resolve, node, inputs, attributes_by_schema(schema, given, where), opset, body, label)
        row = find_row(domain, node.op_type, opset)
        if row is None:
            function = function_body(schema, node, inputs, given, where) if not broken else None
            if function is not None:
                return self._call(function, node, inputs, body, label, schema)
            if broken and (schema.has_function or schema.has_context_dependent_function):
                return [None] * len(node.output)
            raise Refusal("the operator is not implemented")
        if row is not None and row.refused:
            raise Refusal(row.refused)
        attrs = attributes_by_schema(schema, given, where)
        if broken:
            return [None] * len(node.output)
        tensors = _tensors(inputs)
        check_types(schema, tensors, where)
        try:
            return self._apply(row, node, tensors, attrs, opset, label, where, body)
        except MissingOutputError:
            function = function_body(schema, node, inputs, given, where)
            if function is None:
                raise
            return self._call(function, node, inputs, body, label, schema)

    def _schema(self, op: str, domain: str, opset: int) -> Any:
        key = (op, domain, opset)
        if key not in self.schemas:
            self.schemas[key] = find_schema(op, domain, opset)
        return self.schemas[key]

    def _apply(
        self,
        row: Row,
        node: Any,
        inputs: list[Value | None],
        attrs: dict[str, Any],
        opset: int,
        label: str,
        where: str,
        body: Body,
    ) -> Sequence[Value | None]:
        tensors = {k: self._attribute_tensor(v, f"{where}, attribute '{k}'") for k, v in attrs.items()}
        names = [body.prefix + o if o else "" for o in node.output]
        context = Context(self.builder, node.op_type, label, opset, inputs, tensors, names, body.read)
        try:
            made = row.emit(context)
        except ShapeError as e:
            raise ShapeError(f"{self.label}: {e}") from e
        results: list[Value | None] = [made] if isinstance(made, Value) else list(made)
        if len(results) < len(node.output):
            extra = [o for o in node.output[len(results) :] if o in body.used]
            if extra:
                raise MissingOutputError(f"output '{extra[0]}' is not supported")
            return [*results, *[None] * (len(node.output) - len(results))]
        for name, value in zip(names, results, strict=False):
            if name and value is not None and value.id in context.made:
                self.builder.graph.rename(value, name)
        return results[: len(node.output)]

    def _attribute_tensor(self, value: Any, where: str) -> Any:
        """TensorProto attributes as (array, dtype); anything else as it is."""
        if hasattr(value, "data_type"):
            return read_tensor(value, self.folder, where)
        if hasattr(value, "indices"):
            return read_sparse(value, self.folder, where)
        return value

    # ---- functions and branches ----

    def _call(
        self, function: Any, node: Any, inputs: list[Held], body: Body, label: str, schema: Any = None
    ) -> Sequence[Held]:
        """Inlines a model-local function, or the body that ONNX gives for an operator."""
        key = (function.domain, function.name)
        where = f"{self.label}: node '{label}' ({function.name})"
        if key in body.calls:
            raise ModelError(f"{where}: the function '{function.name}' calls itself")
        if len(body.calls) >= _DEPTH_LIMIT:
            raise ModelError(f"{where}: functions are nested over {_DEPTH_LIMIT} deep")
        if len(node.input) > len(function.input) or len(node.output) > len(function.output):
            raise ModelError(
                f"{where}: {len(node.input)} inputs and {len(node.output)} outputs, but the function has "
                f"{len(function.input)} and {len(function.output)}"
            )
        given = read_attributes(node.attribute, where, body.attributes)
        defaults = {a.name: a for a in function.attribute_proto}
        if schema is not None:
            defaults |= {k: s.default_value for k, s in schema.attributes.items() if s.default_value.name}
        missing = sorted(set(function.attribute) - set(given) - set(defaults))
        if missing and schema is None:
            raise ModelError(f"{where}: the function needs the attributes {missing}")
        scope = Scope()
        for i, name in enumerate(function.input):
            scope.values[name] = inputs[i] if i < len(inputs) else None
        # Bodies that ONNX itself gives import only what they change.
        versions = dict(body.opsets) if schema is not None or not len(function.opset_import) else {}
        if len(function.opset_import):
            versions |= opsets(function.opset_import, f"{self.label}: function '{function.name}'")
        inner = Body(versions, scope, {**defaults, **given}, f"{label}/", (*body.calls, key))
        absent = {name for i, name in enumerate(function.input) if i >= len(node.input) or not node.input[i]}
        wanted = [name for name, used in zip(function.output, node.output, strict=False) if used]
        self._nodes([_without(n, absent) for n in function.node] if absent else function.node, inner, wanted)
        return [
            self._result(scope, name, where) if used else None
            for name, used in zip(function.output, node.output, strict=False)
        ]

    def _result(self, scope: Scope, name: str, where: str) -> Held:
        if not scope.holds(name):
            raise ModelError(f"{where}: the output '{name}' is defined by no node of the body")
        return scope.find(name)

    def _resolve(
        self,
        resolve: Callable[[Site], list[Held]],
        node: Any,
        inputs: list[Held],
        attrs: Mapping[str, Any],
        opset: int,
        body: Body,
        label: str,
    ) -> Sequence[Held]:
        """Control flow, sequences and optionals: see control_flow.py."""
        if any(v is None and name for v, name in zip(inputs, node.input, strict=True)):
            return [None] * len(node.output)
        names = [body.prefix + o if o else "" for o in node.output]
        context = Context(self.builder, node.op_type, label, opset, [], attrs, names)
        try:
            results = resolve(Site(self, node, inputs, attrs, body, label, opset, context))
        except ShapeError as e:
            raise ShapeError(f"{self.label}: {e}") from e
        if len(results) < len(node.output):
            raise ModelError(f"{self.label}: {context}: {len(node.output)} outputs, but it has {len(results)}")
        return results[: len(node.output)]

    def separate(
        self, graph: Any, inputs: Callable[[SubGraph], Sequence[Held]], body: Body, prefix: str
    ) -> tuple[SubGraph, list[Held]]:
        """An attribute's graph as a graph of its own, and what its outputs stand for. inputs: makes what its inputs
        stand for."""
        if prefix.count("/") > _DEPTH_LIMIT:
            raise ModelError(f"{self.label}: sub-graphs are nested over {_DEPTH_LIMIT} deep")
        outer, sub = self.builder, SubGraph(self.builder, prefix.rstrip("/"))
        scope = Scope(outer=body.scope, capture=sub.capture)
        inner = Body(body.opsets, scope, body.attributes, prefix, body.calls)
        self.builder = sub.builder
        try:
            given = inputs(sub)
            if len(given) != len(graph.input):
                raise ModelError(
                    f"{self.label}: the sub-graph '{prefix}' has {len(graph.input)} inputs, not {len(given)}"
                )
            self._initializers(graph, scope, prefix)
            for info, held in zip(graph.input, given, strict=True):
                scope.values[info.name] = held
            self._nodes(graph.node, inner, [o.name for o in graph.output])
            return sub, [self._result(scope, o.name, f"{self.label}: sub-graph '{prefix}'") for o in graph.output]
        finally:
            self.builder = outer

    def subgraph(self, graph: Any, values: Sequence[Held], body: Body, prefix: str) -> list[Held]:
        """The outputs of an attribute's graph, inlined with its inputs bound to `values`."""
        if prefix.count("/") > _DEPTH_LIMIT:
            raise ModelError(f"{self.label}: sub-graphs are nested over {_DEPTH_LIMIT} deep")
        scope = Scope(outer=body.scope)
        inner = Body(body.opsets, scope, body.attributes, prefix, body.calls)
        self._initializers(graph, scope, prefix)
        for info, value in zip(graph.input, values, strict=True):
            scope.values[info.name] = value
        self._nodes(graph.node, inner, [o.name for o in graph.output])
        return [self._result(scope, o.name, f"{self.label}: sub-graph '{prefix}'") for o in graph.output]


def _tensors(inputs: Sequence[Held]) -> list[Value | None]:
    """The operands of an op that takes tensors only; Refusal where one is something else."""
    out: list[Value | None] = []
    for i, v in enumerate(inputs):
        if isinstance(v, (Items, Listed, Nothing)):
            raise Refusal(f"input {i} is {'an empty optional' if isinstance(v, Nothing) else 'a sequence'}")
        out.append(v)
    return out


def _without(node: Any, absent: set[str]) -> Any:
    """The node with operands that the caller leaves out made empty."""
    if not absent & set(node.input):
        return node
    copy = type(node)()
    copy.CopyFrom(node)
    del copy.input[:]
    copy.input.extend("" if name in absent else name for name in node.input)
    return copy
