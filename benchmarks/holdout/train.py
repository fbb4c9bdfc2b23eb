"""Trains the cases' networks and writes them as ONNX. Needs torch.

    python -m benchmarks.holdout.train --folder FOLDER --seeds 0:3 [--only letters-vit-0,...] [--scale 0.5]
    python -m benchmarks.holdout.train --folder FOLDER --seeds 0:3 --device cuda --together 8
    python -m benchmarks.holdout.train --folder FOLDER --export        # weights that are there, as ONNX

Weights are kept as FOLDER/NAME.npz, models as FOLDER/NAME.onnx. A case that is there is left alone. --together N trains
as many at a time on a GPU. Seeds fix data and initial weights; the order in which a device adds numbers up may still
differ between machines.
"""

# torch is needed for training only, so a checker may run where it is not installed.
# mypy: disable-error-code="import-not-found,no-any-return,misc,unused-ignore"

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.holdout import nets
from benchmarks.holdout.cases import Case, cases
from benchmarks.holdout.sources import Sources, sources
from benchmarks.holdout.tasks import TASKS, Samples, Task

OPSET = 17
BATCH = 64

#: Different training samples of pictures, and of sequences; each is seen many times.
_PICTURES, _SEQUENCES = 8_000, 30_000

#: Octaves by which channels of hard cases are scaled.
_SPREAD = 1.5


def network(case: Case) -> nets.Net:
    """Untrained."""
    t = TASKS[case.task]
    kind, w, d = case.kind, case.width, case.depth
    if case.task == "lines":
        return nets.Lines(kind, t.shape, t.outputs, w)
    if kind in ("unet", "separable", "transposed"):
        return nets.Unet(kind, t.shape, t.outputs, w)
    if kind == "denoiser":
        return nets.Denoiser(t.shape, w, d)
    if kind in ("vit", "encoder", "gpt", "columns"):
        return nets.Transformer(kind, t.shape, t.tokens, t.outputs, w, d)
    if kind == "mixer":
        return nets.Mixer(t.shape, t.outputs, w, d)
    if kind in ("lstm", "gru"):
        return nets.Recurrent(kind, t.shape, t.tokens, t.outputs, w)
    if kind == "temporal":
        return nets.Temporal(t.shape, t.tokens, t.outputs, w, d)
    if kind == "mlp":
        return nets.Dense1(t.shape, t.outputs, w, d)
    if kind == "dscnn":
        return nets.Dscnn(t.shape, t.outputs, w, d)
    return nets.Pictures(kind, t.shape, t.outputs, w, d)


def loss_of(task: Task, outputs: Tensor, y: Tensor) -> Tensor:
    if task.kind in ("values", "image"):
        return nn.functional.mse_loss(outputs, y)
    if task.kind in ("steps", "sequence"):
        outputs = outputs.transpose(1, 2)
    return nn.functional.cross_entropy(outputs, y, ignore_index=-1)


def data_of(about: tuple[str, int, int, Path]) -> Samples:
    """Training samples of a task: its name, the seed, how many, and the file of the sources."""
    name, seed, count, path = about
    return TASKS[name].make(sources(path), "train", count, np.random.default_rng([7, seed]))


class Training:
    """One network on its way. On a GPU a step is a CUDA graph on a stream of its own, so that several small networks
    share the device."""

    def __init__(self, case: Case, samples: Samples, device: str, scale: float) -> None:
        """scale: of the number of steps."""
        torch.manual_seed(1000 + case.seed)
        self.case, self.task = case, TASKS[case.task]
        self.x, self.y = (torch.from_numpy(a).to(device) for a in samples)
        self.net = network(case).to(device).train()
        self.left = steps = max(10, int(case.steps * scale))
        # without normalisation, or with attention, larger steps do not converge
        top = 1e-3 if case.kind == "vgg" else 1.5e-3 if isinstance(self.net, nets.Transformer) else 3e-3
        at = torch.arange(steps + 1) / steps
        self.rates = (top * torch.minimum(at / 0.15 + 0.02, 0.5 + 0.5 * torch.cos(math.pi * at))).to(device)
        self.order = torch.randint(0, len(self.x), (steps + 1, BATCH)).to(device)
        self.at = torch.zeros(1, dtype=torch.int64, device=device)
        self.rate = torch.zeros((), device=device)
        on_gpu = device != "cpu"
        self.optimizer = torch.optim.AdamW(self.net.parameters(), self.rate, weight_decay=0.02, capturable=on_gpu)
        self.graph: torch.cuda.CUDAGraph | None = None
        if on_gpu:
            self.stream = torch.cuda.Stream()
            self.stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self.stream):
                for _ in range(3):
                    self.step()
                self.optimizer.zero_grad(set_to_none=True)
                torch.cuda.synchronize()
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, stream=self.stream):
                    self._step()
                self.graph = graph

    def step(self) -> None:
        self.left -= 1
        if self.graph is None:
            self._step()
        else:
            with torch.cuda.stream(self.stream):
                self.graph.replay()

    def _step(self) -> None:
        self.rate.copy_(self.rates[self.at][0])
        chosen = self.order[self.at][0]
        loss = loss_of(self.task, self.net(self.x[chosen]), self.y[chosen])
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()
        self.at += 1

    def done(self) -> nets.Net:
        """The trained network, on the CPU in eval mode; weights are rounded to float16, which makes files small."""
        if self.graph is not None:
            torch.cuda.synchronize()
            self.graph = None
        net = self.net.eval().cpu()
        with torch.no_grad():
            for w in net.parameters():
                if w.dim() > 1:
                    w.copy_(w.half())
        return net


def score(case: Case, net: nn.Module, src: Sources, count: int = 1000) -> float:
    """On calibration samples, to see that it learned something; scored samples are none of its business."""
    x, y = TASKS[case.task].make(src, "calibration", count, np.random.default_rng(99))
    with torch.no_grad():
        return float(TASKS[case.task].score(y, net(torch.from_numpy(x)).numpy()).mean())


def export(case: Case, net: nn.Module, path: Path) -> None:
    task = TASKS[case.task]
    x = torch.zeros(1, *task.shape, dtype=torch.int64 if task.tokens else torch.float32)
    torch.onnx.export(net, (x,), str(path), input_names=["x"], output_names=["y"], opset_version=OPSET, dynamo=False)


def _export(case: Case, folder: Path, src: Sources) -> None:
    net = network(case).eval()
    with np.load(folder / f"{case.trained}.npz") as found:
        state = {key: torch.from_numpy(np.asarray(found[key])) for key in found.files}
    net.load_state_dict({key: a.float() if a.is_floating_point() else a for key, a in state.items()})
    before = score(case, net, src)
    if case.hard:
        nets.uneven(net, torch.Generator().manual_seed(case.seed), _SPREAD)
    model = folder / f"{case.name}.onnx"
    export(case, net, model)
    print(f"{case.name:26s} {before:.4f} {score(case, net, src):.4f}  {model.stat().st_size / 1e3:.0f} kB", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seeds", default="0:3", help="from:to, the last left out")
    parser.add_argument("--only", default="", help="names of cases, or beginnings of them, with commas")
    parser.add_argument("--scale", type=float, default=1.0, help="of the number of steps")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--together", type=int, default=1, help="networks in training at a time, on a GPU")
    parser.add_argument("--seconds", type=float, default=1e9, help="begin no case after so long")
    parser.add_argument("--export", action="store_true")
    args = parser.parse_args()
    every = cases(range(*map(int, args.seeds.split(":"))), hard=args.export)
    every = [c for c in every if any(c.name.startswith(o) for o in args.only.split(","))]
    path = args.folder / "sources.npz"
    src = sources(path)
    if args.export:
        for case in every:
            if (args.folder / f"{case.trained}.npz").exists() and not (args.folder / f"{case.name}.onnx").exists():
                _export(case, args.folder, src)
        return
    todo = [c for c in every if not (args.folder / f"{c.name}.npz").exists()]
    torch.set_float32_matmul_precision("high")
    with ProcessPoolExecutor(12 if args.device != "cpu" else 1) as pool:
        made = {}
        for c in todo:
            if (c.task, c.seed) not in made:
                count = max(2 * BATCH, int(_count(c) * min(1.0, 3 * args.scale)))
                made[c.task, c.seed] = pool.submit(data_of, (c.task, c.seed, count, path))
        _train(args, todo, lambda c: made[c.task, c.seed].result(), src)


def _count(case: Case) -> int:
    return _SEQUENCES if TASKS[case.task].tokens or case.task == "series" else _PICTURES


def _train(
    args: argparse.Namespace, todo: list[Case], samples: Callable[[Case], Samples], src: Sources
) -> None:
    start = time.monotonic()
    active: list[Training] = []
    while active or todo:
        while todo and len(active) < args.together and time.monotonic() - start < args.seconds:
            case = todo.pop(0)
            active.append(Training(case, samples(case), args.device, args.scale))
        if not active:
            break
        for _ in range(50):
            for t in active:
                if t.left > 0:
                    t.step()
        if args.device != "cpu":
            torch.cuda.synchronize()
        for t in [t for t in active if t.left <= 0]:
            active.remove(t)
            net = t.done()
            weights = args.folder / f"{t.case.name}.npz"
            state = {key: v.numpy() for key, v in net.state_dict().items()}
            np.savez_compressed(weights, **{key: a.astype(np.float16) if a.ndim > 1 else a for key, a in state.items()})
            took, size = time.monotonic() - start, weights.stat().st_size / 1e3
            print(f"{t.case.name:24s} {score(t.case, net, src):.4f}  {took:.1f} s  {size:.0f} kB", flush=True)


if __name__ == "__main__":
    main()
