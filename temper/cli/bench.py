"""`temper bench`: trtexec's metrics with trtexec's definitions, alone or in turn with other engines.

Latency: host time of one call, arrays in to arrays out. Throughput: calls of all streams over the wall time between the
first call's start and the last one's end. Enqueue time: the part of a call spent in Python, measured by calls whose
native run is replaced by nothing.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from temper.cli.engines import BF16, DEVICE, FP16, TF32, precision_of
from temper.cli.latency import Measured, median, metrics
from temper.cli.run import DATA, INPUT

if TYPE_CHECKING:
    import numpy as np

    from temper.runtime.engine import Engine

_ENQUEUE_CALLS = 300

SHAPE = "Shape of an input, NAME=1x3x224x224, to run at (and to build for); may be repeated."

Value = Callable[[Mapping[str, Any]], Any]


def _batch(r: Mapping[str, Any]) -> int | None:
    """The first size of all inputs, if they share one."""
    firsts = {shape[0] for shape in r["inputs"].values() if shape}
    return next(iter(firsts)) if len(firsts) == 1 else None


def _items(r: Mapping[str, Any]) -> float | None:
    n = _batch(r)
    return None if n is None else n * float(r["throughput_qps"])


#: (title, value, format) of the table of several runs
COLUMNS: tuple[tuple[str, Value, str], ...] = (
    ("batch", _batch, "d"),
    ("streams", lambda r: r["streams"], "d"),
    ("qps", lambda r: r["throughput_qps"], ".1f"),
    ("items/s", _items, ".1f"),
    ("median ms", lambda r: r["latency_ms"]["median"], ".4f"),
    ("p99 ms", lambda r: r["latency_ms"]["p99"], ".4f"),
    ("to GPU ms", lambda r: r.get("to_device_ms"), ".4f"),
    ("back ms", lambda r: r.get("to_host_ms"), ".4f"),
    ("numpy call ms", lambda r: r.get("call_ms"), ".4f"),
    ("enqueue us", lambda r: None if r["enqueue_ms"] is None else 1e3 * r["enqueue_ms"], ".1f"),
)


def _text(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)


def bench(
    engine_file: Annotated[
        Path, typer.Argument(metavar="PLAN|ONNX", help="Plan, or ONNX file to build in memory.", show_default=False)
    ],
    batch: Annotated[
        str,
        typer.Option(
            help="Batch sizes to run (and to build for), such as 1,8,32; the profile's best size if not given.",
            show_default=False,
        ),
    ] = "",
    device: Annotated[str, typer.Option(help=DEVICE, show_default=False)] = "",
    threads: Annotated[int, typer.Option(help="Threads of one call; 0: as built, or all usable cores.", min=0)] = 0,
    streams: Annotated[str, typer.Option(help="Contexts that run at once; 1,2,4 measures each number.")] = "1",
    duration: Annotated[float, typer.Option(help="Measure for at least this many seconds.", min=0)] = 3.0,
    warmup: Annotated[float, typer.Option(help="Warm up for this many milliseconds first.", min=0)] = 200.0,
    iterations: Annotated[int, typer.Option(help="Measure at least this many calls.", min=1)] = 10,
    effort: Annotated[int, typer.Option(help="Effort of the build, for an ONNX file.", min=0, max=5)] = 2,
    fp16: Annotated[bool, typer.Option("--fp16", help=FP16)] = False,
    bf16: Annotated[bool, typer.Option("--bf16", help=BF16)] = False,
    tf32: Annotated[bool, typer.Option(help=TF32)] = True,
    shape: Annotated[list[str] | None, typer.Option(help=SHAPE, show_default=False)] = None,
    inputs: Annotated[list[str] | None, typer.Option("--input", "-i", help=INPUT, show_default=False)] = None,
    data: Annotated[Path | None, typer.Option(help=DATA, show_default=False)] = None,
    vs: Annotated[str, typer.Option(help="Peers to take turns with: onnxruntime,openvino.", show_default=False)] = "",
    model: Annotated[
        Path | None, typer.Option(help="ONNX file for the peers when a plan is measured.", show_default=False)
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Also measure every layer.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print results as JSON.")] = False,
) -> None:
    """Measure latency and throughput, with random inputs if none are given.

    Of a GPU plan: device time of graph replays between CUDA events, with inputs on the device; transfers are apart.
    """
    from temper.cli.engines import open_engine, random_feeds
    from temper.cli.files import is_plan, read_feeds
    from temper.cli.show import console, print_json
    from temper.cli.sizes import parse_static_shapes
    from temper.errors import ConfigError

    shapes = parse_static_shapes(shape or ())
    if batch and shapes:
        raise ConfigError("--batch and --shape exclude each other")
    sizes, counts = _numbers(batch, "--batch") or [0], _numbers(streams, "--streams")
    peers = [p.strip() for p in vs.split(",") if p.strip()]
    source = model or (None if is_plan(engine_file) else engine_file)
    if peers:
        _check_peers(peers, source)
        if counts != [1] or len(sizes) > 1:
            raise ConfigError("--vs compares single calls: leave --streams at 1, and give one --batch")
        threads = _pin(engine_file, threads)
    own = "" if is_plan(engine_file) or sizes == [0] else ",".join(map(str, sizes))
    engine = open_engine(
        engine_file,
        threads,
        effort=effort,
        batch=own,
        device=device,
        precision=precision_of(fp16, bf16),
        tf32=tf32,
        shapes=shapes,
    )
    given = read_feeds([s.name for s in engine.inputs], inputs or (), data) if inputs or data else None
    on_gpu = engine.plan.device != "cpu"
    # where sizes depend on data there is no graph to replay, and calls are timed as on a CPU
    graphs = engine._shared is not None and not engine._shared.late
    if peers and on_gpu:
        raise ConfigError("--vs compares with engines on the CPU, and this plan runs on a GPU")
    head = {"file": str(engine_file), "threads": engine.threads, "device": engine.device_name}
    runs: list[dict[str, Any]] = []
    for size in sizes:
        feeds = random_feeds(engine, size, shapes=shapes) if given is None else given
        for count in counts:
            how = {"streams": count, "duration": duration, "warmup": warmup / 1e3, "iterations": iterations}
            if graphs:
                from temper.cli.bench_gpu import measure_gpu

                found = measure_gpu(engine, feeds, **how)  # type: ignore[arg-type]
            else:
                found = metrics(measure(engine, feeds, **how))  # type: ignore[arg-type]
            runs.append({"streams": count, "inputs": {k: list(v.shape) for k, v in feeds.items()}, **found})
    notes = [*engine.remarks, *dict.fromkeys(note for r in runs for note in r.get("notes", ()))]
    out: dict[str, Any] = {**head, **(runs[0] if len(runs) == 1 else {"runs": runs}), "notes": notes}
    if layers:
        first = random_feeds(engine, sizes[0], shapes=shapes) if given is None else given
        out["layers"] = _layers(engine, first)
    if peers:
        assert source is not None
        out["vs"] = _versus(engine, feeds, source, peers, engine.threads, max(duration, 0.5))
    if as_json:
        print_json(out)
    else:
        _print(console(), out)


def _numbers(text: str, option: str) -> list[int]:
    """`1,2,4`. typer.BadParameter unless they are positive numbers."""
    parts = [p.strip() for p in text.split(",")] if text.strip() else []
    if not all(p.isdecimal() and int(p) > 0 for p in parts):
        raise typer.BadParameter(f"{option} {text}: give positive numbers joined by commas")
    return [int(p) for p in parts]


def measure(
    engine: Engine, feeds: Mapping[str, np.ndarray], *, streams: int, duration: float, warmup: float, iterations: int
) -> Measured:
    """Calls in `streams` contexts at once until both `duration` seconds and `iterations` calls (per context) are
    reached.
    """
    arrays = engine._arguments((dict(feeds),), {})
    start_line = threading.Barrier(streams)
    stop = threading.Event()
    ends: list[tuple[float, float]] = []
    latencies: list[float] = []
    failures: list[BaseException] = []
    guard = threading.Lock()

    def stream() -> None:
        try:
            call = engine.context()._execute
            until = time.perf_counter() + warmup
            call(arrays, None)
            while time.perf_counter() < until and not stop.is_set():
                call(arrays, None)
            start_line.wait()
            own: list[float] = []
            clock = time.perf_counter
            begin = before = clock()
            while (before - begin < duration or len(own) < iterations) and not stop.is_set():
                call(arrays, None)
                after = clock()
                own.append(after - before)
                before = after
            with guard:
                latencies.extend(own)
                ends.append((begin, before))
        except BaseException as e:
            with guard:
                failures.append(e)
            start_line.abort()

    if streams == 1:
        stream()
    else:
        workers = [threading.Thread(target=stream, daemon=True) for _ in range(streams)]
        try:
            for w in workers:
                w.start()
            for w in workers:
                w.join()
        finally:
            stop.set()
    for e in failures:
        if not isinstance(e, threading.BrokenBarrierError):
            raise e
    wall = max(end for _, end in ends) - min(begin for begin, _ in ends)
    enqueue = enqueue_seconds(engine, arrays) if engine.plan.device == "cpu" else None
    return Measured(tuple(latencies), wall, enqueue)


def enqueue_seconds(engine: Engine, arrays: Sequence[np.ndarray]) -> float | None:
    """Median seconds of a call whose native run is a no-op; None for a plan with host steps, whose calls are Python
    throughout.
    """
    context = engine.context()
    context._execute(arrays, None)
    (bound,) = context._bound.values()
    if not bound.single:
        return None
    context._run = lambda handle, bindings: 0
    durations = []
    for _ in range(_ENQUEUE_CALLS):
        start = time.perf_counter()
        context._execute(arrays, None)
        durations.append(time.perf_counter() - start)
    return median(sorted(durations))


def _check_peers(names: Sequence[str], source: Path | None) -> None:
    from temper.errors import ConfigError
    from temper.peers import PEERS, MissingPeer

    known = {p.name: p for p in PEERS}
    for name in names:
        if name not in known:
            raise ConfigError(f"--vs {name}: there is no such peer; choose from {', '.join(known)}")
        try:
            known[name].version  # noqa: B018
        except MissingPeer as e:
            raise ConfigError(f"--vs {name} cannot be imported ({e}): pip install 'temper-rt[bench]'") from e
    if source is None:
        raise ConfigError("--vs needs the model the plan was built from: add --model FILE.onnx")


def _pin(engine_file: Path, threads: int) -> int:
    """Keeps this process to as many cores as threads, so that every engine has the same."""
    from temper.cli.files import is_plan
    from temper.peers import pin
    from temper.runtime.machine import cores

    if not threads and is_plan(engine_file):
        from temper.plan.file import read

        threads = read(engine_file).threads
    threads = min(threads or cores(), cores())
    pin(threads)
    return threads


def _versus(
    engine: Engine, feeds: Mapping[str, np.ndarray], source: Path, names: Sequence[str], threads: int, seconds: float
) -> list[dict[str, Any]]:
    import temper
    from temper.peers import PEERS, interleaved

    data = dict(feeds)
    runs: dict[str, Callable[[], object]] = {"temper": lambda: engine.run(data)}
    versions = {"temper": temper.__version__}
    for peer in PEERS:
        if peer.name in names:
            runner = _prepared(peer, source, threads)
            versions[peer.name] = peer.version
            runs[peer.name] = lambda runner=runner: runner(data)  # type: ignore[misc]
    timings = interleaved(runs, seconds)
    ours = timings["temper"].median
    return [
        {
            "name": name,
            "version": versions[name],
            "median_ms": t.median,
            "p10_ms": t.p10,
            "p90_ms": t.p90,
            "min_ms": t.best,
            "calls": t.calls,
            "others_cores": t.others,
            "times_temper": t.median / ours,
        }
        for name, t in timings.items()
    ]


def _prepared(peer: Any, source: Path, threads: int) -> Any:
    """The peer's runner. DataError where it cannot load the model: its exceptions are of its own kinds."""
    from temper.errors import DataError

    try:
        return peer.prepare(source, threads)
    except (RuntimeError, ValueError, OSError) as e:
        raise DataError(f"{peer.name} cannot load {source}: {str(e).splitlines()[0]}") from e


def _layers(engine: Engine, feeds: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
    rows = engine.report.get("regions", [])
    out = []
    for t in engine.profile_layers(dict(feeds)):
        row = rows[t.report] if 0 <= t.report < len(rows) else {}
        out.append(
            {
                "name": t.name,
                "op": "+".join(row.get("nodes", [])),
                "tactic": row.get("tactic", ""),
                "us": 1e6 * t.seconds,
                "gflops": row.get("operations", 0) / t.seconds / 1e9 if t.seconds else 0.0,
                "host": t.host,
            }
        )
    return out


def _print(screen: Any, out: Mapping[str, Any]) -> None:
    from temper.cli.show import facts, table

    for note in out["notes"]:
        screen.print(f"note: {note}", markup=False)
    where = f"{out['threads']} thread(s)" if out["device"] == "cpu" else out["device"]
    if "runs" in out:
        runs = out["runs"]
        columns = [c for c in COLUMNS if any(c[1](r) is not None for r in runs)]
        screen.print(
            table(
                tuple(title for title, _, _ in columns),
                [tuple(_text(value(r), form) for _, value, form in columns) for r in runs],
                title=f"{out['file']}: {where}",
            )
        )
    else:
        shapes = ", ".join(f"{k} {v}" for k, v in out["inputs"].items())
        ms = out["latency_ms"]
        lines: list[tuple[str, object]] = [
            ("engine", f"{out['file']}: {where}, {out['streams']} stream(s), {shapes}"),
            ("throughput", f"{out['throughput_qps']:.2f} qps ({out['calls']} calls in {out['wall_s']:.2f} s)"),
            ("latency", ", ".join(f"{k} {ms[k]:.4f} ms" for k in ("min", "max", "mean", "median"))),
            ("", ", ".join(f"{k} {ms[k]:.4f} ms" for k in ("p90", "p95", "p99"))),
        ]
        if "to_device_ms" in out:
            moved = f"{out['to_device_ms']:.4f} ms to the GPU, {out['to_host_ms']:.4f} ms back"
            lines.append(("transfers", f"{moved}; a call with numpy arrays {out['call_ms']:.4f} ms"))
        enqueue = out["enqueue_ms"]
        lines.append(("enqueue", "- (the plan has host steps)" if enqueue is None else f"{enqueue:.4f} ms"))
        screen.print(facts(lines))
    if "layers" in out:
        total = sum(x["us"] for x in out["layers"]) or 1.0
        screen.print(
            table(
                ("layer", "ops", "us", "share %", "GFLOPS", "tactic"),
                [
                    (
                        x["name"],
                        x["op"],
                        f"{x['us']:.1f}",
                        f"{100 * x['us'] / total:.1f}",
                        f"{x['gflops']:.1f}",
                        x["tactic"],
                    )
                    for x in out["layers"]
                ],
                title=f"layers, least of 20 runs, {total / 1e3:.3f} ms together",
            )
        )
    if "vs" in out:
        screen.print(
            table(
                ("engine", "version", "median ms", "p10", "p90", "min", "calls", "time / Temper's"),
                [
                    (
                        v["name"],
                        v["version"],
                        f"{v['median_ms']:.4f}",
                        f"{v['p10_ms']:.4f}",
                        f"{v['p90_ms']:.4f}",
                        f"{v['min_ms']:.4f}",
                        v["calls"],
                        f"{v['times_temper']:.2f}x",
                    )
                    for v in out["vs"]
                ],
                title=f"in turn, {out['threads']} thread(s) on as many cores",
            )
        )
        if out["vs"][0]["others_cores"] > 0.2:
            screen.print(
                f"note: other processes used {out['vs'][0]['others_cores']:.2f} of these cores meanwhile", markup=False
            )
