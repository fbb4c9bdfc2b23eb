"""INT8 on models that nothing was tuned on: does a default build keep to the bar out of sample?

    python -m benchmarks.holdout.train --folder FOLDER --seeds 0:3         # needs torch; --scale 0.1 for a quick look
    python -m benchmarks.holdout.train --folder FOLDER --seeds 0:3 --export
    python -m benchmarks.int8_holdout --folder FOLDER --seeds 0:3 [--json FILE --round NAME]

Every model is built in FP32, in INT8 with min-max thresholds, in INT8 throughout with everything that Temper does, and
by default (`temper.build(precision="int8", calibration=)`, which decides what stays in float). Builds see 300 samples
without labels; scored are others, made of other material, that no build sees. A case passes where the net loss against
FP32 is at most 0.3 % (of the samples, of tokens or pixels, of the variance that is explained), or 0.3 dB. Results in
FOLDER are used again; --again makes them anew.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

import temper
from benchmarks.holdout.cases import Case, cases
from benchmarks.holdout.sources import Sources, sources
from benchmarks.holdout.tasks import TASKS, Task
from benchmarks.provenance import stamp, system
from temper.builder import float_graph
from temper.config import BuildConfig
from temper.peers import interleaved
from temper.precision.divergence import Reference
from temper.precision.output_kinds import heads
from temper.report.statistics import wilson

Found = dict[str, Any]

#: Options of `temper.build` by method.
METHODS: Mapping[str, Mapping[str, Any]] = {
    "fp32": {},
    "minmax": {"precision": "int8", "calibrator": "minmax", "pure_int8": True, "compensate": False},
    "all": {"precision": "int8", "pure_int8": True},
    "default": {"precision": "int8"},
}

#: What may be lost: a share, or dB.
BAR, BAR_DB = 0.003, 0.3

#: Samples to calibrate with, and to score: fewer where each has many answers.
_CALIBRATION, _SCORED, _SCORED_DENSE = 300, 4000, 500


def measure(case: Case, folder: Path, src: Sources, seconds: float) -> Found:
    """Scores of all methods, their divergence on held-back samples, and times. Scores sample by sample are left in
    the folder."""
    task = TASKS[case.task]
    model = folder / f"{case.name}.onnx"
    seen, _ = task.make(src, "calibration", _CALIBRATION, np.random.default_rng([1, case.seed]))
    dense = task.kind in ("pixels", "image", "steps")
    x, y = task.make(src, "test", _SCORED_DENSE if dense else _SCORED, np.random.default_rng([2, case.seed]))
    batches = [{"x": seen[i : i + 1]} for i in range(len(seen))]
    found: Found = {"case": case.name, **stamp(), "seed": case.seed, "hard": case.hard, "kind": task.kind}
    found |= {"scored": len(x), "methods": {}}
    engines: dict[str, temper.Engine] = {}
    for method, options in METHODS.items():
        more = {**options, "calibration": batches, "work": folder / "work"} if options else {}
        start = time.perf_counter()
        engines[method] = temper.build(
            model, threads=1, effort=0, cache=folder / "timing.sqlite", **more
        )
        row: Found = {"build_seconds": round(time.perf_counter() - start, 2)}
        if (about := engines[method].report.get("int8")) is not None:
            row |= {k: about[k] for k in ("sites", "int8", "verdict")}
            row["work"], row["kept"] = about["passes"], [k["name"] for k in about["kept"]]
        found["methods"][method] = row
    held = batches[3::4]  # as `temper.precision.data.split` does
    outputs = {m: [[np.array(o) for o in e.run(dict(b))] for b in held] for m, e in engines.items()}
    reference = Reference(heads(float_graph(model, BuildConfig(threads=1))), outputs["fp32"])
    scores: dict[str, np.ndarray] = {}
    for method, engine in engines.items():
        row = found["methods"][method]
        answered = np.concatenate([engine.run({"x": x[i : i + 1]})[0] for i in range(len(x))])
        scores[method] = task.score(y, answered)
        row["score"] = total(task, scores[method])
        if method != "fp32":
            row["loss"] = found["methods"]["fp32"]["score"] - row["score"]
            row["passes"] = bool(row["loss"] <= (BAR_DB if task.decibels else BAR) * (1 + 1e-9))
            change = scores["fp32"] - scores[method]
            row["z"] = float(change.mean() / max(1e-12, change.std() / math.sqrt(len(x))))
            row["held"] = [d.as_dict() for d in reference.compare(outputs[method])]
    np.savez_compressed(folder / f"{case.name}.scores.npz", **{m: s.astype(np.float32) for m, s in scores.items()})
    runs: dict[str, Callable[[], object]] = {
        m: partial(engines[m].run, {"x": x[:1]}) for m in ("fp32", "all", "default")
    }
    timings = interleaved(runs, seconds)
    found["us"] = {m: 1e6 * t.median for m, t in timings.items()}
    found["others"] = max(t.others for t in timings.values())
    return found


def total(task: Task, scores: np.ndarray) -> float:
    """The score of a method from those of its samples; of images in dB."""
    mean = float(scores.mean())
    return -10 * math.log10(mean) if task.decibels else mean


def table(rows: Sequence[Found]) -> str:
    """Markdown: a line a case, and how many pass."""
    lines = [
        "| case | FP32 | min-max | all INT8 | default | loss of default | layers in INT8 | speed-up, of all INT8's |",
        "|---" * 8 + "|",
    ]
    for r in rows:
        m, us = r["methods"], r["us"]
        cells = [f"{m['fp32']['score']:.4f}"]
        for name in ("minmax", "all", "default"):
            text = f"{m[name]['score']:.4f}"
            cells.append(text if m[name]["passes"] else f"**{text}**")
        d = m["default"]
        loss = f"{d['loss']:+.3f} dB" if r["kind"] == "image" else f"{100 * d['loss']:+.2f} %"
        speed = f"{us['fp32'] / us['default']:.2f}x, {us['all'] / us['default']:.0%}"
        lines.append(f"| {r['case']} | " + " | ".join([*cells, loss, f"{d['int8']}/{d['sites']}", speed]) + " |")
    return "\n".join(lines)


def rates(rows: Sequence[Found]) -> Found:
    """By method how many pass, with the 95 % interval of the share (Wilson); and what the default keeps of all INT8's
    speed-up where all INT8 passes, as a median and a least."""
    found: Found = {}
    for m in ("minmax", "all", "default"):
        k = sum(r["methods"][m]["passes"] for r in rows)
        low, high = wilson(len(rows), k)
        found[m] = {"passes": k, "of": len(rows), "interval": [round(low, 4), round(high, 4)]}
    kept = sorted(r["us"]["all"] / r["us"]["default"] for r in rows if r["methods"]["all"]["passes"])
    if kept:
        found["kept"] = {"median": kept[len(kept) // 2], "least": kept[0], "of": len(kept)}
        found["kept"]["at least 90 %"] = sum(k >= 0.9 for k in kept)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="of the models; keeps results")
    parser.add_argument("--seeds", default="0:3", help="from:to, the last left out")
    parser.add_argument("--only", default="", help="names of cases, or beginnings of them, with commas")
    parser.add_argument("--seconds", type=float, default=0.2, help="time each engine, about so long")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--known", action="store_true", help="report what FOLDER holds, measure nothing")
    parser.add_argument("--json", type=Path, help="write results here; other rounds keep theirs")
    parser.add_argument("--round", default="", help="name of these results in that file")
    args = parser.parse_args()
    src = sources(args.folder / "sources.npz")
    rows: list[Found] = []
    for case in cases(range(*map(int, args.seeds.split(":"))), hard=True):
        if not any(case.name.startswith(o) for o in args.only.split(",")):
            continue
        if not args.known and not (args.folder / f"{case.name}.onnx").exists():
            print(f"{case.name}: not trained", flush=True)
            continue
        note = args.folder / f"{case.name}.json"
        if args.known and not note.exists():
            continue
        if args.again or not note.exists():
            note.write_text(json.dumps(measure(case, args.folder, src, args.seconds)))
        rows.append(json.loads(note.read_text()))
        print(table(rows[-1:]).splitlines()[-1], flush=True)
    found = rates(rows)
    print("\n" + table(rows) + "\n\n" + json.dumps(found, indent=1))
    if args.json:
        merged(args.json, args.round, rows)


def merged(path: Path, name: str, rows: Sequence[Found]) -> None:
    """Writes the results, a round each time that models were measured: cases of the round that were not measured, and
    other rounds, stay. Every case says which commit it was measured at, and on which day."""
    rounds = json.loads(path.read_text())["rounds"] if path.exists() else {}
    cases = {c["case"]: c for c in (*rounds.get(name, {}).get("cases", ()), *rows)}
    rounds[name] = {"cases": list(cases.values())}
    told = {n: {"rates": rates(r["cases"]), "cases": r["cases"]} for n, r in rounds.items()}
    path.write_text(json.dumps({**system(), "rounds": told}, indent=1) + "\n")


if __name__ == "__main__":
    main()
