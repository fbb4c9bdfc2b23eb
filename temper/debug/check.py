"""Checks that decide whether a model shows a fault: a command of the user's, or one of ours in a process of its own.

A check ends in an exit status and what it printed. The first run, on the whole model, fixes which failure is looked
for: reduction must not wander off to a model that fails for another reason.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import shlex
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from temper.errors import ConfigError, TemperError

#: Exit statuses of the checks built in, and of `temper debug check`.
DEVIATES, REFUSED, CRASHED = 1, 3, 4


@dataclass(frozen=True)
class Outcome:
    """How a check ended. status: its exit status, minus a signal's number, or None when its time ran out."""

    status: int | None
    output: str

    def __str__(self) -> str:
        if self.status is None:
            return "ran out of time"
        if self.status < 0:
            return f"killed by {signal.Signals(-self.status).name}"
        return f"exit status {self.status}"

    @property
    def last_line(self) -> str:
        lines = self.output.strip().splitlines()
        return lines[-1].strip() if lines else ""


class Check(Protocol):
    """Runs on a model file and an .npz of its inputs."""

    def __call__(self, model: Path, inputs: Path) -> Outcome: ...

    def command(self) -> tuple[str, ...]:
        """What shows the same in a folder that holds model.onnx and inputs.npz."""


@dataclass(frozen=True)
class Command:
    """A command line. `{}` stands for the model's path, which is appended where there is none; `{inputs}` for the .npz
    with the arrays of its inputs. timeout: seconds."""

    line: str
    timeout: float = 120.0

    def __post_init__(self) -> None:
        try:
            if not shlex.split(self.line):
                raise ConfigError("the check command is empty")
        except ValueError as e:
            raise ConfigError(f"the check command {self.line!r} cannot be read: {e}") from e

    def words(self, model: str, inputs: str) -> tuple[str, ...]:
        words = shlex.split(self.line)
        if not any("{}" in w for w in words):
            words.append("{}")
        return tuple(w.replace("{}", model).replace("{inputs}", inputs) for w in words)

    def command(self) -> tuple[str, ...]:
        return self.words("model.onnx", "inputs.npz")

    def __call__(self, model: Path, inputs: Path) -> Outcome:
        words = self.words(str(model), str(inputs))
        try:
            process = subprocess.Popen(
                words,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as e:
            raise ConfigError(f"the check command {words[0]!r} cannot be started: {e.strerror}") from e
        try:
            output, _ = process.communicate(timeout=self.timeout)
            status: int | None = process.returncode
        except subprocess.TimeoutExpired:
            _kill(process)
            output, status = process.communicate()[0], None
        except BaseException:
            _kill(process)
            raise
        return Outcome(status, output.decode(errors="replace"))


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


@dataclass(frozen=True)
class Forked:
    """A check of our own, run in a child process, so that a crash ends the check and not the search.

    work: prints what it finds and returns an exit status; a TemperError is printed and ends it with REFUSED, any other
    exception with CRASHED and its traceback. shown: the command that shows the same.
    """

    work: Callable[[Path, Path], int]
    shown: tuple[str, ...]
    timeout: float = 120.0

    def command(self) -> tuple[str, ...]:
        return self.shown

    def __call__(self, model: Path, inputs: Path) -> Outcome:
        log = model.with_name("check.log")
        child = multiprocessing.get_context("fork").Process(target=_child, args=(self.work, model, inputs, log))
        child.start()
        try:
            child.join(self.timeout)
            late = child.is_alive()
        finally:
            if child.is_alive():
                child.kill()
                child.join()
        return Outcome(None if late else child.exitcode, log.read_text(errors="replace") if log.exists() else "")


def _child(work: Callable[[Path, Path], int], model: Path, inputs: Path, log: Path) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    code = CRASHED
    with open(log, "w", buffering=1) as f:
        os.dup2(f.fileno(), 1)  # what native code prints
        os.dup2(f.fileno(), 2)
        sys.stdout = sys.stderr = f
        try:
            code = work(model, inputs)
        except TemperError as e:
            print(f"{type(e).__name__}: {e}")
            code = REFUSED
        finally:
            if sys.exc_info()[0] is not None:
                traceback.print_exc()
            f.flush()
            os._exit(code)  # no exit handlers: they are the parent's


@dataclass(frozen=True)
class Same:
    """Which outcomes are the failure that is looked for.

    codes: its exit statuses; without any, the one of the whole model.
    match: an expression found in the output, any output where it is empty.
    late: running out of time is the failure too.
    """

    codes: tuple[int, ...] = ()
    match: str = ""
    late: bool = False

    def __post_init__(self) -> None:
        try:
            re.compile(self.match)
        except re.error as e:
            raise ConfigError(f"the expression {self.match!r} cannot be read: {e}") from e

    def fails(self, outcome: Outcome) -> bool:
        if outcome.status is None:
            return self.late
        right = outcome.status in self.codes if self.codes else outcome.status != 0
        return right and re.search(self.match, outcome.output) is not None

    def pinned(self, first: Outcome) -> Same:
        """The same failure as the whole model's. ConfigError where that one does not fail."""
        if not self.fails(first):
            tail = f": {first.last_line}" if first.last_line else ""
            wanted = f" with output that matches {self.match!r}" if self.match else ""
            codes = f" with status {', '.join(map(str, self.codes))}" if self.codes else ""
            raise ConfigError(
                f"the check does not fail{codes}{wanted} on the whole model ({first}{tail}): there is nothing to reduce"
            )
        if self.codes or first.status is None:
            return self
        return Same((first.status,), self.match, self.late)


def load_feeds(path: Path) -> dict[str, np.ndarray]:
    """The arrays of an .npz by name."""
    with np.load(path, allow_pickle=False) as arrays:
        return {k: arrays[k] for k in arrays.files}


def differs(against: str, tolerance: float | None, timeout: float, isa: str = "", device: str = "cpu") -> Forked:
    """Temper's engine differs from the reference ("reference") or from ONNX Runtime ("onnxruntime") beyond tolerance:
    None for the one derived from how much this model, on this data, magnifies rounding."""
    from temper.debug.repro import temper_command

    shown = ["debug", "check", "model.onnx", "--data", "inputs.npz", "--against", against]
    shown += [] if tolerance is None else ["--tolerance", repr(tolerance)]
    shown += ["--isa", isa] if isa else []
    shown += ["--device", device] if device != "cpu" else []

    def work(model: Path, inputs: Path) -> int:
        from temper.debug.judge import judge

        rows = judge(model, load_feeds(inputs), against=against, tolerance=tolerance, isa=isa, device=device)
        for row in rows:
            print(row)
        return DEVIATES if any(r.deviates for r in rows) else 0

    return Forked(work, temper_command(*shown), timeout)


def refuses(timeout: float, isa: str = "", device: str = "cpu") -> Forked:
    """`temper build` ends in an error, of any kind: what it must say is `Same.match`."""
    from temper.debug.repro import temper_command

    def work(model: Path, inputs: Path) -> int:
        from temper.debug.judge import build_for

        build_for(model, load_feeds(inputs), isa=isa, device=device)
        return 0

    shown = ["build", "model.onnx", "-o", "model.plan", "--effort", "0"]
    shown += ["--device", device] if device != "cpu" else []
    return Forked(work, temper_command(*shown), timeout)


def parse_codes(options: Sequence[int]) -> tuple[int, ...]:
    """Exit statuses as the command line gives them. ConfigError for 0, which means success."""
    if 0 in options:
        raise ConfigError("exit status 0 means that a check passed; it cannot be a failure")
    return tuple(options)
