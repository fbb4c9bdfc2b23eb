"""PyTorch on a GPU as a peer: eager, replayed as a CUDA graph, and compiled with frozen weights.

Architectures are those of the generated ONNX models: torchvision's and transformers' own modules, which are what users
run, and for the detector the ONNX graph op by op. Weights are random: times do not depend on them. torch, torchvision
and transformers are imported when they are first asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from temper.peers import MissingPeer

#: Ways to run a module, weakest first.
KINDS = ("eager", "graph", "compiled")
#: Those that are timed together. Compiling frees what a graph captured before it goes on using: such a graph may end
#: with a launch failure, and is not run any more.
CONTESTS = (("eager", "graph"), ("compiled",))

Launch = Callable[[], Any]


def _torchvision(name: str) -> Any:
    import torchvision

    return getattr(torchvision.models, name)(weights=None)


def _bert(width: int, layers: int, heads: int) -> Any:
    from transformers import BertConfig, BertModel

    return BertModel(
        BertConfig(hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4 * width)
    )


#: Module by the name of the generated model; None: its ONNX graph.
_MODULES: dict[str, Callable[[], Any] | None] = {
    "resnet50": partial(_torchvision, "resnet50"),
    "mobilenetv2": partial(_torchvision, "mobilenet_v2"),
    "efficientnet_b0": partial(_torchvision, "efficientnet_b0"),
    "vit_b16": partial(_torchvision, "vit_b_16"),
    "bert_base_s128": partial(_bert, 768, 12, 12),
    "bert_large_s128": partial(_bert, 1024, 24, 16),
    "yolo": None,
}


def module(name: str, path: Path) -> Any:
    """The module of a generated model in evaluation mode, float32, on the host. MissingPeer if there is none."""
    if name not in _MODULES:
        raise MissingPeer(f"torch: no module is known for '{name}'")
    try:
        make = _MODULES[name]
        return (OnnxNet(path) if make is None else make()).eval()
    except ImportError as e:
        raise MissingPeer(f"torch: {e}") from e


def prepared(net: Any, kind: str, inputs: Sequence[Any], stream: Any) -> Launch:
    """A call that enqueues one run of a module (on the device, in its precision) on `stream`; warmed up.

    inputs: on the device; pictures in channels-last order.
    """
    import torch

    run: Launch = partial(net, *inputs)
    if kind == "compiled":
        torch._inductor.config.freezing = True  # type: ignore[attr-defined]
        fast = torch.compile(net, mode="reduce-overhead", dynamic=False)
        run = partial(fast, *inputs)
    with torch.no_grad(), torch.cuda.stream(stream):
        for _ in range(4):
            run()
        stream.synchronize()
        if kind == "graph":
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=stream):
                run()
            run = graph.replay

    def launch() -> None:
        with torch.no_grad(), torch.cuda.stream(stream):
            run()

    return launch


def OnnxNet(path: Path) -> Any:
    """A torch module of an ONNX graph of convolutions and what surrounds them in the generated detectors."""
    import onnx
    import torch
    from onnx import numpy_helper
    from torch.nn import functional as F

    model = onnx.load(path)

    def conv(x: Any, w: Any, b: Any = None, *, strides: Any, pads: Any, group: int = 1, **_: Any) -> Any:
        return F.conv2d(x, w, b, strides, pads[:2], groups=group)

    def pool(x: Any, *, kernel_shape: Any, strides: Any, pads: Any, **_: Any) -> Any:
        return F.max_pool2d(x, kernel_shape, strides, pads[:2])

    ops: dict[str, Callable[..., Any]] = {
        "Conv": conv,
        "MaxPool": pool,
        "Add": lambda a, b: a + b,
        "Sub": lambda a, b: a - b,
        "Mul": lambda a, b: a * b,
        "Div": lambda a, b: a / b,
        "Sigmoid": torch.sigmoid,
        "Concat": lambda *xs, axis: torch.cat(xs, axis),
        "Split": lambda x, sizes, axis=0: torch.split(x, sizes, axis),
        "Reshape": lambda x, s: x.reshape([x.shape[i] if n == 0 else n for i, n in enumerate(s)]),
        "Transpose": lambda x, perm: x.permute(perm),
        "Softmax": lambda x, axis=-1: torch.softmax(x, axis),
        "Resize": lambda x, **_: F.interpolate(x, scale_factor=2.0, mode="nearest"),
    }

    class Net(torch.nn.Module):
        """Everything that is not arithmetic on tensors is settled here, so that PyTorch can compile `forward` whole."""

        def __init__(self) -> None:
            super().__init__()
            given = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
            self.input, self.outputs = model.graph.input[0].name, [o.name for o in model.graph.output]
            self.names: dict[str, str] = {}
            self.steps: list[tuple[Callable[..., Any], list[Any], dict[str, Any], list[str]]] = []
            for n in model.graph.node:
                attrs = {a.name: onnx.helper.get_attribute_value(a) for a in n.attribute}
                if n.op_type == "Constant":
                    given[n.output[0]] = numpy_helper.to_array(attrs["value"])
                else:
                    arguments = list(n.input if n.op_type != "Resize" else n.input[:1])
                    while not arguments[-1]:
                        arguments.pop()
                    self.steps.append((ops[n.op_type], arguments, attrs, list(n.output)))
            for name, array in given.items():
                if array.dtype.kind == "f":
                    self.names[name] = f"w{len(self.names)}"
                    self.register_buffer(self.names[name], torch.from_numpy(np.array(array)))
            # sizes are read on the host: as lists
            sizes = {name: array.tolist() for name, array in given.items() if array.dtype.kind != "f"}
            for _, arguments, _, _ in self.steps:
                arguments[:] = [sizes.get(a, a) for a in arguments]

        def forward(self, x: Any) -> Any:
            values = {self.input: x} | {name: getattr(self, own) for name, own in self.names.items()}
            for op, arguments, attrs, outputs in self.steps:
                made = op(*(values[a] if isinstance(a, str) else a for a in arguments), **attrs)
                made = made if isinstance(made, (tuple, list)) else (made,)
                values.update(zip(outputs, made, strict=True))
            return [values[name] for name in self.outputs]

    return Net()
