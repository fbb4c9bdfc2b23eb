"""Runs compiler processes that several threads start, and that can all be ended at once if a build is interrupted."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from temper.errors import BuildError


class PassingReason(str):
    """Why there is no code, which need not hold tomorrow: the compiler was killed, or what is around it is at fault."""

    __slots__ = ()


class Processes:
    """Runs commands, each in a process group of its own; `kill` ends those that run and refuses new ones."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[str]] = set()
        self._killed = False

    def run(
        self, command: Sequence[str], *, input: str = "", cwd: str | Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """As subprocess.run with captured text. BuildError once `kill` was called."""
        with self._lock:
            if self._killed:
                raise BuildError("the build was interrupted")
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=cwd,
                start_new_session=True,
            )
            self._running.add(process)
        try:
            out, err = process.communicate(input)
        except BaseException:
            _end(process)
            raise
        finally:
            with self._lock:
                self._running.discard(process)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def kill(self) -> None:
        """Ends every running process and its children; a command asked for later is refused."""
        with self._lock:
            self._killed = True
            for process in self._running:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)


@contextmanager
def at_once(jobs: int) -> Iterator[tuple[ThreadPoolExecutor, Processes]]:
    """Threads (0: one per core) that start compilers as `Processes`; on an exception all are ended, and none starts."""
    processes = Processes()
    with ThreadPoolExecutor(jobs or os.cpu_count() or 1) as pool:
        try:
            yield pool, processes
        except BaseException:
            processes.kill()
            pool.shutdown(cancel_futures=True)
            raise


def _end(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
