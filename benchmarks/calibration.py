"""What calibration costs: a model over samples with a histogram of every tensor that may carry codes, and without.

    python -m benchmarks.calibration                                       # ResNet-50, 500 samples, one thread
    python -m benchmarks.calibration --models resnet50,mobilenetv2,bert_base --samples 200 --threads 2

Both read the same samples from the same place. Seconds are those of the loop over all samples; building the two engines
is told apart. memory: what the process holds after a tenth of the samples and after all, in MB, file pages aside.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto

from benchmarks import models
from benchmarks.contest import Row, record
from benchmarks.transformer_bert import BERT_BASE, bert
from temper.builder import build_plan
from temper.config import BuildConfig
from temper.precision.calibration import calibrate
from temper.precision.data import Samples, samples_of
from temper.precision.subject import Subject
from temper.runtime.engine import Engine

MODELS: dict[str, Callable[[], ModelProto]] = {
    "resnet50": models.resnet50,
    "mobilenetv2": models.mobilenetv2,
    "efficientnet_b0": models.efficientnet_b0,
    "bert_base": lambda: bert(BERT_BASE),
}


def held_mb() -> float:
    """Memory of this process that no file backs."""
    text = Path("/proc/self/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("RssAnon")).split()[1]) / 1000


def samples(subject: Subject, count: int) -> Samples:
    """Seeded batches for a model's inputs, made one by one."""

    def batches() -> Iterator[dict[str, Any]]:
        rng = np.random.default_rng(0)
        for _ in range(count):
            yield {
                v.name: rng.standard_normal(v.type.shape, np.float32)
                if v.type.dtype == "float32"
                else rng.integers(0, 2, v.type.shape).astype(v.type.dtype)
                for v in subject.graph.inputs
            }

    return samples_of(batches, {v.name: v.type for v in subject.graph.inputs})


def measure(name: str, count: int, threads: int, cache: Path | None) -> Row:
    """One model: seconds of running and of calibrating, and what was observed."""
    config = BuildConfig(threads=threads, effort=2, cache=cache)
    model = MODELS[name]()
    subject = Subject.of(model, config)
    data = samples(subject, count)
    start = time.perf_counter()
    engine = Engine(build_plan(model, config).plan)
    build = time.perf_counter() - start
    engine.run(data[0])
    start = time.perf_counter()
    for batch in data:
        engine.run(batch)
    run = time.perf_counter() - start

    memory: dict[int, float] = {}
    marks: dict[int, float] = {}

    def progress(stage: str, done: int, total: int) -> None:
        if stage == "calibrate":
            marks[done] = time.perf_counter()
            if done in (count // 10, count):
                memory[done] = held_mb()

    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as work:
        found = calibrate(subject.graph, data, subject.tensors, config, progress, work=Path(work))
    spent = marks[count] - marks[0]
    return {
        "model": name,
        "threads": threads,
        "samples": count,
        "tensors": len(found.tensors),
        "values": sum(h.total for h in found.histograms.values()) // count,
        "run_seconds": run,
        "calibrate_seconds": spent,
        "ratio": spent / run,
        "build_seconds": build,
        "build_instrumented_seconds": marks[0] - start,
        "memory_mb": list(memory.values()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="resnet50", help=f"of {', '.join(MODELS)}")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--cache", type=Path, default=None, help="timing cache file")
    parser.add_argument("--json", type=Path, default=None, help="write the results here")
    args = parser.parse_args()
    rows = []
    for name in args.models.split(","):
        row = measure(name, args.samples, args.threads, args.cache)
        rows.append(row)
        first, last = row["memory_mb"]
        print(
            f"{name:16s} {args.samples} samples  {row['tensors']} tensors, {row['values'] / 1e6:.1f} M values each  "
            f"run {row['run_seconds']:.2f} s  calibrate {row['calibrate_seconds']:.2f} s  {row['ratio']:.2f}x  "
            f"memory {first:.0f} -> {last:.0f} MB  built in {row['build_seconds']:.1f} s, with histograms "
            f"{row['build_instrumented_seconds']:.1f} s",
            flush=True,
        )
    if args.json is not None:
        record(args.json, rows)


if __name__ == "__main__":
    main()
