"""Runs Triton kernels on numpy arrays through Triton's interpreter, in a process started with TRITON_INTERPRET=1.

    python -m tests.tactics.cuda.interpret FOLDER

FOLDER/jobs.json is a list of jobs: source text, entry, grid, and arguments, each an integer or [name, offset, type]:
the address of an element of an array in FOLDER/arrays.npz, and its Triton type where numpy's does not tell. All
arrays go to FOLDER/results.npz as the kernels leave them.
The interpreter expects torch's tensors, of which it uses an address, a dtype and a storage: `Tensor` is that much.
Its own arithmetic on bfloat16 and 8-bit floats rounds wrongly, or is done on their bits: `_narrow_floats` mends that.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from temper.compile.triton import TritonSource, load_kernel
from temper.reference.formats import number, numbers
from temper.tactics.cuda.rounding import ASSEMBLY, HALVES_OF_CODES, HALVES_OF_WORDS, NUMBERS, SATURATED


@dataclass(frozen=True)
class Job:
    """One launch; arguments name arrays of the whole batch of jobs."""

    text: str
    entry: str
    grid: int
    arguments: tuple[int | tuple[str, int] | tuple[str, int, str], ...]


#: Triton's pointer types that numpy lacks: torch's name, Triton's attribute and ours.
_NARROW: Mapping[str, tuple[str, str, str]] = {
    "*bf16": ("bfloat16", "bfloat16", "bfloat16"),
    "*fp8e4nv": ("float8_e4m3fn", "float8e4nv", "float8e4m3fn"),
    "*fp8e5": ("float8_e5m2", "float8e5", "float8e5m2"),
}

#: The others by torch's names: a kernel may move elements as integers.
_PLAIN: Mapping[str, str] = {
    f"*{short}{bits}": f"{kind}{bits}"
    for short, kind in (("i", "int"), ("u", "uint"), ("fp", "float"))
    for bits in (8, 16, 32, 64)
}


def _narrow_floats() -> None:
    """Gives the interpreter conversions and products of the narrow floats that round as a GPU does."""
    import triton.language as tl
    from triton.runtime import interpreter

    builder, handle = interpreter.InterpreterBuilder, interpreter.TensorHandle
    own = {getattr(tl, attribute): dtype for _, attribute, dtype in _NARROW.values()}
    cast, dot = builder.cast_impl, builder.create_dot

    def wide(x: Any) -> Any:
        kind = own.get(x.dtype.scalar)
        return x if kind is None else handle(numbers(x.data, kind).astype(np.float32), tl.float32)

    def converted(self: Any, x: Any, target: Any, rounding: Any = None) -> Any:
        x, kind = wide(x), own.get(target.scalar)
        if kind is None:
            return cast(self, x, target)
        return handle(number(x.data.astype(np.float32), kind), target.scalar)

    def multiplied(self: Any, a: Any, b: Any, *more: Any) -> Any:
        return dot(self, wide(a), wide(b), *more)

    builder.cast_impl, builder.create_fp_to_fp, builder.create_dot = converted, converted, multiplied


def _library() -> None:
    """Gives the interpreter the functions of NVIDIA's library that kernels call."""
    from triton.language.extra.cuda import libdevice

    libdevice.fast_dividef = lambda a, b: a / b


def _assembly() -> None:
    """Gives the interpreter the pieces of assembly that kernels have."""
    import triton.language as tl
    from triton.runtime import interpreter

    def rounded(x: np.ndarray) -> np.ndarray:
        return np.rint(np.where(np.isnan(x), 0.0, x)).clip(-128, 127).astype(np.int8)

    known = {
        ASSEMBLY["int8"]: (tl.int8, rounded),
        ASSEMBLY["uint8"]: (tl.uint8, lambda x: rounded(x).view(np.uint8) ^ np.uint8(128)),
        NUMBERS["int8"]: (tl.float32, lambda x: (x.astype(np.float32) + np.float32(2**23 + 128))),
        NUMBERS["uint8"]: (tl.float32, lambda x: (x.view(np.uint8).astype(np.float32) + np.float32(2**23))),
        HALVES_OF_CODES: (tl.float16, lambda x: x.view(np.int8).astype(np.float16)),
        HALVES_OF_WORDS: (tl.float16, lambda x: x.astype(np.int16).view(np.float16) - np.float16(1024)),
        SATURATED: (tl.float32, lambda a, b, c: (a.astype(np.float64) * b + c).astype(np.float32).clip(0, 1)),
    }

    class Results:
        def __init__(self, value: Any) -> None:
            self.value = value

        def get_result(self, _: int) -> Any:
            return self.value

    def run(self: Any, text: str, constraints: str, values: Any, *more: Any) -> Any:
        kind, made = known[text]
        data = made(*(v.data for v in values))
        return Results(interpreter.TensorHandle(data, kind.scalar))

    interpreter.InterpreterBuilder.create_inline_asm = run


class Tensor:
    """Elements of a numpy array from `offset` on, as the interpreter sees a tensor that already is on the host."""

    def __init__(self, array: np.ndarray, offset: int = 0, kind: str = "") -> None:
        self.array, self.offset = array, offset
        self.dtype = f"torch.{_NARROW[kind][0] if kind in _NARROW else _PLAIN.get(kind, array.dtype)}"

    def data_ptr(self) -> int:
        return self.array.ctypes.data + self.offset * self.array.itemsize

    def untyped_storage(self) -> Tensor:
        return self

    def cpu(self) -> Tensor:
        return self

    def new_empty(self, size: int, device: str) -> Tensor:
        other = Tensor(self.array[:size])
        other.dtype = self.dtype
        return other

    def set_(self, storage: Tensor, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> None:
        self.array, self.offset = storage.array, offset

    def storage_offset(self) -> int:
        return self.offset

    def size(self) -> tuple[int, ...]:
        return self.array.shape

    def stride(self) -> tuple[int, ...]:
        return self.array.strides

    def copy_(self, other: Tensor) -> None:
        assert other.array is self.array


def interpret(jobs: Sequence[Job], arrays: Mapping[str, np.ndarray], folder: Path) -> dict[str, np.ndarray]:
    """The arrays after all jobs, run in order in one process."""
    np.savez(folder / "arrays.npz", **arrays)
    (folder / "jobs.json").write_text(json.dumps([asdict(j) for j in jobs]))
    command = [sys.executable, "-m", "tests.tactics.cuda.interpret", str(folder)]
    environment = {**os.environ, "TRITON_INTERPRET": "1", "OPENBLAS_NUM_THREADS": "1"}
    root = Path(__file__).parents[3]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env=environment, check=False)
    assert done.returncode == 0, done.stderr[-4000:]
    with np.load(folder / "results.npz") as stored:
        return {name: stored[name] for name in stored.files}


def main(folder: Path) -> None:
    with np.load(folder / "arrays.npz") as stored:
        arrays = {name: np.ascontiguousarray(stored[name]) for name in stored.files}
    _narrow_floats()
    _library()
    _assembly()
    for fields in json.loads((folder / "jobs.json").read_text()):
        job = Job(**fields)
        kernel: Any = load_kernel(TritonSource(job.text, job.entry, ()))
        kernel[(job.grid,)](*(a if isinstance(a, int) else Tensor(arrays[a[0]], *a[1:]) for a in job.arguments))
    np.savez(folder / "results.npz", **arrays)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
