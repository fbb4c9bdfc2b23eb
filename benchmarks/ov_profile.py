"""Where OpenVINO spends its time in a model: per primitive type and per convolution.

``python benchmarks/ov_profile.py MODEL.onnx [--threads 1]`` runs the model with performance counters on and prints
medians over many runs.  Counters add a little overhead per node, so the sum exceeds the plain latency slightly.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

if not __package__:  # Run as a script, only this folder is on the path.
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.costs import LayerCost, layer_costs
from temper.peers import OpenVino, pin, random_inputs


@dataclass(frozen=True)
class Step:
    """One executed primitive: its median time in microseconds, and the costed ONNX layer in it, if any."""

    name: str
    node_type: str
    exec_type: str
    micros: float
    fused: list[str]
    layer: LayerCost | None


def profile(model_path: Path, threads: int, seconds: float) -> tuple[list[Step], float]:
    """The executed steps in order, and the median latency of the whole inference in milliseconds."""
    compiled = OpenVino().compile(model_path, threads, PERF_COUNT=True)
    request = compiled.create_infer_request()
    inputs = random_inputs(model_path)
    for _ in range(3):
        request.infer(inputs)
    samples: dict[str, list[float]] = defaultdict(list)
    kinds: dict[str, tuple[str, str]] = {}
    latencies = []
    deadline = time.perf_counter() + seconds
    while time.perf_counter() < deadline:
        start = time.perf_counter()
        request.infer(inputs)
        latencies.append(time.perf_counter() - start)
        for info in request.get_profiling_info():
            if "NOT_RUN" not in str(info.status):
                samples[info.node_name].append(1e6 * info.real_time.total_seconds())
                kinds[info.node_name] = (info.node_type, info.exec_type)
    layers = {key: layer for layer in layer_costs(onnx.load(model_path)) for key in (layer.name, layer.output)}
    origins = {op.get_friendly_name(): _origins(op) for op in compiled.get_runtime_model().get_ordered_ops()}
    steps = []
    for name, values in samples.items():
        names = origins.get(name) or [name]
        stems = (stem for part in (name, *names) for stem in _stems(part))
        layer = next((layers[stem] for stem in stems if stem in layers), None)
        node_type, exec_type = kinds[name]
        steps.append(Step(name, node_type, exec_type, float(np.median(values)), names, layer))
    return steps, 1e3 * float(np.median(latencies))


def _origins(op: Any) -> list[str]:
    info = op.get_rt_info()
    if "originalLayersNames" not in info:
        return []
    return [name for name in info["originalLayersNames"].astype(str).split(",") if name]


def _stems(name: str) -> Iterator[str]:
    """A runtime node's name and its leading parts: the importer appends suffixes such as ``/WithoutBiases``."""
    yield name
    while "/" in name.lstrip("/"):
        name = name.rsplit("/", 1)[0]
        yield name


def report(steps: list[Step], latency: float) -> Iterator[str]:
    """The breakdown as lines of text; GFLOP/s counts a multiply-accumulate as two operations."""
    total = sum(step.micros for step in steps)
    yield f"latency with counters {latency:.3f} ms, sum of steps {total / 1e3:.3f} ms, {len(steps)} steps"
    groups: dict[tuple[str, str], list[Step]] = defaultdict(list)
    for step in steps:
        kind = "Convolution (depthwise)" if step.layer and "depthwise" in step.layer.geometry else step.node_type
        groups[kind, step.exec_type].append(step)
    yield ""
    yield f"{'node type':<26}{'exec type':<32}{'count':>6}{'ms':>9}{'%':>7}{'GMAC':>8}{'GFLOP/s':>9}"
    for (node_type, exec_type), members in sorted(groups.items(), key=lambda item: -_micros(item[1])):
        macs, micros = sum(step.layer.macs for step in members if step.layer), _micros(members)
        rate = f"{macs / 1e9:>8.3f}{2e-3 * macs / micros:>9.1f}" if macs and micros else ""
        percent = 100 * micros / total
        yield f"{node_type:<26}{exec_type:<32}{len(members):>6}{micros / 1e3:>9.3f}{percent:>7.1f}{rate}"
    yield ""
    yield f"{'us':>8}{'GFLOP/s':>9}  {'exec type':<28}{'step':<46}geometry  [fused]"
    for step in steps:
        rate = f"{2e-3 * step.layer.macs / step.micros:>9.1f}" if step.layer and step.micros else " " * 9
        geometry = step.layer.geometry if step.layer else step.node_type
        fused = f"  [{len(step.fused)}: {', '.join(step.fused)}]" if len(step.fused) > 1 else ""
        yield f"{step.micros:>8.0f}{rate}  {step.exec_type:<28}{step.name:<46}{geometry}{fused}"


def _micros(steps: list[Step]) -> float:
    return sum(step.micros for step in steps)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=10.0)
    options = parser.parse_args()
    pin(options.threads)
    print(f"{options.model.stem}, OpenVINO {OpenVino().version}, {options.threads} thread(s)")
    print("\n".join(report(*profile(options.model, options.threads, options.seconds))))


if __name__ == "__main__":
    main()
