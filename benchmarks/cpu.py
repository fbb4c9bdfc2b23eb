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
import math
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from temper.peers import PEERS, MissingPeer, interleaved, pin, random_inputs


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
    size = plan.stat().st_size
    ours = dict(zip((s.name for s in engine.inputs), feeds.values(), strict=True))
    runs: dict[str, Callable[[], object]] = {"temper": lambda: engine.run(ours)}
    versions, missing, difference = {"temper": temper.__version__}, [], None
    for peer in PEERS:
        try:
            run = peer.prepare(model, threads)
            versions[peer.name] = peer.version
        except MissingPeer as e:
            missing.append(str(e))
            continue
        if difference is None:
            want = [np.array(y) for y in run(feeds)]
            scale = max(float(np.abs(y).max()) for y in want)
            difference = max(float(np.abs(a - b).max()) for a, b in zip(engine.run(ours), want, strict=True)) / max(
                scale, 1e-30
            )
        runs[peer.name] = lambda run=run: run(feeds)  # type: ignore[misc]
    timings = interleaved(runs, seconds)
    memory = engine.report["memory"][0]
    return {
        "model": model.stem,
        "threads": threads,
        "ms": {k: t.median for k, t in timings.items()},
        "p10": {k: t.p10 for k, t in timings.items()},
        "others": max(t.others for t in timings.values()),
        "build_seconds": build_seconds,
        "load_seconds": loaded,
        "plan_bytes": size,
        "arena_bytes": memory["arena"],
        "arena_over_bound": memory["arena"] / max(1, memory["lower_bound"]),
        "versions": versions,
        "missing": missing,
        "relative_difference": difference,
        "cpu": cpu_name(),
    }


def ratio(row: dict[str, Any]) -> float:
    """Temper's speed against the better peer; NaN without peers."""
    peers = [ms for name, ms in row["ms"].items() if name != "temper"]
    return min(peers) / row["ms"]["temper"] if peers else math.nan


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: a row a model and thread count."""
    names = list(dict.fromkeys(n for r in rows for n in r["ms"]))
    lines = [
        "| model | threads | " + " | ".join(f"{n} ms" for n in names) + " | against the better peer |",
        "|---" * (len(names) + 3) + "|",
    ]
    for r in rows:
        lines.append(
            f"| {r['model']} | {r['threads']} | "
            + " | ".join(f"{r['ms'][n]:.2f}" if n in r["ms"] else "-" for n in names)
            + f" | {ratio(r):.2f}x |"
        )
    for threads in sorted({r["threads"] for r in rows}):
        ratios = [ratio(r) for r in rows if r["threads"] == threads]
        lines.append(
            f"| geometric mean | {threads} | "
            + " | ".join("" for _ in names)
            + f" | {math.exp(sum(map(math.log, ratios)) / len(ratios)):.2f}x |"
        )
    return "\n".join(lines)


def write(name: str, folder: Path) -> Path:
    """The file of a generated model: one of the networks in models.py or transformers.py."""
    from benchmarks import models, transformers

    if name in models.MODELS:
        return models.save(name, folder)
    if name in transformers.TRANSFORMERS:
        return transformers.save(name, folder)
    sys.exit(f"there is no model '{name}'; choose from {', '.join((*models.MODELS, *transformers.TRANSFORMERS))}")


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
        files = args.files or [write(name, Path(folder)) for name in args.models.split(",")]
        rows = []
        for threads in args.threads.split(","):
            for file in files:
                command = [sys.executable, "-m", "benchmarks.cpu", "--one", "--threads", threads, "--plans", str(plans)]
                command += ["--seconds", str(args.seconds), "--effort", str(args.effort), str(file)]
                command += ["--build"] if args.build else []
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                if done.returncode:
                    sys.exit(f"{file.name} with {threads} threads failed:\n{done.stderr[-3000:]}")
                found = json.loads(done.stdout.splitlines()[-1])
                if args.build:
                    print(f"{file.stem:24s} {threads} threads  built in {found:.1f} s", flush=True)
                    continue
                rows.append(found)
                print(line(found), flush=True)
    if not rows:
        return
    print("\n" + table(rows))
    if args.json:
        new = {(r["model"], r["threads"]) for r in rows}
        old = json.loads(args.json.read_text())["rows"] if args.json.exists() else []
        rows = [*(r for r in old if (r["model"], r["threads"]) not in new), *rows]
        result = {
            "date": date.today().isoformat(),
            "cpu": rows[-1]["cpu"],
            "system": platform.platform(),
            "python": platform.python_version(),
            "rows": sorted(rows, key=lambda r: (r["threads"], r["model"])),
        }
        args.json.write_text(json.dumps(result, indent=1) + "\n")


def line(r: dict[str, Any]) -> str:
    """A row as one line of text."""
    return (
        f"{r['model']:24s} {r['threads']} threads  "
        + "  ".join(f"{k} {v:.2f} ms" for k, v in r["ms"].items())
        + f"  {ratio(r):.2f}x  (build {r['build_seconds']:.1f} s, neighbours {r['others']:.2f} cores)"
    )


if __name__ == "__main__":
    main()
