"""Tuning on a GPU: cubins are compiled in worker processes and judged by another process, which a kernel may crash.

Without a GPU (`Cuda(None)`) kernels are compiled for a code level, and left unverified and untimed: the one with the
least predicted time is used.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import cached_property
from queue import SimpleQueue
from threading import Lock

from temper.compile.triton import Cubin, triton_version
from temper.compile.triton_worker import Compilers
from temper.errors import BuildError
from temper.plan.cubins import DeviceFunction
from temper.runtime import machine
from temper.runtime.cuda.driver import Gpu
from temper.tactics.base import Kernel
from temper.tactics.cuda.kernel import TritonKernel
from temper.tune.candidates import Candidate
from temper.tune.cuda_bench import CompiledCandidate
from temper.tune.cuda_judge import Judge
from temper.tune.select import Task
from temper.tune.timing_cache import Record

_LENGTH = struct.Struct("<I")

#: Processes that judge.
_JUDGES = 2

#: What is kept of a compiled kernel besides its code.
_FACTS = ("entry", "threads", "shared", "scratch", "clusters", "registers", "frame", "waits", "scratch_bytes")


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
    overlaps = True

    def __init__(self, gpu: Gpu | None) -> None:
        self.gpu = gpu
        #: one has the GPU while another computes what results should be and packs weights
        self.judges = _JUDGES if gpu is not None else 1
        self._idle: SimpleQueue[Judge] = SimpleQueue()
        self._judges: list[Judge] = []
        self._starting = Lock()
        self._compilers: Compilers | None = None

    @cached_property
    def compiler(self) -> str:
        return f"{triton_version()}, kernels that wait"  # what is added to the sources changes the code

    def compile(self, kernels: Mapping[str, Kernel], isa: str, jobs: int) -> Iterator[tuple[str, bytes | str]]:
        """Cubins by key, or why there is none; the work begins at once. jobs: worker processes, 0 for one per core."""
        sources = {key: k.sources for key, k in kernels.items() if isinstance(k, TritonKernel)}
        if len(sources) != len(kernels):
            raise BuildError("a kernel without Triton source cannot be compiled for a GPU")
        if self._compilers is None:
            self._compilers = Compilers(jobs or machine.cores())
        made = {key: self._compilers.submit(each, isa) for key, each in sources.items()}
        return ((key, _code(f)) for key, f in made.items())

    def judge(
        self, task: Task, codes: Sequence[tuple[Candidate, bytes]], cold_bytes: int, timed: bool
    ) -> Iterator[tuple[Candidate, Record]]:
        """Outcomes: those of wrong candidates, of some that fault or hang, and the times of all others."""
        if self.gpu is None:
            yield from ((c, Record(0.0)) for c, _ in codes)
            return
        candidates = []
        for c, code in codes:
            assert isinstance(c.kernel, TritonKernel)
            candidates.append(CompiledCandidate(c.tactic, c.params, c.kernel, from_bytes(code)))
        task = replace(task, also=(), prefers=None)
        judge = self._judge()
        try:
            for i, record in judge.outcomes(task, candidates, cold_bytes, timed):
                yield codes[i][0], record
        finally:
            self._idle.put(judge)

    def _judge(self) -> Judge:
        """One that is idle; all of them have their GPU before the first begins, as that disturbs what is timed.
        BuildError if none can have it; where there is room for fewer, these do."""
        with self._starting:
            if not self._judges:
                assert self.gpu is not None
                made = [Judge(self.gpu.index) for _ in range(self.judges)]
                for judge in made:
                    judge.start()
                failures = []
                for judge in made:
                    try:
                        judge.started()
                    except BuildError as e:
                        failures.append(e)
                    else:
                        self._judges.append(judge)
                        self._idle.put(judge)
                if not self._judges:
                    raise failures[0]
        return self._idle.get()

    def close(self) -> None:
        """Ends the processes that compile and the one that judges."""
        for judge in self._judges:
            judge.close()
        self._judges, self._idle = [], SimpleQueue()
        if self._compilers is not None:
            self._compilers.close()
            self._compilers = None


def _code(made: Future[list[Cubin | str]]) -> bytes | str:
    """What the timing cache keeps of a kernel, or why one of its functions does not compile."""
    cubins = made.result()
    failed = [c for c in cubins if isinstance(c, str)]
    return failed[0] if failed else to_bytes([c for c in cubins if isinstance(c, Cubin)])
