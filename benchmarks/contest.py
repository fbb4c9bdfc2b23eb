"""Temper and other engines taking turns within one run, and how the result is told: shared by benchmark programs."""

from __future__ import annotations

import argparse
import json
import math
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from temper.peers import PEERS, AnyArray, MissingPeer, Peer, Runner, interleaved
from temper.runtime.engine import Engine

Arrays = dict[str, AnyArray]
Row = dict[str, Any]


@dataclass(frozen=True)
class Entrant:
    """Another engine and the model file it runs."""

    peer: Peer
    path: Path


def everyone(path: Path, but: Sequence[str] = ()) -> list[Entrant]:
    """All peers on one file, except those named."""
    return [Entrant(peer, path) for peer in PEERS if peer.name not in but]


@dataclass(frozen=True)
class Contest:
    """ms, p10: median and 10th percentile by engine, Temper first.
    others: cores that other processes used meanwhile.
    apart: largest difference of an output from a peer's, relative to that output's largest value; None without peers.
    """

    ms: dict[str, float]
    p10: dict[str, float]
    others: float
    apart: float | None
    versions: dict[str, str]
    missing: list[str]


def contest(
    ours: Callable[[], Sequence[AnyArray]], feeds: Arrays, entrants: Sequence[Entrant], threads: int, seconds: float
) -> Contest:
    """Times everybody for about `seconds` each; a peer whose package is missing is left out and named."""
    import temper

    runs: dict[str, Callable[[], object]] = {"temper": ours}
    versions, missing, apart = {"temper": temper.__version__}, [], None
    for e in entrants:
        try:
            run: Runner = e.peer.prepare(e.path, threads)
            versions[e.peer.name] = e.peer.version
        except MissingPeer as error:
            missing.append(str(error))
            continue
        want = [np.array(y) for y in run(feeds)]
        apart = max(apart or 0.0, *(_apart(a, b) for a, b in zip(ours(), want, strict=True)))
        runs[e.peer.name] = lambda run=run: run(feeds)  # type: ignore[misc]
    timings = interleaved(runs, seconds)
    return Contest(
        {k: t.median for k, t in timings.items()},
        {k: t.p10 for k, t in timings.items()},
        max(t.others for t in timings.values()),
        apart,
        versions,
        missing,
    )


def _apart(got: AnyArray, want: AnyArray) -> float:
    if want.dtype.kind != "f":
        return 0.0
    return float(np.abs(got - want).max() / max(float(np.abs(want).max()), 1e-30))


def ratio(ms: dict[str, float]) -> float:
    """Temper's speed against the best of the others; NaN without others."""
    peers = [t for name, t in ms.items() if name != "temper"]
    return min(peers) / ms["temper"] if peers else math.nan


def line(name: str, threads: int, ms: dict[str, float], *more: str) -> str:
    """A result as one line of text."""
    times = "  ".join(f"{k} {t:.2f} ms" if t >= 1 else f"{k} {t:.3f} ms" for k, t in ms.items())
    return "  ".join([f"{name:24s} {threads} threads", times, f"{ratio(ms):.2f}x", *more])


def told(name: str, threads: int, found: Contest, engine: Engine) -> str:
    """A contest as one line: with the difference of results, the neighbours' load, and ops that no kernel computes."""
    hosted = sorted({r["op"] for r in engine.report["regions"] if r["tactic"] == "host"})
    apart = "no peer" if found.apart is None else f"apart {found.apart:.1e}"
    more = [f"on the host: {', '.join(hosted)}"] if hosted else []
    return line(name, threads, found.ms, apart, f"neighbours {found.others:.2f}", *more)


def table(rows: Sequence[Row]) -> str:
    """Markdown: a row a model and thread count, and geometric means. rows: with model, threads and ms."""
    names = list(dict.fromkeys(n for r in rows for n in r["ms"]))
    lines = [
        "| model | threads | " + " | ".join(f"{n} ms" for n in names) + " | against the better peer |",
        "|---" * (len(names) + 3) + "|",
    ]
    for r in rows:
        lines.append(
            f"| {r['model']} | {r['threads']} | "
            + " | ".join(f"{r['ms'][n]:.2f}" if n in r["ms"] else "-" for n in names)
            + f" | {ratio(r['ms']):.2f}x |"
        )
    for threads in sorted({r["threads"] for r in rows}):
        ratios = [ratio(r["ms"]) for r in rows if r["threads"] == threads]
        lines.append(
            f"| geometric mean | {threads} | "
            + " | ".join("" for _ in names)
            + f" | {math.exp(sum(map(math.log, ratios)) / len(ratios)):.2f}x |"
        )
    return "\n".join(lines)


def fresh(program: str, *arguments: object) -> Any:
    """What a program of this package prints last, read as JSON, run in a process of its own: engines size their pools
    by the cores they find when they start. Ends this program with the other's message if it fails."""
    command = [sys.executable, "-m", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(command[1:])} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def record(path: Path, rows: Sequence[Row]) -> None:
    """Writes rows (by model and threads) with machine, date and versions; rows of other models stay."""
    from temper.runtime.machine import cpu_name

    new = {(r["model"], r["threads"]) for r in rows}
    old = json.loads(path.read_text())["rows"] if path.exists() else []
    kept = [r for r in old if (r["model"], r["threads"]) not in new]
    result = {
        "date": date.today().isoformat(),
        "cpu": cpu_name(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "rows": sorted([*kept, *rows], key=lambda r: (r["threads"], r["model"])),
    }
    path.write_text(json.dumps(result, indent=1) + "\n")


def generated(name: str, folder: Path) -> Path:
    """The file of a generated model: one of the networks in models.py or transformers.py."""
    from benchmarks import models, transformers

    if name in models.MODELS:
        return models.save(name, folder)
    if name in transformers.TRANSFORMERS:
        return transformers.save(name, folder)
    sys.exit(f"there is no model '{name}'; choose from {', '.join((*models.MODELS, *transformers.TRANSFORMERS))}")


def options(about: str | None, names: str, seconds: float) -> argparse.ArgumentParser:
    """What programs that compare latencies take. names: the generated models they run if no file is given."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, help="ONNX files; none: the generated models")
    parser.add_argument("--models", default=names, help="which generated models")
    parser.add_argument("--threads", default="1,2")
    parser.add_argument("--seconds", type=float, default=seconds, help="time per model or engine")
    parser.add_argument("--effort", type=int, default=2)
    parser.add_argument("--json", type=Path, help="write results here")
    parser.add_argument("--folder", type=Path, help="keep what is built in this folder, and use what is there")
    parser.add_argument("--build", action="store_true", help="with --folder: build only")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    return parser


def kept(plan: Path, effort: int, build: Callable[[], Engine]) -> tuple[Path, float]:
    """A plan's file, made if it is not there, and how many seconds making it took."""
    import temper

    note = plan.with_suffix(".json")
    if not note.exists():
        start = time.perf_counter()
        engine = build()
        seconds = time.perf_counter() - start
        temper.save(engine, plan)
        note.write_text(json.dumps({"build_seconds": seconds, "effort": effort}))
    return plan, float(json.loads(note.read_text())["build_seconds"])


def drive(
    program: str,
    parser: argparse.ArgumentParser,
    build: Callable[[argparse.Namespace, Path, int], tuple[float, list[str]]],
    measure: Callable[[argparse.Namespace, Path, int], Row],
    more: Callable[[argparse.Namespace], list[object]] = lambda args: [],
) -> None:
    """Every model at every thread count in a process of its own, told line by line, then as a table.

    build: seconds it took, and what is missing.
    measure: a row. Both get the options, the model and its threads, and run in that process.
    more: options of the program's own that it needs.
    """
    args = parser.parse_args()
    if args.build and not args.folder:
        parser.error("--build needs --folder")
    if args.one:
        print(json.dumps((build if args.build else measure)(args, args.files[0], int(args.threads))))
        return
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = args.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        files = args.files or [generated(name, Path(temporary)) for name in args.models.split(",")]
        for threads in map(int, args.threads.split(",")):
            for file in files:
                given = ["--one", "--threads", threads, "--folder", folder, "--seconds", args.seconds]
                given += ["--effort", args.effort, *(["--build"] if args.build else []), *more(args), file]
                found = fresh(program, *given)
                if args.build:
                    print(f"{file.stem:24s} {threads} threads  built in {found[0]:.1f} s", *found[1], flush=True)
                    continue
                rows.append(found)
                words = f"(build {found['build_seconds']:.1f} s, neighbours {found['others']:.2f} cores)"
                print(line(found["model"], threads, found["ms"], words, *found["missing"]), flush=True)
    if rows:
        print("\n" + table(rows))
        if args.json:
            record(args.json, rows)
