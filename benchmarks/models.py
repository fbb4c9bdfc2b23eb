"""Benchmark networks as ONNX models: published architectures, random weights, fixed seeds.

``python benchmarks/models.py OUTDIR`` writes every model and prints parameter and multiply-accumulate counts next
to the published ones.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto

if not __package__:  # Run as a script, only this folder is on the path.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.costs import ModelCost, model_cost
from benchmarks.netbuilder import Batch, NetBuilder, Tensor


def resnet50(batch: Batch = 1, fold_bn: bool = True, seed: int = 50) -> ModelProto:
    """ResNet-50 v1.5 at 224x224: the stride of a downsampling block is in its 3x3 convolution."""
    net = NetBuilder("resnet50", 224, batch, fold_bn, seed)
    x = net.conv("conv1", net.input, 64, kernel=7, stride=2, bn="bn1")
    x = net.maxpool("maxpool", net.relu("relu", x), kernel=3, stride=2)
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3)), start=1):
        for block in range(blocks):
            scope = f"layer{stage}.{block}"
            stride = 2 if block == 0 and stage > 1 else 1
            y = net.relu(f"{scope}.relu", net.conv(f"{scope}.conv1", x, width, bn=f"{scope}.bn1"))
            y = net.conv(f"{scope}.conv2", y, width, kernel=3, stride=stride, bn=f"{scope}.bn2")
            y = net.relu(f"{scope}.relu_1", y)
            y = net.conv(f"{scope}.conv3", y, 4 * width, bn=f"{scope}.bn3")
            if block == 0:
                x = net.conv(f"{scope}.downsample.0", x, 4 * width, stride=stride, bn=f"{scope}.downsample.1")
            x = net.relu(f"{scope}.relu_2", net.add(scope, y, x))
    x = net.flatten("flatten", net.global_average_pool("avgpool", x))
    return net.finish(net.linear("fc", x, 1000))


def mobilenetv2(batch: Batch = 1, fold_bn: bool = True, seed: int = 2) -> ModelProto:
    """MobileNetV2 1.0 at 224x224, with ReLU6 written as Clip(0, 6)."""
    net = NetBuilder("mobilenetv2", 224, batch, fold_bn, seed)

    def conv_bn_relu6(scope: str, x: Tensor, channels: int, kernel: int, stride: int = 1, groups: int = 1) -> Tensor:
        x = net.conv(f"{scope}.0", x, channels, kernel, stride, groups, bn=f"{scope}.1")
        return net.relu6(f"{scope}.2", x)

    x = conv_bn_relu6("features.0", net.input, 32, kernel=3, stride=2)
    index = 1
    stages = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1))
    for expansion, channels, repeats, first_stride in stages:
        for repeat in range(repeats):
            scope = f"features.{index}.conv"
            stride = first_stride if repeat == 0 else 1
            hidden = x.channels * expansion
            y = x if expansion == 1 else conv_bn_relu6(f"{scope}.0", x, hidden, kernel=1)
            position = 0 if expansion == 1 else 1
            y = conv_bn_relu6(f"{scope}.{position}", y, hidden, kernel=3, stride=stride, groups=hidden)
            y = net.conv(f"{scope}.{position + 1}", y, channels, bn=f"{scope}.{position + 2}")
            residual = stride == 1 and x.channels == channels
            x = net.add(f"features.{index}", x, y) if residual else y
            index += 1
    x = conv_bn_relu6("features.18", x, 1280, kernel=1)
    x = net.flatten("flatten", net.global_average_pool("avgpool", x))
    return net.finish(net.linear("classifier.1", x, 1000))


def efficientnet_b0(batch: Batch = 1, fold_bn: bool = True, seed: int = 0) -> ModelProto:
    """EfficientNet-B0 at 224x224 in torchvision's structure, with SiLU written as Sigmoid and Mul."""
    net = NetBuilder("efficientnet_b0", 224, batch, fold_bn, seed)

    def conv_bn_silu(scope: str, x: Tensor, channels: int, kernel: int, stride: int = 1, groups: int = 1) -> Tensor:
        x = net.conv(f"{scope}.0", x, channels, kernel, stride, groups, bn=f"{scope}.1")
        return net.silu(f"{scope}.2", x)

    def squeeze_excite(scope: str, x: Tensor, squeezed: int) -> Tensor:
        gate = net.global_average_pool(f"{scope}.avgpool", x)
        gate = net.silu(f"{scope}.activation", net.conv(f"{scope}.fc1", gate, squeezed))
        gate = net.conv(f"{scope}.fc2", gate, x.channels)
        return net.mul(scope, net.sigmoid(f"{scope}.scale_activation", gate), x)

    x = conv_bn_silu("features.0", net.input, 32, kernel=3, stride=2)
    # Expansion, kernel, first stride, channels, repeats.
    stages = (
        (1, 3, 1, 16, 1),
        (6, 3, 2, 24, 2),
        (6, 5, 2, 40, 2),
        (6, 3, 2, 80, 3),
        (6, 5, 1, 112, 3),
        (6, 5, 2, 192, 4),
        (6, 3, 1, 320, 1),
    )
    for stage, (expansion, kernel, first_stride, channels, repeats) in enumerate(stages, start=1):
        for repeat in range(repeats):
            scope = f"features.{stage}.{repeat}"
            stride = first_stride if repeat == 0 else 1
            hidden = x.channels * expansion
            y = x
            position = 0
            if expansion != 1:
                y = conv_bn_silu(f"{scope}.block.{position}", y, hidden, kernel=1)
                position += 1
            y = conv_bn_silu(f"{scope}.block.{position}", y, hidden, kernel, stride, groups=hidden)
            # The squeeze width follows the block's input, not its expanded width.
            y = squeeze_excite(f"{scope}.block.{position + 1}", y, max(1, x.channels // 4))
            last = f"{scope}.block.{position + 2}"
            y = net.conv(f"{last}.0", y, channels, bn=f"{last}.1")
            x = net.add(scope, y, x) if stride == 1 and x.channels == channels else y
    x = conv_bn_silu("features.8", x, 1280, kernel=1)
    x = net.flatten("flatten", net.global_average_pool("avgpool", x))
    return net.finish(net.linear("classifier.1", x, 1000))


YOLO_SIZE = 640
YOLO_CLASSES = 80
YOLO_BINS = 16


def yolo(batch: Batch = 1, fold_bn: bool = True, seed: int = 8) -> ModelProto:
    """A YOLOv8n detector at 640x640; the output is (batch, 4 + classes, 8400) with boxes as centre and size, pixels."""
    net = NetBuilder("yolo", YOLO_SIZE, batch, fold_bn, seed, bn_epsilon=1e-3)

    def conv(scope: str, x: Tensor, channels: int, kernel: int = 1, stride: int = 1) -> Tensor:
        x = net.conv(f"{scope}.conv", x, channels, kernel, stride, bn=f"{scope}.bn")
        return net.silu(f"{scope}.act", x)

    def c2f(index: int, x: Tensor, channels: int, repeats: int, shortcut: bool) -> Tensor:
        scope = f"model.{index}"
        half = channels // 2
        parts = net.split(scope, conv(f"{scope}.cv1", x, channels), [half, half])
        for repeat in range(repeats):
            inner = f"{scope}.m.{repeat}"
            y = conv(f"{inner}.cv2", conv(f"{inner}.cv1", parts[-1], half, 3), half, 3)
            parts.append(net.add(inner, parts[-1], y) if shortcut else y)
        return conv(f"{scope}.cv2", net.concat(scope, parts), channels)

    def sppf(index: int, x: Tensor, channels: int) -> Tensor:
        scope = f"model.{index}"
        parts = [conv(f"{scope}.cv1", x, x.channels // 2)]
        for repeat in range(3):
            parts.append(net.maxpool(f"{scope}.m.{repeat}", parts[-1], kernel=5, stride=1))
        return conv(f"{scope}.cv2", net.concat(scope, parts), channels)

    x = conv("model.0", net.input, 16, 3, 2)
    x = c2f(2, conv("model.1", x, 32, 3, 2), 32, 1, True)
    p3 = c2f(4, conv("model.3", x, 64, 3, 2), 64, 2, True)
    p4 = c2f(6, conv("model.5", p3, 128, 3, 2), 128, 2, True)
    x = c2f(8, conv("model.7", p4, 256, 3, 2), 256, 1, True)
    p5 = sppf(9, x, 256)
    n4 = c2f(12, net.concat("model.11", [net.upsample2x("model.10", p5), p4]), 128, 1, False)
    n3 = c2f(15, net.concat("model.14", [net.upsample2x("model.13", n4), p3]), 64, 1, False)
    n4 = c2f(18, net.concat("model.17", [conv("model.16", n3, 64, 3, 2), n4]), 128, 1, False)
    n5 = c2f(21, net.concat("model.20", [conv("model.19", n4, 128, 3, 2), p5]), 256, 1, False)

    head = "model.22"
    box_width = max(16, n3.channels // 4, 4 * YOLO_BINS)
    class_width = max(n3.channels, min(YOLO_CLASSES, 100))
    outputs = 4 * YOLO_BINS + YOLO_CLASSES
    levels = []
    for level, feature in enumerate((n3, n4, n5)):
        branches = []
        for branch, width, channels in (("cv2", box_width, 4 * YOLO_BINS), ("cv3", class_width, YOLO_CLASSES)):
            scope = f"{head}.{branch}.{level}"
            y = conv(f"{scope}.1", conv(f"{scope}.0", feature, width, 3), width, 3)
            branches.append(net.conv(f"{scope}.2", y, channels))
        y = net.concat(f"{head}.level{level}", branches)
        levels.append(net.reshape(f"{head}.level{level}", y, [outputs, -1]))
    joined = net.concat(f"{head}.levels", levels, axis=2)
    distances, scores = net.split(head, joined, [4 * YOLO_BINS, YOLO_CLASSES])
    boxes = _decode_boxes(net, head, distances)
    return net.finish(net.concat(f"{head}.result", [boxes, net.sigmoid(head, scores)]))


def _decode_boxes(net: NetBuilder, head: str, distances: Tensor) -> Tensor:
    """Distribution-focal-loss decoding: the expected edge distance per side, then boxes around the anchor points."""
    x = net.reshape(f"{head}.dfl.bins", distances, [4, YOLO_BINS, -1])
    x = net.softmax(f"{head}.dfl", net.transpose(f"{head}.dfl", x, [0, 2, 1, 3]), axis=1)
    bins = np.arange(YOLO_BINS, dtype=np.float32).reshape(1, YOLO_BINS, 1, 1)
    x = net.reshape(f"{head}.dfl.sides", net.fixed_conv1x1(f"{head}.dfl.conv", x, bins), [4, -1])
    anchors, strides = _anchor_points()
    centre = net.constant(f"{head}.anchors", anchors)
    left_top, right_bottom = net.split(f"{head}.sides", x, [2, 2])
    low = net.sub(f"{head}.low", centre, left_top)
    high = net.add(f"{head}.high", centre, right_bottom)
    middle = net.div(f"{head}.middle", net.add(f"{head}.sum", low, high), net.constant(f"{head}.two", 2.0))
    box = net.concat(f"{head}.box", [middle, net.sub(f"{head}.size", high, low)])
    return net.mul(f"{head}.scale", box, net.constant(f"{head}.strides", strides))


def _anchor_points() -> tuple[np.ndarray, np.ndarray]:
    """Cell centres (1, 2, 8400) as x and y in cells, and the stride (1, 8400) of each cell in pixels."""
    points, strides = [], []
    for stride in (8, 16, 32):
        side = YOLO_SIZE // stride
        y, x = np.meshgrid(np.arange(side) + 0.5, np.arange(side) + 0.5, indexing="ij")
        points.append(np.stack([x.ravel(), y.ravel()]))
        strides.append(np.full((1, side * side), stride))
    return np.concatenate(points, 1)[None].astype(np.float32), np.concatenate(strides, 1).astype(np.float32)


MODELS: dict[str, Callable[..., ModelProto]] = {
    "resnet50": resnet50,
    "mobilenetv2": mobilenetv2,
    "efficientnet_b0": efficientnet_b0,
    "yolo": yolo,
}


PUBLISHED = {
    "resnet50": ModelCost(25.56e6, 4.09e9),
    "mobilenetv2": ModelCost(3.50e6, 0.30e9),
    "efficientnet_b0": ModelCost(5.29e6, 0.39e9),
    "yolo": ModelCost(3.16e6, 4.37e9),
}


def save(name: str, folder: Path | str, batch: Batch = 1, fold_bn: bool = True) -> Path:
    """Build ``name``, check it, write it to ``folder``/``name``[_bn][_bN].onnx and return that path."""
    model = MODELS[name](batch=batch, fold_bn=fold_bn)
    onnx.checker.check_model(model, full_check=True)
    suffix = ("" if fold_bn else "_bn") + ("" if batch == 1 else f"_b{batch}")
    path = Path(folder) / f"{name}{suffix}.onnx"
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def output_summary(path: Path) -> str:
    """Run a saved model in ONNX Runtime on random input; the output's range, or why it was not run."""
    try:
        ort: Any = importlib.import_module("onnxruntime")
    except ImportError:
        return "not run (no onnxruntime)"
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (feed,) = session.get_inputs()
    shape = [side if isinstance(side, int) else 2 for side in feed.shape]
    image = np.random.default_rng(1).standard_normal(shape, np.float32)
    (output,) = session.run(None, {feed.name: image})
    if not np.isfinite(output).all():
        raise ValueError(f"{path.name}: output is not finite")
    return f"{output.shape} in [{output.min():.3g}, {output.max():.3g}], std {output.std():.3g}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("outdir", type=Path)
    parser.add_argument("--batch", default="1", help="batch size, or a name for a symbolic batch")
    parser.add_argument("--keep-bn", action="store_true", help="also write variants with BatchNormalization nodes")
    parser.add_argument("names", nargs="*", default=list(MODELS), help="models to write (all)")
    options = parser.parse_args()
    batch: Batch = int(options.batch) if options.batch.isdigit() else options.batch
    print(f"{'model':<22}{'params M':>9}{'(publ.)':>9}{'GMAC':>8}{'(publ.)':>9}  output on noise, ONNX Runtime")
    for name in options.names:
        for fold_bn in (True, False) if options.keep_bn else (True,):
            path = save(name, options.outdir, batch, fold_bn)
            cost, published = model_cost(onnx.load(path)), PUBLISHED[name]
            print(
                f"{path.stem:<22}{cost.parameters / 1e6:>9.2f}{published.parameters / 1e6:>9.2f}"
                f"{cost.macs / 1e9:>8.3f}{published.macs / 1e9:>9.2f}  {output_summary(path)}"
            )


if __name__ == "__main__":
    main()
