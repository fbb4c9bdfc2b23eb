"""A process that compiles Triton kernels: sources as JSON on standard input, cubins as JSON on standard output.

Triton's settings are per process, and a process of its own needs nothing of the caller's program.
"""

from __future__ import annotations

import base64
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from temper.compile.processes import Processes
from temper.compile.triton import Cubin, TritonSource, compile_cubin
from temper.errors import BuildError


def compile_all(sources: Sequence[TritonSource], isa: str, processes: Processes) -> list[Cubin | str]:
    """Cubins of the sources, in order, made by one process; the compiler's words for one that it refuses, or
    ends of. BuildError if the build was interrupted."""
    order = {"isa": isa, "sources": [{**asdict(s), "aligned": sorted(s.aligned)} for s in sources]}
    # the package is where this file is, wherever the caller found it
    root = str(Path(__file__).parents[2])
    program = f"import sys; sys.path.insert(0, {root!r}); from temper.compile.triton_worker import main; main()"
    done = processes.run([sys.executable, "-c", program], input=json.dumps(order))
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        words = f"the process that compiles GPU kernels ended with status {done.returncode}: {done.stderr[-2000:]}"
        if len(sources) == 1:
            return [words]
        half = len(sources) // 2  # some source ended it: the others are not to blame
        return compile_all(sources[:half], isa, processes) + compile_all(sources[half:], isa, processes)
    made = json.loads(lines[-1])  # what comes before, a library may have printed
    return [c if isinstance(c, str) else _cubin(c) for c in made["cubins"]]


def _cubin(fields: Mapping[str, Any]) -> Cubin:
    signature = tuple((name, kind) for name, kind in fields["signature"])
    return Cubin(**{**fields, "data": base64.b64decode(fields["data"]), "signature": signature})


def _source(fields: Mapping[str, Any]) -> TritonSource:
    signature = tuple((name, kind) for name, kind in fields["signature"])
    return TritonSource(**{**fields, "signature": signature, "aligned": frozenset(fields["aligned"])})


def main() -> None:
    order = json.load(sys.stdin)
    print("\n" + json.dumps({"cubins": [_made(_source(s), order["isa"]) for s in order["sources"]]}))


def _made(source: TritonSource, isa: str) -> dict[str, Any] | str:
    """The cubin's fields, or why there is none."""
    try:
        c = compile_cubin(source, isa)
    except BuildError as e:
        return str(e)
    return {**asdict(c), "data": base64.b64encode(c.data).decode()}
