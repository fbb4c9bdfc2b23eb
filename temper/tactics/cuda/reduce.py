"""Sums and means over neighbouring axes before the last on a CUDA GPU, such as a global average of planes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from temper.compile.triton import CUDA_ISAS
from temper.ir.dims import DimLike, product
from temper.ir.types import itemsize
from temper.tactics.base import Kernel, Params, Workload
from temper.tactics.cpu.reduce import reduced_axes
from temper.tactics.cpu.source import typical_count
from temper.tactics.cuda.epilogue_triton import POINTER_TYPES, Parameter, epilogue_declines
from temper.tactics.cuda.tiles import tile_kernel

_DTYPES: Mapping[str, str] = {"float32": "tl.float32", "float16": "tl.float16"}

#: Rows summed at once; each tile has one output row.
_DEPTH, _WIDTH = 32, 64

_BODY = """\
total = tl.zeros((DEPTH, BN), tl.float32)
first = tile // COLUMNS // INNER * COUNT * INNER + tile // COLUMNS % INNER
for start in range(0, COUNT, DEPTH):
    k = start + tl.arange(0, DEPTH)
    at = (first + k * INNER).to(tl.int64)[:, None] * X_STRIDE + channel[None, :]
    total += tl.load(x + at, mask=(k < COUNT)[:, None] & channel_ok[None, :], other=0.0).to(tl.float32)
v0 = tl.sum(total, axis=0)[None, :]
"""


class ReducePlanes:
    """ReduceSum and ReduceMean over axes that lie side by side and are not the last."""

    name = "cuda.reduce_planes"
    ops = frozenset({"ReduceSum", "ReduceMean"})

    def accepts(self, w: Workload) -> str | None:
        if w.op not in self.ops:
            return f"computes ReduceSum and ReduceMean, not {w.op}"
        if w.isa not in CUDA_ISAS:
            return f"no such GPU level: {w.isa}"
        x = w.inputs[0]
        if x is None or x.type.dtype not in _DTYPES:
            return f"sums {' and '.join(_DTYPES)}"
        axes = sorted(reduced_axes(w))
        if not axes or axes[-1] == x.type.rank - 1 or axes != list(range(axes[0], axes[-1] + 1)):
            return "sums over axes that lie side by side, the last not among them"
        if 0 in x.type.shape:
            return "it sums no element"
        return epilogue_declines(w.epilogue, x.type.dtype)

    def candidates(self, w: Workload) -> Sequence[Params]:
        return [()]

    def predict(self, w: Workload, params: Params) -> float:
        assert w.inputs[0] is not None
        return 2e-6 + typical_count(w.inputs[0].type.shape) * itemsize(w.inputs[0].type.dtype) / 2e12

    def generate(self, w: Workload, params: Params, entry: str) -> Kernel:
        x = w.inputs[0]
        assert x is not None
        shape, axes = x.type.shape, sorted(reduced_axes(w))
        count = product(shape[axes[0] : axes[-1] + 1])
        inner = product(shape[axes[-1] + 1 : -1])
        sizes: dict[str, DimLike] = {
            "COUNT": count, "INNER": inner, "DEPTH": _DEPTH, "X_STRIDE": x.row_stride or shape[-1],
        }  # fmt: skip
        half = ".to(tl.float16)" if x.type.dtype == "float16" else ""
        mean = " / COUNT" if w.op == "ReduceMean" else ""  # float32 by an int32
        body = _BODY + (f"v0 = (v0{mean}){half}\n" if mean or half else "")
        inputs = [Parameter("x", POINTER_TYPES[x.type.dtype], ("input", 0))]
        return tile_kernel(w, entry, f"{w.op} over {len(axes)} axes.", inputs, sizes, body, tile=(1, _WIDTH))

    def prepack(self, w: Workload, params: Params, constants: Mapping[int, np.ndarray]) -> tuple[np.ndarray, ...]:
        return ()
