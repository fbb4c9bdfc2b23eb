"""Softmax and LogSoftmax on a CUDA GPU, over the last axis or any other, in float32.

Bound by reading and writing the tensor: once each where a row fits in registers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import indent

import numpy as np

from temper.ir.dims import DimLike, ceil_div, product
from temper.ir.types import itemsize
from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cuda.epilogue_triton import POINTER_TYPES, Parameter, epilogue_declines
from temper.tactics.cuda.levels import level_declines
from temper.tactics.cuda.loads import FLOATS, widened
from temper.tactics.cuda.rows import Pass, row_blockings, row_kernel
from temper.tactics.cuda.source import kernel_of, stores
from temper.tactics.geometry import typical_count

_PROCESSORS = 132

#: Rows and channels read at once where the axis is not the last.
_DEPTH, _WIDTH = 32, 64

_COLUMNS = """\
tile = tl.program_id(0)
channel = tile % COLUMNS * BN + tl.arange(0, BN)
channel_ok = channel < CHANNELS
outer = tile // COLUMNS // INNER
inside = tile // COLUMNS % INNER
top = tl.full((DEPTH, BN), float("-inf"), tl.float32)
for start in range(0, COUNT, DEPTH):
    {at}
    top = tl.maximum(top, {loaded})
top = tl.max(top, axis=0)[None, :]
total = tl.zeros((DEPTH, BN), tl.float32)
for start in range(0, COUNT, DEPTH):
    {at}
    total += tl.exp({loaded} - top)
total = tl.sum(total, axis=0)[None, :]
for start in range(0, COUNT, DEPTH):
    {at}
    v0 = {value}
"""

_AT = """\
k = start + tl.arange(0, DEPTH)
    row = ((outer * COUNT + k) * INNER + inside).to(tl.int64)
    row_ok = k < COUNT
    image = row // IMG_ROWS
    live = row_ok[:, None] & channel_ok[None, :]"""


class Softmax:
    """Along the last axis a block has whole rows; along another a block of channels at all its positions."""

    name = "cuda.softmax"
    ops = frozenset({"Softmax", "LogSoftmax"})

    def accepts(self, w: Workload) -> str | None:
        if w.op not in self.ops:
            return f"computes Softmax and LogSoftmax, not {w.op}"
        if (reason := level_declines(w)) is not None:
            return reason
        x = w.inputs[0] if w.inputs else None
        if x is None or x.type.rank == 0:
            return "softmax needs an input with axes"
        if x.type.dtype not in FLOATS:
            return f"computes {', '.join(FLOATS)}, not {x.type.dtype}"
        if 0 in x.type.shape:
            return "it computes no element"
        return epilogue_declines(w.epilogue)

    def candidates(self, w: Workload) -> Sequence[Params]:
        if not _along_rows(w):
            return [()]
        shape = w.outputs[0].type.shape
        return list(row_blockings(product(shape[:-1]), shape[-1], _PROCESSORS))[:8]

    def predict(self, w: Workload, params: Params) -> float:
        count = typical_count(w.outputs[0].type.shape)
        nbytes = sum(itemsize(s.type.dtype) for s in (w.inputs[0], *w.outputs) if s is not None)
        return (2e-6 + count * nbytes / 2e12) * (1 + 0.02 * list(self.candidates(w)).index(params))

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        x = w.inputs[0]
        assert x is not None
        shape, log = x.type.shape, w.op == "LogSoftmax"
        about = f"{w.op} along axis {w.attr('axis', -1)}."
        inputs = [Parameter("x_at", POINTER_TYPES[x.type.dtype], ("input", 0))]
        half = w.epilogue.operands[0].dtype
        narrow = "" if half == "float32" else f".to({FLOATS[half]})"
        load = widened("tl.load(x_at + row[:, None] * X_STRIDE + channel[None, :], mask=live)", x.type.dtype)
        loaded = f'tl.where(live, {load}, float("-inf"))'
        sizes: dict[str, DimLike] = {"X_STRIDE": x.row_stride or shape[-1]}
        if _along_rows(w):
            value = "tl.exp(x - top[:, None]) / total[:, None]"
            if log:
                value = "(x - top[:, None]) - tl.log(total)[:, None]"
            passes = [
                Pass('top = tl.full((BM,), float("-inf"), tl.float32)', "top = tl.maximum(top, tl.max(x, axis=1))"),
                Pass("total = tl.zeros((BM,), tl.float32)", "total += tl.sum(tl.exp(x - top[:, None]), axis=1)"),
            ]
            return row_kernel(
                w, entry, about, inputs, sizes, rows=product(shape[:-1]), columns=shape[-1], load=loaded,
                passes=passes, value=f"v0 = ({value}){narrow}", params=params,
            )  # fmt: skip
        axis = _axis(w)
        inner = product(shape[axis + 1 : -1])
        sizes |= {
            "COUNT": shape[axis], "INNER": inner, "DEPTH": _DEPTH, "CHANNELS": shape[-1], "BN": _WIDTH,
            "COLUMNS": ceil_div(shape[-1], _WIDTH), "IMG_ROWS": product(shape[1:-1]),
        }  # fmt: skip
        value = f"({loaded} - top) - tl.log(total)" if log else f"tl.exp({loaded} - top) / total"
        body = _COLUMNS.format(at=_AT, loaded=loaded, value=f"({value}){narrow}" if narrow else value)
        body += indent(stores(w), "    ")
        grid = product(shape[:axis]) * inner * ceil_div(shape[-1], _WIDTH)
        return kernel_of(w, entry, about, inputs, sizes, body, grid=grid)

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()


def _axis(w: Workload) -> int:
    x, axis = w.inputs[0], w.attr("axis", -1)
    assert x is not None and isinstance(axis, int)
    return axis % x.type.rank


def _along_rows(w: Workload) -> bool:
    return _axis(w) == len(w.outputs[0].type.shape) - 1
