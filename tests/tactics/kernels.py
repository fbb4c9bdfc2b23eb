"""Compiles a tactic's kernel and runs it on arrays between guard bytes, for every split into shares."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from temper.compile.cc import compile_object, link
from temper.dtypes import storage
from temper.ir.dims import Dim, evaluate
from temper.ir.types import TensorType
from temper.runtime.cpu import Library, call
from temper.tactics.base import Params, Slot, Tactic, Workload
from temper.tactics.epilogue import Epilogue, Instr, Operand

ISAS = ("avx512", "avx2", "portable")
N = Dim.symbol("N")


def f32(*shape: int | Dim, stride: int | None = None) -> Slot:
    return Slot(TensorType("float32", shape), stride)


_GUARD = 512


class Buffer:
    """Bytes at a 64-byte boundary between guards of 0x7f, which is NaN in floats; rows are a stride apart."""

    def __init__(self, array: np.ndarray, row_stride: int | None = None) -> None:
        self.shape, self.dtype = array.shape, array.dtype
        row = array.shape[-1] if array.ndim else 1
        rows, size = (array.size // row if row else 0), array.itemsize
        stride = (row_stride or row) * size
        nbytes = (rows - 1) * stride + row * size if rows else 0
        raw = np.full(nbytes + 2 * _GUARD + 64, 0x7F, np.uint8)
        self.address = raw.ctypes.data + _GUARD + -(raw.ctypes.data + _GUARD) % 64
        self._raw = raw
        at = self.address - raw.ctypes.data
        self._rows = np.lib.stride_tricks.as_strided(raw[at:], (rows, row * size), (stride, 1))
        self._rows[...] = np.ascontiguousarray(array).reshape(rows, row).view(np.uint8) if rows else 0
        self._mine = np.zeros(raw.shape, bool)
        np.lib.stride_tricks.as_strided(self._mine[at:], (rows, row * size), (stride, 1))[...] = True

    @property
    def intact(self) -> bool:
        return bool((self._raw[~self._mine] == 0x7F).all())

    @property
    def array(self) -> np.ndarray:
        return np.ascontiguousarray(self._rows).reshape(-1).view(self.dtype).reshape(self.shape)


class Runner:
    """One compiled kernel of a workload."""

    def __init__(self, tactic: Tactic, w: Workload, params: Params | None = None) -> None:
        assert tactic.accepts(w) is None, tactic.accepts(w)
        self.tactic, self.w = tactic, w
        self.params = tuple(tactic.candidates(w)[0]) if params is None else params
        assert tactic.predict(w, self.params) > 0
        self.kernel = tactic.generate(w, self.params, "kernel")
        self.library = Library(link([compile_object(self.kernel.source, w.isa)]))
        self.functions = [self.library.function(e) for e in self.kernel.entries]

    def __call__(
        self,
        inputs: Sequence[np.ndarray | None],
        operands: Sequence[np.ndarray | None] = (None,),
        env: Mapping[str, int] | None = None,
        parts: int = 1,
        threads: int = 1,
    ) -> list[np.ndarray]:
        """Outputs of one run in `parts` shares on `threads` threads; asserts that no byte outside the tensors
        changed."""
        env, w = env or {}, self.w
        constants = {i: a for i, (a, c) in enumerate(zip(inputs, w.constant, strict=True)) if c and a is not None}
        packed = [np.ascontiguousarray(a) for a in self.tactic.prepack(w, self.params, constants)]
        placed = [Buffer(a) for a in packed]
        slots = [s.row_stride if s else None for s in w.inputs]
        ins = [None if a is None else Buffer(a, s) for a, s in zip(inputs, slots, strict=True)]
        ops = [
            None if a is None else Buffer(a, o.row_stride) for a, o in zip(operands, w.epilogue.operands, strict=True)
        ]
        outs = []
        for s in w.outputs:
            shape = tuple(evaluate(d, env) for d in s.type.shape)
            outs.append(Buffer(np.full(shape, 85, storage(s.type.dtype)), s.row_stride))
        scratch = [Buffer(np.zeros(evaluate(self.kernel.workspace, env), np.uint8)) for _ in range(parts)]
        shared = [Buffer(np.zeros(evaluate(self.kernel.shared_workspace, env), np.uint8))]
        for f in self.functions:

            def share(part: int, f: int = f) -> None:
                where = {
                    "input": ins,
                    "operand": ops,
                    "output": outs,
                    "packed": placed,
                    "workspace": [scratch[part]],
                    "shared": shared,
                }
                pointers = [where[k][i].address for k, i in self.kernel.args]  # type: ignore[index]
                call(f, pointers, [env[s] for s in self.kernel.symbols], part, parts)

            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(share, range(parts)))
        for g in (*ins, *ops, *outs, *placed, *scratch, *shared):
            assert g is None or g.intact, "wrote outside a tensor"
        return [g.array for g in outs]

    def same_for_all_splits(
        self,
        inputs: Sequence[np.ndarray | None],
        operands: Sequence[np.ndarray | None] = (None,),
        env: Mapping[str, int] | None = None,
    ) -> list[np.ndarray]:
        """Outputs, after checking that 1, 2 and 3 shares agree bit for bit."""
        first = self(inputs, operands, env, 1)
        for parts in (2, 3):
            for a, b in zip(first, self(inputs, operands, env, parts), strict=True):
                assert a.tobytes() == b.tobytes(), f"{parts} shares differ from one"
        return first


def assert_close(got: np.ndarray, want: np.ndarray, ulps: float = 4, floor: float = 0.0) -> None:
    """|got - want| <= ulps of want (float64), with an absolute floor; NaN and infinities must agree."""
    assert got.shape == want.shape
    want = np.asarray(want, np.float64)
    with np.errstate(all="ignore"):
        near = want.astype(np.float32)
        unit = np.spacing(np.abs(near)).astype(np.float64)
        ok = np.abs(got - want) <= ulps * np.nan_to_num(unit, nan=0, posinf=0) + floor
        ok |= (got == near) | (np.isnan(got) & np.isnan(want))
    assert ok.all(), (
        f"{(~ok).sum()} of {ok.size} differ, first at {np.argwhere(~ok)[0]}: {got[~ok][:4]} for {want[~ok][:4]}"
    )


def bias_relu_scale(rank: int = 4) -> Epilogue:
    """relu(acc + channel vector) * image-and-channel vector, and the sum as a second result."""
    full, channel = (True,) * rank, (False,) * (rank - 1) + (True,)
    image = (True,) + (False,) * (rank - 2) + (True,)
    return Epilogue(
        (Operand("float32", full), Operand("float32", channel), Operand("float32", image)),
        (Instr("Add", (0, 1), "float32"), Instr("Relu", (3,), "float32"), Instr("Mul", (4, 2), "float32")),
        (5, 3),
    )
