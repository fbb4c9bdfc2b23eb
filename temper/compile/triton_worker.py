"""Processes that compile Triton kernels: sources as lines of JSON on standard input, cubins on standard output.

Triton's settings are per process, and a process of its own needs nothing of the caller's program. Triton takes a second
to import, so a process compiles one kernel after another for as long as there are any.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from select import select
from typing import IO, Any

from temper.compile.processes import PassingReason
from temper.compile.triton import Cubin, TritonSource, compile_cubin
from temper.errors import BuildError

#: Seconds a kernel may take to compile: a hundred times what most take, on a busy machine.
LIMIT = 600.0

#: Compilers give way to the process that times kernels and to what prepares its data.
_NICE = 5


@dataclass(frozen=True)
class _Worker:
    """A process, and where it writes what it has to say."""

    process: subprocess.Popen[bytes]
    errors: IO[bytes]


class Compilers:
    """At most so many processes that compile, started as they are needed; `close` ends them all."""

    def __init__(self, count: int, limit: float = LIMIT) -> None:
        """limit: seconds that a kernel may take."""
        self._limit = limit
        self._pool = ThreadPoolExecutor(count)
        self._own = threading.local()
        self._lock = threading.Lock()
        self._running: dict[int, _Worker] = {}
        self._closed = False
        # what an ended compiler leaves behind goes with this folder
        self._folder = tempfile.TemporaryDirectory(prefix="temper-compilers-")

    def submit(self, sources: Sequence[TritonSource], isa: str) -> Future[list[Cubin | str]]:
        """The cubins of the sources, in order, once they are made; the compiler's words for one that it refuses, or
        ends of. BuildError if the build was interrupted."""
        return self._pool.submit(lambda: [self._made(s, isa) for s in sources])

    def close(self) -> None:
        """Ends every process and refuses what is submitted."""
        with self._lock:
            self._closed = True
            workers = list(self._running.values())
        for w in workers:
            with suppress(ProcessLookupError):
                os.killpg(w.process.pid, signal.SIGKILL)
        self._pool.shutdown(cancel_futures=True)
        for w in workers:
            self._ended(w)
        self._folder.cleanup()

    def _made(self, source: TritonSource, isa: str) -> Cubin | str:
        worker = self._worker()
        order = {"isa": isa, "source": {**asdict(source), "aligned": sorted(source.aligned)}}
        process = worker.process
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.write(json.dumps(order).encode() + b"\n")
            process.stdin.flush()
            late = not select([process.stdout], [], [], self._limit)[0]
            line = b"" if late else process.stdout.readline()
        except OSError:
            line, late = b"", False
        if late:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
        if line:
            answer = json.loads(line)
            return answer if isinstance(answer, str) else _cubin(answer)
        self._own.worker = None
        words = self._ended(worker)
        if self._closed:
            raise BuildError("the build was interrupted")
        if late:
            return f"the compiler does not end within {self._limit:.0f} s"
        why = f"the process that compiles GPU kernels ended with status {process.returncode}: {words}"
        # a compiler that crashes does so again; one that was killed, as where memory is short, or lacks a file may not
        return PassingReason(why) if process.returncode in (1, -signal.SIGKILL) else why

    def _worker(self) -> _Worker:
        """The process of this thread."""
        found: _Worker | None = getattr(self._own, "worker", None)
        if found is not None:
            return found
        # the package is where this file is, wherever the caller found it
        root = str(Path(__file__).parents[2])
        program = f"import sys; sys.path.insert(0, {root!r}); from temper.compile.triton_worker import main; main()"
        with self._lock:
            if self._closed:
                raise BuildError("the build was interrupted")
            errors = tempfile.TemporaryFile()  # noqa: SIM115 (open while the process runs)
            process = subprocess.Popen(
                [sys.executable, "-c", program],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={**os.environ, "TMPDIR": self._folder.name},
                start_new_session=True,
            )
            self._own.worker = self._running[process.pid] = _Worker(process, errors)
        return self._running[process.pid]

    def _ended(self, worker: _Worker) -> str:
        """Waits for a process to end; its last words."""
        process = worker.process
        process.wait()
        with self._lock:
            if self._running.pop(process.pid, None) is None:
                return ""
        for pipe in (process.stdin, process.stdout):
            with suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        worker.errors.seek(0)
        words = worker.errors.read()[-2000:].decode(errors="replace").strip()
        worker.errors.close()
        return words


def _cubin(fields: Mapping[str, Any]) -> Cubin:
    signature = tuple((name, kind) for name, kind in fields["signature"])
    return Cubin(**{**fields, "data": base64.b64decode(fields["data"]), "signature": signature})


def _source(fields: Mapping[str, Any]) -> TritonSource:
    signature = tuple((name, kind) for name, kind in fields["signature"])
    return TritonSource(**{**fields, "signature": signature, "aligned": frozenset(fields["aligned"])})


def main() -> None:
    """The process: whatever libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    os.nice(_NICE)
    for line in sys.stdin:
        order = json.loads(line)
        answers.write(json.dumps(_made(_source(order["source"]), order["isa"])) + "\n")
        answers.flush()


def _made(source: TritonSource, isa: str) -> dict[str, Any] | str:
    """The cubin's fields, or why there is none."""
    try:
        c = compile_cubin(source, isa)
    except BuildError as e:
        return str(e)
    return {**asdict(c), "data": base64.b64encode(c.data).decode()}
