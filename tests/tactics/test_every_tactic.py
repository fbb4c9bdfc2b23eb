"""Every tactic against the references, on whatever the op library has for it: the test a new tactic gets for free.

Each case is one op; its graph goes through layout and lowering as in a build, plain and with one difficulty added (see
regions.py). Every tactic that accepts a region makes kernels for a sample of its parameters, and each kernel runs in
one, two and three shares between guard bytes. Cases take turns on the code levels.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest

from temper.compile.cc import ISAS, compile_object, link
from temper.ir.ops import TABLE
from temper.runtime.cpu import Library
from temper.runtime.machine import cpu_flags
from temper.tactics.base import Kernel, Params, Tactic
from temper.tactics.cpu.instructions import OPS
from temper.tactics.cpu.sources import cpu_tactics
from temper.tune.measure import Bench, Loaded, timer_library
from tests.ops.cases import CASES, Case, cases_of
from tests.tactics.regions import Subject, Variant, subjects, variants

_PARAMETER_SETS = 2


@dataclass(frozen=True)
class Trial:
    """One kernel to be checked."""

    subject: Subject
    tactic: Tactic
    params: Params
    kernel: Kernel

    @property
    def name(self) -> str:
        parameters = " ".join(f"{k}={v}" for k, v in self.params)
        return f"{self.subject.name} {self.subject.workload.isa}: {self.tactic.name} {parameters}"


@cache
def _isas() -> tuple[str, ...]:
    return tuple(name for name, isa in ISAS.items() if isa.needs <= cpu_flags())


@cache
def _tactics() -> tuple[Tactic, ...]:
    return cpu_tactics()


@cache
def _timer() -> Library:
    return timer_library()


def _chosen(case: Case) -> Iterator[Subject]:
    """The case plain on one code level, and with one difficulty on the next."""
    number = zlib.crc32(case.name.removesuffix("_last").encode())  # so that a layout's two cases give one workload
    harder = tuple(variants())
    for k, variant in enumerate((Variant(), harder[number // 8 % len(harder)])):
        for s in subjects(case, _isas()[(number + k) % len(_isas())], variant):
            # layout puts transposes around every spatial op: those of movements are enough
            if s.region.op != "Transpose" or case.op in ("Transpose", "DepthToSpace", "SpaceToDepth", "ConvTranspose"):
                yield s


def _trials(chosen: Sequence[Subject]) -> list[Trial]:
    out: list[Trial] = []
    seen: set[tuple[str, str]] = set()
    for s in chosen:
        key = s.case.removesuffix("_last"), s.workload.key
        if key in seen:
            continue
        seen.add(key)
        for tactic in _tactics():
            if tactic.accepts(s.workload) is not None:
                continue
            candidates = list(tactic.candidates(s.workload))
            assert candidates and len(set(candidates)) == len(candidates), f"{s.name}: {tactic.name} repeats parameters"
            rng = np.random.default_rng(zlib.crc32(s.name.encode()))
            for i in rng.permutation(len(candidates))[:_PARAMETER_SETS]:
                assert tactic.predict(s.workload, candidates[i]) > 0
                kernel = tactic.generate(s.workload, candidates[i], f"k{len(out)}_")
                out.append(Trial(s, tactic, candidates[i], kernel))
    return out


def _compiled(trials: Sequence[Trial]) -> Library:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return Library(link(list(pool.map(lambda t: compile_object(t.kernel.source, t.subject.workload.isa), trials))))


def _check(trials: Sequence[Trial]) -> list[str]:
    """What is wrong with each kernel that is not right."""
    library = _compiled(trials)
    problems = {id(t.subject): t.subject.problem() for t in trials}
    wrong = []
    for t in trials:
        w = t.subject.workload
        bench = Bench(w, problems[id(t.subject)], _timer(), 1, 1, skewed=True)
        loaded = Loaded(t.kernel, tuple(library.function(e) for e in t.kernel.entries))
        packed = t.tactic.prepack(w, t.params, t.subject.constants())
        factor = float(getattr(t.tactic, "error_factor", lambda p: 1.0)(t.params))
        first: list[bytes] | None = None
        for parts in (1, 2, 3):
            got = bench.run(loaded, packed, parts)
            failure = got if isinstance(got, str) else bench.mismatch(got, factor)
            if failure is None:
                bits = [y.tobytes() for y in got if isinstance(y, np.ndarray)]
                first = first or bits
                failure = None if bits == first else "its result depends on the number of shares"
            if failure is not None:
                wrong.append(f"{t.name}, {parts} shares: {failure}\n    {w.key}")
                break
    return wrong


#: Ops that no CPU kernel computes: views, shapes, and known gaps that run on the host. An op with a tactic leaves it.
_HOST_ONLY = frozenset(
    """Reshape Shape Size Squeeze Unsqueeze
    Compress ConvInteger DequantizeLinear DynamicQuantizeLinear Hardmax
    MatMulInteger NonMaxSuppression NonZero OneHot QuantizeLinear
    ReverseSequence Trilu Unique
    StringNormalizer StringConcat StringSplit RegexFullMatch TfIdfVectorizer LabelEncoder
    RandomUniform RandomNormal Multinomial ImageDecoder""".split()
)


@pytest.mark.parametrize("op", sorted({c.op for c in CASES} - _HOST_ONLY))
def test_kernels_agree_with_the_reference(op: str) -> None:
    trials = _trials([s for c in cases_of(op) for s in _chosen(c)])
    assert trials, f"no tactic computes any case of {op}"
    wrong = _check(trials)
    assert not wrong, f"{len(wrong)} of {len(trials)} kernels:\n" + "\n".join(wrong)


def _accepting(case: Case) -> set[str]:
    """Names of the tactics that take some region of the plain case, the transposes that layout adds aside."""
    regions = [s for s in subjects(case, _isas()[0], Variant()) if s.region.op != "Transpose" or case.op == "Transpose"]
    return {t.name for s in regions for t in _tactics() if t.accepts(s.workload) is None}


def test_every_tactic_has_a_case() -> None:
    assert {t.name for t in _tactics()} == set().union(*map(_accepting, CASES))


def test_every_op_a_program_can_hold_has_a_case_with_a_kernel() -> None:
    assert {op for op in OPS if op in TABLE and not any(map(_accepting, cases_of(op)))} == set()


@pytest.mark.parametrize("op", sorted(_HOST_ONLY))
def test_known_gaps_are_gaps(op: str) -> None:
    assert [c.name for c in cases_of(op) if _accepting(c)] == []
