"""C to machine code with the clang and lld inside the `ziglang` wheel: no system compiler, headers or libc needed.

Objects are position-independent and freestanding; `link` makes one shared object of many. Output is deterministic: no
paths, no debug information, no build identifiers.
"""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

from temper.compile.processes import Processes
from temper.errors import BuildError


@dataclass(frozen=True)
class Isa:
    """A code level: clang's flags, float lanes per vector register, and the CPU flags (as in /proc/cpuinfo) it
    needs."""

    name: str
    flags: tuple[str, ...]
    lanes: int
    registers: int
    needs: frozenset[str]


ISAS: dict[str, Isa] = {
    "avx512bf16": Isa(
        "avx512bf16",
        ("-march=x86-64-v4", "-mavx512vnni", "-mavx512bf16", "-mprefer-vector-width=512"),
        16,
        32,
        frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni", "avx512_bf16", "fma", "bmi2"}),
    ),
    "avx512vnni": Isa(
        "avx512vnni",
        ("-march=x86-64-v4", "-mavx512vnni", "-mprefer-vector-width=512"),
        16,
        32,
        frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_vnni", "fma", "bmi2"}),
    ),
    "avx512": Isa(
        "avx512",
        ("-march=x86-64-v4", "-mprefer-vector-width=512"),
        16,
        32,
        frozenset({"avx512f", "avx512bw", "avx512vl", "avx512dq", "fma", "bmi2"}),
    ),
    "avx2": Isa("avx2", ("-march=x86-64-v3",), 8, 16, frozenset({"avx2", "fma", "bmi2", "f16c"})),
    "portable": Isa("portable", ("-march=x86-64",), 4, 16, frozenset()),
}

_FLAGS = (
    "-x",
    "c",
    "-std=gnu17",
    "-O3",
    "-fPIC",
    "-ffreestanding",
    "-ffp-contract=off",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-g0",
    "-fno-ident",
    "-fvisibility=hidden",
    "-fno-stack-protector",
    "-fno-asynchronous-unwind-tables",
    "-Wall",
    "-Werror=implicit-function-declaration",
    "-Wno-unused-function",
    "-Wno-unknown-pragmas",
    "-Wno-pass-failed",
    "-nostdinc",
)


@cache
def _zig() -> Path:
    spec = importlib.util.find_spec("ziglang")
    if spec is None or spec.origin is None:
        raise BuildError("building a CPU engine needs the compiler in the 'ziglang' package: pip install ziglang")
    return Path(spec.origin).parent / "zig"


@cache
def compiler_version() -> str:
    """Name and version of the compiler; part of every cache key."""
    _zig()
    return f"ziglang {metadata.version('ziglang')}"


def _clang(isa: str, flags: Sequence[str]) -> list[str]:
    """The compiler's command up to the input."""
    zig = _zig()
    headers = str(zig.parent / "lib" / "include")
    return [str(zig), "clang", "--target=x86_64-linux-gnu", *flags, *ISAS[isa].flags, "-isystem", headers]


@cache
def _intrinsics(isa: str) -> tuple[str, ...]:
    """Flags that bring in immintrin.h precompiled: parsing it would be a third of a kernel's compile time.

    Kept beside the timing cache under a name that changes with the compiler and its place; () where that folder cannot
    be written.
    """
    zig = _zig()
    stamp = f"{zig}:{zig.stat().st_mtime_ns}:{compiler_version()}:{isa}:{_FLAGS}:{ISAS[isa].flags}"
    target = Path.home() / ".cache" / "temper" / f"immintrin-{hashlib.sha256(stamp.encode()).hexdigest()[:16]}.pch"
    if not target.is_file():
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix="temper-pch-", dir=target.parent) as folder:
                out = Path(folder) / "immintrin.pch"
                flags = ["c-header" if f == "c" else f for f in _FLAGS]
                command = [*_clang(isa, flags), "-", "-o", str(out)]
                text = "#include <stddef.h>\n#include <stdint.h>\n#include <immintrin.h>\n"
                if subprocess.run(command, input=text, text=True, capture_output=True, check=False).returncode:
                    return ()
                out.replace(target)
        except OSError:
            return ()
    return ("-include-pch", str(target))


def compile_object(
    source: str, isa: str, *, defines: tuple[str, ...] = (), optimize: str = "-O3", processes: Processes | None = None
) -> bytes:
    """Relocatable object code of one C translation unit. BuildError carries the compiler's diagnostics.

    processes: where the compiler runs, for callers that may have to end it early.
    """
    flags = [f for f in _FLAGS if f != "-O3"] + [optimize]
    with tempfile.TemporaryDirectory(prefix="temper-cc-") as folder:
        out = Path(folder) / "k.o"
        command = [
            *_clang(isa, flags),
            *(_intrinsics(isa) if "immintrin.h" in source and not defines and optimize == "-O3" else ()),
            *(f"-D{d}" for d in defines),
            "-c",
            "-",
            "-o",
            str(out),
        ]
        done = (processes or Processes()).run(command, input=source, cwd=folder)
        if done.returncode:
            raise BuildError(f"the C compiler failed (exit {done.returncode}):\n{done.stderr[-4000:]}")
        return out.read_bytes()


def link(objects: list[bytes]) -> bytes:
    """One shared object from relocatable objects; undefined symbols resolve against the process (libc) when it is
    loaded."""
    with tempfile.TemporaryDirectory(prefix="temper-ld-") as folder:
        names = []
        for i, data in enumerate(objects):
            (Path(folder) / f"{i}.o").write_bytes(data)
            names.append(f"{i}.o")
        (Path(folder) / "rsp").write_text("\n".join(names))
        command = [
            str(_zig()),
            "ld.lld",
            "-shared",
            "--build-id=none",
            "--hash-style=gnu",
            "-O1",
            "--gc-sections",
            "-z",
            "noexecstack",
            "-z",
            "separate-code",
            "-s",
            "@rsp",
            "-o",
            "out.so",
        ]
        done = Processes().run(command, cwd=folder)
        if done.returncode:
            raise BuildError(f"the linker failed (exit {done.returncode}):\n{done.stderr[-4000:]}")
        return (Path(folder) / "out.so").read_bytes()
