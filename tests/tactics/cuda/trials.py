"""Kernels of the GPU's tactics for the op library's cases: what the interpreter and a real GPU both run.

    python -m tests.tactics.cuda.trials [--record FILE] [--code FILE] [OP ...]
    python -m tests.tactics.cuda.trials --compile --code FILE [--record FILE] [OP ...]

The first runs them on this machine's GPU, between guard bytes, in several processes, and prints what is wrong and how
many there were of each tactic. Kernels that the record has as right, with the same text, are not run again, so that
several runs together cover the library. The second compiles on a machine without a GPU what the first then need not.
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
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

from temper.compile.triton import Cubin, triton_version
from temper.compile.triton_worker import Compilers
from temper.errors import TemperError
from temper.plan.cubins import DeviceFunction
from temper.runtime.cuda.driver import Gpu, Stream
from temper.runtime.cuda.launch import Functions
from temper.tactics.base import Params, Tactic
from temper.tactics.cuda.kernel import TritonKernel
from temper.tactics.cuda.sources import cuda_tactics
from temper.tune.cuda import from_bytes, to_bytes
from temper.tune.cuda_bench import Buffers, DeviceBench
from tests.ops.cases import CASES, cases_of
from tests.tactics.cuda.record import Record
from tests.tactics.regions import Subject, Variant, subjects, variants

#: Ops whose layout adds no transposes of interest.
_MOVING = ("Transpose", "DepthToSpace", "SpaceToDepth", "ConvTranspose")

#: Ops whose kernels take the interpreter long, of which it runs one case in so many.
_LONG = {"Recurrence": 5}

#: Tactics for layers larger than any case, which have tests of their own.
LARGE = {"cuda.conv_tall"}

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

    @property
    def digest(self) -> str:
        """Of all that the machine code is made from, but the compiler."""
        each = (f"{x.text}|{x.signature}|{x.warps}|{x.stages}|{sorted(x.aligned)}" for x in self.kernel.sources)
        text = "\n".join(each).encode()
        return f"{zlib.crc32(text):08x}"


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
    """What became of a trial on a GPU: wrong is None where all is right. ran: False if an earlier run found so."""

    op: str
    tactic: str
    name: str
    wrong: str | None
    subject: str = ""
    digest: str = ""
    ran: bool = True


def distinct(names: Sequence[str], isa: str, record: Record) -> tuple[list[tuple[str, Trial]], list[tuple[str, Trial]]]:
    """The trials of these ops, with their ops: those to run, and those recorded as right; of equal workloads the first.

    One of each op and tactic comes before the second of any, so that a run cut short has seen all."""
    seen: dict[tuple[str, str], tuple[str, Trial]] = {}
    for op in names:
        for t in trials(op, isa):
            seen.setdefault((t.subject.workload.key, t.tactic.name), (op, t))
    turn: Counter[tuple[str, str]] = Counter()
    ranked, known = [], []
    for op, t in seen.values():
        if record.has(t.tactic.name, t.subject.name, t.digest):
            known.append((op, t))
            continue
        ranked.append((turn[op, t.tactic.name], len(ranked), op, t))
        turn[op, t.tactic.name] += 1
    return [(op, t) for _, _, op, t in sorted(ranked, key=lambda r: r[:2])], known


def _compiled(
    chosen: Sequence[Trial], isa: str, jobs: int, code: Path | None
) -> Iterator[dict[str, DeviceFunction] | str]:
    """The code of every trial's kernel, or why it does not compile, in order. code: a file with some of them."""
    known = _stored(code)
    made = _made([t for t in chosen if t.digest not in known], isa, jobs)
    try:
        for t in chosen:
            found = known[t.digest] if t.digest in known else next(made)
            yield found if isinstance(found, str) else from_bytes(found)
    finally:  # whoever asks may have enough
        made.close()


def _made(chosen: Sequence[Trial], isa: str, jobs: int) -> Generator[bytes | str, None, None]:
    """As `_compiled`, by worker processes, in bytes."""
    compilers = Compilers(jobs)
    try:
        for future in [compilers.submit(t.kernel.sources, isa) for t in chosen]:
            made = future.result()
            words = [c for c in made if isinstance(c, str)]
            code = to_bytes([c for c in made if isinstance(c, Cubin)])
            yield f"does not compile: {words[0][:600]}" if words else code
    finally:
        compilers.close()


def _stored(code: Path | None) -> dict[str, bytes]:
    """Compiled kernels by digest."""
    if code is None or not code.exists():
        return {}
    with ZipFile(code) as file:
        return {name: file.read(name) for name in file.namelist()}


def compile_ahead(names: Sequence[str], isa: str, jobs: int, seconds: float, record: Record, code: Path) -> int:
    """Adds kernels to a file of compiled ones, until the time is up; how many there are."""
    end, known = time.monotonic() + seconds, _stored(code)
    chosen = [t for _, t in distinct(names, isa, record)[0] if t.digest not in known]
    count = len(known)
    made = _made(chosen, isa, jobs)
    for t, data in zip(chosen, made, strict=False):
        if isinstance(data, bytes):
            with ZipFile(code, "a", ZIP_DEFLATED) as file:
                file.writestr(t.digest, data)
            count += 1
        if time.monotonic() > end:
            break
    made.close()
    return count


def on_device(
    names: Sequence[str], jobs: int, seconds: float, record: Record, code: Path | None
) -> Iterator[Outcome]:
    """Checks the kernels of these ops on this machine's GPU, until the time is up. Ends early where a kernel takes the
    context with it."""
    gpu, end = Gpu(), time.monotonic() + seconds
    stream = Stream(gpu)
    chosen, known = distinct(names, gpu.isa, record)
    for op, t in known:
        yield Outcome(op, t.tactic.name, t.name, None, t.subject.name, t.digest, ran=False)
    codes = _compiled([t for _, t in chosen], gpu.isa, jobs, code)
    for k, ((op, t), functions) in enumerate(zip(chosen, codes, strict=True)):
        if time.monotonic() > end:
            yield Outcome(op, _LEFT, f"{len(chosen) - k} kernels were not reached", None)
            break
        try:
            if isinstance(functions, str):
                wrong: str | None = functions
            else:
                w = t.subject.workload
                bench = DeviceBench(gpu, stream, w, Buffers.of(w, t.subject.problem()), 1)
                packed = t.tactic.prepack(w, t.params, t.subject.constants())
                wrong = bench.verify(t.kernel, Functions(gpu, functions), packed)
        except TemperError as e:
            wrong = str(e)
        words = None if wrong is None else f"{wrong}\n    {t.subject.workload.key}"
        yield Outcome(op, t.tactic.name, t.name, words, t.subject.name, t.digest)
        if wrong is not None and ("ILLEGAL" in wrong or "MISALIGNED" in wrong):
            break


def _shared_out(names: Sequence[str], shares: int, options: Sequence[str]) -> Iterator[Outcome]:
    """Outcomes of all shares, each run by a process with a context of its own."""
    command = [sys.executable, "-m", "tests.tactics.cuda.trials", "--share", *options]
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
    parser.add_argument("--record", type=Path, help="what was run before, and where this run is added")
    parser.add_argument("--commit", default="", help="what the record is told of the source")
    parser.add_argument("--code", type=Path, help="file of kernels compiled before")
    parser.add_argument("--compile", action="store_true", help="only compile, to that file")
    parser.add_argument("--isa", default="sm_90", help="the level to compile for")
    given = parser.parse_args()
    names, cores = given.ops or ops(), os.cpu_count() or 1
    record = Record.read(given.record)
    if given.compile:
        print(compile_ahead(names, given.isa, given.jobs or cores, given.seconds, record, given.code), "kernels")
        return
    if given.share:
        for outcome in on_device(names, given.jobs or cores, given.seconds, record, given.code):
            print(json.dumps(asdict(outcome)), flush=True)
        return
    start = time.perf_counter()
    shares = max(1, min(8, cores // 2, len(names)))
    options = [f"--jobs={given.jobs or max(1, cores // shares)}", f"--seconds={given.seconds}"]
    options += [f"--{k}={v}" for k, v in (("record", given.record), ("code", given.code)) if v]
    outcomes = list(_shared_out(names, shares, options))
    known, outcomes = [o for o in outcomes if not o.ran], [o for o in outcomes if o.ran]
    found, left = [o for o in outcomes if o.tactic != _LEFT], [o for o in outcomes if o.tactic == _LEFT]
    wrong = [o for o in found if o.wrong is not None]
    count, bad = Counter(o.tactic for o in found), Counter(o.tactic for o in wrong)
    print("\n".join(f"{o.name}: {o.wrong}" for o in wrong))
    for tactic in sorted(count):
        covered = sorted({o.op for o in found if o.tactic == tactic})
        print(f"{tactic:26s} {count[tactic]:5d} kernels {bad[tactic]:4d} wrong, of {', '.join(covered)[:150]}")
    seconds = time.perf_counter() - start
    print("\n".join(o.name for o in left))
    ran = {o.op for o in found}
    print(f"{len(found)} kernels of {len(ran)} ops, {len(wrong)} wrong, {seconds:.0f} s; {len(known)} ran before")
    if given.record:
        gpu = Gpu()
        if not given.ops:
            record.keep((o.tactic, o.subject, o.digest) for o in known)
        record.add(
            {
                "date": time.strftime("%Y-%m-%d", time.gmtime()),
                "commit": given.commit,
                "device": gpu.name,
                **gpu.fingerprint,
                "compiler": triton_version(),
                "kernels": len(found),
                "seconds": round(seconds),
            },
            ((o.tactic, o.subject, o.digest) for o in found if o.wrong is None),
        )
        record.write(given.record, [o.name for o in left], [f"{o.name}: {o.wrong}" for o in wrong])
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
