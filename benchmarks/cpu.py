"""FP32 latency on a CPU: Temper against ONNX Runtime and OpenVINO, taking turns within one run.

    python -m benchmarks.cpu                                 # the four generated models, 1 and 2 threads
    python -m benchmarks.cpu --threads 1 --models resnet50,bert_base_s128
    python -m benchmarks.cpu my.onnx other.onnx              # given files instead
    python -m benchmarks.cpu --folder FOLDER --build         # build now, on any machine load; time later with --folder

Every thread count runs in a fresh process pinned to as many cores. Prints a table of medians (ms) and of Temper's speed
against the better peer; writes JSON with machine, date and versions to --json, where rows of other models stay.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from benchmarks.contest import Row, contest, drive, everyone, kept, options
from temper.peers import pin, random_inputs


def built(model: Path, threads: int, effort: int, folder: Path) -> tuple[Path, float]:
    """The model's plan in a folder, and how many seconds making it took."""
    import temper

    plan = folder / f"{model.stem}.{threads}.plan"
    return kept(plan, effort, lambda: temper.build(model, threads=threads, effort=effort))


def measure(model: Path, threads: int, seconds: float, effort: int, folder: Path) -> Row:
    """One model at one thread count, in this process: medians by engine, Temper's build and load seconds, largest
    difference of outputs. folder: where the plan is kept.
    """
    pin(threads)
    import temper
    from temper.runtime.machine import cpu_name

    feeds = random_inputs(model)
    plan, build_seconds = built(model, threads, effort, folder)
    start = time.perf_counter()
    engine = temper.load(plan)
    loaded = time.perf_counter() - start
    ours = dict(zip((s.name for s in engine.inputs), feeds.values(), strict=True))
    found = contest(lambda: engine.run(ours), feeds, everyone(model), threads, seconds)
    memory = engine.report["memory"][0]
    return {
        "model": model.stem,
        "threads": threads,
        "ms": found.ms,
        "p10": found.p10,
        "others": found.others,
        "build_seconds": build_seconds,
        "load_seconds": loaded,
        "plan_bytes": plan.stat().st_size,
        "arena_bytes": memory["arena"],
        "arena_over_bound": memory["arena"] / max(1, memory["lower_bound"]),
        "versions": found.versions,
        "missing": found.missing,
        "relative_difference": found.apart,
        "cpu": cpu_name(),
    }


def _build(args: argparse.Namespace, model: Path, threads: int) -> tuple[float, list[str]]:
    pin(threads)
    return built(model, threads, args.effort, args.folder)[1], []


def _measure(args: argparse.Namespace, model: Path, threads: int) -> Row:
    return measure(model, threads, args.seconds, args.effort, args.folder)


def main() -> None:
    drive("benchmarks.cpu", options(__doc__, "resnet50,mobilenetv2,efficientnet_b0,yolo", 12.0), _build, _measure)


if __name__ == "__main__":
    main()
