"""`temper bench` of a GPU plan: graph replays between CUDA events, with arrays on the device; transfers apart.

Latency: device time from before a run's first kernel to after its last, waits for other streams' kernels included.
Throughput: runs of all streams over wall time. Enqueue time: what putting a run on its stream costs in Python.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from temper.cli.latency import Measured, median, metrics
from temper.runtime.cuda.context import CudaContext
from temper.runtime.cuda.driver import Event, Pinned
from temper.runtime.engine import Engine

#: Runs of a stream that may wait at once.
_AHEAD = 8
#: Where figures are warned about, as by trtexec: Python's part of a run, and the coefficient of variation.
_BUSY, _UNSTABLE = 0.8, 0.025
#: Repeats of a transfer, and bursts and calls of a burst when Python's share is measured.
_COPIES, _BURSTS, _BURST = 20, 20, 10


class Lane:
    """A context with its own arrays, and its runs on the way."""

    def __init__(self, engine: Engine, feeds: Mapping[str, np.ndarray]) -> None:
        context = engine.context()
        assert isinstance(context, CudaContext)
        self.context = context
        for name, x in feeds.items():
            context.set_input(name, context.upload(name, x))
        context.enqueue()
        context.synchronize()
        gpu = context.gpu
        self._idle = [(Event(gpu, timed=True), Event(gpu, timed=True)) for _ in range(_AHEAD)]
        self._running: deque[tuple[Event, Event]] = deque()
        self.latencies: list[float] = []
        self.runs = 0

    def run(self, timed: bool) -> None:
        """One more, after the oldest is done if too many are on the way. timed: between events."""
        if not self._idle:
            self._take()
        pair = self._idle.pop()
        stream = self.context.stream.handle
        if timed:
            pair[0].record(stream)
        self.context.enqueue()
        self.runs += 1
        if timed or self.runs % _AHEAD == 0:
            pair[1].record(stream)
            self._running.append(pair)
        else:
            self._idle.append(pair)
        self._timed = timed

    def _take(self) -> None:
        pair = self._running.popleft()
        pair[1].wait()
        if self._timed:
            self.latencies.append(pair[1].since(pair[0]))
        self._idle.append(pair)

    def finish(self) -> None:
        """Until all are done."""
        while self._running:
            self._take()
        self.context.synchronize()


def measure_gpu(
    engine: Engine, feeds: Mapping[str, np.ndarray], *, streams: int, duration: float, warmup: float, iterations: int
) -> dict[str, Any]:
    """JSON-able, as `bench.metrics`, and the milliseconds of transfers and of a call with numpy arrays."""
    lanes = [Lane(engine, feeds) for _ in range(streams)]
    _until(lanes, warmup, 1, True)
    for lane in lanes:
        lane.latencies.clear()
    _until(lanes, duration / 2, iterations, True)
    latencies = tuple(s for lane in lanes for s in lane.latencies)
    wall, runs = _until(lanes, duration / 2, iterations, False)
    found = metrics(Measured(latencies, wall, enqueue_seconds(lanes[0].context)))
    context = lanes[0].context
    outputs = [y.nbytes for y in context.outputs.values()]
    found |= {
        "calls": runs,
        "throughput_qps": runs / wall,
        "to_device_ms": 1e3 * copy_seconds(context, [x.nbytes for x in feeds.values()], True),
        "to_host_ms": 1e3 * copy_seconds(context, outputs, False),
        "call_ms": 1e3 * call_seconds(engine, feeds, iterations),
    }
    return {**found, "notes": warnings(found, streams, float(np.std(latencies)))}


def warnings(found: Mapping[str, Any], streams: int, deviation: float) -> list[str]:
    """What makes these figures less than they seem, as trtexec warns. deviation: of the latencies, in seconds."""
    latency = found["latency_ms"]
    compute, out = latency["median"], []
    if streams > 1:
        out.append("with several streams a latency includes waiting for the others: the throughput is what counts")
    elif 1e3 * deviation > _UNSTABLE * latency["mean"]:
        out.append(
            f"latencies vary by {1e5 * deviation / latency['mean']:.1f} % of their mean: the GPU's clock may be "
            "changing, or others use it"
        )
    if found["enqueue_ms"] > _BUSY * compute:
        out.append(
            f"Python takes {found['enqueue_ms'] / compute:.2f} of the GPU's time for a run: a larger batch, or several "
            "runs in one captured graph, would use it better"
        )
    for name, way in (("to_device_ms", "inputs to the GPU"), ("to_host_ms", "results back")):
        if found[name] >= compute:
            out.append(f"copying {way} takes longer than computing: keep arrays on the GPU, or let copies overlap")
    return out


def _until(lanes: Sequence[Lane], seconds: float, iterations: int, timed: bool) -> tuple[float, int]:
    """Runs in turn in all lanes, for so long and so many times each; wall seconds and runs."""
    before = sum(lane.runs for lane in lanes)
    start = time.perf_counter()
    count = 0
    while count < iterations or time.perf_counter() - start < seconds:
        for lane in lanes:
            lane.run(timed)
        count += 1
    for lane in lanes:
        lane.finish()
    return time.perf_counter() - start, sum(lane.runs for lane in lanes) - before


def enqueue_seconds(context: CudaContext) -> float:
    """Median of a run's time in Python, in bursts that the GPU's queue takes without waiting."""
    found = []
    for _ in range(_BURSTS):
        start = time.perf_counter()
        for _ in range(_BURST):
            context.enqueue()
        found.append((time.perf_counter() - start) / _BURST)
        context.synchronize()
    return median(sorted(found))


def copy_seconds(context: CudaContext, sizes: Sequence[int], to_device: bool) -> float:
    """Median of copying arrays of these bytes between pinned memory and the GPU."""
    gpu, stream, total = context.gpu, context.stream, max(1, sum(sizes))
    host, device = Pinned(gpu, total), gpu.allocate(total, "measuring transfers")
    start, end = Event(gpu, timed=True), Event(gpu, timed=True)
    name = "cuMemcpyHtoDAsync" if to_device else "cuMemcpyDtoHAsync"
    to, source = (device.address, host.address) if to_device else (host.address, device.address)
    found = []
    for _ in range(_COPIES):
        start.record(stream.handle)
        gpu.driver(name, to, source, total, stream.handle)
        end.record(stream.handle)
        end.wait()
        found.append(end.since(start))
    return median(sorted(found))


def call_seconds(engine: Engine, feeds: Mapping[str, np.ndarray], iterations: int) -> float:
    """Median of calls with numpy arrays, results in host memory included."""
    call: Callable[[], object] = lambda: engine.run(feeds)  # noqa: E731 - timed as users call it
    call()
    found = []
    for _ in range(max(iterations, 10)):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return median(sorted(found))
