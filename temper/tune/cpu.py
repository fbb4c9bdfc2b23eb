"""Tuning on a CPU: kernels are compiled by clang, verified between guard bytes, and timed thread share by share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property

from temper.compile.cc import compile_object, compiler_version, link
from temper.compile.processes import at_once
from temper.runtime.cpu import Library
from temper.tactics.base import Kernel
from temper.tune.candidates import Candidate
from temper.tune.measure import DROPPED, Bench, Loaded, Stopwatch, timer_library
from temper.tune.select import Task
from temper.tune.timing_cache import Record
from temper.tune.verify import make_problem

#: Seconds that threads lose at a barrier inside a kernel: shares are timed one after another and do not see it.
_BARRIER = 1.5e-6


class Cpu:
    """This machine's processor."""

    comment = "//"
    suffix = ".c"
    overlaps = False
    judges = 1

    @cached_property
    def compiler(self) -> str:
        return compiler_version()

    @cached_property
    def _timer(self) -> Library:
        return timer_library()

    def compile(self, kernels: Mapping[str, Kernel], isa: str, jobs: int) -> Iterator[tuple[str, bytes]]:
        """Objects by key. jobs: compilers at once, 0 for one per core."""
        with at_once(jobs) as (pool, processes):
            futures = {
                key: pool.submit(compile_object, k.source, isa, processes=processes) for key, k in kernels.items()
            }
            for key, f in futures.items():
                yield key, f.result()

    def judge(
        self, task: Task, codes: Sequence[tuple[Candidate, bytes]], cold_bytes: int, timed: bool
    ) -> Iterator[tuple[Candidate, Record]]:
        """Outcomes: wrong ones first, then the times of all others, taken in turns."""
        w = task.workload
        library = Library(link([code for _, code in codes]))
        problem = make_problem(w, task.constants, task.env, operand_constants=task.operand_constants)
        bench = Bench(w, problem, self._timer, w.threads, cold_bytes)
        running: list[tuple[Candidate, Stopwatch]] = []
        for c, _ in codes:
            loaded = Loaded(c.kernel, tuple(library.function(e) for e in c.kernel.entries))
            packed = c.tactic.prepack(w, c.params, task.constants)
            factor = float(getattr(c.tactic, "error_factor", lambda p: 1.0)(c.params))
            wrong = bench.verify(loaded, packed, factor, max(2, w.threads))
            if wrong is not None:
                yield c, Record(None, f"wrong result: {wrong}")
            elif not timed:
                yield c, Record(0.0)
            else:
                running.append((c, bench.stopwatch(loaded, packed)))
        for _, watch in running:
            watch.lap(0.002)
        if running:
            best = min(s.seconds for _, s in running)
            finalists = [(c, s) for c, s in running if s.seconds <= DROPPED * best]
            for _ in range(4):
                for _, watch in finalists:
                    watch.lap(0.004)
        for c, watch in running:
            barriers = (len(c.kernel.entries) - 1) * _BARRIER if w.threads > 1 else 0.0
            yield c, Record(watch.seconds + barriers)

    def close(self) -> None:
        """Nothing runs for it."""
