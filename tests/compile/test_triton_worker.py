"""Kernels compiled by a process of their own are those compiled here, and errors come back in words."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from temper.compile.processes import PassingReason
from temper.compile.triton import Cubin, TritonSource, compile_cubin
from temper.compile.triton_worker import Compilers
from temper.errors import BuildError

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed: no GPU kernel can be compiled", allow_module_level=True)

TEXT = """import triton
import triton.language as tl


@triton.jit
def double(x, y, n):
    i = tl.program_id(0) * 128 + tl.arange(0, 128)
    tl.store(y + i, 2.0 * tl.load(x + i, mask=i < n), mask=i < n)
"""
SOURCE = TritonSource(TEXT, "double", (("x", "*fp32"), ("y", "*fp32"), ("n", "i32")), frozenset({"x", "y"}), 4, 1)


@pytest.fixture
def compilers() -> Iterator[Compilers]:
    made = Compilers(1)
    yield made
    made.close()


def test_a_process_gives_the_same_code(compilers: Compilers) -> None:
    assert compilers.submit([SOURCE, SOURCE], "sm_90").result() == [compile_cubin(SOURCE, "sm_90")] * 2


def test_the_compilers_words_come_back(compilers: Compilers) -> None:
    broken = TritonSource(TEXT.replace("2.0 * tl.load", "tl.no_such_thing"), "double", SOURCE.signature)
    words, fine = compilers.submit([broken, SOURCE], "sm_90").result()
    assert isinstance(words, str) and "no_such_thing" in words and isinstance(fine, Cubin)


def test_a_source_that_ends_the_compiler_is_the_only_one_lost(compilers: Compilers) -> None:
    deadly = replace(SOURCE, text=TEXT + "\nimport os\nos.write(2, b'last words')\nos._exit(7)\n")
    futures = [compilers.submit([s], "sm_90") for s in (SOURCE, deadly, SOURCE)]
    (first,), (second,), (third,) = [f.result() for f in futures]
    assert isinstance(first, Cubin) and first == third
    assert isinstance(second, str) and "ended with status 7: last words" in second
    assert not isinstance(second, PassingReason)


def test_a_compiler_that_was_killed_may_do_better_tomorrow(compilers: Compilers) -> None:
    killed = replace(SOURCE, text=TEXT + "\nimport os\nos.kill(os.getpid(), 9)\n")
    (words,), (fine,) = (compilers.submit([s], "sm_90").result() for s in (killed, SOURCE))
    assert isinstance(words, PassingReason) and "ended with status -9" in words and isinstance(fine, Cubin)


def test_a_compiler_that_does_not_end_is_ended() -> None:
    compilers = Compilers(1, limit=3.0)
    endless = replace(SOURCE, text=f"{TEXT}\nwhile True: pass\n")
    (words,) = compilers.submit([endless], "sm_90").result()
    assert words == "the compiler does not end within 3 s" and not compilers._running
    compilers.close()


def test_a_killed_build_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One compiles for ever when the build is interrupted, another waits for it."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    compilers = Compilers(1)
    endless = replace(SOURCE, text=f"{TEXT}\nopen({str(tmp_path / 'began')!r}, 'w').close()\nwhile True: pass\n")
    first, second = (compilers.submit([s], "sm_90") for s in (endless, SOURCE))
    while not (tmp_path / "began").exists():
        time.sleep(0.01)
    compilers.close()
    (tmp_path / "began").unlink()
    assert second.cancelled() and list(tmp_path.iterdir()) == []
    with pytest.raises(BuildError, match="interrupted"):
        first.result()
