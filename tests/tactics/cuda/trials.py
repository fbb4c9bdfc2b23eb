"""Kernels of the GPU's tactics for the op library's cases: what the interpreter and a real GPU both run.

    python -m tests.tactics.cuda.trials

runs them all on this machine's GPU, between guard bytes, and prints what is wrong.
"""

from __future__ import annotations

import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from temper.tactics.base import Params, Tactic
from temper.tactics.cuda.kernel import TritonKernel
from temper.tactics.sources import cuda_tactics
from tests.ops.cases import CASES, cases_of
from tests.tactics.regions import Subject, Variant, subjects, variants

#: Ops whose layout adds no transposes of interest.
_MOVING = ("Transpose", "DepthToSpace", "SpaceToDepth", "ConvTranspose")


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


def trials(op: str, isa: str) -> Iterator[Trial]:
    """Kernels of an op's cases, plain and with one difficulty added, each with one of its tactic's parameter sets."""
    seen: set[str] = set()
    harder = tuple(variants())
    for case in cases_of(op):
        number = zlib.crc32(case.name.encode())
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
        kernel = tactic.generate(s.workload, params, f"k{number:08x}")
        assert isinstance(kernel, TritonKernel)
        yield Trial(s, tactic, params, kernel)


def on_device(chosen: Sequence[Trial]) -> list[str]:
    """What is wrong with the kernels on this machine's GPU."""
    from temper.errors import TemperError
    from temper.runtime.cuda.driver import Gpu, Stream
    from temper.runtime.cuda.launch import Functions
    from temper.tune.cuda import Cuda, DeviceBench, from_bytes

    gpu = Gpu()
    stream, device = Stream(gpu), Cuda(gpu)
    codes = dict(device.compile({str(i): t.kernel for i, t in enumerate(chosen)}, gpu.isa, 0))
    wrong = []
    for i, t in enumerate(chosen):
        try:
            functions = Functions(gpu, from_bytes(codes[str(i)]))
            bench = DeviceBench(gpu, stream, t.subject.workload, t.subject.problem(), 1)
            packed = t.tactic.prepack(t.subject.workload, t.params, t.subject.constants())
            failure = bench.verify(t.kernel, functions, packed)
        except TemperError as e:
            failure = str(e)
        if failure is not None:
            wrong.append(f"{t.name}: {failure}\n    {t.subject.workload.key}")
            if "ILLEGAL_ADDRESS" in failure:  # the context is lost
                break
    return wrong


def main() -> None:
    from temper.runtime.cuda.driver import Gpu

    start = time.perf_counter()
    chosen = [t for op in ops() for t in trials(op, Gpu().isa)]
    wrong = on_device(chosen)
    count = Counter(t.tactic.name for t in chosen)
    print("\n".join(wrong))
    print(f"{len(chosen)} kernels, {len(wrong)} wrong, {time.perf_counter() - start:.0f} s: {dict(count)}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
