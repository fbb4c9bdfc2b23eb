"""Runs one workload's kernels on a GPU: verified between guard bytes, then timed in turns by CUDA graphs."""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from temper.errors import DeviceError, DeviceMemoryError
from temper.ir.derived import Derived
from temper.ir.dims import evaluate
from temper.plan.cubins import DeviceFunction
from temper.runtime.cuda.driver import Gpu, Memory, Stream
from temper.runtime.cuda.launch import Functions, Graph, LaunchCall
from temper.tactics.base import Params, Tactic, Workload, packed
from temper.tactics.cuda.kernel import TritonKernel
from temper.tactics.workload import donated_operand
from temper.tune.measure import DROPPED, Guarded, blank
from temper.tune.select import Task
from temper.tune.timing_cache import Record
from temper.tune.verify import Problem, make_problem, mismatch

#: Multiplications that the reference takes, about: a fraction of a second.
_REFERENCE = 3e8
#: Launches in a timed graph: enough to hide the graph's own start.
_REPEATS = 20
#: Timed graphs of a candidate; the first look takes as many, finalists five times more.
_LAPS = 5


class _NoRoom:
    """What a first look finds where memory is short."""


@dataclass(frozen=True)
class CompiledCandidate:
    """A candidate of a workload with its machine code, by entry."""

    tactic: Tactic
    params: Params
    kernel: TritonKernel
    code: dict[str, DeviceFunction]


@dataclass(frozen=True)
class Began:
    """What `judge_here` is about to do: a candidate's number, or -1 where the GPU is not used."""

    number: int


def judge_here(
    gpu: Gpu, stream: Stream, task: Task, candidates: Sequence[CompiledCandidate], cold_bytes: int, timed: bool
) -> Iterator[Began | tuple[int, Record]]:
    """Outcomes by number: wrong ones first, then the times of all others, taken in turns. Says before every use of the
    GPU which candidate it is for.

    A DeviceError other than one of a candidate's own ends it: then the GPU is lost to this process.
    """
    yield Began(-1)
    gpu.enter()
    problem = make_problem(
        task.workload, task.constants, task.env, operand_constants=task.operand_constants, most=_REFERENCE
    )
    for constant in task.constants.values():
        constant.flags.writeable = False
    derived = Derived()  # many pack alike
    prepared = [packed(x.tactic, task.workload, x.params, task.constants, derived) for x in candidates]
    buffers = Buffers.of(task.workload, problem)
    with turn(gpu):
        yield from _judged(gpu, stream, task, buffers, candidates, prepared, cold_bytes, timed)


@contextmanager
def turn(gpu: Gpu) -> Iterator[None]:
    """Builds side by side on one GPU take turns at using it, so that none disturbs what another one times."""
    path = Path(tempfile.gettempdir()) / f"temper-{os.getuid()}-gpu-{gpu.bus}.lock"
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _judged(
    gpu: Gpu,
    stream: Stream,
    task: Task,
    buffers: Buffers,
    candidates: Sequence[CompiledCandidate],
    prepared: Sequence[Sequence[np.ndarray]],
    cold_bytes: int,
    timed: bool,
) -> Iterator[Began | tuple[int, Record]]:
    """As `judge_here`, with the GPU to itself. prepared: packed constants by candidate."""
    try:
        bench = DeviceBench(gpu, stream, task.workload, buffers, cold_bytes)
    except DeviceMemoryError as e:
        for i in range(len(candidates)):
            yield i, Record(None, f"the layer's own tensors do not fit: {e}", passing=True)
        return
    running: dict[int, DeviceWatch] = {}
    for i, (x, arrays) in enumerate(zip(candidates, prepared, strict=True)):
        yield Began(i)
        try:
            try:
                found: str | _NoRoom | None = _first_look(bench, x, arrays, running, i, timed)
            except DeviceMemoryError:
                found = _NoRoom()
            if isinstance(found, _NoRoom):  # for one at a time there may be: what was timed so far is settled
                yield from [(k, Record(settled.seconds)) for k, settled in running.items()]
                running.clear()
                bench.forget()
                found = _first_look(bench, x, arrays, running, i, timed)
            wrong = found
        except DeviceMemoryError as e:
            yield i, Record(None, f"does not fit: {e}", passing=True)
            continue
        except DeviceError as e:  # such as more shared memory than this chip has: the candidate is out
            if gpu.driver.fault:
                raise
            running.pop(i, None)
            wrong = f"does not run: {e}"
        if wrong is not None:
            yield i, Record(None, wrong if wrong.startswith("does not run") else f"wrong result: {wrong}")
        elif not timed:
            yield i, Record(0.0)
    if running:
        best = min(w.seconds for w in running.values())
        finalists = {i: w for i, w in running.items() if w.seconds <= DROPPED * best}
        for _ in range(5 if len(finalists) > 1 else 1):
            for i, w in finalists.items():
                yield Began(i)
                w.lap(_LAPS)
    for i, w in running.items():
        yield i, Record(w.seconds)


def _first_look(
    bench: DeviceBench,
    x: CompiledCandidate,
    packed: Sequence[np.ndarray],
    running: dict[int, DeviceWatch],
    number: int,
    timed: bool,
) -> str | None:
    """What is wrong with a candidate; where nothing is, it is timed briefly and among those running."""
    functions = Functions(bench.gpu, x.code)
    wrong = bench.verify(x.kernel, functions, packed)
    if wrong is None and timed:
        watch = DeviceWatch(bench, x.kernel, functions, packed)
        watch.lap(_LAPS)
        running[number] = watch
    return wrong


@dataclass(frozen=True)
class Buffers:
    """A problem with its tensors between guard bytes, outputs as they are before a kernel runs, on the host."""

    problem: Problem
    inputs: tuple[Guarded | None, ...]
    operands: tuple[Guarded | None, ...]
    outputs: tuple[Guarded, ...]

    @staticmethod
    def of(w: Workload, problem: Problem) -> Buffers:
        def guarded(x: np.ndarray | None, row_stride: int | None) -> Guarded | None:
            return None if x is None else Guarded(x, row_stride)

        inputs = zip(problem.inputs, (s.row_stride if s else None for s in w.inputs), strict=True)
        operands = zip(problem.operands, (o.row_stride for o in w.epilogue.operands), strict=True)
        outputs = zip(problem.whole(), w.outputs, strict=True)
        return Buffers(
            problem,
            tuple(guarded(x, stride) for x, stride in inputs),
            tuple(guarded(x, stride) for x, stride in operands),
            tuple(Guarded(blank(y), s.row_stride) for y, s in outputs),
        )


class DeviceBench:
    """Device buffers of one problem, each with guard bytes around it, shared by all candidates of its workload."""

    def __init__(self, gpu: Gpu, stream: Stream, w: Workload, buffers: Buffers, cold_bytes: int) -> None:
        self.gpu, self.stream, self.w, self.problem, self.cold_bytes = gpu, stream, w, buffers.problem, cold_bytes
        self._inputs = [None if g is None else _OnDevice(gpu, g) for g in buffers.inputs]
        self._operands = [None if g is None else _OnDevice(gpu, g) for g in buffers.operands]
        self._outputs = [_OnDevice(gpu, g) for g in buffers.outputs]
        #: by operand: a buffer in which it is written over
        self._taken: dict[int, _OnDevice] = {}
        #: what the outputs hold before a kernel runs
        self._blank = [_copied(gpu, o.memory, stream) for o in self._outputs]
        #: by the arrays' identities, with the arrays
        self._rotating: dict[tuple[int, ...], tuple[Sequence[np.ndarray], list[list[Memory]]]] = {}

    def calls(
        self, k: TritonKernel, functions: Functions, packed: Sequence[int], shared: int, lent: int | None = None
    ) -> list[LaunchCall]:
        """The launches with these buffers. lent: the operand whose buffer, a copy, is output 0's too."""
        if lent is not None and lent not in self._taken:
            x = self.problem.operands[lent]
            assert x is not None
            self._taken[lent] = _OnDevice(self.gpu, Guarded(x, None))

        def pointer(kind: str, i: int) -> int:
            if lent is not None and (kind, i) in (("operand", lent), ("output", 0)):
                return self._taken[lent].address
            if kind in ("input", "operand"):
                found = (self._inputs if kind == "input" else self._operands)[i]
                return 0 if found is None else found.address
            return packed[i] if kind == "packed" else self._outputs[i].address if kind == "output" else shared

        env = self.problem.env
        pointers = [pointer(kind, i) for kind, i in k.args]
        sizes = [env[s] for s in k.symbols]
        return [
            LaunchCall(functions, e, pointers, sizes, evaluate(g, env), e)
            for e, g in zip(k.entries, k.grids, strict=True)
        ]

    def rotating(self, packed: Sequence[np.ndarray], copies: int) -> list[list[Memory]]:
        """Copies of packed constants, which candidates that pack alike share."""
        key = tuple(map(id, packed))
        if key not in self._rotating:
            first = [_uploaded(self.gpu, a) for a in packed]
            more = [[_copied(self.gpu, m, self.stream) for m in first] for _ in range(copies - 1)]
            self._rotating[key] = packed, [first, *more]
        return self._rotating[key][1]

    def forget(self) -> None:
        """Frees the copies that no candidate uses."""
        self._rotating.clear()

    def shared(self, k: TritonKernel) -> Memory:
        return self.gpu.allocate(evaluate(k.shared_workspace, self.problem.env), "shared scratch")

    def verify(self, k: TritonKernel, functions: Functions, packed: Sequence[np.ndarray]) -> str | None:
        """None if every output is right and no byte outside was touched; otherwise what is wrong."""
        shared = self.shared(k)
        for output, before in zip(self._outputs, self._blank, strict=True):
            output.fill(before, self.stream)
        blocks = [_OnDevice(self.gpu, Guarded(np.ascontiguousarray(a).reshape(-1), None)) for a in packed]
        for call in self.calls(k, functions, [b.address for b in blocks], shared.address):
            call.run(self.stream.handle)
        self.stream.wait(f"running {k.entries[0]}")
        groups: dict[str, Sequence[_OnDevice | None]] = {
            "output": self._outputs,
            "input": self._inputs,
            "operand": self._operands,
            "packed constant": blocks,
        }
        for name, group in groups.items():
            for i, buffer in enumerate(group):
                if buffer is not None and not buffer.intact():
                    return f"{name} {i}: wrote outside the tensor"
        arrays = [o.fetched(self.problem.rows) for o in self._outputs]
        of = zip(arrays, self.problem.want, self.problem.bounds, self.w.outputs, strict=True)
        for i, (y, want, bound, slot) in enumerate(of):
            if (wrong := mismatch(y, want, bound, dtype=slot.type.dtype)) is not None:
                return f"output {i}: {wrong}"
        return None


class _OnDevice:
    """A guarded buffer's copy on the device."""

    def __init__(self, gpu: Gpu, guarded: Guarded) -> None:
        self.guarded = guarded
        self.memory = gpu.allocate(guarded.block.nbytes, "verification")
        self.memory.write(guarded.block)

    @property
    def address(self) -> int:
        return self.memory.address + self.guarded.start

    def fill(self, source: Memory, stream: Stream) -> None:
        """Copies a block of the same size on the device into this one."""
        gpu = self.memory.gpu
        gpu.driver("cuMemcpyDtoDAsync", self.memory.address, source.address, source.nbytes, stream.handle)

    def intact(self) -> bool:
        """True if nothing outside the tensor changed on the device."""
        g = self.guarded
        if g.dense:
            before, after = g.guards
            self.memory.read(before)
            self.memory.read(after, g.block.nbytes - after.nbytes)
        else:
            self.memory.read(g.block)
        return g.intact

    def fetched(self, rows: np.ndarray | None) -> np.ndarray:
        """The tensor as it is on the device. rows: indices of its first axis to take; None for all."""
        g = self.guarded
        if rows is None or not g.dense:
            self.memory.read(g.block)
            return g.array if rows is None else g.array[rows]
        out = np.empty((len(rows), *g.shape[1:]), g.dtype)
        for k, i in enumerate(rows):
            part = out[k : k + 1]
            self.memory.read(part, g.start + int(i) * part.nbytes)
        return out


class DeviceWatch:
    """One candidate, ready to be timed in turns with others: a graph of launches over rotating packed constants, which
    write over an operand where a plan's would: whether lines are read and written whole matters more there."""

    def __init__(
        self, bench: DeviceBench, k: TritonKernel, functions: Functions, packed: Sequence[np.ndarray]
    ) -> None:
        self._bench, self._shared = bench, bench.shared(k)
        total, lent = sum(a.nbytes for a in packed), donated_operand(bench.w, k)
        copies = max(1, min(_REPEATS, bench.cold_bytes // max(total, 1)))
        self._blocks = bench.rotating(packed, copies)
        calls = [
            call
            for i in range(_REPEATS)
            for call in bench.calls(
                k, functions, [m.address for m in self._blocks[i % copies]], self._shared.address, lent
            )
            if call.grid
        ]
        self._graph = Graph(bench.gpu, calls)
        self._samples: list[float] = []
        bench.stream.seconds(self._graph)

    def lap(self, count: int) -> None:
        """Adds samples, each of one graph."""
        self._samples += [self._bench.stream.seconds(self._graph) / _REPEATS for _ in range(count)]

    @property
    def seconds(self) -> float:
        return float(np.median(self._samples))


def _uploaded(gpu: Gpu, array: np.ndarray) -> Memory:
    memory = gpu.allocate(array.nbytes, "packed constants")
    memory.write(array)
    return memory


def _copied(gpu: Gpu, source: Memory, stream: Stream) -> Memory:
    memory = gpu.allocate(source.nbytes, "packed constants")
    if source.nbytes:
        gpu.driver("cuMemcpyDtoDAsync", memory.address, source.address, source.nbytes, stream.handle)
    return memory
