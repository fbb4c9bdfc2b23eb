"""Small nets for GPU plans: sizes that depend on data, programs inside nodes, host steps between kernels."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto, helper, numpy_helper

rng = np.random.default_rng(11)
FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL

Spec = tuple[str, int, Sequence[Any]]


def graph(
    nodes: Sequence[NodeProto], inputs: Sequence[Spec], outputs: Sequence[Spec], name: str = "net", **constants: Any
) -> GraphProto:
    def info(specs: Sequence[Spec]) -> list[Any]:
        return [helper.make_tensor_value_info(n, t, s) for n, t, s in specs]

    tensors = [numpy_helper.from_array(np.asarray(v), k) for k, v in constants.items()]
    return helper.make_graph(list(nodes), name, info(inputs), info(outputs), tensors)


def model(g: GraphProto) -> bytes:
    data: bytes = helper.make_model(
        g, opset_imports=[helper.make_opsetid("", 17)], ir_version=9
    ).SerializeToString()
    return data


def node(op: str, inputs: str, outputs: str, **attrs: Any) -> NodeProto:
    return helper.make_node(op, inputs.split(), outputs.split(), **attrs)


SELECTED = graph(
    [
        node("Relu", "x", "a"),
        node("Greater", "a half", "m"),
        node("NonZero", "m", "where"),
        node("Transpose", "where", "rows", perm=[1, 0]),
        node("GatherND", "a rows", "picked"),
        node("Mul", "picked two", "y"),
        node("ReduceSum", "a axes", "s", keepdims=0),
    ],
    [("x", FLOAT, [5, 6])],
    [("y", FLOAT, ["K"]), ("s", FLOAT, [5])],
    half=np.float32(0.5), two=np.float32(2), axes=np.array([1]),
)  # fmt: skip

DETECTED = graph(
    [
        node("Sigmoid", "logits", "scores"),
        node("NonMaxSuppression", "boxes scores most iou low", "kept"),
        node("Gather", "kept last", "number", axis=1),
        node("Gather", "boxes number", "taken", axis=1),
        node("Add", "taken one", "y"),
    ],
    [("boxes", FLOAT, [1, 12, 4]), ("logits", FLOAT, [1, 2, 12])],
    [("kept", INT64, ["K", 3]), ("y", FLOAT, [1, "K", 4])],
    most=np.array([4]), iou=np.array([0.4], np.float32), low=np.array([0.5], np.float32), last=np.array(2),
    one=np.float32(1),
)  # fmt: skip

W = rng.standard_normal((4, 4)).astype(np.float32)
THEN = graph([node("MatMul", "a w", "p"), node("Relu", "p", "q")], [], [("q", FLOAT, [3, 4])], "then", w=W)
OTHER = graph([node("Neg", "a", "q")], [], [("q", FLOAT, [3, 4])], "other")
BRANCHED = graph(
    [
        node("Exp", "x", "a"),
        node("ReduceMax", "x", "top", keepdims=0),
        node("Greater", "top one", "c"),
        node("If", "c", "b", then_branch=THEN, else_branch=OTHER),
        node("Add", "b a", "y"),
    ],
    [("x", FLOAT, [3, 4])],
    [("y", FLOAT, [3, 4])],
    one=np.float32(1),
)

BODY = graph(
    [node("MatMul", "h w", "p"), node("Tanh", "p", "next"), node("Identity", "go", "on"), node("Neg", "next", "row")],
    [("i", INT64, []), ("go", BOOL, []), ("h", FLOAT, [3, 4])],
    [("on", BOOL, []), ("next", FLOAT, [3, 4]), ("row", FLOAT, [3, 4])],
    "body", w=W,
)  # fmt: skip
LOOPED = graph(
    [node("Abs", "x", "h0"), node("Loop", "trips  h0", "h rows", body=BODY), node("Mul", "h h", "y")],
    [("x", FLOAT, [3, 4]), ("trips", INT64, [])],
    [("y", FLOAT, [3, 4]), ("rows", FLOAT, ["T", 3, 4])],
)
LOOPED.node[1].input[:] = ["trips", "", "h0"]

#: Det has no GPU kernel: a host step between kernels
MIXED = graph(
    [
        node("Relu", "x", "a"),
        node("Det", "a", "d"),
        node("Exp", "d", "e"),
        node("Concat", "e d", "y", axis=1),
        node("Slice", "a starts ends axes", "z"),
    ],
    [("x", FLOAT, ["N", 2, 3, 3])],
    [("y", FLOAT, ["N", 4]), ("z", FLOAT, ["N", 2, 2, 3])],
    starts=np.array([1]), ends=np.array([3]), axes=np.array([2]),
)  # fmt: skip


def floats(*shape: int) -> np.ndarray:
    return rng.standard_normal(shape).astype(np.float32)


BOXES = np.sort(rng.uniform(0, 1, (1, 12, 4)).astype(np.float32).reshape(1, 12, 2, 2), axis=2).reshape(1, 12, 4)
NETS: dict[str, tuple[GraphProto, list[dict[str, np.ndarray]]]] = {
    "selected": (SELECTED, [{"x": floats(5, 6)}, {"x": floats(5, 6)}, {"x": -np.ones((5, 6), np.float32)}]),
    "detected": (DETECTED, [{"boxes": BOXES, "logits": floats(1, 2, 12)} for _ in range(2)]),
    "branched": (BRANCHED, [{"x": floats(3, 4) - 3}, {"x": floats(3, 4) + 3}, {"x": floats(3, 4) - 3}]),
    "looped": (LOOPED, [{"x": floats(3, 4), "trips": np.array(n)} for n in (3, 0, 2)]),
    "mixed": (MIXED, [{"x": floats(n, 2, 3, 3)} for n in (2, 3)]),
}
