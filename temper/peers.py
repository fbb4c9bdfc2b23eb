"""Other inference engines behind one small interface, and a fair way to time contenders against each other.

For `temper bench --vs`, `temper compare` and the benchmarks. Engines are imported when they are first asked for.
"""

from __future__ import annotations

import importlib
import os
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

AnyArray = npt.NDArray[Any]
Runner = Callable[[dict[str, AnyArray]], list[AnyArray]]


class MissingPeer(RuntimeError):
    """An engine that cannot be imported here; the message names it and says why."""


class Peer(ABC):
    """One engine.  ``version`` and ``prepare`` raise MissingPeer where its package cannot be imported."""

    name: str
    module: str

    def _import(self) -> Any:
        try:
            return importlib.import_module(self.module)
        except ImportError as error:
            raise MissingPeer(f"{self.name}: {error}") from error

    @property
    def version(self) -> str:
        return str(self._import().__version__).split("-")[0]  # without the build's commit

    @abstractmethod
    def prepare(self, model_path: Path | str, threads: int) -> Runner:
        """Load a model for ``threads`` CPU threads; the result maps input arrays by name to the output arrays.

        Returned arrays may be views of the engine's own buffers, valid until the next call.
        """


class OnnxRuntime(Peer):
    """ONNX Runtime's CPU provider, all graph optimizations, spinning left at its default (on)."""

    name = "onnxruntime"
    module = "onnxruntime"

    def prepare(self, model_path: Path | str, threads: int) -> Runner:
        ort = self._import()
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
        session = ort.InferenceSession(str(model_path), options, providers=["CPUExecutionProvider"])

        def run(inputs: dict[str, AnyArray]) -> list[AnyArray]:
            outputs: list[AnyArray] = session.run(None, inputs)
            return outputs

        return run

    def outputs(self, model: bytes, feeds: dict[str, AnyArray]) -> dict[str, AnyArray]:
        """A serialized model's outputs by name, each node computed as it stands, with no graph optimization.
        RuntimeError says why it cannot run the model."""
        ort = self._import()
        options = ort.SessionOptions()
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.log_severity_level = 4
        try:
            session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
            names = [o.name for o in session.get_outputs()]
            return dict(zip(names, session.run(names, feeds), strict=True))
        except self.errors as e:
            raise RuntimeError(str(e).splitlines()[0]) from e

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """What it raises for a model that it cannot load or run: these have no base class of their own."""
        self._import()
        state = importlib.import_module("onnxruntime.capi.onnxruntime_pybind11_state")
        return tuple(x for x in vars(state).values() if isinstance(x, type) and issubclass(x, Exception))


class OpenVino(Peer):
    """OpenVINO's CPU plugin for latency: one stream, one reused request, FP32 arithmetic (no silent BF16)."""

    name = "openvino"
    module = "openvino"

    def compile(self, model_path: Path | str, threads: int, **extra: object) -> Any:
        """The compiled model; ``extra`` adds CPU plugin properties such as ``PERF_COUNT``."""
        ov = self._import()
        properties = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": "f32",
            **extra,
        }
        return ov.Core().compile_model(str(model_path), "CPU", properties)

    def prepare(self, model_path: Path | str, threads: int) -> Runner:
        ov = self._import()
        request = self.compile(model_path, threads).create_infer_request()
        bound: dict[str, AnyArray] = {}

        def run(inputs: dict[str, AnyArray]) -> list[AnyArray]:
            for name, array in inputs.items():
                # Binding shares the caller's memory, so the same array needs binding only once.
                if bound.get(name) is not array:
                    request.set_tensor(name, ov.Tensor(np.ascontiguousarray(array), shared_memory=True))
                    bound[name] = array
            request.infer()
            return [tensor.data for tensor in request.output_tensors]

        return run


PEERS: tuple[Peer, ...] = (OnnxRuntime(), OpenVino())


@dataclass(frozen=True)
class Timing:
    """Latency of one call over ``calls`` timed calls: median, 10th and 90th percentile, minimum; milliseconds.

    ``others`` is what all other processes used of this process's cores meanwhile, in cores; above about 0.2,
    latencies (of several threads above all) say more about the neighbours than about the contender.
    """

    median: float
    p10: float
    p90: float
    best: float
    calls: int
    others: float


class NeighbourLoad:
    """Measures how much other processes (or a hypervisor) used this process's cores since construction; Linux only."""

    def __init__(self) -> None:
        self._cores = {f"cpu{core}" for core in os.sched_getaffinity(0)}
        self._start = time.perf_counter()
        self._busy = self._busy_seconds()

    def _busy_seconds(self) -> float:
        ticks = 0
        for line in Path("/proc/stat").read_text().splitlines():
            name, *fields = line.split()
            if name in self._cores:
                user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
                ticks += user + nice + system + irq + softirq + steal
        return ticks / os.sysconf("SC_CLK_TCK") - time.process_time()

    def cores(self) -> float:
        """Average number of busy cores."""
        return max(0.0, (self._busy_seconds() - self._busy) / (time.perf_counter() - self._start))


@dataclass(frozen=True)
class _Round:
    """One slice of every contender: call durations in seconds by contender, and the neighbours' load in cores."""

    samples: dict[str, list[float]]
    others: float


def interleaved(
    runs: Mapping[str, Callable[[], object]],
    seconds: float,
    slice_seconds: float = 0.1,
    warmup: int = 3,
    settle: int = 1,
    quiet: float = 0.2,
    patience: float = 3.0,
) -> dict[str, Timing]:
    """Time contenders in short alternating slices, so that interference from outside hits all of them alike.

    Every contender first makes ``warmup`` calls.  Each slice lasts about ``slice_seconds`` and at least one timed
    call, after ``settle`` untimed calls that refill caches and outlast the previous contender's spinning threads.
    The whole takes about ``seconds`` per contender.  A round of slices during which other processes used more than
    ``quiet`` of this process's cores is replaced by a later one, for up to ``patience`` times that duration; where
    quiet rounds stay scarce, the quietest quarter counts.  Rounds are chosen by that load, never by their latencies.
    """
    for run in runs.values():
        for _ in range(warmup):
            run()
    order = list(runs)
    rounds: list[_Round] = []
    budget = seconds * len(order)
    start, quiet_time = time.perf_counter(), 0.0
    while quiet_time < budget and time.perf_counter() - start < budget * patience:
        round_start, load = time.perf_counter(), NeighbourLoad()
        samples = {name: _slice(runs[name], slice_seconds, settle) for name in order}
        rounds.append(_Round(samples, load.cores()))
        if rounds[-1].others <= quiet:
            quiet_time += time.perf_counter() - round_start
        order.reverse()
    rounds.sort(key=lambda item: item.others)
    enough = -(-len(rounds) // 4)
    kept = max(enough, sum(item.others <= quiet for item in rounds))
    others = float(np.mean([item.others for item in rounds[:kept]]))
    return {name: summarize([t for item in rounds[:kept] for t in item.samples[name]], others) for name in runs}


def _slice(run: Callable[[], object], slice_seconds: float, settle: int) -> list[float]:
    """Durations in seconds of the calls that fit a slice, at least one."""
    for _ in range(settle):
        run()
    durations = []
    slice_end = time.perf_counter() + slice_seconds
    while True:
        start = time.perf_counter()
        run()
        now = time.perf_counter()
        durations.append(now - start)
        if now >= slice_end:
            return durations


def summarize(seconds: Sequence[float], others: float = 0.0) -> Timing:
    """Percentiles, in milliseconds, of call durations given in seconds."""
    values = 1e3 * np.asarray(seconds)
    p10, median, p90 = (float(value) for value in np.percentile(values, (10, 50, 90)))
    return Timing(median, p10, p90, float(values.min()), len(values), others)


def pin(threads: int, first_core: int | None = None) -> None:
    """Restrict this process to ``threads`` of its cores, from ``first_core`` on (default: the last ones).

    Call it before any engine is imported: worker threads inherit the mask that is in force when they start, and
    engines size their pools by it.
    """
    cores = sorted(os.sched_getaffinity(0))
    start = len(cores) - threads if first_core is None else cores.index(first_core)
    chosen = cores[start : start + threads] if start >= 0 else []
    if len(chosen) != threads:
        raise ValueError(f"cannot take {threads} of the cores {cores} from core {first_core}")
    os.sched_setaffinity(0, chosen)


def random_inputs(
    model_path: Path | str, seed: int = 1, sizes: Mapping[str, int] | None = None
) -> dict[str, AnyArray]:
    """Random arrays for a model's inputs: normal for floats; for integers zeros, and ones where the name says mask.

    sizes: of symbolic dimensions; 1 where not given.
    """
    import onnx

    graph = onnx.load(str(model_path), load_external_data=False).graph
    weights = {tensor.name for tensor in graph.initializer}
    rng = np.random.default_rng(seed)
    inputs: dict[str, AnyArray] = {}
    for value in graph.input:
        if value.name in weights:
            continue
        shape = [dim.dim_value or (sizes or {}).get(dim.dim_param, 1) for dim in value.type.tensor_type.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        floating = np.issubdtype(dtype, np.floating)
        constant = np.full(shape, "mask" in value.name.lower(), dtype)
        inputs[value.name] = rng.standard_normal(shape).astype(dtype) if floating else constant
    return inputs
