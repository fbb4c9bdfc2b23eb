"""Arithmetic and parameter counts of ONNX models."""

from __future__ import annotations

import math
from dataclasses import dataclass

from onnx import ModelProto, NodeProto, TensorProto, helper, shape_inference


@dataclass(frozen=True)
class LayerCost:
    """One Conv, Gemm, MatMul or Einsum node: multiply-accumulates (count) for batch 1, and its geometry in words."""

    name: str
    output: str
    op: str
    macs: int
    geometry: str


@dataclass(frozen=True)
class ModelCost:
    """Learned parameters (count) and multiply-accumulates (count) for one input of batch 1."""

    parameters: float
    macs: float


def layer_costs(model: ModelProto) -> list[LayerCost]:
    """Costs of the nodes that multiply by matrices, in graph order; symbolic sizes count 1."""
    graph = shape_inference.infer_shapes(model, data_prop=True).graph
    shapes: dict[str, list[int]] = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes.setdefault(value.name, [dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim])
    for node in graph.node:
        if node.op_type == "Constant":
            shapes[node.output[0]] = _constant_shape(node)
    costs = []
    for node in graph.node:
        attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
        if node.op_type == "Conv":
            source, weight, result = (shapes[name] for name in (node.input[0], node.input[1], node.output[0]))
            group, stride = attributes.get("group", 1), attributes.get("strides", [1])[0]
            kind = "depthwise" if group == weight[0] and weight[1] == 1 and group > 1 else f"g{group}"
            kernel = "x".join(map(str, weight[2:]))
            geometry = f"{_dims(source[1:])} -> {_dims(result[1:])} k{kernel} s{stride} {kind}"
            costs.append(
                LayerCost(node.name, node.output[0], node.op_type, math.prod(result) * math.prod(weight[1:]), geometry)
            )
        elif node.op_type in ("Gemm", "MatMul"):
            source, result = shapes[node.input[0]], shapes[node.output[0]]
            inner = source[-2] if attributes.get("transA", 0) else source[-1]
            geometry = f"{_dims(source)} -> {_dims(result)}"
            costs.append(LayerCost(node.name, node.output[0], node.op_type, math.prod(result) * inner, geometry))
        elif node.op_type == "Einsum":
            equation = attributes["equation"].decode().replace(" ", "")
            macs = _einsum_macs(equation, [shapes[name] for name in node.input])
            costs.append(LayerCost(node.name, node.output[0], node.op_type, macs, equation))
    return costs


def _einsum_macs(equation: str, shapes: list[list[int]]) -> int:
    """Multiply-accumulates of a contraction without ellipsis: the product of all labels' sizes."""
    terms = equation.split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, shape in zip(terms, shapes, strict=True):
        sizes.update(zip(term, shape, strict=True))
    return math.prod(sizes.values())


def model_cost(model: ModelProto) -> ModelCost:
    """Totals of a model.  Batch normalisation's running statistics are not learned and do not count."""
    statistics = {name for node in model.graph.node if node.op_type == "BatchNormalization" for name in node.input[3:]}
    parameters = sum(
        math.prod(tensor.dims)
        for tensor in model.graph.initializer
        if tensor.data_type == TensorProto.FLOAT and tensor.name not in statistics
    )
    return ModelCost(parameters, sum(layer.macs for layer in layer_costs(model)))


def _constant_shape(node: NodeProto) -> list[int]:
    return [side for attribute in node.attribute if attribute.name == "value" for side in attribute.t.dims]


def _dims(shape: list[int]) -> str:
    return "x".join(map(str, shape))
