"""Batched matrix products on a CUDA GPU of two operands known at run time, with broadcasting and transposed operands.

Halves and codes go to the tensor cores as they are; float32 does too where TF32 is allowed. Bound by the tensor cores
where K is long, else by reading the operands and writing the result.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import indent

import numpy as np

from temper.ir.dims import Dim, DimLike, ceil_div, product
from temper.ir.types import itemsize
from temper.tactics.base import Kernel, Params, Slot, Workload
from temper.tactics.cuda.epilogue_triton import POINTER_TYPES, Parameter, epilogue_declines
from temper.tactics.cuda.kernel import dim_text
from temper.tactics.cuda.levels import level_declines
from temper.tactics.cuda.loads import FLOATS, HALVES, widened
from temper.tactics.cuda.source import kernel_of, stores
from temper.tactics.geometry import strides_of, typical_count

_PROCESSORS = 132
_TYPICAL = 128
_CODES = frozenset({"int8", "uint8"})

#: Blockings (rows, columns, terms, warps, pipeline depth) for two bytes a term; for one the terms double.
_TILES16 = (
    (128, 128, 64, 8, 3), (128, 128, 32, 4, 4), (128, 64, 64, 4, 3), (64, 128, 64, 4, 3), (64, 64, 64, 4, 4),
    (64, 64, 32, 4, 3), (32, 64, 64, 4, 3), (64, 32, 64, 4, 3), (32, 32, 64, 4, 4), (32, 32, 32, 2, 2),
    (16, 128, 64, 4, 4), (16, 64, 64, 4, 4), (16, 32, 64, 2, 4),
)  # fmt: skip
#: For four bytes a term; without TF32 the scalar units multiply, and registers bound the tiles.
_TILES32 = (
    (64, 64, 16, 4, 3), (64, 64, 32, 4, 2), (64, 32, 32, 4, 3), (32, 64, 32, 4, 3), (32, 32, 32, 4, 3),
    (32, 32, 16, 2, 2), (16, 64, 32, 4, 3), (16, 32, 32, 2, 3),
)  # fmt: skip


@dataclass(frozen=True)
class _Operand:
    """A matrix of a batch: element strides of its rows and columns and of the result's batch axes."""

    row: DimLike
    column: DimLike
    batch: tuple[DimLike, ...]


@dataclass(frozen=True)
class _Product:
    """a [M, K] times b [K, N] for every index of the batch axes."""

    m: DimLike
    n: DimLike
    k: DimLike
    batch: tuple[DimLike, ...]
    a: _Operand
    b: _Operand


def _rate(w: Workload, size: int, bm: int, bn: int) -> float:
    """Multiplications of a processor per second, measured on an H100. Bytes and TF32 want the terms of b side by side,
    which they are not: Hopper's products of whole groups of warps are out, and large tiles cost more than they save."""
    if size == 1:
        return 1.1e12 if bn <= 64 else 0.75e12
    if size == 4:
        return ({16: 0.6e12, 32: 0.75e12}.get(bm, 0.3e12)) if w.tf32 else 0.22e12
    return 2.4e12


def _product(w: Workload) -> _Product:
    a, b, out = w.inputs[0], w.inputs[1], w.outputs[0].type.shape
    assert a is not None and b is not None
    flip = bool(w.attr("transA", 0)), bool(w.attr("transB", 0))
    k = a.type.shape[-2 if flip[0] else -1]
    if b.type.rank == 2 and not flip[0]:  # one matrix for all: the batch is rows
        rows = product(a.type.shape[:-1])
        one = _Operand(a.row_stride or k, 1, ())
        return _Product(rows, out[-1], k, (), one, _operand(b, (), flip[1]))
    batch = out[:-2]
    return _Product(out[-2], out[-1], k, batch, _operand(a, batch, flip[0]), _operand(b, batch, flip[1]))


def _operand(s: Slot, batch: Sequence[DimLike], flipped: bool) -> _Operand:
    shape = s.type.shape
    strides = strides_of(shape, (True,) * len(shape), s.row_stride)
    own = [0 if d == 1 else step for d, step in zip(shape[:-2], strides[:-2], strict=True)]
    outer = (0,) * (len(batch) - len(own)) + tuple(own)
    row, column = strides[-2], strides[-1]
    return _Operand(*((column, row) if flipped else (row, column)), outer)


def _batch_text(p: _Product, operand: _Operand) -> str:
    """Offset of an operand's matrix for the index `batch`."""
    terms = []
    below: DimLike = 1
    for n, (size, stride) in enumerate(zip(reversed(p.batch), reversed(operand.batch), strict=True)):
        if stride != 0 and size != 1:
            at = "batch" if below == 1 else f"(batch // ({dim_text(below)}))"
            terms.append(f"{at if n == len(p.batch) - 1 else f'({at} % ({dim_text(size)}))'} * ({dim_text(stride)})")
        below = below * size
    return " + ".join(terms) or "0"


class MatMulBatched:
    """MatMul of floats and MatMulInt8 of codes, neither operand packed. Parameters: bm rows by bn columns, bk terms a
    step."""

    name = "cuda.matmul_batched"
    ops = frozenset({"MatMul", "MatMulInt8"})

    def accepts(self, w: Workload) -> str | None:
        if w.op not in self.ops:
            return f"computes MatMul and MatMulInt8, not {w.op}"
        if (reason := level_declines(w)) is not None:
            return reason
        a, b = w.inputs[0], w.inputs[1]
        if a is None or b is None or a.type.rank < 2 or b.type.rank < 2:
            return "a matrix product needs two operands of rank 2 or more"
        if 0 in w.outputs[0].type.shape:
            return "it computes no element"
        flipped = w.attr("transA", 0) or w.attr("transB", 0)
        if w.constant[1] and b.type.rank == 2 and 0 not in b.type.shape and not flipped:
            return "the right operand is constant: it is packed at build time"
        if w.op == "MatMulInt8":
            if a.type.dtype not in _CODES or b.type.dtype != "int8":
                return f"multiplies int8 or uint8 by int8, not {a.type.dtype} by {b.type.dtype}"
            if any(s is not None for s in w.inputs[2:]):
                return "adds no bias, and knows its zero point at build time"
            return epilogue_declines(w.epilogue, "int32")
        if other := [s.type.dtype for s in (a, b) if s.type.dtype not in FLOATS]:
            return f"multiplies {', '.join(FLOATS)}, not {other[0]}"
        return epilogue_declines(w.epilogue)

    def candidates(self, w: Workload) -> Sequence[Params]:
        p, size = _product(w), self._size(w)
        m, n = (1 << 20 if isinstance(d, Dim) else d for d in (p.m, p.n))
        found: list[Params] = []
        for bm, bn, bk, warps, stages in _TILES32 if size == 4 else _TILES16:
            if (bm > 16 and bm >= 2 * m) or (bn > 32 and bn >= 2 * n):
                continue
            deep = bk * 2 if size == 1 else bk
            found.append((("bm", bm), ("bn", bn), ("bk", deep), ("warps", warps), ("stages", stages)))
        return sorted(found, key=lambda x: self.predict(w, x))

    def predict(self, w: Workload, params: Params) -> float:
        p, size, t = _product(w), self._size(w), dict(params)
        m, n, k = (_TYPICAL if isinstance(d, Dim) else d for d in (p.m, p.n, p.k))
        blocks = typical_count(p.batch, 8) * -(-m // t["bm"]) * -(-n // t["bn"])
        rate = _rate(w, size, t["bm"], t["bn"])
        steps = -(-k // t["bk"])
        each = -(-blocks // _PROCESSORS)
        busy = min(1.0, each * t["warps"] / 8)
        area = t["bm"] * t["bn"]
        block = area * t["bk"] * steps / rate * (1 + 24 / min(t["bm"], t["bn"]))
        moved = sum(
            typical_count(s.type.shape, _TYPICAL) * itemsize(s.type.dtype) for s in (*w.inputs[:2], *w.outputs) if s
        )
        return 1.5e-6 + max(each * block / busy, 0.5e-6 + 0.25e-6 * steps, moved / 2.5e12)

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        p, t = _product(w), dict(params)
        a, b = w.inputs[0], w.inputs[1]
        assert a is not None and b is not None
        kinds = a.type.dtype, b.type.dtype
        codes = w.op == "MatMulInt8"
        ragged = isinstance(p.k, Dim) or p.k % t["bk"] != 0
        there = ["row_ok[:, None]"], ["channel_ok[None, :]"]
        if ragged:
            there[0].append("(k < TERMS)[None, :]")
            there[1].append("(k < TERMS)[:, None]")
        left = f"tl.load(a + a_at + k[None, :] * A_COLUMN, mask={' & '.join(there[0])}, other=0)"
        right = f"tl.load(b + b_at + k[:, None] * B_ROW, mask={' & '.join(there[1])}, other=0)"
        zero = 0
        if codes:
            zero = int(w.attr("zero_point", 0))  # type: ignore[arg-type]
            if kinds[0] == "uint8":
                left, zero = f"({left} ^ 128).to(tl.int8, bitcast=True)", zero - 128
            dot = "v0 = tl.dot(left, right, v0, out_dtype=tl.int32)"
        elif kinds[0] == kinds[1] and kinds[0] in HALVES:
            dot = "v0 = tl.dot(left, right, v0)"
        else:
            left, right = widened(left, kinds[0]), widened(right, kinds[1])
            dot = f'v0 = tl.dot(left, right, v0, input_precision="{"tf32" if w.tf32 else "ieee"}")'
        step = f"k = first + tl.arange(0, BK)\nleft = {left}\nright = {right}\n{dot}\n"
        if zero:
            step += "columns += tl.sum(right.to(tl.int32), axis=0)\n"
        body = f"""\
tile = tl.program_id(0)
batch = (tile // (M_TILES * N_TILES)).to(tl.int64)
# neighbours share rows of a: 8 row tiles at a time walk over the columns
group = tile % (M_TILES * N_TILES) // (8 * N_TILES)
high = tl.minimum(M_TILES - group * 8, 8)
inner = tile % (M_TILES * N_TILES) % (8 * N_TILES)
m = (group * 8 + inner % high) * BM + tl.arange(0, BM)
channel = inner // high * BN + tl.arange(0, BN)
row_ok = m < ROWS
channel_ok = channel < CHANNELS
a_at = {_batch_text(p, p.a)} + m[:, None].to(tl.int64) * A_ROW
b_at = {_batch_text(p, p.b)} + channel[None, :].to(tl.int64) * B_COLUMN
v0 = tl.zeros((BM, BN), {'tl.int32' if codes else 'tl.float32'})
{'columns = tl.zeros((BN,), tl.int32)' if zero else ''}
for first in range(0, TERMS, BK):
{indent(step, '    ')}
"""
        if zero:  # padding of a is zero as a signed byte
            body += f"v0 -= columns[None, :] * ({zero})\n"
        if (made := w.epilogue.operands[0].dtype) in HALVES:
            body += f"v0 = v0.to({HALVES[made]})\n"
        body += "row = batch * ROWS + m\nimage = row // IMG_ROWS\nlive = row_ok[:, None] & channel_ok[None, :]\n"
        m_tiles, n_tiles = ceil_div(p.m, t["bm"]), ceil_div(p.n, t["bn"])
        sizes: dict[str, DimLike] = {
            "ROWS": p.m, "CHANNELS": p.n, "TERMS": p.k, "BM": t["bm"], "BN": t["bn"], "BK": t["bk"],
            "M_TILES": m_tiles, "N_TILES": n_tiles, "A_ROW": p.a.row, "A_COLUMN": p.a.column, "B_ROW": p.b.row,
            "B_COLUMN": p.b.column, "IMG_ROWS": product(w.outputs[0].type.shape[1:-1]),
        }  # fmt: skip
        inputs = [Parameter(n, POINTER_TYPES[d], ("input", "ab".index(n))) for n, d in zip("ab", kinds, strict=True)]
        about = f"Product of {kinds[0]} and {kinds[1]}: tiles of {t['bm']}x{t['bn']}x{t['bk']}."
        return kernel_of(
            w, entry, about, inputs, sizes, body + stores(w), grid=product(p.batch) * m_tiles * n_tiles,
            warps=t["warps"], stages=t["stages"],
        )  # fmt: skip

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()

    @staticmethod
    def _size(w: Workload) -> int:
        """Bytes of a term as it is multiplied."""
        kinds = [s.type.dtype for s in w.inputs[:2] if s is not None]
        return itemsize(kinds[0]) if w.op == "MatMulInt8" or kinds[0] == kinds[1] else 4
