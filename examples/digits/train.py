"""Trains the digits classifier and writes it as ONNX: ``python -m examples.digits.train``.

Needs torch (developed with 2.13, CPU); a few minutes on two cores. The same seed, thread count and torch build
give the same weights. Only training digits are trained on, and only validation images are looked at on the way.
"""

# torch is needed for training only, so a checker may run where it is not installed.
# mypy: disable-error-code="import-not-found"

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from examples.digits import data
from examples.digits.network import DigitNet
from examples.digits.score import accuracy

MODEL_PATH = Path(__file__).with_name("digits.onnx")
OPSET = 17
SEED = 7
BATCH = 64
EPOCHS = 150
PEAK_RATE = 4e-3
WEIGHT_DECAY = 2e-2
# Wider than data.IN_USE in every respect: 1100 digits are few, and the network should not live on its edges.
AUGMENTATION = data.Perturbation(shift=3.5, rotation=18.0, scale=0.15, contrast=0.3, noise=0.55, exposure=11.5)


def train(epochs: int, seed: int) -> nn.Module:
    """Return the trained network in eval mode. The last weights are kept; no epoch is picked by its score."""
    torch.manual_seed(seed)
    torch.use_deterministic_algorithms(True)
    rng = np.random.default_rng(seed)
    clean, labels = data.train_images()
    network = DigitNet()
    steps = len(clean) // BATCH
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, PEAK_RATE, total_steps=epochs * steps, pct_start=0.15)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    started = time.monotonic()
    for epoch in range(1, epochs + 1):
        network.train()
        order = rng.permutation(len(clean))
        images = torch.from_numpy(data.perturb(clean[order], AUGMENTATION, rng))
        targets = torch.from_numpy(labels[order])
        total = 0.0
        # The incomplete last batch is dropped: BatchNorm statistics of a few images are too noisy.
        for start in range(0, steps * BATCH, BATCH):
            loss = loss_of(network(images[start : start + BATCH]), targets[start : start + BATCH])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        if epoch % 10 == 0 or epoch == epochs:
            score, seconds = validate(network), time.monotonic() - started
            print(f"epoch {epoch:3d}  loss {total / steps:.4f}  val {score:.4f}  {seconds:5.0f} s", flush=True)
    return network.eval()


def validate(network: nn.Module) -> float:
    """Share of validation images classified correctly, 0 to 1."""
    images, labels = data.validation_images()
    network.eval()
    with torch.inference_mode():
        return accuracy(lambda part: network(torch.from_numpy(part)).numpy(), images, labels, batch=256)


def export(network: nn.Module, path: Path) -> None:
    """Write one self-contained ONNX file: input "image" [N, 1, 32, 32], output "logits" [N, 10], N dynamic."""
    # The TorchScript-based exporter is chosen because its graphs, with BatchNorm already folded into the
    # convolutions, are what most exported models in circulation look like. Two images, because a batch of one
    # tempts tracing to treat the batch as a constant.
    torch.onnx.export(
        network,
        (torch.zeros(2, 1, data.SIDE, data.SIDE),),
        path,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
        opset_version=OPSET,
        dynamo=False,
    )


def main() -> None:
    """Train, report the parameter count and write the ONNX file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=MODEL_PATH)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    network = train(args.epochs, args.seed)
    export(network, args.out)
    parameters = sum(p.numel() for p in network.parameters())
    print(f"{parameters} parameters, {args.out.stat().st_size / 1e6:.2f} MB written to {args.out}")


if __name__ == "__main__":
    main()
