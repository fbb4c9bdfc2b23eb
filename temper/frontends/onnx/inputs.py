"""The inputs of an ONNX model without the rest of it: which dimensions are open, and what they are called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from temper.frontends.onnx.load import ModelSource, load_model
from temper.ir.types import TensorType


def input_types(source: ModelSource, shapes: Mapping[str, Sequence[int | str]] | None = None) -> dict[str, TensorType]:
    """Types of the model's inputs by name, as `import_onnx` gives them. Errors as for `import_onnx`."""
    import onnx

    from temper.frontends.onnx.importer import Importer
    from temper.frontends.onnx.order import Scope

    model, folder, label = load_model(source)
    constants = {t.name for t in model.graph.initializer} | {t.values.name for t in model.graph.sparse_initializer}
    alone = onnx.ModelProto(ir_version=model.ir_version)
    alone.opset_import.extend(model.opset_import)
    alone.graph.input.extend(i for i in model.graph.input if i.name not in constants)
    given = {k: v for k, v in (shapes or {}).items() if k not in constants}
    importer = Importer(alone, folder, label, given, {}, False)
    importer._inputs(alone.graph, Scope())
    return {v.name: v.type for v in importer.builder.graph.inputs}


def tensor_names(source: ModelSource) -> frozenset[str]:
    """Names of the model's inputs and of its nodes' results, sub-graphs aside. Errors as for `import_onnx`."""
    model, _, _ = load_model(source)
    return frozenset({i.name for i in model.graph.input} | {o for n in model.graph.node for o in n.output if o})
