"""INT8 accuracy on the zoo's trained models: calibrators, the search, and other tools' defaults on the same samples.

    python -m benchmarks.int8_accuracy --nncf-python OTHER_ENVIRONMENT/bin/python --folder FOLDER
    python -m benchmarks.int8_accuracy --cases lprnet,magika --methods minmax,search --folder FOLDER --again
    python -m benchmarks.int8_accuracy --folder FOLDER --seconds 3 --json FILE    # times what FOLDER holds
    python -m benchmarks.int8_accuracy --device cuda --methods compensated,search,fp8 --folder FOLDER --effort 0

A result in FOLDER is used again, engines and other tools' models too; --again makes those asked for anew. The
calibration samples are all a method sees; the scored samples decide nothing. A case passes where the net loss against
FP32 is at most 0.3 % of the scored samples or one sample, or 0.3 dB. `search` is the default of
`temper.build(precision="int8")`; the other methods of Temper compute all they can in INT8. --seconds times FP32, all in
INT8, and the search, taking turns. On a GPU (--device cuda) FP32 is without TF32, and there are `fp16` and `fp8` too.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import temper
from benchmarks.provenance import stamp, system
from benchmarks.quantized_peers import PeerFailed, nncf_quantized, ort_static
from benchmarks.zoo_cases import NAMES, Recorder, ZooCase, default_zoo, load_case, load_zoo
from temper.errors import TemperError
from temper.peers import MissingPeer, OnnxRuntime, OpenVino, Runner, interleaved
from temper.plan.file import read
from temper.precision import costs

Found = dict[str, Any]

#: Methods of Temper: options of `temper.build`.
OURS: Mapping[str, Mapping[str, Any]] = {
    "fp32": {"tf32": False},
    "minmax": {"calibrator": "minmax", "pure_int8": True, "compensate": False},
    "entropy": {"calibrator": "entropy", "pure_int8": True, "compensate": False},
    "percentile": {"calibrator": "percentile:99.99", "pure_int8": True, "compensate": False},
    "mse": {"calibrator": "mse", "pure_int8": True, "compensate": False},
    "auto": {"calibrator": "auto", "pure_int8": True, "compensate": False},
    "compensated": {"pure_int8": True},
    "search": {},
    "fp16": {"precision": "fp16"},
    "fp8": {"precision": "fp8"},
}
METHODS = (*OURS, "onnxruntime", "nncf")

#: What only a GPU has, and what needs no calibration.
_GPU, _FLOAT = ("fp16", "fp8"), ("fp32", "fp16")

#: What is timed, the float engine first and the chosen one last.
_TIMED = ("fp32", "compensated", "search")


def engine_runners(case: ZooCase, method: str, args: argparse.Namespace) -> tuple[list[Runner], Found]:
    """Temper's engines of a case, their plans left in the folder; and what the builds say of themselves."""
    runs: list[Runner] = []
    about: list[Any] = []
    start = time.perf_counter()
    for model, batches, options in zip(case.models, case.batches, case.options, strict=True):
        more: dict[str, Any] = {"device": args.device}
        if method not in _FLOAT:
            more |= {"precision": "int8", "calibration": batches}
            if args.verbose:
                more["say"] = partial(print, f"    {case.name} {method}:", flush=True)
        engine = temper.build(model, threads=args.threads, effort=args.effort, **options, **(more | OURS[method]))
        temper.save(engine, plan_of(args.folder, case.name, method, len(runs)))
        runs.append(lambda feeds, engine=engine: engine.run(feeds))  # type: ignore[misc]
        about.append(engine.report.get("int8"))
    found: Found = {"build_seconds": time.perf_counter() - start}
    if method not in _FLOAT:
        found["sites"] = sum(a["sites"] for a in about)
        found["int8"] = sum(a["int8"] for a in about)
        found["kept"] = [k["name"] for a in about for k in a["kept"]]
        found["verdict"] = [a["verdict"] for a in about]
        found["passes"] = [a["passes"] for a in about]
    return runs, found


def plan_of(folder: Path, case: str, method: str, number: int) -> Path:
    return folder / f"{case}.{method}.{number}.plan"


def peer_runners(case: ZooCase, method: str, threads: int, folder: Path, nncf: Path | None) -> list[Runner]:
    """Another tool's INT8 models of a case. PeerFailed says why there is none that runs."""
    runs: list[Runner] = []
    ort = OnnxRuntime()
    for number, (model, batches) in enumerate(zip(case.models, case.batches, strict=True)):
        name = f"{case.name}.{method}.{number}"
        try:
            if method == "onnxruntime":
                made = ort_static(model, batches, folder / f"{name}.onnx", Path(sys.executable))
                runs.append(ort.prepare(made, threads))
            elif nncf is None:
                raise PeerFailed("needs --nncf-python")
            else:
                made = nncf_quantized(model, batches, folder / f"{name}.xml", nncf, "open")
                runs.append(OpenVino().prepare(made, threads))
        except ort.errors as e:
            raise PeerFailed(f"the model it made does not load: {str(e).splitlines()[0][:160]}") from e
    return runs


def measure(case: ZooCase, method: str, args: argparse.Namespace) -> Found:
    """Score and answers of one method; an error in words where there is no engine."""
    about: Found = {}
    try:
        if method in OURS:
            runs, about = engine_runners(case, method, args)
        else:
            runs = peer_runners(case, method, args.threads, args.folder, args.nncf_python)
        recorders = [Recorder(run, case.answers) for run in runs]
        score = case.score(recorders)
    except (PeerFailed, TemperError) as e:
        return {"error": str(e).splitlines()[0][:300]}
    except OnnxRuntime().errors as e:
        return {"error": f"the model it made does not run: {str(e).splitlines()[0][:160]}"}
    how: Found = {**stamp(), **({"effort": args.effort} if method in OURS else {})}
    return {**how, **about, "score": score, "answers": [a.hex() for a in recorders[0].seen]}


def judged(case: ZooCase, fp32: Found, found: Found) -> Found:
    """What is reported of a result: loss against FP32, whether it keeps to the bar, answers that changed."""
    row = {k: v for k, v in found.items() if k != "answers"}
    if "error" in row:
        row["error"] = re.sub(r"(/[^\s/]+)+/", "", row["error"])  # folders of this machine
    if "score" not in found or "score" not in fp32:
        return row
    row["loss"] = fp32["score"] - found["score"]
    row["passes_bar"] = bool(row["loss"] <= case.bar * (1 + 1e-9))
    if case.scored:
        row["net_samples"] = round(row["loss"] * case.scored, 2)
    if case.answers is not None:
        pairs = zip(fp32["answers"], found["answers"], strict=True)
        row["flips"] = sum(a != b for a, b in pairs)
    return row


def timed(case: ZooCase, folder: Path, threads: int, seconds: float, device: str) -> Found:
    """Milliseconds of one run of every model of the case, summed, by method, and how much speed-up the search keeps."""
    total: dict[str, float] = {}
    others = 0.0
    for number, batches in enumerate(case.batches):
        plans = {m: plan_of(folder, case.name, m, number) for m in _TIMED}
        feeds = dict(batches[0])
        if device != "cpu":  # inputs and outputs stay there
            found = costs.timed({m: read(p) for m, p in plans.items() if p.exists()}, feeds, seconds, device)
            total = {m: total.get(m, 0.0) + 1e3 * s for m, s in found.items()}
            continue
        engines = {m: temper.load(p, threads=threads) for m, p in plans.items() if p.exists()}
        runs: dict[str, Callable[[], object]] = {m: partial(e.run, feeds) for m, e in engines.items()}
        timings = interleaved(runs, seconds)
        for m, t in timings.items():
            total[m] = total.get(m, 0.0) + t.median
            others = max(others, t.others)
    result: Found = {**stamp(), "threads": threads, "ms": total, "others": others}
    if all(m in total for m in _TIMED):
        slow, quick, chosen = (total[m] for m in _TIMED)
        result |= {"speedup_all": slow / quick, "speedup": slow / chosen, "kept": quick / chosen}
    return result


def cell(row: Found | None) -> str:
    """A score as the table shows it; bold where it fails the bar."""
    if row is None:
        return ""
    if "score" not in row:
        return "**fails**"
    text = f"{row['score']:.2f}" if abs(row["score"]) > 1.5 else f"{row['score']:.4f}"
    return text if row.get("passes_bar", True) else f"**{text}**"


def table(cases: Sequence[Found]) -> str:
    """Markdown: scores by case and method, and what the search kept."""
    methods = [m for m in METHODS if any(m in c["methods"] for c in cases)]
    lines = ["| case | " + " | ".join(methods) + " |", "|---" * (len(methods) + 1) + "|"]
    for c in cases:
        lines.append(f"| {c['case']} | " + " | ".join(cell(c["methods"].get(m)) for m in methods) + " |")
    passed = ["| passes |"]
    for m in methods:
        rows = [c["methods"][m] for c in cases if m in c["methods"]]
        passed.append(f" {sum(bool(r.get('passes_bar')) for r in rows)} of {len(rows)} |")
    heads = "case", "net loss", "flips", "sites in INT8", "FP32 ms", "all INT8 ms", "search ms", "speed-up", "kept"
    lines += ["".join(passed), "", "| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for c in cases:
        s, t = c["methods"].get("search", {}), c.get("timing", {})
        loss = f"{s['net_samples']:g} of {c['scored']}" if "net_samples" in s else ""
        ms = t.get("ms", {})
        row = [
            c["case"],
            loss or (f"{s['loss']:.2f} dB" if "loss" in s else ""),
            str(s.get("flips", "")),
            f"{s['int8']} of {s['sites']}" if "sites" in s else "",
            *(f"{ms[m]:.3f}" if m in ms else "" for m in _TIMED),
            f"{t['speedup']:.2f}x" if "speedup" in t else "",
            f"{t['kept']:.0%}" if "kept" in t else "",
        ]
        lines.append("| " + " | ".join(row) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zoo", type=Path, default=default_zoo(), help="folder of zoo.py")
    parser.add_argument("--cases", default=",".join(NAMES))
    parser.add_argument("--methods", default=",".join(m for m in METHODS if m not in _GPU))
    parser.add_argument("--device", default="cpu", help="of Temper's engines: cpu or cuda")
    parser.add_argument("--samples", type=int, default=500, help="calibration samples, at most")
    parser.add_argument("--scored", type=int, default=0, help="samples that are scored, where the zoo is a slice")
    parser.add_argument("--verbose", action="store_true", help="also print what INT8 builds say")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--effort", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="keeps results, engines and other tools' models")
    parser.add_argument("--again", action="store_true", help="make what --methods names anew")
    parser.add_argument("--nncf-python", type=Path, help="interpreter of an environment with nncf and openvino")
    parser.add_argument("--seconds", type=float, default=0.0, help="time engines, about so long each")
    parser.add_argument("--json", type=Path, help="write results here; what was not run keeps its place")
    parser.add_argument("--join", type=Path, nargs="*", help="only put results that --json wrote elsewhere into --json")
    parser.add_argument("--commit", default="unknown", help="that --join brings results of, outside a checkout")
    args = parser.parse_args()
    if args.join:
        print(table(joined(args.json, args.join, args.commit)))
        return
    if args.folder is None:
        parser.error("--folder is needed")
    args.folder.mkdir(parents=True, exist_ok=True)
    zoo = load_zoo(args.zoo)
    cases: list[Found] = []
    for name in args.cases.split(","):
        case = load_case(zoo, name, args.samples, lambda path: OnnxRuntime().prepare(path, args.threads))
        if args.scored and args.scored != case.scored:
            case = replace(case, scored=args.scored, metric=f"{case.metric}; here {args.scored:,} of them")
        found: dict[str, Found] = {}
        timing = args.folder / f"{name}.timing.json"
        result: Found = {}
        for method in dict.fromkeys(("fp32", *args.methods.split(","))):
            note = args.folder / f"{name}.{method}.json"
            if not note.exists() or (args.again and method in args.methods.split(",")):
                note.write_text(json.dumps(measure(case, method, args)))
            found[method] = json.loads(note.read_text())
            row = judged(case, found["fp32"], found[method])
            told = row.get("error") or f"{row['score']:.4f}  loss {row['loss']:+.4f}  flips {row.get('flips', '-')}"
            sites = f"  {row['int8']}/{row['sites']} sites" if "sites" in row else ""
            verdict = "" if method == "fp32" or "error" in row else ("  passes" if row["passes_bar"] else "  FAILS")
            print(f"{name:18s} {method:12s} {told}{sites}{verdict}", flush=True)
            result = {
                "case": name,
                "metric": case.metric,
                "scored": case.scored,
                "bar": case.bar,
                "calibration_samples": len(case.batches[0]),
                "methods": {m: judged(case, found["fp32"], f) for m, f in found.items()},
            }
            if args.json:
                merged(args.json, [result], args.device)
        if args.seconds:
            timing.write_text(json.dumps(timed(case, args.folder, args.threads, args.seconds, args.device)))
        if timing.exists():
            result["timing"] = json.loads(timing.read_text())
        cases.append(result)
    if args.json:
        cases = merged(args.json, cases, args.device)
    print("\n" + table(cases))


def merged(path: Path, cases: Sequence[Found], device: str) -> list[Found]:
    """Writes the results beside what the file has."""
    about = system() if device == "cpu" else {**system(), "device": gpu_name(device)}
    return written(path, cases, {**about, "versions": _versions()})


def written(path: Path, cases: Sequence[Found], about: Found) -> list[Found]:
    """Writes the results; cases, methods and times that were not measured keep what the file has of them. Every method
    of a case says which commit it was measured at, on which day and with which effort; those without were measured
    before that was recorded."""
    old = json.loads(path.read_text())["cases"] if path.exists() else []
    rows = {c["case"]: c for c in old}
    for c in cases:
        before = rows.get(c["case"], {})
        methods = {**before.get("methods", {}), **c["methods"]}
        timing = c.get("timing", before.get("timing"))
        rows[c["case"]] = {
            **c,
            "methods": {m: methods[m] for m in METHODS if m in methods},
            **({"timing": timing} if timing is not None else {}),
        }
    every = [rows[n] for n in NAMES if n in rows]
    path.write_text(json.dumps({**about, "cases": every}, indent=1) + "\n")
    return every


def joined(path: Path, files: Sequence[Path], commit: str) -> list[Found]:
    """Puts the results of files that were written elsewhere, outside a checkout of `commit`, into one."""
    every: list[Found] = []
    for file in files:
        given = json.loads(file.read_text())
        cases = given.pop("cases")
        for method in (m for c in cases for m in c["methods"].values()):
            if method.get("commit") == "unknown":
                method["commit"] = commit
        every = written(path, cases, given)
    return every


def gpu_name(device: str) -> str:
    from temper.runtime.cuda.driver import Gpu

    return Gpu(int(device.partition(":")[2] or 0)).name


def _versions() -> dict[str, str]:
    found = {"temper": temper.__version__}
    for peer in (OnnxRuntime(), OpenVino()):
        with suppress(MissingPeer):
            found[peer.name] = peer.version
    return found


if __name__ == "__main__":
    main()
