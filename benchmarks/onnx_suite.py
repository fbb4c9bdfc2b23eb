"""Runs the ONNX project's backend tests on Temper and writes benchmarks/results/onnx_backend.json.

    python -m benchmarks.onnx_suite [--jobs 2] [--only PATTERN] [--cache FILE] [--output FILE]

Of every test: `compiled` (all of it ran as generated code, or was computed at build), `host` (passed, some steps ran
their numpy reference) or `failed`, with the reason. `fixed` lists inputs that were fixed at their values because they
describe shapes.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import tempfile
import time
import unittest
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

RESULT = Path(__file__).parent / "results" / "onnx_backend.json"
_REASON = 300
#: tests whose expected values no implementation can give, and why
_DRAWN = re.compile(r"^test_bernoulli")
_DRAWN_REASON = "what is expected are draws of the test's own, which ONNX says no other generator has to repeat"
_EXCEPTION = re.compile(r"[\w.]*(Error|Exception|Invalid|Unsupported|Fail)\w*(:|$)")


@dataclass(frozen=True)
class Outcome:
    """What became of one test. host: the host steps of its last engine; fixed: the inputs that describe shapes."""

    category: str
    name: str
    status: str
    reason: str = ""
    host: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    kernels: int = 0


def suite(backend: Any) -> Iterator[tuple[str, str, unittest.TestCase]]:
    """(category, name, case) of every CPU test, by name."""
    from onnx.backend.test import BackendTest

    for label, case in sorted(BackendTest(backend, __name__).test_cases.items()):
        category = label.removeprefix("OnnxBackend").removesuffix("Test")
        for name in unittest.TestLoader().getTestCaseNames(case):
            if name.endswith("_cpu"):
                yield category, name.removesuffix("_cpu"), case(name)


def run_share(share: int, shares: int, only: str, cache: str) -> list[Outcome]:
    """Every `shares`-th test from number `share` on."""
    warnings.simplefilter("ignore")
    from temper.config import BuildConfig
    from temper.onnx_backend import TemperBackend, TemperRep

    made: list[TemperRep] = []

    class Recording(TemperBackend):
        @classmethod
        def prepare(cls, model: Any, device: str = "CPU", **kwargs: Any) -> TemperRep:
            config = BuildConfig(threads=1, effort=0, jobs=1, cache=Path(cache) if cache else None)
            made.append(super().prepare(model, device, config=config))
            return made[-1]

    with tempfile.TemporaryDirectory(prefix="temper-onnx-") as home:
        os.environ["ONNX_HOME"] = home
        tests = [t for t in suite(Recording) if re.search(only, t[1])]
        out = []
        for category, name, case in tests[share::shares]:
            made.clear()
            result = unittest.TestResult()
            case.run(result)
            problems = [*result.errors, *result.failures]
            last = made[-1].last if made else None
            host = last.host_steps if last else ()
            fixed = tuple(sorted(last.fixed)) if last else ()
            kernels = last.kernels if last else 0
            if problems:
                reason = _reason(problems[0][1])
                if _DRAWN.match(name) and reason.startswith("AssertionError"):
                    reason = f"{_DRAWN_REASON}: {reason}"[:_REASON]
                out.append(Outcome(category, name, "failed", reason, host, fixed, kernels))
            elif result.skipped:
                out.append(Outcome(category, name, "failed", f"skipped: {result.skipped[0][1]}"))
            else:
                out.append(Outcome(category, name, "host" if host else "compiled", "", host, fixed, kernels))
    return out


def _reason(trace: str) -> str:
    """The exception's own words, without the stack."""
    lines = trace.strip().splitlines()
    last = [i for i, line in enumerate(lines) if _EXCEPTION.match(line)]
    start = last[-1] if last else len(lines) - 1
    return " ".join(line.strip() for line in lines[start:] if line.strip())[:_REASON]


def run(jobs: int, only: str = "", cache: str = "") -> list[Outcome]:
    """All outcomes, sorted by category and name."""
    if jobs == 1:
        parts = [run_share(0, 1, only, cache)]
    else:
        with ProcessPoolExecutor(jobs) as pool:
            parts = list(pool.map(run_share, range(jobs), [jobs] * jobs, [only] * jobs, [cache] * jobs))
    return sorted((o for p in parts for o in p), key=lambda o: (o.category, o.name))


def summary(outcomes: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """Counts by category, and the shares in per cent. computed: compiled tests without a kernel, all done at build."""
    out: dict[str, dict[str, Any]] = {}
    for category in sorted({o.category for o in outcomes}):
        own = [o for o in outcomes if o.category == category]
        c = Counter(o.status for o in own)
        out[category] = {
            "tests": len(own), "compiled": c["compiled"], "host": c["host"], "failed": c["failed"],
            "computed at build": sum(1 for o in own if o.status == "compiled" and not o.kernels),
            "compiled %": round(100 * c["compiled"] / len(own), 1),
            "passed %": round(100 * (c["compiled"] + c["host"]) / len(own), 1),
        }
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--only", default="", help="run tests whose names match this expression, and write nothing")
    parser.add_argument("--cache", default="", help="timing cache file; by default a fresh one")
    parser.add_argument("--output", type=Path, default=RESULT)
    args = parser.parse_args()
    import onnx

    start = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="temper-suite-") as folder:
        outcomes = run(args.jobs, args.only, args.cache or os.path.join(folder, "timing.sqlite"))
    seconds = time.perf_counter() - start
    for category, counts in summary(outcomes).items():
        print(f"{category:24}", "  ".join(f"{k} {v}" for k, v in counts.items()))
    print(f"{seconds:.0f} s with {args.jobs} processes")
    if args.only:
        for o in outcomes:
            print(f"{o.status:9} {o.name}  {o.reason or '; '.join(h[:120] for h in o.host)}")
        return
    report = {
        "onnx": onnx.__version__,
        "machine": platform.processor() or platform.machine(),
        "seconds": round(seconds),
        "summary": summary(outcomes),
        "tests": [{k: v for k, v in asdict(o).items() if v or k in ("status", "name")} for o in outcomes],
    }
    args.output.parent.mkdir(parents=True, exist_ok=True)
    args.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
