"""The inputs of an ONNX model without the rest of it: which dimensions are open, and what they are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from temper.frontends.onnx.load import ModelSource, load_model
from temper.ir.types import TensorType


def input_types(source: ModelSource, shapes: Mapping[str, Sequence[int | str]] | None = None) -> dict[str, TensorType]:
    """Types of the model's inputs by name, as `import_onnx` gives them. Errors as for `import_onnx`."""
    from temper.frontends.onnx.context import Builder
    from temper.frontends.onnx.declared import Declared
    from temper.frontends.onnx.order import Scope
    from temper.ir.graph import Graph

    model, _, label = load_model(source)
    constants = {t.name for t in model.graph.initializer} | {t.values.name for t in model.graph.sparse_initializer}
    inputs = [i for i in model.graph.input if i.name not in constants]
    given = {k: v for k, v in (shapes or {}).items() if k not in constants}
    graph = Graph(model.graph.name)
    Declared(Builder(graph, dynamic=True), label, given, {}, {}, {}).declare(inputs, Scope())
    return {v.name: v.type for v in graph.inputs}


def tensor_names(source: ModelSource) -> frozenset[str]:
    """Names of the model's inputs and of its nodes' results, sub-graphs aside. Errors as for `import_onnx`."""
    model, _, _ = load_model(source)
    return frozenset({i.name for i in model.graph.input} | {o for n in model.graph.node for o in n.output if o})
