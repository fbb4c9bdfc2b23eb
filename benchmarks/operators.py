"""FP32 latency of rarer operators on a CPU: Temper against ONNX Runtime and OpenVINO, taking turns within one run.

    python -m benchmarks.operators                          # every model, one thread
    python -m benchmarks.operators --models r3d18,dft --cache timing.sqlite

r3d18 has the layers of R3D-18 (Tran et al., "A Closer Look at Spatiotemporal Convolutions", CVPR 2018) on 16 frames of
112 x 112, with random weights; the other models are one operator each. Prints medians (ms), Temper's speed against the
better peer, and the largest difference of outputs relative to the largest output.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.contest import contest, everyone, told
from temper.peers import pin

Arrays = dict[str, np.ndarray]
Case = tuple[onnx.ModelProto, Arrays]


def _model(nodes: Sequence[onnx.NodeProto], feeds: Arrays, outputs: Sequence[str], constants: Arrays) -> Case:
    inputs = [helper.make_tensor_value_info(n, TensorProto.FLOAT, a.shape) for n, a in feeds.items()]
    kinds = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT if n == "y" else TensorProto.INT64, None) for n in outputs
    ]
    known = [numpy_helper.from_array(a, n) for n, a in constants.items()]
    graph = helper.make_graph(nodes, "operator", inputs, kinds, known)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9), feeds


def r3d18() -> Case:
    """Residual blocks of two 3x3x3 convolutions, 64 to 512 channels; input [1, 3, 16, 112, 112]."""
    rng = np.random.default_rng(0)
    nodes: list[onnx.NodeProto] = []
    constants: dict[str, np.ndarray] = {}

    def add(op: str, *inputs: str, **attrs: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [f"v{len(nodes)}"], **attrs))
        return f"v{len(nodes) - 1}"

    def conv(x: str, c: int, features: int, kernel: tuple[int, ...], stride: tuple[int, ...]) -> str:
        w, b = f"w{len(constants)}", f"b{len(constants)}"
        scale = math.sqrt(2 / (c * math.prod(kernel)))
        constants[w] = (rng.standard_normal((features, c, *kernel)) * scale).astype(np.float32)
        constants[b] = (rng.standard_normal(features) * 0.1).astype(np.float32)
        pads = [k // 2 for k in kernel]
        return add("Conv", x, w, b, strides=stride, pads=[*pads, *pads])

    x, c = add("Relu", conv("x", 3, 64, (3, 7, 7), (1, 2, 2))), 64
    for features, s in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), (512, 1)):
        y = add("Relu", conv(x, c, features, (3, 3, 3), (s, s, s)))
        y = conv(y, features, features, (3, 3, 3), (1, 1, 1))
        if s > 1:
            x = conv(x, c, features, (1, 1, 1), (s, s, s))
        x, c = add("Relu", add("Add", y, x)), features
    constants["classes"] = (rng.standard_normal((c, 400)) * 0.05).astype(np.float32)
    nodes.append(helper.make_node("MatMul", [add("Flatten", add("GlobalAveragePool", x)), "classes"], ["y"]))
    return _model(nodes, {"x": rng.standard_normal((1, 3, 16, 112, 112)).astype(np.float32)}, ["y"], constants)


def single(
    op: str,
    shapes: Mapping[str, tuple[int, ...]],
    constants: Arrays | None = None,
    outputs: Sequence[str] = ("y",),
    **attrs: Any,
) -> Case:
    """One node on normal data, its constants after its inputs."""
    rng = np.random.default_rng(0)
    feeds = {n: rng.standard_normal(s).astype(np.float32) for n, s in shapes.items()}
    known = dict(constants or {})
    return _model([helper.make_node(op, [*feeds, *known], outputs, **attrs)], feeds, outputs, known)


def deform_conv() -> Case:
    rng = np.random.default_rng(0)
    w = (rng.standard_normal((64, 64, 3, 3)) / 24).astype(np.float32)
    feeds = {n: rng.standard_normal((1, c, 64, 64)).astype(np.float32) for n, c in (("x", 64), ("o", 18))}
    return _model([helper.make_node("DeformConv", ["x", "w", "o"], ["y"], pads=[1] * 4)], feeds, ["y"], {"w": w})


MODELS: Mapping[str, Callable[[], Case]] = {
    "r3d18": r3d18,
    "maxpool3d": partial(single, "MaxPool", {"x": (1, 64, 8, 56, 56)}, kernel_shape=[3] * 3, strides=[2] * 3),
    "cumsum": partial(single, "CumSum", {"x": (64, 4096)}, {"axis": np.array(1)}),
    "topk": partial(single, "TopK", {"x": (8, 20000)}, {"k": np.array([100])}, ("y", "i")),
    "gridsample": partial(single, "GridSample", {"x": (1, 32, 64, 64), "g": (1, 64, 64, 2)}),
    "dft": partial(single, "DFT", {"x": (32, 1024, 1)}, onesided=1),
    "deformconv": deform_conv,
}  # fmt: skip

#: peers that give results of another shape, or have no such operator
_ABSENT = {"dft": ("openvino",), "deformconv": ("openvino",)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0, help="time per model and engine")
    parser.add_argument("--effort", type=int, default=2)
    parser.add_argument("--cache", type=Path, help="timing cache")
    args = parser.parse_args()
    pin(args.threads)
    import temper

    with tempfile.TemporaryDirectory() as folder:
        for name in args.models.split(","):
            path = Path(folder) / f"{name}.onnx"
            model, feeds = MODELS[name]()
            onnx.save(model, path)
            cache = {"cache": args.cache} if args.cache else {}
            engine = temper.build(path, threads=args.threads, effort=args.effort, **cache)
            found = contest(
                partial(engine.run, feeds), feeds, everyone(path, _ABSENT.get(name, ())), args.threads, args.seconds
            )
            print(told(name, args.threads, found, engine), flush=True)


if __name__ == "__main__":
    main()
