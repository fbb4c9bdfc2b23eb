"""What runs on the host of a GPU build, with the reasons: workloads of the op library, or steps of models.

    python -m tests.tactics.cuda.coverage [OP ...]
    python -m tests.tactics.cuda.coverage --models MODEL.onnx ...

Models are cut into regions as a build for sm_90 does; nothing is compiled.
"""

from __future__ import annotations

import sys
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path

from temper.config import BuildConfig
from temper.errors import TemperError
from temper.ir.graph import Graph
from temper.partitioning import Partitioner
from temper.passes.host import data_reason
from temper.passes.manager import Log, run_passes
from temper.passes.pipeline import PIPELINE
from temper.profiles import resolve_sizes
from temper.tactics.base import Tactic, Workload
from temper.tactics.cuda.sources import cuda_tactics
from temper.target import target_of
from tests.ops.cases import CASES
from tests.tactics.regions import Variant, subjects

_ISA = "sm_90"
#: Reasons shown of each op.
_SHOWN = 4

#: An op, and why one workload of it runs on the host; None where it has a kernel.
Found = tuple[str, "str | None"]


def of_library(names: set[str]) -> Iterator[Found]:
    """Every region of every case of these ops; of all ops if none is named."""
    tactics = cuda_tactics()
    for case in CASES:
        if not names or case.op in names:
            for s in subjects(case, _ISA, Variant()):
                yield s.region.op, data_reason(s.region) or _declined(tactics, s.workload)


def _declined(tactics: tuple[Tactic, ...], w: Workload) -> str | None:
    able = [t for t in tactics if w.op in t.ops]
    reasons = [f"{t.name}: {r}" for t in able if (r := t.accepts(w)) is not None]
    if len(reasons) < len(able):
        return None
    return "; ".join(reasons) or f"there is no kernel for {w.op}"


def of_model(path: Path) -> Iterator[Found]:
    """Every region of a model and of the graphs inside its nodes."""
    config = BuildConfig(device=f"cuda:{_ISA}", effort=0)
    graph = resolve_sizes(path, config).graph
    log = run_passes(graph, PIPELINE)
    yield from _of_graph(graph, Partitioner(cuda_tactics(), target_of(config), config), log)


def _of_graph(graph: Graph, partitioner: Partitioner, log: Log) -> Iterator[Found]:
    for part in partitioner.parts(graph, log, partitioner.target.alignment).parts:
        yield part.region.op, part.reason
        for value in (a for n in part.region.nodes for a in n.attrs.values()):
            if isinstance(value, Graph):
                yield from _of_graph(value, partitioner, log)


def table(found: Iterator[Found]) -> str:
    """Counts by op, most host steps first, with the commonest reasons."""
    taken: Counter[str] = Counter()
    left: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for op, reason in found:
        if reason is None:
            taken[op] += 1
        else:
            left[op][reason] += 1
    lines = []
    for op, reasons in sorted(left.items(), key=lambda x: (-x[1].total(), x[0])):
        lines.append(f"{op}: {reasons.total()} of {reasons.total() + taken[op]} on the host")
        lines += [f"  {n:4d}  {reason[:240]}" for reason, n in reasons.most_common(_SHOWN)]
    hosted = sum(r.total() for r in left.values())
    without = sum(1 for op in left if not taken[op])
    lines.append(f"{taken.total()} have kernels, {hosted} run on the host; {without} ops have no kernel at all")
    return "\n".join(lines)


def main() -> None:
    if sys.argv[1:2] == ["--models"]:
        for path in map(Path, sys.argv[2:]):
            try:
                print(f"{path.name}\n{table(of_model(path))}\n")
            except TemperError as e:  # such as a model whose sizes have to be stated
                print(f"{path.name}: {e}\n")
    else:
        print(table(of_library(set(sys.argv[1:]))))


if __name__ == "__main__":
    main()
