"""A process that runs candidate kernels on a GPU: one that faults or hangs ends this process and not the build.

Orders and answers are pickles over pipes: an order is a task with its candidates, answers are what `judge_here` yields;
an order of None only makes the process open the GPU. After a fault, or a launch that takes too long, the process is
ended, the candidate is out with the reason, and a new process does the rest.
"""

from __future__ import annotations

import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from temper.errors import BuildError, DeviceError, TemperError
from temper.tune.cuda_bench import Began, CompiledCandidate, judge_here
from temper.tune.select import Task
from temper.tune.timing_cache import Record

#: Seconds a candidate's launches may take between two answers: a kernel worth timing takes less than a millisecond.
LIMIT = 30.0

_DONE = "done"

#: Threads of numpy's products, so that one process' references leave another, which times, a core to run on.
_THREADS = "4"


class Judge:
    """The client's side; one task at a time. The process is started when it is first needed."""

    def __init__(self, gpu: int, limit: float = LIMIT, program: str = "") -> None:
        """gpu: number of the device. program: Python text to run instead of the judge's, for tests."""
        self._gpu, self._limit, self._program = gpu, limit, program
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: queue.Queue[Any] = queue.Queue()
        self._errors: IO[bytes] | None = None

    def outcomes(
        self, task: Task, candidates: Sequence[CompiledCandidate], cold_bytes: int, timed: bool
    ) -> Iterator[tuple[int, Record]]:
        """Every candidate's outcome by its number. BuildError if the process fails before it runs any of them."""
        left = dict(enumerate(candidates))
        while left:
            numbers = list(left)
            self._send((task, [left[n] for n in numbers], cold_bytes, timed))
            at = -1
            while True:
                try:
                    answer = self._answers.get(timeout=self._limit if at >= 0 else None)
                except queue.Empty:
                    answer = TimeoutError(f"its launches do not end within {self._limit:.0f} s")
                if isinstance(answer, Began):
                    at = answer.number
                elif isinstance(answer, tuple):
                    i, record = answer
                    left.pop(numbers[i], None)
                    yield numbers[i], record
                else:
                    break
            if answer == _DONE:
                return
            words = self._ended(answer)
            if at < 0:
                raise BuildError(f"'{task.name}': the process that times kernels ended: {words}")
            left.pop(numbers[at], None)
            yield numbers[at], Record(None, f"does not run: {words}")

    def start(self) -> None:
        """Starts the process and its use of the GPU."""
        self._send(None)

    def started(self) -> None:
        """Waits until it has its GPU. BuildError if it fails."""
        answer = self._answers.get()
        if answer != _DONE:
            raise BuildError(f"the process that times kernels ended: {self._ended(answer)}")

    def _send(self, order: Any) -> None:
        process = self._process or self._started()
        assert process.stdin is not None
        try:
            pickle.dump(order, process.stdin, pickle.HIGHEST_PROTOCOL)
            process.stdin.flush()
        except OSError:  # it has ended; the reader of its answers finds the same, and says how
            pass

    def _started(self) -> subprocess.Popen[bytes]:
        # the package is where this file is, wherever the caller found it
        root = str(Path(__file__).parents[2])
        program = self._program or (
            f"import sys; sys.path.insert(0, {root!r}); from temper.tune.cuda_judge import main; main({self._gpu})"
        )
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - read when the process has ended
        self._process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            start_new_session=True,
            env={"OPENBLAS_NUM_THREADS": _THREADS, **os.environ},
        )
        self._answers = queue.Queue()
        threading.Thread(target=_read, args=(self._process.stdout, self._answers), daemon=True).start()
        return self._process

    def _ended(self, answer: Any) -> str:
        """Ends the process; why, in words."""
        process, errors = self._process, self._errors
        self.close()
        if isinstance(answer, (TemperError, TimeoutError)):
            return str(answer)
        assert process is not None and errors is not None
        errors.seek(0)
        words = errors.read()[-2000:].decode(errors="replace").strip()
        errors.close()
        return f"it ended with status {process.returncode}{': ' if words else ''}{words}"

    def close(self) -> None:
        """Ends the process, whatever it does."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            for pipe in (self._process.stdin, self._process.stdout):
                with suppress(OSError):
                    pipe.close()  # type: ignore[union-attr]
            self._process = None

    def __del__(self) -> None:
        self.close()


def _read(pipe: IO[bytes], answers: queue.Queue[Any]) -> None:
    """Hands on answers until the process ends; None then."""
    try:
        while True:
            answers.put(pickle.load(pipe))
    except (EOFError, OSError, ValueError, pickle.UnpicklingError):
        answers.put(None)


def main(gpu: int) -> None:
    """The process: orders on standard input, answers on standard output, whatever libraries print on standard error."""
    from temper.runtime.cuda.driver import Gpu, Stream

    orders, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)

    def tell(answer: Any) -> None:
        pickle.dump(answer, answers, pickle.HIGHEST_PROTOCOL)
        answers.flush()

    device: tuple[Gpu, Stream] | None = None
    while True:
        try:
            order = pickle.load(orders)
        except EOFError:
            return
        try:
            if device is None:
                own = Gpu(gpu)
                device = own, Stream(own)
            for answer in judge_here(*device, *order) if order is not None else ():
                tell(answer)
            tell(_DONE)
        except DeviceError as e:
            tell(DeviceError(str(e)))
            os._exit(1)  # the context is lost, and destructors may wait for it
