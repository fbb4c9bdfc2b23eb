"""Latency on an NVIDIA GPU: Temper against PyTorch eager, replayed as a CUDA graph, and compiled with frozen weights.

    python -m benchmarks.gpu                                         # the models and sizes of the project's goals
    python -m benchmarks.gpu --models resnet50 --batches 1,128 --precisions int8,fp16 --peers graph,compiled
    python -m benchmarks.gpu --layers                                # also time every layer alone

One process a model holds all contenders: inputs on the device, everybody enqueues on one stream and is timed
by CUDA events in turns, medians over the turns; the compiled module takes turns of its own with Temper's plans. PyTorch
runs in float16. Models are measured one at a time, each when its plans are built, while those of later models are still
compiled (they use the GPU only between models). Writes JSON with device, date and versions to --json after every model;
rows of other models and batches stay. --plans keeps models, plans, times and kernels in a folder, and uses those that
are there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from datetime import date
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks import models, transformers
from benchmarks.contest import fresh
from benchmarks.gpu_peers import CONTESTS, KINDS, module, prepared
from temper.peers import MissingPeer, random_inputs

Row = dict[str, Any]

#: Batches of each model by precision, as goals are stated for them.
SIZES: dict[str, dict[str, tuple[int, ...]]] = {
    "resnet50": {"fp16": (1, 128), "int8": (1, 32, 128)},
    "bert_large_s128": {"fp16": (1, 32, 128), "int8": (1, 128), "fp8": (128,)},
    "vit_b16": {"fp16": (1, 128), "int8": (1, 128), "fp8": (128,)},
    "mobilenetv2": {"fp16": (1,), "int8": (1,)},
    "efficientnet_b0": {"fp16": (1,), "int8": (1,)},
    "yolo": {"fp16": (1,), "int8": (1,)},
}

#: Precisions whose thresholds are calibrated; everything that can be is built in them, whatever it costs accuracy.
_SEARCHED = ("int8", "fp8")

#: Turns that contenders take, and about how long one lasts.
_TURNS, _SECONDS = 11, 0.03

#: Samples that INT8 is calibrated with: times do not depend on what they say.
_SAMPLES = 4


def batches_of(name: str, precision: str, chosen: Sequence[int]) -> list[int]:
    """Batches that a model is built for in a precision: those chosen, or its own that are stated; none where the goals
    name no such precision."""
    known = SIZES.get(name, dict.fromkeys(("fp16", "int8"), (1,)))
    return list(chosen or known[precision]) if precision in known else []


def saved(name: str, folder: Path) -> Path:
    """The model's file, of any batch "N"; made if it is not there."""
    path = folder / f"{name}_bN.onnx"
    if not path.exists():
        made = (models if name in models.MODELS else transformers).save(name, folder, "N")  # type: ignore[attr-defined]
        made.rename(path)
    return path


def built(name: str, precision: str, batches: Sequence[int], folder: Path, ranges: Path | None) -> Row:
    """Builds a plan of one profile a batch, twice: seconds of the first build and of the second, which finds every time
    and kernel in the cache. kept: the cache was there before. ranges: folder of calibration caches."""
    import temper

    model = saved(name, folder)
    plan, cache = folder / f"{name}.{precision}.plan", folder / f"{name}.{precision}.sqlite"
    kept = cache.exists()
    options: dict[str, Any] = {"device": "cuda", "precision": precision, "batch": list(batches), "cache": cache}
    if precision in _SEARCHED:
        options |= {"pure_int8": True, "compensate": False}
        if ranges is not None:
            options["calibration_cache"] = ranges / f"{name}.cache"
        else:
            options["calibration"] = [random_inputs(model, seed=i) for i in range(_SAMPLES)]
    seconds = []
    for _ in range(1 if kept else 2):
        start = time.perf_counter()
        engine = temper.build(model, output=plan, **options)
        seconds.append(time.perf_counter() - start)
    hosted = sorted({r["op"] for r in engine.report["regions"] if r["tactic"] == "host"})
    return {"seconds": seconds, "kept": kept, "plan_bytes": plan.stat().st_size, "host": hosted}


def _repeated(launch: Callable[[], Any], stream: Any, seconds: float) -> int:
    """Launches that take about so long."""
    launch()
    stream.synchronize()
    start = time.perf_counter()
    for _ in range(3):
        launch()
    stream.synchronize()
    return max(3, int(3 * seconds / (time.perf_counter() - start)))


def _turn(launch: Callable[[], Any], stream: Any, count: int) -> float:
    """Milliseconds of one launch among `count` in a row."""
    import torch

    first, last = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    first.record(stream)
    for _ in range(count):
        launch()
    last.record(stream)
    last.synchronize()
    return float(first.elapsed_time(last)) / count


def measure(
    name: str, sizes: Mapping[int, Sequence[str]], kinds: Sequence[str], folder: Path, warm: bool, layers: bool
) -> list[Row]:
    """Medians in ms by contender, in this process, a row a batch. sizes: precisions by batch. warm: only let PyTorch
    compile, so that its cache is filled."""
    import torch

    import temper
    from temper.runtime.cuda.driver import Gpu
    from temper.tune.cuda_bench import turn

    kinds = [k for k in kinds if k == "compiled" or not warm]
    stream = torch.cuda.Stream()
    engines, words = {}, []
    for precision in () if warm else dict.fromkeys(p for each in sizes.values() for p in each if p):
        plan = folder / f"{name}.{precision}.plan"
        if plan.exists():
            engines[precision] = temper.load(plan)
        else:
            words.append(f"temper {precision}: no plan")
    try:
        net = module(name, saved(name, folder)).cuda().half() if kinds else None
    except MissingPeer as e:
        net = None
        words.append(str(e))
    rows = []
    for batch, precisions in sizes.items():
        feeds = random_inputs(saved(name, folder), sizes={"N": batch})
        given = {k: torch.from_numpy(np.ascontiguousarray(v)).cuda() for k, v in feeds.items()}
        row: Row = {"model": name, "batch": batch, "ms": {}, "missing": list(words)}
        row |= {"apart": {}, "enqueue_us": {}, "layers": {}}
        runs: dict[str, Callable[[], Any]] = {}
        for precision in precisions:
            if (engine := engines.get(precision)) is None:
                continue
            context = engine.context(stream=stream)
            for k, array in given.items():
                context.set_input(k, array)
            context.enqueue()
            context.synchronize()
            row["apart"][precision] = _apart(engine, feeds, folder / f"{name}.b{batch}.npz")
            runs[f"temper {precision}"] = context.enqueue
            row["enqueue_us"][precision] = _enqueue(context.enqueue, stream)
            if layers:
                with turn(Gpu(0)):
                    layer_times = engine.profile_layers(feeds)
                of = engine.report["regions"]
                row["layers"][precision] = [
                    f"{t.seconds * 1e6:.2f} us  {t.name}  {of[t.report]['tactic']}" for t in layer_times
                ]
        inputs = [t.half() if t.is_floating_point() else t for t in given.values()]
        if net is not None and inputs[0].dim() == 4:
            net = net.to(memory_format=torch.channels_last)
            inputs = [t.contiguous(memory_format=torch.channels_last) for t in inputs]
        times_of: dict[str, list[float]] = {}
        contests = [[k for k in each if k in kinds] for each in CONTESTS if net is not None]
        for peers in [each for each in contests if each] or [[]]:
            members = runs | {f"torch {k}": prepared(net, k, inputs, stream) for k in peers}
            if not warm:
                with turn(Gpu(0)):
                    for k, times in _contest(members, stream).items():
                        times_of.setdefault(k, []).extend(times)
        if not warm:
            row["ms"] = {k: statistics.median(t) for k, t in times_of.items()}
            row["spread"] = {k: max(t) / min(t) - 1 for k, t in times_of.items()}
            row["device"] = torch.cuda.get_device_name()
            row["versions"] = {"torch": torch.__version__, "temper": temper.__version__, "triton": _version("triton")}
        rows.append(row)
    return rows


def _contest(runs: Mapping[str, Callable[[], Any]], stream: Any) -> dict[str, list[float]]:
    """Milliseconds of every member in each of its turns."""
    counts = {k: _repeated(run, stream, _SECONDS) for k, run in runs.items()}
    times: dict[str, list[float]] = {k: [] for k in runs}
    for _ in range(_TURNS):
        for k, run in runs.items():
            times[k].append(_turn(run, stream, counts[k]))
    return times


def _enqueue(launch: Callable[[], Any], stream: Any) -> float:
    """Microseconds of Python that one enqueue takes behind others: few at a time, so that the device's queue is never
    full, and not the first ones, as waiting for the device makes the processor's caches cold."""
    times = []
    for _ in range(20):
        stream.synchronize()
        for _ in range(4):
            launch()
        start = time.perf_counter()
        for _ in range(20):
            launch()
        times.append((time.perf_counter() - start) / 20)
    return statistics.median(times) * 1e6


def _apart(engine: Any, feeds: dict[str, Any], kept: Path) -> float | None:
    """Largest difference from ONNX Runtime's float32 outputs relative to their largest value; None if not kept."""
    if not kept.exists():
        return None
    with np.load(kept) as stored:
        want = [stored[f"y{i}"] for i in range(len(stored.files))]
    got = engine.run(feeds)
    return max(float(np.abs(g - w).max() / max(float(np.abs(w).max()), 1e-30)) for g, w in zip(got, want, strict=True))


def references(name: str, batches: Sequence[int], folder: Path) -> None:
    """ONNX Runtime's outputs on the CPU for the same inputs, kept for `_apart`; batches above 4 are left out."""
    import onnxruntime as ort

    small = [b for b in batches if b <= 4 and not (folder / f"{name}.b{b}.npz").exists()]
    if not small:
        return
    session = ort.InferenceSession(str(saved(name, folder)), providers=["CPUExecutionProvider"])
    for batch in small:
        made = session.run(None, random_inputs(saved(name, folder), sizes={"N": batch}))
        np.savez(folder / f"{name}.b{batch}.npz", **{f"y{i}": y for i, y in enumerate(made)})


def _as_ready(work: Mapping[str, Sequence[Future[Row]]]) -> Iterator[str]:
    """The keys, each as soon as all its futures are done."""
    left = dict(work)
    while left:
        ready = [n for n, futures in left.items() if all(f.done() for f in futures)]
        for n in ready:
            del left[n]
            yield n
        if not ready:
            wait([f for futures in left.values() for f in futures if not f.done()], return_when=FIRST_COMPLETED)


def _version(package: str) -> str:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "none"


def table(rows: Sequence[Row]) -> str:
    """Markdown: a row a model and batch; ratios are the best peer's time over Temper's."""
    names = list(dict.fromkeys(k for r in rows for k in r["ms"]))
    lines = [
        "| model | batch | " + " | ".join(f"{n} ms" for n in names) + " | best precision against the best peer |",
        "|---" * (len(names) + 3) + "|",
    ]
    for r in rows:
        ours = [t for k, t in r["ms"].items() if k.startswith("temper")]
        peers = [t for k, t in r["ms"].items() if not k.startswith("temper")]
        cells = [f"{r['ms'][n]:.3f}" if n in r["ms"] else "-" for n in names]
        ratio = f"{min(peers) / min(ours):.2f}x" if ours and peers else "-"
        lines.append(f"| {r['model']} | {r['batch']} | {' | '.join(cells)} | {ratio} |")
    return "\n".join(lines)


def record(path: Path, rows: Sequence[Row], builds: Sequence[Row]) -> None:
    """Writes rows by model and batch, and builds by model and precision; others that are there stay."""
    old = json.loads(path.read_text()) if path.exists() else {"rows": [], "builds": []}
    new = {(r["model"], r["batch"]) for r in rows}
    made = {(b["model"], b["precision"]) for b in builds}
    rows = [*(r for r in old["rows"] if (r["model"], r["batch"]) not in new), *rows]
    builds = [*(b for b in old["builds"] if (b["model"], b["precision"]) not in made), *builds]
    result = {
        "date": date.today().isoformat(),
        "rows": sorted(rows, key=lambda r: (r["model"], r["batch"])),
        "builds": sorted(builds, key=lambda b: (b["model"], b["precision"])),
    }
    path.write_text(json.dumps(result, indent=1) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default=",".join(SIZES))
    parser.add_argument("--batches", default="", help="instead of each model's own")
    parser.add_argument("--precisions", default="fp16,int8,fp8")
    parser.add_argument("--peers", default=",".join(KINDS), help="which ways to run PyTorch; empty: none")
    parser.add_argument("--layers", action="store_true", help="also time every layer alone")
    parser.add_argument("--json", type=Path, help="write results here")
    parser.add_argument("--plans", type=Path, help="keep models and plans in this folder, and use those that are there")
    parser.add_argument("--build", action="store_true", help="with --plans: build only")
    parser.add_argument("--ranges", type=Path, help="folder of calibration caches (MODEL.cache, of temper calibrate)")
    parser.add_argument("--jobs", type=int, default=4, help="builds, and compilations of PyTorch's, at once")
    parser.add_argument("--one", default="", help=argparse.SUPPRESS)
    parser.add_argument("--members", default="", help=argparse.SUPPRESS)
    args = parser.parse_args()
    precisions, kinds, batches = ([x for x in a.split(",") if x] for a in (args.precisions, args.peers, args.batches))
    batches = list(map(int, batches))
    if unknown := set(kinds) - set(KINDS):
        parser.error(f"--peers: {', '.join(sorted(unknown))} is none of {', '.join(KINDS)}")
    if find_spec("torch") is None:
        parser.error("PyTorch is what this program makes streams, events and models with: pip install torch")
    with tempfile.TemporaryDirectory() as scratch:
        folder = args.plans or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder.resolve() / "inductor"))
        if args.one:
            what = args.one
            name = args.models
            if what == "save":
                print(json.dumps({"path": str(saved(name, folder))}))
            elif what == "build":
                print(json.dumps(built(name, precisions[0], batches, folder, args.ranges)))
            else:
                members = {int(b): p.split("+") for b, p in (x.split("=") for x in args.members.split(",") if x)}
                print(json.dumps({"rows": measure(name, members, kinds, folder, what == "warm", args.layers)}))
            return
        names = args.models.split(",")
        every = {n: sorted({b for p in precisions or [""] for b in batches_of(n, p, batches)}) for n in names}
        def one(what: str, name: str, batch: Sequence[int], which: Sequence[str]) -> Row:
            members = (f"{b}={'+'.join(p for p in which if b in batches_of(name, p, batches))}" for b in batch)
            options = ["--one", what, "--models", name, "--batches", ",".join(map(str, batch)), "--plans", folder]
            options += ["--members", ",".join(members)]
            options += ["--precisions", ",".join(which), "--peers", ",".join(kinds)]
            options += ["--ranges", args.ranges] if args.ranges else []
            try:
                return dict(fresh("benchmarks.gpu", *options, *(["--layers"] if args.layers else [])))
            except SystemExit as e:  # the others go on
                print(f"{name} {what}: {e}", flush=True)
                return {"failed": str(e)[-400:]}

        def plan_of(name: str, p: str) -> Row:
            made = {"model": name, "precision": p} | one("build", name, batches_of(name, p, batches), [p])
            print(f"{name} {p}: seconds of builds {made.get('seconds')}", flush=True)
            return made

        rows: list[Row] = []
        with ThreadPoolExecutor(args.jobs) as pool:
            list(pool.map(lambda n: one("save", n, [], []), names))
            plans: dict[str, list[Future[Row]]] = {}
            peers: dict[str, list[Future[Any]]] = {}
            for n in names:
                wanted = [p for p in precisions if batches_of(n, p, batches)]
                missing = [p for p in wanted if not (folder / f"{n}.{p}.plan").exists()]
                plans[n] = [pool.submit(plan_of, n, p) for p in missing]
                peers[n] = [pool.submit(references, n, every[n], folder)]
                if "compiled" in kinds and not args.build:
                    peers[n] += [pool.submit(one, "warm", n, [b], precisions) for b in every[n]]
            for n in _as_ready(plans):
                builds = [f.result() for f in plans[n]]
                for f in (f for each in peers.values() for f in each):  # PyTorch uses the GPU as it compiles
                    f.result()
                found: Row = {"rows": []} if args.build else one("measure", n, every[n], precisions)
                empty = {"model": n, "batch": 0, "ms": {}, "missing": [found.get("failed")]}
                own = found.get("rows", [empty])
                rows += own
                for row in own:
                    times = "  ".join(f"{k} {t:.3f}" for k, t in row["ms"].items())
                    print(f"{n:18s} {row['batch']:4d}  {times}  {row['missing'] or ''}", flush=True)
                if args.json:
                    record(args.json, own, builds)
    if rows:
        print("\n" + table(rows))


if __name__ == "__main__":
    main()
