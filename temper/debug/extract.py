"""Parts of an ONNX model as models of their own: what a part read from elsewhere becomes an input with its real value.

Nodes are counted at the top level of the graph: an If or Loop goes with its bodies, and the outer values that these
read count as its inputs. Constant nodes belong to whoever reads them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from temper.errors import DataError, TemperError

#: Integer vectors up to this length become constants: they state shapes, axes or bounds, which a model must know.
_SHAPE_LIKE = 64

_RANDOM = frozenset(
    {"RandomNormal", "RandomUniform", "RandomNormalLike", "RandomUniformLike", "Bernoulli", "Multinomial"}
)


@dataclass(frozen=True)
class Case:
    """A model (ModelProto) and the arrays of its inputs."""

    model: Any
    feeds: Mapping[str, np.ndarray]


class Subject:
    """A model, its inputs, and every value between its nodes.

    note: why those values are made up, where nothing here can compute them; else empty.
    """

    def __init__(self, case: Case) -> None:
        self.case = case
        self.note = ""
        graph = case.model.graph
        self.constants = {o: n for n in graph.node if n.op_type == "Constant" for o in n.output}
        #: the nodes that can be kept or removed, in the file's order
        self.nodes = [n for n in graph.node if n.op_type != "Constant"]
        self.reads = [_reads(n) for n in self.nodes]
        self.initializers = {t.name: t for t in graph.initializer} | {
            t.values.name: t for t in graph.sparse_initializer
        }
        self.inputs = {v.name: v for v in graph.input}
        self.outputs = {v.name: v for v in graph.output}

    @cached_property
    def values(self) -> dict[str, np.ndarray]:
        try:
            return record(self.case)
        except DataError as e:
            self.note = f"{e}; they are random"
            return self._made_up()

    def _made_up(self) -> dict[str, np.ndarray]:
        """Seeded data for the values whose type and shape are known: normal floats, integers 0 and 1."""
        import onnx

        rng = np.random.default_rng(0)
        out = dict(self.case.feeds)
        for name, v in self.types.items():
            t = v.type.tensor_type
            shape = [d.dim_value for d in t.shape.dim]
            dtype = onnx.helper.tensor_dtype_to_np_dtype(t.elem_type) if t.elem_type else np.dtype(object)
            if name not in out and t.HasField("shape") and all(shape) and dtype.kind in "fiub":
                data = rng.standard_normal(shape) if dtype.kind == "f" else rng.integers(0, 2, shape)
                out[name] = data.astype(dtype)
        return out

    @cached_property
    def types(self) -> dict[str, Any]:
        """ValueInfoProto by name, where the file or ONNX's shape inference knows it."""
        import onnx

        try:
            inferred = onnx.shape_inference.infer_shapes(self.case.model)
        except (onnx.shape_inference.InferenceError, ValueError):  # over 2 GiB, or contradictory
            inferred = self.case.model
        g = inferred.graph
        return {v.name: v for v in (*g.value_info, *g.output, *g.input)}

    @cached_property
    def fixed(self) -> frozenset[str]:
        """Values that no input of the model reaches."""
        known = set(self.constants) | (set(self.initializers) - set(self.case.feeds))
        for node, reads in zip(self.nodes, self.reads, strict=True):
            if reads <= known and node.op_type not in _RANDOM:
                known |= set(node.output)
        return frozenset(known)

    def cut(self, kept: Iterable[int]) -> Case | None:
        """The model of these nodes only; None if a value it would need is not known.

        Its outputs are the model's own, and what no kept node reads.
        """
        import onnx

        numbers = sorted(kept)
        nodes = [self.nodes[i] for i in numbers]
        made = {o for n in nodes for o in n.output if o}
        needs = list(dict.fromkeys(name for i in numbers for name in sorted(self.reads[i]) if name not in made))
        source = self.case.model.graph
        graph = onnx.GraphProto(name=source.name)
        feeds: dict[str, np.ndarray] = {}
        constants = [self.constants[n] for n in needs if n in self.constants]
        for name in needs:
            if name in self.constants:
                continue
            if name in self.inputs:
                graph.input.append(self.inputs[name])
                if name in self.case.feeds:
                    feeds[name] = self.case.feeds[name]
            if name in self.initializers:
                t = self.initializers[name]
                (graph.initializer if isinstance(t, onnx.TensorProto) else graph.sparse_initializer).append(t)
            elif name not in self.inputs:
                if name not in self.values:
                    return None
                value = self.values[name]
                shape_like = value.dtype.kind in "iu" and value.ndim <= 1 and value.size <= _SHAPE_LIKE
                if name in self.fixed or shape_like:
                    graph.initializer.append(self._tensor(name, value))
                else:
                    graph.input.append(self._info(name))
                    feeds[name] = value
        graph.node.extend([*constants, *nodes])
        used = {name for i in numbers for name in self.reads[i]}
        ends = [n for n in self.outputs if n in made]
        for node in nodes:
            if not any(o in used or o in self.outputs for o in node.output if o):
                ends.append(next(o for o in node.output if o))
        graph.output.extend(self.outputs[n] if n in self.outputs else self._info(n) for n in ends)
        model = onnx.ModelProto()
        model.CopyFrom(_without_graph(self.case.model))
        model.graph.CopyFrom(graph)
        return Case(model, feeds)

    def of_names(self, names: Iterable[str]) -> Case | None:
        """The part made of the nodes with these names, or that write values with these names; None if there is none."""
        wanted = set(names)
        kept = [i for i, n in enumerate(self.nodes) if n.name in wanted or wanted & set(n.output)]
        return self.cut(kept) if kept else None

    def _tensor(self, name: str, value: np.ndarray) -> Any:
        """A TensorProto; arrays of codes (bfloat16 in uint16) get the type that the model states."""
        import onnx

        known = self.types.get(name)
        code = known.type.tensor_type.elem_type if known is not None else 0
        if value.dtype != np.uint16 or code != onnx.TensorProto.BFLOAT16:
            return onnx.numpy_helper.from_array(value, name)
        return onnx.helper.make_tensor(name, code, value.shape, value.tobytes(), raw=True)

    def _info(self, name: str) -> Any:
        import onnx

        value = self.values.get(name)
        known = self.types.get(name)
        if known is not None and known.type.HasField("tensor_type"):
            own = {d.dim_param for v in self.inputs.values() for d in v.type.tensor_type.shape.dim if d.dim_param}
            dims = known.type.tensor_type.shape.dim
            if known.type.tensor_type.HasField("shape") and (value is None or len(dims) == value.ndim):
                shape = [
                    d.dim_param if d.dim_param in own else value.shape[i] if value is not None else d.dim_value or None
                    for i, d in enumerate(dims)
                ]
                return onnx.helper.make_tensor_value_info(name, known.type.tensor_type.elem_type, shape)
        if value is None:
            return known if known is not None else onnx.ValueInfoProto(name=name)
        return onnx.helper.make_tensor_value_info(name, onnx.helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)


def _without_graph(model: Any) -> Any:
    import onnx

    out = onnx.ModelProto()
    for descriptor, value in model.ListFields():
        if descriptor.name in ("graph", "metadata_props"):
            continue
        if descriptor.name in ("opset_import", "functions", "training_info", "configuration"):
            getattr(out, descriptor.name).extend(value)
        else:
            setattr(out, descriptor.name, value)
    return out


def _reads(node: Any) -> set[str]:
    """Values a node reads, those that its bodies take from outside included."""
    found = {n for n in node.input if n}
    for attribute in node.attribute:
        for body in (attribute.g, *attribute.graphs) if attribute.HasField("g") or attribute.graphs else ():
            own = {v.name for v in body.input} | {t.name for t in body.initializer}
            for inner in body.node:
                found |= _reads(inner) - own
                own |= set(inner.output)
            found |= {v.name for v in body.output} - own
    return found


def record(case: Case) -> dict[str, np.ndarray]:
    """Every value between the nodes of a model, by name: from ONNX Runtime, else Temper's references, else the onnx
    package's evaluator. DataError tells why none of them can run it."""
    reasons = []
    sources: Sequence[tuple[str, Callable[[Case], dict[str, np.ndarray] | str]]] = (
        ("ONNX Runtime", by_onnxruntime),
        ("Temper's references", _by_references),
        ("the onnx package", _by_onnx),
    )
    for name, source in sources:
        found = source(case)
        if isinstance(found, dict):
            return found
        reasons.append(f"{name}: {found}")
    raise DataError(f"the values inside the model cannot be computed: {'; '.join(reasons)}")


def exposed(model: Any) -> Any:
    """The model with every value its nodes write as an output."""
    import onnx

    out = onnx.ModelProto()
    out.CopyFrom(model)
    have = {v.name for v in out.graph.output}
    for node in model.graph.node:
        for name in node.output:
            if name and name not in have:
                have.add(name)
                out.graph.output.append(onnx.ValueInfoProto(name=name))
    return out


def by_onnxruntime(case: Case) -> dict[str, np.ndarray] | str:
    from temper.peers import MissingPeer, OnnxRuntime

    model = exposed(case.model)
    try:
        # without its optimizations: a fused node's inner value would be another implementation's
        arrays = OnnxRuntime().outputs(model.SerializeToString(), dict(case.feeds))
    except MissingPeer as e:
        return str(e)
    except (RuntimeError, ValueError, OSError) as e:
        return str(e).splitlines()[0]
    return {k: v for k, v in arrays.items() if isinstance(v, np.ndarray)} | dict(case.feeds)


def _by_references(case: Case) -> dict[str, np.ndarray] | str:
    from temper.frontends.onnx import import_onnx
    from temper.ir.evaluate import evaluate_values

    try:
        graph = import_onnx(case.model, shapes={k: v.shape for k, v in case.feeds.items()})
        found = evaluate_values(graph, {v.name: case.feeds[v.name] for v in graph.inputs}, graph.values)
    except (TemperError, KeyError) as e:
        return str(e).splitlines()[0]
    by_name = {v.name: found[v.id] for v in graph.values}
    return by_name | {n: found[v.id] for n, v in zip(graph.output_names, graph.outputs, strict=True)}


def _by_onnx(case: Case) -> dict[str, np.ndarray] | str:
    from onnx.reference import ReferenceEvaluator

    model = exposed(case.model)
    try:
        arrays = ReferenceEvaluator(model).run(None, dict(case.feeds))
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError, NotImplementedError) as e:
        return str(e).splitlines()[0]
    named = zip([o.name for o in model.graph.output], arrays, strict=True)
    return {k: v for k, v in named if isinstance(v, np.ndarray)} | dict(case.feeds)
