"""Which kernels are sent to the compiler when, and what becomes of those it refuses."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from temper.compile.processes import PassingReason
from temper.errors import BuildError
from temper.ir.graph import Graph
from temper.ir.ops import make
from temper.ir.types import TensorType
from temper.passes.manager import Log
from temper.passes.partition import partition
from temper.tactics.base import Kernel, Workload
from temper.tactics.cuda.sources import cuda_tactics
from temper.tactics.epilogue import Epilogue, Instr, Operand
from temper.tactics.workload import donated_operand, workload
from temper.tune.candidates import Candidate, candidates_for
from temper.tune.select import Contest, Task, Tuner
from temper.tune.timing_cache import Record, TimingCache


class Fake:
    """A device that notes what happens, refuses some kernels and finds others wrong."""

    comment, suffix, compiler, judges = "#", ".py", "none", 1

    def __init__(self, overlaps: bool = True) -> None:
        self.overlaps = overlaps
        self.events: list[tuple[str, int]] = []
        self.refuses: set[str] = set()
        self.reason = "no"
        self.wrong: set[str] = set()

    def compile(self, kernels: Mapping[str, Kernel], isa: str, jobs: int) -> Iterator[tuple[str, bytes | str]]:
        self.events.append(("sent", len(kernels)))
        return ((key, self.reason if k.entries[0] in self.refuses else b"code") for key, k in kernels.items())

    def judge(
        self, task: Task, codes: Sequence[tuple[Candidate, bytes]], cold_bytes: int, timed: bool
    ) -> Iterator[tuple[Candidate, Record]]:
        self.events.append((task.name, len(codes)))
        for i, (c, _) in enumerate(codes):
            yield c, Record(None, "wrong") if c.label in self.wrong else Record(1e-3 * (i + 1))

    def close(self) -> None:
        pass


def task(rows: int, terms: int = 64, columns: int = 48, optional: bool = False) -> Task:
    g = Graph("product")
    x = g.add_input("x", TensorType("float32", (rows, terms)))
    weights = g.add_constant(np.ones((terms, columns), np.float32), "w")
    g.set_outputs([make(g, "MatMul", [x, weights], {}).output])
    (region,) = partition(g, Log())
    w: Workload = workload(region, "sm_90", 1)
    return Task(w, {1: np.asarray(weights.const)}, {}, {}, f"rows{rows}", optional=optional)


@pytest.fixture
def device() -> Fake:
    return Fake()


@pytest.fixture
def tuner(device: Fake, tmp_path: Path) -> Iterator[Tuner]:
    cache = TimingCache(tmp_path / "c.sqlite")
    yield Tuner(cuda_tactics(), device, "here", cache)
    cache.close()


def test_what_was_sent_ahead_is_compiled_once_and_before_it_is_timed(tuner: Tuner, device: Fake) -> None:
    first, second = task(32), task(512)
    tuner.ahead([first])
    tuner.ahead([second])
    sent = [n for what, n in device.events]
    assert [what for what, _ in device.events] == ["sent", "sent"] and min(sent) > 1
    tuner.choose([first])
    assert device.events[2:] == [("rows32", sent[0])]
    tuner.choose([second])
    assert device.events[3:] == [("rows512", sent[1])]
    tuner.ahead([first, second])
    tuner.choose([first, second])
    assert len(device.events) == 4, "all is known"


def test_nothing_is_sent_ahead_where_compilers_disturb_what_is_timed(tuner: Tuner, device: Fake) -> None:
    device.overlaps = False
    tuner.ahead([task(32)])
    assert not device.events
    tuner.choose([task(32)])
    assert [what for what, _ in device.events] == ["sent", "rows32"]


def test_a_refused_kernel_is_out_and_is_not_sent_again(tuner: Tuner, device: Fake) -> None:
    (key,) = tuner.choose([task(32)])
    best = tuner.choose([task(32)])[key].candidate
    again = Tuner(tuner.tactics, device, "elsewhere", TimingCache(tuner.cache.path.with_name("d.sqlite")))
    device.refuses = {best.kernel.entries[0]}
    device.events.clear()
    choice = again.choose([task(32)])[key]
    assert choice.candidate.label != best.label
    assert [t.note for t in choice.trials if t.label == best.label] == ["does not compile: no"]
    again.choose([task(32)])
    assert len(device.events) == 2
    again.cache.close()


def test_a_compiler_that_was_killed_is_asked_again_by_the_next_build(tuner: Tuner, device: Fake) -> None:
    (key,) = tuner.choose([task(32)])
    best = tuner.choose([task(32)])[key].candidate
    path = tuner.cache.path.with_name("d.sqlite")
    device.refuses, device.reason = {best.kernel.entries[0]}, PassingReason("killed")
    notes = []
    for _ in range(2):
        again = Tuner(tuner.tactics, device, "elsewhere", TimingCache(path))
        notes += [t.note for t in again.choose([task(32)])[key].trials if t.label == best.label]
        again.cache.close()
        device.refuses = set()
    assert notes == ["does not compile: killed", ""]


def test_where_no_candidate_is_right_more_are_looked_at(tuner: Tuner, device: Fake) -> None:
    (key,) = tuner.choose([task(512)])
    device.wrong = {t.label for t in tuner.choose([task(512)])[key].trials if t.seconds is not None}
    other = Tuner(tuner.tactics, device, "elsewhere", tuner.cache)
    choice = other.choose([task(512)])[key]
    assert choice.candidate.label not in device.wrong
    device.events.clear()
    assert other.choose([task(512)])[key].candidate.label == choice.candidate.label
    assert not device.events, "what was found is known"

    class Everything(set[str]):
        def __contains__(self, label: object) -> bool:
            return True

    device.wrong = Everything()
    third = Tuner(tuner.tactics, device, "nowhere", tuner.cache)
    assert third.choose([task(512, optional=True)]) == {}
    with pytest.raises(BuildError, match="'rows512': every candidate kernel failed its check"):
        third.choose([task(512)])


def test_where_kernels_of_one_kind_all_fail_another_kind_is_tried(tuner: Tuner, device: Fake) -> None:
    """Few rows and many terms: all that is looked at otherwise adds parts in a second launch."""
    few = task(64, 8192, 512)
    every, _ = candidates_for(tuner.tactics, few.workload, 5, "none")
    device.wrong = {c.label for c in every if ("split", 1) not in c.params}
    assert len(device.wrong) > 32
    (choice,) = tuner.choose([few]).values()
    assert ("split", 1) in choice.candidate.params


def test_tasks_are_judged_at_once_where_the_device_does(tuner: Tuner, device: Fake) -> None:
    """Two at a time, in order of the tasks, each with its own results."""
    device.judges = 2
    both = threading.Barrier(2, timeout=60)
    plain, most, inside = device.judge, [0], [0]

    def judge(task: Task, *rest: Any) -> Iterator[tuple[Candidate, Record]]:
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        both.wait()
        yield from plain(task, *rest)
        inside[0] -= 1

    device.judge = judge  # type: ignore[method-assign]
    tasks = [task(32), task(64), task(512), task(1024)]
    alone = {t.name: c.candidate.label for t, c in zip(tasks, tuner.choose(tasks).values(), strict=True)}
    assert most[0] == 2 and len(alone) == 4
    assert sorted(name for name, _ in device.events if name != "sent") == sorted(alone)


def test_what_a_judge_fails_of_ends_the_build(tuner: Tuner, device: Fake) -> None:
    device.judges = 2

    def judge(task: Task, *rest: Any) -> Iterator[tuple[Candidate, Record]]:
        raise BuildError(f"{task.name} fails")
        yield

    device.judge = judge  # type: ignore[method-assign]
    with pytest.raises(BuildError, match="rows32 fails"):
        tuner.choose([task(32), task(64), task(512)])


def test_code_that_was_lost_is_made_again(tuner: Tuner, device: Fake) -> None:
    (key,) = tuner.choose([task(32)])
    elsewhere = TimingCache(tuner.cache.path.with_name("d.sqlite"))
    for line in tuner.cache._db.iterdump():
        if "times_v" in line and line.startswith("INSERT"):
            elsewhere._db.execute(line)
    again = Tuner(tuner.tactics, device, "here", elsewhere)
    device.events.clear()
    assert again.choose([task(32)])[key].candidate.label == tuner.choose([task(32)])[key].candidate.label
    assert device.events == [("sent", 1)]
    elsewhere.close()


def test_parameters_of_another_kind_of_kernel_do_not_take_part() -> None:
    """A softmax along rows in one profile may be one along another axis in the next, which has no such parameters."""

    def softmax(axis: int) -> Workload:
        graph = Graph("net")
        x = graph.add_input("x", TensorType("float32", (2, 5, 7)))
        graph.set_outputs([make(graph, "Softmax", [x], {"axis": axis}).output])
        return workload(partition(graph, Log())[0], "sm_90", 1)

    tactics = [t for t in cuda_tactics() if t.name == "cuda.softmax"]
    (rows, *_), _ = candidates_for(tactics, softmax(-1), 1, "none")
    found, _ = candidates_for(tactics, softmax(1), 1, "none", also=[(rows.tactic, rows.params)])
    assert rows.params and [c.params for c in found] == [()]


def test_times_of_kernels_that_may_write_over_an_operand_are_their_own() -> None:
    t = task(8)
    mask = (True, True)
    program = Epilogue(
        (Operand("float32", mask), Operand("float32", mask)), (Instr("Add", (0, 1), "float32"),), (2,)
    )
    added = replace(t, workload=replace(t.workload, epilogue=program))
    kernel = Kernel("", ("k",), (), (), grid=1)
    assert donated_operand(t.workload, kernel) is None and donated_operand(added.workload, kernel) == 1
    assert donated_operand(added.workload, replace(kernel, in_place=False)) is None
    assert donated_operand(added.workload, replace(kernel, grid=0)) is None, "the CPU's are not timed so"
    strided = replace(added.workload, outputs=(replace(t.workload.outputs[0], row_stride=64),))
    assert donated_operand(strided, kernel) is None
    halves = replace(program, operands=(program.operands[0], Operand("float16", mask)))
    assert donated_operand(replace(added.workload, epilogue=halves), kernel) is None
    (tactic, *_), params = cuda_tactics(), ()
    keys = set()
    for k in (kernel, replace(kernel, in_place=False)):
        c = Candidate(tactic, params, k, "sm_90", "none")
        keys.add(Contest(added, [c], [], "a GPU", 1).time_key(c))
    assert len(keys) == 2
