"""Kernels compiled by a process of their own are those compiled here, and errors come back in words."""

from __future__ import annotations

import importlib.util
from dataclasses import replace

import pytest

from temper.compile.processes import Processes
from temper.compile.triton import Cubin, TritonSource, compile_cubin
from temper.compile.triton_worker import compile_all
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


def test_a_process_gives_the_same_code() -> None:
    assert compile_all([SOURCE, SOURCE], "sm_90", Processes()) == [compile_cubin(SOURCE, "sm_90")] * 2


def test_the_compilers_words_come_back() -> None:
    broken = TritonSource(TEXT.replace("2.0 * tl.load", "tl.no_such_thing"), "double", SOURCE.signature)
    words, fine = compile_all([broken, SOURCE], "sm_90", Processes())
    assert isinstance(words, str) and "no_such_thing" in words and isinstance(fine, Cubin)


def test_a_source_that_ends_the_compiler_is_the_only_one_lost() -> None:
    deadly = replace(SOURCE, text=TEXT + "\nimport os\nos._exit(7)\n")
    first, second, third = compile_all([SOURCE, deadly, SOURCE], "sm_90", Processes())
    assert isinstance(first, Cubin) and first == third
    assert isinstance(second, str) and "ended with status 7" in second


def test_a_killed_build_starts_no_process() -> None:
    processes = Processes()
    processes.kill()
    with pytest.raises(BuildError, match="interrupted"):
        compile_all([SOURCE], "sm_90", processes)
