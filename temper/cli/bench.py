"""`temper bench`: trtexec's metrics with trtexec's definitions, alone or in turn with other engines.

Latency: host time of one call, arrays in to arrays out. Throughput: calls of all streams over the wall time between the
first call's start and the last one's end. Enqueue time: the part of a call spent in Python, measured by calls whose
native run is replaced by nothing. Percentile p: the largest latency when the slowest (100 - p) % are left out; median:
mean of the two middle ones for even counts.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    import numpy as np

    from temper.runtime.engine import Engine

_ENQUEUE_CALLS = 300


@dataclass(frozen=True)
class Measured:
    """Latencies in seconds by call, wall seconds they took together, and Python-side seconds of a call (None: has host
    steps).
    """

    latencies: tuple[float, ...]
    wall: float
    enqueue: float | None


def bench(
    engine_file: Annotated[
        Path, typer.Argument(metavar="PLAN|ONNX", help="Plan, or ONNX file to build in memory.", show_default=False)
    ],
    batch: Annotated[
        int, typer.Option(help="Batch size to run (and to build for); 0: the profile's best size.", min=0)
    ] = 0,
    threads: Annotated[int, typer.Option(help="Threads of one call; 0: as built, or all usable cores.", min=0)] = 0,
    streams: Annotated[int, typer.Option(help="Contexts that run at once, each in a thread of its own.", min=1)] = 1,
    duration: Annotated[float, typer.Option(help="Seconds to measure at least.", min=0)] = 3.0,
    warmup: Annotated[float, typer.Option(help="Milliseconds of calls before measuring.", min=0)] = 200.0,
    iterations: Annotated[int, typer.Option(help="Calls to measure at least.", min=1)] = 10,
    effort: Annotated[int, typer.Option(help="Effort of the build, for an ONNX file.", min=0, max=5)] = 2,
    vs: Annotated[str, typer.Option(help="Peers to take turns with: onnxruntime,openvino.", show_default=False)] = "",
    model: Annotated[
        Path | None, typer.Option(help="ONNX file for the peers when a plan is measured.", show_default=False)
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="Also measure every layer.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print results as JSON.")] = False,
) -> None:
    """Measure latency and throughput, with random inputs."""
    from temper.cli.engines import open_engine, random_feeds
    from temper.cli.files import is_plan
    from temper.cli.show import console, print_json
    from temper.errors import ConfigError

    peers = [p.strip() for p in vs.split(",") if p.strip()]
    source = model or (None if is_plan(engine_file) else engine_file)
    if peers:
        _check_peers(peers, source)
        if streams > 1:
            raise ConfigError("--vs compares single calls: leave --streams at 1")
        threads = _pin(engine_file, threads)
    engine = open_engine(
        engine_file, threads, effort=effort, batch=str(batch) if batch and not is_plan(engine_file) else ""
    )
    feeds = random_feeds(engine, batch)
    result = measure(engine, feeds, streams=streams, duration=duration, warmup=warmup / 1e3, iterations=iterations)
    out: dict[str, Any] = {
        "file": str(engine_file),
        "threads": engine.threads,
        "streams": streams,
        "inputs": {k: list(v.shape) for k, v in feeds.items()},
        **metrics(result),
        "notes": list(engine.remarks),
    }
    if layers:
        out["layers"] = _layers(engine, feeds)
    if peers:
        assert source is not None
        out["vs"] = _versus(engine, feeds, source, peers, engine.threads, max(duration, 0.5))
    if as_json:
        print_json(out)
    else:
        _print(console(), out)


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
    return Measured(tuple(latencies), wall, enqueue_seconds(engine, arrays))


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


def percentile(ordered: Sequence[float], p: int) -> float:
    """trtexec's: the slowest (100 - p) % of the calls, rounded down, are left out."""
    excluded = (100 - p) * len(ordered) // 100
    return ordered[max(len(ordered) - 1 - excluded, 0)]


def median(ordered: Sequence[float]) -> float:
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def metrics(m: Measured) -> dict[str, Any]:
    """JSON-able: throughput in calls per second, times in milliseconds."""
    ordered = sorted(m.latencies)
    latency = {
        "min": ordered[0],
        "max": ordered[-1],
        "mean": sum(ordered) / len(ordered),
        "median": median(ordered),
        **{f"p{p}": percentile(ordered, p) for p in (90, 95, 99)},
    }
    return {
        "calls": len(ordered),
        "wall_s": m.wall,
        "throughput_qps": len(ordered) / m.wall,
        "latency_ms": {k: 1e3 * v for k, v in latency.items()},
        "enqueue_ms": None if m.enqueue is None else 1e3 * m.enqueue,
    }


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
        from temper.plan.format import read

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
    ms = out["latency_ms"]
    shapes = ", ".join(f"{k} {v}" for k, v in out["inputs"].items())
    screen.print(
        facts(
            [
                ("engine", f"{out['file']}: {out['threads']} thread(s), {out['streams']} stream(s), {shapes}"),
                ("throughput", f"{out['throughput_qps']:.2f} qps ({out['calls']} calls in {out['wall_s']:.2f} s)"),
                ("latency", ", ".join(f"{k} {ms[k]:.4f} ms" for k in ("min", "max", "mean", "median"))),
                ("", ", ".join(f"{k} {ms[k]:.4f} ms" for k in ("p90", "p95", "p99"))),
                (
                    "enqueue",
                    "- (the plan has host steps)" if out["enqueue_ms"] is None else f"{out['enqueue_ms']:.4f} ms",
                ),
            ]
        )
    )
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
