"""FP32 latency of recurrent layers on a CPU: Temper against ONNX Runtime and OpenVINO, taking turns within one run.

    python -m benchmarks.recurrent                          # every model, one thread
    python -m benchmarks.recurrent --threads 2 --models lstm256_b1,gru256_b1

Models are ONNX's LSTM and GRU with random weights as PyTorch exports them: sequence 100, 256 or 512 hidden units,
batch 1 or 16; bi512 is two bidirectional LSTM layers. Prints medians (ms), Temper's speed against the better peer, and
the largest difference of outputs relative to the largest output.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.contest import contest, everyone, told
from temper.peers import pin, random_inputs

_GATES = {"LSTM": 4, "GRU": 3}


def layers(op: str, hidden: int, batch: int, steps: int = 100, depth: int = 1, both: bool = False) -> onnx.ModelProto:
    """`depth` layers of `op` with as many inputs as hidden units; both: forwards and backwards. Input [steps, batch,
    hidden]; output [steps, batch, hidden or twice that]."""
    rng = np.random.default_rng(0)
    directions, wide = 2 if both else 1, _GATES[op] * hidden
    nodes, constants, x, size = [], [], "x", hidden
    for i in range(depth):
        shapes = {"W": (directions, wide, size), "R": (directions, wide, hidden), "B": (directions, 2 * wide)}
        for name, shape in shapes.items():
            values = (rng.uniform(-1, 1, shape) / math.sqrt(hidden)).astype(np.float32)
            constants.append(numpy_helper.from_array(values, f"{name}{i}"))
        more: dict[str, Any] = {"linear_before_reset": 1} if op == "GRU" else {}
        nodes.append(
            helper.make_node(
                op,
                [x, f"W{i}", f"R{i}", f"B{i}"],
                [f"y{i}"],
                hidden_size=hidden,
                direction="bidirectional" if both else "forward",
                **more,
            )
        )
        size = directions * hidden
        constants.append(numpy_helper.from_array(np.array([steps, batch, size]), f"shape{i}"))
        nodes.append(helper.make_node("Transpose", [f"y{i}"], [f"t{i}"], perm=[0, 2, 1, 3]))
        nodes.append(helper.make_node("Reshape", [f"t{i}", f"shape{i}"], [x := f"x{i}"]))
    graph = helper.make_graph(
        nodes,
        "recurrent",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [steps, batch, hidden])],
        [helper.make_tensor_value_info(x, TensorProto.FLOAT, [steps, batch, size])],
        constants,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 14)], ir_version=8)


MODELS: dict[str, Callable[[], onnx.ModelProto]] = {
    **{
        f"{op.lower()}256_b{batch}": partial(layers, op, 256, batch)
        for op in ("LSTM", "GRU")
        for batch in (1, 16)
    },
    **{f"bi512_b{batch}": partial(layers, "LSTM", 512, batch, depth=2, both=True) for batch in (1, 16)},
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(MODELS))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0, help="time per model and engine")
    parser.add_argument("--effort", type=int, default=2)
    args = parser.parse_args()
    pin(args.threads)
    import temper

    with tempfile.TemporaryDirectory() as folder:
        for name in args.models.split(","):
            path = Path(folder) / f"{name}.onnx"
            onnx.save(MODELS[name](), path)
            engine = temper.build(path, threads=args.threads, effort=args.effort)
            feeds = random_inputs(path)
            found = contest(partial(engine.run, feeds), feeds, everyone(path), args.threads, args.seconds)
            print(told(name, args.threads, found, engine), flush=True)


if __name__ == "__main__":
    main()
