"""A GPU as a place to tune for: cubins compiled in worker processes, verified between guard bytes and timed in graphs.

Without a GPU (`Cuda(None)`) kernels are compiled for a level and left unverified and untimed; the first predicted wins.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

import numpy as np

from temper.compile.processes import at_once
from temper.compile.triton import Cubin, triton_version
from temper.compile.triton_worker import compile_all
from temper.errors import BuildError, DeviceError
from temper.ir.dims import evaluate
from temper.plan.cubins import DeviceFunction
from temper.runtime.cuda.driver import Gpu, Memory, Stream
from temper.runtime.cuda.launch import Functions, Graph, LaunchCall
from temper.tactics.base import Kernel, Workload
from temper.tactics.cuda.kernel import TritonKernel
from temper.tune.measure import Guarded, blank
from temper.tune.select import Candidate, Task
from temper.tune.timing_cache import Record
from temper.tune.verify import Problem, make_problem, mismatch

#: Launches in a timed graph: enough to hide the graph's own start.
_REPEATS = 20
#: Timed graphs of a candidate; the first look takes as many, finalists five times more.
_LAPS = 5
#: A candidate this much slower than the best after a first look is not timed further.
_DROP = 1.25

#: Kernels a compiler process gets at once, at most.
_BATCH = 16

_LENGTH = struct.Struct("<I")

#: What is kept of a compiled kernel besides its code.
_FACTS = ("entry", "threads", "shared", "scratch", "clusters", "registers", "frame", "waits")


def to_bytes(cubins: Sequence[Cubin]) -> bytes:
    """A compiled kernel's functions, in order, with what their launches need, as the timing cache keeps them."""
    out = b""
    for c in cubins:
        facts = {k: getattr(c, k) for k in _FACTS}
        head = json.dumps({**facts, "bytes": len(c.data)}, sort_keys=True).encode()
        out += _LENGTH.pack(len(head)) + head + c.data
    return out


def from_bytes(data: bytes) -> dict[str, DeviceFunction]:
    """Inverse of `to_bytes`: functions by entry."""
    out, at = {}, 0
    while at < len(data):
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        facts = json.loads(data[at : at + length])
        size, at = facts.pop("bytes"), at + length
        out[facts["entry"]] = DeviceFunction(cubin=data[at : at + size], **facts)
        at += size
    return out


class Cuda:
    """One GPU, or a level to compile for where there is none."""

    comment = "#"
    suffix = ".py"

    def __init__(self, gpu: Gpu | None) -> None:
        self.gpu = gpu

    @cached_property
    def compiler(self) -> str:
        return f"{triton_version()}, kernels that wait"  # what is added to the sources changes the code

    @cached_property
    def _stream(self) -> Stream:
        assert self.gpu is not None
        return Stream(self.gpu)

    def compile(self, kernels: Mapping[str, Kernel], isa: str, jobs: int) -> Iterator[tuple[str, bytes]]:
        """Cubins by key. jobs: worker processes, 0 for one per core; Triton's settings are per process."""
        sources = {key: k.sources for key, k in kernels.items() if isinstance(k, TritonKernel)}
        if len(sources) != len(kernels):
            raise BuildError("a kernel without Triton source cannot be compiled for a GPU")
        keys, workers = list(sources), jobs or os.cpu_count() or 1
        # a process takes a second to start; several turns each even out how long kernels take
        size = max(1, min(_BATCH, -(-len(keys) // (2 * workers))))
        batches = [keys[i : i + size] for i in range(0, len(keys), size)]
        with at_once(workers) as (pool, processes):
            futures = [pool.submit(compile_all, [s for k in b for s in sources[k]], isa, processes) for b in batches]
            for batch, f in zip(batches, futures, strict=True):
                made = iter(f.result())
                yield from ((key, to_bytes([next(made) for _ in sources[key]])) for key in batch)

    def judge(
        self, task: Task, codes: Sequence[tuple[Candidate, bytes]], cold_bytes: int, timed: bool
    ) -> Iterator[tuple[Candidate, Record]]:
        """Outcomes: wrong ones first, then the times of all others, taken in turns."""
        if self.gpu is None:
            yield from ((c, Record(0.0)) for c, _ in codes)
            return
        self.gpu.enter()
        problem = make_problem(task.workload, task.constants, task.env, operand_constants=task.operand_constants)
        bench = DeviceBench(self.gpu, self._stream, task.workload, problem, cold_bytes)
        running: list[tuple[Candidate, DeviceWatch]] = []
        for c, code in codes:
            assert isinstance(c.kernel, TritonKernel)
            functions = Functions(self.gpu, from_bytes(code))
            packed = c.tactic.prepack(task.workload, c.params, task.constants)
            try:
                wrong = bench.verify(c.kernel, functions, packed)
                if wrong is None and timed:
                    running.append((c, DeviceWatch(bench, c.kernel, functions, packed)))
                    running[-1][1].lap(_LAPS)
            except DeviceError as e:  # such as more shared memory than this chip has: the candidate is out
                wrong = f"does not run: {e}"
                running = [r for r in running if r[0] is not c]
            if wrong is not None:
                yield c, Record(None, wrong if wrong.startswith("does not run") else f"wrong result: {wrong}")
            elif not timed:
                yield c, Record(0.0)
        if running:
            best = min(w.seconds for _, w in running)
            finalists = [w for _, w in running if w.seconds <= _DROP * best]
            for _ in range(5):
                for w in finalists:
                    w.lap(_LAPS)
        for c, w in running:
            yield c, Record(w.seconds)


class DeviceBench:
    """Device buffers of one problem, each with guard bytes around it, shared by all candidates of its workload."""

    def __init__(self, gpu: Gpu, stream: Stream, w: Workload, problem: Problem, cold_bytes: int) -> None:
        self.gpu, self.stream, self.w, self.problem, self.cold_bytes = gpu, stream, w, problem, cold_bytes
        self._inputs = [
            None if x is None else _OnDevice(gpu, Guarded(x, s.row_stride if s else None))
            for x, s in zip(problem.inputs, w.inputs, strict=True)
        ]
        self._operands = [
            None if x is None else _OnDevice(gpu, Guarded(x, o.row_stride))
            for x, o in zip(problem.operands, w.epilogue.operands, strict=True)
        ]

    def outputs(self) -> list[_OnDevice]:
        return [
            _OnDevice(self.gpu, Guarded(blank(y), s.row_stride))
            for y, s in zip(self.problem.want, self.w.outputs, strict=True)
        ]

    def calls(
        self, k: TritonKernel, functions: Functions, packed: Sequence[int], outputs: Sequence[_OnDevice], shared: int
    ) -> list[LaunchCall]:
        """The launches with these buffers."""

        def pointer(kind: str, i: int) -> int:
            if kind in ("input", "operand"):
                found = (self._inputs if kind == "input" else self._operands)[i]
                return 0 if found is None else found.address
            return packed[i] if kind == "packed" else outputs[i].address if kind == "output" else shared

        env = self.problem.env
        pointers = [pointer(kind, i) for kind, i in k.args]
        sizes = [env[s] for s in k.symbols]
        return [
            LaunchCall(functions, e, pointers, sizes, evaluate(g, env), e)
            for e, g in zip(k.entries, k.grids, strict=True)
        ]

    def shared(self, k: TritonKernel) -> Memory:
        return self.gpu.allocate(evaluate(k.shared_workspace, self.problem.env), "shared scratch")

    def verify(self, k: TritonKernel, functions: Functions, packed: Sequence[np.ndarray]) -> str | None:
        """None if every output is right and no byte outside was touched; otherwise what is wrong."""
        outputs, shared = self.outputs(), self.shared(k)
        blocks = [_OnDevice(self.gpu, Guarded(np.ascontiguousarray(a).reshape(-1), None)) for a in packed]
        for call in self.calls(k, functions, [b.address for b in blocks], outputs, shared.address):
            call.run(self.stream.handle)
        self.stream.wait(f"running {k.entries[0]}")
        groups: dict[str, Sequence[_OnDevice | None]] = {
            "output": outputs,
            "input": self._inputs,
            "operand": self._operands,
            "packed constant": blocks,
        }
        for name, group in groups.items():
            for i, buffer in enumerate(group):
                if buffer is not None and not buffer.fetched().intact:
                    return f"{name} {i}: wrote outside the tensor"
        arrays = (o.guarded.array for o in outputs)
        of = zip(arrays, self.problem.want, self.problem.bounds, self.w.outputs, strict=True)
        for i, (y, want, bound, slot) in enumerate(of):
            if (wrong := mismatch(y, want, bound, dtype=slot.type.dtype)) is not None:
                return f"output {i}: {wrong}"
        return None


class _OnDevice:
    """A guarded buffer's copy on the device."""

    def __init__(self, gpu: Gpu, guarded: Guarded) -> None:
        self.guarded = guarded
        self._memory = gpu.allocate(guarded.block.nbytes, "verification")
        self._memory.write(guarded.block)

    @property
    def address(self) -> int:
        return self._memory.address + self.guarded.start

    def fetched(self) -> Guarded:
        """The host's side, with what is on the device now."""
        self._memory.read(self.guarded.block)
        return self.guarded


class DeviceWatch:
    """One candidate, ready to be timed in turns with others: a graph of launches over rotating packed constants."""

    def __init__(
        self, bench: DeviceBench, k: TritonKernel, functions: Functions, packed: Sequence[np.ndarray]
    ) -> None:
        self._bench, self._outputs, self._shared = bench, bench.outputs(), bench.shared(k)
        total = sum(a.nbytes for a in packed)
        copies = max(1, min(_REPEATS, bench.cold_bytes // max(total, 1)))
        self._blocks = [[_uploaded(bench.gpu, a) for a in packed] for _ in range(copies)]
        calls = [
            call
            for i in range(_REPEATS)
            for call in bench.calls(
                k, functions, [m.address for m in self._blocks[i % copies]], self._outputs, self._shared.address
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
