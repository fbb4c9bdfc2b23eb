"""Triton source to cubin without a GPU: what the result says of itself, determinism, and errors."""

from __future__ import annotations

import hashlib
import importlib.util
import subprocess
import sys
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from temper.compile.cubin import read_cubin
from temper.compile.triton import CUDA_ISAS, Cubin, TritonSource, compile_cubin, triton_version, waiting
from temper.errors import BuildError

if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed: no GPU kernel can be compiled", allow_module_level=True)

TEXT = """\
import triton
import triton.language as tl


@triton.jit
def axpy(x, y, factor, count):
    i = tl.program_id(0) * 256 + tl.arange(0, 256)
    ok = i < count
    tl.store(y + i, tl.load(x + i, mask=ok) * factor + tl.load(y + i, mask=ok), mask=ok)
"""
SOURCE = TritonSource(TEXT, "axpy", (("x", "*fp32"), ("y", "*fp32"), ("factor", "fp32"), ("count", "i64")), warps=8)


@pytest.fixture(scope="module")
def cubin() -> Cubin:
    return compile_cubin(SOURCE, "sm_90")


def test_launch_facts(cubin: Cubin) -> None:
    assert (cubin.entry, cubin.isa, cubin.threads, cubin.shared, cubin.frame, cubin.clusters) == (
        "axpy",
        "sm_90",
        256,
        0,
        0,
        1,
    )
    (kernel,) = read_cubin(cubin.data)
    assert kernel.params == (8, 8, 4, 8) + (8,) * cubin.scratch
    assert kernel.registers == cubin.registers > 0


@pytest.mark.parametrize("isa", CUDA_ISAS)
def test_every_level_has_its_own_code(isa: str, cubin: Cubin) -> None:
    other = compile_cubin(SOURCE, isa)
    assert [k.name for k in read_cubin(other.data)] == ["axpy"]
    assert (other.data == cubin.data) == (isa == "sm_90")


def test_the_same_bytes_in_another_process_and_folder(cubin: Cubin, tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    code = (
        f"import sys; sys.path.insert(0, {str(root)!r})\n"
        + """
import hashlib
from temper.compile.triton import TritonSource, compile_cubin
from tests.compile.test_triton import SOURCE
print(hashlib.sha256(compile_cubin(SOURCE, "sm_90").data).hexdigest())
"""
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.stdout.strip() == hashlib.sha256(cubin.data).hexdigest(), done.stderr
    assert str(root).encode() not in cubin.data and b"/tmp" not in cubin.data
    assert not list(tmp_path.iterdir())


def test_contraction_is_off_unless_asked_for(cubin: Cubin) -> None:
    assert compile_cubin(replace(SOURCE, fuse_multiply_add=True), "sm_90").data != cubin.data


def test_alignment_allows_wider_accesses() -> None:
    vectors = replace(SOURCE, warps=1, aligned=frozenset({"x", "y"}))  # eight elements a thread
    assert compile_cubin(vectors, "sm_90").data != compile_cubin(replace(vectors, aligned=frozenset()), "sm_90").data


def test_unknown_level() -> None:
    with pytest.raises(BuildError, match="no such GPU level: sm_70; known are sm_80"):
        compile_cubin(SOURCE, "sm_70")


def test_compiler_diagnostics_are_passed_on() -> None:
    broken = replace(SOURCE, text=TEXT.replace("* factor", "* nothing"))
    with pytest.raises(BuildError, match="could not compile axpy for sm_90") as e:
        compile_cubin(broken, "sm_90")
    assert "nothing" in str(e.value)


def test_interpreted_kernels_cannot_be_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    with pytest.raises(BuildError, match="unset it"):
        compile_cubin(SOURCE, "sm_90")


def test_missing_triton_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    triton_version.cache_clear()
    try:
        with pytest.raises(BuildError, match="pip install 'temper-rt\\[cuda\\]'"):
            compile_cubin(SOURCE, "sm_90")
    finally:
        triton_version.cache_clear()


def test_damaged_cubins_end_in_an_error(cubin: Cubin) -> None:
    rng = np.random.default_rng(2)
    for cut in (0, 3, 20, 63, 64, 200):
        with pytest.raises(BuildError, match="not a readable cubin"):
            read_cubin(cubin.data[:cut])
    for at in rng.integers(0, len(cubin.data), 400):
        data = bytearray(cubin.data)
        data[at] ^= 1 << int(rng.integers(8))
        try:
            kernels = read_cubin(bytes(data))
        except BuildError:
            continue
        assert len(kernels) <= 1


def test_kernels_wait_for_the_one_before_them_where_the_chip_can() -> None:
    text = (
        "import triton\nimport triton.language as tl\n\n@triton.jit\ndef k(\n    x,\n    y,\n):\n"
        '    """Doc."""\n    i = tl.arange(0, 128)\n    tl.store(y + i, tl.load(x + i))\n'
    )
    source = TritonSource(text, "k", (("x", "*fp32"), ("y", "*fp32")))
    lines = waiting(source).splitlines()
    assert lines[9] == "    tl.extra.cuda.gdc_wait()" and lines[10] == "    i = tl.arange(0, 128)"
    own = replace(source, text=text.replace("    tl.store", "    tl.extra.cuda.gdc_wait()\n    tl.store"))
    assert waiting(own) == own.text
    assert not compile_cubin(source, "sm_89").waits
    made = compile_cubin(source, "sm_90")
    assert made.waits and len(made.data) > 0
