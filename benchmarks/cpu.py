"""FP32 latency on a CPU: Temper against ONNX Runtime and OpenVINO, taking turns within one run.

    python -m benchmarks.cpu                                 # the four generated models, 1 and 2 threads
    python -m benchmarks.cpu --threads 1 --models resnet50,bert_base_s128
    python -m benchmarks.cpu my.onnx other.onnx              # given files instead
    python -m benchmarks.cpu --plans FOLDER --build          # build now, on any machine load; time later with --plans

Every thread count runs in a fresh process pinned to as many cores. Prints a table of medians (ms) and of Temper's speed
against the better peer; writes JSON with machine, date and versions to --json, where rows of other models stay.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.contest import contest, everyone, fresh, generated, line, record, table
from temper.peers import pin, random_inputs


def built(model: Path, threads: int, effort: int, folder: Path) -> tuple[Path, float]:
    """The model's plan in a folder, made if it is not there, and how many seconds making it took."""
    import temper

    plan = folder / f"{model.stem}.{threads}.plan"
    note = plan.with_suffix(".json")
    if not note.exists():
        start = time.perf_counter()
        engine = temper.build(model, threads=threads, effort=effort)
        seconds = time.perf_counter() - start
        temper.save(engine, plan)
        note.write_text(json.dumps({"build_seconds": seconds, "effort": effort}))
    return plan, float(json.loads(note.read_text())["build_seconds"])


def measure(model: Path, threads: int, seconds: float, effort: int, folder: Path) -> dict[str, Any]:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="ONNX files; none: the generated models")
    parser.add_argument("--models", default="resnet50,mobilenetv2,efficientnet_b0,yolo", help="which generated models")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--seconds", type=float, default=12.0, help="time per model and thread count")
    parser.add_argument("--effort", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write results here")
    parser.add_argument("--plans", type=Path, help="keep plans in this folder, and use those that are there")
    parser.add_argument("--build", action="store_true", help="with --plans: build only")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.build and not args.plans:
        parser.error("--build needs --plans")
    if args.one:
        if args.build:
            pin(int(args.threads))
            print(json.dumps(built(args.files[0], int(args.threads), args.effort, args.plans)[1]))
        else:
            print(json.dumps(measure(args.files[0], int(args.threads), args.seconds, args.effort, args.plans)))
        return
    with tempfile.TemporaryDirectory() as folder:
        plans = args.plans or Path(folder)
        plans.mkdir(parents=True, exist_ok=True)
        files = args.files or [generated(name, Path(folder)) for name in args.models.split(",")]
        rows = []
        for threads in map(int, args.threads.split(",")):
            for file in files:
                options = ["--one", "--threads", threads, "--plans", plans, "--seconds", args.seconds]
                options += ["--effort", args.effort, *(["--build"] if args.build else []), file]
                found = fresh("benchmarks.cpu", *options)
                if args.build:
                    print(f"{file.stem:24s} {threads} threads  built in {found:.1f} s", flush=True)
                    continue
                rows.append(found)
                more = f"(build {found['build_seconds']:.1f} s, neighbours {found['others']:.2f} cores)"
                print(line(found["model"], threads, found["ms"], more), flush=True)
    if rows:
        print("\n" + table(rows))
        if args.json:
            record(args.json, rows)


if __name__ == "__main__":
    main()
