"""Kernels of the GPU's tactics for the op library's cases: what the interpreter and a real GPU both run.

    python -m tests.tactics.cuda.trials [--record FILE] [OP ...]

runs them on this machine's GPU, between guard bytes, in several processes, and prints what is wrong and how many there
were of each tactic.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from temper.compile.processes import at_once
from temper.compile.triton import Cubin, triton_version
from temper.compile.triton_worker import compile_all
from temper.errors import TemperError
from temper.plan.cubins import DeviceFunction
from temper.runtime.cuda.driver import Gpu, Stream
from temper.runtime.cuda.launch import Functions
from temper.tactics.base import Params, Tactic
from temper.tactics.cuda.kernel import TritonKernel
from temper.tactics.sources import cuda_tactics
from temper.tune.cuda import from_bytes, to_bytes
from temper.tune.cuda_bench import DeviceBench
from tests.ops.cases import CASES, cases_of
from tests.tactics.regions import Subject, Variant, subjects, variants

#: Ops whose layout adds no transposes of interest.
_MOVING = ("Transpose", "DepthToSpace", "SpaceToDepth", "ConvTranspose")

#: Ops whose kernels take the interpreter long, of which it runs one case in so many.
_LONG = {"Recurrence": 5}

#: Kernels a compiler process gets at once.
_BATCH = 12
#: In place of a tactic's name: what a run had no time for.
_LEFT = "left"


@dataclass(frozen=True)
class Trial:
    """One kernel to be checked."""

    subject: Subject
    tactic: Tactic
    params: Params
    kernel: TritonKernel

    @property
    def name(self) -> str:
        parameters = " ".join(f"{k}={v}" for k, v in self.params)
        return f"{self.subject.name}: {self.tactic.name} {parameters}"


def ops() -> list[str]:
    """Ops of which some case has a kernel, and the pointwise ones."""
    return sorted({c.op for c in CASES})


def trials(op: str, isa: str, every: bool = False) -> Iterator[Trial]:
    """Kernels of an op's cases, plain and with one difficulty added, each with one of its tactic's parameter sets.

    every: of all cases, however long the interpreter would take."""
    seen: set[str] = set()
    harder = tuple(variants())
    for case in cases_of(op):
        number = zlib.crc32(case.name.encode())
        if number % _LONG.get(op, 1) and not every:
            continue
        stored = ("", "float16", "bfloat16")[number // 7 % 3]
        for variant in (Variant(), replace(harder[number % len(harder)], stored=stored)):
            for s in subjects(case, isa, variant):
                if (s.region.op == "Transpose" and op not in _MOVING) or s.workload.key in seen:
                    continue
                seen.add(s.workload.key)
                yield from _of(s, number)


def _of(s: Subject, number: int) -> Iterator[Trial]:
    for tactic in cuda_tactics():
        if s.workload.op not in tactic.ops or tactic.accepts(s.workload) is not None:
            continue
        candidates = list(tactic.candidates(s.workload))
        assert candidates and len(set(candidates)) == len(candidates), f"{s.name}: {tactic.name} repeats parameters"
        params = candidates[number % len(candidates)]
        assert tactic.predict(s.workload, params) > 0
        entry = zlib.crc32(f"{s.workload.key} {tactic.name}".encode())
        kernel = tactic.generate(s.workload, params, f"k{entry:08x}")
        assert isinstance(kernel, TritonKernel)
        yield Trial(s, tactic, params, kernel)


@dataclass(frozen=True)
class Outcome:
    """What became of a trial on a GPU: wrong is None where all is right."""

    op: str
    tactic: str
    name: str
    wrong: str | None


def distinct(names: Sequence[str], isa: str) -> list[tuple[str, Trial]]:
    """The trials of these ops, with their ops; of equal workloads the first. One of each op and tactic comes before
    the second of any, so that a run cut short has seen all."""
    seen: dict[tuple[str, str], tuple[str, Trial]] = {}
    for op in names:
        for t in trials(op, isa):
            seen.setdefault((t.subject.workload.key, t.tactic.name), (op, t))
    turn: Counter[tuple[str, str]] = Counter()
    ranked = []
    for op, t in seen.values():
        ranked.append((turn[op, t.tactic.name], len(ranked), op, t))
        turn[op, t.tactic.name] += 1
    return [(op, t) for _, _, op, t in sorted(ranked, key=lambda r: r[:2])]


def _compiled(chosen: Sequence[Trial], isa: str, jobs: int) -> Iterator[dict[str, DeviceFunction] | str]:
    """The code of every trial's kernel, or why it does not compile, in order."""
    with at_once(jobs) as (pool, processes):

        def batch(part: Sequence[Trial]) -> list[dict[str, DeviceFunction] | str]:
            made = iter(compile_all([s for t in part for s in t.kernel.sources], isa, processes))
            out: list[dict[str, DeviceFunction] | str] = []
            for t in part:
                own = [next(made) for _ in t.kernel.sources]
                words = [c for c in own if isinstance(c, str)]
                code = from_bytes(to_bytes([c for c in own if isinstance(c, Cubin)]))
                out.append(f"does not compile: {words[0][:600]}" if words else code)
            return out

        parts = [chosen[i : i + _BATCH] for i in range(0, len(chosen), _BATCH)]
        futures = [pool.submit(batch, part) for part in parts]
        try:
            for made in futures:
                yield from made.result()
        finally:  # whoever asks may have enough
            for made in futures:
                made.cancel()


def on_device(names: Sequence[str], jobs: int, seconds: float) -> Iterator[Outcome]:
    """Checks the kernels of these ops on this machine's GPU, until the time is up. Ends early where a kernel takes the
    context with it."""
    gpu, end = Gpu(), time.monotonic() + seconds
    stream = Stream(gpu)
    chosen = distinct(names, gpu.isa)
    codes = _compiled([t for _, t in chosen], gpu.isa, jobs)
    for k, ((op, t), code) in enumerate(zip(chosen, codes, strict=True)):
        if time.monotonic() > end:
            yield Outcome(op, _LEFT, f"{len(chosen) - k} kernels were not reached", None)
            break
        try:
            if isinstance(code, str):
                wrong: str | None = code
            else:
                bench = DeviceBench(gpu, stream, t.subject.workload, t.subject.problem(), 1)
                packed = t.tactic.prepack(t.subject.workload, t.params, t.subject.constants())
                wrong = bench.verify(t.kernel, Functions(gpu, code), packed)
        except TemperError as e:
            wrong = str(e)
        yield Outcome(op, t.tactic.name, t.name, None if wrong is None else f"{wrong}\n    {t.subject.workload.key}")
        if wrong is not None and ("ILLEGAL" in wrong or "MISALIGNED" in wrong):
            break


def _share(names: Sequence[str], jobs: int, seconds: float) -> None:
    """A process of its own: one line of JSON for every outcome."""
    for outcome in on_device(names, jobs, seconds):
        print(json.dumps(asdict(outcome)), flush=True)


def _shared_out(names: Sequence[str], shares: int, jobs: int, seconds: float) -> Iterator[Outcome]:
    """Outcomes of all shares, each run by a process with a context of its own."""
    command = [sys.executable, "-m", "tests.tactics.cuda.trials", f"--jobs={jobs}", f"--seconds={seconds}", "--share"]
    running = [
        subprocess.Popen([*command, *names[i::shares]], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for i in range(shares)
        if names[i::shares]
    ]
    with ThreadPoolExecutor(len(running)) as pool:
        for p, (out, err) in zip(running, pool.map(lambda p: p.communicate(), running), strict=True):
            yield from (Outcome(**json.loads(line)) for line in out.splitlines() if line.startswith("{"))
            if p.returncode:
                yield Outcome("", "", "a share ended early", err[-2000:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("ops", nargs="*")
    parser.add_argument("--share", action="store_true", help="one process: print outcomes as JSON")
    parser.add_argument("--jobs", type=int, default=0, help="compilers of a process at once")
    parser.add_argument("--seconds", type=float, default=1e6, help="stop after so long, and say what is left")
    parser.add_argument("--record", type=Path, help="write what was run to this file")
    given = parser.parse_args()
    names, cores = given.ops or ops(), os.cpu_count() or 1
    if given.share:
        _share(names, given.jobs or cores, given.seconds)
        return
    start = time.perf_counter()
    shares = max(1, min(8, cores // 2, len(names)))
    outcomes = list(_shared_out(names, shares, given.jobs or max(1, cores // shares), given.seconds))
    found, left = [o for o in outcomes if o.tactic != _LEFT], [o for o in outcomes if o.tactic == _LEFT]
    wrong = [o for o in found if o.wrong is not None]
    count, bad = Counter(o.tactic for o in found), Counter(o.tactic for o in wrong)
    print("\n".join(f"{o.name}: {o.wrong}" for o in wrong))
    for tactic in sorted(count):
        covered = sorted({o.op for o in found if o.tactic == tactic})
        print(f"{tactic:26s} {count[tactic]:5d} kernels {bad[tactic]:4d} wrong, of {', '.join(covered)[:150]}")
    seconds = time.perf_counter() - start
    print("\n".join(o.name for o in left))
    print(f"{len(found)} kernels of {len({o.op for o in found})} ops, {len(wrong)} wrong, {seconds:.0f} s")
    if given.record:
        gpu = Gpu()
        record = {
            "date": time.strftime("%Y-%m-%d", time.gmtime()),
            "device": gpu.name,
            **gpu.fingerprint,
            "compiler": triton_version(),
            "kernels": len(found),
            "ops": sorted({o.op for o in found}),
            "by_tactic": dict(sorted(count.items())),
            "left": [o.name for o in left],
            "wrong": [f"{o.name}: {o.wrong}" for o in wrong],
            "seconds": round(seconds),
        }
        given.record.write_text(json.dumps(record, indent=1) + "\n")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
