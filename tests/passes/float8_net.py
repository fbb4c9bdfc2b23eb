"""A small network that is quantized to 8-bit floats itself."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from temper.reference.formats import number

E4M3 = TensorProto.FLOAT8E4M3FN


def model(folded: bool = True, groups: int = 1, zero: int = 0) -> bytes:
    """image [2, 3, 12, 12] -> scores [2, 10] through two convolutions and a product between QuantizeLinear and
    DequantizeLinear, as TensorRT's exporters write them.

    folded: weights are codes already, else they are quantized in the model.
    groups: of the second convolution.
    zero: code of the zero points.
    """
    rng = np.random.default_rng(3)
    nodes, constants = [], [helper.make_tensor("zero", E4M3, [], bytes([zero]), raw=True)]

    def constant(name: str, array: Any) -> str:
        constants.append(numpy_helper.from_array(np.asarray(array, np.float32), name))
        return name

    def node(op: str, inputs: list[str], output: str, **attrs: object) -> str:
        nodes.append(helper.make_node(op, inputs, [output], name=output, **attrs))
        return output

    def coded(x: str, tag: str, largest: float) -> str:
        scale = constant(f"{tag}.scale", largest / 448)
        return node("DequantizeLinear", [node("QuantizeLinear", [x, scale, "zero"], f"{tag}.q"), scale, "zero"], tag)

    def weights(tag: str, axis: int, *shape: int) -> str:
        w = rng.standard_normal(shape).astype(np.float32) / 5
        kept = tuple(n if i == axis else 1 for i, n in enumerate(shape))
        scale = (np.abs(w).max(axis=tuple(i for i in range(w.ndim) if i != axis)) / 448).astype(np.float32)
        scales = constant(f"{tag}.scale", scale)
        zeros = helper.make_tensor(f"{tag}.zero", E4M3, [len(scale)], bytes(len(scale)), raw=True)
        constants.append(zeros)
        if folded:
            codes = number(w / scale.reshape(kept), "float8e4m3fn").astype(np.uint8)
            constants.append(helper.make_tensor(f"{tag}.q", E4M3, shape, codes.tobytes(), raw=True))
        else:
            node("QuantizeLinear", [constant(f"{tag}.float", w), scales, zeros.name], f"{tag}.q", axis=axis)
        return node("DequantizeLinear", [f"{tag}.q", scales, zeros.name], tag, axis=axis)

    x = node("Conv", [coded("image", "a", 3.0), weights("w1", 0, 16, 3, 3, 3), constant("b1", rng.standard_normal(16))],
             "conv1", pads=[1] * 4)  # fmt: skip
    x = coded(node("Relu", [x], "relu1"), "b", 4.0)
    x = node("Relu", [node("Conv", [x, weights("w2", 0, 32, 16 // groups, 1, 1)], "conv2", group=groups)], "relu2")
    x = coded(node("Flatten", [node("GlobalAveragePool", [x], "pool")], "flat"), "c", 2.0)
    x = node("MatMul", [x, weights("w3", 1, 32, 10)], "fc")
    node("Add", [x, constant("b3", rng.standard_normal(10))], "scores")
    graph = helper.make_graph(
        nodes,
        "float8",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [2, 3, 12, 12])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [2, 10])],
        constants,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    return bytes(made.SerializeToString())
