"""The process that judges GPU kernels: a fault, a hang or a crash costs one entrant, not the build."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest

from temper.errors import BuildError
from temper.tactics.sources import cuda_tactics
from temper.tune.cuda_judge import Judge
from temper.tune.timing_cache import Record

ROOT = str(Path(__file__).parents[2])

#: entrants are words that say what becomes of them
PROGRAM = f"""
import os, sys, time
sys.path.insert(0, {ROOT!r})
import temper.runtime.cuda.driver as driver
import temper.tune.cuda_judge as judge
from temper.errors import DeviceError
from temper.tune.timing_cache import Record

driver.Gpu = driver.Stream = lambda x: None

def outcomes(gpu, stream, task, entrants, cold_bytes, timed):
    yield judge.Began(-1)
    if task.name == "broken":
        raise DeviceError("no GPU")
    for i, word in enumerate(entrants):
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


def test_tactics_travel_to_the_process() -> None:
    again = pickle.loads(pickle.dumps(cuda_tactics()))
    assert [t.name for t in again] == [t.name for t in cuda_tactics()]
