"""The run-time library of host.c as machine code; every CPU plan carries it, so that running needs no compiler."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from temper.compile.cc import compile_object, link


def source() -> str:
    """One translation unit: host.c with host.h in place of its include."""
    folder = Path(__file__).parent
    return (folder / "host.c").read_text().replace('#include "host.h"', (folder / "host.h").read_text())


@cache
def host_library() -> bytes:
    """Shared object of the run-time library for any x86-64 machine. BuildError if there is no compiler."""
    return link([compile_object(source(), "portable", optimize="-O2")])
