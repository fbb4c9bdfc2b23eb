"""Runs one compiled kernel on data: once between guard bytes to verify it, then many times to time it.

Timing rules: packed constants are as cold as in the model (rotated over as many bytes as all its constants have),
activations warm, candidates take turns, and a candidate's time with T threads is the time of its slowest share, so that
a noisy neighbour cannot favour one candidate.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from temper.compile.cc import compile_object, link
from temper.ir.dims import evaluate
from temper.runtime.cpu import Library
from temper.tactics.base import Kernel, Workload
from temper.tune.verify import Problem, mismatch

_P, _I = ctypes.c_void_p, ctypes.c_int32
_TIMER = ctypes.CFUNCTYPE(None, _P, _I, _P, _P, _I, _I, _I, ctypes.c_int64, _I, _I, _P)

#: A candidate this much slower than the best after a first look is not timed further, on any device.
DROPPED = 1.25

_GUARD = 4096
_SENTINEL = 0x7F


def aligned(nbytes: int, fill: int = _SENTINEL) -> np.ndarray:
    """A uint8 array of nbytes at a 64-byte boundary."""
    raw = np.full(nbytes + 64, fill, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + nbytes]


class Guarded:
    """A buffer with sentinel bytes on both sides, and strided rows where the slot is a view.

    skewed: start one element past the 64-byte boundary, as a slice of a wider tensor may.
    """

    def __init__(self, array: np.ndarray, row_stride: int | None, skewed: bool = False) -> None:
        self.shape, self.dtype = array.shape, array.dtype
        self.row = array.shape[-1] if array.ndim else 1
        self.stride = row_stride or self.row
        self.rows = array.size // self.row if self.row else 0
        nbytes = ((self.rows - 1) * self.stride + self.row) * array.itemsize if self.rows > 0 else 0
        #: everything, guard bytes included, and where the tensor starts in it
        self.start = _GUARD + (array.itemsize if skewed else 0)
        self.block = aligned(self.start + nbytes + _GUARD)
        self.address = self.block.ctypes.data + self.start
        self._body = self.block[self.start : self.start + nbytes]
        self.view[...] = array.reshape(self.view.shape)
        self._gaps = tuple(part.copy() for part in self._outside())

    @property
    def view(self) -> np.ndarray:
        """Rows of data, without the gaps between them."""
        size = self.dtype.itemsize
        if not self.rows or not self.row:
            return np.empty((0, self.row), self.dtype)
        rows = np.lib.stride_tricks.as_strided(self._body, (self.rows, self.row * size), (self.stride * size, 1))
        return rows.view(self.dtype)

    @property
    def dense(self) -> bool:
        """There is nothing between its rows."""
        return self.stride == self.row

    @property
    def guards(self) -> tuple[np.ndarray, np.ndarray]:
        """The bytes before the tensor and after it."""
        return self.block[: self.start], self.block[self.start + len(self._body) :]

    def _outside(self) -> tuple[np.ndarray, ...]:
        """Bytes outside the tensor: before it, after it and between its rows."""
        if self.dense or self.rows < 2:
            return self.guards
        size = self.dtype.itemsize
        gap = (self.stride - self.row) * size
        between = np.lib.stride_tricks.as_strided(
            self._body[self.row * size :], (self.rows - 1, gap), (self.stride * size, 1)
        )
        return (*self.guards, between)

    @property
    def intact(self) -> bool:
        """True if nothing outside the rows changed."""
        return all(np.array_equal(now, then) for now, then in zip(self._outside(), self._gaps, strict=True))

    @property
    def array(self) -> np.ndarray:
        return np.ascontiguousarray(self.view).reshape(self.shape)


def blank(y: np.ndarray) -> np.ndarray:
    """What an output of the wanted values `y` holds before the kernel runs: nothing a kernel might leave by chance."""
    return ~y if y.dtype == bool else np.full(y.shape, _SENTINEL, y.dtype)


@dataclass(frozen=True)
class Loaded:
    """A kernel whose code is in this process."""

    kernel: Kernel
    functions: tuple[int, ...]  # addresses


class Bench:
    """Buffers of one problem, shared by all candidates of its workload."""

    def __init__(
        self, w: Workload, problem: Problem, timer: Library, threads: int, cold_bytes: int, *, skewed: bool = False
    ) -> None:
        """cold_bytes: bytes over which packed constants rotate while timing, as the whole model's would.

        skewed: tensors start one element past a 64-byte boundary.
        """
        self.w, self.problem, self.threads, self.cold_bytes = w, problem, threads, cold_bytes
        self._timer = _TIMER(timer.function("temper_time"))
        self._raw = timer  # keeps the timing loop loaded
        self._skewed = skewed
        self._inputs = [
            None if x is None or c else self._guarded(x, s.row_stride if s else None)
            for x, s, c in zip(problem.inputs, w.inputs, w.constant, strict=True)
        ]
        self._operands = [
            None if x is None else self._guarded(x, o.row_stride)
            for x, o in zip(problem.operands, w.epilogue.operands, strict=True)
        ]

    def _guarded(self, array: np.ndarray, row_stride: int | None) -> Guarded:
        return Guarded(array, row_stride, self._skewed)

    def _pointers(
        self, kernel: Kernel, packed: Sequence[int], outputs: Sequence[Guarded], scratch: int, shared: int
    ) -> ctypes.Array[ctypes.c_void_p]:
        def one(kind: str, i: int) -> int:
            if kind == "input":
                x = self.problem.inputs[i]
                if self._inputs[i] is None and x is not None:
                    self._inputs[i] = Guarded(x, None)  # a constant the kernel reads as it is
                g = self._inputs[i]
                return 0 if g is None else g.address
            if kind == "operand":
                o = self._operands[i]
                assert o is not None
                return o.address
            if kind == "packed":
                return packed[i]
            return outputs[i].address if kind == "output" else {"workspace": scratch, "shared": shared}[kind]

        return (ctypes.c_void_p * max(1, len(kernel.args)))(*(one(k, i) for k, i in kernel.args))

    def _symbols(self, kernel: Kernel) -> ctypes.Array[ctypes.c_int64]:
        return (ctypes.c_int64 * max(1, len(kernel.symbols)))(*(self.problem.env[s] for s in kernel.symbols))

    def _outputs(self) -> list[Guarded]:
        return [self._guarded(blank(y), s.row_stride) for y, s in zip(self.problem.want, self.w.outputs, strict=True)]

    def _call(
        self,
        loaded: Loaded,
        p: ctypes.Array[ctypes.c_void_p],
        v: ctypes.Array[ctypes.c_int64],
        part: int,
        parts: int,
        rotate: int = -1,
        step: int = 0,
        copies: int = 1,
        reps: int = 1,
    ) -> np.ndarray:
        out = np.zeros(reps, np.int64)
        entries = (ctypes.c_void_p * len(loaded.functions))(*loaded.functions)
        self._timer(
            ctypes.addressof(entries),
            len(loaded.functions),
            ctypes.addressof(p),
            ctypes.addressof(v),
            part,
            parts,
            rotate,
            step,
            copies,
            reps,
            out.ctypes.data,
        )
        return out

    def verify(self, loaded: Loaded, packed: Sequence[np.ndarray], factor: float, parts: int) -> str | None:
        """None if every output is right and no byte outside was touched; otherwise what is wrong."""
        got = self.run(loaded, packed, parts)
        return got if isinstance(got, str) else self.mismatch(got, factor)

    def run(self, loaded: Loaded, packed: Sequence[np.ndarray], parts: int) -> list[np.ndarray] | str:
        """The outputs of each entry run over all parts, one after another; or what it wrote outside its tensors."""
        k = loaded.kernel
        outputs = self._outputs()
        buffers = [_placed(a) for a in packed]
        env = self.problem.env
        scratch, shared = (
            Guarded(np.zeros(evaluate(size, env), np.uint8), None) for size in (k.workspace, k.shared_workspace)
        )
        p = self._pointers(k, [b.ctypes.data for b in buffers], outputs, scratch.address, shared.address)
        v = self._symbols(k)
        for f in loaded.functions:
            for part in range(parts):
                self._call(Loaded(k, (f,)), p, v, part, parts)
        groups: dict[str, Sequence[Guarded | None]] = {
            "output": outputs,
            "input": self._inputs,
            "operand": self._operands,
            "workspace": [scratch, shared],
        }
        for name, group in groups.items():
            for i, g in enumerate(group):
                if g is not None and not g.intact:
                    return f"{name} {i}: wrote outside the tensor"
        return [g.array for g in outputs]

    def mismatch(self, got: Sequence[np.ndarray], factor: float) -> str | None:
        """None if the outputs are within `factor` times the error bounds; otherwise which is not, and where."""
        of = zip(got, self.problem.want, self.problem.bounds, self.w.outputs, strict=True)
        for i, (y, want, bound, slot) in enumerate(of):
            if (wrong := mismatch(y, want, bound, factor, slot.type.dtype)) is not None:
                return f"output {i}: {wrong}"
        return None

    def _scratch(self, k: Kernel) -> tuple[np.ndarray, np.ndarray]:
        env = self.problem.env
        return aligned(evaluate(k.workspace, env) + 64), aligned(evaluate(k.shared_workspace, env) + 64)

    def stopwatch(self, loaded: Loaded, packed: Sequence[np.ndarray]) -> Stopwatch:
        return Stopwatch(self, loaded, packed)


class Stopwatch:
    """One candidate, ready to be timed in turns with others."""

    def __init__(self, bench: Bench, loaded: Loaded, packed: Sequence[np.ndarray]) -> None:
        self.bench, self.loaded = bench, loaded
        k = loaded.kernel
        self._scratch = bench._scratch(k)
        self._outputs = bench._outputs()
        biggest = max(range(len(packed)), key=lambda i: packed[i].nbytes, default=-1)
        self._buffers, self._rotate, self._step, self._copies = [], -1, 0, 1
        for i, a in enumerate(packed):
            if i == biggest and a.nbytes:
                self._step = -(-a.nbytes // 4096) * 4096 + 64
                self._copies = max(1, min(256, bench.cold_bytes // self._step))
                buffer = aligned(self._step * self._copies, 0)
                for c in range(self._copies):
                    buffer[c * self._step : c * self._step + a.nbytes] = a.view(np.uint8).reshape(-1)
                self._rotate = k.args.index(("packed", i)) if ("packed", i) in k.args else -1
                self._buffers.append(buffer)
            else:
                self._buffers.append(_placed(a))
        self._p = bench._pointers(
            k,
            [b.ctypes.data for b in self._buffers],
            self._outputs,
            self._scratch[0].ctypes.data,
            self._scratch[1].ctypes.data,
        )
        self._v = bench._symbols(k)
        self._samples: list[list[float]] = [[] for _ in range(bench.threads)]

    def lap(self, seconds: float) -> None:
        """Adds samples for about `seconds` in total, at least three of each share."""
        for part in range(self.bench.threads):
            one = self._run(part, 2).min() / 1e9
            reps = int(min(400, max(3, seconds / self.bench.threads / max(one, 1e-7))))
            self._samples[part] += (self._run(part, reps) / 1e9).tolist()

    def _run(self, part: int, reps: int) -> np.ndarray:
        return self.bench._call(
            self.loaded, self._p, self._v, part, self.bench.threads, self._rotate, self._step, self._copies, reps
        )

    @property
    def seconds(self) -> float:
        """Time of the slowest share: the lower quartile of its samples, as noise only ever raises them."""
        return max(float(np.quantile(s, 0.25)) for s in self._samples)


def _placed(a: np.ndarray) -> np.ndarray:
    out = aligned(max(a.nbytes, 1), 0)
    out[: a.nbytes] = np.ascontiguousarray(a).view(np.uint8).reshape(-1)
    return out


@cache
def timer_library() -> Library:
    """The C timing loop, compiled for this machine once a process."""
    from importlib.resources import files

    source = files("temper.tune").joinpath("timer.c").read_text()
    return Library(link([compile_object(source, "portable")]))
