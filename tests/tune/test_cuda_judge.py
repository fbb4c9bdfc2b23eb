"""The process that judges GPU kernels: a fault, a hang or a crash costs one candidate, not the build."""

from __future__ import annotations

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock

import pytest

from temper.errors import BuildError, DeviceMemoryError
from temper.tactics.cuda.sources import cuda_tactics
from temper.tune import cuda, cuda_bench
from temper.tune.cuda_judge import Judge
from temper.tune.select import Contest
from temper.tune.timing_cache import Record

ROOT = str(Path(__file__).parents[2])

#: candidates are words that say what becomes of them
PROGRAM = f"""
import os, sys, time
sys.path.insert(0, {ROOT!r})
import temper.runtime.cuda.driver as driver
import temper.tune.cuda_judge as judge
from temper.errors import DeviceError
from temper.tune.select import Contest
from temper.tune.timing_cache import Record

driver.Gpu = driver.Stream = lambda x: None

def outcomes(gpu, stream, task, candidates, cold_bytes, timed):
    yield judge.Began(-1)
    if task.name == "broken":
        raise DeviceError("no GPU")
    for i, word in enumerate(candidates):
        print("libraries print")
        yield judge.Began(i)
        if word == "hang":
            time.sleep(100)
        elif word == "die":
            sys.stderr.write("last words")
            sys.stderr.flush()
            os.kill(os.getpid(), 9)
        elif word == "fault":
            raise DeviceError("ILLEGAL_ADDRESS")
        yield i, Record(float(os.getpid()))

judge.judge_here = outcomes
judge.main(0)
"""


class Named:
    """Stands for a task."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __reduce__(self) -> tuple[Any, ...]:
        return (__import__("types").SimpleNamespace, (), {"name": self.name})


def outcomes(judge: Judge, words: list[str], name: str = "conv1") -> dict[int, Record]:
    return dict(judge.outcomes(Named(name), words, 0, True))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("hang", "do not end within 1 s"),
        ("die", "last words"),
        ("fault", "ILLEGAL_ADDRESS"),
    ],
)
def test_an_entrant_that_breaks_the_process_is_out_and_the_rest_go_on(word: str, reason: str) -> None:
    judge = Judge(0, 1.0, PROGRAM)
    try:
        got = outcomes(judge, ["ok", word, "ok", "ok"])
        assert sorted(got) == [0, 1, 2, 3]
        assert got[1].seconds is None and reason in got[1].failure
        assert got[2].seconds == got[3].seconds != got[0].seconds  # a process each before and after
        assert outcomes(judge, ["ok"])[0].seconds == got[2].seconds  # which stays for later tasks
    finally:
        judge.close()


def test_a_process_that_fails_by_itself_ends_the_build() -> None:
    judge = Judge(0, 1.0, PROGRAM)
    with pytest.raises(BuildError, match="'broken': the process that times kernels ended: no GPU"):
        outcomes(judge, ["ok"], "broken")
    with pytest.raises(BuildError, match="ended with status 3"):
        outcomes(Judge(0, 1.0, "raise SystemExit(3)"), ["ok"])


def test_a_process_is_started_before_it_is_needed() -> None:
    judge = Judge(0, 1.0, PROGRAM)
    try:
        judge.start()
        judge.started()
        assert outcomes(judge, ["ok"])[0].seconds
    finally:
        judge.close()
    with pytest.raises(BuildError, match="ended with status 3"):
        judge = Judge(0, 1.0, "raise SystemExit(3)")
        judge.start()
        judge.started()


def test_tasks_are_judged_beside_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes, each a task at a time; a third task waits for one of them."""
    monkeypatch.setattr(cuda, "Judge", partial(Judge, limit=1.0, program=PROGRAM))
    monkeypatch.setattr(cuda, "from_bytes", lambda code: {})
    monkeypatch.setattr(cuda, "CompiledCandidate", lambda tactic, params, kernel, code: params)
    monkeypatch.setattr(cuda, "replace", lambda task, **k: task)
    monkeypatch.setattr(cuda, "TritonKernel", object)
    device = cuda.Cuda(SimpleNamespace(index=0))  # type: ignore[arg-type]
    both = threading.Barrier(2, timeout=60)

    def judged(number: int) -> float:
        words = [SimpleNamespace(params="ok", tactic=None, kernel=None)]
        answers = device.judge(Named(str(number)), [(w, b"") for w in words], 0, True)  # type: ignore[arg-type, list-item]
        _, record = next(answers)
        if number < 2:
            both.wait()  # neither has ended when the other has answered
        assert list(answers) == [] and record.seconds is not None
        return record.seconds

    try:
        with ThreadPoolExecutor(3) as pool:
            first = [pool.submit(judged, n) for n in range(2)]
            pids = {f.result() for f in first}
            later = {f.result() for f in [pool.submit(judged, n) for n in range(2, 5)]}
    finally:
        device.close()
    assert len(pids) == device.judges == 2 and later <= pids


def test_tactics_travel_to_the_process() -> None:
    again = pickle.loads(pickle.dumps(cuda_tactics()))
    assert [t.name for t in again] == [t.name for t in cuda_tactics()]


def test_a_gpu_without_room_for_all_times_fewer_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room for one candidate's buffers: each is settled before the next; one that never fits is out for now."""
    alive: list[str] = []

    class Watch:
        def __init__(self, name: str) -> None:
            if alive or name == "huge":
                raise DeviceMemoryError("no room")
            alive.append(name)
            self.seconds = {"slow": 3.0, "quick": 1.0}[name]

        def lap(self, count: int) -> None:
            pass

        def __del__(self) -> None:
            alive.clear()

    def look(bench: Any, x: str, packed: Any, running: dict[int, Watch], i: int, timed: bool) -> None:
        running[i] = Watch(x)

    monkeypatch.setattr(cuda_bench, "DeviceBench", MagicMock())
    monkeypatch.setattr(cuda_bench, "_first_look", look)
    words = ["slow", "quick", "huge"]
    answers = cuda_bench._judged(*[MagicMock()] * 4, words, [()] * 3, 0, True)  # type: ignore[arg-type]
    got = dict(a for a in answers if isinstance(a, tuple))
    assert got[0] == Record(3.0) and got[1] == Record(1.0)
    assert got[2].passing and "does not fit: no room" in got[2].failure

    def full(*a: Any) -> None:
        raise DeviceMemoryError("all taken")

    monkeypatch.setattr(cuda_bench, "DeviceBench", full)
    answers = cuda_bench._judged(*[MagicMock()] * 4, words, [()] * 3, 0, True)  # type: ignore[arg-type]
    assert all(isinstance(a, tuple) and a[1].passing and "all taken" in a[1].failure for a in answers)


def test_a_layer_that_no_kernel_has_room_for_is_an_error_of_memory() -> None:
    class Cache:
        def time(self, key: str) -> Record:
            return Record(None, "the layer's own tensors do not fit: all taken", passing=True)

    candidate = MagicMock(label="cuda.conv", code_key="key")
    contest = Contest(MagicMock(), [candidate, candidate], [], "a GPU", 1)
    contest.task.name, contest.task.workload.key, contest.task.sizes = "conv1", "key", ""
    with pytest.raises(DeviceMemoryError, match="'conv1' cannot be tuned: .*do not fit: all taken. Build for smaller"):
        contest.result(Cache())  # type: ignore[arg-type]


def _short(room: Path) -> str:
    """The judge's program on a GPU that has room for as many as there are files in a folder."""
    return PROGRAM.replace(
        "driver.Gpu = driver.Stream = lambda x: None",
        f"""
from pathlib import Path

def taken(number):
    for place in Path({str(room)!r}).iterdir():
        try:
            place.unlink()
            return None
        except FileNotFoundError:
            pass
    raise driver.DeviceMemoryError("no room for another")

driver.Gpu, driver.Stream = taken, lambda x: None""",
    )


def test_judges_that_find_no_room_do_not_keep_others_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for none every thread is told; with room for one, all go on with that."""
    monkeypatch.setattr(cuda, "Judge", partial(Judge, program=_short(tmp_path)))
    for rooms in (0, 1):
        for k in range(rooms):
            (tmp_path / str(k)).touch()
        device = cuda.Cuda(SimpleNamespace(index=0))  # type: ignore[arg-type]
        with ThreadPoolExecutor(2) as pool:
            threads = [pool.submit(device._judge) for _ in range(1 if rooms else 2)]
            for t in threads:
                if rooms:
                    assert outcomes(t.result(60), ["fine"])[0].seconds
                else:
                    with pytest.raises(BuildError, match="no room for another"):
                        t.result(60)
        device.close()
